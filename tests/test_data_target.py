"""Where a prepared data set goes: what is there is kept, replaced only if told, and never half-written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ganformer_cli.data import open_dataset
from ganformer_cli.data.prepare.pipeline import prepare
from ganformer_cli.data.prepare.shards import ShardWriter
from ganformer_cli.errors import DataError, OutputError

IN_USE = "in use|another program has it open"  # what the error says; what Windows' users are told of it


def save(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)).save(path)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Six images of 16x16."""
    for i in range(6):
        save(tmp_path / "source" / f"{i}.png", i)
    return tmp_path / "source"


def test_again_the_same_is_left_alone(source: Path) -> None:
    assert not prepare(source, "set", resolution=16).unchanged
    before = Path("datasets/set/images.zip").stat().st_mtime_ns
    assert prepare(source, "set", resolution=16).unchanged
    assert prepare(source, "set", resolution=16, overwrite=True).unchanged
    assert Path("datasets/set/images.zip").stat().st_mtime_ns == before


def test_a_damaged_set_is_mended(source: Path) -> None:
    prepare(source, "set", resolution=16)
    archive = Path("datasets/set/images.zip")
    whole = archive.read_bytes()
    archive.write_bytes(whole[:-1])
    assert not prepare(source, "set", resolution=16).unchanged
    assert archive.read_bytes() == whole
    archive.unlink()
    prepare(source, "set", resolution=16)
    assert archive.read_bytes() == whole


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"resolution": 8}, "--resolution 16, not 8"),
        ({"ratio": 0.5}, r"--ratio 1.0, not 0.5"),
        ({"background": "black"}, "--background #ffffff, not #000000"),
        ({"max_images": 3}, "--max-images None, not 3"),
        ({"compression": "none"}, "--compression png, not none"),
        ({"shards_num": 2}, "--shards-num 1, not 2"),
        ({"near_duplicates": True}, "without --near-duplicates"),
    ],
)
def test_another_set_of_the_name_is_replaced_only_if_told(source: Path, change: dict[str, Any], words: str) -> None:
    prepare(source, "set", resolution=16)
    before = Path("datasets/set/manifest.json").read_bytes()
    with pytest.raises(DataError, match=f"{words}; add --overwrite"):
        prepare(source, "set", **{"resolution": 16, **change})
    assert Path("datasets/set/manifest.json").read_bytes() == before
    assert not prepare(source, "set", **{"resolution": 16, **change}, overwrite=True).unchanged
    assert Path("datasets/set/manifest.json").read_bytes() != before
    assert os.listdir("datasets") == ["set"]


def test_other_pictures_are_noticed(source: Path) -> None:
    prepare(source, "set", resolution=16)
    save(source / "0.png", 77)
    with pytest.raises(DataError, match="other images"):
        prepare(source, "set", resolution=16)
    save(source / "0.png", 0)
    save(source / "z.png", 0)
    with pytest.raises(DataError, match="other images"):
        prepare(source, "set", resolution=16)


def test_what_is_not_ours_is_never_replaced(source: Path) -> None:
    mine = Path("datasets/set/thesis.tex")
    mine.parent.mkdir(parents=True)
    mine.write_text("years of work", encoding="utf-8")
    for overwrite in (False, True):
        with pytest.raises(DataError, match=r"holds something else \(thesis\.tex\)"):
            prepare(source, "set", resolution=16, overwrite=overwrite)
    Path("datasets/file").write_text("a file", encoding="utf-8")
    with pytest.raises(DataError, match="exists and is not a folder"):
        prepare(source, "file", resolution=16, overwrite=True)
    assert mine.read_text(encoding="utf-8") == "years of work"
    Path("datasets/empty").mkdir()
    assert prepare(source, "empty", resolution=16).manifest["count"] == 6


def test_a_damaged_manifest_is_replaced_only_if_told(source: Path) -> None:
    prepare(source, "set", resolution=16)
    Path("datasets/set/manifest.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="damaged"):
        prepare(source, "set", resolution=16)
    prepare(source, "set", resolution=16, overwrite=True)
    assert len(open_dataset("set")) == 6


class StoppedError(Exception):
    """Stands for whatever ends the work in the middle."""


@pytest.mark.parametrize("error", [KeyboardInterrupt, StoppedError])
@pytest.mark.parametrize("there", [False, True])
def test_nothing_half_written_is_left(source: Path, error: type[BaseException], there: bool) -> None:
    data_dir = Path("datasets") if there else Path("deep/down/datasets")
    if there:
        prepare(source, "set", resolution=16)
        before = Path("datasets/set/images.zip").read_bytes()

    def stop(done: int, total: int, skipped: int) -> None:
        if done == 3:
            raise error

    with pytest.raises(error):
        prepare(source, "set", resolution=8, overwrite=True, progress=stop, data_dir=data_dir)
    if there:
        assert os.listdir("datasets") == ["set"]
        assert Path("datasets/set/images.zip").read_bytes() == before
    else:
        assert os.listdir(".") == []


def test_a_full_disk_says_so_and_keeps_the_old_set(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(source, "set", resolution=16)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ShardWriter, "add", full)
    with pytest.raises(OutputError, match=r"datasets.set: No space left.*free some space and run the same again"):
        prepare(source, "set", resolution=8, overwrite=True)
    assert os.listdir("datasets") == ["set"]
    assert open_dataset("set").resolution == 16


@pytest.mark.parametrize("error", [PermissionError(13, "in use"), KeyboardInterrupt()])
def test_a_failed_exchange_brings_the_old_set_back(
    source: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    prepare(source, "set", resolution=16)
    replace = os.replace

    def refuse(old: Path, new: Path) -> None:
        if Path(old).parent.suffix == ".part" and Path(old).name == "set":
            raise error
        replace(old, new)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises((OutputError, KeyboardInterrupt), match=IN_USE if isinstance(error, OSError) else None):
        prepare(source, "set", resolution=8, overwrite=True)
    assert open_dataset("set").resolution == 16
    monkeypatch.setattr(os, "replace", replace)
    assert prepare(source, "set", resolution=8, overwrite=True).resumed == 6  # what was made is not lost either
    assert os.listdir("datasets") == ["set"]
    assert open_dataset("set").resolution == 8


def test_an_old_set_that_cannot_be_put_back_is_not_removed(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(source, "set", resolution=16)
    replace = os.replace

    def refuse(old: Path, new: Path) -> None:
        if Path(new).name == "set":
            raise PermissionError(13, "in use")
        replace(old, new)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OutputError, match=IN_USE):
        prepare(source, "set", resolution=8, overwrite=True)
    (left,) = Path("datasets").iterdir()
    assert open_dataset(str(left / "old")).resolution == 16
    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(DataError, match=r"--resolution 16, not 8"):  # it is back before anything else happens
        prepare(source, "set", resolution=8)
    assert open_dataset("set").resolution == 16


def test_a_target_that_cannot_be_written(source: Path) -> None:
    Path("datasets").write_text("a file", encoding="utf-8")
    with pytest.raises(OutputError, match="--data-dir datasets"):
        prepare(source, "set", resolution=16)
