"""Headers of ``.npy`` files: whatever they say, it is an array that the file holds, or one line."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from ganformer_cli.npy_header import check_npy, check_npy_stream


def npy(header: str, data: bytes = b"", version: int = 1) -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text)) + text + data


def described(shape: str, descr: str = "'<f4'", data: bytes = bytes(64)) -> bytes:
    return npy(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}", data)


HOSTILE = {
    "terabytes": described("(1099511627776, 1024)"),
    "more than memory can name": described("(9223372036854775807, 9223372036854775807)"),
    "a number of 400 digits": described(f"({'9' * 400},)"),
    "a number of 5000 digits": described(f"({'9' * 5000},)"),
    "a negative side": described("(-1, 8)"),
    "half a side": described("(1.5, 8)"),
    "a truth value": described("(True, 8)"),
    "no tuple": described("8"),
    "70 dimensions": described(f"({'1,' * 70})"),
    "objects": described("(1,)", "'|O'"),
    "fields": described("(1,)", "[('a', '<f4', (1000000000,)), ('b', 'O')]"),
    "a call": npy("__import__('os').system('touch called')"),
    "brackets": npy("(" * 5000),
    "more brackets": npy("(" * 9000 + ")" * 900),
    "a long header": npy("(" * 60000, version=2),
    "no header": npy(""),
    "other keys": npy("{'\\x1b[31m': 1}"),
    "no dictionary": npy("[1, 2]"),
    "wrong bytes": b"\x93NUMPY\x01\x00\x04\x00\xff\xfe\xfd\xfc",
    "cut short": np.lib.format.magic(1, 0),
}  # fmt: skip


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_hostile_headers_are_a_few_words(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "evil.npy"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"^an? ") as caught:
        check_npy(path)
    assert len(str(caught.value)) < 100
    assert not (tmp_path / "called").exists()


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_commands_say_so_in_one_line(ganformer: Callable[..., Result], tiny_run: Path, data: bytes) -> None:
    Path("evil.npy").write_bytes(data)
    Path("images").mkdir()
    Image.new("RGB", (8, 8)).save("images/a.png")
    lines = [
        ("generate", "--model", str(tiny_run), "--latents", "evil.npy", "--gpus", "none"),
        ("eval", "--images", "evil.npy", "--reals", "evil.npy", "--metrics", "swd", "--gpus", "none"),
        ("prepare", "evil.npy"),
        ("prepare", "images", "--labels", "evil.npy"),
    ]
    for line in lines:
        done = ganformer(*line)
        assert done.exit_code == 1, done.output
        assert isinstance(done.exception, SystemExit), done.exception
        assert "evil.npy" in done.stderr
        assert len(done.stderr) < 800


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "f2", "u1", "?", "<i8", "<c8", "<U5", "S3", "<M8[s]"])
@pytest.mark.parametrize("shape", [(), (0,), (3, 4), (2, 1, 0)])
def test_arrays_of_numpy_pass(dtype: str, shape: tuple[int, ...]) -> None:
    stream = io.BytesIO()
    np.save(stream, np.zeros(shape, dtype))
    size = stream.tell()
    for order in ("C", "F"):
        stream.seek(0)
        np.save(stream, np.asarray(np.zeros(shape, dtype), order=order))
        stream.seek(0)
        check_npy_stream(stream, size)


def test_what_python_2_wrote_passes_and_what_is_no_npy_is_left_to_others() -> None:
    check_npy_stream(io.BytesIO(described("(2L, 8L)")), 10_000)
    for data in (b"", b"PK\x03\x04", b"\x93NUMP"):
        check_npy_stream(io.BytesIO(data), len(data))
