"""No file of a source is missing without a word: what cannot be read is counted, named, and an error under --strict."""

from __future__ import annotations

import io
import json
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from ganformer_cli.data import image_formats
from ganformer_cli.data.file_kinds import FileKind, ImageSelection, is_companion, starts_as_image, unread_text
from ganformer_cli.data.loading.datasets import PreparedDataset, open_dataset
from ganformer_cli.data.sources import open_source

Run = Callable[..., Result]


def image(seed: int = 0, format: str = "PNG", size: int = 16) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format)
    return buffer.getvalue()


#: What lies in a folder as people have it, beside three images.
OTHERS = {
    "clip.mp4": b"\0\0\0\x18ftypmp42", "clip2.MOV": b"\0\0\0\x14ftypqt  ", "drawing.svg": b"<svg xmlns='...'/>",
    "paper.pdf": b"%PDF-1.7", "raw/DSC1.NEF": b"MM\0*" + bytes(100), "more.zip": b"PK\3\4", "odd": b"\1\2\3",
}  # fmt: skip
COMPANIONS = {
    "README.txt": b"hello", "LICENSE": b"free", "Thumbs.db": b"\xd0\xcf", ".DS_Store": b"\0\0\0\1Bud1",
    "__MACOSX/._a.png": b"\0\5\x16\7", "labels.npy": b"", "notes.json": b"{}", "a.xmp": b"<x/>",
}  # fmt: skip


def fill(write: Callable[[str, bytes], None]) -> None:
    """A source of three images, three more that are not called so, and other files."""
    for number in range(3):
        write(f"{number}.png", image(number))
    write("without-suffix", image(3))
    write("sub/photo.jpg_large", image(4, "JPEG"))
    write("photo.dat", image(5, "WEBP"))
    for name, data in {**OTHERS, **COMPANIONS}.items():
        write(name, data)


def folder(path: Path) -> Path:
    def write(name: str, data: bytes) -> None:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)

    fill(write)
    return path


def zipped(path: Path, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        fill(archive.writestr)
    return path


def tarred(path: Path, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]

        def write(name: str, data: bytes) -> None:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))

        fill(write)
    return path


FORMATS: dict[str, Callable[[Path], Path]] = {
    "folder": folder,
    "zip": zipped,
    "stored.zip": lambda path: zipped(path, zipfile.ZIP_STORED),
    "tar": tarred,
    "tar.gz": lambda path: tarred(path, "w:gz"),
}
NOT_READ = {".mov": 1, ".mp4": 1, ".nef": 1, ".pdf": 1, ".svg": 1, ".zip": 1, "without suffix": 1}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("format", FORMATS)
def test_images_are_known_by_their_content_and_the_rest_is_counted(format: str, tmp_path: Path) -> None:
    with open_source(FORMATS[format](tmp_path / f"x.{format}")) as source:
        items = list(source.items())
        assert len(items) == source.count() == 6
        assert all(isinstance(item.data, bytes) and starts_as_image(item.data) for item in items)
        assert dict(source.unread_files().unread) == NOT_READ


@pytest.mark.parametrize("format", ["folder", "zip"])
def test_what_is_trained_on_and_compared_sees_the_same_files(format: str, tmp_path: Path) -> None:
    dataset = open_dataset(str(FORMATS[format](tmp_path / f"x.{format}")))
    assert len(dataset) == 6
    assert dataset.notes == [f"7 files are not read: {unread_text(NOT_READ)}"]


@pytest.mark.parametrize("format", ["folder", "zip", "tar"])
def test_prepare_says_what_it_does_not_read(ganformer: Run, format: str, tmp_path: Path) -> None:
    path = FORMATS[format](tmp_path / f"x.{format}").as_posix()
    strict = ganformer("prepare", path, "--name", "x", "--resolution", "16", "--strict")
    assert strict.exit_code == 1
    assert f"{path}: 7 files are not read: 1 .mov" in strict.stderr.replace("\\", "/")
    assert not Path("datasets").exists()
    done = ganformer("prepare", path, "--name", "x", "--resolution", "16", "--workers", "1")
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].endswith("; 7 files are not read")
    assert "kept:       6 of 13 files: 6 looked at, 7 not read" in lines
    assert any(line.startswith("not read:   1 .mov, 1 .mp4, 1 .nef (camera raw") for line in lines)
    again = ganformer("prepare", path, "--name", "x", "--resolution", "16", "--json")
    answer = json.loads(again.stdout)
    assert answer["unchanged"]
    assert answer["not_read"] == answer["source"]["not_read"] == NOT_READ
    assert "7 files are not read" in again.stderr


def test_nothing_is_said_of_expected_companions(ganformer: Run, tmp_path: Path) -> None:
    for name, data in {"a.png": image(), **COMPANIONS}.items():
        (tmp_path / "x" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x" / name).write_bytes(data)
    done = ganformer("prepare", "x", "--resolution", "16", "--labels", "none", "--strict")
    assert done.exit_code == 0, done.stderr
    assert "not read" not in done.stdout


def test_a_chosen_suffix_leaves_the_others_out_on_purpose(tmp_path: Path) -> None:
    with open_source(folder(tmp_path / "x"), format="png") as source:
        assert (source.count(), dict(source.unread_files().unread)) == (3, {})


def test_a_place_without_images_says_what_lies_there(ganformer: Run, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    for number in range(3):
        (tmp_path / "x" / f"{number}.mov").write_bytes(b"\0\0\0\x14ftypqt  ")
    for line in (["prepare", "x"], ["eval", "--images", "x", "--reals", "x"], ["train", "--dataset", "x"]):
        done = ganformer(*line)
        assert done.exit_code == 1
        assert "x holds no images; the 3 files in it are something else (3 .mov)" in done.stderr


def test_a_webdataset_counts_samples_without_an_image(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name, data in (
            ("0.png", image()), ("0.cls", b"0"), ("0.txt", b"a caption"), ("0.mp4", b"goes with the image"),
            ("1.mp4", b"instead of one"), ("1.cls", b"1"), ("2.bmp", image(2, "BMP")), ("2.cls", b"1"),
        ):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    with open_source(tmp_path / "x.tar") as source:
        assert (source.format, [item.name for item in source.items()]) == ("webdataset", ["0.png", "2.bmp"])
        assert dict(source.unread_files().unread) == {".mp4": 1}


# ----- HEIC -----


@pytest.fixture
def formats_anew() -> Iterator[None]:
    """Formats are looked for again, before the test and after it."""

    def forget() -> None:
        image_formats.readable_formats.cache_clear()
        image_formats.readable_suffixes.cache_clear()

    forget()
    yield
    forget()


@pytest.fixture
def no_heif(formats_anew: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if pillow-heif were not installed."""
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    Image.init()
    monkeypatch.setattr(Image, "OPEN", {key: value for key, value in Image.OPEN.items() if key != "HEIF"})


def phone(path: Path) -> Path:
    """3 JPEGs and 40 HEICs; these are no images, but nobody looks."""
    path.mkdir()
    for number in range(3):
        (path / f"{number}.jpg").write_bytes(image(number, "JPEG"))
    for number in range(40):
        (path / f"IMG_{number:04d}.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    return path


def test_heic_that_cannot_be_read_is_counted_with_what_to_install(
    no_heif: None, ganformer: Run, tmp_path: Path
) -> None:
    phone(tmp_path / "x")
    said = '40 files are not read: 40 .heic (to read them: pip install "ganformer[heif]")'
    done = ganformer("prepare", "x", "--resolution", "16", "--workers", "1")
    assert "3 of 43 files: 3 looked at, 40 not read" in done.stdout
    assert 'not read:   40 .heic (to read them: pip install "ganformer[heif]")' in done.stdout
    strict = ganformer("prepare", "x", "--name", "y", "--resolution", "16", "--strict")
    assert (strict.exit_code, said in strict.stderr) == (1, True)
    assert PreparedDataset(Path("x"), size=(16, 16)).notes[0] == said


@pytest.mark.slow
def test_training_and_scores_name_what_they_do_not_read(no_heif: None, ganformer: Run, tmp_path: Path) -> None:
    phone(tmp_path / "x")
    compared = ganformer("eval", "--images", "x", "--reals", "x", "--json")
    assert json.loads(compared.stdout)["swd"] == 0
    assert "--images x: 40 files are not read: 40 .heic" in compared.stderr
    assert "40 .heic" in ganformer("train", "--dataset", str(tmp_path / "x"), "--dry-run", "--batch-size", "2").stderr


def test_heic_that_is_called_jpg_is_named(no_heif: None, ganformer: Run, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "0.jpg").write_bytes(image(0, "JPEG"))
    (tmp_path / "x" / "1.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    done = ganformer("prepare", "x", "--resolution", "16", "--workers", "1")
    assert '1 HEIC (to read it, pip install "ganformer[heif]"): 1.jpg' in " ".join(done.stdout.split())


@pytest.mark.slow
def test_heic_is_read_where_the_library_is(formats_anew: None, ganformer: Run, tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    (tmp_path / "x").mkdir()
    for number in range(2):
        smooth = Image.fromarray(np.full((64, 64, 3), 60 + 90 * number, np.uint8))
        smooth.save(tmp_path / "x" / f"{number}.HEIC", "HEIF", quality=90)
    shutil.copy(tmp_path / "x" / "0.HEIC", tmp_path / "x" / "no-suffix")
    done = ganformer("prepare", "x", "--resolution", "32", "--workers", "2", "--strict")  # in other processes, too
    assert done.exit_code == 0, done.stderr
    dataset = PreparedDataset(Path("datasets/x"))
    assert len(dataset) == 3
    assert [abs(int(dataset.image(i).mean()) - grey) <= 2 for i, grey in ((0, 60), (1, 150), (2, 60))] == [True] * 3
    scores = json.loads(ganformer("eval", "--images", "x", "--reals", "datasets/x", "--json").stdout)
    assert (scores["swd"], scores["diversity"]) == (0, 1)


# ----- Kinds of files -----


@pytest.mark.parametrize(
    ("format", "name"),
    [("PNG", "a"), ("JPEG", "a.jpg!d"), ("GIF", "a.bin"), ("BMP", "a."), ("TIFF", "a.img"), ("WEBP", "a.b.c"),
     ("PPM", "x.data"), ("AVIF", "x.unknown"), ("JPEG2000", "y")],
)  # fmt: skip
def test_content_decides_where_the_suffix_says_nothing(format: str, name: str) -> None:
    assert ImageSelection().kind(f"sub/{name}", lambda: image(0, format)) is FileKind.IMAGE


@pytest.mark.parametrize("start", [b"", b"BM", b"BMore text than image", b"P6", b"RIFF....WAVE", b"\0" * 64, b"%PDF-1"])
def test_what_only_looks_a_little_like_an_image_is_none(start: bytes) -> None:
    assert ImageSelection().kind("thing.bin", lambda: start) is FileKind.UNREAD


def test_companions() -> None:
    for name in (
        "README",
        "readme.md",
        "LICENSE.txt",
        "labels.csv",
        "train_labels.npy",
        "latents.npy",
        "a.json",
        "x.AAE",
    ):
        assert is_companion(name), name
    for name in ("images.npy", "0001.npy", "a.mp4", "a", "archive.tar.gz", "a.psd1", "model.pkl"):
        assert not is_companion(name), name


def test_many_kinds_are_summed_up() -> None:
    counts = {f".x{number}": 10 - number for number in range(9)}
    assert unread_text(counts).endswith("5 .x5, 9 others")
