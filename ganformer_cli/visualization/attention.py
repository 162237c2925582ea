"""Maps of what each component attends to, as images: a component's colour over what it attends to most."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch.nn.functional as F
from torch import Tensor

from ganformer_cli.errors import ConfigError
from ganformer_cli.sampling import AttentionMap
from ganformer_cli.sampling.image_files import Images
from ganformer_cli.visualization.grids import GAP, grid_columns, image_grid
from ganformer_cli.visualization.palette import PALETTE, component_colour
from ganformer_cli.visualization.sheets import captioned_grid, component_legend, fit_to_cell, image_table, stack_sheets

#: Share of the image in a blend; the rest is the component's colour.
BLENDING_ALPHA = 0.3

#: ``hard``: the colour of the component that a pixel attends to most; ``soft``: all colours, mixed as it attends.
MapStyle = Literal["hard", "soft"]


def attention_sheet(images: Images, maps: AttentionMap, alpha: float = BLENDING_ALPHA) -> Images:
    """Each image and, to its right, the component that each of its pixels attends to most, as a colour over it.

    Args:
        images: uint8 ``[N, 3, H, W]``.
        maps: one layer's map of these N images.
        alpha: share of the image in the blend; 0 shows plain colours.

    Returns:
        uint8 ``[3, height, width]``.
    """
    cells = []
    for image, probabilities in zip(images, maps.probabilities, strict=True):
        cells += [image, blend(image, region_colours(probabilities, *image.shape[1:]), alpha)]
    pairs = grid_columns(len(images), images.shape[2], 2 * images.shape[3])
    return image_grid(np.stack(cells), 2 * pairs, gap=GAP)


def layer_sheet(
    image: Images, maps: Iterable[AttentionMap], alpha: float = BLENDING_ALPHA, style: MapStyle = "hard"
) -> Images:
    """One image ``[3, H, W]``, then the regions of each layer (maps of B = 1) over it, coarse to fine; a legend.

    With several heads a layer has a row: the mean of its heads, then each of them.
    """
    image = fit_to_cell(image)
    height, width = image.shape[1:]
    rows, names = [[image]], ["image"]
    heads = components = 0
    for layer, probabilities in maps:
        heads, components = probabilities.shape[1:3]
        shown = [probabilities[0]]
        if heads > 1:
            shown += [probabilities[0, k : k + 1] for k in range(heads)]
        rows.append([blend(image, region_colours(each, height, width, style), alpha) for each in shown])
        names.append(layer)
    if heads > 1:
        sheet = image_table(rows, rows=names, columns=["all heads", *(f"head {k}" for k in range(heads))])
    else:
        sheet = captioned_grid([cell for row in rows for cell in row], names)
    return stack_sheets([sheet, component_legend(components, sheet.shape[2])])


def component_sheet(
    image: Images, maps: AttentionMap, alpha: float = BLENDING_ALPHA, style: MapStyle = "hard"
) -> Images:
    """One image ``[3, H, W]``, its regions in one layer (a map of B = 1), then each component's share of it.

    A component's cell is framed in its colour, has its number above, and shows the image as bright as its pixels
    attend to the component, on one scale for all components.
    """
    image = fit_to_cell(image)
    height, width = image.shape[1:]
    cells = [image, blend(image, region_colours(maps.probabilities[0], height, width, style), alpha)]
    names: list[str] = ["image", maps.layer]
    colours: list[Images | None] = [None, None]
    for component, lit in enumerate(component_lights(image, maps)):
        cells.append(lit)
        names.append(str(component))
        colours.append(component_colour(component))
    return captioned_grid(cells, names, colours)


def component_lights(image: Images, maps: AttentionMap) -> list[Images]:
    """For each component the image ``[3, H, W]`` as bright as its pixels attend to it, on one scale for all.

    Args:
        maps: one layer's map of this image (B = 1).
    """
    shares = upsample(maps.probabilities[0], *image.shape[1:])
    return [np.rint(image * light).astype(np.uint8) for light in (shares / shares.max().clamp_min(1e-8)).numpy()]


def component_regions(maps: AttentionMap, size: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """The component that each pixel attends to most in a layer (a map of B = 1): ``[H, W]`` of ``size``."""
    regions: npt.NDArray[np.int64] = upsample(maps.probabilities[0], *size).argmax(0).numpy()
    return regions


def region_colours(probabilities: Tensor, height: int, width: int, style: MapStyle = "hard") -> Images:
    """The colours of the components that the pixels attend to.

    Args:
        probabilities: one image's map ``[heads, m, h, w]``; heads are averaged, and the map is brought to the
            image's size bilinearly before the largest is taken, so that borders are smooth.
        style: see ``MapStyle``.

    Returns:
        uint8 ``[3, height, width]``.
    """
    shares = upsample(probabilities, height, width)
    if style == "soft":
        colours = PALETTE[np.arange(len(shares)) % len(PALETTE)].astype(np.float32)
        return np.rint(np.tensordot(colours, shares.numpy(), ([0], [0]))).astype(np.uint8)
    return PALETTE[shares.argmax(0).numpy() % len(PALETTE)].transpose(2, 0, 1)


def upsample(probabilities: Tensor, height: int, width: int) -> Tensor:
    """``[heads, m, h, w]`` to float32 ``[m, height, width]`` on the CPU, averaged over heads."""
    mean = probabilities.detach().float().mean(0).cpu()
    # A model of another ratio than its grids computes a larger image and keeps the middle: so does the map.
    scale = max(height, width) / max(mean.shape[1:])
    size = [max(round(mean.shape[1] * scale), height), max(round(mean.shape[2] * scale), width)]
    large = F.interpolate(mean[None], size, mode="bilinear", align_corners=False)[0]
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return large[:, top : top + height, left : left + width]


def blend(image: Images, colours: Images, alpha: float) -> Images:
    """Colours over an image's brightness, both uint8 ``[3, H, W]``; ``alpha`` is the image's share."""
    if not 0 <= alpha <= 1:
        raise ConfigError(f"--blending-alpha {alpha}: the image's share goes from 0 to 1")
    # Over its brightness (ITU-R BT.601), not its colours: those would be taken for components'.
    brightness = np.tensordot(np.array([0.299, 0.587, 0.114]), image, 1)
    return np.rint(alpha * brightness + (1 - alpha) * colours).astype(np.uint8)
