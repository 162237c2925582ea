"""Which image formats can be read here: Pillow's, and HEIC/HEIF where ``pillow-heif`` is installed."""

from __future__ import annotations

from functools import cache

from PIL import Image

# Formats that Pillow hands to other programs or libraries, or cannot read by itself.
_REFUSED = {"EPS", "WMF", "HDF5", "BUFR", "GRIB", "MPEG"}


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
    return frozenset(suffix for suffix, form in Image.registered_extensions().items() if form in formats)


def _register_heif() -> None:
    """Let Pillow read HEIC and HEIF; and AVIF, where Pillow cannot and an older pillow-heif can."""
    try:
        import pillow_heif
    except Exception:  # not installed, or its native library does not load: then these files are reported as not read
        return
    pillow_heif.register_heif_opener()
    if "AVIF" not in Image.OPEN and hasattr(pillow_heif, "register_avif_opener"):
        pillow_heif.register_avif_opener()
