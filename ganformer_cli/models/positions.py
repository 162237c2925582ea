"""Positional embeddings of the image grid."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ganformer_cli.config import ModelConfig
from ganformer_cli.models.initialization import has_values, normal, uniform


def projected_coordinates(height: int, width: int, directions: int) -> Tensor:
    """Coordinates along ``directions`` lines through the middle, at angles ``jπ/N``; with two: x, then y.

    Returns:
        float32 ``[height, width, directions]``; x and y run over ``linspace(-1, 1)``.
    """
    y, x = torch.linspace(-1, 1, height)[:, None, None], torch.linspace(-1, 1, width)[:, None]
    angles = torch.arange(directions) * (math.pi / directions)
    cosines, sines = angles.cos(), angles.sin()
    # The cosine of π/2 is not quite zero in floating point.
    cosines[cosines.abs() < 1e-6] = 0
    return x * cosines + y * sines


def sinusoidal_positions(height: int, width: int, size: int, directions: int = 2) -> Tensor:
    """Sines and cosines of the coordinates.

    For each direction a block of sines and one of cosines, each ``size/2N`` wide; with two directions: sin x, cos x,
    sin y, cos y. Frequencies are ``10000^(−2N·i/size)``, ``i < size/2N``.

    Args:
        height: rows.
        width: columns.
        size: channels, a multiple of ``2·directions``.
        directions: N, see ``projected_coordinates``.

    Returns:
        float32 ``[height, width, size]``.
    """
    block = size // (2 * directions)
    frequencies = 10000.0 ** (-torch.arange(block) / block)
    angles = projected_coordinates(height, width, directions)[..., None] * frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=-2).flatten(2)


def initial_positions(*shape: int, init: str) -> Tensor:
    """Start of trained positions: ``uniform`` in [0, 1), or ``normal``."""
    return uniform(*shape) if init == "uniform" else normal(*shape)


def middle(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """The middle ``grid`` = (height, width) of positions ``[H, W, p]``."""
    top, left = (positions.shape[0] - grid[0]) // 2, (positions.shape[1] - grid[1]) // 2
    return positions[top : top + grid[0], left : left + grid[1]]


class ImagePositions(nn.Module):
    """Positions of one layer's grid, ``[n, p]``, row by row.

    ``sinus`` is fixed; ``linear`` multiplies the coordinate along each direction with a trained vector; ``trainable``
    has a vector for each row and each column, half of the channels each; ``trainable2d`` one for each position.

    Args:
        grid: height and width.
        config: ``pos_type``, ``pos_directions_num``, ``pos_init``, ``cropped_positions`` and the width p.
    """

    def __init__(self, grid: tuple[int, int], config: ModelConfig) -> None:
        super().__init__()
        self.grid = height, width = grid
        self.kind = config.pos_type
        size, directions, init = config.position_size, config.pos_directions_num, config.pos_init
        # Rows and columns of the grid that the coordinates are those of.
        rows, columns = (max(grid), max(grid)) if config.cropped_positions else grid
        if self.kind == "sinus":
            fixed = torch.empty(height * width, size)
            if has_values():
                fixed = middle(sinusoidal_positions(rows, columns, size, directions), grid).flatten(0, 1)
            self.register_buffer("fixed", fixed, persistent=False)
        elif self.kind == "linear":
            fixed = torch.empty(height, width, directions)
            if has_values():
                fixed = middle(projected_coordinates(rows, columns, directions), grid)
            self.register_buffer("fixed", fixed, persistent=False)
            self.vectors = nn.Parameter(initial_positions(directions, size // directions, init=init))
        elif self.kind == "trainable":
            self.rows = nn.Parameter(initial_positions(height, size // 2, init=init))
            self.columns = nn.Parameter(initial_positions(width, size // 2, init=init))
        else:
            self.cells = nn.Parameter(initial_positions(height * width, size, init=init))
        self.fixed: Tensor

    def forward(self) -> Tensor:
        """``[n, p]``."""
        if self.kind == "sinus":
            return self.fixed
        if self.kind == "linear":
            return (self.fixed[..., None] * self.vectors).flatten(2).flatten(0, 1)
        if self.kind == "trainable":
            height, width = self.grid
            rows = self.rows[:, None].expand(-1, width, -1)
            columns = self.columns.expand(height, -1, -1)
            return torch.cat([rows, columns], dim=-1).flatten(0, 1)
        return self.cells
