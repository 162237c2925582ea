"""Which side does the work, and what is said about it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ganformer_cli.errors import ConfigError, GanformerError
from ganformer_cli.operators import native
from ganformer_cli.operators.build import Build
from ganformer_cli.operators.toolchain import BuildError, NoCompilerError

BUILD = Build(Path("library"), {})
X = torch.zeros(2)


class Library:
    """Stands for the library of the CPU: counts how often it is asked for, and is there or fails."""

    def __init__(self) -> None:
        self.asked = 0
        self.failure: GanformerError | None = None

    def load(self) -> Build:
        self.asked += 1
        if self.failure:
            raise self.failure
        return BUILD


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[Library]:
    """A process in which nothing has been loaded yet."""
    made = Library()
    monkeypatch.setattr(native, "_found", {})
    monkeypatch.setattr(native, "_warned", set())
    monkeypatch.setattr(native, "_load_cpu", made.load)
    with native.use("auto"):
        yield made


def test_loaded_when_first_asked(library: Library, capsys: pytest.CaptureFixture[str]) -> None:
    assert native.serves(X)
    assert native.serves(X, None, X)
    assert library.asked == 1
    assert native.status("cpu") == native.Status(True, build=BUILD)
    assert capsys.readouterr().err == ""


def test_loaded_once_by_many_threads(library: Library) -> None:
    start = threading.Barrier(8)
    answers = []

    def ask() -> None:
        start.wait()
        answers.append(native.serves(X))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [True] * 8
    assert library.asked == 1


def test_a_failure_is_said_once_and_not_tried_again(library: Library, capsys: pytest.CaptureFixture[str]) -> None:
    library.failure = BuildError("g++ 1.0 failed: x.cpp:1: error: no", "mend it")
    assert [native.serves(X) for _ in range(3)] == [False] * 3
    assert library.asked == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ganformer: warning: ")
    for part in ("g++ 1.0 failed: x.cpp:1: error: no", "mend it", "GANFORMER_OPS=reference"):
        assert part in line


def test_a_source_that_cannot_be_read_is_no_traceback(
    library: Library, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreadable() -> Build:
        raise PermissionError(13, "Permission denied", "ops/common.h")

    monkeypatch.setattr(native, "_load_cpu", unreadable)
    assert not native.serves(X)
    assert "ops/common.h" in capsys.readouterr().err


def test_native_makes_the_same_an_error(library: Library, capsys: pytest.CaptureFixture[str]) -> None:
    library.failure = BuildError("g++ 1.0 failed", "mend it")
    with native.use("native"), pytest.raises(GanformerError, match=r"GANFORMER_OPS=native: g\+\+ 1.0 failed; mend it"):
        native.serves(X)
    assert capsys.readouterr().err == ""
    assert not native.serves(X)  # now it does no more than warn
    assert "g++ 1.0 failed" in capsys.readouterr().err


def test_reference_builds_nothing_and_is_silent(library: Library, capsys: pytest.CaptureFixture[str]) -> None:
    with native.use("reference"):
        assert not native.serves(X)
        assert native.status("cpu") == native.Status(False, "GANFORMER_OPS=reference")
    assert library.asked == 0
    assert capsys.readouterr().err == ""


def test_a_side_is_restored(library: Library) -> None:
    with pytest.raises(ZeroDivisionError), native.use("reference"):
        raise ZeroDivisionError
    with native.use("reference"), native.use("native"):
        assert native.serves(X)
    assert native.serves(X)


def test_a_misspelt_side_is_an_error(library: Library) -> None:
    with native.use("natve"):  # type: ignore[arg-type]
        for _ in range(2):
            with pytest.raises(ConfigError, match="GANFORMER_OPS=natve: choose one of auto, native, reference"):
                native.serves(X)


def test_no_compiler_is_told_from_other_failures(library: Library) -> None:
    library.failure = NoCompilerError("no C++ compiler was found", "install one")
    status = native.status("cpu")
    assert status.no_compiler
    assert status.reason == "no C++ compiler was found; install one"


@pytest.mark.parametrize(
    ("tensors", "served"),
    [
        ([X, X.double(), X.bfloat16()], True),
        ([X.half()], False),
        ([X, X.long()], False),
        ([X.to("meta")], False),
        ([X, X.to("meta")], False),
        ([None, X], True),
        ([None], False),
        ([], False),
    ],
)
def test_which_tensors_are_served(library: Library, tensors: list[torch.Tensor | None], served: bool) -> None:
    assert native.serves(*tensors) == served
    with native.use("native"):  # which is no promise for what no library takes
        assert native.serves(*tensors) == served


def test_a_torch_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_found", {})
    monkeypatch.setattr(torch, "__version__", "2.9.1+cu128")
    assert native.status("cpu").reason == "torch 2.9.1+cu128 is too old for them; install torch 2.10 or newer"


def test_cuda_without_a_card_says_so(library: Library) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert "torch sees no NVIDIA card" in native.status("cuda").problem


def test_cuda_needs_what_defines_the_operators(library: Library) -> None:
    library.failure = NoCompilerError("no C++ compiler was found", "install one")
    assert "no C++ compiler was found; install one" in native.status("cuda").reason


def test_registering_waits_for_the_library(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_to_register", [])
    registered: list[str] = []

    @native.when_loaded
    def early() -> None:
        registered.append("early")

    assert registered == []
    assert native._to_register == [early]
    assert native.serves(X)

    @native.when_loaded
    def late() -> None:
        registered.append("late")

    assert registered == ["late"]  # at once, since the library is there


def test_what_cannot_be_loaded_is_built_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that was built elsewhere may want what this machine lacks."""
    given: list[Build | None] = []
    loaded: list[str] = []
    foreign, own = Build(Path("foreign"), {}), Build(Path("own"), {}, fresh=True)

    def find_or_build(build_spec: object, find: object, exclude: Build | None = None, **_: object) -> Build:
        given.append(exclude)
        return own if exclude else foreign

    def load(path: str) -> None:
        if path == "foreign":
            raise OSError("GLIBCXX_3.4.32 not found")
        loaded.append(path)

    monkeypatch.setattr(native, "find_or_build", find_or_build)
    monkeypatch.setattr(torch.ops, "load_library", load)
    assert native._load("cpu", "DEFAULT", lambda: pytest.fail("not asked for")) == own
    assert given == [None, foreign]
    assert loaded == ["own"]


def test_what_was_built_here_and_cannot_be_loaded_is_a_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "library.so"
    path.write_bytes(b"no library")
    monkeypatch.setattr(native, "find_or_build", lambda *_, **__: Build(path, {}, fresh=True))
    with pytest.raises(BuildError, match=r"library.so cannot be loaded: .*delete that file"):
        native._load("cpu", "DEFAULT", lambda: pytest.fail("not asked for"))


def test_the_sources_of_this_version_are_built_and_loaded() -> None:
    """The one that all other tests of native operators rest on: without it they would skip, and nobody would notice."""
    status = native.status("cpu")
    if status.no_compiler:
        pytest.skip(status.reason)
    assert status.native, status.reason
    for name in ("bias_act", "upfirdn2d", "bipartite_attention", "attention_means"):
        assert hasattr(torch.ops.ganformer, name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "status", "said"),
    [
        ("reference", 0, ""),
        ("native", 1, "GanformerError: GANFORMER_OPS=native: no C++ compiler was found"),
        ("", 0, "ganformer: warning: "),
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="on Windows the compiler is not looked for on the PATH")
def test_a_machine_without_a_compiler(tmp_path: Path, backend: str, status: int, said: str) -> None:
    ask = (
        "import sys; sys.modules['ziglang'] = None; import torch; from ganformer_cli.operators import native; "
        "assert not native.serves(torch.ones(1))"
    )
    environment = {**os.environ, "GANFORMER_OPS": backend, "GANFORMER_CACHE": str(tmp_path), "PATH": str(tmp_path)}
    del environment["GANFORMER_OPS_FOLDER"]
    environment.pop("CXX", None)
    done = subprocess.run([sys.executable, "-c", ask], env=environment, capture_output=True, text=True)
    assert done.returncode == status
    assert said in done.stderr.splitlines()[-1] if said else done.stderr == ""
    assert done.stdout == ""
