"""``ganformer prepare`` on the command line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

Run = Callable[..., Result]


@pytest.fixture
def photos(own_folder: Path) -> Path:
    """Four pictures of 70x40 and one broken file."""
    folder = own_folder / "my photos"
    folder.mkdir()
    for i in range(4):
        noise = np.random.default_rng(i).integers(0, 256, (40, 70, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{i}.{'jpg' if i == 3 else 'png'}")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


def test_prepares_and_says_what_comes_next(ganformer: Run, photos: Path) -> None:
    result = ganformer("prepare", "my photos")
    assert result.exit_code == 0, result.stderr
    folder = Path("datasets") / "my photos"
    assert result.stdout.startswith(f"{folder}: 4 pictures of 32x32 px (")
    assert "skipped 1:\n  broken.png: not a picture of a known format\n" in result.stdout
    assert result.stdout.endswith('next: ganformer train --dataset "my photos"\n')
    assert "prepare 5/5 pictures" in result.stderr
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
        "unchanged": False,
    }
    assert (answer["count"], answer["height"], answer["width"]) == (2, 32, 64)
    assert answer["background"] == "#ff0000"
    plain = ganformer(*line.split(), "my photos")
    assert plain.stdout.endswith("next: ganformer train --dataset set --data-dir data\n")


def test_many_skipped_pictures_are_counted(ganformer: Run, photos: Path) -> None:
    for i in range(9):
        (photos / f"x{i}.png").write_bytes(b"")
    result = ganformer("prepare", "my photos")
    assert "skipped 10:" in result.stdout
    assert "and 5 more; all are listed in" in result.stdout


def test_the_authors_lines(ganformer: Run, photos: Path) -> None:
    line = "prepare --task mine --images-dir photos --format png --ratio 0.7"
    photos.rename("photos")
    result = ganformer(*line.split(), "--shards-num", "1")
    assert result.exit_code == 0, result.stderr
    assert "datasets" in result.stdout
    assert "3 pictures of 32x22 px" in result.stdout
    sharded = ganformer(*line.split(), "--shards-num", "5")
    assert sharded.exit_code == 1
    assert "--shards-num 5 is not in this version yet" in sharded.stderr
    known = ganformer(*["prepare", "--ffhq", "--cityscapes", "--clevr", "--bedrooms", "--max-images", "100000"])
    assert known.exit_code == 1
    assert "--ffhq, --cityscapes, --clevr, --bedrooms: downloading is not in this version yet" in known.stderr
    assert "ganformer prepare FOLDER --name ffhq" in known.stderr


def test_a_known_data_set_gets_its_usual_ratio(ganformer: Run, photos: Path) -> None:
    result = ganformer("prepare", "my photos", "--name", "cityscapes")
    assert "4 pictures of 64x32 px" in result.stdout
    result = ganformer("prepare", "my photos", "--name", "cityscapes", "--ratio", "1", "--overwrite")
    assert "4 pictures of 32x32 px" in result.stdout


def test_a_folder_of_a_catalogue_name_is_a_folder(ganformer: Run, photos: Path) -> None:
    photos.rename("clevr")
    assert ganformer("prepare", "clevr").exit_code == 0


@pytest.mark.parametrize(
    ("line", "status", "words"),
    [
        ("", 2, "SOURCE is missing"),
        ("one two", 2, "one SOURCE at a time, not one and two"),
        ("one --images-dir two", 2, "one SOURCE at a time"),
        ("photos --max-images 0", 2, "--max-images"),
        ("photos --format bmp", 2, "--format"),
        ("missing", 1, "missing does not exist"),
        ("photos --name a/b", 1, "--name 'a/b'"),
        ("photos --resolution 33", 1, "--resolution 33"),
        ("photos --ratio 100", 1, "--ratio 100"),
        ("photos --strict", 1, "broken.png: not a picture of a known format"),
        ("photos --format lmdb", 1, "--format lmdb is not in this version yet"),
        ("photos --background nothing", 1, "--background 'nothing'"),
        ("photos --resolution 128", 1, "lower --resolution"),
        ("photos --data-dir photos/broken.png", 1, "--data-dir"),
        ("scenes", 1, "ganformer train --dataset scenes"),
        ("ffhq clevr", 1, "ffhq, clevr: downloading is not in this version yet"),
        ("photos --name scenes", 1, "built-in"),
    ],
)
def test_wrong_lines(ganformer: Run, photos: Path, line: str, status: int, words: str) -> None:
    photos.rename("photos")
    before = sorted(os.listdir("."))
    result = ganformer("prepare", *line.split())
    assert result.exit_code == status, result.output
    assert words in result.stderr
    assert result.stderr.rstrip().splitlines()[-1].startswith("ganformer prepare: error: ")
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert sorted(os.listdir(".")) == before
