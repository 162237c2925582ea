"""Images of every kind become RGB with the right colours, the right way up, and the right part of them."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from ganformer_cli.data import images
from ganformer_cli.data.images import (
    FITS,
    Fit,
    UnusableImageError,
    crop_size,
    fit,
    is_large_enough,
    open_image,
    reach,
    to_rgb,
    upright_size,
)  # fmt: skip

WHITE = (255, 255, 255)
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def claiming(width: int, height: int) -> bytes:
    """A PNG of one pixel whose header says that it has this size."""
    data = bytearray(encoded(Image.new("1", (1, 1))))
    struct.pack_into(">II", data, 16, width, height)
    struct.pack_into(">I", data, 29, zlib.crc32(bytes(data[12:29])))
    return bytes(data)


def pixel(image: Image.Image, background: tuple[int, int, int] = WHITE) -> tuple[int, ...]:
    """The first pixel after a trip through a PNG file, if PNG knows the mode."""
    rgb = to_rgb(image, background)
    assert rgb.mode == "RGB"
    return tuple(np.asarray(rgb)[0, 0].tolist())


def palette(transparency: object = None) -> Image.Image:
    image = Image.new("P", (2, 2), 1)
    image.putpalette([9, 9, 9, 10, 20, 30])
    if transparency is not None:
        image.info["transparency"] = transparency
    return image


def with_info(image: Image.Image, transparency: object) -> Image.Image:
    image.info["transparency"] = transparency
    return image


@pytest.mark.parametrize(
    ("image", "color"),
    [
        (Image.new("RGB", (2, 2), (10, 20, 30)), (10, 20, 30)),
        (Image.new("L", (2, 2), 77), (77, 77, 77)),
        (Image.new("1", (2, 2), 1), WHITE),
        (Image.new("1", (2, 2), 0), (0, 0, 0)),
        (Image.new("RGBA", (2, 2), (10, 20, 30, 255)), (10, 20, 30)),
        (Image.new("RGBA", (2, 2), (10, 20, 30, 0)), WHITE),
        (Image.new("RGBA", (2, 2), (0, 0, 0, 51)), (204, 204, 204)),
        (Image.new("RGBA", (2, 2), (0, 0, 0, 128)).convert("RGBa"), (127, 127, 127)),
        (Image.new("LA", (2, 2), (77, 255)), (77, 77, 77)),
        (Image.new("LA", (2, 2), (77, 0)), WHITE),
        (Image.new("LA", (2, 2), (0, 51)), (204, 204, 204)),
        (palette(), (10, 20, 30)),
        (palette(transparency=1), WHITE),
        (palette(transparency=0), (10, 20, 30)),
        (palette(transparency=bytes([255, 0])), WHITE),
        (palette().convert("PA"), (10, 20, 30)),
        (with_info(Image.new("RGB", (2, 2), (10, 20, 30)), (10, 20, 30)), WHITE),
        (with_info(Image.new("RGB", (2, 2), (10, 20, 30)), (10, 20, 31)), (10, 20, 30)),
        (with_info(Image.new("L", (2, 2), 77), 77), WHITE),
        (Image.new("CMYK", (2, 2), (0, 255, 255, 0)), RED),
        (Image.new("CMYK", (2, 2), (0, 0, 0, 255)), (0, 0, 0)),
        (Image.new("YCbCr", (2, 2), (77, 128, 128)), (77, 77, 77)),
        (Image.new("HSV", (2, 2), (0, 255, 255)), RED),
        (Image.new("F", (2, 2), 0.2), (51, 51, 51)),
        (Image.new("I", (2, 2), 65535), WHITE),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else None,
)
def test_modes(image: Image.Image, color: tuple[int, int, int]) -> None:
    assert pixel(image) == color


def test_lab() -> None:
    assert min(pixel(Image.new("LAB", (2, 2), (255, 128, 128)))) >= 253


def test_transparent_parts_show_the_background() -> None:
    assert pixel(Image.new("RGBA", (2, 2), (0, 0, 0, 0)), background=(1, 2, 3)) == (1, 2, 3)
    assert pixel(Image.new("LA", (2, 2), (200, 0)), background=(1, 2, 3)) == (1, 2, 3)
    assert pixel(palette(transparency=1), background=(1, 2, 3)) == (1, 2, 3)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_rounded_not_cut(format: str) -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    if format == "PPM":
        data = b"P5 256 256 65535\n" + values.astype(">u2").tobytes()
    else:
        data = encoded(Image.fromarray(values), format)
    image = open_image(data)
    got = np.asarray(fit(image, 256, 256, WHITE))
    expected = np.floor(values.astype(np.float64) * 255 / 65535 + 0.5).astype(np.uint8)
    assert np.array_equal(got, np.repeat(expected[:, :, None], 3, axis=2))


def test_16_bit_grey_of_the_other_byte_order() -> None:
    image = Image.frombytes("I;16B", (2, 2), struct.pack(">4H", 0, 257, 32896, 65535))
    assert np.asarray(to_rgb(image, WHITE))[:, :, 0].ravel().tolist() == [0, 1, 128, 255]


def test_16_bit_colour() -> None:
    rows = b"".join(b"\0" + struct.pack(">6H", 0, 32896, 65535, 65535, 0, 257) for _ in range(2))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert np.asarray(fit(open_image(data), 2, 2, WHITE))[1].tolist() == [[0, 128, 255], [255, 0, 1]]


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (Image.new("I", (2, 2), 70000), "32-bit numbers"),
        (Image.new("I", (2, 2), -1), "32-bit numbers"),
        (Image.new("F", (2, 2), 2.0), "floating-point"),
        (Image.new("F", (2, 2), float("nan")), "floating-point"),
    ],
)
def test_numbers_without_a_meaning_are_refused(image: Image.Image, words: str) -> None:
    with pytest.raises(UnusableImageError, match=words):
        to_rgb(image, WHITE)


# An image of four quarters, seen upright: red green / blue white.
QUARTERS = np.array([[RED, GREEN], [BLUE, WHITE]], np.uint8).repeat(8, axis=0).repeat(8, axis=1)
# How it must be stored for each EXIF orientation to bring it upright again.
STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", sorted(STORED))
@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_exif_orientation(orientation: int, format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95, "subsampling": 0} if format == "JPEG" else {"lossless": True} if format == "WEBP" else {}
    image = Image.fromarray(np.ascontiguousarray(STORED[orientation](QUARTERS)))
    picture = open_image(encoded(image, format, exif=exif, **options))
    assert np.abs(np.asarray(fit(picture, 16, 16, WHITE)).astype(int) - QUARTERS).max() < 40


def test_orientation_swaps_the_sides_before_cropping() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = open_image(encoded(Image.new("RGB", (40, 20)), exif=exif))
    assert upright_size(picture) == (40, 20)
    assert fit(picture, 40, 20, WHITE).size == (20, 40)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_does_not_lose_a_picture() -> None:
    data = encoded(Image.new("RGB", (20, 20), RED), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff garbage")
    picture = open_image(data)
    assert upright_size(picture) == (20, 20)
    assert fit(picture, 16, 16, WHITE).size == (16, 16)


@pytest.mark.parametrize(
    ("size", "wanted", "part"),
    [
        ((100, 100), (64, 64), (100, 100)),
        ((100, 60), (64, 64), (60, 60)),
        ((60, 100), (64, 64), (60, 60)),
        ((60, 100), (32, 64), (50, 100)),
        ((100, 60), (32, 64), (30, 60)),
        ((320, 480), (192, 256), (320, 427)),
        ((45, 64), (45, 64), (45, 64)),
        ((1, 1000), (8, 64), (1, 8)),
    ],
)
def test_crop_is_the_largest_part_of_the_wanted_proportions(
    size: tuple[int, int], wanted: tuple[int, int], part: tuple[int, int]
) -> None:
    assert crop_size(size, wanted) == part


@pytest.mark.parametrize(
    ("size", "shown"),
    [((16, 32), (8, 16)), ((32, 16), (16, 8)), ((16, 20), (13, 16)), ((16, 999), (1, 16)), ((16, 16), (16, 16))],
)
def test_padding_shows_all_of_an_image_in_the_middle(size: tuple[int, int], shown: tuple[int, int]) -> None:
    image = Image.new("RGB", (size[1], size[0]), RED)
    expected = np.full((16, 16, 3), (0, 0, 9), np.uint8)
    top, left = (16 - shown[0]) // 2, (16 - shown[1]) // 2
    expected[top : top + shown[0], left : left + shown[1]] = RED
    assert np.array_equal(np.asarray(fit(image, 16, 16, (0, 0, 9), fit="pad")), expected)


def test_stretching_keeps_every_corner() -> None:
    quarters = Image.fromarray(QUARTERS).resize((64, 16), Image.Resampling.NEAREST)
    assert np.array_equal(np.asarray(fit(quarters, 16, 16, WHITE, fit="stretch"))[::15, ::15], QUARTERS[::15, ::15])


@pytest.mark.parametrize(
    ("size", "fits"),
    [
        ((16, 16), ["crop", "pad", "stretch"]),
        ((15, 15), []),
        ((8, 16), ["pad"]),
        ((16, 8), ["pad"]),
        ((15, 30), ["pad"]),
    ],
)
def test_no_image_is_enlarged(size: tuple[int, int], fits: tuple[Fit, ...]) -> None:
    for how in FITS:
        with contextlib.nullcontext() if how in fits else pytest.raises(UnusableImageError, match="too small"):
            fit(Image.new("RGB", (size[1], size[0])), 16, 16, WHITE, fit=how)


@pytest.mark.parametrize("how", FITS)
@pytest.mark.parametrize("size", [(100, 60), (60, 100), (33, 500), (500, 33)])
@pytest.mark.parametrize("wanted", [(64, 64), (32, 64), (64, 40)])
def test_an_image_reaches_just_the_size_that_it_need_not_be_enlarged_to(
    size: tuple[int, int], wanted: tuple[int, int], how: Fit
) -> None:
    longest = reach(size, wanted, how)

    def large_enough(side: int) -> bool:
        return is_large_enough(size, (side * wanted[0] // max(wanted), side * wanted[1] // max(wanted)), how)

    assert large_enough(longest - 1)
    assert not large_enough(longest + 3)


@pytest.mark.parametrize(("width", "height"), [(20, 8), (8, 20), (21, 8), (8, 21)])
def test_crop_is_the_middle(width: int, height: int) -> None:
    ramp = np.arange(height * width, dtype=np.uint8).reshape(height, width)
    left, top = (width - 8) // 2, (height - 8) // 2
    got = np.asarray(fit(open_image(encoded(Image.fromarray(ramp))), 8, 8, WHITE))[:, :, 0]
    assert np.array_equal(got, ramp[top : top + 8, left : left + 8])


def test_a_picture_of_the_wanted_size_keeps_its_pixels() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    assert np.array_equal(np.asarray(fit(open_image(encoded(Image.fromarray(noise))), 24, 32, WHITE)), noise)


def test_shrinking_averages() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    small = np.asarray(fit(open_image(encoded(Image.fromarray(noise))), 16, 16, WHITE)).astype(float)
    means = noise.reshape(16, 16, 16, 16, 3).mean(axis=(1, 3))
    assert np.abs(small - means).mean() < 8  # a filter that skips pixels would be off by tens
    gray = Image.new("RGB", (999, 777), (12, 34, 56))
    assert np.asarray(fit(gray, 64, 64, WHITE)).reshape(-1, 3).tolist() == [[12, 34, 56]] * 4096


def test_nothing_of_the_old_file_stays_in_the_picture() -> None:
    image = Image.new("RGB", (16, 16))
    picture = open_image(encoded(image, "JPEG", comment=b"secret", dpi=(300, 300), icc_profile=b"x" * 200))
    assert fit(picture, 16, 16, WHITE).info == {}


def test_of_an_animation_the_first_frame_is_taken() -> None:
    frames = [Image.new("RGB", (16, 16), color) for color in (RED, GREEN)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.asarray(fit(open_image(data), 16, 16, WHITE))[0, 0].tolist() == list(RED)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "an empty file"),
        (b"just some words", "not an image"),
        (b"<!DOCTYPE html><html></html>", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (encoded(Image.new("RGB", (64, 64)))[:60], "damaged"),
        (encoded(Image.effect_noise((64, 64), 50), "JPEG")[:700], "damaged"),
        (encoded(Image.new("RGB", (15, 40))), "too small: 15x40 px where 16x16 are needed"),
        (claiming(10_000, 9_001), "too large to unpack"),
        (claiming(20_000, 20_000), "too large to unpack"),
    ],
    ids=range(9),
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_unusable_files_say_why(data: bytes, words: str) -> None:
    with pytest.raises(UnusableImageError, match=words) as caught:
        fit(open_image(data), 16, 16, WHITE)
    assert "object at" not in str(caught.value)


def test_the_limit_of_pixels_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 400)
    open_image(encoded(Image.new("L", (20, 20))))
    with pytest.raises(UnusableImageError, match="too large"):
        open_image(encoded(Image.new("L", (20, 21))))
