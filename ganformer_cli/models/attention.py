"""Bipartite attention: simplex, k-means and duplex (GANsformer, sections 3.1 and 3.2); dense self-attention.

Shapes: image features ``x [B, d, n]`` (n = height·width positions, row by row), components ``y [B, m, w]``, image
positions ``[n, p]``, component positions ``[m, w]``, heads h, ``dₕ = d/h``.

Queries, position maps and modulation are ``d × d`` matrices by definition. They are multiplied into the ``m``
components' keys and values here, so that a pixel never meets them: O(h·n·m·d), exactly the same function.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganformer_cli.models.layers import FullyConnected
from ganformer_cli.operators import attend, attention_scores, integrate
from ganformer_cli.operators.bipartite_attention import Integration, Normalization

#: Score of a component that is dropped.
DROPPED = -10000.0


@dataclass(frozen=True, kw_only=True)
class AttentionOptions:
    """What all attention layers of a network share."""

    heads: int = 1
    integration: Integration = "mul"
    normalization: Normalization = "layer"
    use_pos: bool = True
    kmeans_iters: int = 1
    weight_per_iter: bool = False  # k-means: the channel weights are not the same in every iteration
    iterative: bool = False  # k-means: start from the assignments of the layer before
    updates_image: bool = True  # False: duplex gathers only (the discriminator's aggregators)
    image_gate: bool = False
    latent_gate: bool = False
    dropout: float = 0.12


class AttentionSizes(NamedTuple):
    """Widths of what a layer sees."""

    features: int  # d, channels of the image
    component: int  # w, width of a component
    position: int  # p, width of an image position
    component_position: int  # width of a component's position
    components: int  # m


class AttentionInputs(NamedTuple):
    """What a layer is given."""

    x: Tensor  # [B, d, n]
    y: Tensor  # [B, m, w]
    positions: Tensor | None  # [n, p]
    component_positions: Tensor | None  # [m, w]
    mask: Tensor  # [B or 1, 1, m, 1], added to the scores
    assignments: Tensor | None  # probabilities of the layer before [B, h, m, n], for iterative k-means


class AttentionResult(NamedTuple):
    """What a layer gives: the new features, the new components, and who attended to whom."""

    x: Tensor  # [B, d, n]
    y: Tensor  # [B, m, w]; unchanged but for duplex
    probabilities: Tensor  # [B, h, m, n], before dropout and gates


def attention_dropout(probabilities: Tensor, rate: float) -> Tensor:
    """Drop cells, then whole components of a picture and head, each at half the rate; survivors are rescaled.

    Args:
        probabilities: ``[B, h, m, n]``.
        rate: 0 leaves them alone.
    """
    if rate == 0:
        return probabilities
    probabilities = F.dropout(probabilities, rate / 2)
    columns = probabilities.new_ones(probabilities.shape[:3])
    return probabilities * F.dropout(columns, rate / 2)[..., None]


class BipartiteLayer(nn.Module):
    """What the three kinds of layer share: values, gates, modulation, integration.

    A kind of layer says in ``score`` how it compares image and components.

    Args:
        sizes: see ``AttentionSizes``.
        options: see ``AttentionOptions``.
    """

    def __init__(self, sizes: AttentionSizes, options: AttentionOptions) -> None:
        super().__init__()
        self.options = options
        self.features = features = sizes.features
        self.head_size = features // options.heads
        self.to_queries = FullyConnected(features, features)
        self.from_pos_map = FullyConnected(sizes.position, features) if options.use_pos else None
        self.image_gate = self.image_gate_pos = self.latent_gate = self.latent_gate_pos = None
        if not options.updates_image:
            return
        outputs = 2 * features if options.integration == "both" else features
        self.to_values = FullyConnected(sizes.component, features)
        self.modulation = FullyConnected(features, outputs)
        if options.image_gate:
            self.image_gate = FullyConnected(features, options.heads)
            if options.use_pos:
                self.image_gate_pos = FullyConnected(sizes.position, options.heads)
        if options.latent_gate:
            self.latent_gate = FullyConnected(sizes.component, options.heads)
            if options.use_pos:
                self.latent_gate_pos = FullyConnected(sizes.component_position, options.heads)

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        positions: Tensor | None,
        component_positions: Tensor | None,
        component_mask: Tensor | None = None,
        assignments: Tensor | None = None,
    ) -> AttentionResult:
        """One update of the image, and with duplex of the components.

        Args:
            x: ``[B, d, n]``.
            y: ``[B, m, w]``.
            positions: of the image, ``[n, p]``, or None.
            component_positions: ``[m, w]`` or None.
            component_mask: bool ``[B, m]``, True where a component is dropped, or None.
            assignments: probabilities of the layer before ``[B, h, m, n]``, for iterative k-means.
        """
        mask = x.new_zeros(1, 1, 1, 1)
        if component_mask is not None:
            mask = component_mask[:, None, :, None] * DROPPED
        given = AttentionInputs(x, y, positions, component_positions, mask, assignments)
        y, scores = self.score(given)
        x, probabilities = self.update_image(given._replace(y=y), scores)
        return AttentionResult(x, y, probabilities)

    def score(self, given: AttentionInputs) -> tuple[Tensor, Tensor]:
        """The components to style with ``[B, m, w]``, and scores ``[B, h, m, n]`` with the mask added."""
        raise NotImplementedError

    def split_heads(self, x: Tensor) -> Tensor:
        """``[..., m, d] → [..., h, m, dₕ]``: heads are contiguous blocks of channels."""
        return x.unflatten(-1, (self.options.heads, self.head_size)).movedim(-2, -3)

    def embedding_scores(self, x: Tensor, keys: Tensor, positions: Tensor | None) -> Tensor:
        """Scores of the image embedding ``E = q(x) + P(pos)`` against keys that are given per head.

        Args:
            x: ``[B, d, n]``.
            keys: ``[B, h, m, dₕ]``.
            positions: ``[n, p]`` or None.

        Returns:
            ``[B, h, m, n]``, divided by √dₕ.
        """
        keys = keys * self.head_size**-0.5
        heads = (self.options.heads, self.head_size)
        projection = keys @ self.to_queries.scaled_weight().unflatten(0, heads)
        bias = self.to_queries.scaled_bias()
        if self.from_pos_map is None or positions is None:
            return attention_scores(x, projection, keys @ bias.unflatten(0, heads)[..., None])
        bias = bias + self.from_pos_map.scaled_bias()
        offset = (keys @ self.from_pos_map.scaled_weight().unflatten(0, heads)) @ positions.t()
        return attention_scores(x, projection, offset + keys @ bias.unflatten(0, heads)[..., None])

    def update_image(self, given: AttentionInputs, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Softmax over the components, gather their values, modulate the image.

        Args:
            given: with the components to style with.
            scores: ``[B, h, m, n]``.

        Returns:
            The new ``x [B, d, n]`` and the probabilities ``[B, h, m, n]``.
        """
        probabilities = scores.softmax(2)
        weights = attention_dropout(probabilities, self.options.dropout if self.training else 0.0)
        weights = self.apply_gates(weights, given)
        # The modulation is linear: multiply the m values by it, not the n contexts.
        heads = (self.options.heads, self.head_size)
        matrix = self.modulation.scaled_weight().unflatten(1, heads).movedim(1, 0)
        values = self.split_heads(self.to_values(given.y)) @ matrix.transpose(1, 2)
        modulation = attend(weights, values, self.modulation.scaled_bias())
        x = integrate(given.x, modulation, self.options.integration, self.options.normalization)
        return x, probabilities

    def apply_gates(self, weights: Tensor, given: AttentionInputs) -> Tensor:
        """Scale the weights by the gates that exist; rows then need not sum to 1."""
        if self.image_gate is not None:
            gate = self.image_gate(given.x.transpose(1, 2))
            if self.image_gate_pos is not None and given.positions is not None:
                gate = gate + self.image_gate_pos(given.positions)
            weights = weights * torch.sigmoid(gate + 1).transpose(1, 2)[:, :, None]
        if self.latent_gate is not None:
            gate = self.latent_gate(given.y)
            if self.latent_gate_pos is not None and given.component_positions is not None:
                gate = gate + self.latent_gate_pos(given.component_positions)
            weights = weights * torch.sigmoid(gate).transpose(1, 2)[..., None]
        return weights


class SimplexAttention(BipartiteLayer):
    """Information flows from the components to the image (section 3.1).

    Keys have no biases: they would add one number to a whole row of the softmax.
    """

    def __init__(self, sizes: AttentionSizes, options: AttentionOptions) -> None:
        super().__init__(sizes, options)
        features = sizes.features
        self.to_keys = FullyConnected(sizes.component, features, bias=False)
        self.to_pos_map = None
        if options.use_pos:
            self.to_pos_map = FullyConnected(sizes.component_position, features, bias=False)

    def score(self, given: AttentionInputs) -> tuple[Tensor, Tensor]:
        """See ``BipartiteLayer.score``."""
        keys = self.to_keys(given.y)
        if self.to_pos_map is not None and given.component_positions is not None:
            keys = keys + self.to_pos_map(given.component_positions)
        return given.y, self.embedding_scores(given.x, self.split_heads(keys), given.positions) + given.mask


class KMeansAttention(BipartiteLayer):
    """Trained centroids instead of keys: the layer of the released networks.

    The image embedding is the concatenation ``E = [q(x) | P(pos)]``, 2d wide, cut into heads as contiguous blocks of
    2dₕ: with two heads the first sees content only, the second positions only.

    Iterative, the first centroids are the means of E under the assignments of the layer before; the first layer has
    none to take over and trains its own.

    Args:
        sizes: see ``AttentionSizes``.
        options: see ``AttentionOptions``.
        takes_over: whether there is a layer before to take assignments from.
    """

    def __init__(self, sizes: AttentionSizes, options: AttentionOptions, *, takes_over: bool = False) -> None:
        super().__init__(sizes, options)
        heads, width = options.heads, 2 * self.head_size
        self.centroids = None
        if not (options.iterative and takes_over):
            self.centroids = nn.Parameter(torch.randn(1, heads, sizes.components, width))
        own = (options.kmeans_iters,) if options.weight_per_iter else ()
        self.att_weight = nn.Parameter(torch.ones(*own, heads, 1, width))

    def score(self, given: AttentionInputs) -> tuple[Tensor, Tensor]:
        """See ``BipartiteLayer.score``."""
        x, positions = given.x, given.positions
        if self.centroids is not None:
            centroids: Tensor = self.centroids
        else:
            assert given.assignments is not None, "iterative k-means needs the assignments of the layer before"
            centroids = self.new_centroids(x, given.assignments, positions)
        scores = self.centroid_scores(x, centroids, positions, 0) + given.mask
        for iteration in range(1, self.options.kmeans_iters):
            centroids = self.new_centroids(x, scores.softmax(2), positions)
            scores = self.centroid_scores(x, centroids, positions, iteration) + given.mask
        return given.y, scores

    def on_all_channels(self, blocks: Tensor) -> Tensor:
        """Place each head's block among the 2d channels: ``[B, h, m, 2dₕ] → [B, h, m, 2d]``, zero elsewhere."""
        heads, width = self.options.heads, 2 * self.head_size
        if heads == 1:
            return blocks
        full = blocks.new_zeros(*blocks.shape[:3], heads, width)
        index = torch.arange(heads, device=blocks.device)
        full[:, index, :, index] = blocks.movedim(1, 0)
        return full.flatten(-2)

    def centroid_scores(self, x: Tensor, centroids: Tensor, positions: Tensor | None, iteration: int) -> Tensor:
        """``(E ⊙ a) Cᵀ / √dₕ``: ``x [B, d, n]``, ``centroids [B or 1, h, m, 2dₕ] → [B, h, m, n]``."""
        weight = self.att_weight[iteration] if self.options.weight_per_iter else self.att_weight
        keys = self.on_all_channels(centroids * weight) * self.head_size**-0.5
        content, place = keys.split(self.features, dim=-1)
        projection = content @ self.to_queries.scaled_weight()
        offset = content @ self.to_queries.scaled_bias()[:, None]
        if self.from_pos_map is not None and positions is not None:
            offset = offset + (place @ self.from_pos_map.scaled_weight()) @ positions.t()
            offset = offset + place @ self.from_pos_map.scaled_bias()[:, None]
        return attention_scores(x, projection, offset)

    def new_centroids(self, x: Tensor, probabilities: Tensor, positions: Tensor | None) -> Tensor:
        """Means of E weighted with ``probabilities [B, h, m, n]``: ``[B, h, m, 2dₕ]``."""
        total = probabilities.sum(-1, keepdim=True)
        # Average the pixels first and project the m averages afterwards.
        content = probabilities @ x.transpose(1, 2)[:, None]
        content = F.linear(content, self.to_queries.scaled_weight()) + total * self.to_queries.scaled_bias()
        if self.from_pos_map is not None and positions is not None:
            place = F.linear(probabilities @ positions, self.from_pos_map.scaled_weight())
            place = place + total * self.from_pos_map.scaled_bias()
        else:
            place = torch.zeros_like(content)
        embedding = torch.cat([content, place], dim=-1) / (total + 1e-8)
        heads = self.options.heads
        blocks = embedding.unflatten(-1, (heads, 2 * self.head_size))
        index = torch.arange(heads, device=x.device)
        return blocks[:, index, :, index].movedim(0, 1)


class DuplexAttention(BipartiteLayer):
    """Both ways: the components first gather from the image, then style it (section 3.2).

    ``a(Y, X) = Σₙ softmax(gather scores) E(X)``; first ``Y ← LayerNorm(Y + a(Y, X) Wo + bo)``, then the keys that the
    image embedding E is compared with are gathered anew with the updated components: ``K = a(Y, X)``.
    """

    def __init__(self, sizes: AttentionSizes, options: AttentionOptions) -> None:
        super().__init__(sizes, options)
        features = sizes.features
        self.gather_queries = FullyConnected(sizes.component, features)
        self.gather_keys = FullyConnected(features, features, bias=False)
        self.gather_query_pos = self.gather_key_pos = None
        if options.use_pos:
            self.gather_query_pos = FullyConnected(sizes.component_position, features, bias=False)
            self.gather_key_pos = FullyConnected(sizes.position, features, bias=False)
        self.gather_out = FullyConnected(features, sizes.component)
        self.layer_norm = nn.LayerNorm(sizes.component, eps=1e-5)

    def score(self, given: AttentionInputs) -> tuple[Tensor, Tensor]:
        """See ``BipartiteLayer.score``."""
        around = given.positions, given.component_positions
        y = self.update_components(given.x, given.y, *around)
        keys = self.gather(given.x, y, *around)
        return y, self.embedding_scores(given.x, keys, given.positions) + given.mask

    def update_components(
        self, x: Tensor, y: Tensor, positions: Tensor | None, component_positions: Tensor | None
    ) -> Tensor:
        """The components ``[B, m, w]`` after gathering: ``LayerNorm(Y + a(Y, X) Wo + bo)``."""
        gathered = self.gather(x, y, positions, component_positions)
        return self.layer_norm(y + self.gather_out(gathered.movedim(1, 2).flatten(2)))

    def gather(self, x: Tensor, y: Tensor, positions: Tensor | None, component_positions: Tensor | None) -> Tensor:
        """a(Y, X): attention-weighted means of the image embedding, ``[B, h, m, dₕ]``."""
        heads = (self.options.heads, self.head_size)
        queries = self.gather_queries(y)
        if self.gather_query_pos is not None and component_positions is not None:
            queries = queries + self.gather_query_pos(component_positions)
        queries = self.split_heads(queries) * self.head_size**-0.5
        projection = queries @ self.gather_keys.scaled_weight().unflatten(0, heads)
        offset = queries.new_zeros(1, *queries.shape[1:3], 1)
        if self.gather_key_pos is not None and positions is not None:
            offset = (queries @ self.gather_key_pos.scaled_weight().unflatten(0, heads)) @ positions.t()
        probabilities = attention_scores(x, projection, offset).softmax(3)
        # Rows sum to 1, so that the biases of E pass through unchanged.
        means = probabilities @ x.transpose(1, 2)[:, None]
        gathered = means @ self.to_queries.scaled_weight().unflatten(0, heads).transpose(1, 2)
        bias = self.to_queries.scaled_bias()
        if self.from_pos_map is not None and positions is not None:
            bias = bias + self.from_pos_map.scaled_bias()
            matrix = self.from_pos_map.scaled_weight().unflatten(0, heads).transpose(1, 2)
            gathered = gathered + (probabilities @ positions) @ matrix
        return gathered + bias.unflatten(0, heads)[:, None]


class SelfAttention(nn.Module):
    """Every position attends to every other (SAGAN, Zhang et al. 2019, equations 1 to 3): O(n²·d).

    Queries and keys are ``d/8`` wide, values ``d/2``; the result is added with a trained strength that starts at 0.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        narrow, half = max(1, features // 8), max(1, features // 2)
        self.to_queries = FullyConnected(features, narrow)
        # A bias of the keys would add one number to a whole row of the softmax.
        self.to_keys = FullyConnected(features, narrow, bias=False)
        self.to_values = FullyConnected(features, half)
        self.out = FullyConnected(half, features)
        self.strength = nn.Parameter(torch.zeros([]))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, d, H, W]``, before and after."""
        pixels = x.flatten(2).transpose(1, 2)
        found = F.scaled_dot_product_attention(self.to_queries(pixels), self.to_keys(pixels), self.to_values(pixels))
        return x + self.strength * self.out(found).transpose(1, 2).unflatten(2, x.shape[2:])


ATTENTION_LAYERS: dict[str, type[BipartiteLayer]] = {
    "simplex": SimplexAttention,
    "kmeans": KMeansAttention,
    "duplex": DuplexAttention,
}
