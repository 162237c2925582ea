"""Keeps the native operators: finds a library that was built before, else builds one and publishes it.

A folder of builds holds, for each, the library and a note of what it was made of, and with what. The library is
published by a rename and its note after it, so that whatever has a note is whole; the note has its checksum. A build
made ahead of time (``ganformer build-ops``) is taken whatever compiler is there; one that was made on first use only
while its compiler is, and where there is none.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ganformer_cli.errors import GanformerError, OutputError
from ganformer_cli.files import (
    check_replaceable,
    insist,
    quietly,
    read_json,
    reason_and_remedy,
    remove,
    sha256_of,
    write_json,
)
from ganformer_cli.operators.compiling import (
    CAPABILITIES,
    BuildError,
    NoCompilerError,
    Recipe,
    Tools,
    compile_library,
    cuda_capability,
)
from ganformer_cli.operators.cuda_toolkit import (
    covers,
    find_nvcc,
    how_to_get_nvcc,
    known_architectures,
    misfit,
    within,
)
from ganformer_cli.operators.toolchain import (
    file_identity,
    find_compiler,
    how_to_get_a_compiler,
    is_current,
    run_program,
)
from ganformer_cli.operators.zig import INSTALL, Target, find_zig
from ganformer_cli.resources import cache_folder, resource_folder

FOLDER_VARIABLE = "GANFORMER_OPS_FOLDER"
SHIPPED = "built"  # folder of the libraries inside a wheel, beside the sources
SECONDS_TO_NOTICE = 1.0  # of waiting for another process, before that is said
SECONDS_TO_WAIT = 600.0  # for another process that builds the same; then this one builds for itself

Say = Callable[[str], None]


@dataclass(frozen=True)
class Build:
    """A finished library.

    Attributes:
        path: its file.
        note: what it was made of and with what, as JSON values.
        fresh: it was made just now.
    """

    path: Path
    note: Mapping[str, Any]
    fresh: bool = False

    @property
    def compiler(self) -> str:
        tools = [self.note[key].get("name") for key in ("nvcc", "compiler") if key in self.note]
        return " and ".join(map(str, tools))

    @property
    def capability(self) -> str:
        return str(self.note.get("capability", ""))


# ----- What is there -----


def operators_folder() -> Path:
    """Where builds are kept if nothing else is said."""
    return cache_folder() / "operators"


def build_folders() -> list[Path]:
    """Where builds are looked for and put, best first: ``GANFORMER_OPS_FOLDER`` if it is set, then the cache."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    return [*([Path(chosen).expanduser().absolute()] if chosen else []), operators_folder()]


def shipped_folders() -> list[Path]:
    """Where a wheel with operators inside has them; only read."""
    folder = resource_folder("ops") / SHIPPED
    return [folder] if folder.is_dir() else []


def platform_tag() -> str:
    """The system and the kind of processor: ``linux-x86_64``."""
    return f"{sys.platform}-{platform.machine().lower() or 'unknown'}"


def read_build(note_file: Path) -> Build | None:
    """The build of a note, if its library is whole."""
    for _ in range(2):  # between reading the note and the library, another process may have published anew
        try:
            note = read_json(note_file)
            path = note_file.with_name(note["file"])
            if sha256_of(path) == note["sha256"]:
                return Build(path, note)
        except (GanformerError, OSError, ValueError, KeyError, TypeError):
            continue
    return None


def find_build(
    recipe: Recipe, folders: Sequence[Path], *, any_compiler: bool = False, but: Build | None = None
) -> Build | None:
    """The best build that is there for ``recipe``: whole, of these very sources, and for this machine.

    Args:
        but: not this one.
        any_compiler: take those that were made on first use too, with a compiler that is not the one of now.
    """
    best: tuple[int, Build] | None = None
    for folder in folders:
        for note_file in sorted(folder.glob(f"{_stem(recipe)}-*.json")):
            build = read_build(note_file)
            if build is None or (but is not None and build.path == but.path):
                continue
            rank = _rank(recipe, build.note, any_compiler=any_compiler)
            if rank is not None and (best is None or rank < best[0]):
                best = rank, build
    return best[1] if best else None


def _rank(recipe: Recipe, note: Mapping[str, Any], *, any_compiler: bool) -> int | None:
    """How well a build fits, 0 the best; None if it does not."""
    built = str(note.get("capability"))
    if recipe.library == "cuda":
        rank = 0 if covers(_architectures(built), recipe.architectures) else None
    else:
        abilities = CAPABILITIES[CAPABILITIES.index(recipe.capability) :] if recipe.capability in CAPABILITIES else ()
        rank = 0 if built == recipe.capability else abilities.index(built) if built in abilities else None
    if rank is None or tuple(note.get("libc") or ()) > libc_version():
        return None
    if any_compiler or note.get("ahead"):
        return rank
    # What was made on first use is as good as what would be made now, or it is made anew.
    current = is_current(note.get("compiler", {}))
    if nvcc := note.get("nvcc"):
        current = current and file_identity(str(nvcc.get("path"))) == nvcc.get("identity")
    return rank if rank == 0 and current else None


def _architectures(capability: str) -> list[str]:
    return [part.removeprefix("sm") for part in capability.split("-")]


def libc_version() -> tuple[int, ...]:
    """Of glibc: a library runs with the one that it was built with and with later ones. () elsewhere."""
    try:
        said = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, ValueError, OSError):
        return ()
    return tuple(int(part) for part in re.findall(r"\d+", said))


def _stem(recipe: Recipe, tag: str | None = None) -> str:
    """How the names of all builds of these sources begin, for this platform or the one of ``tag``."""
    return f"{recipe.library}-{tag or platform_tag()}-{recipe.digest}"


def _name(recipe: Recipe, tools: Tools) -> str:
    """The name of the build that ``tools`` make: another compiler, or another version of it, has another."""
    if tools.target:  # the same wherever it is built
        return f"{_stem(recipe, tools.target.tag)}-{recipe.capability}-{tools.compiler.version}"
    identity = [str(tools), tools.compiler.command, file_identity(tools.compiler.path), _libc_of(tools)]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    return f"{_stem(recipe)}-{recipe.capability}-{digest[:8]}"


def _libc_of(tools: Tools) -> tuple[int, ...]:
    """The oldest glibc that what ``tools`` make runs with."""
    return tools.zig_target.libc if tools.compiler.kind == "zig" else libc_version()


# ----- Making one -----


def find_tools() -> Tools:
    """What builds the CPU library here.

    Raises:
        NoCompilerError: there is no compiler.
    """
    compiler = find_compiler()
    if compiler is None:
        raise NoCompilerError("no C++ compiler was found", how_to_get_a_compiler())
    return Tools(compiler, torch_folder())


def find_tools_for(target: Target, torch_given: Path | None = None) -> Tools:
    """What builds the CPU library for another system (or this one): the compiler of ``ziglang``.

    Args:
        target: the system.
        torch_given: a torch of that system, or its wheel, to link with; see ``import_libraries.libraries_for``.

    Raises:
        NoCompilerError: ``ziglang`` is not there.
        BuildError: there is nothing to link with.
    """
    import torch

    from ganformer_cli.operators.import_libraries import libraries_for

    compiler = find_zig(run_program)
    if compiler is None:
        raise NoCompilerError("building for a named system needs the compiler of ziglang", f"run: {INSTALL}")
    version = str(torch.__version__).partition("+")[0]
    libraries = libraries_for(target, compiler, version, torch_given)
    return Tools(compiler, torch_folder(), target=target, libraries=libraries)


def find_cuda_tools() -> Tools:
    """What builds the CUDA library here, for the CUDA of the torch that is installed.

    Raises:
        NoCompilerError: there is no compiler, or no nvcc that fits.
    """
    import torch

    tools = find_tools()
    if tools.compiler.kind == "zig":
        raise NoCompilerError(
            "nvcc needs g++, clang++ or Microsoft's compiler beside it, and only ziglang is there", how_to_get_nvcc(())
        )
    wanted = tuple(int(part) for part in re.findall(r"\d+", torch.version.cuda or ""))[:2]
    remedy = how_to_get_nvcc(wanted)
    nvcc = find_nvcc(wanted)
    if nvcc is None:
        raise NoCompilerError("no nvcc was found", remedy)
    if problem := misfit(nvcc, wanted):
        raise NoCompilerError(problem, remedy)
    return Tools(tools.compiler, tools.torch, nvcc)


def torch_folder() -> Path:
    """Where torch lies; its headers and libraries are below."""
    import torch

    return Path(torch.__path__[0])


def obtain(
    recipe: Recipe,
    find: Callable[[], Tools] = find_tools,
    *,
    folders: Sequence[Path] | None = None,
    but: Build | None = None,
    say: Say = lambda text: None,
    warn: Say = lambda text: None,
) -> Build:
    """The library of ``recipe``: one that is there, else one that is built now.

    Where no folder can be written to, it is built for this process only.

    Args:
        find: finds what compiles; called only if a build is needed. NoCompilerError where there is nothing.
        but: a build that is of no use, although it is there.
        folders: where to look, and to put what is built; :func:`build_folders` if left out.
        say: called with a line for people before something that lasts.
        warn: called with a line about what the user should mend.

    Raises:
        NoCompilerError: nothing is there, and nothing to build with.
        BuildError: the compiler fails, or nothing at all can be written to.
    """
    readable = shipped_folders() if folders is None else []
    folders = build_folders() if folders is None else [folder.absolute() for folder in folders]
    if build := find_build(recipe, [*folders, *readable], but=but):
        return build
    try:
        tools = find()
    except NoCompilerError as error:
        if build := find_build(recipe, folders, any_compiler=True, but=but):
            return build
        raise _hinting_at_other_versions(error, recipe, folders) from error
    refused: OutputError | None = None
    for folder in folders:
        try:
            with _locked(folder, _name(recipe, tools), say):
                # Another process may have built it while we waited.
                return find_build(recipe, [folder], but=but) or _make(recipe, tools, folder, ahead=False, say=say)
        except OutputError as error:
            refused = refused or error
    private = _private_folder(refused)
    warn(f"{refused}; until then every process builds the native operators for itself")
    return _make(recipe, tools, private, ahead=False, say=say)


def build_ahead(
    recipe: Recipe, tools: Tools, folder: Path, *, force: bool = False, say: Say = lambda text: None
) -> Build:
    """Build the library of ``recipe`` into ``folder`` for every machine that can run it, unless it is there.

    Args:
        force: build it even so.

    Raises:
        BuildError: the compiler fails.
        OutputError: the folder cannot be written to.
    """
    name, folder = _name(recipe, tools), folder.absolute()
    with _locked(folder, name, say):
        build = None if force else read_build(folder / f"{name}.json")
        if build is None:
            return _make(recipe, tools, folder, ahead=True, say=say)
        if not build.note.get("ahead"):
            build = Build(build.path, {**build.note, "ahead": True})
            write_json(folder / f"{name}.json", build.note)
        return build


def _hinting_at_other_versions(error: NoCompilerError, recipe: Recipe, folders: Sequence[Path]) -> NoCompilerError:
    """``error``, which says so if there is a build of another version of the program."""
    for folder in folders:
        if any(folder.glob(f"{recipe.library}-{platform_tag()}-*.json")):
            hint = f"{folder} holds builds of another version, or for other machines: run ganformer build-ops again"
            return NoCompilerError(error.problem, f"{error.remedy}; {hint}")
    return error


def _private_folder(refused: OutputError | None) -> Path:
    """A folder that goes when this process does."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="ganformer-operators-"))
    except OSError as error:
        raise BuildError(f"nowhere to build: {error.strerror or error}", str(refused or "make room")) from error
    # On Windows the library stays, since it is loaded; the system clears its folder of temporary files.
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@contextlib.contextmanager
def _locked(folder: Path, name: str, say: Say) -> Iterator[None]:
    """Hold the lock of a build, so that one process builds and the others wait; makes the folder.

    The system gives the lock back when a process dies, however it dies.
    """
    from filelock import FileLock, Timeout

    path = folder / f"{name}.lock"
    lock = FileLock(str(path))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=SECONDS_TO_NOTICE)
        except Timeout:
            say("waiting for another process, which is building the native operators ...")
            lock.acquire(timeout=SECONDS_TO_WAIT)
    except Timeout as error:
        raise OutputError(
            f"another process has held {path} for {SECONDS_TO_WAIT / 60:.0f} minutes: end it, or delete that file"
        ) from error
    except (OSError, NotImplementedError) as error:  # the second: a file system without locks
        raise _unwritable(folder, error) from error
    try:
        yield
    finally:
        lock.release()


def _unwritable(folder: Path, error: Exception) -> OutputError:
    reason = reason_and_remedy(error)[0] if isinstance(error, OSError) else error
    remedy = "set GANFORMER_CACHE to a folder on a local disk with space"
    return OutputError(f"cannot write to {folder} ({reason}): {remedy}")


def _make(recipe: Recipe, tools: Tools, folder: Path, *, ahead: bool, say: Say) -> Build:
    """Compile in a folder inside ``folder`` and publish there. The caller holds the lock."""
    name = _name(recipe, tools)
    if tools.nvcc:
        known = known_architectures(tools.nvcc)
        recipe = replace(recipe, capability=cuda_capability(within(recipe.architectures, known)))
    for left_over in folder.glob(f"{name}.building-*"):  # of one that was killed, since we hold its lock
        remove(left_over, warn=quietly)
    try:
        work = Path(tempfile.mkdtemp(prefix=f"{name}.building-", dir=folder))
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        about = "about 20 s" if recipe.library == "cpu" else "a minute or two"
        say(f"building the native operators with {tools} (once, {about}) ...")
        start = time.monotonic()
        made = compile_library(recipe, tools, work)
        return _publish(made, folder, name, _note(recipe, tools, time.monotonic() - start, ahead=ahead))
    finally:
        remove(work, warn=quietly)


def _note(recipe: Recipe, tools: Tools, seconds: float, *, ahead: bool) -> dict[str, Any]:
    compiler = tools.compiler
    note: dict[str, Any] = {
        "library": recipe.library,
        "capability": recipe.capability,
        "sources": list(recipe.sources),
        "compiler": {
            "name": str(compiler),
            "command": list(compiler.command),
            "identity": file_identity(compiler.path),
        },
        "libc": list(_libc_of(tools)),
        "ahead": ahead,
        "seconds": round(seconds, 2),
    }
    if tools.nvcc:
        path = tools.nvcc.path
        note["nvcc"] = {"name": str(tools.nvcc), "path": path, "identity": file_identity(path)}
    return note


def _publish(made: Path, folder: Path, name: str, note: Mapping[str, Any]) -> Build:
    """Rename the library to its place, and only then write its note."""
    digest = sha256_of(made)
    # With its checksum in its name: one that a process has loaded need never be written over, which Windows refuses.
    path = folder / f"{name}-{digest[:8]}{made.suffix}"
    note = {"file": path.name, "sha256": digest, "bytes": made.stat().st_size, **note}
    try:
        with made.open("rb+") as stream:
            os.fsync(stream.fileno())
        check_replaceable(path)
        insist(lambda: os.replace(made, path))
    except OSError as error:
        raise _unwritable(folder, error) from error
    write_json(folder / f"{name}.json", note)
    for old in folder.glob(f"{name}-*{made.suffix}"):
        if old != path:
            remove(old, warn=quietly)  # a process that has it loaded keeps it, on Windows
    return Build(path, note, fresh=True)
