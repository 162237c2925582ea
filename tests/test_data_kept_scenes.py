"""Drawn scenes that are kept in the cache: the same images, whatever has happened to the file."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from ganformer_cli.data.loading import datasets
from ganformer_cli.data.loading.datasets import SceneDataset


def the_file(cache: Path) -> Path:
    (found,) = (cache / "scenes").iterdir()
    return found


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GANFORMER_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many objects each image had that was drawn."""
    found: list[int] = []
    draw = datasets.render

    def render(scene: datasets.Scene, height: int, width: int) -> datasets.ImageArray:
        found.append(len(scene.objects))
        return draw(scene, height, width)

    monkeypatch.setattr(datasets, "render", render)
    return found


def test_another_process_and_the_next_run_draw_nothing_anew(cache: Path, drawn: list[int]) -> None:
    first = SceneDataset(count=20)
    images = [first.image(index) for index in (3, 19, 0)]
    assert len(drawn) == 3
    for other in (SceneDataset(count=20), pickle.loads(pickle.dumps(first))):  # as a reader of its own receives it
        assert all(np.array_equal(other.image(index), image) for index, image in zip((3, 19, 0), images, strict=True))
        assert len(drawn) == 3
    other.image(4)
    assert len(drawn) == 4
    first.close()
    other.close()


def test_sets_of_other_images_have_files_of_their_own(cache: Path, drawn: list[int]) -> None:
    for dataset in (SceneDataset(count=9), SceneDataset(count=9, seed=1), SceneDataset(count=9, ratio=0.5)):
        dataset.image(2)
        dataset.close()
    assert len(drawn) == len(list((cache / "scenes").iterdir())) == 3


@pytest.mark.parametrize("damage", ["a byte", "cut off", "zeros", "empty"])
def test_a_damaged_file_costs_drawing_and_nothing_else(cache: Path, drawn: list[int], damage: str) -> None:
    dataset = SceneDataset(count=5)
    images = [dataset.image(index) for index in range(5)]
    dataset.close()
    path = the_file(cache)
    content = bytearray(path.read_bytes())
    if damage == "a byte":
        content[len(content) // 2] ^= 1  # of image 2
    lengths = {"cut off": len(content) - 100, "empty": 0}
    path.write_bytes(bytes(len(content)) if damage == "zeros" else content[: lengths.get(damage, len(content))])
    for _ in range(2):
        again = SceneDataset(count=5)
        assert all(np.array_equal(again.image(index), images[index]) for index in range(5))
        again.close()
    assert len(drawn) == 5 + {"a byte": 1, "cut off": 1, "zeros": 5, "empty": 5}[damage]


def test_without_a_cache_that_can_be_written_images_are_drawn(
    tmp_path: Path, drawn: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    monkeypatch.setenv("GANFORMER_CACHE", str(tmp_path / "file"))
    for _ in range(2):
        SceneDataset(count=5).image(1)
    assert len(drawn) == 2


def test_large_sets_are_not_kept(cache: Path, drawn: list[int]) -> None:
    SceneDataset(resolution=64).image(0)
    assert drawn
    assert not cache.exists()
