"""How an image of any kind becomes an upright RGB image, cropped and shrunk to a wanted size.

Everything that opens images decodes them here: ``prepare``, the folders and zips that ``train`` and ``eval`` read, and
arrays. So the same file has the same pixels whatever reads it.
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from ganformer_cli.data.image_formats import HEIF_INSTALL, readable_formats, start_format

MAX_PIXELS = 90_000_000  # an image that unpacks to more is refused: 270 MB, and a small file can claim it

TOO_SMALL = "too small"  # how that reason begins
_TOO_LARGE = f"too large to unpack safely: {{}}at most {MAX_PIXELS // 1_000_000} million pixels; shrink it first"

ImageArray = npt.NDArray[np.uint8]
Color = tuple[int, int, int]
ValueRange = tuple[float, float]
WHITE: Color = (255, 255, 255)
Fit = Literal["crop", "pad", "stretch"]
FITS: tuple[Fit, ...] = get_args(Fit)


@dataclass(frozen=True)
class Decoding:
    """What a file does not say of itself."""

    background: Color = WHITE  # under transparent parts
    value_range: ValueRange | None = None  # of more than 8 bits: what becomes 0 and 255; None: 0 to 65535, or 0 to 1


class UnusableImageError(Exception):
    """Why an image cannot be used: a few words that follow its name."""


def open_image(data: bytes) -> Image.Image:
    """The first frame of an image file, not unpacked yet.

    Raises:
        UnusableImageError: it is no image, or too large to unpack.
    """
    if not data:
        raise UnusableImageError("an empty file")
    try:
        image = Image.open(io.BytesIO(data), formats=readable_formats())
    except UnidentifiedImageError:
        known = start_format(data[:64])
        if known == "HEIF":  # whatever it is called
            raise UnusableImageError(f"HEIC (to read it, {HEIF_INSTALL})") from None
        raise UnusableImageError("not an image of a known format") from None
    except Image.DecompressionBombError:
        raise UnusableImageError(_TOO_LARGE.format("")) from None
    except Exception as error:  # a damaged file can break a decoder in any way
        raise UnusableImageError(f"damaged: {_words(error)}") from error
    _check_size(image.width, image.height)
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else ""
    image.info[_FILE_MODE] = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return image


def decode(data: bytes, decoding: Decoding, size: tuple[int, int] | None = None) -> Image.Image:
    """The first frame of an image file: upright, RGB.

    Args:
        data: the file.
        decoding: what it does not say of itself.
        size: (height, width) to crop and shrink it to, see :func:`fit`; None keeps its own.

    Raises:
        UnusableImageError: it is no image, damaged, too large to unpack, too small, or has no meaning in RGB.
    """
    with open_image(data) as image:
        height, width = upright_size(image) if size is None else size
        return fit(image, height, width, decoding.background, decoding.value_range)


def decode_array(
    pixels: npt.NDArray[Any], decoding: Decoding, size: tuple[int, int] | None = None
) -> Image.Image:  # fmt: skip
    """The same of an array, see :func:`from_pixels`.

    Raises:
        UnusableImageError: it is no image.
    """
    image = from_pixels(pixels, decoding.value_range)
    height, width = (image.height, image.width) if size is None else size
    return fit(image, height, width, decoding.background)


def from_pixels(pixels: npt.NDArray[Any], value_range: ValueRange | None = None) -> Image.Image:
    """An image from an array, [height, width, 1, 3 or 4]: grey, RGB, RGB and transparency.

    uint8 is taken as it is, uint16 becomes ``round(value / 257)``, floating point from 0 to 1 ``round(value * 255)``;
    of both, ``value_range`` says what becomes 0 and 255 instead.

    Raises:
        UnusableImageError: they have another type or shape, lie outside the range, or are too many.
    """
    kind = pixels.dtype.kind
    known = kind == "f" or (kind == "u" and pixels.dtype.itemsize <= 2)
    if not known or pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4):
        raise UnusableImageError(
            f"an array {pixels.dtype} {list(pixels.shape)}, not [height, width, 1, 3 or 4] of uint8, uint16 or "
            "floating point"
        )
    height, width, channels = pixels.shape
    _check_size(width, height)
    if kind == "f" and value_range is None:
        low, high = float(pixels.min()), float(pixels.max())
        if not (low >= 0 and high <= 1):  # so written, nan fails too
            raise UnusableImageError(f"values from {low:g} to {high:g}, where 0 to 1 is wanted")
        pixels = np.rint(pixels.astype(np.float64) * 255).astype(np.uint8)
    elif pixels.dtype != np.uint8:
        pixels = _as_8_bits(pixels, value_range)
    return Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if channels == 1 else pixels))


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(height, width) of an image as it is meant to be seen: its EXIF orientation may swap the sides."""
    try:
        turned = image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    except Exception:  # damaged EXIF data are no reason to lose an image
        turned = False
    return (image.width, image.height) if turned else (image.height, image.width)


def has_several_frames(image: Image.Image) -> bool:
    """Whether an image is animated, or has several pages: the first is taken. It may be loaded already."""
    if image.format not in _SEQUENCES:
        return False
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # a damaged file can break a decoder in any way
        return False


def wide_values(image: Image.Image) -> tuple[float, float, float] | None:
    """Lowest and highest value of an image with more than 8 bits, and the highest that it could have; None of others.

    Of 16-bit colour the high bytes are known only.
    """
    if is_deep_color(image):
        bands = [band for band in image.getextrema()[:3] if isinstance(band, tuple)]
        return min(band[0] for band in bands) * 256.0, max(band[1] for band in bands) * 256.0 + 255, 65535.0
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image)
        return float(values.min()), float(values.max()), 1.0 if image.mode == "F" else 65535.0
    return None


def crop_size(size: tuple[int, int], wanted: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the largest part of an image of ``size`` that has the proportions of ``wanted``."""
    (height, width), (tall, wide) = size, wanted
    if width * tall > height * wide:
        return height, max(1, round(height * wide / tall))
    return max(1, round(width * tall / wide)), width


def reach(size: tuple[int, int], proportions: tuple[int, int], fit: Fit = "crop") -> int:
    """The longer side up to which an image of ``size`` (height, width) need not be enlarged, see :func:`fit`."""
    if fit != "pad":
        return max(crop_size(size, proportions))
    (height, width), (tall, wide) = size, proportions
    return max(height, width, round(width * tall / wide), round(height * wide / tall))


def is_large_enough(size: tuple[int, int], wanted: tuple[int, int], fit: Fit = "crop") -> bool:
    """Whether an image of ``size`` (height, width) can be brought to ``wanted`` and nothing of it is enlarged."""
    if fit == "pad":
        return size[0] >= wanted[0] or size[1] >= wanted[1]
    height, width = crop_size(size, wanted) if fit == "crop" else size
    return height >= wanted[0] and width >= wanted[1]


def fit(
    image: Image.Image,
    height: int,
    width: int,
    background: Color,
    value_range: ValueRange | None = None,
    fit: Fit = "crop",
) -> Image.Image:
    """Turn an image upright and bring it to ``height`` by ``width``.

    An image that has this size already keeps its pixels. Otherwise the filter is Lanczos, in 8 bits.

    Args:
        fit: ``crop`` takes the largest part in the middle that has the proportions; ``pad`` takes all of it and fills
            what is left at the sides with the background; ``stretch`` changes its proportions.

    Returns:
        mode RGB, ``width`` by ``height``, without metadata.

    Raises:
        UnusableImageError: the image is damaged, too small, or of a kind that has no meaning in RGB.
    """
    try:
        image.load()
        with contextlib.suppress(Exception):  # damaged EXIF data are no reason to lose an image
            ImageOps.exif_transpose(image, in_place=True)
    except Exception as error:  # a damaged file can break a decoder in any way
        raise UnusableImageError(f"damaged: {_words(error)}") from error
    if not is_large_enough((image.height, image.width), (height, width), fit):
        raise UnusableImageError(f"{TOO_SMALL}: {image.width}x{image.height} px where {width}x{height} are needed")
    tall, wide = crop_size((image.height, image.width), (height, width))
    if fit == "crop" and (tall, wide) != (image.height, image.width):  # of a large image every copy takes time
        left, top = (image.width - wide) // 2, (image.height - tall) // 2
        image = image.crop((left, top, left + wide, top + tall))
    image = to_rgb(image, background, value_range)
    size = (width, height)
    if fit == "pad":
        scale = min(width / image.width, height / image.height)
        size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    # A copy is independent of the file.
    image = image.copy() if image.size == size else image.resize(size, Image.Resampling.LANCZOS)
    if size != (width, height):
        canvas = Image.new("RGB", (width, height), background)
        canvas.paste(image, ((width - size[0]) // 2, (height - size[1]) // 2))
        image = canvas
    image.info = {}
    return image


def to_rgb(image: Image.Image, background: Color, value_range: ValueRange | None = None) -> Image.Image:
    """An image of any mode as RGB.

    Transparent parts show ``background``. 16-bit grey becomes ``round(value / 257)``; of 16-bit colour Pillow reads the
    high byte. Colour profiles are not applied.

    Args:
        background: under transparent parts.
        value_range: of grey with more than 8 bits, what becomes 0 and 255.

    Raises:
        UnusableImageError: numbers without a known range, or colours that Pillow cannot convert.
    """
    if value_range is not None and is_deep_color(image):
        raise UnusableImageError(
            "16-bit colour, of which only the high bytes are read: --value-range cannot be applied"
        )
    if image.mode.startswith(("I", "F")):
        image = _grey_as_8_bits(image, value_range)
    try:
        if image.has_transparency_data:
            straight = image.convert("LA") if image.mode == "La" else _with_8_bit_key(image)
            canvas = Image.new("RGBA", image.size, (*background, 255))
            canvas.alpha_composite(straight.convert("RGBA"))
            image = canvas
        return image if image.mode == "RGB" else image.convert("RGB")
    except ValueError as error:
        raise UnusableImageError(f"mode {image.mode}: {_words(error)}") from error


def file_mode(image: Image.Image) -> str:
    """How the file of an opened image holds its pixels, in Pillow's words, such as ``RGB;16B``; empty if not said.

    Pillow forgets it when it loads the pixels.
    """
    mode = image.info.get(_FILE_MODE, "")
    return mode if isinstance(mode, str) else ""


def is_deep_color(image: Image.Image) -> bool:
    """Whether the file has 16-bit colour, of which the image has the upper 8 bits only."""
    return ";16" in file_mode(image) and image.mode in ("RGB", "RGBA", "RGBX", "CMYK")


def _grey_as_8_bits(image: Image.Image, value_range: ValueRange | None) -> Image.Image:
    """Mode L of whole numbers with more than 8 bits (modes I and I;16), or of floating point (mode F)."""
    values = np.asarray(image)
    is_float = image.mode == "F"
    if value_range is None and not (values.min() >= 0 and values.max() <= (1 if is_float else 65535)):  # nan fails too
        if is_float:
            raise UnusableImageError(
                "floating-point numbers outside 0 to 1; say what they mean with --value-range LOW,HIGH, "
                "or convert it to 8 or 16 bits"
            )
        raise UnusableImageError(
            "32-bit numbers, whose range is not known; say it with --value-range LOW,HIGH, "
            "or convert it to 8 or 16 bits"
        )
    if value_range is None and is_float:
        grey = np.floor(values * 255 + 0.5).astype(np.uint8)
    else:
        grey = _as_8_bits(values, value_range)
    key = image.info.get("transparency")
    if not isinstance(key, int):
        return Image.fromarray(grey)
    # A PNG of 16-bit grey may name one value that is transparent; in 8 bits its neighbours would be, too.
    return Image.fromarray(np.stack([grey, np.where(values == key, 0, 255).astype(np.uint8)], axis=2), "LA")


def _as_8_bits(values: npt.NDArray[Any], value_range: ValueRange | None) -> npt.NDArray[np.uint8]:
    """Numbers with more than 8 bits brought from ``value_range``, or else from 0 to 65535, to 0 to 255, rounded."""
    if value_range is None:
        return ((values.astype(np.int64) + 128) // 257).astype(np.uint8)
    (low, high), least, most = value_range, float(values.min()), float(values.max())
    if not (low <= least and most <= high):
        raise UnusableImageError(f"values outside --value-range {low:g},{high:g}: from {least:g} to {most:g}")
    return np.floor((values.astype(np.float64) - low) * (255 / (high - low)) + 0.5).astype(np.uint8)


def _with_8_bit_key(image: Image.Image) -> Image.Image:
    """The image with its transparent colour, if it names one, written as its pixels are.

    A PNG gives that colour in its own number of bits, Pillow the pixels in 8.
    """
    key = image.info.get("transparency")
    if isinstance(key, tuple) and is_deep_color(image):
        key = tuple(part >> 8 for part in key)
    elif isinstance(key, int) and file_mode(image) in _STEPS:
        key *= _STEPS[file_mode(image)]
    else:
        return image
    image = image.copy()
    image.info["transparency"] = key
    return image


_STEPS = {"L;2": 85, "L;4": 17}  # between the greys of 2 and 4 bits, in 8
# Formats whose further images are frames or pages, and not layers, sizes, or what cameras add.
_SEQUENCES = {"GIF", "PNG", "WEBP", "AVIF", "TIFF", "FLI", "HEIF"}
_FILE_MODE = "file mode"  # where open_image notes it
_ORIENTATION = 0x0112  # the EXIF tag


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UnusableImageError(_TOO_LARGE.format(f"{width}x{height} px, "))
    if min(width, height) < 1:
        raise UnusableImageError("it has no pixels")


def _words(error: Exception) -> str:
    """An error of Pillow as a few words that are the same on every run."""
    return str(error).split(" <", 1)[0].split(" object at ", 1)[0] or type(error).__name__
