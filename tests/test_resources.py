"""Where the shipped folders and the cache are."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import platformdirs
import pytest

from ganformer_cli import resources
from ganformer_cli.errors import GanformerError
from ganformer_cli.resources import cache_folder, resource_folder


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home of its own, and none of the variables that name another place."""
    for name in ("GANFORMER_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="of Linux")


def test_cache_is_where_the_system_keeps_caches(home: Path) -> None:
    assert cache_folder() == Path(platformdirs.user_cache_dir("ganformer", appauthor=False))
    assert cache_folder().is_absolute()


@on_linux
def test_the_system_may_say_another_place(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    assert cache_folder() == home / ".cache" / "ganformer"
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "elsewhere"))
    assert cache_folder() == home / "elsewhere" / "ganformer"


@on_linux
def test_a_relative_place_is_not_one(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the specification of that variable says to ignore it
    assert cache_folder() == home / ".cache" / "ganformer"


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch, home: Path) -> Path:
    """A user without HOME and without an entry in the list of users; the folder of temporary files."""
    import pwd

    def unknown(*_: object) -> None:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(pwd, "getpwnam", unknown)
    monkeypatch.setattr(tempfile, "tempdir", str(home))
    resources._temporary_cache.cache_clear()
    return home


@on_linux
def test_without_a_home_there_is_a_cache_all_the_same(monkeypatch: pytest.MonkeyPatch, homeless: Path) -> None:
    folder = cache_folder()
    assert folder.parent == homeless
    assert folder == cache_folder()
    assert folder.stat().st_mode & 0o777 == 0o700
    monkeypatch.setenv("GANFORMER_CACHE", "~/mine")
    with pytest.raises(GanformerError, match="GANFORMER_CACHE ~/mine: .*absolute path"):
        cache_folder()


@on_linux
def test_nobody_else_can_put_libraries_into_that_cache(homeless: Path) -> None:
    folder = cache_folder()
    folder.chmod(0o777)  # as if another user had made it
    resources._temporary_cache.cache_clear()
    private = cache_folder()
    assert private != folder
    assert private.stat().st_mode & 0o777 == 0o700


def test_a_cache_of_ones_own_is_absolute(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("GANFORMER_CACHE", "mine")
    assert cache_folder() == Path.cwd() / "mine"
    if sys.platform == "linux":
        monkeypatch.setenv("GANFORMER_CACHE", "~/mine")
        assert cache_folder() == home / "mine"


def test_ours_goes_before_the_system(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "elsewhere"))
    monkeypatch.setenv("GANFORMER_CACHE", str(home / "ours"))
    assert cache_folder() == home / "ours"


def test_a_folder_that_is_missing_is_a_damaged_installation() -> None:
    assert resource_folder("ops").is_dir()
    with pytest.raises(GanformerError, match="install ganformer again"):
        resource_folder("no-such-folder")
