"""Bipartite attention: simplex, k-means and duplex (GANsformer, sections 3.1 and 3.2); dense self-attention.

Shapes: image features ``x [B, d, n]`` (n = height·width positions, row by row), components ``y [B, m, w]``, image
positions ``[n, p]``, component positions ``[m, w]``, h heads, ``dₕ = d/h``.

A layer has two forms, which compute the same function. Its definition multiplies every pixel by ``d × d`` matrices: the
query, the position map and the modulation. The re-associated form multiplies the ``m`` components' keys and values by
them instead, which costs a pixel ``O(h·m·d)`` and no ``d²`` term. A layer uses the cheaper form, which is the
definition only for many heads and few channels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganformer_cli.config import Integration, ModelConfig, Normalization
from ganformer_cli.models.initialization import normal
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
    attend,
    draw_seed,
    drop_cells,
    integrate,
    weighted_sums,
)
from ganformer_cli.operators.native import math_dtype

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
    weight_per_iter: bool = False  # k-means: channel weights of its own for each iteration
    iterative: bool = False  # k-means: start from the assignments of the layer before
    updates_image: bool = True  # False: duplex gathers only (the discriminator's aggregators)
    image_gate: bool = False
    latent_gate: bool = False
    dropout: float = 0.12

    @classmethod
    def from_config(cls, config: ModelConfig, **changes: Any) -> AttentionOptions:
        """The options of the generator's layers, with ``changes``."""
        options = cls(
            heads=config.num_heads,
            integration=config.integration,
            normalization=config.normalize,
            image_positions=config.image_positions,
            component_positions=config.use_pos,
            kmeans_iters=config.kmeans_iters,
            weight_per_iter=config.kmeans_weight_per_iter,
            iterative=config.iterative,
            image_gate=config.img_gate,
            latent_gate=config.ltnt_gate,
            dropout=config.attention_dropout,
        )
        return replace(options, **changes)


class AttentionSizes(NamedTuple):
    """Widths of a layer's inputs."""

    features: int  # d, channels of the image
    component: int  # w, width of a component
    position: int  # p, width of an image position
    component_position: int  # width of a component's position
    components: int  # m


class Embedding(NamedTuple):
    """The image's embedding as a linear function of a pixel and its position, ``E = content·x + place·pos + bias``.

    With one head there is no first axis: fewer views, and plain matrix products.
    """

    content: Tensor  # [h, e, d] or [e, d]
    place: Tensor | None  # [h, e, p] or [e, p]
    bias: Tensor  # [h, e] or [e]


class AttentionInputs(NamedTuple):
    """The arguments of a layer."""

    x: Tensor  # [B, d, n]
    y: Tensor  # [B, m, w]
    positions: Tensor | None  # [n, p]
    component_positions: Tensor | None  # [m, w]
    embedding: Embedding | None = None  # for the re-associated form
    mask: Tensor | None = None  # [B, 1, m], added to the scores
    assignments: Tensor | None = None  # probabilities of the layer before [B, h, m, n], for iterative k-means


class AttentionResult(NamedTuple):
    """The result of a layer."""

    x: Tensor  # [B, d, n], in the memory format of the input
    y: Tensor  # [B, m, w]; changed by duplex only
    probabilities: Tensor | None  # [B, h, m, n], before dropout and gates; None unless requested


def is_cheaper_per_pixel(features: int, components: int, heads: int, outputs: int) -> bool:
    """Whether the definition costs a position no more multiply-adds than the re-associated form.

    Both without what they share. Definition: query, scores, contexts and modulation, each head on its own dₕ channels.
    Re-associated: scores and modulation, each head on all d channels.

    Args:
        features: d.
        components: m.
        heads: h.
        outputs: channels of the modulation, d or 2d.
    """
    definition = features * (features + outputs) + 2 * components * features
    reassociated = heads * components * (features + outputs)
    return definition <= reassociated


class BipartiteLayer(nn.Module):
    """What the three kinds of layer share: the image's embedding, values, gates, modulation and integration.

    The embedding ``E = q(x) + P(pos)`` is cut into heads, contiguous blocks of dₕ channels. ``compare`` gives the keys
    that each head's block is compared with.

    Args:
        sizes: see ``AttentionSizes``.
        options: see ``AttentionOptions``.
    """

    def __init__(self, sizes: AttentionSizes, options: AttentionOptions) -> None:
        super().__init__()
        self.options = options
        features = sizes.features
        self.head_size = features // options.heads
        outputs = 2 * features if options.integration == "both" else features
        #: Whether to compute the definition.
        self.per_pixel = is_cheaper_per_pixel(features, sizes.components, options.heads, outputs)
        self.to_queries = FullyConnected(features, features)
        self.from_pos_map = FullyConnected(sizes.position, features) if options.image_positions else None
        self.image_gate = self.image_gate_pos = self.latent_gate = self.latent_gate_pos = None
        if not options.updates_image:
            return
        self.to_values = FullyConnected(sizes.component, features)
        self.modulation = FullyConnected(features, outputs)
        # The 1 of ω(x)·(1 + g), which is part of the modulation's bias.
        ones = 0 if options.integration == "add" else features
        unit = torch.tensor([1.0] * ones + [0.0] * (outputs - ones))
        self.register_buffer("unit", unit, persistent=False)
        self.unit: Tensor
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
            need_probabilities: whether to return this layer's; they cost h·m numbers a position.
        """
        mask = None if component_mask is None else component_mask[:, None] * DROPPED
        given = self.inputs(x, y, positions, component_positions)._replace(mask=mask, assignments=assignments)
        y, keys = self.compare(given)
        x, probabilities = self.update_image(given._replace(y=y), keys, need_probabilities)
        return AttentionResult(x, y, probabilities)

    def inputs(
        self, x: Tensor, y: Tensor, positions: Tensor | None, component_positions: Tensor | None
    ) -> AttentionInputs:
        """The arguments, with the embedding's matrices where they are needed."""
        positions = None if self.from_pos_map is None else positions
        embedding = None if self.per_pixel else self.embedding(positions is not None)
        return AttentionInputs(x, y, positions, component_positions, embedding)

    def compare(self, given: AttentionInputs) -> tuple[Tensor, Tensor]:
        """The components to style with ``[B, m, w]``, and the keys of the image's embedding ``[B or 1, h, m, e]``."""
        raise NotImplementedError

    def split_heads(self, x: Tensor) -> Tensor:
        """``[..., m, d] → [..., h, m, dₕ]``: heads are contiguous blocks of channels."""
        heads = self.options.heads
        return x.unsqueeze(-3) if heads == 1 else x.unflatten(-1, (heads, -1)).movedim(-2, -3)

    def join_heads(self, x: Tensor) -> Tensor:
        """``[B, h, m, dₕ] → [B, m, d]``."""
        return x.squeeze(1) if self.options.heads == 1 else x.transpose(1, 2).flatten(2)

    def by_head(self, weight: Tensor) -> Tensor:
        """A weight's rows or a bias for each head: ``[d, ...] → [h, d/h, ...]``, or unchanged with one head."""
        heads = self.options.heads
        return weight if heads == 1 else weight.unflatten(0, (heads, -1))

    # ----- The definition -----

    def embed(self, given: AttentionInputs) -> Tensor:
        """E of every pixel, ``[B, h, n, e]``."""
        return self.split_heads(plus(self.to_queries(pixels(given.x)), self.from_pos_map, given.positions))

    def probabilities(self, keys: Tensor, given: AttentionInputs) -> Tensor:
        """``softmax(E Kᵀ / √dₕ)`` over the components: ``[B, h, m, n]``."""
        scores = keys * self.head_size**-0.5 @ self.embed(given).transpose(2, 3)
        return (scores if given.mask is None else scores + given.mask[..., None]).softmax(2)

    def modulate(self, contexts: Tensor, bias: Tensor, x: Tensor) -> Tensor:
        """``ω(x)`` integrated with a linear function of the contexts ``[B, h, n, dₕ]``: ``[B, d, n]``."""
        g = F.linear(self.join_heads(contexts), self.modulation.scaled_weight(), bias).transpose(1, 2)
        return integrate(x, g, self.options.integration, self.options.normalization)

    # ----- Re-associated: the matrices move from the pixels to the components -----

    def embedding(self, has_positions: bool) -> Embedding:
        """E as a function of pixels and positions."""
        content, bias = self.to_queries.scaled_weight(), self.to_queries.scaled_bias()
        if self.from_pos_map is None or not has_positions:
            return Embedding(self.by_head(content), None, self.by_head(bias))
        bias = bias + self.from_pos_map.scaled_bias()
        return Embedding(self.by_head(content), self.by_head(self.from_pos_map.scaled_weight()), self.by_head(bias))

    def project(self, keys: Tensor, given: AttentionInputs) -> Keys:
        """Keys of E ``[B or 1, h, m, e]`` as keys of pixels and positions, divided by √dₕ."""
        assert given.embedding is not None
        content, place, bias = given.embedding
        keys = keys * self.head_size**-0.5
        bias = per_head(keys, bias[..., None])[..., 0]
        bias = bias if given.mask is None else bias + given.mask
        return Keys(per_head(keys, content), bias, given.positions, None if place is None else per_head(keys, place))

    def embed_sums(self, sums: AttentionMeans, given: AttentionInputs, *, sum_to_one: bool = False) -> Tensor:
        """Sums of E from sums of pixels and positions: ``[B, h, m, e]``; ``sum_to_one``: the sums' weights do."""
        assert given.embedding is not None
        content, place, bias = given.embedding
        bias = bias.unsqueeze(-2)
        embedded = per_head(sums.content, content.mT) + (bias if sum_to_one else sums.total[..., None] * bias)
        return embedded if place is None or sums.place is None else embedded + per_head(sums.place, place.mT)

    def modulated_values(self, values: Tensor) -> Tensor:
        """The modulation of the values: it is linear, and so need not be computed of every pixel's context."""
        return per_head(values, self.by_head(self.modulation.scaled_weight().t()))

    # ----- The image's update -----

    def update_image(
        self, given: AttentionInputs, keys: Tensor, need_probabilities: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Softmax over the components, gather their values, modulate the image.

        Args:
            given: with the components to style with.
            keys: of the image's embedding, ``[B or 1, h, m, e]``.
            need_probabilities: whether to return them.

        Returns:
            The new ``x [B, d, n]``, and the probabilities ``[B, h, m, n]`` or None.
        """
        x, integration, normalization = given.x, self.options.integration, self.options.normalization
        # Half of the dropout takes single cells, half a component's whole column, which is a factor of its value.
        rate = self.options.dropout / 2 if self.training else 0.0
        seed = None
        values = self.split_heads(self.to_values(given.y))
        if rate > 0:
            values = values * values.new_empty(*values.shape[:3], 1).bernoulli_(1 - rate).div_(1 - rate)
            seed = draw_seed(x.device)
        if self.latent_gate is not None:
            gate = plus(self.latent_gate(given.y), self.latent_gate_pos, given.component_positions)
            values = values * torch.sigmoid(gate).transpose(1, 2)[..., None]
        bias = self.modulation.scaled_bias() + self.unit
        if self.per_pixel:
            probabilities = self.probabilities(keys, given)
            contexts = self.weigh(probabilities, rate, seed, given).transpose(2, 3) @ values
            return self.modulate(contexts, bias, x), probabilities
        values, projected = self.modulated_values(values), self.project(keys, given)
        if self.image_gate is not None:
            probabilities = attention_probabilities(x, projected)
            g = attend(self.weigh(probabilities, rate, seed, given), values, bias[None], like=x)
            return integrate(x, g, integration, normalization), probabilities
        bias = bias[None]
        if normalization == "instance":
            values, bias = fold_instance_normalization(x, integration, values, bias[0])
            normalization = "none"
        x_new = bipartite_attention(
            x, projected, values, bias, integration=integration, normalization=normalization, dropout=rate, seed=seed
        )
        return x_new, attention_probabilities(x, projected) if need_probabilities else None

    def weigh(self, probabilities: Tensor, rate: float, seed: Tensor | None, given: AttentionInputs) -> Tensor:
        """Probabilities ``[B, h, m, n]`` after dropout of cells and the image's gate; they need not sum to 1 then."""
        weights = probabilities if seed is None else drop_cells(probabilities, rate, seed)
        if self.image_gate is not None:
            gate = plus(self.image_gate(pixels(given.x)), self.image_gate_pos, given.positions)
            weights = weights * torch.sigmoid(gate + 1).transpose(1, 2)[:, :, None]
        return weights


def pixels(x: Tensor) -> Tensor:
    """``[B, d, n] → [B, n, d]``, in the dtype of the layers' weights."""
    return x.transpose(1, 2).to(math_dtype(x.dtype))


def per_head(x: Tensor, matrices: Tensor) -> Tensor:
    """``[B, h, m, e] @ [h, e, d] → [B, h, m, d]``, as one product a head: matmul would copy the matrices B times.

    A single matrix ``[e, d]`` serves the only head.
    """
    if matrices.ndim == 2:
        return x @ matrices
    by_head = x.transpose(0, 1)
    return (by_head.flatten(1, 2) @ matrices).unflatten(1, by_head.shape[1:3]).transpose(0, 1)


def plus(content: Tensor, layer: FullyConnected | None, positions: Tensor | None) -> Tensor:
    """``content + layer(positions)``, if there are such a layer and positions."""
    return content if layer is None or positions is None else content + layer(positions)


def fold_instance_normalization(
    x: Tensor, integration: Integration, values: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """Normalisation over the positions as factors of the values, so that one pass changes the image.

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


class SimplexAttention(BipartiteLayer):
    """Information flows from the components to the image (section 3.1).

    Keys have no biases: they would add one number to a whole row of the softmax.
    """

    def __init__(self, sizes: AttentionSizes, options: AttentionOptions) -> None:
        super().__init__(sizes, options)
        self.to_keys = FullyConnected(sizes.component, sizes.features, bias=False)
        self.to_pos_map = None
        if options.component_positions:
            self.to_pos_map = FullyConnected(sizes.component_position, sizes.features, bias=False)

    def compare(self, given: AttentionInputs) -> tuple[Tensor, Tensor]:
        """See ``BipartiteLayer.compare``."""
        return given.y, self.split_heads(plus(self.to_keys(given.y), self.to_pos_map, given.component_positions))


class KMeansAttention(BipartiteLayer):
    """Trained centroids instead of keys: the layer of the released networks.

    The image's embedding is the concatenation ``E = [q(x) | P(pos)]``, 2d wide, cut into heads as contiguous blocks of
    2dₕ: with two heads the first sees content only, the second positions only.

    Iterative, the first centroids are the means of E under the assignments of the layer before; the first layer has no
    layer before it and trains its own.

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
            self.centroids = nn.Parameter(normal(1, heads, sizes.components, width))
        iterations = (options.kmeans_iters,) if options.weight_per_iter else ()
        self.att_weight = nn.Parameter(torch.ones(*iterations, heads, 1, width))

    def compare(self, given: AttentionInputs) -> tuple[Tensor, Tensor]:
        """See ``BipartiteLayer.compare``."""
        if self.centroids is not None:
            centroids: Tensor = self.centroids
        else:
            assert given.assignments is not None, "iterative k-means needs the assignments of the layer before"
            centroids = self.means(given.assignments, given)
        keys = centroids * self.weight_of(0)
        for iteration in range(1, self.options.kmeans_iters):
            if self.per_pixel:
                centroids = self.means(self.probabilities(keys, given), given)
            else:
                sums = attention_means(given.x, self.project(keys, given), over="components")
                centroids = self.embed_sums(sums, given) / (sums.total[..., None] + EPSILON)
            keys = centroids * self.weight_of(iteration)
        return given.y, keys

    def weight_of(self, iteration: int) -> Tensor:
        """The channels' weights ``[h, 1, 2dₕ]``."""
        return self.att_weight[iteration] if self.options.weight_per_iter else self.att_weight

    def means(self, assignments: Tensor, given: AttentionInputs) -> Tensor:
        """Means of E weighted with ``assignments [B, h, m, n]``: ``[B, h, m, 2dₕ]``."""
        if self.per_pixel:
            return assignments @ self.embed(given) / (assignments.sum(3, keepdim=True) + EPSILON)
        sums = weighted_sums(given.x, assignments, given.positions)
        return self.embed_sums(sums, given) / (sums.total[..., None] + EPSILON)

    def embed(self, given: AttentionInputs) -> Tensor:
        """See ``BipartiteLayer.embed``."""
        content = self.to_queries(pixels(given.x))
        place = plus(torch.zeros_like(content), self.from_pos_map, given.positions)
        return self.split_heads(torch.cat([content, place], dim=-1))

    def embedding(self, has_positions: bool) -> Embedding:
        """See ``BipartiteLayer.embedding``."""
        content, bias, position = self.to_queries.scaled_weight(), self.to_queries.scaled_bias(), None
        position_bias = torch.zeros_like(bias)
        if self.from_pos_map is not None and has_positions:
            place, position_bias = self.from_pos_map.scaled_weight(), self.from_pos_map.scaled_bias()
            position = self.by_head(torch.cat([torch.zeros_like(place), place]))
        content = self.by_head(torch.cat([content, torch.zeros_like(content)]))
        return Embedding(content, position, self.by_head(torch.cat([bias, position_bias])))


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
        offset = self.query_offset(given.component_positions)
        y = self.gathered_components(given, offset)
        return y, self.gather(given._replace(y=y), offset)

    def update_components(
        self, x: Tensor, y: Tensor, positions: Tensor | None, component_positions: Tensor | None
    ) -> Tensor:
        """The first half alone: the components ``[B, m, w]`` after gathering, ``LayerNorm(Y + a(Y, X) Wo + bo)``."""
        given = self.inputs(x, y, positions, component_positions)
        return self.gathered_components(given, self.query_offset(component_positions))

    def query_offset(self, component_positions: Tensor | None) -> Tensor | None:
        """What the components' positions ``[m, w]`` add to their queries, ``[m, d]``."""
        if self.gather_query_pos is None or component_positions is None:
            return None
        offset: Tensor = self.gather_query_pos(component_positions)
        return offset

    def gathered_components(self, given: AttentionInputs, offset: Tensor | None) -> Tensor:
        """``LayerNorm(Y + a(Y, X) Wo + bo)``, ``[B, m, w]``."""
        y: Tensor = self.layer_norm(given.y + self.gather_out(self.join_heads(self.gather(given, offset))))
        return y

    def gather(self, given: AttentionInputs, offset: Tensor | None) -> Tensor:
        """a(Y, X): attention-weighted means of the image's embedding, ``[B, h, m, dₕ]``."""
        queries = self.gather_queries(given.y)
        queries = self.split_heads(queries if offset is None else queries + offset) * self.head_size**-0.5
        if self.per_pixel:
            offered = self.split_heads(plus(self.gather_keys(pixels(given.x)), self.gather_key_pos, given.positions))
            return (queries @ offered.transpose(2, 3)).softmax(3) @ self.embed(given)
        content = per_head(queries, self.by_head(self.gather_keys.scaled_weight()))
        positions, place = None, None
        if self.gather_key_pos is not None and given.positions is not None:
            positions, place = given.positions, per_head(queries, self.by_head(self.gather_key_pos.scaled_weight()))
        # No bias, and no mask: one number for all positions has no effect on a softmax over them.
        keys = Keys(content, content.new_zeros(1, *content.shape[1:3]), positions, place)
        return self.embed_sums(attention_means(given.x, keys, over="positions"), given, sum_to_one=True)


class SelfAttention(nn.Module):
    """Every position attends to every other (SAGAN, Zhang et al. 2019, equations 1 to 3): O(n²·d).

    Queries and keys are ``d/8`` wide, values ``d/2``; the result is added with a trained strength that starts at 0.
    ``fused`` False computes the attention step by step, as exporters need it.
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
        self.fused = True

    def forward(self, x: Tensor) -> Tensor:
        """``[B, d, H, W]``, before and after."""
        flat = pixels(x.flatten(2))
        queries, keys, values = self.to_queries(flat), self.to_keys(flat), self.to_values(flat)
        if self.fused:
            found = F.scaled_dot_product_attention(queries, keys, values)
        else:
            found = (queries @ keys.transpose(1, 2) * queries.shape[-1] ** -0.5).softmax(2) @ values
        change = (self.strength * self.out(found)).to(x.dtype)
        return x + change.transpose(1, 2).unflatten(2, x.shape[2:])


ATTENTION_LAYERS: dict[str, type[BipartiteLayer]] = {
    "simplex": SimplexAttention,
    "kmeans": KMeansAttention,
    "duplex-equation": DuplexAttention,
}
