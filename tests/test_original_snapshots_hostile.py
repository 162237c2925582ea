"""Small pickles that stand for endless work or memory are refused at once; nothing of them is shown but its kind."""

from __future__ import annotations

import io
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from ganformer_cli.errors import SnapshotError
from ganformer_cli.original_snapshots import load_original
from ganformer_cli.original_snapshots.pickles import read_pickle

GOLDEN = Path(__file__).parent / "golden" / "duplex-kmeans"
#: Tuples that hold the one before twice, 200 times: 2^200 in all. For the top of the stack.
DOUBLED = b")" + b"2\x86" * 200
DOUBLED_LIST = b"]" + b"".join(b"q" + bytes([i]) + b"0]h" + bytes([i]) + b"ah" + bytes([i]) + b"a" for i in range(200))
LOAD = b"ctorch.storage\n_load_from_bytes\n"
EASY = b"cdnnlib.util\nEasyDict\n"
ORDERED = b"ccollections\nOrderedDict\n"
DTYPE = b"cnumpy\ndtype\n"
MODULE = b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def old_storage(numbers: torch.Tensor) -> bytes:
    """As torch's storages write themselves."""
    stream = io.BytesIO()
    kept = torch.storage.TypedStorage(wrap_storage=numbers.untyped_storage(), dtype=numbers.dtype, _internal=True)
    torch.save(kept, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


def inner_bomb() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"0" * 50_000_000)
        archive.writestr("archive/version", b"3\n")
    return stream.getvalue()


def blob(data: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(data)) + data


ZEROS = blob(old_storage(torch.zeros(50_000)))
NAMED = MODULE + b"}(" + text("state") + b"}" + text("class_name")
HUGE = blob(old_storage(torch.zeros(4))[:-24] + struct.pack("<q", 1 << 42))

HOSTILE = {
    "a key of nested tuples": b"}" + DOUBLED + b"Ns",
    "keys of nested tuples": b"}(" + DOUBLED + b"Nu",
    "a dictionary of marks": b"(" + DOUBLED + b"Nd",
    "a set of nested tuples": b"\x8f(" + DOUBLED + b"\x90",
    "a frozen set": b"(" + DOUBLED + b"\x91",
    "pairs of an OrderedDict": ORDERED + b"]" + DOUBLED + b"N\x86a\x85R",
    "pairs of an EasyDict": EASY + b"]" + DOUBLED + b"N\x86a\x85R",
    "nested lists for the name of a class": NAMED + DOUBLED_LIST + b"u\x85R",
    "nested lists for a kind of number": DTYPE + DOUBLED_LIST + b"\x85R",
    "nested tuples for a kind of number": DTYPE + DOUBLED + b"\x85R",
    "nested tuples for an order of bytes": DTYPE + text("f4") + b"\x85R(K\x03" + DOUBLED + b"tb",
    "values that double": DOUBLED,
    "lists that double": DOUBLED_LIST,
    "a list in itself": b"]q\x002ab"[:-1].replace(b"2a", b"h\x00a"),
    "a deep list": b"]" * 100_000 + b"a" * 99_999,
    "a billion laughs": text("ha" * 5000) + b"q\x00(" + b"h\x00" * 200_000 + b"l",
    "a number of a megabyte": b"\x8b" + struct.pack("<I", 1_000_000) + b"\x7f" * 1_000_000,
    "a number in a million digits": b"I" + b"9" * 1_000_000 + b"\n",
    "a million dictionaries": b"(" + b"}" * 1_000_000 + b"l",
    "millions of instructions": b"N0" * 3_000_000 + b"N",
    "one storage many times": ZEROS + b"q\x000(" + (LOAD + b"h\x00\x85R") * 2000 + b"l",
    "many names for one storage": LOAD + ZEROS + b"\x85Rq\x000(" + b"h\x00" * 2000 + b"l",
    "an inner zip that unpacks to megabytes": LOAD + blob(inner_bomb()) + b"\x85R",
    "an inner key of nested tuples": LOAD + blob(b"\x80\x02}" + DOUBLED + b"Ns.") + b"\x85R",
    "an inner name": LOAD + blob(b"\x80\x02cos\nsystem\n.") + b"\x85R",
    "a storage that claims terabytes": LOAD + HUGE + b"\x85R",
    "a global of a megabyte": b"c" + b"x" * 1_000_000 + b"\ny\n",
    "a global of escapes": b"c\x1b]0;owned\x07\ny\n",
    "a frame of terabytes": b"\x95" + struct.pack("<Q", 1 << 42) + b"N",
    "bytes of terabytes": b"\x8e" + struct.pack("<Q", 1 << 42) + b"N",
    "an array of bytes of terabytes": b"\x96" + struct.pack("<Q", 1 << 42) + b"N",
    "a memo of billions": b"Nr\xff\xff\xff\xff",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("program", HOSTILE.values(), ids=HOSTILE)
def test_a_small_pickle_takes_little_time_and_memory(tmp_path: Path, program: bytes) -> None:
    path = tmp_path / "evil.pkl"
    path.write_bytes(b"\x80\x04" + program + b".")
    if len(program) < 500_000:  # measuring is slow
        tracemalloc.start()
    try:
        with pytest.raises(SnapshotError) as caught:
            load_original(path)
        assert tracemalloc.get_traced_memory()[1] < 400 << 20
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert message.startswith(str(path))
    assert len(message) < 700 + len(str(path))
    assert message.isprintable()
    assert "weights_only" not in message


def test_torch_is_never_asked_to_load(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **more: Any) -> None:
        raise AssertionError("torch.load has advice that nobody should follow")

    monkeypatch.setattr(torch, "load", refuse)
    assert load_original(GOLDEN / "network-snapshot-000000.pkl").config.resolution > 0


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool]
)
@pytest.mark.parametrize("count", [0, 1, 1000])
@pytest.mark.parametrize("zipped", [False, True])
def test_storages_of_torch_are_read(tmp_path: Path, dtype: torch.dtype, count: int, zipped: bool) -> None:
    numbers = torch.arange(count).to(dtype)
    if zipped:
        stream = io.BytesIO()
        kept = torch.storage.TypedStorage(wrap_storage=numbers.untyped_storage(), dtype=dtype, _internal=True)
        torch.save(kept, stream)
        data = stream.getvalue()
    else:
        data = old_storage(numbers)
    (tmp_path / "numbers.pkl").write_bytes(b"\x80\x04" + LOAD + blob(data) + b"\x85R.")
    found = read_pickle(tmp_path / "numbers.pkl")
    assert found.dtype == dtype
    assert torch.equal(found, numbers)


def test_large_tensors_open(tmp_path: Path) -> None:
    numbers = torch.arange(2_000_000, dtype=torch.float32)
    tree = {"Gs": [numbers.numpy()] * 3, "text": "x" * 1_000_000, 5: (True, None, 1.5)}
    with (tmp_path / "large.pkl").open("wb") as stream:
        pickle.dump(tree, stream, protocol=4)
    found = read_pickle(tmp_path / "large.pkl")
    assert found[5] == (True, None, 1.5)
    assert all((array == numbers.numpy()).all() for array in found["Gs"])
