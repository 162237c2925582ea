"""TFRecords as several programs write them, and WebDataset's tars."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ganformer_cli.data.sources import open_source
from ganformer_cli.data.sources.crc32c import crc32c, masked_crc32c, numpy_crc32c
from ganformer_cli.data.sources.tfrecords import part_of
from ganformer_cli.errors import DataError
from tests.tfrecords import example, field, record

Pixels = npt.NDArray[np.uint8]


def picture(seed: int, height: int = 8, width: int = 8, channels: int = 3) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def raw(pixels: Pixels, packed: bool = True) -> bytes:
    chw = pixels.transpose(2, 0, 1)
    return example(packed, shape=list(chw.shape), data=chw.tobytes())


def write(path: Path, seeds: range, side: int = 8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(record(raw(picture(seed, side, side))) for seed in seeds))
    return path


# ---- Checksums -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("checksum", [crc32c, numpy_crc32c])  # with google-crc32c, where it is installed, and without
def test_crc32c_is_castagnolis(checksum: Callable[[bytes], int]) -> None:
    assert checksum(b"123456789") == 0xE3069283  # as published
    assert checksum(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4
    assert checksum(b"\xff" * 32) == 0x62A8AB43
    assert checksum(b"") == 0


def test_masked_crc32c_is_tensorflows() -> None:
    assert masked_crc32c(struct.pack("<Q", 0)) == 0x07980329  # what TensorFlow writes for an empty record


@pytest.mark.parametrize("length", [1023, 1024, 1025, 1055, 1056, 3333, 65_536, 200_001])
def test_crc32c_of_many_lanes_is_that_of_one(length: int) -> None:
    data = np.random.default_rng(length).bytes(length)
    crc, table = 0xFFFFFFFF, []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    for checksum in (crc32c, numpy_crc32c):
        assert checksum(data) == checksum(memoryview(data)) == crc ^ 0xFFFFFFFF


# ---- TFRecords -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [True, False])
def test_stylegans_records(tmp_path: Path, packed: bool) -> None:
    shapes = [(8, 8, 3), (4, 8, 3), (8, 8, 1), (8, 8, 4), (64, 64, 3)]
    pictures = [picture(i, *shape) for i, shape in enumerate(shapes)]
    (tmp_path / "file").write_bytes(b"".join(record(raw(p, packed=packed)) for p in pictures))
    with open_source(tmp_path / "file") as source:
        assert (source.format, source.count(), source.others(), source.labels.kind) == ("tfrecords", 5, 0, None)
        items = list(source.items())
        for number, (item, pixels) in enumerate(zip(items, pictures, strict=True)):
            assert item.name == f"file[{number}]"
            assert isinstance(item.data, np.ndarray)
            assert np.array_equal(item.data, pixels)
        for start in range(6):
            assert [item.name for item in source.items(start)] == [item.name for item in items[start:]]
        assert [item.name for item in source.samples(2)] == ["file[0]", "file[2]"]
        assert source.fingerprint() == source.fingerprint()


@pytest.mark.parametrize(
    ("name", "base", "level", "number", "parts"),
    [
        ("ffhq-r08.tfrecords", "ffhq", 8, 0, 0),
        ("ffhq-r08.tfrecords1of1", "ffhq", 8, 1, 1),
        ("bed-rooms-r10.tfrecords3of8", "bed-rooms", 10, 3, 8),
        ("x.tfrecord", "x", 0, 0, 0),
        ("x.tfrecord-00003-of-00010", "x", 0, 3, 10),
        ("train-00003-of-01024", "train", 0, 3, 1024),
        ("train-00003-of-01024.tfrecord", "train", 0, 3, 1024),
    ],
)
def test_names_of_files(name: str, base: str, level: int, number: int, parts: int) -> None:
    part = part_of(name)
    assert part is not None
    assert (part.base, part.level, part.number, part.parts) == (base, level, number, parts)


@pytest.mark.parametrize("name", ["a.png", "readme", "3of8", "x-r08.labels", "tfrecords"])
def test_names_of_other_files(name: str) -> None:
    assert part_of(name) is None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As StyleGAN makes it: a file a resolution; the largest in twelve parts."""
    for level in (2, 3):
        write(tmp_path / "set" / f"set-r{level:02}.tfrecords", range(24), 2**level)
    for part in range(12):
        write(tmp_path / "set" / f"set-r04.tfrecords{part + 1}of12", range(2 * part, 2 * part + 2), 16)
    (tmp_path / "set" / "preview.png").write_bytes(b"an image, perhaps")
    return tmp_path / "set"


def zip_of(folder: Path, method: int = zipfile.ZIP_DEFLATED) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", method) as archive:
        for file in sorted(folder.iterdir(), reverse=True):
            archive.write(file, f"below/{folder.name}/{file.name}")
    return path


@pytest.mark.parametrize("method", [None, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize(("resolution", "side"), [(None, 16), (16, 16), (8, 8), (5, 8), (4, 4), (2, 4), (256, 16)])
def test_parts_in_order_of_one_resolution(folder: Path, method: int | None, resolution: int | None, side: int) -> None:
    with open_source(folder if method is None else zip_of(folder, method), resolution=resolution) as source:
        assert (source.format, source.count(), source.others()) == ("tfrecords", 24, 1)
        for seed, item in enumerate(source.items()):
            assert np.array_equal(np.asarray(item.data), picture(seed, side, side))
        assert len({item.name for item in source.items()}) == 24
        (item,) = source.items(23)
        assert np.array_equal(np.asarray(item.data), picture(23, side, side))
        assert len(list(source.samples(5))) == 5


def test_a_missing_part_is_named(folder: Path) -> None:
    (folder / "set-r04.tfrecords3of12").unlink()
    with pytest.raises(DataError, match="of the 12 files of set, number 3 is missing; get it"):
        open_source(folder)
    with open_source(folder / "set-r04.tfrecords2of12") as source:  # by itself
        assert source.count() == 2


def test_the_fingerprint_changes_with_the_file(folder: Path) -> None:
    with open_source(folder) as source:
        before = source.fingerprint()
    write(folder / "set-r03.tfrecords", range(3))  # another resolution
    with open_source(folder) as source:
        assert source.fingerprint() == before
    write(folder / "set-r04.tfrecords5of12", range(3), 16)
    with open_source(folder) as source:
        assert source.fingerprint() != before


@pytest.mark.parametrize("zipped", [False, True])
def test_stylegans_labels(folder: Path, zipped: bool) -> None:
    vectors = np.eye(24, dtype=np.float32)
    with (folder / "set-rxx.labels").open("wb") as stream:
        np.save(stream, vectors)
    with open_source(zip_of(folder) if zipped else folder) as source:
        assert (source.labels.kind, source.labels.class_count, source.others()) == ("classes", 24, 1)
        assert [item.label for item in source.items(20)] == [20, 21, 22, 23]
        assert "one-hot" in source.labels.notes[0]
    if not zipped:
        with open_source(folder / "set-r03.tfrecords") as source:
            assert source.labels.kind == "classes"
            assert next(source.items()).label == 0
        with open_source(folder, labels="none") as source:
            assert source.labels.kind is None


def test_pickled_labels_are_refused(folder: Path) -> None:
    with (folder / "set-rxx.labels").open("wb") as stream:
        np.save(stream, np.array([{}], object), allow_pickle=True)
    with pytest.raises(DataError, match=r"set-rxx\.labels cannot be read"):
        open_source(folder)


def test_records_of_encoded_pictures(tmp_path: Path) -> None:
    records = [
        example(image__encoded=b"png 0", image__class__label=[3], image__height=[8], bbox=[0.5, 0.25]),
        example(image=b"png 1", label=[7]),
        example(image__encoded=b"png 2"),
        example(image=b"png 3", label=[-1]),
        example(text=b"hello", count=[1]),
        field(1, b""),
    ]
    (tmp_path / "train-00000-of-00001").write_bytes(b"".join(map(record, records)))
    with open_source(tmp_path / "train-00000-of-00001") as source:
        items = list(source.items())
        assert source.labels.kind == "classes"
        assert source.count() == 6
    assert [item.data for item in items[:4]] == [b"png 0", b"png 1", b"png 2", b"png 3"]
    assert [item.label for item in items[:4]] == [3, 7, None, None]
    assert [item.error for item in items[4:]] == [
        "no image among its features (count, text)", "no image among its features (none)",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (example(shape=[3, 4, 4], data=bytes(47)), "damaged: 47 bytes for an image of shape [3, 4, 4]"),
        (example(shape=[2, 4, 4], data=bytes(32)), "images of shape [2, 4, 4] instead"),
        (example(shape=[3, -4, -4], data=bytes(48)), "images of shape [3, -4, -4] instead"),
        (example(shape=[1 << 40, 1 << 40, 3], data=bytes(48)), "images of shape"),
        (example(shape=[4, 4], data=bytes(16)), "images of shape [4, 4] instead"),
        (b"\x0a\xff\xff\xff\xff", "damaged: not a tf.train.Example"),
        (b"\x0a\x7f123", "damaged: not a tf.train.Example"),
        (b"hello there", "damaged: not a tf.train.Example"),
    ],
)
def test_a_record_that_is_no_picture(tmp_path: Path, data: bytes, error: str) -> None:
    (tmp_path / "file").write_bytes(record(data) + record(raw(picture(1))))
    with open_source(tmp_path / "file") as source:
        wrong, good = source.items()
    assert wrong.error.startswith(error)
    assert np.array_equal(np.asarray(good.data), picture(1))


@pytest.mark.parametrize("zipped", [False, True])
def test_damage_in_a_record_is_of_one_picture(tmp_path: Path, zipped: bool) -> None:
    path = write(tmp_path / "set" / "set-r05.tfrecords", range(3), 32)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with open_source(zip_of(path.parent) if zipped else path) as source:
        assert [item.error for item in source.items()] == ["", "damaged: the checksum of the record is wrong", ""]


@pytest.mark.parametrize("zipped", [False, True])
def test_files_cut_short_give_what_stands_before(tmp_path: Path, zipped: bool) -> None:
    path = write(tmp_path / "set" / "a-r03.tfrecords", range(3))
    write(tmp_path / "set" / "b-r03.tfrecords", range(3, 5))
    whole = path.read_bytes()
    one = len(whole) // 3
    for at in (1, 11, 12, 100, one - 1):  # bytes of the third that are left
        path.write_bytes(whole[: 2 * one + at])
        with open_source(zip_of(path.parent) if zipped else path.parent) as source:
            items = list(source.items())
            assert source.count() == len(items) == 5  # those of the other file are not lost
            for start in range(6):
                assert [item.name for item in source.items(start)] == [item.name for item in items[start:]]
        assert items[2].error == "the archive is damaged here: it is cut short"
        assert items[2].name.endswith("a-r03.tfrecords[2]")
        for seed in (0, 1, 3, 4):
            assert np.array_equal(np.asarray(items[seed].data), picture(seed))


def test_a_damaged_length_ends_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "file", range(3))
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    with open_source(path) as source:
        items = list(source.items())
        assert source.count() == 2
    assert items[1].error == "the archive is damaged here: the checksum of a record's length is wrong"


def test_a_record_that_claims_a_gigabyte_is_not_read(tmp_path: Path) -> None:
    length = struct.pack("<Q", 1025 << 20)
    with (tmp_path / "file").open("wb") as stream:
        stream.write(record(raw(picture(0))) + length + struct.pack("<I", masked_crc32c(length)))
        stream.truncate(stream.tell() + (1025 << 20) + 4)
    with open_source(tmp_path / "file") as source:
        assert [item.error for item in source.items()] == ["", "a file of 1025 MiB"]


# ---- WebDataset ------------------------------------------------------------------------------------------------------

Files = list[tuple[str, bytes]]
SAMPLES: Files = [
    ("a/000.jpg", b"jpg 0"), ("a/000.cls", b"3"),
    ("a/001.cls", b"0\n"), ("a/001.seg.png", b"no image of its own"), ("a/001.png", b"png 1"),
    ("a/001.txt", b"words"),
    ("b/001.webp", b"webp 2"), ("b/001.json", b'{"label": 7, "text": "x"}'),
    ("._c.jpg", b"hidden"),
    ("c.JPEG", b"jpg 3"),
    ("d.cls", b"5"),
    ("e.x/e.png", b"png 4"), ("e.x/e.cls", b"not a number"),
]  # fmt: skip
PICTURES = [
    ("a/000.jpg", b"jpg 0", 3), ("a/001.png", b"png 1", 0), ("b/001.webp", b"webp 2", 7), ("c.JPEG", b"jpg 3", None),
    ("e.x/e.png", b"png 4", None),
]  # fmt: skip


def tar_of(path: Path, files: Files, mode: Any = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_samples_of_a_tar(tmp_path: Path, mode: str) -> None:
    with open_source(tar_of(tmp_path / "shard", SAMPLES, mode)) as source:
        assert (source.format, source.count(), source.others(), source.labels.kind) == ("webdataset", 5, 2, "classes")
        items = list(source.items())
        assert [(item.name, item.data, item.label) for item in items] == PICTURES
        for start in range(6):
            assert list(source.items(start)) == items[start:]
        assert len(list(source.samples(3))) == 3
        assert source.others() == 2
    with open_source(tmp_path / "shard", labels="none") as source:
        assert source.labels.kind is None
        assert [item.label for item in source.items()] == [None] * 5
    with open_source(tmp_path / "shard", format="tar") as source:
        assert (source.format, source.count(), source.labels.kind) == ("tar", 6, None)  # the .seg.png, too


def test_a_folder_of_shards(tmp_path: Path) -> None:
    for shard in (1, 0):
        tar_of(tmp_path / "set" / f"set-{shard:06}.tar", [(name, data + b" %d" % shard) for name, data in SAMPLES[:2]])
    (tmp_path / "set" / "preview.png").write_bytes(b"an image, perhaps")
    with open_source(tmp_path / "set") as source:
        assert [(item.name, item.data) for item in source.items()] == [
            ("set-000000.tar/a/000.jpg", b"jpg 0 0"), ("set-000001.tar/a/000.jpg", b"jpg 0 1"),
        ]  # fmt: skip
        assert [item.data for item in source.items(1)] == [b"jpg 0 1"]
        before = source.fingerprint()
    tar_of(tmp_path / "set" / "set-000002.tar", SAMPLES)
    with open_source(tmp_path / "set", format="webdataset") as source:
        assert source.others() == 3  # the preview, and two in the shard
        assert source.fingerprint() != before
        assert source.count() == 7


def test_vectors_beside_pictures(tmp_path: Path) -> None:
    files = [("0.png", b""), ("0.json", json.dumps({"class": [0.5, 2]}).encode()), ("1.png", b""), ("1.cls", b"1")]
    with open_source(tar_of(tmp_path / "tar", files)) as source:
        assert source.labels.kind == "vectors"
        assert [item.label for item in source.items()] == [(0.5, 2.0), None]


@pytest.mark.parametrize(
    ("written", "expected", "names"),
    [
        ([b"2.0", b"0.0\n"], [2, 0], None),
        ([b"[2]", b"[0]"], [2, 0], None),
        ([b"dog", b" cat\n"], [1, 0], ["cat", "dog"]),
        ([b"\xef\xbb\xbf1", b"0"], [1, 0], None),
    ],
)
def test_classes_of_a_webdataset_however_written(
    tmp_path: Path, written: list[bytes], expected: list[Any], names: list[str] | None
) -> None:
    for number, label in enumerate(written):
        tar_of(tmp_path / f"shards/{number}.tar", [("0.png", b""), ("0.cls", label)])
    with open_source(tmp_path / "shards") as source:
        assert source.labels.kind == "classes"
        assert source.labels.class_names == names
        assert [item.label for item in source.items()] == expected
    texts = [json.dumps({"label": label.decode("utf-8-sig").strip()}).encode() for label in written]
    for number, label in enumerate(texts):
        tar_of(tmp_path / f"json/{number}.tar", [("0.png", b""), ("0.json", label)])
    with open_source(tmp_path / "json") as source:
        assert [item.label for item in source.items()] == expected


def test_a_tar_without_labels_is_no_webdataset(tmp_path: Path) -> None:
    files = [("0.png", b""), ("meta.json", b'{"label": 1}'), ("0.json", b'{"text": "x"}')]
    with open_source(tar_of(tmp_path / "tar", files)) as source:
        assert source.format == "tar"


@pytest.mark.parametrize("keep", range(512, 512 * 9, 512))
def test_a_shard_cut_short_gives_what_stands_before(tmp_path: Path, keep: int) -> None:
    files = [(f"{i}.{suffix}", b"%d" % i) for i in range(3) for suffix in ("png", "cls")]
    whole = tar_of(tmp_path / "set" / "0.tar", files).read_bytes()
    (tmp_path / "set" / "0.tar").write_bytes(whole[: keep + 256])
    tar_of(tmp_path / "set" / "1.tar", files)
    with open_source(tmp_path / "set") as source:
        items = list(source.items())
        assert source.count() == len(items)
        for start in range(len(items) + 1):
            assert list(source.items(start)) == items[start:]
    broken = [item for item in items if item.error]
    assert len(broken) == 1
    assert broken[0].error == "the archive is damaged here: it is cut short"
    assert [item.label for item in items[items.index(broken[0]) + 1 :]] == [0, 1, 2]
