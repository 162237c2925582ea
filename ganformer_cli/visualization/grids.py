"""Images side by side, and framed."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ganformer_cli.errors import ConfigError
from ganformer_cli.sampling.image_files import Images

Floats = npt.NDArray[np.float64]

#: Grey pixels between the cells of a sheet.
GAP = 2
#: RGB of what is no image.
GREY: Images = np.full(3, 128, np.uint8)


def image_grid(images: Images, columns: int | None = None, *, gap: int = 0) -> Images:
    """Pictures side by side, row by row.

    Args:
        images: uint8 ``[N, 3, H, W]``, N >= 1.
        columns: images in a row; None makes the grid about square, without empty places where N allows.
        gap: grey pixels between the images.

    Returns:
        uint8 ``[3, rows*(H+gap)-gap, columns*(W+gap)-gap]``; empty places are grey.

    Raises:
        ConfigError: no images, or no columns.
    """
    count, channels, height, width = images.shape
    if count < 1:
        raise ConfigError("a grid needs at least one image")
    if columns is None:
        columns = grid_columns(count, height, width)
    if columns < 1:
        raise ConfigError(f"a grid of {columns} columns: give at least 1")
    rows = math.ceil(count / columns)
    cell_height, cell_width = height + gap, width + gap
    grid = np.full((channels, rows * cell_height - gap, columns * cell_width - gap), GREY[0], np.uint8)
    for index, image in enumerate(images):
        top, left = index // columns * cell_height, index % columns * cell_width
        grid[:, top : top + height, left : left + width] = image
    return grid


def grid_columns(count: int, height: int, width: int) -> int:
    """A number of columns that makes ``count`` images about a square, full if that is possible."""
    square = math.sqrt(count * height / width)
    full = [columns for columns in range(1, count + 1) if count % columns == 0 and square <= columns <= 2 * square]
    return full[0] if full else min(count, math.ceil(square))


def add_frame(image: Images, colour: Images | None) -> Images:
    """uint8 ``[3, H, W]`` within a frame of ``GAP`` pixels of an RGB colour; None is grey."""
    height, width = image.shape[1:]
    cell = np.empty((3, height + 2 * GAP, width + 2 * GAP), np.uint8)
    cell[:] = (GREY if colour is None else colour)[:, None, None]
    cell[:, GAP:-GAP, GAP:-GAP] = image
    return cell
