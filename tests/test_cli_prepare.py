"""``ganformer prepare`` on the command line."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import re
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from ganformer_cli.errors import DownloadError

if TYPE_CHECKING:
    from tests.conftest import Server

from ganformer_cli.data import open_dataset
from tests.tfrecords import example, record

Run = Callable[..., Result]


@pytest.fixture
def photos(own_folder: Path) -> Path:
    """Four images of 70x40 and one broken file."""
    folder = own_folder / "my photos"
    folder.mkdir()
    for i in range(4):
        noise = np.random.default_rng(i).integers(0, 256, (40, 70, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{i}.{'jpg' if i == 3 else 'png'}")
    (folder / "broken.png").write_bytes(b"no image")
    return folder


def test_prepares_and_says_what_comes_next(ganformer: Run, photos: Path) -> None:
    result = ganformer("prepare", "my photos")
    assert result.exit_code == 0, result.stderr
    folder = Path("datasets") / "my photos"
    assert result.stdout.startswith(f"{folder}: 4 images of 32x32 px (")
    assert "skipped 1:\n  1 not an image of a known format: broken.png\n" in result.stdout
    assert result.stdout.endswith('next: ganformer train --dataset "my photos"\n')
    assert "prepare my photos 5/5 images" in result.stderr
    again = ganformer("prepare", "my photos")
    assert again.exit_code == 0
    assert "unchanged" in again.stdout


def test_options(ganformer: Run, photos: Path) -> None:
    line = (
        "prepare --strict False --name set --data-dir data --resolution 64 --ratio 0.5 --max-images 2 --background red"
    )
    result = ganformer(*line.split(), "my photos", "--json")
    assert result.exit_code == 0, result.stderr
    answer = json.loads(result.stdout)
    assert answer == {
        **json.loads(Path("data/set/manifest.json").read_text(encoding="utf-8")),
        "folder": str(Path("data/set")),
        "not_read": {},
        "unchanged": False,
        "resumed": 0,
    }
    assert (answer["count"], answer["height"], answer["width"]) == (2, 32, 64)
    assert answer["background"] == "#ff0000"
    plain = ganformer(*line.split(), "my photos")
    assert plain.stdout.endswith("next: ganformer train --dataset set --data-dir data\n")


def test_skipped_pictures_are_counted_by_reason(ganformer: Run, photos: Path) -> None:
    for i in range(9):
        (photos / f"x{i}.png").write_bytes(b"no image")
    Image.new("RGB", (3, 3)).save(photos / "y.png")
    result = ganformer("prepare", "my photos", "--resolution", "32")
    assert result.exit_code == 0, result.stderr
    assert "skipped 11:\n  10 not an image of a known format: broken.png, x0.png, x1.png and 7 more\n" in result.stdout
    assert "\n  1 too small" in result.stdout
    assert f"all are listed in {Path('datasets/my photos/manifest.json')}\n" in result.stdout


def test_labels_in_the_summary(ganformer: Run, photos: Path) -> None:
    names = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.png"))
    labels = [[name.replace(".png", ".jpg"), 3 * (i % 2)] for i, name in enumerate(names)]
    (photos / "dataset.json").write_text(json.dumps({"labels": [*labels, ["gone.jpg", 1]]}), encoding="utf-8")
    result = ganformer("prepare", "my photos", "--resolution", "32", "--name", "set")
    assert result.exit_code == 0, result.stderr
    assert "labels:     4 classes (0 " in result.stdout
    assert "warning: 2 of 4 classes have no image and will never be drawn: 1, 2\n" in result.stderr
    for note in ("4 labels matched by another extension: ", "1 label of no image in .*gone.jpg\n"):
        assert re.search(f"\nnote: +{note}", result.stdout), result.stdout
    assert result.stdout.endswith("next: ganformer train --dataset set --labels\n")
    strict = ganformer("prepare", "my photos", "--resolution", "32", "--name", "strict", "--strict")
    assert strict.exit_code == 1
    assert "gone.jpg" in strict.stderr
    assert len(strict.stderr.splitlines()) == 1
    assert not Path("datasets/strict").exists()


def test_the_summary(ganformer: Run, photos: Path) -> None:
    for name, size in (("cats", 20), ("dogs", 30)):
        (photos / name).mkdir()
        for i in range(2):
            Image.new("L", (size + 10, size), 9).save(photos / name / f"{i}.png")
    line = "prepare --labels folders --name set --shards-num 2 --resolution 16"
    result = ganformer(*line.split(), "my photos")
    assert result.exit_code == 0, result.stderr
    said = dict(line.split(":", 1) for line in result.stdout.splitlines() if not line.startswith(" "))
    assert {name: said[name].strip() for name in ("kept", "sizes", "channels", "labels", "shards", "preview")} == {
        "kept": "4 of 9 that were looked at",
        "sizes": "30x20 to 40x30",
        "channels": "L 4",
        "labels": "2 classes (cats 2, dogs 2)",
        "shards": "2, each up to 4 images",
        "preview": str(Path("datasets/set/preview.png")),
    }
    assert "of the same (" in said["duplicates"]
    assert sorted(path.name for path in Path("datasets/set").glob("images*")) == [
        "images-00000-of-00002.zip",
        "images-00001-of-00002.zip",
    ]


def test_the_authors_lines(ganformer: Run, photos: Path) -> None:
    line = "prepare --task mine --images-dir photos --format png --ratio 0.7"
    photos.rename("photos")
    result = ganformer(*line.split(), "--shards-num", "1")
    assert result.exit_code == 0, result.stderr
    assert "datasets" in result.stdout
    assert "3 images of 32x22 px" in result.stdout
    sharded = ganformer(*line.split(), "--shards-num", "3", "--overwrite")
    assert sharded.exit_code == 0, sharded.stderr
    assert len(list(Path("datasets/mine").glob("images-*-of-00003.zip"))) == 3


@pytest.mark.parametrize("how", ["pad", "stretch"])
def test_images_are_padded_or_stretched(ganformer: Run, own_folder: Path, how: str) -> None:
    (own_folder / "wide").mkdir()
    for number in range(3):
        Image.new("RGB", (64, 32), (200, 0, 0)).save(own_folder / "wide" / f"{number}.png")
    line = f"prepare wide --fit {how} --resolution 32 --background black".split()
    result = ganformer(*line, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["crop"] == how
    column = open_dataset("wide").image(0)[0, :, 16].tolist()
    assert column == ([0] * 8 + [200] * 16 + [0] * 8 if how == "pad" else [200] * 32)
    assert "unchanged" in ganformer(*line).stdout
    refused = ganformer("prepare", "wide", "--resolution", "32", "--background", "black")
    assert f"was made with --fit {how}, not crop" in refused.stderr


def test_work_that_was_interrupted_is_gone_on_with(
    ganformer: Run, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ganformer_cli.data.prepare import pipeline as room

    def interrupted(*_: Any, **how: Any) -> None:
        how["progress"](0, 5, 0)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(room, "prepare", interrupted)
        result = ganformer("prepare", "my photos")
    assert result.exit_code == 130
    assert "my photos: what is done is kept; the same command resumes from there" in result.stderr
    assert result.stderr.endswith("ganformer prepare: interrupted\n")
    real = room.prepare
    monkeypatch.setattr(room, "prepare", lambda *what, **how: dataclasses.replace(real(*what, **how), resumed=3))
    result = ganformer("prepare", "my photos")
    assert "resumed:    3 images were done before\n" in result.stdout


def test_several_sources_make_several_data_sets(ganformer: Run, photos: Path) -> None:
    photos.rename("one")
    shutil.copytree("one", "two")
    result = ganformer("prepare", "one", "two", "--max-images", "2")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count("next: ") == 2
    shutil.rmtree("datasets/one")
    result = ganformer("prepare", "one", "nothing", "two", "--max-images", "2", "--json")
    assert result.exit_code == 1
    answers = json.loads(result.stdout)
    assert [answer.get("count") for answer in answers] == [2, None, 2]
    assert answers[1]["name"] == "nothing"
    assert "nothing" in answers[1]["error"]
    assert [answers[0]["unchanged"], answers[2]["unchanged"]] == [False, True]
    (line,) = [line for line in result.stderr.splitlines() if "error" in line]
    assert line.startswith("ganformer prepare: error: nothing: nothing")


# Data sets of the catalogue.

ENTRY = """
title = "My images"
licence = "CC0, by nobody"
homepage = "https://example.org/mine"
ratio = 0.5
resolution = 16
images = 5

[[source]]
form = "zip of pictures"
url = "{url}/images.zip"
md5 = "{md5}"
folder = "inside"
gigabytes = 0.001
"""


@pytest.fixture
def own_entry(server: Server, photos: Path) -> Path:
    """``my-set.toml``, an entry whose archive ``server`` has: four images in a folder, one elsewhere."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for path in sorted(photos.iterdir()):
            archive.write(path, f"inside/{path.name}")
        archive.write(photos / "0.png", "elsewhere.png")
        archive.writestr("noise", np.random.default_rng(0).bytes(1 << 20))
    server.content = stream.getvalue()
    md5 = hashlib.md5(server.content, usedforsecurity=False).hexdigest()
    path = Path("my-set.toml")
    path.write_text(ENTRY.format(url=server.url, md5=md5), encoding="utf-8")
    return path


def test_an_entry_of_the_users_own(ganformer: Run, server: Server, own_entry: Path) -> None:
    result = ganformer("prepare", "my-set.toml")
    assert result.exit_code == 0, result.stderr
    assert "4 images of 16x8 px" in result.stdout
    assert "broken.png" in result.stdout
    lines = result.stderr.splitlines()
    assert lines[:2] == ["my-set: My images", "licence: CC0, by nobody (https://example.org/mine)"]
    assert "downloading my-set" in result.stderr
    archive = Path("datasets/.downloads/my-set/images.zip")
    assert f"the download is kept: {archive} (0.0 GB)" in result.stdout
    assert archive.read_bytes() == server.content
    assert len(server.asked) == 1


@pytest.mark.parametrize("kept", [True, False])
def test_what_is_there_is_not_downloaded_again(ganformer: Run, server: Server, own_entry: Path, kept: bool) -> None:
    first = ganformer("prepare", "my-set.toml", "--keep-download", str(kept))
    assert first.exit_code == 0, first.stderr
    assert Path("datasets/.downloads").exists() == kept
    assert ("is kept" in first.stdout) == kept
    again = ganformer("prepare", "my-set.toml", "--json")
    assert json.loads(again.stdout)["unchanged"]
    other = ganformer("prepare", "my-set.toml", "--resolution", "32")
    assert other.exit_code == 1
    assert "was made with --resolution 16, not 32; add --overwrite" in other.stderr
    shards = ganformer("prepare", "my-set.toml", "--shards-num", "2")
    assert "was made with --shards-num 1, not 2; add --overwrite" in shards.stderr
    near = ganformer("prepare", "my-set.toml", "--near-duplicates")
    assert "was made without --near-duplicates; add --overwrite" in near.stderr
    assert len(server.asked) == 1
    anew = ganformer("prepare", "my-set.toml", "--resolution", "32", "--overwrite")
    assert "4 images of 32x16 px" in anew.stdout, anew.stderr
    assert len(server.asked) == (1 if kept else 2)


def test_an_entry_in_the_folder_of_the_data_sets_goes_by_its_name(
    ganformer: Run, server: Server, own_entry: Path
) -> None:
    Path("sets").mkdir()
    own_entry.rename("sets/my-set.toml")
    result = ganformer("prepare", "my-set", "--data-dir", "sets", "--name", "other", "--max-images", "1")
    assert result.exit_code == 0, result.stderr
    assert Path("sets/other/manifest.json").is_file()
    assert Path("sets/.downloads/my-set/images.zip").is_file()
    Path("sets/broken.toml").write_text("title = 3", encoding="utf-8")
    listed = ganformer("prepare", "--list", "--data-dir", "sets")
    assert listed.exit_code == 0
    assert "my-set" in listed.stdout
    assert "warning: " in listed.stderr
    assert "broken.toml" in listed.stderr


def test_an_interrupted_download_goes_on(
    ganformer: Run, server: Server, own_entry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ganformer_cli.cli.progress import ProgressBar

    def interrupting(progress: ProgressBar, done: float, **_: object) -> None:
        if done > 0.2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ProgressBar, "update", interrupting)
        result = ganformer("prepare", "my-set.toml")
    assert result.exit_code == 130
    assert "my-set: what is done is kept; the same command resumes from there" in result.stderr
    again = ganformer("prepare", "my-set.toml")
    assert again.exit_code == 0, again.stderr
    assert "my-set: the download resumes at " in again.stderr
    assert server.ranges[0] is None
    assert server.ranges[1] is not None


def test_an_archive_that_is_there_already(ganformer: Run, server: Server, own_entry: Path) -> None:
    Path("got it.zip").write_bytes(server.content)
    result = ganformer("prepare", "my-set.toml", "--from-file", "got it.zip")
    assert result.exit_code == 0, result.stderr
    assert "4 images of 16x8 px" in result.stdout
    assert "is kept" not in result.stdout
    assert server.asked == []
    Path("got it.zip").write_bytes(b"<html>login</html>")
    result = ganformer("prepare", "my-set.toml", "--from-file", "got it.zip", "--overwrite")
    assert result.exit_code == 1
    assert "--from-file got it.zip: it has none of the checksums" in result.stderr
    assert "--no-check" in result.stderr
    result = ganformer("prepare", "my-set.toml", "--from-file", "got it.zip", "--overwrite", "--no-check")
    assert result.exit_code == 1
    assert "got it.zip" in result.stderr
    numpy_file = Path("images.npy")
    np.save(numpy_file, np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8))
    line = "prepare my-set.toml --from-file images.npy --no-check --format npy --overwrite"
    result = ganformer(*line.split())
    assert "3 images of 16x8 px" in result.stdout, result.stderr


def as_record(pixels: np.ndarray[Any, Any]) -> bytes:
    """An image as StyleGAN's TFRecord files hold it."""
    planes = pixels.transpose(2, 0, 1)
    return record(example(shape=list(planes.shape), data=planes.tobytes()))


def test_tfrecords_in_a_zip_of_drive(ganformer: Run, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    from ganformer_cli.data.prepare import acquire as room

    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 32, 3), np.uint8)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("town/town-r05.tfrecords", b"".join(map(as_record, pixels)))
        archive.writestr("town/town-r04.tfrecords", b"".join(map(as_record, pixels[:, ::2, ::2])))
    server.content = stream.getvalue()
    question = '<html><a href="/uc?export=download&amp;confirm=a1B2&amp;id=1t9Qhxm0iHFd3k">Download anyway</a></html>'
    server.answer = lambda server, request: (
        server.file(request) if "confirm" in request.query else request.page(question)
    )
    monkeypatch.setattr(room, "DRIVE", server.url)
    md5 = hashlib.md5(server.content, usedforsecurity=False).hexdigest()
    text = 'title = "T"\nlicence = "L"\nratio = 0.5\nresolution = 32\n[[source]]\nform = "zip of tfrecords"\n'
    Path("town.toml").write_text(f'{text}drive = "1t9Qhxm0iHFd3k"\nmd5 = "{md5}"\n', encoding="utf-8")
    result = ganformer("prepare", "town.toml", "--json")
    assert result.exit_code == 0, result.stderr
    answer = json.loads(result.stdout)
    assert (answer["count"], answer["width"], answer["height"]) == (3, 32, 16)
    with zipfile.ZipFile("datasets/town/images.zip") as archive:
        for number, picture in enumerate(pixels):
            with archive.open(f"00000/img0000000{number}.png") as png, Image.open(png) as image:
                assert np.array_equal(np.asarray(image), picture)


def test_an_lmdb_in_a_zip(ganformer: Run, server: Server, photos: Path) -> None:
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open("bedroom_lmdb", map_size=1 << 20) as database, database.begin(write=True) as transaction:
        for path in sorted(photos.glob("?.png")):
            transaction.put(path.name.encode(), path.read_bytes())
    shutil.make_archive("bedroom", "zip", ".", "bedroom_lmdb")
    server.content = Path("bedroom.zip").read_bytes()
    text = 'title = "T"\nlicence = "L"\nratio = 1\nresolution = 32\n[[source]]\nform = "zip of lmdb"\n'
    Path("rooms.toml").write_text(f'{text}url = "{server.url}/bedroom.zip"\n', encoding="utf-8")
    result = ganformer("prepare", "rooms.toml", "--keep-download", "False")
    assert result.exit_code == 0, result.stderr
    assert "3 images of 32x32 px" in result.stdout
    assert sorted(os.listdir("datasets")) == ["rooms"]


def test_all_known_data_sets_at_once(ganformer: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from ganformer_cli.data.prepare import acquire as room

    asked: list[str] = []

    def nothing(address: str, *_: Any, **__: Any) -> None:
        asked.append(address)
        raise DownloadError(f"{address} cannot be had")

    monkeypatch.setattr(room, "fetch", nothing)
    monkeypatch.setattr(room, "fetch_drive", nothing)
    monkeypatch.setattr(room.shutil, "disk_usage", lambda path: SimpleNamespace(free=1 << 50))
    result = ganformer(
        *["prepare", "--ffhq", "--cityscapes", "clevr", "--clevr", "--bedrooms", "--max-images", "100000"]
    )
    assert result.exit_code == 1
    errors = [line for line in result.stderr.splitlines() if ": error: " in line]
    assert [line.split()[3] for line in errors] == ["clevr:", "ffhq:", "cityscapes:", "bedrooms:"]
    assert len(asked) == 5  # clevr has two sources
    assert result.stderr.count("\nlicence: ") == 4
    asked.clear()
    result = ganformer("prepare", "clevr", "--source", "2")
    assert result.exit_code == 1
    assert asked == ["https://dl.fbaipublicfiles.com/clevr/CLEVR_v1.0.zip"]
    monkeypatch.setattr(room.shutil, "disk_usage", lambda path: SimpleNamespace(free=1 << 30))
    asked.clear()
    result = ganformer("prepare", "bedrooms", "--max-images", "1000", "--data-dir", "elsewhere")
    assert "bedrooms does not fit: it needs about" in result.stderr
    assert not Path("elsewhere").exists()
    assert asked == []


def test_the_catalogue_is_shown(ganformer: Run) -> None:
    lines = ganformer("prepare", "--list").stdout.splitlines()
    assert lines[0].split() == ["name", "title", "images", "GB", "ratio", "licence"]
    (clevr,) = [line for line in lines if line.startswith("clevr")]
    for words in ("CLEVR: rendered solids on a table", " 100000 ", " 6 or 18 ", " 0.75 ", "CC BY 4.0"):
        assert words in clevr
    listed = {entry["name"]: entry for entry in json.loads(ganformer("prepare", "--list", "--json").stdout)}
    assert list(listed) == ["bedrooms", "cityscapes", "clevr", "ffhq", "scenes"]
    assert listed["ffhq"]["images"] == 70000
    assert listed["ffhq"]["sources"][0]["checksum"] == "md5:74de4f07dc7bfb07c0ad4471fdac5e67"
    assert listed["scenes"]["sources"] == []


def test_a_data_set_is_verified(ganformer: Run, photos: Path) -> None:
    ganformer("prepare", "my photos", "--name", "set")
    folder = Path("datasets/set")
    for word in ("set", str(folder)):
        result = ganformer("prepare", "--verify", word)
        assert result.exit_code == 0, result.stderr
        assert result.stdout == f"{folder}: intact, 4 images in 1 shard\n"
    archive = folder / "images.zip"
    archive.write_bytes(archive.read_bytes()[:-100])
    result = ganformer("prepare", "--verify", "set")
    assert result.exit_code == 1
    assert "images.zip" in result.stdout
    assert f"--verify {folder}: " in result.stderr
    result = ganformer("prepare", "--verify", "set", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["ok"] is False


def test_the_formats_are_those_that_are_read() -> None:
    from ganformer_cli.cli import prepare as command
    from ganformer_cli.config.source_formats import DOWNLOAD_FORMATS, SOURCE_FORMATS
    from ganformer_cli.data.prepare.options import COMPRESSIONS

    assert {format for format, _ in DOWNLOAD_FORMATS.values()} <= set(SOURCE_FORMATS)
    options = {parameter.name: parameter for parameter in command.command.params}
    assert options["format"].type.choices == SOURCE_FORMATS  # type: ignore[attr-defined]
    assert options["compression"].type.choices == COMPRESSIONS  # type: ignore[attr-defined]


def test_a_name_without_the_ending_of_an_archive(ganformer: Run, photos: Path) -> None:
    for ending in ("tar.gz", "tar"):
        with tarfile.open(f"photos.1.{ending}", "w:gz" if ending.endswith("gz") else "w") as archive:
            archive.add("my photos", "x")
        result = ganformer("prepare", f"photos.1.{ending}", "--max-images", "1", "--overwrite")
        assert result.exit_code == 0, result.stderr
        assert Path("datasets/photos.1").is_dir()


def test_a_known_data_set_gets_its_usual_ratio(ganformer: Run, photos: Path) -> None:
    result = ganformer("prepare", "my photos", "--name", "cityscapes")
    assert "4 images of 64x32 px" in result.stdout
    result = ganformer("prepare", "my photos", "--name", "cityscapes", "--ratio", "1", "--overwrite")
    assert "4 images of 32x32 px" in result.stdout


def test_a_folder_of_a_catalogue_name_is_a_folder(ganformer: Run, photos: Path) -> None:
    photos.rename("clevr")
    assert ganformer("prepare", "clevr").exit_code == 0


@pytest.mark.parametrize(
    ("line", "status", "words"),
    [
        ("", 2, "SOURCE is missing; give the path of a folder or a file of images, or the name of a known data set"),
        ("photos --images-dir other/photos", 2, "two SOURCEs would both be named photos"),
        ("one two --name x", 2, "--name x needs a single SOURCE"),
        ("photos --max-images 0", 2, "--max-images"),
        ("photos --shards-num 0", 2, "--shards-num"),
        ("photos --workers 0", 2, "--workers"),
        ("photos --format bmp", 2, "--format"),
        ("photos --compression zstd", 2, "--compression"),
        ("photos --from-file x.zip", 2, "--from-file x.zip needs one data set of the catalogue, as in: ganformer"),
        ("ffhq clevr --from-file x.zip", 2, "ganformer prepare ffhq --from-file x.zip"),
        ("ffhq --no-check", 2, "--check False needs --from-file"),
        ("photos --source 2", 2, "--source needs one data set of the catalogue"),
        ("ffhq --source 0", 2, "--source"),
        ("ffhq --format png", 2, "--format png: the catalogue knows what ffhq is"),
        ("one two --labels labels.csv", 2, "--labels labels.csv needs a single SOURCE"),
        ("photos --list", 2, "--list takes no SOURCE"),
        ("--ffhq --verify x", 2, "--verify takes no SOURCE"),
        ("--verify x --list", 2, "run it alone"),
        ("missing", 1, "missing does not exist"),
        ("clever", 1, "clever does not exist, and no known data set has this name; did you mean clevr?"),
        ("missing.toml", 1, "missing.toml"),
        ("mine.toml", 1, "mine.toml is not a valid catalogue entry: licence is missing"),
        ("photos --name a/b", 1, "--name 'a/b'"),
        ("photos --resolution 33", 1, "--resolution 33"),
        ("photos --ratio 100", 1, "--ratio 100"),
        ("photos --strict", 1, "broken.png: not an image of a known format"),
        ("photos --format lmdb", 1, "photos"),
        ("photos --background nothing", 1, "--background 'nothing'"),
        ("photos --resolution 128", 1, "lower --resolution"),
        ("photos --data-dir photos/broken.png", 1, "--data-dir"),
        ("photos --labels none.csv", 1, "none.csv"),
        ("scenes", 1, "ganformer train --dataset scenes"),
        ("photos --name scenes", 1, "built-in"),
        ("--verify x", 1, "--verify x: neither a data set in datasets nor a folder"),
        ("--verify photos", 1, "photos holds no prepared data set"),
        ("ffhq --from-file x.zip", 1, "--from-file x.zip does not exist"),
        ("ffhq --from-file photos", 1, "ganformer prepare photos --name ffhq"),
        ("ffhq --source 2", 1, "--source 2: ffhq has 1"),
        ("ffhq --name a/b", 1, "--name 'a/b'"),
        ("ffhq --resolution 33", 1, "--resolution 33"),
        ("ffhq --background nothing", 1, "--background 'nothing'"),
    ],
)
def test_wrong_lines(
    ganformer: Run, photos: Path, monkeypatch: pytest.MonkeyPatch, line: str, status: int, words: str
) -> None:
    from ganformer_cli.data.prepare import acquire as room

    for asks in ("fetch", "fetch_drive"):
        monkeypatch.setattr(room, asks, lambda *_, **__: pytest.fail("the network is asked"))
    photos.rename("photos")
    Path("mine.toml").write_text('title = "x"', encoding="utf-8")
    before = sorted(os.listdir("."))
    result = ganformer("prepare", *line.split())
    assert result.exit_code == status, result.output
    assert words in result.stderr
    assert result.stderr.rstrip().splitlines()[-1].startswith("ganformer prepare: error: ")
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert sorted(os.listdir(".")) == before
