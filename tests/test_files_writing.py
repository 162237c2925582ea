"""Files that other programs hold, and places that cannot be written to."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ganformer_cli import files, system_errors
from ganformer_cli.errors import OutputError


def held(code: int) -> PermissionError:
    """What Windows raises for a file that another program has open."""
    error = PermissionError(errno.EACCES, "The process cannot access the file", "some-file")
    error.winerror = code  # type: ignore[attr-defined]  # elsewhere there is none
    return error


@pytest.fixture
def holder(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int, int], list[str]]:
    """``holder("replace", 2, 32)``: os.replace fails twice with WinError 32; the calls so far are in the list."""
    monkeypatch.setattr(system_errors, "WAITS", (0.0,) * 3)

    def hold(name: str, times: int, code: int) -> list[str]:
        real, calls = getattr(os, name), []

        def call(*arguments: Any, **options: Any) -> Any:
            calls.append(name)
            if len(calls) <= times:
                raise held(code)
            return real(*arguments, **options)

        monkeypatch.setattr(os, name, call)
        return calls

    return hold


@pytest.mark.parametrize("code", [5, 32, 33, 1224])
def test_what_is_held_for_a_moment_is_written_all_the_same(
    holder: Callable[[str, int, int], list[str]], code: int
) -> None:
    calls = holder("replace", 3, code)
    files.write_bytes(Path("a"), b"new")
    assert Path("a").read_bytes() == b"new"
    assert len(calls) == 4


def test_what_stays_held_is_an_error_that_names_the_holder(holder: Callable[[str, int, int], list[str]]) -> None:
    Path("a").write_bytes(b"old")
    holder("replace", 99, 32)
    with pytest.raises(OutputError, match=r"cannot write a: another program has it open \(a virus scanner.*close"):
        files.write_bytes(Path("a"), b"new")
    assert {path.name: path.read_bytes() for path in Path().iterdir()} == {"a": b"old"}


def test_access_denied_may_have_two_reasons(holder: Callable[[str, int, int], list[str]]) -> None:
    holder("replace", 99, 5)
    with pytest.raises(OutputError, match="another program has it open .*, or you may not write there; close"):
        files.write_bytes(Path("a"), b"new")


def test_removing_waits_then_warns_or_raises(holder: Callable[[str, int, int], list[str]]) -> None:
    Path("a").write_bytes(b"")
    Path("b").write_bytes(b"")
    calls = holder("unlink", 10, 32)
    said: list[str] = []
    assert not files.remove(Path("a"), warn=said.append)
    assert len(said) == 1
    assert "cannot delete" in said[0]
    assert "another program" in said[0]
    with pytest.raises(OutputError, match="cannot delete .*another program"):
        files.remove(Path("a"))
    assert len(calls) == 8
    assert files.remove(Path("b"), warn=said.append)
    assert not Path("b").exists()
    assert len(said) == 1


def test_removing_takes_folders_and_what_is_not_there() -> None:
    Path("folder/deep").mkdir(parents=True)
    Path("folder/deep/file").write_bytes(b"")
    assert files.remove(Path("folder"))
    assert files.remove(Path("folder"))
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("EROFS", "mounted for reading only"),
        ("EACCES", "choose a folder that you may write to"),
        ("EPERM", "it is protected"),
        ("ENOSPC", "free some space"),
        ("EDQUOT", "free some space"),
        ("EMFILE", "ulimit -n"),
        ("ENAMETOOLONG", "choose a shorter name"),
    ],
)
def test_each_error_is_named_for_what_it_is(monkeypatch: pytest.MonkeyPatch, name: str, remedy: str) -> None:
    code = getattr(errno, name, None)
    if code is None:
        pytest.skip(f"this system has no {name}")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    words = os.strerror(code) if name != "ENAMETOOLONG" else "File name too long"
    if os.name == "nt" and name in ("EACCES", "EPERM"):
        words, remedy = "another program has it open", "or you may not write there"
    with pytest.raises(OutputError, match=f"cannot write there.a: {words}.*{remedy}"):
        files.write_bytes(Path("there/a"), b"")
    with pytest.raises(OutputError, match=f"--output-dir there: .*{words}.*{remedy}"):
        files.ensure_writable_folder(Path("there"), "--output-dir")


def test_a_name_that_is_too_long_says_so() -> None:
    with pytest.raises(OutputError, match="File name too long; choose a shorter name"):
        files.write_bytes(Path("x" * 300), b"")
    assert files.why_no_file(Path("x" * 300)) == "cannot be read (File name too long)"


@pytest.mark.parametrize(
    ("path", "too_long"),
    [
        ("x" * 256, True),
        ("folder/" + "x" * 256, True),
        (f"C:\\{'y' * 256}\\a", True),
        ("y/" * 130 + "a", True),
        ("a", False),
    ],
)
def test_windows_says_of_a_name_that_is_too_long_that_there_is_no_file(
    monkeypatch: pytest.MonkeyPatch, path: str, too_long: bool
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    reason, remedy = files.reason_and_remedy(FileNotFoundError(errno.ENOENT, "No such file or directory", path))
    assert (reason, remedy == "choose a shorter name") == (
        "File name too long" if too_long else "No such file or directory",
        too_long,
    )


def test_parts_of_one_file_are_removed_and_no_others(tmp_path: Path) -> None:
    for name in (".a[1].npy.x.part", ".a[1].npy.y.part", ".a1.npy.x.part", "a[1].npy"):
        (tmp_path / name).write_bytes(b"")
    files.remove_parts(tmp_path / "a[1].npy")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a1.npy.x.part", "a[1].npy"]
