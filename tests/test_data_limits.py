"""Archives made to fill memory are refused by name, one entry at a time; what is merely large is read."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from ganformer_cli.data import limits, zips
from ganformer_cli.data.loading.datasets import PreparedDataset
from ganformer_cli.data.sources import open_source, tars
from ganformer_cli.data.sources.crc32c import masked_crc32c
from ganformer_cli.data.sources.tars import TarReader
from ganformer_cli.errors import DataError
from tests.tfrecords import field, record

Run = Callable[..., Result]

MIB = 1 << 20
BOMB = 5 * MIB
ZEROS = bytes(MIB)


def png(number: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (32, 32), (number, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(autouse=True)
def small_budgets(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bomb is made in no time."""
    monkeypatch.setattr(limits, "BOMB_BYTES", 4 * MIB)
    monkeypatch.setattr(tars, "BOMB_BYTES", 4 * MIB)
    monkeypatch.setattr(tars, "_READ_AHEAD", 1024)


def zip_of(path: Path, name: str, size: int = BOMB, method: int = zipfile.ZIP_DEFLATED, start: bytes = b"") -> Path:
    """A zip of an image and an entry of zeros."""
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a.png", png())
        with archive.open(name, "w", force_zip64=True) as stream:
            pour(stream, size, start)
    return path


def pour(stream: IO[bytes], size: int, start: bytes = b"") -> None:
    stream.write(start)
    left = size - len(start)
    while left > 0:
        stream.write(ZEROS[: min(left, MIB)])
        left -= MIB


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_image_in_a_zip(own_folder: Path, method: int) -> None:
    path = zip_of(own_folder / "a.zip", "b.png", method=method)
    with open_source(path) as source:
        first, second = source.items()
    assert first.data is not None
    assert second.data is None
    assert "decompression bomb" in second.error


def test_an_image_in_a_zip_that_training_reads(own_folder: Path) -> None:
    path = zip_of(own_folder / "a.zip", "b.png", start=png())
    with pytest.raises(DataError, match="b.png cannot be read .*decompression bomb"):
        PreparedDataset(path)


@pytest.mark.parametrize(("suffix", "opener"), [("gz", gzip.open), ("bz2", bz2.open), ("xz", lzma.open)])
def test_an_image_in_a_packed_tar(own_folder: Path, suffix: str, opener: Callable[..., IO[bytes]]) -> None:
    path = own_folder / f"a.tar.{suffix}"
    with opener(path, "wb") as stream:
        for name, size, start in (("a.png", len(png()), png()), ("b.png", BOMB, b"")):
            info = tarfile.TarInfo(name)
            info.size = size
            stream.write(info.tobuf())
            pour(stream, size + -size % 512, start)
        stream.write(bytes(1024))
    with open_source(path) as source:
        items = list(source.items())
    assert items[0].data == png()
    assert "decompression bomb" in items[1].error


def test_a_large_image_that_is_what_it_says_is_read(own_folder: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, MIB, np.uint8).tobytes()
    with (
        zipfile.ZipFile(own_folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("b.png", "w") as stream,
    ):
        for _ in range(BOMB // MIB):
            stream.write(noise[: MIB // 2] + ZEROS[: MIB // 2])
    with open_source(own_folder / "a.zip") as source:
        (item,) = source.items()
    assert item.error == ""


def test_a_dictionary_that_would_fill_memory(own_folder: Path) -> None:
    path = zip_of(own_folder / "a.zip", "b.png", 1000, zipfile.ZIP_LZMA)
    data = bytearray(path.read_bytes())
    place = data.index(b"b.png") + len("b.png") + 5
    while data[place : place + 4] != struct.pack("<I", 1 << 23):  # the dictionary's size as Python writes it
        place += 1
    data[place : place + 4] = struct.pack("<I", 0xFFFFFFFF)
    path.write_bytes(data)
    with open_source(path) as source:
        assert "dictionary of 4095 MiB" in list(source.items())[1].error


def test_several_xz_behind_one_another_are_one(own_folder: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for number in range(3):
            info = tarfile.TarInfo(f"{number}.png")
            info.size = len(png(number))
            tar.addfile(info, io.BytesIO(png(number)))
    data = stream.getvalue()
    (own_folder / "a.tar.xz").write_bytes(lzma.compress(data[:700]) + bytes(4) + lzma.compress(data[700:]))
    with open_source(own_folder / "a.tar.xz") as source:
        assert [item.data for item in source.items()] == [png(number) for number in range(3)]
    (own_folder / "a.tar.xz").write_bytes(lzma.compress(data)[:-30])
    with open_source(own_folder / "a.tar.xz") as source:
        assert [item.data for item in source.items()][0] == png(0)


@pytest.mark.slow
def test_a_header_that_names_a_thousand_things_is_read_at_once(own_folder: Path) -> None:
    header = tarfile.TarInfo("x")
    header.type, records = tarfile.XHDTYPE, b"6 a=b\n" * (170 * 1000)
    header.size = len(records)
    info = tarfile.TarInfo("a.png")
    info.size = len(png())
    data = header.tobuf() + records + bytes(-len(records) % 512) + info.tobuf() + png()
    (own_folder / "a.tar").write_bytes(data + bytes(-len(png()) % 512 + 1024))
    with TarReader(own_folder / "a.tar") as reader:
        member = reader.next()
    assert member is not None
    assert member.name == "a.png"


def test_a_database_in_a_zip_is_not_unpacked(own_folder: Path) -> None:
    pytest.importorskip("lmdb")
    start = bytes(16) + bytes.fromhex("dec0efbe")
    with pytest.raises(DataError, match=r"data.mdb is a decompression bomb"):
        open_source(zip_of(own_folder / "a.zip", "set/data.mdb", start=start))
    assert [path.name for path in own_folder.iterdir() if path.is_dir()] == []


def test_records_in_a_zip(own_folder: Path) -> None:
    head = struct.pack("<Q", BOMB)
    with (
        zipfile.ZipFile(own_folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("x-r05.tfrecords", "w") as stream,
    ):
        pour(stream, BOMB, head + struct.pack("<I", masked_crc32c(head)))
    with pytest.raises(DataError, match="decompression bomb"):
        open_source(own_folder / "a.zip")


def written(folder: Path, features: bytes) -> Path:
    """A file of one record."""
    (folder / "a.tfrecords").write_bytes(record(field(1, features)))
    return folder / "a.tfrecords"


def test_a_record_of_a_million_numbers(own_folder: Path) -> None:
    numbers = field(1, field(1, b"label") + field(2, field(3, field(1, bytes(MIB)))))
    picture = field(1, field(1, b"image") + field(2, field(1, field(1, png()))))
    many = field(1, field(1, b"names") + field(2, field(1, field(1, b"") * (MIB // 4))))
    with open_source(written(own_folder, numbers + many + picture)) as source:
        (item,) = source.items()
    assert item.data == png()


@pytest.mark.slow
def test_a_record_of_a_million_features(own_folder: Path) -> None:
    one = b"".join(field(1, field(1, struct.pack("<I", i)) + field(2, b"")) for i in range(20_000))
    with open_source(written(own_folder, one)) as source:
        assert "features" in next(iter(source.items())).error


@pytest.mark.parametrize("version", [1, 2])
def test_a_header_of_an_array(own_folder: Path, version: int) -> None:
    size = 0xFFFF if version == 1 else BOMB
    start = b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", size)
    with (
        zipfile.ZipFile(own_folder / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("images.npy", "w") as stream,
    ):
        pour(stream, BOMB, start)
    with pytest.raises(DataError, match="holds no array of images"):
        open_source(own_folder / "a.npz")


@pytest.mark.parametrize("which", ["images", "labels"])
def test_an_array_that_claims_more_than_there_is(own_folder: Path, which: str) -> None:
    with zipfile.ZipFile(own_folder / "a.npz", "w") as archive:
        for name, shape, data in (("images", (4, 8, 8, 3), np.uint8), ("labels", (4,), np.int64)):
            stream = io.BytesIO()
            array = np.zeros(shape, data)
            np.save(stream, array)
            content = stream.getvalue()
            if name == which:
                head = io.BytesIO()
                shape = (10**13, *shape[1:])
                description = np.lib.format.header_data_from_array_1_0(array)
                np.lib.format.write_array_header_1_0(head, {**description, "shape": shape})
                content = head.getvalue() + bytes(800)
            archive.writestr(f"{name}.npy", content)
    with pytest.raises(DataError, match="claims|more than the file holds"):
        open_source(own_folder / "a.npz")


def test_labels_of_a_zip(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zip_of(own_folder / "a.zip", "dataset.json", start=json.dumps({"labels": []}).encode())
    monkeypatch.setattr("ganformer_cli.data.loading.stores.MAX_LABELS_BYTES", MIB)
    with pytest.raises(DataError, match=r"dataset.json"):
        PreparedDataset(path)
    with pytest.raises(DataError, match=r"dataset.json"):
        open_source(path)


def test_a_directory_of_millions_of_files(own_folder: Path) -> None:
    entry = struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0) + b"a.npy"
    count = zips.MAX_DIRECTORY_BYTES // len(entry) + 1
    directory = entry * count
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, len(directory), 0, 0)
    (own_folder / "a.npz").write_bytes(directory + end)
    with pytest.raises(DataError, match="lists too many files"):
        zips.open_zip(own_folder / "a.npz")


def test_zips_of_a_hundred_thousand_images_are_no_bombs(own_folder: Path) -> None:
    with zipfile.ZipFile(own_folder / "a.zip", "w") as archive:
        for number in range(2_000):
            archive.writestr(f"{number:08d}.png", b"x")
    assert len(zips.open_zip(own_folder / "a.zip").namelist()) == 2_000
    assert 120_000 * (46 + len("00000000.png")) < zips.MAX_DIRECTORY_BYTES
