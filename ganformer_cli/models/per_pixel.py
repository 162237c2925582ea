"""The bipartite layer as its equations read: a query, a context and a modulation for every pixel, O(n·d²).

This is what public code does, and what ``ganformer bench`` compares with; nothing else uses it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ganformer_cli.models.attention import BipartiteLayer, DuplexAttention, KMeansAttention, SimplexAttention
from ganformer_cli.models.layers import FullyConnected


def per_pixel_layer(
    layer: BipartiteLayer, x: Tensor, y: Tensor, positions: Tensor | None, component_positions: Tensor | None
) -> Tensor:
    """What ``layer`` does, each matrix where the equations have it. No gates, mask, or iterative k-means.

    Args:
        layer: whose weights are used.
        x: ``[B, d, n]``.
        y: ``[B, m, w]``.
        positions: ``[n, p]`` or None.
        component_positions: ``[m, w]`` or None.

    Returns:
        The new ``x [B, d, n]``.
    """
    pixels = x.transpose(1, 2)
    content = applied(layer.to_queries, pixels)
    place = None
    if layer.from_pos_map is not None and positions is not None:
        place = applied(layer.from_pos_map, positions)
    if isinstance(layer, KMeansAttention):
        elements = torch.cat([content, torch.zeros_like(content) if place is None else place.expand_as(content)], 2)
        probabilities = kmeans_probabilities(layer, heads_of(layer, elements))
    else:
        embedding = heads_of(layer, content if place is None else content + place)
        if isinstance(layer, DuplexAttention):
            gathered = gather(layer, pixels, embedding, y, positions, component_positions)
            y = layer.layer_norm(y + applied(layer.gather_out, gathered.transpose(1, 2).flatten(2)))
            keys = gather(layer, pixels, embedding, y, positions, component_positions)
        else:
            assert isinstance(layer, SimplexAttention)
            flat = applied(layer.to_keys, y)
            if layer.to_pos_map is not None and component_positions is not None:
                flat = flat + applied(layer.to_pos_map, component_positions)
            keys = heads_of(layer, flat)
        probabilities = (embedding @ keys.transpose(2, 3) / layer.head_size**0.5).softmax(3)
    if layer.training and layer.options.dropout > 0:
        probabilities = F.dropout(probabilities, layer.options.dropout / 2)
        whole = F.dropout(torch.ones_like(probabilities[:, :, :1]), layer.options.dropout / 2)
        probabilities = probabilities * whole
    contexts = (probabilities @ heads_of(layer, applied(layer.to_values, y))).transpose(1, 2).flatten(2)
    return integrated(layer, pixels, applied(layer.modulation, contexts)).transpose(1, 2)


def kmeans_probabilities(layer: KMeansAttention, elements: Tensor) -> Tensor:
    """Whose pixels ``elements [B, h, n, 2dₕ]`` are, ``[B, h, n, m]``: Lloyd's iterations from the trained centroids."""
    assert layer.centroids is not None
    weights = layer.att_weight if layer.options.weight_per_iter else [layer.att_weight] * layer.options.kmeans_iters

    def probabilities(centroids: Tensor, weight: Tensor) -> Tensor:
        return ((elements * weight) @ centroids.transpose(2, 3) / layer.head_size**0.5).softmax(3)

    found = probabilities(layer.centroids, weights[0])
    for weight in weights[1:]:
        shares = found / (found.sum(2, keepdim=True) + 1e-8)
        found = probabilities(shares.transpose(2, 3) @ elements, weight)
    return found


def gather(
    layer: DuplexAttention,
    pixels: Tensor,
    embedding: Tensor,
    y: Tensor,
    positions: Tensor | None,
    component_positions: Tensor | None,
) -> Tensor:
    """What components ``y [B, m, w]`` gather from the ``embedding [B, h, n, dₕ]`` of ``pixels [B, n, d]``:
    ``[B, h, m, dₕ]``."""
    queries, keys = applied(layer.gather_queries, y), applied(layer.gather_keys, pixels)
    if layer.gather_query_pos is not None and component_positions is not None:
        queries = queries + applied(layer.gather_query_pos, component_positions)
    if layer.gather_key_pos is not None and positions is not None:
        keys = keys + applied(layer.gather_key_pos, positions)
    scores = heads_of(layer, queries) @ heads_of(layer, keys).transpose(2, 3) / layer.head_size**0.5
    return scores.softmax(3) @ embedding


def integrated(layer: BipartiteLayer, pixels: Tensor, modulation: Tensor) -> Tensor:
    """ω(X) with its modulation: ``[B, n, d]`` and ``[B, n, d]`` (both: ``[B, n, 2d]``) → ``[B, n, d]``."""
    kind, normalization = layer.options.integration, layer.options.normalization
    axis = 2 if normalization == "layer" else 1
    if normalization != "none" and kind != "mul":
        pixels = pixels - pixels.mean(axis, keepdim=True)
    if normalization != "none" and kind != "add":
        pixels = pixels / (pixels.square().mean(axis, keepdim=True) + 1e-8).sqrt()
    if kind == "add":
        return pixels + modulation
    if kind == "mul":
        return pixels * (1 + modulation)
    scale, shift = modulation.chunk(2, dim=2)
    return pixels * (1 + scale) + shift


def applied(layer: FullyConnected, x: Tensor) -> Tensor:
    """``x Wᵀ + b``."""
    return F.linear(x, layer.scaled_weight(), layer.scaled_bias())


def heads_of(layer: BipartiteLayer, x: Tensor) -> Tensor:
    """Contiguous blocks of channels as heads: ``[..., n, h·k] → [..., h, n, k]``."""
    return x.unflatten(-1, (layer.options.heads, -1)).movedim(-2, -3)
