"""One rule for names of data sets, runs and catalogue entries, good on every system and in every shell."""

from __future__ import annotations

import os
import shlex
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from ganformer_cli.checkpoints.run_folder import choose_run_folder
from ganformer_cli.cli.train_settings import open_data
from ganformer_cli.config.names import MAX_CHARACTERS, MAX_NAME_BYTES, check_name, invalid_reason, quoted, valid_name
from ganformer_cli.errors import ConfigError

Run = Callable[..., Result]

GOOD = (
    "a", "My Photos 2026", "Kätzchen", "猫の写真", "фото", "صور", "v1.5", "photos (1)", "cats & dogs", "it's", "R+B",
    "console", "com", "lpt10", "a,b", "🐶 dogs", "می\u200cخواهم", "x" * 100, "[raw]", "50€",
)  # fmt: skip
BAD = (
    "", " ", "a ", "a.", " a", ".hidden", "-x", "~", "..", ".", "a/b", "a\\b", "C:", "what?", "a*", 'a"b', "<a>", "a|b",
    "con", "CON", "con.v2", "Nul.x", "aux.tar.gz", "prn ", "COM1", "com1.photos", "LPT9", "lpt¹", "con .x",
    "conin$", "clock$",
    "x\n", "a\tb", "a\0b", "a\x7fb", "a\u202eb", "a\u2066b", "a\u200bb", "\u200da", "a\u200db", "a\u00a0b", "a\u2028b",
    "\ufeffa", "$HOME", "`id`", "now!", "100%", "a^b", "a;b", "a\u201db", "\ud800", "x" * 101, "猫" * 67,
)  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_names_that_can_be(name: str) -> None:
    assert check_name("--name", name) == unicodedata.normalize("NFC", name)


@pytest.mark.parametrize("name", BAD)
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(
        ConfigError, match=r"^--expname '.*' cannot be used as a name: .*; use, for example, --expname "
    ) as caught:
        check_name("--expname", name)
    assert all(character.isprintable() for character in str(caught.value))


@pytest.mark.parametrize("text", [*GOOD, *BAD])
def test_every_text_gives_a_name(text: str) -> None:
    for spare in (0, 12):
        name = valid_name(text, spare=spare)
        assert not invalid_reason(name)
        assert len(name) <= MAX_CHARACTERS - spare
        assert len(name.encode()) <= MAX_NAME_BYTES - spare
    if text in GOOD:
        assert valid_name(text) == text


def test_what_becomes_of_other_texts() -> None:
    made = {text: valid_name(text) for text in ("Best!", "100% real", "con", "nul.x", "a/b", "..", "my: photos")}
    assert made == {
        "Best!": "Best", "100% real": "100-real", "con": "my-con", "nul.x": "my-nul.x", "a/b": "a-b", "..": "images",
        "my: photos": "my-photos",
    }  # fmt: skip


def test_both_forms_of_unicode_are_one_name(tmp_path: Path) -> None:
    decomposed = unicodedata.normalize("NFD", "Kätzchen")
    assert check_name("--name", decomposed) == "Kätzchen"
    (tmp_path / f"{decomposed}-000").mkdir()  # as macOS may have written it
    assert choose_run_folder(tmp_path, "Kätzchen", restart=True)[0].name == "Kätzchen-001"


@pytest.mark.parametrize("name", GOOD)
def test_a_quoted_name_is_one_word_with_nothing_special_in_it(name: str) -> None:
    word = quoted(name)
    assert shlex.split(word) == [name]
    # In double quotes bash, cmd and PowerShell take these for something else; bare, hardly any mark is safe.
    assert not set(name) & set('$`!"%')
    assert word == f'"{name}"' or all(mark.isalnum() or mark in "-_.+" or not mark.isascii() for mark in name)


@pytest.fixture
def photos(own_folder: Path) -> Path:
    folder = own_folder / "My Photos 2026"
    folder.mkdir()
    for seed in range(4):
        noise = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{seed}.png")
    return folder


TINY = (
    "--components-num 2 --latent-size 8 --channel-max 4 --mapping-num-layers 2 --batch-size 4 --total-kimg 0.004 "
    "--vis-num 2"
)


@pytest.mark.slow
def test_the_next_line_works_as_printed(ganformer: Run, photos: Path) -> None:
    done = ganformer("prepare", "My Photos 2026", "--resolution", "32", "--workers", "1")
    line = done.stdout.splitlines()[-1]
    assert line == 'next: ganformer train --dataset "My Photos 2026"'
    words = shlex.split(line.removeprefix("next: ganformer "))
    trained = ganformer(*words, *TINY.split(), "--metrics", "none")
    assert trained.exit_code == 0, trained.stderr
    assert Path("results/My Photos 2026-duplex-000").is_dir()
    more = next(line for line in trained.stdout.splitlines() if line.startswith("more"))
    assert ganformer(*shlex.split(more)[2:], "--images-num", "1").exit_code == 0


def test_a_folder_whose_name_cannot_be_one(ganformer: Run, photos: Path) -> None:
    photos.rename("Best of 100%!")
    done = ganformer("prepare", "Best of 100%!", "--resolution", "32", "--workers", "1")
    assert done.exit_code == 0, done.stderr
    assert 'the data set is called "Best of 100", which works on every system; --name chooses another' in done.stderr
    assert done.stdout.splitlines()[-1] == 'next: ganformer train --dataset "Best of 100"'
    # A folder that is trained on as it is gives the run its name, too.
    dataset = open_data({"dataset": "./Best of 100%!", "resolution": 32}, Path("datasets"), on_cpu=True)
    assert valid_name(dataset.name) == "Best of 100"


def test_wrong_names_are_refused_wherever_one_is_given(ganformer: Run, photos: Path) -> None:
    lines = [["prepare", "My Photos 2026", "--name", "con.v2"], ["train", "--expname", "con.v2", "--dry-run"]]
    if os.name != "nt":  # Windows does not let anybody write this file
        Path("con.v2.toml").write_text('title = "x"\nlicence = "y"\nratio = 1.0\n', encoding="utf-8")
        lines.append(["prepare", "con.v2.toml"])
    for line in lines:
        done = ganformer(*line)
        assert done.exit_code == 1
        assert "'con.v2' cannot be used as a name: Windows reserves it for a device" in done.stderr
        assert not Path("datasets").exists()


def test_a_path_is_a_path_whatever_was_prepared(ganformer: Run, photos: Path) -> None:
    photos.rename("faces")
    ganformer("prepare", "faces", "--resolution", "16", "--workers", "1")
    sizes = [open_data({"dataset": name}, Path("datasets"), on_cpu=True).resolution for name in ("faces", "./faces")]
    assert sizes == [16, 32]


def test_every_line_to_be_run_next_is_quoted(ganformer: Run, photos: Path) -> None:
    Image.new("RGB", (20, 20)).save(photos / "odd.png")
    done = ganformer("train", "--dataset", "My Photos 2026", "--dry-run")
    assert 'make a data set of them with: ganformer prepare "My Photos 2026"' in done.stderr
