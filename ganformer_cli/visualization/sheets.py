"""Tables of images with names: a row and a column each have a caption."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from ganformer_cli.sampling.image_files import Images
from ganformer_cli.visualization.grids import GAP, add_frame, image_grid
from ganformer_cli.visualization.palette import component_colour

#: The longer side of an image where there are captions, in pixels: smaller ones are enlarged, larger ones shrunk.
MIN_CELL, MAX_CELL = 96, 512
_TEXT_SIZE = 13
_TEXT_HEIGHT = 19
#: Between a caption and what is beside it.
_MARGIN = 4
_PAPER, _INK = 255, 0


def fit_to_cell(image: Images) -> Images:
    """``[3, H, W]`` as large as a cell of a sheet should be: whole pixels repeated, or averaged."""
    longer = max(image.shape[1:])
    if longer > MAX_CELL:
        size = [max(1, round(side * MAX_CELL / longer)) for side in (image.shape[2], image.shape[1])]
        pixels = PIL.Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
        return np.asarray(pixels.resize((size[0], size[1]), PIL.Image.Resampling.BOX)).transpose(2, 0, 1)
    factor = math.ceil(MIN_CELL / longer)
    return image.repeat(factor, 1).repeat(factor, 2)


def image_table(
    cells: Sequence[Sequence[Images | None]],
    *,
    columns: Sequence[str] = (),
    rows: Sequence[str] = (),
    colours: Sequence[Images | None] = (),
) -> Images:
    """Pictures in rows and columns, on white.

    Args:
        cells: uint8 ``[3, H, W]``, all of one size; None is an empty place. Rows may end early.
        columns: captions above, or none.
        rows: captions at the left, or none.
        colours: of a frame around each row's images, RGB; None or none: grey.

    Returns:
        uint8 ``[3, height, width]``.
    """
    height, width = next(cell.shape[1:] for row in cells for cell in row if cell is not None)
    left = max((_text_width(name) + 2 * _MARGIN for name in rows), default=0)
    top = _TEXT_HEIGHT if columns else 0
    across, down = width + 2 * GAP, height + 2 * GAP
    # A caption may be wider than an image.
    across = max(across, *(_text_width(name) + 2 * _MARGIN for name in columns), 0)
    count = max(map(len, cells))
    sheet = np.full((3, top + len(cells) * down, left + count * across), _PAPER, np.uint8)
    for i, row in enumerate(cells):
        for j, cell in enumerate(row):
            if cell is not None:
                whole = add_frame(cell, colours[i] if colours else None)
                y, x = top + i * down, left + j * across
                sheet[:, y : y + whole.shape[1], x : x + whole.shape[2]] = whole
    captions = [(name, left + j * across + GAP, 0, _TEXT_HEIGHT) for j, name in enumerate(columns)]
    captions += [(name, _MARGIN, top + i * down, down) for i, name in enumerate(rows)]
    return _write(sheet, captions)


def stack_sheets(sheets: Sequence[Images]) -> Images:
    """Sheets below one another, on white."""
    width = max(sheet.shape[2] for sheet in sheets)
    padded = [np.pad(s, ((0, 0), (0, _TEXT_HEIGHT), (0, width - s.shape[2])), constant_values=_PAPER) for s in sheets]
    return np.concatenate(padded, axis=1)[:, :-_TEXT_HEIGHT]


def captioned_grid(cells: Sequence[Images], names: Sequence[str], colours: Sequence[Images | None] = ()) -> Images:
    """Pictures of one size in an about square grid, each with its name above and a frame in its colour.

    Args:
        cells: uint8 ``[3, H, W]``.
        colours: of each one's frame, RGB; None or none: grey.
    """
    colours = colours or [None] * len(cells)
    widest = max(map(_text_width, names)) + _MARGIN
    whole = []
    for cell, name, colour in zip(cells, names, colours, strict=True):
        image = add_frame(cell, colour)
        place = np.full((3, image.shape[1] + _TEXT_HEIGHT, max(widest, image.shape[2])), _PAPER, np.uint8)
        place[:, _TEXT_HEIGHT:, : image.shape[2]] = image
        whole.append(_write(place, [(name, GAP, 0, _TEXT_HEIGHT)]))
    return image_grid(np.stack(whole))


def component_legend(components: int, width: int) -> Images:
    """A legend, each component's colour with its number, in rows of at most ``width`` pixels: uint8 ``[3, H, W]``."""
    widest = _TEXT_HEIGHT + _text_width(str(components - 1)) + 3 * _MARGIN
    across = max(1, width // widest)
    sheet = np.full((3, math.ceil(components / across) * _TEXT_HEIGHT, max(width, widest)), _PAPER, np.uint8)
    captions = []
    for component in range(components):
        y, x = component // across * _TEXT_HEIGHT, component % across * widest
        swatch = sheet[:, y + 2 : y + _TEXT_HEIGHT - 2, x + 2 : x + _TEXT_HEIGHT - 2]
        swatch[:] = component_colour(component)[:, None, None]
        captions.append((str(component), x + _TEXT_HEIGHT + 2, y, _TEXT_HEIGHT))
    return _write(sheet, captions)


def _write(sheet: Images, captions: Sequence[tuple[str, int, int, int]]) -> Images:
    """Text onto a sheet: each caption with its left, its top, and the height that it is centred in."""
    if not captions:
        return sheet
    canvas = PIL.Image.fromarray(np.ascontiguousarray(sheet.transpose(1, 2, 0)))
    draw, font = PIL.ImageDraw.Draw(canvas), PIL.ImageFont.load_default(_TEXT_SIZE)
    for text, x, y, height in captions:
        draw.text((x, y + (height - _TEXT_HEIGHT) / 2 + 2), text, fill=(_INK,) * 3, font=font)
    return np.asarray(canvas).transpose(2, 0, 1)


def _text_width(text: str) -> int:
    return math.ceil(PIL.ImageFont.load_default(_TEXT_SIZE).getlength(text))
