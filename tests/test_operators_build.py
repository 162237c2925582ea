"""Building, keeping and finding the native operators: whatever goes wrong, the next one is not hindered by it.

The compiler is a small program of ours that takes GCC's command line; one test at the end takes the real one.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from filelock import FileLock

from ganformer_cli.errors import OutputError
from ganformer_cli.operators import build, native
from ganformer_cli.operators.build import Build, build_ahead, build_folders, find_build, find_or_build
from ganformer_cli.operators.compiling import (
    BuildSpec,
    Tools,
    make_build_spec,
)
from ganformer_cli.operators.cuda_toolkit import Nvcc
from ganformer_cli.operators.toolchain import BuildError, Compiler, NoCompilerError, find_compiler

# It keeps a line for each run beside itself. A source may tell it what to do.
FAKE = """\
import os, pathlib, sys, time
source, target = pathlib.Path(sys.argv[-3]), pathlib.Path(sys.argv[sys.argv.index("-o") + 1])
if "-c" not in sys.argv:
    source = None
with open(os.path.join(os.path.dirname(__file__), "runs"), "a") as runs:
    runs.write(f"{source.name if source else 'link'}\\n")
text = source.read_text() if source else ""
if "FAIL" in text:
    print(f"In file included from {source}:\\n{source}:1:5: error: {text.strip()}\\nmore")
    sys.exit(1)
while "ENDLESS" in text and os.path.isdir(os.getcwd()):  # until its folder is cleared away, or it is killed
    time.sleep(0.05)
for beat in range(600 if "STUBBORN" in text else 0):  # a minute, unless it is killed
    with open(os.path.join(os.path.dirname(__file__), "beats"), "a") as beats:
        beats.write(".")
    time.sleep(0.1)
if "SLOW" in text:
    time.sleep(1)
objects = [] if source else [pathlib.Path(word) for word in sys.argv[1:] if ".o" in pathlib.Path(word).name]
for path in objects:
    if not path.exists():
        sys.exit(f"error: {path.name} is not there")
if "NOTHING" not in text:
    target.write_bytes(text.encode() or b"".join(path.read_bytes() for path in objects))
"""


class Workshop:
    """A folder of sources, a compiler, and a folder for builds."""

    def __init__(self, root: Path) -> None:
        self.sources, self.kept, self.script = root / "ops", root / "kept", root / "compiler" / "fake.py"
        self.script.parent.mkdir()
        self.script.write_text(FAKE, encoding="utf-8")
        self.sources.mkdir()
        self.write("one.cpp", "first")
        self.said: list[str] = []
        self.warned: list[str] = []
        self.version = "1.0"

    def write(self, name: str, text: str) -> None:
        (self.sources / name).write_text(text, encoding="utf-8")

    def build_spec(self, capability: str = "AVX2") -> BuildSpec:
        build_spec = make_build_spec("cpu", capability, self.sources)
        assert build_spec is not None
        return build_spec

    def tools(self) -> Tools:
        compiler = Compiler("gnu", (sys.executable, str(self.script)), "fake", self.version)
        return Tools(compiler, self.script.parent)

    @property
    def runs(self) -> list[str]:
        """What the compiler has been called for: the names of sources, and ``link``."""
        book = self.script.with_name("runs")
        return book.read_text(encoding="utf-8").split() if book.exists() else []

    def find_or_build(self, capability: str = "AVX2", *, folders: list[Path] | None = None) -> Build:
        return find_or_build(
            self.build_spec(capability),
            self.tools,
            folders=folders or [self.kept],
            say=self.said.append,
            warn=self.warned.append,
        )

    def build_ahead(self, capability: str = "AVX2", *, folder: Path | None = None, force: bool = False) -> Build:
        (made,) = build_ahead([(self.build_spec(capability), self.tools())], folder or self.kept, force=force)
        return made

    def without_compiler(self, capability: str = "AVX2", *, folders: list[Path] | None = None) -> Build:
        return find_or_build(self.build_spec(capability), no_compiler, folders=folders or [self.kept])


def no_compiler() -> Tools:
    raise NoCompilerError("no C++ compiler was found", "install one")


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    made = Workshop(tmp_path)
    monkeypatch.delenv("GANFORMER_OPS_FOLDER")
    # Whether a build's compiler is the one of now is asked of CXX; on Windows, of the file.
    monkeypatch.setenv("CXX", f"'{sys.executable}' {made.script}")
    return made


def remains(folder: Path) -> list[str]:
    """What lies in a folder of builds beside the locks, which are there for good."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


# ----- What is there is taken -----


def test_built_once_then_found(workshop: Workshop) -> None:
    first = workshop.find_or_build()
    assert first.fresh
    assert first.path.read_bytes() == b"first"
    assert workshop.runs == ["one.cpp", "link"]
    assert len(workshop.said) == 1
    assert "fake 1.0" in workshop.said[0]
    second = workshop.find_or_build()
    assert not second.fresh
    assert second.path == first.path
    assert workshop.runs == ["one.cpp", "link"]
    assert len(workshop.said) == 1  # the second is silent
    assert workshop.warned == []
    assert len(remains(workshop.kept)) == 2  # the library and its note; nothing of the work


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one.cpp", "two.cpp", "shared.h"])
def test_changed_sources_are_built_anew(workshop: Workshop, name: str) -> None:
    first = workshop.find_or_build()
    workshop.write(name, "changed")
    second = workshop.find_or_build()
    assert second.fresh
    assert second.path != first.path


def test_sources_of_the_other_library_change_nothing(workshop: Workshop) -> None:
    workshop.find_or_build()
    for name in ("kernel.cu", "cuda_bindings.cpp", "cuda_common.h", "README.md"):
        workshop.write(name, "of no concern")
    assert not workshop.find_or_build().fresh


def test_another_compiler_builds_anew(workshop: Workshop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = workshop.find_or_build()
    metadata_file = next(workshop.kept.glob("*.json"))
    metadata = json.loads(metadata_file.read_text(encoding="utf-8"))
    metadata["compiler"]["identity"]["mtime"] -= 1  # it has been replaced since
    metadata_file.write_text(json.dumps(metadata), encoding="utf-8")
    workshop.version = "2.0"
    second = workshop.find_or_build()
    assert second.fresh
    assert second.path != first.path
    assert not workshop.find_or_build().fresh


@pytest.mark.skipif(os.name == "nt", reason="on Windows CXX does not count")
def test_other_words_behind_the_compiler_build_anew(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    workshop.find_or_build()
    monkeypatch.setenv("CXX", f"'{sys.executable}' {workshop.script} -fsanitize=address")
    assert find_build(workshop.build_spec(), [workshop.kept]) is None


def test_without_a_compiler_what_was_built_before_is_taken(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    first = workshop.find_or_build()
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert workshop.without_compiler().path == first.path


def test_built_ahead_is_taken_whatever_compiler_is_there(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = workshop.build_ahead()
    monkeypatch.setenv("CXX", "no-such-compiler")
    workshop.version = "2.0"
    assert workshop.find_or_build().path == ahead.path
    assert workshop.without_compiler().path == ahead.path


def test_a_build_on_first_use_becomes_one_made_ahead(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    first = workshop.find_or_build()
    ahead = workshop.build_ahead()
    assert (ahead.path, ahead.fresh) == (first.path, False)
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert workshop.find_or_build().path == first.path


def test_forced_builds_even_what_is_there(workshop: Workshop) -> None:
    first = workshop.build_ahead()
    again = workshop.build_ahead(force=True)
    assert again.fresh
    assert again.path == first.path  # the same bytes
    assert workshop.runs == ["one.cpp", "link"] * 2


def test_of_several_folders_all_are_searched_and_the_first_is_filled(workshop: Workshop, tmp_path: Path) -> None:
    ahead, cache = tmp_path / "ahead", tmp_path / "cache"
    made = workshop.find_or_build(folders=[cache])
    assert workshop.find_or_build(folders=[ahead, cache]).path == made.path
    workshop.write("one.cpp", "changed")
    assert workshop.find_or_build(folders=[ahead, cache]).path.parent == ahead


def test_folders_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GANFORMER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GANFORMER_OPS_FOLDER", str(tmp_path / "ahead"))
    assert build_folders() == [tmp_path / "ahead", tmp_path / "cache" / "operators"]
    monkeypatch.delenv("GANFORMER_OPS_FOLDER")
    assert build_folders() == [tmp_path / "cache" / "operators"]


@pytest.mark.parametrize("variable", ["GANFORMER_CACHE", "GANFORMER_OPS_FOLDER"])
def test_a_relative_folder_is_built_into(
    workshop: Workshop, variable: str, monkeypatch: pytest.MonkeyPatch, own_folder: Path
) -> None:
    monkeypatch.setenv(variable, "near/by")
    made = find_or_build(workshop.build_spec(), workshop.tools)
    assert made.path.is_absolute()
    assert made.path.is_file()
    assert own_folder / "near" / "by" in made.path.parents


def test_building_ahead_into_a_relative_folder(workshop: Workshop, own_folder: Path) -> None:
    made = workshop.build_ahead(folder=Path("near/by"))
    assert made.path.parent == own_folder / "near" / "by"
    assert workshop.find_or_build(folders=[Path("near/by")]).path == made.path


# ----- Which CPUs and GPUs -----


def test_a_build_for_a_plainer_cpu_serves_if_made_ahead(workshop: Workshop) -> None:
    plain = workshop.build_ahead("DEFAULT")
    assert workshop.without_compiler("AVX512").path == plain.path
    better = workshop.build_ahead("AVX2")
    assert workshop.find_or_build("AVX512").path == better.path
    assert workshop.find_or_build("DEFAULT").path == plain.path


def test_a_build_for_a_richer_cpu_never_serves(workshop: Workshop) -> None:
    workshop.build_ahead("AVX512")
    with pytest.raises(NoCompilerError, match="build-ops"):  # which says that there is one that does not fit
        workshop.without_compiler("AVX2")


def test_a_cpu_with_a_compiler_gets_a_build_of_its_own(workshop: Workshop) -> None:
    workshop.find_or_build("DEFAULT")
    assert workshop.find_or_build("AVX2").fresh


def test_a_build_that_wants_a_newer_system_library_does_not_serve(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "libc_version", lambda: (2, 40))
    workshop.build_ahead()
    monkeypatch.setattr(build, "libc_version", lambda: (2, 36))
    with pytest.raises(NoCompilerError):
        workshop.without_compiler()
    monkeypatch.setattr(build, "libc_version", lambda: (2, 41))
    assert workshop.without_compiler()


def test_a_cuda_build_serves_the_cards_that_run_it(workshop: Workshop) -> None:
    made = workshop.find_or_build()
    metadata_file = workshop.kept / f"cuda-{build.platform_tag()}-{workshop.build_spec().digest}-x.json"
    metadata = {**made.metadata, "library": "cuda", "capability": "sm80-sm90", "ahead": True}
    metadata_file.write_text(json.dumps(metadata), encoding="utf-8")
    build_spec = replace(workshop.build_spec(), library="cuda")
    assert find_build(replace(build_spec, capability="sm86"), [workshop.kept])
    assert find_build(replace(build_spec, capability="sm80-sm120"), [workshop.kept])
    assert find_build(replace(build_spec, capability="sm75"), [workshop.kept]) is None


# ----- What ninja does -----


@pytest.mark.slow
def test_only_what_changed_is_compiled_again(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANFORMER_OPS_FOLDER", str(workshop.kept))  # where builds of this machine are kept
    workshop.write("two.cpp", '#include "shared.h"')
    workshop.write("shared.h", "")
    workshop.find_or_build()
    workshop.write("two.cpp", '#include "shared.h"\nchanged')
    changed = workshop.find_or_build()
    assert sorted(workshop.runs) == ["link", "link", "one.cpp", "two.cpp", "two.cpp"]
    assert b"first" in changed.path.read_bytes()
    workshop.write("shared.h", "changed")
    workshop.find_or_build()
    assert workshop.runs[-2:] == ["two.cpp", "link"]
    workshop.find_or_build("DEFAULT")  # its objects are others
    assert sorted(workshop.runs[-3:]) == ["link", "one.cpp", "two.cpp"]
    workshop.build_ahead(force=True)
    assert sorted(workshop.runs[-3:]) == ["link", "one.cpp", "two.cpp"]
    assert len(list((workshop.kept / build.OBJECTS).iterdir())) == 4  # one for each source and CPU


@pytest.mark.slow
def test_several_libraries_are_built_at_once_or_not_at_all(workshop: Workshop) -> None:
    plans = [(workshop.build_spec(capability), workshop.tools()) for capability in ("AVX512", "AVX2")]
    made = build_ahead(plans, workshop.kept, say=workshop.said.append)
    assert [library.capability for library in made] == ["AVX512", "AVX2"]
    assert len({library.path for library in made}) == 2
    assert len(workshop.said) == 1
    workshop.write("one.cpp", "FAIL")
    with pytest.raises(BuildError):
        build_ahead(
            [(workshop.build_spec(capability), workshop.tools()) for capability in ("AVX2", "DEFAULT")], workshop.kept
        )
    assert len(list(workshop.kept.glob("*.json"))) == 2


@pytest.mark.not_wine("it does not give ninja the UTF-8 code page that ninja asks for; the sources compile one by one")
def test_names_with_spaces_dollars_and_letters_of_many_languages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "mein  $Ordner: ä 日本" if os.name == "posix" else tmp_path / "mein  $Ordner ä"
    root.mkdir()
    workshop = Workshop(root)
    monkeypatch.setattr("ganformer_cli.operators.jobs.run_program", lambda *_, **__: pytest.fail("ninja cannot do it"))
    assert workshop.find_or_build().path.read_bytes() == b"first"


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["not there", "no program", "fails"])
def test_without_ninja_sources_are_compiled_one_after_another(
    workshop: Workshop, broken: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    programs = {"not there": None, "no program": str(tmp_path), "fails": sys.executable}
    monkeypatch.setattr("ganformer_cli.operators.jobs.find_ninja", lambda: programs[broken])
    workshop.write("two.cpp", "second, longer")
    assert workshop.find_or_build().path.read_bytes() == b"second, longerfirst"
    assert workshop.runs == ["two.cpp", "one.cpp", "link"]
    workshop.write("one.cpp", "FAIL")
    with pytest.raises(BuildError, match=r"one\.cpp:1:5: error: FAIL"):
        workshop.find_or_build()


# ----- What is damaged -----


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [
        lambda library, note: library.write_bytes(library.read_bytes()[:-1]),
        lambda library, note: library.unlink(),
        lambda library, note: note.unlink(),
        lambda library, note: note.write_text("{", encoding="utf-8"),
        lambda library, note: note.write_text("[]", encoding="utf-8"),
        lambda library, note: note.write_text('{"file": 1, "sha256": null}', encoding="utf-8"),
    ],
    ids=["cut off", "no library", "no note", "half a note", "another note", "a wrong note"],
)
def test_what_is_damaged_is_built_anew(workshop: Workshop, damage: object) -> None:
    first = workshop.find_or_build()
    assert callable(damage)
    damage(first.path, next(workshop.kept.glob("*.json")))
    second = workshop.find_or_build()
    assert second.fresh
    assert second.path.read_bytes() == b"first"
    assert len(remains(workshop.kept)) == 2


def test_a_build_of_no_use_is_not_given_again(workshop: Workshop) -> None:
    made = workshop.find_or_build()
    assert find_build(workshop.build_spec(), [workshop.kept], exclude=made) is None


# ----- What fails -----


def test_a_compiler_that_fails(workshop: Workshop) -> None:
    workshop.write("two.cpp", "FAIL: no space left on device")
    with pytest.raises(BuildError) as caught:
        workshop.find_or_build()
    assert "fake 1.0" in caught.value.problem
    assert "two.cpp:1:5: error: FAIL" in caught.value.problem  # the first line that says what is wrong
    assert "more" not in caught.value.problem
    assert "make room" in caught.value.remedy
    assert "In file included from" in caught.value.output
    assert remains(workshop.kept) == []
    workshop.write("two.cpp", "mended")
    assert workshop.find_or_build().fresh


def other_compilers(workshop: Workshop, *kinds: str) -> list[Compiler]:
    """Compilers that work, called ``other-KIND``."""
    script = workshop.script.with_name("other.py")
    script.write_text(FAKE.replace('"FAIL"', '"FAIL everywhere"'), encoding="utf-8")
    return [Compiler(kind, (sys.executable, str(script)), f"other-{kind}", "2.0") for kind in kinds]  # type: ignore[arg-type]


@pytest.mark.slow
def test_where_one_compiler_fails_the_next_builds(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    others = other_compilers(workshop, "gnu")
    monkeypatch.setattr(build, "compilers_after", lambda failed: iter(others))
    workshop.write("two.cpp", "FAIL")
    made = workshop.find_or_build()
    assert made.compiler == "other-gnu 2.0"
    (warning,) = workshop.warned
    assert "fake 1.0 failed" in warning
    assert "trying other-gnu 2.0" in warning
    assert workshop.build_ahead(folder=workshop.kept / "ahead").compiler == "other-gnu 2.0"


@pytest.mark.slow
def test_where_all_compilers_fail_the_first_error_counts(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    others = other_compilers(workshop, "gnu", "gnu")
    monkeypatch.setattr(build, "compilers_after", lambda failed: iter(others))
    workshop.write("two.cpp", "FAIL everywhere")
    with pytest.raises(BuildError, match=r"^fake 1\.0 failed"):
        workshop.find_or_build()


class Scanner:
    """A virus scanner that holds every new file for two seconds; seconds pass only where something waits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.slept = 0.0
        self.first: dict[str, float] = {}
        monkeypatch.setattr("ganformer_cli.system_errors.time", SimpleNamespace(sleep=self.sleep))

    def sleep(self, seconds: float) -> None:
        self.slept += seconds

    def touch(self, name: str) -> None:
        """Refuse the file for the first two seconds, as Windows does: a sharing violation."""
        if self.slept - self.first.setdefault(name, self.slept) < 2:
            error = PermissionError(13, "The process cannot access the file")
            error.winerror = 32  # type: ignore[attr-defined,unused-ignore]
            raise error


def test_a_library_that_a_virus_scanner_holds_is_published(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    scanner, real = Scanner(monkeypatch), os.replace

    def held(source: Path, target: Path) -> None:
        scanner.touch(str(source))
        real(source, target)

    monkeypatch.setattr(os, "replace", held)
    made = workshop.find_or_build()
    assert made.path.read_bytes() == b"first"
    assert made.path.parent == workshop.kept
    assert scanner.slept >= 2
    assert workshop.warned == []


def test_a_library_that_a_virus_scanner_holds_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    scanner = Scanner(monkeypatch)
    monkeypatch.setattr(torch.ops, "load_library", scanner.touch)
    assert native._open(Build(Path("new.dll"), {})).path.name == "new.dll"
    assert scanner.slept >= 2


@pytest.mark.not_wine("it loses the Ctrl-Break by which ninja ends its compilers, and the endless one stays")
def test_one_failure_ends_the_others(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    workshop.write("endless.cpp", "ENDLESS and long")  # the longest begins first
    workshop.write("failing.cpp", "FAIL")
    with pytest.raises(BuildError, match=r"failing\.cpp"):
        workshop.find_or_build()  # would never end otherwise


def test_a_compiler_that_writes_nothing(workshop: Workshop) -> None:
    workshop.write("one.cpp", "NOTHING")
    with pytest.raises(BuildError, match=r"one\.o"):
        workshop.find_or_build()


def test_a_compiler_that_cannot_be_started(workshop: Workshop, tmp_path: Path) -> None:
    tools = Tools(Compiler("gnu", (str(tmp_path / "gone"),), "gone", "1"), tmp_path)
    with pytest.raises(BuildError, match="gone 1 failed"):
        find_or_build(workshop.build_spec(), lambda: tools, folders=[workshop.kept])


@pytest.mark.not_wine("it loses the Ctrl-Break by which ninja ends its compilers, and the endless one stays")
def test_a_compiler_that_never_ends(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ganformer_cli.operators.jobs.SECONDS_TO_BUILD", 0.2)
    workshop.write("one.cpp", "ENDLESS")
    with pytest.raises(BuildError, match="no result after"):
        workshop.find_or_build()


def test_no_compiler_and_nothing_built(workshop: Workshop) -> None:
    with pytest.raises(NoCompilerError, match="no C.. compiler was found; install one") as caught:
        workshop.without_compiler()
    assert "build-ops" not in str(caught.value)


def test_no_compiler_and_a_build_of_another_version(workshop: Workshop) -> None:
    workshop.build_ahead()
    workshop.write("one.cpp", "a new version of the program")
    with pytest.raises(NoCompilerError, match="run ganformer build-ops again"):
        workshop.without_compiler()


def test_a_folder_that_cannot_be_written_to(workshop: Workshop) -> None:
    workshop.kept.write_text("a file where the folder should be", encoding="utf-8")
    made = workshop.find_or_build()
    assert made.path.read_bytes() == b"first"
    assert not made.path.is_relative_to(workshop.kept)
    (warning,) = workshop.warned
    assert str(workshop.kept) in warning
    assert "GANFORMER_CACHE" in warning
    with pytest.raises(OutputError, match="cannot write"):  # building ahead must not pretend
        workshop.build_ahead()


def test_what_is_there_needs_no_writing(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    made = workshop.find_or_build()

    def read_only(*_: object, **__: object) -> None:
        raise AssertionError("nothing may be written")

    for name in ("_locked", "_build", "write_json"):
        monkeypatch.setattr(build, name, read_only)
    assert workshop.find_or_build().path == made.path


def test_the_second_folder_is_taken_if_the_first_cannot_be_written_to(workshop: Workshop, tmp_path: Path) -> None:
    workshop.kept.write_text("a file where the folder should be", encoding="utf-8")
    made = workshop.find_or_build(folders=[workshop.kept, tmp_path / "cache"])
    assert made.path.parent == tmp_path / "cache"
    assert workshop.warned == []  # as is usual for a folder that the administrator has filled


@pytest.mark.slow
def test_a_build_for_one_process_goes_with_it(workshop: Workshop) -> None:
    ask = (
        "import sys; from pathlib import Path; from ganformer_cli.operators import build\n"
        "folder = build._private_folder(None); (folder / 'library').write_text('x'); sys.stdout.write(str(folder))"
    )
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert done.stdout
    assert not Path(done.stdout).exists()


@pytest.mark.parametrize(
    ("nvcc", "cuda", "problem"),
    [
        (None, "13.0", "no nvcc was found"),
        (Nvcc("nvcc", (12, 4), ()), "13.0", "nvcc 12.4 at nvcc is of another generation than torch's CUDA 13.0"),
        (Nvcc("nvcc", (13, 1), ()), "13.0", ""),
        (Nvcc("nvcc", (12, 4), ()), None, ""),  # a torch without CUDA builds for whatever the others have
    ],
)
def test_nvcc_must_fit_torch(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, nvcc: Nvcc | None, cuda: str | None, problem: str
) -> None:
    monkeypatch.setattr(build, "find_tools", workshop.tools)
    monkeypatch.setattr(build, "find_nvcc", lambda wanted: nvcc)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    if not problem:
        assert build.find_cuda_tools().nvcc == nvcc
        return
    with pytest.raises(NoCompilerError, match=rf"{problem}; install the CUDA toolkit 13\.0"):
        build.find_cuda_tools()


# ----- Several processes -----

# Builds as another process would: sources, script, folder.
OTHER = """\
import sys
from pathlib import Path
from ganformer_cli.operators.build import find_or_build
from ganformer_cli.operators.compiling import Tools, make_build_spec
from ganformer_cli.operators.toolchain import Compiler
sources, script, kept = map(Path, sys.argv[1:])
tools = Tools(Compiler("gnu", (sys.executable, str(script)), "fake", "1.0"), script.parent)
print(find_or_build(make_build_spec("cpu", "AVX2", sources), lambda: tools, folders=[kept]).path)
"""


@pytest.fixture
def start(workshop: Workshop) -> Iterator[object]:
    """Starts another process that builds; it is ended with the test."""
    started: list[subprocess.Popen[str]] = []

    def begin() -> subprocess.Popen[str]:
        words = [sys.executable, "-c", OTHER, *map(str, (workshop.sources, workshop.script, workshop.kept))]
        started.append(subprocess.Popen(words, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_of_two_processes_one_builds(workshop: Workshop, start: object) -> None:
    workshop.write("one.cpp", "SLOW")
    assert callable(start)
    processes = [start(), start()]
    paths = {process.communicate()[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert len(paths) == 1
    assert workshop.runs == ["one.cpp", "link"]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows keeps a folder that a process works in")
def test_a_killed_build_hinders_nobody(workshop: Workshop, start: object) -> None:
    workshop.write("one.cpp", "ENDLESS")
    assert callable(start)
    process = start()
    while not workshop.runs:  # until it compiles
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert any("building" in name for name in remains(workshop.kept))
    # The same sources for us; only the compiler has learnt to end.
    workshop.script.write_text(FAKE.replace("ENDLESS", "never"), encoding="utf-8")
    assert workshop.find_or_build().fresh
    assert len(remains(workshop.kept)) == 2  # what it left is gone
    assert workshop.warned == []


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows sends Ctrl-C to consoles only")
def test_ctrl_c_ends_the_compilers(workshop: Workshop, start: object) -> None:
    workshop.write("one.cpp", "STUBBORN")
    assert callable(start)
    process = start()
    beats = workshop.script.with_name("beats")
    while not beats.exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    beaten = beats.stat().st_size
    time.sleep(0.3)
    assert beats.stat().st_size == beaten
    assert remains(workshop.kept) == []


def test_a_lock_that_is_held_too_long_is_not_waited_for(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "SECONDS_TO_NOTICE", 0.01)
    monkeypatch.setattr(build, "SECONDS_TO_WAIT", 0.02)
    workshop.find_or_build()
    lock_file = workshop.kept / "build.lock"  # Windows deletes it when it is released
    next(workshop.kept.glob("*.json")).unlink()
    with FileLock(str(lock_file)):
        assert workshop.find_or_build().fresh
    assert any("waiting" in line for line in workshop.said)
    (warning,) = workshop.warned
    assert str(lock_file) in warning


# ----- The real compiler -----

ANSWER = """
#ifdef _WIN32
extern "C" __declspec(dllexport) int answer() { return 42; }
#else
extern "C" __attribute__((visibility("default"))) int answer() { return 42; }
#endif
"""


def test_the_compiler_of_this_machine(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX")
    if find_compiler() is None:
        pytest.skip("no C++ compiler here")
    workshop.write("one.cpp", ANSWER)
    made = find_or_build(workshop.build_spec("DEFAULT"), folders=[workshop.kept])
    assert ctypes.CDLL(str(made.path)).answer() == 42
    monkeypatch.setattr(build, "find_compiler", lambda: pytest.fail("the compiler is not needed any more"))
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("no program may be run"))
    assert find_or_build(workshop.build_spec("DEFAULT"), folders=[workshop.kept]).path == made.path
    if os.name == "posix":
        monkeypatch.setenv("PATH", "")  # a node without a compiler
        assert find_or_build(workshop.build_spec("DEFAULT"), no_compiler, folders=[workshop.kept]).path == made.path
