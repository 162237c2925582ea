"""Grids of images for a page: small ones for tables, and those that are put into one file."""

from __future__ import annotations

import base64
import functools
import io
import os
from pathlib import Path

from PIL import Image

from ganformer_cli.files import error_reason
from ganformer_cli.web.server import Content, NotFoundError

#: PNG files of at most so many bytes are embedded as they are.
MAX_PNG = 150_000


def grid_content(path: Path) -> Content:
    """A grid as it is.

    Raises:
        NotFoundError: it is gone.
    """
    try:
        return Content("image/png", path.read_bytes())
    except OSError as error:
        raise NotFoundError(f"{path.name}: cannot be read ({error_reason(error)})") from error


def thumbnail(path: Path, side: int = 240) -> Content:
    """A grid with at most ``side`` pixels a side; kept while the file stays the same.

    Raises:
        NotFoundError: it is gone, or no image.
    """
    try:
        state = os.stat(path)
        return _reduced(path, side, state.st_mtime_ns, state.st_size)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise NotFoundError(f"{path.name}: is not an image that can be read") from error


def embedded(path: Path, side: int) -> str:
    """A ``data:`` address of a grid: the file if it is small, else a JPEG with at most ``side`` pixels a side.

    Raises:
        NotFoundError: it is gone, or no image.
    """
    content = grid_content(path)
    if len(content.body) > MAX_PNG:
        content = thumbnail(path, side)
    return f"data:{content.kind};base64,{base64.b64encode(content.body).decode('ascii')}"


@functools.lru_cache(maxsize=512)
def _reduced(path: Path, side: int, changed: int, size: int) -> Content:
    with Image.open(path) as image:
        reduced = image.convert("RGB")
    # Cells of a grid that is enlarged by the page stay sharp; one that is larger loses little.
    reduced.thumbnail((side, side), Image.Resampling.BOX)
    stream = io.BytesIO()
    reduced.save(stream, "JPEG", quality=88)
    return Content("image/jpeg", stream.getvalue())
