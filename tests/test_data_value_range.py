"""Images with more than 8 bits that use a small part of their range: said, and mended by --value-range."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from ganformer_cli.data.loading.datasets import PreparedDataset

Run = Callable[..., Result]
LINE = ["--resolution", "16", "--workers", "1"]


@pytest.fixture(autouse=True)
def here(own_folder: Path) -> None:
    """Each test in a folder of its own."""


def ramp(most: int, seed: int = 0) -> np.ndarray:
    """uint16 [16, 16] from 0 to ``most``."""
    values = np.linspace(0, most, 256).round().astype(np.uint16)
    return np.random.default_rng(seed).permutation(values).reshape(16, 16)


def write(kind: str, most: int) -> str:
    """Three images with values from 0 to ``most``, as files or as an array; the path."""
    if kind == "npy":
        np.save("x.npy", np.stack([ramp(most, seed) for seed in range(3)]))
        return "x.npy"
    Path("x").mkdir()
    for seed in range(3):
        Image.fromarray(ramp(most, seed)).save(f"x/{seed}.{kind}")
    return "x"


@pytest.mark.parametrize("kind", ["png", "tif", "npy"])
def test_twelve_bits_in_sixteen_are_said_and_can_be_mended(ganformer: Run, kind: str) -> None:
    source = write(kind, 4095)
    done = ganformer("prepare", source, *LINE)
    assert done.exit_code == 0, done.stderr
    said = "3 images have 16-bit values from 0 to 4095 only, of 0 to 65535"
    assert said in done.stderr
    assert "--value-range 0,4095 --overwrite" in done.stderr
    assert said in ganformer("prepare", source, *LINE, "--json").stderr  # made before; it holds still
    assert PreparedDataset(Path("datasets/x")).image(0).max() == 16
    refused = ganformer("prepare", source, *LINE, "--value-range", "0,4095")
    assert (refused.exit_code, "was made with --value-range None" in refused.stderr) == (1, True)
    again = ganformer("prepare", source, *LINE, "--value-range", "0,4095", "--overwrite", "--json")
    assert again.exit_code == 0, again.stderr
    assert "values from" not in again.stderr
    assert json.loads(again.stdout)["value_range"] == [0, 4095]
    made = PreparedDataset(Path("datasets/x"))
    expected = np.floor(ramp(4095) * (255 / 4095) + 0.5).astype(np.uint8)
    assert np.array_equal(made.image(0), np.stack([expected] * 3))
    scores = json.loads(ganformer("eval", "--images", source, "--reals", "datasets/x", "--json").stdout)
    assert (scores["swd"], scores["diversity"]) == (0, 1)


@pytest.mark.parametrize(("kind", "most"), [("png", 65535), ("npy", 40000)])
def test_nothing_is_said_of_a_range_that_is_used(ganformer: Run, kind: str, most: int) -> None:
    assert "values from" not in ganformer("prepare", write(kind, most), *LINE).stderr


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(0, 1000, "0,1023"), (0, 200, "0,255"), (30000, 33000, "30000,65535"), (0, 16383, "0,16383")],
)
def test_what_is_advised(ganformer: Run, low: int, high: int, said: str) -> None:
    np.save("x.npy", np.stack([np.clip(ramp(high), low, high)] * 2))
    assert f"with --value-range {said} --overwrite" in ganformer("prepare", "x.npy", *LINE).stderr


def test_sixteen_bit_colour_has_its_high_bytes_only(ganformer: Run) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.astype(">u2").repeat(3).tobytes() for row in ramp(4095))
    header = struct.pack(">IIBBBBB", 16, 16, 16, 2, 0, 0, 0)
    Path("x").mkdir()
    Path("x/0.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    assert "16-bit values from 0 to 4095 only" in ganformer("prepare", "x", *LINE).stderr
    done = ganformer("prepare", "x", *LINE, "--overwrite", "--value-range", "0,4095")
    assert done.exit_code == 1
    assert "16-bit colour, of which only the high bytes are read: --value-range cannot be applied" in done.stderr


def test_floating_point(ganformer: Run) -> None:
    np.save("x.npy", np.stack([ramp(255) / 127.5 - 1] * 2))
    refused = ganformer("prepare", "x.npy", *LINE)
    assert refused.exit_code == 1
    assert "values from -1 to 1, where 0 to 1 is wanted" in refused.stderr
    assert "--value-range LOW,HIGH" in refused.stderr
    done = ganformer("prepare", "x.npy", *LINE, "--value-range", "-1,1")
    assert done.exit_code == 0, done.stderr
    assert np.array_equal(PreparedDataset(Path("datasets/x")).image(0)[0], ramp(255).astype(np.uint8))
    np.save("y.npy", np.stack([ramp(255) / 2550] * 2))
    assert "floating-point values from 0 to 0.1 only, of 0 to 1" in ganformer("prepare", "y.npy", *LINE).stderr


def test_values_outside_the_range_are_not_clipped(ganformer: Run) -> None:
    np.save("x.npy", np.stack([ramp(4095), ramp(5000)]))
    done = ganformer("prepare", "x.npy", *LINE, "--value-range", "0,4095")
    assert "1 values outside --value-range 0,4095: x.npy[1]" in done.stdout


@pytest.mark.parametrize("text", ["5", "a,b", "9,1", "0,0", "0,inf", "1,2,3", ""])
def test_no_range(ganformer: Run, text: str) -> None:
    done = ganformer("prepare", "x.npy", "--value-range", text)
    assert done.exit_code == 2
    assert "--value-range" in done.stderr
