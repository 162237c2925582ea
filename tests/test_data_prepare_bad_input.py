"""Whatever people have among their images: nothing is lost, nothing escapes, and messages name the file."""

from __future__ import annotations

import io
import json
import os
import struct
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganformer_cli.data import open_dataset
from ganformer_cli.data.prepare.pipeline import prepare
from ganformer_cli.data.prepare.verify import verify
from ganformer_cli.errors import OutputError


def picture(seed: int, side: int = 16, format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)).save(buffer, format)
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG of a few bytes that claims to be 60,000 px wide and high."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


def animation() -> bytes:
    frames = [Image.new("RGB", (20, 20), color) for color in ("red", "lime")]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def large() -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (5200, 4000), 77).save(buffer, "JPEG")  # 20 megapixels
    return buffer.getvalue()


LONG = "n" * 296 + ".png"
GOOD = {
    "an animation.gif": animation(),
    "large.jpg": large(),
    "with spaces and Ünïcödé 猫.png": picture(1),
    "plain.png": picture(2),
    "really a jpeg.png": picture(3, format="JPEG"),
}
BAD = {
    "bomb.png": (bomb(), "too large to unpack safely"),
    "cut.png": (picture(4)[:300], "damaged"),
    "cut.jpg": (picture(5, 64, "JPEG")[:900], "damaged"),
    "empty.png": (b"", "an empty file"),
    "one pixel.png": (picture(6, 1), "too small: 1x1 px where 16x16 are needed"),
    "text.jpg": (b"This is no image, it is a letter.", "not an image of a known format"),
    "page.jpg": (b"<!DOCTYPE html><html></html>", "not an image of a known format"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "everything"
    path.mkdir()
    for name, data in GOOD.items():
        (path / name).write_bytes(data)
    for name, (data, _) in BAD.items():
        (path / name).write_bytes(data)
    return path


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """The same in a zip, with names that no disk takes and names that mean harm."""
    path = tmp_path / "everything.zip"
    with zipfile.ZipFile(path, "w") as stream, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the name that is there twice
        for name, data in GOOD.items():
            stream.writestr(name, data)
        for name, (data, _) in BAD.items():
            stream.writestr(name, data)
        for name in (LONG, "twice.png", "twice.png", "../../escaped.png", "/escaped.png", "C:\\escaped.png"):
            stream.writestr(name, picture(len(name)))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_everything_at_once(folder: Path, archive: Path, tmp_path: Path, workers: int) -> None:
    before = set(tmp_path.rglob("*"))
    for source, more in ((folder, 0), (archive, 6)):
        manifest = prepare(source, source.stem, resolution=16, overwrite=True, workers=workers).manifest
        assert manifest["count"] == len(GOOD) + more
        skipped = {item["file"]: item["reason"] for item in manifest["skipped"]["first"]}
        assert skipped.keys() == BAD.keys()
        assert all(words in skipped[name] for name, (_, words) in BAD.items())
        assert verify(Path("datasets") / source.stem)["ok"]
    assert set(tmp_path.rglob("*")) == before
    assert sorted(os.listdir()) == ["datasets"]


@pytest.mark.slow
def test_the_good_ones_are_what_they_were(folder: Path) -> None:
    prepare(folder, "set", resolution=16)
    dataset = open_dataset("set")
    first = dict(zip(sorted(GOOD), range(len(GOOD)), strict=True))
    assert dataset.image(first["an animation.gif"])[:, 8, 8].tolist() == [255, 0, 0]
    assert (dataset.image(first["large.jpg"]) == 77).all()
    with Image.open(folder / "plain.png") as image:
        assert np.array_equal(dataset.image(first["plain.png"]), np.asarray(image).transpose(2, 0, 1))


@pytest.mark.slow
def test_pictures_that_occur_under_one_name_are_both_there(archive: Path) -> None:
    manifest = prepare(archive, "set", resolution=16).manifest
    assert ["twice.png", "twice.png"] in manifest["duplicates"]["first"]


def test_a_name_of_any_length_is_told_whole(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "long.zip", "w") as stream:
        stream.writestr(LONG, b"")
        stream.writestr("good.png", picture(0))
    manifest = prepare(tmp_path / "long.zip", "set", resolution=16).manifest
    assert manifest["skipped"]["first"] == [{"file": LONG, "reason": "an empty file"}]


@pytest.mark.skipif(os.name == "nt", reason="names on Windows are text")
def test_names_that_are_no_text_are_told_as_text(tmp_path: Path) -> None:
    (tmp_path / "bytes").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path / "bytes") + b"/\xff\xfe.png")).write_bytes(b"")
    (tmp_path / "bytes" / "good.png").write_bytes(picture(0))
    manifest = prepare(tmp_path / "bytes", "set", resolution=16).manifest
    (skipped,) = manifest["skipped"]["first"]
    assert skipped["file"].encode("utf-8")
    assert skipped["file"].endswith(".png")


@pytest.mark.skipif(os.name == "nt" or (hasattr(os, "geteuid") and os.geteuid() == 0), reason="may write anywhere")
def test_a_target_that_may_not_be_written(folder: Path) -> None:
    Path("datasets").mkdir(mode=0o500)
    with pytest.raises(OutputError, match="--data-dir datasets: cannot be written to"):
        prepare(folder, "set", resolution=16)


def test_a_target_that_refuses_to_be_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = Path.mkdir

    def refuse(path: Path, *arguments: object, **options: object) -> None:
        if path.suffix == ".part":
            raise OSError(30, "Read-only file system")
        make(path, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(OutputError, match=r"cannot write datasets.set: Read-only file system"):
        prepare(folder, "set", resolution=16)
    assert os.listdir() == []


def test_stylegan3_reads_one_shard_as_it_is(folder: Path) -> None:
    """What its ImageFolderDataset does: the PNGs by sorted name, their labels by name."""
    pairs = [[name, i % 3] for i, name in enumerate(sorted(GOOD))]
    (folder / "dataset.json").write_text(json.dumps({"labels": pairs}), encoding="utf-8")
    prepare(folder, "set", resolution=16)
    with zipfile.ZipFile("datasets/set/images.zip") as stream:
        assert stream.testzip() is None
        names = sorted(name for name in stream.namelist() if os.path.splitext(name)[1].lower() in Image.EXTENSION)
        labels = dict(json.loads(stream.read("dataset.json"))["labels"])
        raw = [labels[name.replace("\\", "/")] for name in names]
        shapes = set()
        for name in names:
            with stream.open(name) as file, Image.open(file) as image:
                shapes.add(np.array(image).shape)
    assert raw == [i % 3 for i in range(len(GOOD))]
    assert shapes == {(16, 16, 3)}
