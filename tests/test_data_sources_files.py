"""Sources of image files: folders, zips and tars. The same order every time, damage named, names do no harm."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from ganformer_cli.data.sources import SOURCE_FORMATS, Item, Source, open_source
from ganformer_cli.errors import ConfigError, DataError


def pixels(seed: int, side: int = 8) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)


def png(seed: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels(seed)).save(stream, "PNG")
    return stream.getvalue()


def decoded(item: Item) -> npt.NDArray[np.uint8]:
    assert isinstance(item.data, bytes), item.error
    return np.asarray(Image.open(io.BytesIO(item.data)))


# In no order; sorted by their full names they are 4, 2, 0, 3, 1.
FILES = {"b/2.png": 0, "ü ü.png": 1, "a/3.PNG": 2, "b/x/1.png": 3, "a.png": 4}
SORTED = ("a.png", "a/3.PNG", "b/2.png", "b/x/1.png", "ü ü.png")
HIDDEN = (".hidden.png", "a/._3.png", "__MACOSX/a.png", ".git/c.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, seed in FILES.items():
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(seed))
    for name in HIDDEN:
        path = tmp_path / "folder" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"hidden")
    (tmp_path / "folder" / "notes.txt").write_text("no image", encoding="utf-8")
    return tmp_path / "folder"


def zipped(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def tarred(path: Path, files: dict[str, bytes] | list[tuple[str, bytes]], mode: Any = "w", **options: Any) -> Path:
    with tarfile.open(path, mode, **options) as archive:
        for name, data in files.items() if isinstance(files, dict) else files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def contents() -> dict[str, bytes]:
    return {**{name: png(seed) for name, seed in FILES.items()}, **dict.fromkeys(HIDDEN, b""), "notes.txt": b"no"}


def check(source: Source, names: tuple[str, ...] = SORTED) -> None:
    """All of :data:`FILES` in this order, from any start, the same whenever asked."""
    with source:
        assert source.count() == 5
        assert source.others() == 1
        items = list(source.items())
        assert tuple(item.name for item in items) == names
        for item in items:
            assert np.array_equal(decoded(item), pixels(FILES[item.name]))
            assert (item.label, item.error) == (None, "")
        for start in range(7):
            assert list(source.items(start)) == items[start:]
        assert len(list(source.samples(3))) == 3
        assert set(source.samples(3)) <= set(items)
        assert list(source.samples(9)) == items
        assert source.labels.kind is None
        assert source.fingerprint() == source.fingerprint()
        assert len(source.fingerprint()) == 64


def test_folder(folder: Path) -> None:
    source = open_source(folder)
    assert source.format == "folder"
    check(source)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip(tmp_path: Path, method: int) -> None:
    source = open_source(zipped(tmp_path / "no-suffix", contents(), method))
    assert source.format == "zip"
    check(source)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tar(tmp_path: Path, mode: str, format: int) -> None:
    source = open_source(tarred(tmp_path / "no-suffix", contents(), mode, format=format))
    assert source.format == "tar"
    check(source, tuple(FILES))  # as they lie


def test_tar_with_zstandard(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    plain = tarred(tmp_path / "plain", contents())
    packed = tmp_path / "packed"
    packed.write_bytes(zstandard.ZstdCompressor().compress(plain.read_bytes()))
    check(open_source(packed), tuple(FILES))
    noise = {f"{i}.png": np.random.default_rng(i).bytes(300_000) for i in range(3)}
    packed.write_bytes(zstandard.ZstdCompressor().compress(tarred(plain, noise).read_bytes())[:-300_000])
    with open_source(packed) as source:
        items = list(source.items())
        assert len(items) == source.count() >= 2
        assert items[-1].error.startswith("the archive is damaged here: ")


def test_zstandard_is_named_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.tar.zst").write_bytes(b"\x28\xb5\x2f\xfd rest")
    for module in ("zstandard", "compression.zstd"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DataError, match=r"a\.tar\.zst needs .* zstandard: pip install"):
        open_source(tmp_path / "a.tar.zst")


def test_one_suffix_only(folder: Path, tmp_path: Path) -> None:
    (folder / "c.jpeg").write_bytes(b"an image, perhaps")
    archive = zipped(tmp_path / "zip", {"a.png": b"", "b.JPG": b"", "c.jpeg": b"", "d.gif": b""})
    tar = tarred(tmp_path / "tar", {"a.png": b"", "b.JPG": b"", "c.jpeg": b"", "d.gif": b""})
    for path, png_count, jpg_count in ((folder, 5, 1), (archive, 1, 2), (tar, 1, 2)):
        with open_source(path, format="png") as source:
            assert source.count() == png_count
        with open_source(path, format="jpg") as source:
            assert source.count() == jpg_count
    with pytest.raises(DataError, match="holds no images ending in .jpg or .jpeg; the 6 files"):
        open_source(zipped(tmp_path / "six.zip", {f"{i}.png": b"" for i in range(6)}), format="jpg")


def test_the_fingerprint_changes_with_the_files(folder: Path, tmp_path: Path) -> None:
    def prints() -> list[str]:
        paths = (folder, zipped(tmp_path / "zip", files), tarred(tmp_path / "tar", files))
        for path in paths[1:]:
            os.utime(path, ns=(1, 1 + len(files)))
        found = []
        for path in paths:
            with open_source(path) as source:
                found.append(source.fingerprint())
        return found

    files = contents()
    before = prints()
    assert before == prints()
    files["new.png"] = png(9)
    (folder / "new.png").write_bytes(png(9))
    assert all(a != b for a, b in zip(before, prints(), strict=True))


# ---- Folders ---------------------------------------------------------------------------------------------------------


def test_folders_are_walked_in_the_order_of_full_names(tmp_path: Path) -> None:
    names = ["a/z.png", "a-b.png", "a.png", "a/b/c.png", "a/b.png", "A/x.png", "a b/x.png", "b.png", "é/1.png", "0.png"]
    for name in names:
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    on_disk = sorted(path.relative_to(tmp_path / "set").as_posix() for path in (tmp_path / "set").rglob("*.png"))
    with open_source(tmp_path / "set") as source:
        assert [item.name for item in source.items()] == on_disk


def linked(link: Path, target: Path) -> None:
    try:
        link.symlink_to(target, target_is_directory=target.is_dir())
    except OSError:
        pytest.skip("no symbolic links here")
    if not link.is_symlink():
        pytest.skip("no symbolic links here: Wine makes none, and says nothing")


def test_links_are_followed_and_loops_end(folder: Path, tmp_path: Path) -> None:
    linked(folder / "b" / "up", folder)
    linked(folder / "b" / "itself", folder / "b" / "itself")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "new.png").write_bytes(png(7))
    linked(folder / "c", tmp_path / "elsewhere")
    with open_source(folder) as source:
        assert [item.name for item in source.items()] == [*SORTED[:4], "c/new.png", SORTED[4]]


def test_files_that_cannot_be_read_are_items_with_a_reason(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    linked(folder / "broken.png", folder / "nowhere.png")
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe.png")
    with (folder / "huge.png").open("wb") as stream:
        stream.truncate((1 << 30) + 1)
    with open_source(folder) as source:
        errors = {item.name: item.error for item in source.items() if item.data is None}
    assert "named pipe" in errors.pop("pipe.png", "a named pipe")
    assert errors == {"broken.png": "no such file or directory", "huge.png": "a file of 1024 MiB"}


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    name = b"\xff\xfe.png"
    try:
        (tmp_path / "set").mkdir()
        with open(os.path.join(os.fsencode(tmp_path / "set"), name), "wb") as stream:
            stream.write(png(0))
    except (OSError, UnicodeDecodeError):  # the latter on Windows
        pytest.skip("this file system has text names only")
    with open_source(tmp_path / "set") as source:
        (item,) = source.items()
    item.name.encode("utf-8")
    assert np.array_equal(decoded(item), pixels(0))


# ---- Archives --------------------------------------------------------------------------------------------------------

BACKSLASHED = "C:\\x.png".replace(os.sep, "/")  # Python writes no backslash into a zip on Windows
ODD_NAMES = ("../../x.png", "/etc/x.png", BACKSLASHED, "a" * 300 + ".png", "sp ace.png", "日本.png", "con.png")


def test_names_in_archives_are_only_names(tmp_path: Path) -> None:
    files = {name: png(i) for i, name in enumerate(ODD_NAMES)}
    for path in (zipped(tmp_path / "zip", files), tarred(tmp_path / "tar", files)):
        with open_source(path) as source:
            items = {item.name: item for item in source.items()}
        assert set(items) == set(ODD_NAMES)
        for i, name in enumerate(ODD_NAMES):
            assert np.array_equal(decoded(items[name]), pixels(i))
    assert {path.name for path in tmp_path.iterdir()} == {"zip", "tar"}


@pytest.mark.parametrize("longest", [1, 3000])  # which are put in order in two ways
def test_many_names_in_no_order(tmp_path: Path, longest: int) -> None:
    names = [f"{'é' * (i % 7)}{i * 7919 % 1000}{'😀' * (i % 3)}.png" for i in range(1000)]
    names.append("x" * longest + ".png")
    with open_source(zipped(tmp_path / "zip", dict.fromkeys(names, b""))) as source:
        assert [item.name for item in source.items()] == sorted(names)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_files_of_one_name_both_count(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        for name, seed in (("b.png", 0), ("a.png", 1), ("b.png", 2)):
            archive.writestr(name, png(seed))
    tarred(tmp_path / "tar", [("b.png", png(0)), ("a.png", png(1)), ("b.png", png(2))])
    for file, order in (("zip", (1, 0, 2)), ("tar", (0, 1, 2))):
        with open_source(tmp_path / file) as source:
            for item, seed in zip(source.items(), order, strict=True):
                assert np.array_equal(decoded(item), pixels(seed))


def test_a_zip_behind_a_program_and_one_with_a_comment(tmp_path: Path) -> None:
    path = zipped(tmp_path / "zip", contents())
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"PK\5\6 is how the end begins" * 99
    (tmp_path / "behind").write_bytes(b"#!/bin/sh\n" * 1000 + path.read_bytes())
    check(open_source(tmp_path / "behind"))


def test_a_zip_of_the_large_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 2)
    path = zipped(tmp_path / "zip", contents())
    monkeypatch.undo()
    assert b"PK\6\6" in path.read_bytes()
    check(open_source(path))
    (tmp_path / "behind").write_bytes(b"#!/bin/sh\n" * 1000 + path.read_bytes())
    check(open_source(tmp_path / "behind"))


def test_damage_inside_a_zip_is_of_one_picture(tmp_path: Path) -> None:
    path = zipped(tmp_path / "zip", {"a.png": png(0), "b.png": png(1), "c.png": png(2)}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[data.index(png(1)) + 100] ^= 1
    path.write_bytes(data)
    with open_source(path) as source:
        a, b, c = source.items()
    assert np.array_equal(decoded(a), pixels(0))
    assert np.array_equal(decoded(c), pixels(2))
    assert (b.name, b.data, b.error) == ("b.png", None, "damaged in the zip: its checksum is wrong")


def test_a_password_is_named(tmp_path: Path) -> None:
    path = zipped(tmp_path / "all.zip", {"a.png": png(0), "b.png": png(1)})
    data = path.read_bytes()
    first = data.index(b"PK\1\2")
    one = bytearray(data)
    one[first + 8] |= 1
    path.write_bytes(one)
    with open_source(path) as source:
        assert [item.error for item in source.items()] == ["password-protected", ""]
    one[data.index(b"PK\1\2", first + 1) + 8] |= 1
    path.write_bytes(one)
    with pytest.raises(DataError, match=r"all\.zip is password-protected; unpack"):
        open_source(path)


def test_a_file_that_claims_a_gigabyte_is_not_read(tmp_path: Path) -> None:
    path = zipped(tmp_path / "zip", {"a.png": png(0), "b.png": png(1)})
    data = bytearray(path.read_bytes())
    struct.pack_into("<L", data, data.index(b"PK\1\2") + 24, (1 << 30) + (1 << 20))
    path.write_bytes(data)
    with open_source(path) as source:
        assert [item.error for item in source.items()] == ["a file of 1025 MiB", ""]
    info = tarfile.TarInfo("a.png")
    info.size = (1 << 30) + (1 << 20)
    (tmp_path / "tar").write_bytes(tarred(tmp_path / "b", {"b.png": png(1)}).read_bytes()[:1024] + info.tobuf())
    with (tmp_path / "tar").open("r+b") as stream:
        stream.truncate(1536 + info.size + 1024)
    with open_source(tmp_path / "tar") as source:
        assert [item.error for item in source.items()] == ["", "a file of 1025 MiB"]


@pytest.mark.slow
def test_a_bomb_in_a_zip_unpacks_no_further_than_it_says(tmp_path: Path) -> None:
    path = zipped(tmp_path / "zip", {"a.png": bytes(50_000_000)})
    data = bytearray(path.read_bytes())
    struct.pack_into("<L", data, data.index(b"PK\1\2") + 24, 1000)
    path.write_bytes(data)
    with open_source(path) as source:
        (item,) = source.items()
    assert item.error == "damaged in the zip: its checksum is wrong"


def test_links_in_a_tar_are_not_lost_in_silence(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "tar", "w") as archive:
        info = tarfile.TarInfo("./a.png")
        info.size = len(png(0))
        archive.addfile(info, io.BytesIO(png(0)))
        for name, kind in (("b.png", tarfile.SYMTYPE), ("c.png", tarfile.LNKTYPE), ("d", tarfile.DIRTYPE)):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, "a.png"
            archive.addfile(link)
    with open_source(tmp_path / "tar") as source:
        assert [(item.name, item.error) for item in source.items()] == [
            ("a.png", ""), ("b.png", "a link inside the archive"), ("c.png", "a link inside the archive"),
        ]  # fmt: skip
        assert source.others() == 0


@pytest.mark.parametrize("compressed", [False, True])
def test_a_tar_cut_short_gives_what_stands_before(tmp_path: Path, compressed: bool) -> None:
    names = [f"{i}.png" for i in range(4)]
    whole = tarred(tmp_path / "whole", {name: png(i) for i, name in enumerate(names)}).read_bytes()
    block = (len(png(0)) + 511) // 512 * 512 + 512
    for at in (0, 100, 512, 600, 700):  # of the third entry: before it, in its header, in the file
        cut = whole[: 2 * block + at]
        (tmp_path / "cut").write_bytes(gzip.compress(cut) if compressed else cut)
        with open_source(tmp_path / "cut") as source:
            items = list(source.items())
            assert source.count() == len(items) == 3, at
            assert [list(source.items(start)) for start in range(4)] == [items[start:] for start in range(4)]
        assert [item.error == "" for item in items] == [True, True, False]
        assert items[2].error.startswith("the archive is damaged here: ")
        assert items[2].name == ("2.png" if at >= 512 else "image 2")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_packed_tar_cut_short_gives_what_stands_before(tmp_path: Path, mode: str) -> None:
    noise = {f"{i}.png": np.random.default_rng(i).bytes(300_000) for i in range(6)}
    whole = tarred(tmp_path / "whole", noise, mode).read_bytes()
    (tmp_path / "cut").write_bytes(whole[: len(whole) * 7 // 10])
    with open_source(tmp_path / "cut") as source:
        items = list(source.items())
        assert source.count() == len(items)
        assert 2 <= len(items) <= 6
        assert [item.data for item in items[:-1]] == list(noise.values())[: len(items) - 1]
        assert items[-1].error.startswith("the archive is damaged here: ")
        assert list(source.items(2)) == items[2:]


def test_damage_in_a_tar_is_not_its_end(tmp_path: Path) -> None:
    whole = bytearray(tarred(tmp_path / "tar", {f"{i}.png": png(i) for i in range(4)}).read_bytes())
    block = (len(png(0)) + 511) // 512 * 512 + 512
    whole[2 * block + 10] ^= 1  # in the name of the third
    (tmp_path / "tar").write_bytes(whole)
    with open_source(tmp_path / "tar") as source:
        assert [bool(item.error) for item in source.items()] == [False, False, True]


# ---- What a path is --------------------------------------------------------------------------------------------------

PAGE = b"\n<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title>" + b" " * 9000


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("page.zip", PAGE, "is a web page, not an archive"),
        ("page.tar", PAGE, "is a web page, not an archive"),
        ("empty.zip", b"", "is an empty file"),
        ("text.zip", b"hello" * 500, "is not a known kind of source"),
        ("cut.zip", b"PK\3\4" + bytes(500), r"is damaged or cut short \(its directory at the end is missing\)"),
        ("none.zip", b"PK\5\6" + bytes(18), "holds no images; it is empty"),
        ("none.tar", bytes(10240), "holds no images; it is empty"),
        ("a.7z", b"7z\xbc\xaf" + bytes(99), "is a 7z archive: unpack it"),
        ("a.gz", gzip.compress(b"hello", mtime=0), "is compressed, but not a tar"),
        ("a.png", png(0), "is one image: give the folder"),
        ("a.npy", b"\x93NUMPY\1\0", r"is damaged or cut short"),
        ("a.pkl", b"\x80\x04\x95" + bytes(99), "is a pickle, which can run any code"),
    ],
)
def test_what_is_no_source_is_named(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=message) as raised:
        open_source(tmp_path / name)
    assert name in str(raised.value)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing does not exist"):
        open_source(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no images; it is empty"):
        open_source(tmp_path / "empty")
    (tmp_path / "empty" / "a.txt").write_text("text", encoding="utf-8")
    with pytest.raises(DataError, match="holds no images; the 1 files in it are something else"):
        open_source(tmp_path / "empty")


def test_a_form_that_does_not_fit(folder: Path, tmp_path: Path) -> None:
    archive, tar = zipped(tmp_path / "a.zip", contents()), tarred(tmp_path / "a.tar", contents())
    assert set(SOURCE_FORMATS) > {"png", "jpg", "zip", "tar"}
    with pytest.raises(ConfigError, match="--format gif: choose one of png, jpg"):
        open_source(folder, format="gif")
    for path, forms in ((folder, ("zip", "npy", "hdf5", "lmdb", "tfrecords", "webdataset", "tar")),
                        (archive, ("tar", "npy", "hdf5", "lmdb", "tfrecords", "webdataset")),
                        (tar, ("zip", "npy", "hdf5", "lmdb", "tfrecords"))):  # fmt: skip
        for format in forms:
            with pytest.raises(DataError, match=f"(--format {format}|holds no)") as raised:
                open_source(path, format=format)
            assert path.name in str(raised.value)


def test_a_prepared_set_is_its_zip_and_not_its_preview(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    zipped(folder / "images.zip", {"00000/img00000000.png": png(3), "dataset.json": b'{"labels": null}'})
    (folder / "preview.png").write_bytes(png(0))
    (folder / "manifest.json").write_text('{"format": "ganformer-dataset/2"}', encoding="utf-8")
    with open_source(folder) as source:
        (item,) = source.items()
        assert np.array_equal(decoded(item), pixels(3))
    (folder / "images.zip").unlink()
    for part, seeds in enumerate((range(3), range(3, 5), range(5, 6))):
        files = {f"00000/img{seed:08}.png": png(seed) for seed in seeds}
        labels = json.dumps({"labels": [[name, i % 2] for i, name in enumerate(files)]}).encode()
        zipped(folder / f"images-{part:05}-of-00003.zip", {**files, "dataset.json": labels})
    with open_source(folder) as source:
        items = list(source.items())
        assert source.count() == len(items) == 6
        assert [item.label for item in items] == [0, 1, 0, 0, 1, 0]
        assert (source.labels.kind, source.others()) == ("classes", 0)
        for seed, item in enumerate(items):
            assert np.array_equal(decoded(item), pixels(seed))
        for start in range(7):
            assert list(source.items(start)) == items[start:]
        assert list(source.samples(9)) == items
        assert len(list(source.samples(4))) == 4
        assert source.fingerprint() == source.fingerprint()
    with pytest.raises(DataError, match="--labels folders: .* is a prepared data set in 3 parts"):
        open_source(folder, labels="folders")
