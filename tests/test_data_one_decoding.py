"""The same file has the same pixels, whatever reads it: ``prepare X``, ``eval --images X``, ``train --dataset X``."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from ganformer_cli.data.images import Decoding, decode
from ganformer_cli.data.loading.datasets import PreparedDataset, open_dataset
from ganformer_cli.data.prepare.pipeline import prepare
from ganformer_cli.errors import DataError
from ganformer_cli.metrics.sources import open_images


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def smooth(seed: int, height: int = 16, width: int = 16, channels: int = 3) -> np.ndarray:
    """An image without sharp edges, uint8 [height, width, channels]."""
    numbers = np.random.default_rng(seed).integers(0, 256, (3, 3, channels), dtype=np.uint8)
    planes = [Image.fromarray(numbers[:, :, i]) for i in range(channels)]
    return np.stack([np.asarray(each.resize((width, height), Image.Resampling.BILINEAR)) for each in planes], axis=2)


def deep(seed: int, height: int = 16, width: int = 16) -> np.ndarray:
    """uint16 [height, width]."""
    return smooth(seed, height, width, 1)[:, :, 0].astype(np.uint16) * 257


def saved(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def rgb(seed: int, **size: int) -> Image.Image:
    return Image.fromarray(smooth(seed, **size))


def rgba(seed: int) -> Image.Image:
    return Image.fromarray(smooth(seed, channels=4))


def rotated(seed: int, format: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = seed % 8 + 1
    return saved(rgb(seed, height=16, width=20), format, exif=exif)


def palette_with_transparency(seed: int, transparency: Any) -> bytes:
    return saved(rgb(seed).quantize(8), "PNG", transparency=transparency)


def png(width: int, height: int, depth: int, kind: int, rows: list[bytes], key: bytes = b"") -> bytes:
    """A PNG of these rows, with the transparent colour ``key``."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)),
            chunk(b"tRNS", key) if key else b"",
            chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))),
            chunk(b"IEND", b""),
        )
    )


def png_16(seed: int, kind: int, channels: int) -> bytes:
    values = smooth(seed, channels=channels).astype(">u2") * 257
    return png(16, 16, 16, kind, [row.tobytes() for row in values])


KINDS: dict[str, Callable[[int], bytes]] = {
    "rgb.png": lambda seed: saved(rgb(seed)),
    "grey.png": lambda seed: saved(rgb(seed).convert("L")),
    "one-bit.png": lambda seed: saved(rgb(seed).convert("1")),
    "rgba.png": lambda seed: saved(rgba(seed)),
    "rgba.webp": lambda seed: saved(rgba(seed), "WEBP", lossless=True),
    "rgba.avif": lambda seed: saved(rgba(seed), "AVIF"),
    "grey-alpha.png": lambda seed: saved(rgba(seed).convert("LA")),
    "16-bit-grey.png": lambda seed: saved(Image.fromarray(deep(seed))),
    "16-bit-grey.tif": lambda seed: saved(Image.fromarray(deep(seed)), "TIFF"),
    "16-bit-grey.pgm": lambda seed: b"P5 16 16 65535\n" + deep(seed).astype(">u2").tobytes(),
    "16-bit-grey-alpha.png": lambda seed: png_16(seed, 4, 2),
    "16-bit-rgb.png": lambda seed: png_16(seed, 2, 3),
    "16-bit-rgba.png": lambda seed: png_16(seed, 6, 4),
    "32-bit-grey.tif": lambda seed: saved(Image.fromarray(deep(seed).astype(np.int32)), "TIFF"),
    "float.tif": lambda seed: saved(Image.fromarray(deep(seed).astype(np.float32) / 65535), "TIFF"),
    "rotated.jpg": rotated,
    "rotated.png": lambda seed: rotated(seed, "PNG"),
    "rotated.tif": lambda seed: rotated(seed, "TIFF"),
    "cmyk.jpg": lambda seed: saved(rgb(seed).convert("CMYK"), "JPEG"),
    "cmyk.tif": lambda seed: saved(rgb(seed).convert("CMYK"), "TIFF"),
    "ycbcr.tif": lambda seed: saved(rgb(seed).convert("YCbCr"), "TIFF"),
    "palette.png": lambda seed: saved(rgb(seed).quantize(8)),
    "palette-one.png": lambda seed: palette_with_transparency(seed, 1),
    "palette-bytes.png": lambda seed: palette_with_transparency(seed, bytes([0, 128, 255])),
    "palette.gif": lambda seed: saved(rgb(seed).quantize(8), "GIF", transparency=2),
    "animated.gif": lambda seed: saved(rgb(seed), "GIF", save_all=True, append_images=[rgb(seed + 90)]),
    "wide.jpg": lambda seed: saved(rgb(seed, width=41, height=23), "JPEG"),
    "large.png": lambda seed: saved(rgb(seed, width=37 + seed, height=50)),
}  # fmt: skip


@pytest.mark.parametrize("background", ["white", "#204060"])
@pytest.mark.parametrize("kind", KINDS)
def test_prepared_and_compared_pixels_are_the_same(kind: str, background: str, tmp_path: Path) -> None:
    folder = tmp_path / "x"
    folder.mkdir()
    for seed in range(3):
        (folder / f"{seed}{kind}").write_bytes(KINDS[kind](seed))
    with zipfile.ZipFile("x.zip", "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, path.name)
    made = prepare(folder, "x", resolution=16, background=background, workers=1)
    reals = PreparedDataset(made.folder)
    assert len(reals) == 3
    for path in (folder, tmp_path / "x.zip"):
        images = open_images(path, "--images", like=reals)
        for index in range(3):
            assert np.array_equal(images.image(index), reals.image(index)), path


def test_every_kind_together_is_at_no_distance(ganformer: Callable[..., Result], tmp_path: Path) -> None:
    folder = tmp_path / "x"
    folder.mkdir()
    for number, (kind, encode) in enumerate(KINDS.items()):
        (folder / f"{number:02d}-{kind}").write_bytes(encode(number))
    lines = (
        f"prepare {folder.as_posix()} --resolution 16 --workers 1 --strict",
        f"eval --images {folder.as_posix()} --reals datasets/x --json",
    )
    for line in lines:
        result = ganformer(*line.split())
        assert result.exit_code == 0, result.stderr
    scores = json.loads(result.stdout)
    assert (scores["swd"], scores["diversity"]) == (0, 1)
    assert "cropped to the middle and shrunk to 16x16 px, as ganformer prepare does" in result.stderr
    assert "images with several frames or pages only the first is used" in result.stderr
    assert json.loads(Path("datasets/x/manifest.json").read_text(encoding="utf-8"))["sources"]["several_frames"] == 1


def test_training_sees_what_prepare_makes(tmp_path: Path) -> None:
    """A zip or folder that is trained on as it is."""
    (tmp_path / "x").mkdir()
    with zipfile.ZipFile("x.zip", "w") as archive:
        for number, kind in enumerate(("rgba.png", "16-bit-grey.png", "grey-alpha.png", "palette-bytes.png")):
            (tmp_path / "x" / f"{number}.png").write_bytes(KINDS[kind](number))
            archive.writestr(f"{number}.png", KINDS[kind](number))
    made = PreparedDataset(prepare(tmp_path / "x", "made", resolution=16, workers=1).folder)
    for path in ("x.zip", "x"):
        dataset = open_dataset(path)
        assert all(np.array_equal(dataset.image(i), made.image(i)) for i in range(4)), path


def test_reals_that_lie_as_they_are_take_the_background_of_prepared_images(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    for seed in range(2):
        (tmp_path / "x" / f"{seed}.png").write_bytes(KINDS["rgba.png"](seed))
    made = prepare(tmp_path / "x", "made", resolution=16, background="black", workers=1).folder
    reals = open_images(tmp_path / "x", "--reals")
    images = open_images(made, "--images", like=reals)
    assert np.array_equal(reals.image(1), images.image(1))


def test_images_that_are_too_small_keep_their_size(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "0.png").write_bytes(saved(rgb(0)))
    (tmp_path / "x" / "1.png").write_bytes(saved(rgb(1, width=40, height=40)))
    made = prepare(tmp_path / "x", "made", resolution=32, workers=1)
    reals = PreparedDataset(made.folder)
    with pytest.raises(DataError, match=r"--images .*x has images of several sizes .*16x16.*40x40"):
        open_images(tmp_path / "x", "--images", like=reals)
    (tmp_path / "x" / "1.png").unlink()
    assert (open_images(tmp_path / "x", "--images", like=reals)).width == 16


@pytest.mark.parametrize(
    ("depth", "row", "key"),
    [
        (2, bytes([0b10_11_00_01]) * 4, struct.pack(">H", 2)),
        (4, bytes([0xA5, 0x0F]) * 4, struct.pack(">H", 10)),
        (8, bytes([9, 8, 7, 6]), struct.pack(">H", 9)),
        (16, struct.pack(">4H", 1000, 1001, 65535, 0), struct.pack(">H", 1000)),
    ],
)
def test_one_transparent_grey_in_the_bits_of_the_file(depth: int, row: bytes, key: bytes) -> None:
    data = png(4, 4, depth, 0, [row[: max(1, 4 * depth // 8)]] * 4, key)
    got = np.asarray(decode(data, Decoding((1, 2, 3))))[0].tolist()
    assert got[0] == [1, 2, 3]
    assert all(len(set(each)) == 1 for each in got[1:])


def test_one_transparent_colour_of_16_bits() -> None:
    row = struct.pack(">6H", 256, 512, 1024, 65535, 512, 1024)
    got = np.asarray(decode(png(2, 1, 16, 2, [row], row[:6]), Decoding((9, 9, 9))))[0].tolist()
    assert got == [[9, 9, 9], [255, 2, 4]]


# ----- Arrays -----

ARRAYS: dict[str, Callable[[], np.ndarray]] = {
    "grey": lambda: np.stack([smooth(i, channels=1)[:, :, 0] for i in range(3)]),
    "rgb": lambda: np.stack([smooth(i) for i in range(3)]),
    "rgb-first": lambda: np.stack([smooth(i).transpose(2, 0, 1) for i in range(3)]),
    "rgba": lambda: np.stack([smooth(i, channels=4) for i in range(3)]),
    "uint16": lambda: np.stack([deep(i) for i in range(3)]),
    "uint16-big-endian": lambda: np.stack([deep(i) for i in range(3)]).astype(">u2"),
    "uint16-rgba": lambda: np.stack([smooth(i, channels=4) for i in range(3)]).astype(np.uint16) * 257,
    "float": lambda: np.stack([smooth(i) for i in range(3)]).astype(np.float32) / 255,
    "float-rgba": lambda: np.stack([smooth(i, channels=4) for i in range(3)]).astype(np.float64) / 255,
    "large": lambda: np.stack([smooth(i, height=40, width=25) for i in range(3)]),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_are_the_same_on_both_sides(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, ARRAYS[kind]())
    reals = PreparedDataset(prepare(path, "x", resolution=16, background="red", workers=1).folder)
    images = open_images(path, "--images", like=reals)
    for index in range(3):
        assert np.array_equal(images.image(index), reals.image(index))


def test_what_numbers_of_an_array_mean_is_seen_from_all_of_them(tmp_path: Path) -> None:
    values = smooth(0).transpose(2, 0, 1)[None].repeat(2, axis=0).astype(np.float32) / 127.5 - 1
    np.save(tmp_path / "signed.npy", values)  # as generate writes it
    assert np.array_equal(open_images(tmp_path / "signed.npy", "--images").image(0), smooth(0).transpose(2, 0, 1))
    for name, scale in (("bytes", 127.5), ("far", 127)):
        np.save(tmp_path / f"{name}.npy", values * scale + (127.5 if name == "bytes" else 0))
        with pytest.raises(DataError, match=rf"--images .*{name}.npy: values from .* to .*; floating-point images are"):
            open_images(tmp_path / f"{name}.npy", "--images")
