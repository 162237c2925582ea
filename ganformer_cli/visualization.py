"""Pictures to look at: grids, and maps of what each component attends to.

A component has one colour, the same in every layer, picture and run. The colours are chosen to be told apart: seven of
Okabe & Ito (2008), then each the farthest from all before it in CIELAB, the smallest distance counted over normal
vision and the three kinds of colour blindness as simulated by Machado et al. (2009). Any two of the first 16 differ by
more than 16 (CIE76) to everyone, any two of the first 32 by more than 12.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL.Image
import torch.nn.functional as F
from torch import Tensor

from ganformer_cli.errors import ConfigError
from ganformer_cli.files import write_bytes
from ganformer_cli.sampling import AttentionMap

Images = npt.NDArray[np.uint8]

#: RGB of component 0, 1, ...: uint8 ``[64, 3]``. More components start over.
PALETTE: Images = np.frombuffer(
    bytes.fromhex(
        "0072B2 E69F00 009E73 CC79A7 F0E442 56B4E9 D55E00 8800FF"
        "442200 CCFFAA 220088 880066 00FFEE 8866FF EE0044 AACC66"
        "226622 440066 88CC88 2244AA AAFFCC AA2266 AA88FF FF8844"
        "AA0000 EE2266 4400CC 882288 CCCCFF FF22CC AA00CC EEAAAA"
        "662244 666688 CCAACC 660022 44FF66 CC0088 AAAA66 8844FF"
        "886644 EE88AA FFCCAA EE6688 CC22AA 88EECC 660088 AAEE88"
        "CC22CC 8888CC AA0044 CCCC44 CC2222 0000FF FF88FF 8800AA"
        "AA8822 660066 66EEAA 008866 0022AA AA66EE EECC00 AA44EE"
    ),
    np.uint8,
).reshape(-1, 3)

#: Share of the picture in a blend; the rest is the component's colour.
BLENDING_ALPHA = 0.3
#: Pixels between the cells of a sheet, and their colour.
_GAP = 2
_GREY: Images = np.full(3, 128, np.uint8)


def image_grid(images: Images, columns: int | None = None, *, gap: int = 0) -> Images:
    """Pictures side by side, row by row.

    Args:
        images: uint8 ``[N, 3, H, W]``, N >= 1.
        columns: pictures in a row; None makes the grid about square, without empty places where N allows.
        gap: grey pixels between the pictures.

    Returns:
        uint8 ``[3, rows*(H+gap)-gap, columns*(W+gap)-gap]``; empty places are grey.

    Raises:
        ConfigError: no pictures, or no columns.
    """
    count, channels, height, width = images.shape
    if count < 1:
        raise ConfigError("a grid needs at least one picture")
    if columns is None:
        columns = grid_columns(count, height, width)
    if columns < 1:
        raise ConfigError(f"a grid of {columns} columns: give at least 1")
    rows = math.ceil(count / columns)
    cell_height, cell_width = height + gap, width + gap
    grid = np.full((channels, rows * cell_height - gap, columns * cell_width - gap), _GREY[0], np.uint8)
    for index, image in enumerate(images):
        top, left = index // columns * cell_height, index % columns * cell_width
        grid[:, top : top + height, left : left + width] = image
    return grid


def grid_columns(count: int, height: int, width: int) -> int:
    """A number of columns that makes ``count`` pictures about a square, full if that is possible."""
    square = math.sqrt(count * height / width)
    full = [columns for columns in range(1, count + 1) if count % columns == 0 and square <= columns <= 2 * square]
    return full[0] if full else min(count, math.ceil(square))


def crop_to_ratio(image: Images, ratio: float) -> Images:
    """The largest part in the middle of ``[..., H, W]`` whose height / width is ``ratio``.

    Raises:
        ConfigError: a ratio that is not positive, or leaves less than a pixel.
    """
    height, width = image.shape[-2:]
    if not (math.isfinite(ratio) and ratio > 0):
        raise ConfigError(f"--ratio {ratio}: height / width must be a number above 0")
    new_height, new_width = min(height, round(width * ratio)), min(width, round(height / ratio))
    if new_height < 1 or new_width < 1:
        raise ConfigError(f"--ratio {ratio} leaves nothing of a picture of {width}x{height}; choose one nearer to 1")
    top, left = (height - new_height) // 2, (width - new_width) // 2
    return image[..., top : top + new_height, left : left + new_width]


def save_png(path: Path, image: Images) -> None:
    """Write uint8 ``[3, H, W]`` as a PNG, whole or not at all.

    Raises:
        OutputError: the place cannot be written to.
    """
    stream = io.BytesIO()
    PIL.Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).save(stream, "PNG")
    write_bytes(path, stream.getvalue())


def attention_sheet(images: Images, maps: AttentionMap, alpha: float = BLENDING_ALPHA) -> Images:
    """Each picture and, to its right, the component that each of its pixels attends to most, as a colour over it.

    Args:
        images: uint8 ``[N, 3, H, W]``.
        maps: one layer's map of these N pictures.
        alpha: share of the picture in the blend; 0 shows plain colours.

    Returns:
        uint8 ``[3, height, width]``.
    """
    cells = []
    for image, probabilities in zip(images, maps.probabilities, strict=True):
        cells += [image, _blend(image, region_colours(probabilities, *image.shape[1:]), alpha)]
    pairs = grid_columns(len(images), images.shape[2], 2 * images.shape[3])
    return image_grid(np.stack(cells), 2 * pairs, gap=_GAP)


def layer_sheet(image: Images, maps: Iterable[AttentionMap], alpha: float = BLENDING_ALPHA) -> Images:
    """One picture ``[3, H, W]``, then the regions of each layer (maps of B = 1) over it, coarse to fine.

    Layers are brought to the picture's size one by one.
    """
    cells = [image]
    for each in maps:
        cells.append(_blend(image, region_colours(each.probabilities[0], *image.shape[1:]), alpha))
    return image_grid(np.stack(cells), gap=_GAP)


def component_sheet(image: Images, maps: AttentionMap, alpha: float = BLENDING_ALPHA) -> Images:
    """One picture ``[3, H, W]``, its regions in one layer (a map of B = 1), then each component's share of it.

    A component's cell is framed in its colour and shows the picture as bright as its pixels attend to the component,
    on one scale for all components.
    """
    height, width = image.shape[1:]
    regions = _blend(image, region_colours(maps.probabilities[0], height, width), alpha)
    cells = [_framed(image, _GREY), _framed(regions, _GREY)]
    shares = _upsampled(maps.probabilities[0], height, width)
    for component, light in enumerate((shares / shares.max().clamp_min(1e-8)).numpy()):
        cells.append(_framed(np.rint(image * light).astype(np.uint8), PALETTE[component % len(PALETTE)]))
    return image_grid(np.stack(cells), gap=_GAP)


def region_colours(probabilities: Tensor, height: int, width: int) -> Images:
    """The colour of the component that each pixel attends to most.

    Args:
        probabilities: one picture's map ``[heads, m, h, w]``; heads are averaged, and the map is brought to the
            picture's size bilinearly before the largest is taken, so that borders are smooth.
        height, width: of the picture.

    Returns:
        uint8 ``[3, height, width]``.
    """
    winner = _upsampled(probabilities, height, width).argmax(0).numpy()
    return PALETTE[winner % len(PALETTE)].transpose(2, 0, 1)


def _upsampled(probabilities: Tensor, height: int, width: int) -> Tensor:
    """``[heads, m, h, w]`` to float32 ``[m, height, width]`` on the CPU, averaged over heads."""
    mean = probabilities.detach().float().mean(0).cpu()
    # A model of another ratio than its grids computes a larger picture and keeps the middle: so does the map.
    scale = max(height, width) / max(mean.shape[1:])
    size = [max(round(mean.shape[1] * scale), height), max(round(mean.shape[2] * scale), width)]
    large = F.interpolate(mean[None], size, mode="bilinear", align_corners=False)[0]
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return large[:, top : top + height, left : left + width]


def _blend(image: Images, colours: Images, alpha: float) -> Images:
    if not 0 <= alpha <= 1:
        raise ConfigError(f"--blending-alpha {alpha}: the picture's share goes from 0 to 1")
    # Over its brightness (ITU-R BT.601), not its colours: those would be taken for components'.
    brightness = np.tensordot(np.array([0.299, 0.587, 0.114]), image, 1)
    return np.rint(alpha * brightness + (1 - alpha) * colours).astype(np.uint8)


def _framed(image: Images, colour: Images) -> Images:
    height, width = image.shape[1:]
    framed = np.empty((3, height + 2 * _GAP, width + 2 * _GAP), np.uint8)
    framed[:] = colour[:, None, None]
    framed[:, _GAP:-_GAP, _GAP:-_GAP] = image
    return framed
