"""Image files with metadata: how an image was made, as a JSON object.

In a PNG it is a text chunk, in JPEG and WebP the EXIF image description, in a GIF or MP4 the comment.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
import PIL.PngImagePlugin

from ganformer_cli.errors import ConfigError, GanformerError
from ganformer_cli.files import open_regular, parse_json, read_regular, write_bytes

#: uint8 RGB: ``[3, H, W]`` of one image, ``[N, 3, H, W]`` of several.
Images = npt.NDArray[np.uint8]

JPEG_QUALITY = 95
#: Key of a PNG's text chunk, and the EXIF "Software" of the other formats.
METADATA_TAG = "ganformer"
#: EXIF tags.
_DESCRIPTION, _SOFTWARE = 0x010E, 0x0131
#: Longest metadata, in bytes.
_MAX_LENGTH = 1 << 16


def encode_image(image: Images, format: str, metadata: Mapping[str, Any] | None = None) -> bytes:
    """An image, uint8 ``[3, H, W]``, as the content of a file.

    Args:
        format: ``png``; ``jpg``, quality 95 in full colour (4:4:4); or ``webp``, lossless.
        metadata: how the image was made; None is an empty object.
    """
    stream = io.BytesIO()
    pixels = PIL.Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
    text = metadata_text(metadata or {})
    if format == "png":
        chunks = PIL.PngImagePlugin.PngInfo()
        chunks.add_text(METADATA_TAG, text)
        pixels.save(stream, "PNG", pnginfo=chunks)
    elif format == "jpg":
        pixels.save(stream, "JPEG", quality=JPEG_QUALITY, subsampling="4:4:4", exif=exif(text))
    elif format == "webp":
        pixels.save(stream, "WEBP", lossless=True, exif=exif(text))
    else:
        raise ValueError(f"no format {format!r}")
    return stream.getvalue()


def metadata_text(metadata: Mapping[str, Any]) -> str:
    """Metadata as one line of ASCII."""
    return json.dumps(metadata, sort_keys=True)


def exif(text: str) -> PIL.Image.Exif:
    """EXIF with ``text`` as the description."""
    tags = PIL.Image.Exif()
    tags[_DESCRIPTION], tags[_SOFTWARE] = text, METADATA_TAG
    return tags


def read_metadata(path: Path) -> dict[str, Any] | None:
    """The metadata of an image or film; None if ganformer did not write it, or it cannot be read.

    Of an image only the head is read.
    """
    try:
        text = _film_text(read_regular(path)) if path.suffix == ".mp4" else _image_text(path)
        metadata = parse_json(text, str(path)) if text is not None else None
    except (GanformerError, OSError, ValueError, SyntaxError, RecursionError, PIL.Image.DecompressionBombError):
        return None
    return metadata if isinstance(metadata, dict) else None


def _image_text(path: Path) -> str | None:
    with open_regular(path) as stream, PIL.Image.open(stream) as image:
        if image.format == "PNG":
            found = image.info.get(METADATA_TAG)
        elif image.format == "GIF":
            found = _film_text(image.info.get("comment", b""))
        else:
            tags = image.getexif()
            found = tags.get(_DESCRIPTION) if tags.get(_SOFTWARE) == METADATA_TAG else None
    return found if isinstance(found, str) else None


def _film_text(data: bytes) -> str | None:
    """The JSON object that follows our name."""
    _, name, rest = data.partition(f"{METADATA_TAG} ".encode())
    if not name:
        return None
    text = rest[:_MAX_LENGTH].decode("ascii", "replace")
    _, end = json.JSONDecoder().raw_decode(text)
    return text[:end]


def save_png(path: Path, image: Images, metadata: Mapping[str, Any] | None = None) -> None:
    """Write uint8 ``[3, H, W]`` as a PNG, whole or not at all; ``metadata`` as for ``encode_image``.

    Raises:
        OutputError: the place cannot be written to.
    """
    write_bytes(path, encode_image(image, "png", metadata))


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
        raise ConfigError(f"--ratio {ratio} leaves nothing of an image of {width}x{height}; choose one nearer to 1")
    top, left = (height - new_height) // 2, (width - new_width) // 2
    return image[..., top : top + new_height, left : left + new_width]
