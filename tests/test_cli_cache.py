"""``ganformer cache``: what is kept is shown, and deleted on demand; nothing else is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Run = Callable[..., Result]


@pytest.fixture
def cache(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with two parts, beside what is nobody's to delete, and a download."""
    folder = own_folder / "cache"
    for name, size in (("operators/a/b.so", 300), ("weights/inception", 200), ("mine.txt", 7)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(bytes(size))
    (own_folder / "datasets" / ".downloads" / "ffhq").mkdir(parents=True)
    (own_folder / "datasets" / ".downloads" / "ffhq" / "a.zip").write_bytes(bytes(50))
    (own_folder / "datasets" / "faces").mkdir()
    monkeypatch.setenv("GANFORMER_CACHE", str(folder))
    return folder


def sizes(result: Result) -> dict[str, tuple[int, int]]:
    assert result.exit_code == 0, result.stderr
    return {part["name"]: (part["files"], part["bytes"]) for part in json.loads(result.stdout)}


def test_what_is_kept_is_shown(ganformer: Run, cache: Path) -> None:
    expected = {
        "operators": (1, 300),
        "weights": (1, 200),
        "snapshots": (0, 0),
        "hub": (0, 0),
        "statistics": (0, 0),
        "trials": (0, 0),
        "scenes": (0, 0),
    }
    assert sizes(ganformer("cache", "--json")) == {**expected, "downloads": (1, 50)}
    table = ganformer("cache").stdout
    assert str(cache / "operators") in table
    assert "deleted" not in table
    assert (cache / "operators/a/b.so").exists()


def test_a_part_is_deleted(ganformer: Run, cache: Path) -> None:
    result = ganformer("cache", "operators", "--clear")
    assert "deleted: 0.0 MiB" in result.stdout
    assert sorted(path.name for path in cache.iterdir()) == ["mine.txt", "weights"]


def test_all_is_deleted_and_nothing_else(ganformer: Run, cache: Path) -> None:
    assert ganformer("cache", "--clear").exit_code == 0
    assert [path.name for path in cache.iterdir()] == ["mine.txt"]
    assert [path.name for path in Path("datasets").iterdir()] == ["faces"]
    assert set(sizes(ganformer("cache", "--json")).values()) == {(0, 0)}


def test_an_unknown_part_is_refused(ganformer: Run, cache: Path) -> None:
    result = ganformer("cache", "everything", "--clear")
    assert result.exit_code == 2
    assert "operators" in result.stderr
    assert (cache / "weights").exists()
