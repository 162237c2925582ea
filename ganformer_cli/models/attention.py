"""Bipartite attention: simplex, k-means and duplex (GANsformer, sections 3.1 and 3.2); dense self-attention.

Shapes: image features ``x [B, d, n]`` (n = height·width positions, row by row), components ``y [B, m, w]``, image
positions ``[n, p]``, component positions ``[m, w]``, heads h, ``dₕ = d/h``.

Queries, position maps and modulation are ``d × d`` matrices by definition. They are multiplied into the ``m``
components' keys and values here, so that a pixel never meets them: O(h·n·m·d), exactly the same function. Where many
heads meet few channels that would cost more than it saves, and every pixel is multiplied as the definition says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganformer_cli.models.layers import FullyConnected
from ganformer_cli.operators import (
    AttentionMeans,
    Keys,
    attention_means,
    attention_probabilities,
    bipartite_attention,
)
from ganformer_cli.operators.attention import (
    EPSILON,
    Integration,
    Normalization,
    attend,
    draw_seed,
    drop_cells,
    integrate,
    weighted_sums,
)

#: Score of a component that is dropped.
DROPPED = -10000.0


@dataclass(frozen=True, kw_only=True)
class AttentionOptions:
    """What all attention layers of a network share."""

    heads: int = 1
    integration: Integration = "mul"
    normalization: Normalization = "layer"
    image_positions: bool = True
    component_positions: bool = True
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
    mask: Tensor | None  # [B, 1, m], added to the scores
    assignments: Tensor | None  # probabilities of the layer before [B, h, m, n], for iterative k-means


class AttentionResult(NamedTuple):
    """What a layer gives: the new features, the new components, and who attended to whom."""

    x: Tensor  # [B, d, n], in the memory format that it came in
    y: Tensor  # [B, m, w]; unchanged but for duplex
    probabilities: Tensor | None  # [B, h, m, n], before dropout and gates; None unless asked for


def is_cheaper_per_pixel(features: int, components: int, heads: int, outputs: int) -> bool:
    """Whether multiplying every pixel by the ``d × d`` matrices costs no more than not doing so.

    Multiply-adds of one position, without what both forms share. Per pixel: query, scores, contexts and modulation,
    each head on its own dₕ channels. Moved to the components: scores and modulation, each head on all d channels.

    Args:
        features: d.
        components: m.
        heads: h.
        outputs: channels of the modulation, d or 2d.
    """
    per_pixel = features * (features + outputs) + 2 * components * features
    moved = heads * components * (features + outputs)
    return per_pixel <= moved


def fold_instance_normalization(
    x: Tensor, integration: Integration, values: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """Normalisation over the positions as factors of the values, so that the image is changed in one pass.

    With mean μ and factor r of each channel: ``r·x·g = x·(r·g)`` and ``r·(x − μ)·g₁ + g₂ = x·(r·g₁) + (g₂ − μ·r·g₁)``.

    Args:
        x: ``[B, d, n]``.
        integration: ``add`` subtracts the mean only, ``mul`` divides by the root mean square only, ``both`` both.
        values: ``[B, h, m, d']``.
        bias: ``[d']``.

    Returns:
        ``values [B, h, m, d']`` and ``bias [B, d']`` for features that are not normalised.
    """
    variance, mean = torch.var_mean(x.to(values.dtype), 2, correction=0)
    if integration == "add":
        return values, bias - mean
    if integration == "mul":
        factor = (variance + mean.square() + EPSILON).rsqrt()
        return values * factor[:, None, None], bias * factor
    factor = (variance + EPSILON).rsqrt()

    def fold(g: Tensor, factor: Tensor, mean: Tensor) -> Tensor:
        scale, shift = g.chunk(2, dim=-1)
        scale = scale * factor
        return torch.cat([scale, shift - mean * scale], dim=-1)

    return fold(values, factor[:, None, None], mean[:, None, None]), fold(bias, factor, mean)


class BipartiteLayer(nn.Module):
    """What the three kinds of layer share: the image's embedding, values, gates, modulation, integration.

    The embedding ``E = q(x) + P(pos)`` is cut into heads, contiguous blocks of dₕ channels. A kind of layer says in
    ``compare`` which keys, per head as wide as E's block, the embedding is compared with.

    Args:
        sizes: see ``AttentionSizes``.
        options: see ``AttentionOptions``.
    """

    def __init__(self, sizes: AttentionSizes, options: AttentionOptions) -> None:
        super().__init__()
        self.options = options
        self.features = features = sizes.features
        self.head_size = features // options.heads
        outputs = 2 * features if options.integration == "both" else features
        self.per_pixel = is_cheaper_per_pixel(features, sizes.components, options.heads, outputs)
        self.to_queries = FullyConnected(features, features)
        self.from_pos_map = FullyConnected(sizes.position, features) if options.image_positions else None
        self.image_gate = self.image_gate_pos = self.latent_gate = self.latent_gate_pos = None
        if not options.updates_image:
            return
        self.to_values = FullyConnected(sizes.component, features)
        self.modulation = FullyConnected(features, outputs)
        if options.image_gate:
            self.image_gate = FullyConnected(features, options.heads)
            if options.image_positions:
                self.image_gate_pos = FullyConnected(sizes.position, options.heads)
        if options.latent_gate:
            self.latent_gate = FullyConnected(sizes.component, options.heads)
            if options.component_positions:
                self.latent_gate_pos = FullyConnected(sizes.component_position, options.heads)

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        positions: Tensor | None,
        component_positions: Tensor | None,
        component_mask: Tensor | None = None,
        assignments: Tensor | None = None,
        *,
        need_probabilities: bool = False,
    ) -> AttentionResult:
        """One update of the image, and with duplex of the components.

        Args:
            x: ``[B, d, n]``, contiguous or the view of a channels-last image.
            y: ``[B, m, w]``.
            positions: of the image, ``[n, p]``, or None.
            component_positions: ``[m, w]`` or None.
            component_mask: bool ``[B, m]``, True where a component is dropped, or None.
            assignments: probabilities of the layer before ``[B, h, m, n]``, for iterative k-means.
            need_probabilities: whether to give those of this layer; they cost h·m numbers a position.
        """
        mask = None if component_mask is None else component_mask[:, None] * DROPPED
        if self.from_pos_map is None:
            positions = None
        given = AttentionInputs(x, y, positions, component_positions, mask, assignments)
        y, keys = self.compare(given)
        x, probabilities = self.update_image(given._replace(y=y), keys, need_probabilities)
        return AttentionResult(x, y, probabilities)

    def compare(self, given: AttentionInputs) -> tuple[Tensor, Tensor]:
        """The components to style with ``[B, m, w]``, and the keys of the image's embedding ``[B or 1, h, m, e]``."""
        raise NotImplementedError

    # The image's embedding E, in three forms: of every pixel, of keys that are compared with it, of weighted sums.

    def embed(self, given: AttentionInputs) -> Tensor:
        """E of every pixel, per head: ``[B, h, n, e]``; d² multiply-adds each."""
        embedding = self.to_queries(pixels_of(given.x, self.to_queries))
        if self.from_pos_map is not None and given.positions is not None:
            embedding = embedding + self.from_pos_map(given.positions)
        return self.split_heads(embedding)

    def project(self, keys: Tensor, given: AttentionInputs) -> Keys:
        """Keys of E ``[B or 1, h, m, e]`` as keys of the pixels and their positions, divided by √dₕ."""
        keys = keys * self.head_size**-0.5
        heads = (self.options.heads, self.head_size)
        content = keys @ self.to_queries.scaled_weight().unflatten(0, heads)
        bias, place = self.to_queries.scaled_bias(), None
        if self.from_pos_map is not None and given.positions is not None:
            bias = bias + self.from_pos_map.scaled_bias()
            place = keys @ self.from_pos_map.scaled_weight().unflatten(0, heads)
        return Keys(
            content, masked((keys @ bias.unflatten(0, heads)[..., None])[..., 0], given), given.positions, place
        )

    def embed_sums(self, sums: AttentionMeans) -> Tensor:
        """Sums of E from sums of the pixels and their positions: ``[B, h, m, e]``."""
        heads = (self.options.heads, self.head_size)
        found = sums.content @ self.to_queries.scaled_weight().unflatten(0, heads).transpose(1, 2)
        bias = self.to_queries.scaled_bias()
        if self.from_pos_map is not None and sums.place is not None:
            bias = bias + self.from_pos_map.scaled_bias()
            found = found + sums.place @ self.from_pos_map.scaled_weight().unflatten(0, heads).transpose(1, 2)
        return found + sums.total[..., None] * bias.unflatten(0, heads)[:, None]

    def split_heads(self, x: Tensor) -> Tensor:
        """``[..., m, d] → [..., h, m, dₕ]``: heads are contiguous blocks of channels."""
        return x.unflatten(-1, (self.options.heads, -1)).movedim(-2, -3)

    def probabilities_per_pixel(self, keys: Tensor, given: AttentionInputs) -> Tensor:
        """``[B, h, m, n]``, from the embedding of every pixel."""
        scores = keys * self.head_size**-0.5 @ self.embed(given).transpose(2, 3)
        return (scores if given.mask is None else scores + given.mask[..., None]).softmax(2)

    # What the image gathers from the components.

    def update_image(
        self, given: AttentionInputs, keys: Tensor, need_probabilities: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Softmax over the components, gather their values, modulate the image.

        Args:
            given: with the components to style with.
            keys: of the image's embedding, ``[B or 1, h, m, e]``.
            need_probabilities: whether to give them.

        Returns:
            The new ``x [B, d, n]``, and the probabilities ``[B, h, m, n]`` or None.
        """
        x, options = given.x, self.options
        # Half of the dropout takes single cells, half a component's whole column, which is a factor of its value.
        rate = options.dropout / 2 if self.training else 0.0
        values = self.split_heads(self.to_values(given.y))
        if rate > 0:
            values = values * F.dropout(torch.ones_like(values[..., :1]), rate)
        if self.latent_gate is not None:
            values = values * torch.sigmoid(self.latent_gate_logits(given)).transpose(1, 2)[..., None]
        seed = draw_seed(x.device) if rate > 0 else None
        bias = self.modulation.scaled_bias()
        if options.integration != "add":
            # The 1 of ω(x)·(1 + g).
            bias = torch.cat([bias[: self.features] + 1, bias[self.features :]])
        if self.per_pixel:
            probabilities = self.probabilities_per_pixel(keys, given)
            contexts = self.weigh(probabilities, rate, seed, given).transpose(2, 3) @ values
            g = F.linear(contexts.transpose(1, 2).flatten(2), self.modulation.scaled_weight(), bias).transpose(1, 2)
            return integrate(x, g, options.integration, options.normalization), probabilities
        # The modulation is linear: multiply the m values by it, not the n contexts.
        heads = (options.heads, self.head_size)
        values = values @ self.modulation.scaled_weight().unflatten(1, heads).movedim(1, 0).transpose(1, 2)
        projected = self.project(keys, given)
        if self.image_gate is not None:
            probabilities = attention_probabilities(x, projected)
            weights = self.weigh(probabilities, rate, seed, given)
            g = attend(weights, values, bias[None], like=x)
            return integrate(x, g, options.integration, options.normalization), probabilities
        bias, normalization = bias[None], options.normalization
        if normalization == "instance":
            values, bias = fold_instance_normalization(x, options.integration, values, bias[0])
            normalization = "none"
        found = bipartite_attention(
            x,
            projected,
            values,
            bias,
            integration=options.integration,
            normalization=normalization,
            dropout=rate,
            seed=seed,
        )
        return found, attention_probabilities(x, projected) if need_probabilities else None

    def weigh(self, probabilities: Tensor, rate: float, seed: Tensor | None, given: AttentionInputs) -> Tensor:
        """Probabilities ``[B, h, m, n]`` after dropout of cells and the image's gate; rows need not sum to 1 then."""
        weights = probabilities if seed is None else drop_cells(probabilities, rate, seed)
        if self.image_gate is not None:
            gate = self.image_gate(pixels_of(given.x, self.image_gate))
            if self.image_gate_pos is not None and given.positions is not None:
                gate = gate + self.image_gate_pos(given.positions)
            weights = weights * torch.sigmoid(gate + 1).transpose(1, 2)[:, :, None]
        return weights

    def latent_gate_logits(self, given: AttentionInputs) -> Tensor:
        """``[B, m, h]``."""
        assert self.latent_gate is not None
        gate: Tensor = self.latent_gate(given.y)
        if self.latent_gate_pos is not None and given.component_positions is not None:
            gate = gate + self.latent_gate_pos(given.component_positions)
        return gate


def pixels_of(x: Tensor, layer: FullyConnected) -> Tensor:
    """``[B, d, n] → [B, n, d]``, in the dtype in which ``layer`` computes."""
    return x.transpose(1, 2).to(layer.weight.dtype)


def masked(bias: Tensor, given: AttentionInputs) -> Tensor:
    """Scores' bias ``[B or 1, h, m]`` with the mask of dropped components."""
    return bias if given.mask is None else bias + given.mask


class SimplexAttention(BipartiteLayer):
    """Information flows from the components to the image (section 3.1).

    Keys have no biases: they would add one number to a whole row of the softmax.
    """

    def __init__(self, sizes: AttentionSizes, options: AttentionOptions) -> None:
        super().__init__(sizes, options)
        features = sizes.features
        self.to_keys = FullyConnected(sizes.component, features, bias=False)
        self.to_pos_map = None
        if options.component_positions:
            self.to_pos_map = FullyConnected(sizes.component_position, features, bias=False)

    def compare(self, given: AttentionInputs) -> tuple[Tensor, Tensor]:
        """See ``BipartiteLayer.compare``."""
        keys = self.to_keys(given.y)
        if self.to_pos_map is not None and given.component_positions is not None:
            keys = keys + self.to_pos_map(given.component_positions)
        return given.y, self.split_heads(keys)


class KMeansAttention(BipartiteLayer):
    """Trained centroids instead of keys: the layer of the released networks.

    The image's embedding is the concatenation ``E = [q(x) | P(pos)]``, 2d wide, cut into heads as contiguous blocks of
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

    def compare(self, given: AttentionInputs) -> tuple[Tensor, Tensor]:
        """See ``BipartiteLayer.compare``."""
        if self.centroids is not None:
            centroids: Tensor = self.centroids
        else:
            assert given.assignments is not None, "iterative k-means needs the assignments of the layer before"
            centroids = self.means_under(given.assignments, given)
        keys = centroids * self.weight_of(0)
        for iteration in range(1, self.options.kmeans_iters):
            if self.per_pixel:
                centroids = self.means_under(self.probabilities_per_pixel(keys, given), given)
            else:
                sums = attention_means(given.x, self.project(keys, given), over="components")
                centroids = self.embed_sums(sums) / (sums.total[..., None] + 1e-8)
            keys = centroids * self.weight_of(iteration)
        return given.y, keys

    def weight_of(self, iteration: int) -> Tensor:
        """The channels' weights ``[h, 1, 2dₕ]``."""
        return self.att_weight[iteration] if self.options.weight_per_iter else self.att_weight

    def means_under(self, assignments: Tensor, given: AttentionInputs) -> Tensor:
        """Means of E weighted with ``assignments [B, h, m, n]``: ``[B, h, m, 2dₕ]``."""
        if self.per_pixel:
            total = assignments.sum(3)
            found = assignments @ self.embed(given)
        else:
            sums = weighted_sums(given.x, assignments, given.positions)
            total, found = sums.total, self.embed_sums(sums)
        return found / (total[..., None] + 1e-8)

    def embed(self, given: AttentionInputs) -> Tensor:
        """See ``BipartiteLayer.embed``."""
        content = self.to_queries(pixels_of(given.x, self.to_queries))
        place = torch.zeros_like(content)
        if self.from_pos_map is not None and given.positions is not None:
            place = self.from_pos_map(given.positions).expand_as(content)
        return self.split_heads(torch.cat([content, place], dim=-1))

    def project(self, keys: Tensor, given: AttentionInputs) -> Keys:
        """See ``BipartiteLayer.project``."""
        content, place = self.on_all_channels(keys * self.head_size**-0.5).split(self.features, dim=-1)
        bias, position_keys = (content @ self.to_queries.scaled_bias()[:, None])[..., 0], None
        if self.from_pos_map is not None and given.positions is not None:
            bias = bias + (place @ self.from_pos_map.scaled_bias()[:, None])[..., 0]
            position_keys = place @ self.from_pos_map.scaled_weight()
        content = content @ self.to_queries.scaled_weight()
        return Keys(content, masked(bias, given), given.positions, position_keys)

    def on_all_channels(self, blocks: Tensor) -> Tensor:
        """Place each head's block among the 2d channels: ``[B, h, m, 2dₕ] → [B, h, m, 2d]``, zero elsewhere."""
        heads, width = self.options.heads, 2 * self.head_size
        if heads == 1:
            return blocks
        full = blocks.new_zeros(*blocks.shape[:3], heads, width)
        index = torch.arange(heads, device=blocks.device)
        full[:, index, :, index] = blocks.movedim(1, 0)
        return full.flatten(-2)

    def embed_sums(self, sums: AttentionMeans) -> Tensor:
        """See ``BipartiteLayer.embed_sums``."""
        total = sums.total[..., None]
        content = F.linear(sums.content, self.to_queries.scaled_weight()) + total * self.to_queries.scaled_bias()
        place = torch.zeros_like(content)
        if self.from_pos_map is not None and sums.place is not None:
            place = F.linear(sums.place, self.from_pos_map.scaled_weight()) + total * self.from_pos_map.scaled_bias()
        # Of the sums under a head's probabilities, that head's own block.
        blocks = torch.cat([content, place], dim=-1).unflatten(-1, (self.options.heads, -1))
        index = torch.arange(self.options.heads, device=blocks.device)
        return blocks[:, index, :, index].movedim(0, 1)


class DuplexAttention(BipartiteLayer):
    """Both ways: the components first gather from the image, then style it (section 3.2).

    ``a(Y, X) = Σₙ softmax(gather scores) E(X)``; first ``Y ← LayerNorm(Y + a(Y, X) Wo + bo)``, then the keys that the
    image's embedding E is compared with are gathered anew with the updated components: ``K = a(Y, X)``.
    """

    def __init__(self, sizes: AttentionSizes, options: AttentionOptions) -> None:
        super().__init__(sizes, options)
        features = sizes.features
        self.gather_queries = FullyConnected(sizes.component, features)
        self.gather_keys = FullyConnected(features, features, bias=False)
        self.gather_query_pos = self.gather_key_pos = None
        if options.component_positions:
            self.gather_query_pos = FullyConnected(sizes.component_position, features, bias=False)
        if options.image_positions:
            self.gather_key_pos = FullyConnected(sizes.position, features, bias=False)
        self.gather_out = FullyConnected(features, sizes.component)
        self.layer_norm = nn.LayerNorm(sizes.component, eps=1e-5)

    def compare(self, given: AttentionInputs) -> tuple[Tensor, Tensor]:
        """See ``BipartiteLayer.compare``."""
        y = self.update_components(given.x, given.y, given.positions, given.component_positions)
        return y, self.gather(given._replace(y=y))

    def update_components(
        self, x: Tensor, y: Tensor, positions: Tensor | None, component_positions: Tensor | None
    ) -> Tensor:
        """The components ``[B, m, w]`` after gathering: ``LayerNorm(Y + a(Y, X) Wo + bo)``."""
        gathered = self.gather(AttentionInputs(x, y, positions, component_positions, None, None))
        found: Tensor = self.layer_norm(y + self.gather_out(gathered.movedim(1, 2).flatten(2)))
        return found

    def gather(self, given: AttentionInputs) -> Tensor:
        """a(Y, X): attention-weighted means of the image's embedding, ``[B, h, m, dₕ]``."""
        queries = self.gather_queries(given.y)
        if self.gather_query_pos is not None and given.component_positions is not None:
            queries = queries + self.gather_query_pos(given.component_positions)
        queries = self.split_heads(queries) * self.head_size**-0.5
        if self.per_pixel:
            offered = self.gather_keys(pixels_of(given.x, self.gather_keys))
            if self.gather_key_pos is not None and given.positions is not None:
                offered = offered + self.gather_key_pos(given.positions)
            return (queries @ self.split_heads(offered).transpose(2, 3)).softmax(3) @ self.embed(given)
        heads = (self.options.heads, self.head_size)
        keys = queries @ self.gather_keys.scaled_weight().unflatten(0, heads)
        positions, place = None, None
        if self.gather_key_pos is not None and given.positions is not None:
            positions, place = given.positions, queries @ self.gather_key_pos.scaled_weight().unflatten(0, heads)
        # What the mask adds is for the image's side; a bias would drop out of a softmax over the positions.
        projected = Keys(keys, keys.new_zeros(1, *keys.shape[1:3]), positions, place)
        return self.embed_sums(attention_means(given.x, projected, over="positions"))


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
        pixels = pixels_of(x.flatten(2), self.out)
        found = F.scaled_dot_product_attention(self.to_queries(pixels), self.to_keys(pixels), self.to_values(pixels))
        change = (self.strength * self.out(found)).to(x.dtype)
        return x + change.transpose(1, 2).unflatten(2, x.shape[2:])


ATTENTION_LAYERS: dict[str, type[BipartiteLayer]] = {
    "simplex": SimplexAttention,
    "kmeans": KMeansAttention,
    "duplex": DuplexAttention,
}
