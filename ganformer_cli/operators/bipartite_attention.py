"""The per-pixel part of bipartite attention, in plain torch.

Everything that multiplies by a ``d × d`` matrix has been moved to the side of the ``m`` components beforehand
(``models/attention.py``), so that a pixel costs ``2·h·m·d`` multiply-adds and no ``d²`` term.

Shapes: ``x [B, d, n]`` image features, ``h`` heads, ``m`` components, ``d'`` modulation channels.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Integration = Literal["add", "mul", "both"]
Normalization = Literal["none", "layer", "instance"]

#: Inside the root of the normalisation.
EPSILON = 1e-8


def attention_scores(x: Tensor, projection: Tensor, offset: Tensor) -> Tensor:
    """Scores of every component at every position.

    Args:
        x: ``[B, d, n]``.
        projection: ``[B or 1, h, m, d]``, the components' keys brought into the space of ``x`` and scaled.
        offset: ``[B or 1, h, m, n or 1]``, what does not depend on ``x``: biases and positions.

    Returns:
        ``[B, h, m, n]``.
    """
    heads, components = projection.shape[1:3]
    flat = projection.flatten(1, 2).expand(len(x), -1, -1)
    return torch.baddbmm(offset.flatten(1, 2), flat, x).unflatten(1, (heads, components))


def attend(probabilities: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """Sum over heads and components of ``values`` weighted with ``probabilities``, plus ``bias``.

    Args:
        probabilities: ``[B, h, m, n]``.
        values: ``[B, h, m, d']``.
        bias: ``[d']``.

    Returns:
        ``[B, d', n]``.
    """
    return torch.baddbmm(bias[:, None], values.flatten(1, 2).transpose(1, 2), probabilities.flatten(1, 2))


def normalize_features(x: Tensor, normalization: Normalization, integration: Integration) -> Tensor:
    """ω(x): over channels (``layer``) or positions (``instance``).

    ``add`` subtracts the mean only, ``mul`` divides by the root mean square only, ``both`` does one after the other.

    Args:
        x: ``[B, d, n]``.

    Returns:
        ``[B, d, n]``.
    """
    if normalization == "none":
        return x
    axis = 1 if normalization == "layer" else 2
    if integration != "mul":
        x = x - x.mean(axis, keepdim=True)
    if integration != "add":
        x = x * (x.square().mean(axis, keepdim=True) + EPSILON).rsqrt()
    return x


def integrate(x: Tensor, modulation: Tensor, integration: Integration, normalization: Normalization) -> Tensor:
    """Apply a modulation to the normalised features.

    ``mul``: ω(x)·(1 + g); ``add``: ω(x) + g; ``both``: ω(x)·(1 + g₁) + g₂.

    Args:
        x: ``[B, d, n]``.
        modulation: ``[B, d, n]``, or ``[B, 2d, n]`` for ``both`` (g₁, then g₂).

    Returns:
        ``[B, d, n]``.
    """
    x = normalize_features(x, normalization, integration)
    if integration == "add":
        return x + modulation
    if integration == "mul":
        return x * (1 + modulation)
    scale, shift = modulation.chunk(2, dim=1)
    return torch.addcmul(shift, x, 1 + scale)
