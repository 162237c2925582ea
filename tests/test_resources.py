"""Where the shipped folders and the cache are."""

from __future__ import annotations

from pathlib import Path

import pytest

from ganformer_cli.errors import GanformerError
from ganformer_cli.resources import cache_folder, resource_folder


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home of its own, and none of the variables that name another place."""
    for name in ("GANFORMER_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("system", "folder"),
    [
        ("linux", ".cache/ganformer"),
        ("darwin", "Library/Caches/ganformer"),
        ("win32", "AppData/Local/ganformer/Cache"),
    ],
)
def test_cache_is_where_the_system_keeps_caches(
    monkeypatch: pytest.MonkeyPatch, home: Path, system: str, folder: str
) -> None:
    monkeypatch.setattr("sys.platform", system)
    assert cache_folder() == home / folder


@pytest.mark.parametrize(("system", "variable"), [("linux", "XDG_CACHE_HOME"), ("win32", "LOCALAPPDATA")])
def test_the_system_may_say_another_place(
    monkeypatch: pytest.MonkeyPatch, home: Path, system: str, variable: str
) -> None:
    monkeypatch.setattr("sys.platform", system)
    monkeypatch.setenv(variable, str(home / "elsewhere"))
    assert cache_folder().is_relative_to(home / "elsewhere" / "ganformer")


def test_a_relative_place_is_not_one(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the specification of that variable says to ignore it
    assert cache_folder() == home / ".cache" / "ganformer"


def test_ours_goes_before_the_system(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "elsewhere"))
    monkeypatch.setenv("GANFORMER_CACHE", str(home / "ours"))
    assert cache_folder() == home / "ours"


def test_a_folder_that_is_missing_is_a_damaged_installation() -> None:
    assert resource_folder("ops").is_dir()
    with pytest.raises(GanformerError, match="install ganformer again"):
        resource_folder("no-such-folder")
