"""Positional embeddings of the image grid."""

from __future__ import annotations

import torch
from torch import Tensor


def sinusoidal_positions(height: int, width: int, size: int) -> Tensor:
    """Sines and cosines of both coordinates.

    Coordinates run over ``linspace(-1, 1)``; frequencies are ``10000^(−4i/size)``, ``i < size/4``. Four blocks of
    ``size/4`` channels: sin x, cos x, sin y, cos y.

    Args:
        height: rows.
        width: columns.
        size: channels, a multiple of 4.

    Returns:
        float32 ``[height, width, size]``.
    """
    frequencies = 10000.0 ** (-4.0 * torch.arange(size // 4) / size)
    angle_y = torch.linspace(-1, 1, height)[:, None] * frequencies
    angle_x = torch.linspace(-1, 1, width)[:, None] * frequencies
    grid_x = angle_x.expand(height, width, -1)
    grid_y = angle_y[:, None].expand(height, width, -1)
    return torch.cat([grid_x.sin(), grid_x.cos(), grid_y.sin(), grid_y.cos()], dim=-1)
