"""Pictures as files, which say how they were made.

What a picture says of itself is a JSON object: in a PNG a text chunk, in JPEG and WebP the EXIF image description, in a
GIF its comment. So a file is known again whatever it is called.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.PngImagePlugin

from ganformer_cli.errors import GanformerError
from ganformer_cli.files import open_regular, parse_json, read_regular, write_bytes
from ganformer_cli.visualization.grids import Images

JPEG_QUALITY = 95
#: Name of a PNG's text chunk, and what the EXIF "Software" of the others says.
NAME = "ganformer"
#: EXIF tags.
_DESCRIPTION, _SOFTWARE = 0x010E, 0x0131
#: What a file says of itself is shorter than this.
_LONGEST = 1 << 16


def encode(image: Images, format: str, about: Mapping[str, Any] | None = None) -> bytes:
    """A picture uint8 ``[3, H, W]`` as the content of a file.

    Args:
        image: the picture.
        format: ``png``; ``jpg``, quality 95 in full colour (4:4:4); or ``webp``, lossless.
        about: what it says of itself; None says only that ganformer made it.
    """
    stream = io.BytesIO()
    pixels = PIL.Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
    text = description(about or {})
    if format == "png":
        chunks = PIL.PngImagePlugin.PngInfo()
        chunks.add_text(NAME, text)
        pixels.save(stream, "PNG", pnginfo=chunks)
    elif format == "jpg":
        pixels.save(stream, "JPEG", quality=JPEG_QUALITY, subsampling="4:4:4", exif=exif(text))
    elif format == "webp":
        pixels.save(stream, "WEBP", lossless=True, exif=exif(text))
    else:
        raise ValueError(f"no format {format!r}")
    return stream.getvalue()


def description(about: Mapping[str, Any]) -> str:
    """``about`` as a line of ASCII."""
    return json.dumps(about, sort_keys=True)


def exif(text: str) -> PIL.Image.Exif:
    """EXIF with ``text`` as the description."""
    tags = PIL.Image.Exif()
    tags[_DESCRIPTION], tags[_SOFTWARE] = text, NAME
    return tags


def read_about(path: Path) -> dict[str, Any] | None:
    """What a picture or film says of itself; None if it is none of ganformer's, or cannot be read.

    Of pictures only the head is read.
    """
    try:
        text = _film_text(read_regular(path)) if path.suffix == ".mp4" else _image_text(path)
        about = parse_json(text, str(path)) if text is not None else None
    except (GanformerError, OSError, ValueError, SyntaxError, RecursionError, PIL.Image.DecompressionBombError):
        return None
    return about if isinstance(about, dict) else None


def _image_text(path: Path) -> str | None:
    with open_regular(path) as stream, PIL.Image.open(stream) as image:
        if image.format == "PNG":
            found = image.info.get(NAME)
        elif image.format == "GIF":
            found = _film_text(image.info.get("comment", b""))
        else:
            tags = image.getexif()
            found = tags.get(_DESCRIPTION) if tags.get(_SOFTWARE) == NAME else None
    return found if isinstance(found, str) else None


def _film_text(data: bytes) -> str | None:
    """The JSON object that follows our name."""
    _, name, rest = data.partition(f"{NAME} ".encode())
    if not name:
        return None
    text = rest[:_LONGEST].decode("ascii", "replace")
    _, end = json.JSONDecoder().raw_decode(text)
    return text[:end]


def save_png(path: Path, image: Images, about: Mapping[str, Any] | None = None) -> None:
    """Write uint8 ``[3, H, W]`` as a PNG, whole or not at all; ``about`` as for ``encode``.

    Raises:
        OutputError: the place cannot be written to.
    """
    write_bytes(path, encode(image, "png", about))


def taken(path: Path, why: str) -> str:
    """What to say of a file that is in the way."""
    return f"{path}: {why}; choose another --output-dir, or say --overwrite to replace it"
