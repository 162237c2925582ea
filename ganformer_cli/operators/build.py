"""Keeps the native operators: finds a library that was built earlier, or builds one and publishes it.

A folder of builds holds each library and its metadata: what it was made of, and with what. The library is published by
a rename and its metadata after it, so that a library with metadata is complete; the metadata has its checksum. A build
made ahead of time (``ganformer build-ops``) serves whatever compiler is there. One made on first use serves as long as
its compiler is the one that would be chosen, or if there is none.
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
from functools import partial
from pathlib import Path
from typing import Any

from ganformer_cli.errors import GanformerError, OutputError
from ganformer_cli.files import (
    error_reason,
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
    BuildSpec,
    Tools,
    compile_libraries,
    cuda_capability,
    place,
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
    BuildError,
    NoCompilerError,
    TargetSystem,
    compilers_after,
    file_identity,
    find_compiler,
    find_zig,
    how_to_get_a_compiler,
    is_current,
)
from ganformer_cli.resources import cache_folder, resource_folder

FOLDER_VARIABLE = "GANFORMER_OPS_FOLDER"
SHIPPED = "built"  # folder of the libraries inside a wheel, beside the sources
OBJECTS = "objects"  # folder of compiled sources, in a folder of builds: the next build compiles only what changed
WORK = "building-"
SECONDS_TO_NOTICE = 1.0  # of waiting for another process, before a message says so
SECONDS_TO_WAIT = 600.0  # for another process that builds; then this one builds for itself

Say = Callable[[str], None]


def silent(text: str) -> None:
    """A ``Say`` that drops the message."""


@dataclass(frozen=True)
class Build:
    """A finished library.

    Attributes:
        path: its file.
        metadata: what it was made of and with what, as JSON values.
        fresh: whether it was built just now.
    """

    path: Path
    metadata: Mapping[str, Any]
    fresh: bool = False

    @property
    def compiler(self) -> str:
        tools = [self.metadata[key].get("name") for key in ("nvcc", "compiler") if key in self.metadata]
        return " and ".join(map(str, tools))

    @property
    def capability(self) -> str:
        return str(self.metadata.get("capability", ""))


# ----- Finding a build -----


def operators_folder() -> Path:
    """Where builds are kept by default."""
    return cache_folder() / "operators"


def build_folders() -> list[Path]:
    """Where builds are looked for and put, best first: ``GANFORMER_OPS_FOLDER`` if it is set, then the cache."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    return [*([Path(chosen).expanduser().absolute()] if chosen else []), operators_folder()]


def shipped_folders() -> list[Path]:
    """The read-only folder of a wheel with operators inside."""
    folder = resource_folder("ops") / SHIPPED
    return [folder] if folder.is_dir() else []


def platform_tag() -> str:
    """The system and the kind of processor: ``linux-x86_64``."""
    return f"{sys.platform}-{platform.machine().lower() or 'unknown'}"


def read_build(metadata_file: Path) -> Build | None:
    """The build of a metadata file, if its library is intact."""
    for _ in range(2):  # between reading the metadata and the library, another process may have published anew
        try:
            metadata = read_json(metadata_file)
            path = metadata_file.with_name(metadata["file"])
            if insist(partial(sha256_of, path)) == metadata["sha256"]:
                return Build(path, metadata)
        except (GanformerError, OSError, ValueError, KeyError, TypeError):
            continue
    return None


def find_build(
    build_spec: BuildSpec, folders: Sequence[Path], *, any_compiler: bool = False, exclude: Build | None = None
) -> Build | None:
    """The best existing build: intact, of exactly these sources, and for this machine.

    Args:
        build_spec: what it must be built from and for.
        folders: where to look, best first.
        any_compiler: accept builds on first use by a compiler that would not be chosen now.
        exclude: a build that is of no use.
    """
    found: list[tuple[int, Build]] = []
    for folder in folders:
        for metadata_file in sorted(folder.glob(f"{_stem(build_spec)}-*.json")):
            build = read_build(metadata_file)
            if build is not None and (exclude is None or build.path != exclude.path):
                rank = _rank(build_spec, build.metadata, any_compiler=any_compiler)
                found += [] if rank is None else [(rank, build)]
    return min(found, key=lambda pair: pair[0])[1] if found else None


def _rank(build_spec: BuildSpec, metadata: Mapping[str, Any], *, any_compiler: bool) -> int | None:
    """How well a build fits, 0 the best; None if it does not."""
    capability = str(metadata.get("capability"))
    if build_spec.library == "cuda":
        serves = covers([part.removeprefix("sm") for part in capability.split("-")], build_spec.architectures)
        rank = 0 if serves else None
    elif capability == build_spec.capability:
        rank = 0
    else:
        known = build_spec.capability in CAPABILITIES
        poorer = CAPABILITIES[CAPABILITIES.index(build_spec.capability) :] if known else ()
        rank = poorer.index(capability) if capability in poorer else None
    if rank is None or tuple(metadata.get("libc") or ()) > libc_version():
        return None
    if any_compiler or metadata.get("ahead"):
        return rank
    # A build on first use serves only if a new one would be the same.
    nvcc = metadata.get("nvcc")
    current = is_current(metadata.get("compiler", {})) and (
        not nvcc or file_identity(str(nvcc.get("path"))) == nvcc.get("identity")
    )
    return rank if rank == 0 and current else None


def libc_version() -> tuple[int, ...]:
    """Of glibc, with which, and with later ones, a library runs that was built here; () elsewhere."""
    try:
        version = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, ValueError, OSError):
        return ()
    return tuple(int(part) for part in re.findall(r"\d+", version))


def _stem(build_spec: BuildSpec, tag: str | None = None) -> str:
    """How the names of all builds of these sources begin, for this platform or that of ``tag``."""
    return f"{build_spec.library}-{tag or platform_tag()}-{build_spec.digest}"


def _name(build_spec: BuildSpec, tools: Tools) -> str:
    """The name of the build that ``tools`` make; another compiler, or version of it, makes another."""
    if tools.target:  # the same wherever it is built
        return f"{_stem(build_spec, tools.target.tag)}-{build_spec.capability}-{tools.compiler.version}"
    identity = [str(tools), tools.compiler.command, file_identity(tools.compiler.path), _libc_of(tools)]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    return f"{_stem(build_spec)}-{build_spec.capability}-{digest[:8]}"


def _libc_of(tools: Tools) -> tuple[int, ...]:
    """The oldest glibc that what ``tools`` make runs with."""
    return tools.zig_target.libc if tools.compiler.kind == "zig" else libc_version()


# ----- Building -----


def find_tools() -> Tools:
    """What builds the CPU library here.

    Raises:
        NoCompilerError: there is no compiler.
    """
    compiler = find_compiler()
    if compiler is None:
        raise NoCompilerError("no C++ compiler was found", how_to_get_a_compiler())
    return Tools(compiler, torch_folder())


def find_tools_for(target: TargetSystem, torch_given: Path | None = None) -> Tools:
    """What builds the CPU library for another system (or this one): the compiler of ``ziglang``.

    Args:
        target: the system.
        torch_given: a torch of that system, or its wheel, to link with; see ``import_libraries.libraries_for``.

    Raises:
        NoCompilerError: ``ziglang`` is not installed.
        BuildError: there is nothing to link with.
    """
    import torch

    from ganformer_cli.operators.import_libraries import libraries_for

    compiler = find_zig()
    if compiler is None:
        raise NoCompilerError("--target needs the compiler of ziglang", "run: pip install ziglang")
    version = str(torch.__version__).partition("+")[0]
    libraries = libraries_for(target, compiler, version, torch_given)
    return Tools(compiler, torch_folder(), target=target, libraries=libraries)


def find_cuda_tools() -> Tools:
    """What builds the CUDA library here, for the CUDA version of the installed torch.

    Raises:
        NoCompilerError: there is no compiler, or no nvcc that fits.
    """
    import torch

    tools = find_tools()
    if tools.compiler.kind == "zig":
        raise NoCompilerError(
            "nvcc needs g++, clang++ or Microsoft's compiler, and only ziglang is installed", how_to_get_nvcc(())
        )
    wanted = tuple(int(part) for part in re.findall(r"\d+", torch.version.cuda or ""))[:2]
    nvcc = find_nvcc(wanted)
    problem = "no nvcc was found" if nvcc is None else misfit(nvcc, wanted)
    if problem:
        raise NoCompilerError(problem, how_to_get_nvcc(wanted))
    return replace(tools, nvcc=nvcc)


def torch_folder() -> Path:
    """torch's folder, with its headers and libraries."""
    import torch

    return Path(torch.__path__[0])


def find_or_build(
    build_spec: BuildSpec,
    find: Callable[[], Tools] = find_tools,
    *,
    folders: Sequence[Path] | None = None,
    exclude: Build | None = None,
    say: Say = silent,
    warn: Say = silent,
) -> Build:
    """A library that exists, or else one that is built now; for this process only if no folder can be written to.

    Args:
        build_spec: what it is built from and for.
        find: finds the compiler; called only if something must be built. Raises NoCompilerError where there is none.
        folders: where to look, and to put what is built; by default :func:`build_folders`.
        exclude: an existing build that is of no use.
        say: called with a message before something that takes long.
        warn: called with a message about what the user should fix.

    Raises:
        NoCompilerError: there is no build, and no compiler.
        BuildError: the compiler fails, or nothing at all can be written to.
    """
    readable = shipped_folders() if folders is None else []
    folders = build_folders() if folders is None else [folder.absolute() for folder in folders]
    if build := find_build(build_spec, [*folders, *readable], exclude=exclude):
        return build
    try:
        tools = find()
    except NoCompilerError as error:
        if build := find_build(build_spec, folders, any_compiler=True, exclude=exclude):
            return build
        raise _hint_at_other_versions(error, build_spec, folders) from error
    refused: OutputError | None = None
    for folder in folders:
        try:
            with _locked(folder, say):
                # Another process may have built it meanwhile.
                if build := find_build(build_spec, [folder], exclude=exclude):
                    return build
                return _build_somehow([(build_spec, tools)], folder, ahead=False, say=say, warn=warn)[0]
        except OutputError as error:
            refused = refused or error
    private = _private_folder(refused)
    warn(f"{refused}; until then every process builds the native operators for itself")
    return _build_somehow([(build_spec, tools)], private, ahead=False, say=say, warn=warn)[0]


def build_ahead(
    plans: Sequence[tuple[BuildSpec, Tools]], folder: Path, *, force: bool = False, say: Say = silent
) -> list[Build]:
    """Libraries in ``folder`` for every machine that can run them: what is missing there is built, all or nothing.

    Args:
        plans: what to build and with what, with the same C++ compiler for all.
        folder: where to put them.
        force: build even what is there.
        say: called with a message before something that takes long.

    Raises:
        BuildError: the compiler fails.
        OutputError: the folder cannot be written to.
    """
    folder = folder.absolute()
    with _locked(folder, say):
        found = {plan: None if force else read_build(folder / f"{_name(*plan)}.json") for plan in plans}
        missing = [plan for plan in plans if found[plan] is None]
        made = _build_somehow(missing, folder, ahead=True, force=force, say=say, warn=say)
        built = dict(zip(missing, made, strict=True))
        builds = []
        for plan in plans:
            build = built.get(plan) or found[plan]
            assert build is not None
            if not build.metadata.get("ahead"):
                build = Build(build.path, {**build.metadata, "ahead": True})
                write_json(folder / f"{_name(*plan)}.json", build.metadata)
            builds.append(build)
        return builds


def _hint_at_other_versions(error: NoCompilerError, build_spec: BuildSpec, folders: Sequence[Path]) -> NoCompilerError:
    """``error``, with a hint if there are builds of another version of the program."""
    for folder in folders:
        if any(folder.glob(f"{build_spec.library}-{platform_tag()}-*.json")):
            hint = f"{folder} has builds of another version, or for other machines: run ganformer build-ops again"
            return NoCompilerError(error.problem, f"{error.remedy}; {hint}")
    return error


def _private_folder(refused: OutputError | None) -> Path:
    """A folder that is removed when this process ends."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="ganformer-operators-"))
    except OSError as error:
        raise BuildError(f"nowhere to build: {error_reason(error)}", str(refused or "make room")) from error
    # On Windows the library stays, since it is loaded; the system clears its temporary files.
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@contextlib.contextmanager
def _locked(folder: Path, say: Say) -> Iterator[None]:
    """Create the folder and hold its lock, so that one process builds and the others wait.

    The system releases the lock when a process dies, however it dies.
    """
    from filelock import FileLock, Timeout

    path = folder / "build.lock"
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


def _build_somehow(
    plans: Sequence[tuple[BuildSpec, Tools]], folder: Path, *, ahead: bool, say: Say, warn: Say, force: bool = False
) -> list[Build]:
    """As :func:`_build`; where the compiler fails on Windows, with the next one that can.

    Raises:
        BuildError: of the first compiler, if all fail.
    """
    try:
        return _build(plans, folder, ahead=ahead, say=say, force=force)
    except BuildError as error:
        first = plans[0][1]
        for compiler in compilers_after(first.compiler):
            if first.nvcc and compiler.kind == "zig":  # which nvcc does not take as its host compiler
                continue
            warn(f"{error.problem}; trying {compiler}")
            others = [(build_spec, replace(tools, compiler=compiler)) for build_spec, tools in plans]
            with contextlib.suppress(BuildError):
                return _build(others, folder, ahead=ahead, say=say, force=force)
        raise


def _build(
    plans: Sequence[tuple[BuildSpec, Tools]], folder: Path, *, ahead: bool, say: Say, force: bool = False
) -> list[Build]:
    """Compile in a folder inside ``folder`` and publish there. The caller holds the lock."""
    if not plans:
        return []
    names = [_name(*plan) for plan in plans]
    plans = [(_for_known_cards(build_spec, tools), tools) for build_spec, tools in plans]
    for left_over in folder.glob(f"{WORK}*"):  # by a process that was killed, since we hold the lock
        remove(left_over, warn=quietly)
    try:
        work = Path(tempfile.mkdtemp(prefix=WORK, dir=folder))
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        tools = plans[-1][1]
        # For Windows, ziglang compiles its C library, too, before it links; elsewhere, where it must, its C++ library.
        zig = tools.compiler.kind == "zig"
        slow = tools.nvcc or (zig and (tools.windows or not tools.runtime_parts))
        duration = "a minute or two" if slow else f"about {20 * len(plans)} s"
        say(f"building the native operators with {tools} (once, {duration}) ...")
        start = time.monotonic()
        # Only where builds are kept for this machine: what is built for others is nothing but libraries.
        objects = folder / OBJECTS if folder in build_folders() and not force else None
        libraries = compile_libraries(plans, work, objects)
        seconds = time.monotonic() - start
        return [
            _publish(made, folder, name, _metadata(*plan, seconds, ahead=ahead))
            for made, name, plan in zip(libraries, names, plans, strict=True)
        ]
    except OSError as error:
        raise _unwritable(folder, error) from error
    finally:
        remove(work, warn=quietly)


def _for_known_cards(build_spec: BuildSpec, tools: Tools) -> BuildSpec:
    """With the newest GPU that nvcc knows in place of newer ones."""
    if tools.nvcc is None:
        return build_spec
    known = known_architectures(tools.nvcc)
    return replace(build_spec, capability=cuda_capability(within(build_spec.architectures, known)))


def _metadata(build_spec: BuildSpec, tools: Tools, seconds: float, *, ahead: bool) -> dict[str, Any]:
    compiler = tools.compiler
    metadata: dict[str, Any] = {
        "library": build_spec.library,
        "capability": build_spec.capability,
        "sources": list(build_spec.sources),
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
        metadata["nvcc"] = {"name": str(tools.nvcc), "path": path, "identity": file_identity(path)}
    return metadata


def _publish(made: Path, folder: Path, name: str, metadata: Mapping[str, Any]) -> Build:
    """Move the library to its place, and only then write its metadata."""
    digest = sha256_of(made)
    # With its checksum in the name: one that a process has loaded is never overwritten, which Windows refuses.
    path = folder / f"{name}-{digest[:8]}{made.suffix}"
    metadata = {"file": path.name, "sha256": digest, "bytes": made.stat().st_size, **metadata}
    place(made, path)
    write_json(folder / f"{name}.json", metadata)
    for old in folder.glob(f"{name}-*{made.suffix}"):
        if old != path:
            remove(old, warn=quietly)  # on Windows a process that has it loaded keeps it
    return Build(path, metadata, fresh=True)
