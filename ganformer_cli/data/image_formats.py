"""Which image formats can be read here: Pillow's, and HEIC/HEIF where ``pillow-heif`` is installed."""

from __future__ import annotations

import re
from functools import cache

from PIL import Image

HEIF_INSTALL = 'pip install "ganformer[heif]"'

# Formats that Pillow hands to other programs or libraries, or cannot read by itself.
_REFUSED = {"EPS", "WMF", "HDF5", "BUFR", "GRIB", "MPEG"}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_BMP_HEADERS = {12, 40, 52, 56, 64, 108, 124}


@cache
def readable_formats() -> tuple[str, ...]:
    """Names of the formats that are read, as Pillow knows them. The same in every worker process."""
    Image.init()
    _register_heif()
    return tuple(sorted(set(Image.OPEN) - _REFUSED))


@cache
def readable_suffixes() -> frozenset[str]:
    """File suffixes of those formats: lower case, with the dot."""
    formats = readable_formats()
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in formats)


def _register_heif() -> None:
    """Let Pillow read HEIC and HEIF; and AVIF, where Pillow cannot and an older pillow-heif can."""
    try:
        import pillow_heif
    except Exception:  # not installed, or its native library does not load: then these files are reported as not read
        return
    pillow_heif.register_heif_opener()
    if "AVIF" not in Image.OPEN and hasattr(pillow_heif, "register_avif_opener"):
        pillow_heif.register_avif_opener()


def start_format(start: bytes) -> str | None:
    """The format of an image file, as Pillow calls it, by its first bytes; None for everything else."""
    if known := next((name for magic, name in _MAGIC.items() if start.startswith(magic)), None):
        return known
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WEBP"
    if start[4:8] == b"ftyp":
        brand = start[8:12]
        return "AVIF" if brand in (b"avif", b"avis") else "HEIF" if brand in _HEIF_BRANDS else None
    if start[:2] == b"BM" and int.from_bytes(start[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    return "PPM" if re.match(rb"P[1-6]\s+(#[^\n]*\n\s*)*\d+\s+\d+\s", start) else None


_MAGIC = {
    b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG", b"GIF87a": "GIF", b"GIF89a": "GIF", b"II*\0": "TIFF",
    b"MM\0*": "TIFF", b"II+\0": "TIFF", b"MM\0+": "TIFF", b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG2000",
    b"\xff\x4f\xff\x51": "JPEG2000", b"8BPS\0\1": "PSD", b"qoif": "QOI",
}  # fmt: skip
