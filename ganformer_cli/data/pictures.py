"""One picture of any kind, turned into an upright RGB picture of a wanted size."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from ganformer_cli.data.stores import readable_formats

MOST_PIXELS = 90_000_000  # a picture that unpacks to more is refused: 270 MB, and a small file can claim it

TOO_SMALL = "too small"  # how that reason begins

Color = tuple[int, int, int]


class UnusableError(Exception):
    """Why a picture cannot be used: a few words that follow its name."""


def open_picture(data: bytes) -> Image.Image:
    """The first frame of a picture file, not unpacked yet.

    Raises:
        UnusableError: it is no picture, or too large to unpack.
    """
    if not data:
        raise UnusableError("an empty file")
    try:
        image = Image.open(io.BytesIO(data), formats=readable_formats())
    except UnidentifiedImageError:
        raise UnusableError("not a picture of a known format") from None
    except Image.DecompressionBombError:
        raise UnusableError(_too_many_pixels("")) from None
    except Exception as error:  # a damaged file can break a decoder in any way
        raise UnusableError(f"damaged: {_words(error)}") from error
    if image.width * image.height > MOST_PIXELS:
        raise UnusableError(_too_many_pixels(f"{image.width}x{image.height} px, "))
    if min(image.size) < 1:
        raise UnusableError("it has no pixels")
    return image


def from_pixels(pixels: npt.NDArray[np.uint8]) -> Image.Image:
    """A picture that a source holds as numbers, uint8 [height, width, 1, 3 or 4]: grey, RGB, RGB and transparency.

    Raises:
        UnusableError: they have another type or shape, or are too many.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4):
        raise UnusableError(f"an array {pixels.dtype} {list(pixels.shape)}, not uint8 [height, width, 1, 3 or 4]")
    height, width, channels = pixels.shape
    if height * width > MOST_PIXELS:
        raise UnusableError(_too_many_pixels(f"{width}x{height} px, "))
    if min(height, width) < 1:
        raise UnusableError("it has no pixels")
    return Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if channels == 1 else pixels))


def shown_size(image: Image.Image) -> tuple[int, int]:
    """(height, width) of a picture as it is meant to be seen: its EXIF orientation may swap the sides."""
    try:
        turned = image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    except Exception:  # damaged EXIF data are no reason to lose a picture
        turned = False
    return (image.width, image.height) if turned else (image.height, image.width)


def crop_size(size: tuple[int, int], wanted: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the largest part of a picture of ``size`` that has the proportions of ``wanted``."""
    (height, width), (tall, wide) = size, wanted
    if width * tall > height * wide:
        return height, max(1, round(height * wide / tall))
    return max(1, round(width * tall / wide)), width


def fit(image: Image.Image, height: int, width: int, background: Color) -> Image.Image:
    """Turn a picture upright, crop its middle to the proportions of ``height`` by ``width``, and shrink it to them.

    A picture that has this size already keeps its pixels. Otherwise the filter is Lanczos, in 8 bits.

    Returns:
        mode RGB, ``width`` by ``height``, without metadata.

    Raises:
        UnusableError: the picture is damaged, too small, or of a kind that has no meaning in RGB.
    """
    try:
        image.load()
        _turn_upright(image)
    except Exception as error:  # a damaged file can break a decoder in any way
        raise UnusableError(f"damaged: {_words(error)}") from error
    tall, wide = crop_size((image.height, image.width), (height, width))
    if tall < height or wide < width:
        raise UnusableError(f"{TOO_SMALL}: {image.width}x{image.height} px where {width}x{height} are needed")
    left, top = (image.width - wide) // 2, (image.height - tall) // 2
    if (tall, wide) != (image.height, image.width):  # of a large picture every copy takes time
        image = image.crop((left, top, left + wide, top + tall))
    image = to_rgb(image, background)
    fits = image.size == (width, height)  # a copy has nothing to do with the file any more
    image = image.copy() if fits else image.resize((width, height), Image.Resampling.LANCZOS)
    image.info = {}
    return image


def to_rgb(image: Image.Image, background: Color) -> Image.Image:
    """A picture of any mode as RGB.

    Transparent parts show ``background``. 16-bit grey becomes ``round(value / 257)``. Colour profiles are not applied.

    Raises:
        UnusableError: numbers without a known range, or colours that Pillow cannot convert.
    """
    if image.mode.startswith("I"):  # 16 bits, which some formats deliver as 32
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise UnusableError("32-bit numbers, whose range is not known; convert it to 8 or 16 bits")
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    elif image.mode == "F":
        values = np.asarray(image)
        if not (values.min() >= 0 and values.max() <= 1):  # so written, nan fails too
            raise UnusableError("floating-point numbers outside 0 to 1; convert it to 8 or 16 bits")
        image = Image.fromarray(np.floor(values * 255 + 0.5).astype(np.uint8))
    try:
        if image.has_transparency_data:
            straight = image.convert("LA") if image.mode == "La" else image
            canvas = Image.new("RGBA", image.size, (*background, 255))
            canvas.alpha_composite(straight.convert("RGBA"))
            image = canvas
        return image if image.mode == "RGB" else image.convert("RGB")
    except ValueError as error:
        raise UnusableError(f"mode {image.mode}: {_words(error)}") from error


_ORIENTATION = 0x0112  # the EXIF tag


def _turn_upright(image: Image.Image) -> None:
    with contextlib.suppress(Exception):  # damaged EXIF data are no reason to lose a picture
        ImageOps.exif_transpose(image, in_place=True)


def _too_many_pixels(size: str) -> str:
    return f"too large to unpack safely: {size}at most {MOST_PIXELS // 1_000_000} million pixels; shrink it first"


def _words(error: Exception) -> str:
    """An error of Pillow as a few words that are the same on every run."""
    return str(error).split(" <", 1)[0].split(" object at ", 1)[0] or type(error).__name__
