"""Turns the sources of ``ops/`` into libraries: what each compiler is called with.

There are two libraries. The CPU library has all C++ except ``cuda_bindings.cpp`` and defines the operators; the CUDA
library has the kernels (``*.cu``) and ``cuda_bindings.cpp``. Both use only torch's stable interface, so that one file
works with every torch since 2.10.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ganformer_cli.files import insist, quietly, remove, replace
from ganformer_cli.operators import zig_runtime
from ganformer_cli.operators.cuda_toolkit import Nvcc, nvcc_words
from ganformer_cli.operators.jobs import CompilerJob, run_jobs
from ganformer_cli.operators.toolchain import (
    TARGETS,
    BuildError,
    Compiler,
    TargetSystem,
    file_identity,
    target_words,
    this_target,
)
from ganformer_cli.resources import resource_folder

Library = Literal["cpu", "cuda"]

TORCH_TARGET = "0x020a000000000000"  # the oldest torch whose stable interface is used: 2.10
BINDINGS = "cuda_bindings.cpp"

#: torch's names for a CPU's instruction sets, richest first: a CPU runs what was built for its own and later ones.
CAPABILITIES = ("AVX512", "AVX2", "DEFAULT")

_GNU_CAPABILITIES = {
    "AVX512": "-mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mf16c -mprefer-vector-width=512",
    "AVX2": "-mavx2 -mfma -mf16c",
}
_MSVC_CAPABILITIES = {"AVX512": "/arch:AVX512", "AVX2": "/arch:AVX2"}

# No -ffast-math: NaN must stay NaN. Traps and errno are what keeps loops from being vectorised.
_GNU_FLAGS = "-std=c++17 -O3 -fPIC -fvisibility=hidden -fno-trapping-math -fno-math-errno -ffp-contract=fast"
_MSVC_FLAGS = "/nologo /utf-8 /std:c++17 /Zc:__cplusplus /bigobj /O2 /EHsc /MD /DNOMINMAX /D_USE_MATH_DEFINES /w"
_MSVC_CONTRACT = (14, 30)  # the first tools with /fp:contract; earlier ones contract by default

_ALL_FLAGS = (
    *(TORCH_TARGET, _GNU_FLAGS, _GNU_CAPABILITIES, _MSVC_FLAGS, _MSVC_CAPABILITIES),
    *(target_words(target, capability) for target in TARGETS.values() for capability in CAPABILITIES),
    nvcc_words(Nvcc("nvcc", (0, 0), ()), ["0"]),
    (zig_runtime.PARTS, zig_runtime.WINDOWS_PARTS, zig_runtime.FLAGS, zig_runtime.LINUX_FLAGS),
)


@dataclass(frozen=True)
class BuildSpec:
    """What to build, and for which machines.

    Attributes:
        library: which of the two.
        folder: where the sources are.
        sources: names of the files to compile.
        headers: names of the files that those may include.
        capability: torch's name for the CPU's instruction set; of the CUDA library the GPUs, ``sm80-sm90``.
    """

    library: Library
    folder: Path
    sources: tuple[str, ...]
    headers: tuple[str, ...]
    capability: str

    @functools.cached_property
    def digest(self) -> str:
        """Changes with every byte of the sources and headers, with the flags and with torch's interface."""
        digest = hashlib.sha256("\n".join(map(str, _ALL_FLAGS)).encode())
        for name in (*self.sources, *self.headers):
            data = (self.folder / name).read_bytes()
            digest.update(f"\n{name} {len(data)}\n".encode() + data)
        return digest.hexdigest()[:16]

    @property
    def architectures(self) -> tuple[str, ...]:
        """Of the CUDA library: ``("80", "90")``."""
        return tuple(part.removeprefix("sm") for part in self.capability.split("-"))


def make_build_spec(library: Library, capability: str, folder: Path | None = None) -> BuildSpec | None:
    """What to build from the sources in ``folder`` (left out: ``ops/``); None if there are none."""
    folder = resource_folder("ops") if folder is None else folder
    names = sorted(path.name for path in folder.iterdir() if path.suffix in {".cpp", ".cu", ".h"})
    if library == "cpu":
        sources = [name for name in names if name.endswith(".cpp") and name != BINDINGS]
        headers = [name for name in names if name.endswith(".h") and not name.startswith("cuda_")]
    else:
        sources = [name for name in names if name.endswith(".cu") or name == BINDINGS]
        headers = [name for name in names if name.endswith(".h")]
    return BuildSpec(library, folder, tuple(sources), tuple(headers), capability) if sources else None


def cuda_capability(architectures: Sequence[str]) -> str:
    return "-".join(f"sm{name}" for name in architectures)


@dataclass(frozen=True)
class Tools:
    """What compiles.

    Attributes:
        compiler: of C++.
        torch: folder of the torch whose headers are read.
        nvcc: for the CUDA library.
        target: the system to build for, with zig; None is this one.
        libraries: folder of torch's libraries to link with, if not ``torch / "lib"``.
        whole_runtime: with zig, link all of its C++ library instead of the parts that are needed.
    """

    compiler: Compiler
    torch: Path
    nvcc: Nvcc | None = None
    target: TargetSystem | None = None
    libraries: Path | None = None
    whole_runtime: bool = False

    @property
    def runtime_parts(self) -> bool:
        """Whether the C++ library's parts are compiled here (``zig_runtime``)."""
        zig = self.compiler.kind == "zig" and not self.whole_runtime
        return zig and zig_runtime.knows_parts(self.compiler, self.zig_target)

    @property
    def zig_target(self) -> TargetSystem:
        """What zig builds for."""
        target = self.target or this_target()
        if target is None:
            raise BuildError("zig is not known to build for this system", "install g++ or clang++")
        return target

    @property
    def windows(self) -> bool:
        """Whether the library is for Windows."""
        return self.target.windows if self.target else sys.platform == "win32"

    def __str__(self) -> str:
        return f"{self.nvcc} and {self.compiler}" if self.nvcc else str(self.compiler)


def compile_libraries(plans: Sequence[tuple[BuildSpec, Tools]], work: Path, objects: Path | None = None) -> list[Path]:
    """Compile all sources of some libraries side by side and link them.

    Args:
        plans: what to build and with what; the same C++ compiler for all.
        work: an empty folder to work in.
        objects: a folder of compiled sources: those of an earlier build that would not change are taken from there, and
            the new ones are put there. None compiles all.

    Returns:
        The libraries' files, in ``work``.

    Raises:
        BuildError: with the first error line of the compiler.
    """
    try:
        return _compile_libraries(plans, work, objects)
    except BuildError:
        if not plans[-1][1].runtime_parts:
            raise
    # A zig whose C++ library does not come apart in this way.
    whole = [(build_spec, dataclasses.replace(tools, whole_runtime=True)) for build_spec, tools in plans]
    return _compile_libraries(whole, work, objects)


def _compile_libraries(plans: Sequence[tuple[BuildSpec, Tools]], work: Path, objects: Path | None) -> list[Path]:
    """:func:`compile_libraries`, once."""
    jobs: list[CompilerJob] = []
    libraries: list[Path] = []
    new: dict[Path, Path] = {}  # object file → where to keep it
    for build_spec, tools in plans:
        linked = []
        for name in longest_first(build_spec):
            job = compile_job(build_spec, tools, name)
            kept = None if objects is None else objects / _object_name(build_spec, tools, name, job)
            if kept is not None and kept.is_file():
                linked.append(kept)
                continue
            jobs.append(job)
            linked.append(job.output)
            if kept is not None:
                new[work / job.output] = kept
        jobs += link_jobs(build_spec, tools, linked)
        libraries.append(work / jobs[-1].output)
    tools = plans[-1][1]
    environment = tools.compiler.environment
    if tools.compiler.kind == "zig":  # which otherwise writes below the home folder, if there is one
        cache = str(work / "zig")
        environment = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache}
    if tools.runtime_parts:
        (work / zig_runtime.SOURCE).write_text(zig_runtime.source_text(tools.zig_target), encoding="utf-8")
    run_jobs(jobs, work, environment, str(tools))
    for made, kept in new.items():
        kept.parent.mkdir(exist_ok=True)
        for old in kept.parent.glob(f"{kept.name.rpartition('-')[0]}-*"):
            remove(old, warn=quietly)
        place(made, kept)
    return libraries


def place(made: Path, path: Path) -> None:
    """Move a finished file to ``path``, on the same disk; whole even after a power cut."""
    # On Windows a virus scanner may hold it as soon as it is there.
    with insist(lambda: made.open("rb+")) as stream:
        os.fsync(stream.fileno())
    replace(made, path)


def _object_name(build_spec: BuildSpec, tools: Tools, source: str, job: CompilerJob) -> str:
    """A file name that changes with all that the object is made of: ``AVX2-bias_act.o-0123456789abcdef``."""
    torch = file_identity(str(tools.torch / "version.py"))
    programs = [file_identity(program.path) for program in (tools.compiler, tools.nvcc) if program]
    digest = hashlib.sha256(repr((job.words, str(tools), programs, torch)).encode())
    for name in _included(build_spec.folder, source):
        digest.update((build_spec.folder / name).read_bytes())
    return f"{build_spec.capability}-{job.output.name}-{digest.hexdigest()[:16]}"


def longest_first(build_spec: BuildSpec) -> list[str]:
    """The sources by size, with the headers that they include, since that is where the templates are."""

    def size(source: str) -> int:
        return -sum((build_spec.folder / name).stat().st_size for name in _included(build_spec.folder, source))

    return sorted(build_spec.sources, key=size)


def _included(folder: Path, source: str) -> list[str]:
    """A source and all headers beside it that it includes, directly or not."""
    names = [source]
    for name in names:
        text = (folder / name).read_text("utf-8", errors="replace")
        included = re.findall(r'^\s*#\s*include "([^"]+)"', text, re.MULTILINE)
        names += [name for name in dict.fromkeys(included) if name not in names and (folder / name).is_file()]
    return names


# ----- Command lines -----


def compile_job(build_spec: BuildSpec, tools: Tools, name: str) -> CompilerJob:
    """Compiles the source ``name``."""
    source = build_spec.folder / name
    suffix = ".obj" if tools.compiler.kind == "msvc" else ".o"
    output = Path(build_spec.capability, name.removesuffix(".cpp") + suffix)
    words = _cuda_words(build_spec, tools) if source.suffix == ".cu" else _cpp_words(build_spec, tools)
    if source.suffix == ".cpp" and tools.compiler.kind == "msvc":
        return CompilerJob([*words, "/c", str(source), f"/Fo{output}"], output)
    return CompilerJob([*words, "-c", str(source), "-o", str(output)], output)


def _cpp_words(build_spec: BuildSpec, tools: Tools) -> list[str]:
    compiler, words = tools.compiler, list(tools.compiler.command)
    capability = build_spec.capability if build_spec.library == "cpu" else "DEFAULT"
    includes = [tools.torch / "include", tools.torch / "include" / "torch" / "csrc" / "api" / "include"]
    definitions = [f"TORCH_TARGET_VERSION={TORCH_TARGET}"]
    if tools.nvcc:
        includes += tools.nvcc.include_folders
        definitions.append("USE_CUDA")  # for the stable interface's CUDA part
    if compiler.kind == "msvc":
        words += [*_MSVC_FLAGS.split(), *_MSVC_CAPABILITIES.get(capability, "").split()]
        if tuple(int(part) for part in re.findall(r"\d+", compiler.version)[:2]) >= _MSVC_CONTRACT:
            words.append("/fp:contract")
        return words + [f"/D{definition}" for definition in definitions] + [f"/I{folder}" for folder in includes]
    words += _GNU_FLAGS.split()
    if compiler.kind == "zig":
        words += target_words(tools.zig_target, capability)
        if tools.zig_target.windows:
            words.remove("-fPIC")
        # Messages name the source, not the folder of the machine that built it.
        words.append(f"-ffile-prefix-map={build_spec.folder}=ops")
    else:
        words += _GNU_CAPABILITIES.get(capability, "").split()
    words += [f"-D{definition}" for definition in definitions]
    return words + [word for folder in includes for word in ("-isystem", str(folder))]


def _cuda_words(build_spec: BuildSpec, tools: Tools) -> list[str]:
    if tools.nvcc is None:
        raise ValueError("a .cu needs nvcc")
    msvc = tools.compiler.kind == "msvc"
    words = nvcc_words(tools.nvcc, build_spec.architectures)
    words += ["-Xcompiler", "/MD,/EHsc,/utf-8" if msvc else "-fPIC,-fvisibility=hidden"]
    host = str(Path(tools.compiler.path).parent) if msvc else tools.compiler.path
    host = os.environ.get("NVCC_CCBIN") or os.environ.get("CUDAHOSTCXX") or host
    return [*words, "-ccbin", host]


def link_jobs(build_spec: BuildSpec, tools: Tools, objects: Sequence[Path]) -> list[CompilerJob]:
    """Links ``objects`` with torch, and with nvcc's CUDA runtime, in the last job.

    Args:
        objects: relative paths are outputs of other jobs.
    """
    folder = tools.libraries or tools.torch / "lib"
    runtime = tools.nvcc.runtime if tools.nvcc else None
    below = Path(build_spec.capability)
    output = below / f"library{'.dll' if tools.windows else '.so'}"
    made = [path for path in objects if not path.is_absolute()]
    words = list(tools.compiler.command)
    jobs: list[CompilerJob] = []
    if tools.compiler.kind == "msvc":
        names = ("torch_cpu", "c10", "torch", *(["torch_cuda"] if tools.nvcc else []))
        words += ["/nologo", "/LD", *map(str, objects), f"/Fe{output}", "/link", f"/LIBPATH:{folder}"]
        words += [f"{name}.lib" for name in names]
        words += [str(runtime or "cudart.lib")] if tools.nvcc else []
        return [CompilerJob([*words, f"/IMPLIB:{below / 'library.lib'}"], output, made)]
    if tools.compiler.kind == "zig":
        words += [*target_words(tools.zig_target, build_spec.capability), "-s"]
        if tools.runtime_parts:
            jobs.append(_runtime_job(build_spec, tools))
            objects, made = [*objects, jobs[0].output], [*made, jobs[0].output]
            words[1:2] = ["cc", *zig_runtime.LINKED]  # c++ would link the whole library
        if tools.zig_target.windows:
            linked = [*map(str, objects), str(folder / "torch_cpu.lib"), str(folder / "c10.lib")]
            return [*jobs, CompilerJob([*words, "-shared", "-o", str(output), *linked], output, made)]
        if tools.libraries:  # empty stand-ins
            words.append("-Wl,--no-as-needed")
    words += ["-shared", "-o", str(output), *map(str, objects), f"-L{folder}", "-ltorch_cpu", "-lc10"]
    if tools.nvcc is None:
        if sys.platform == "linux" and not tools.libraries:
            words.append("-Wl,-z,defs")  # what is missing shows now, with its name, and not when it is loaded
        return [*jobs, CompilerJob(words, output, made)]
    torch_cuda = tools.torch / "lib" / "libtorch_cuda.so"
    if not torch_cuda.is_file():
        # A torch without CUDA builds for one with it, against an empty library of the same name: when ours is loaded,
        # the real one is in use already and found by that name.
        torch_cuda = below / torch_cuda.name
        stand_in = [*tools.compiler.command, "-shared", f"-Wl,-soname,{torch_cuda.name}", "-o", str(torch_cuda)]
        jobs.append(CompilerJob(stand_in, torch_cuda))
        made.append(torch_cuda)
    words += [str(runtime or "-lcudart"), "-Wl,--no-as-needed", str(torch_cuda)]
    return [*jobs, CompilerJob(words, output, made)]


def _runtime_job(build_spec: BuildSpec, tools: Tools) -> CompilerJob:
    """Compiles the parts of zig's C++ library, out of the folder that the jobs run in."""
    output = Path(build_spec.capability, zig_runtime.SOURCE).with_suffix(".o")
    words = [*tools.compiler.command, *target_words(tools.zig_target, build_spec.capability)]
    words += [*zig_runtime.compile_words(tools.compiler, tools.zig_target), "-c", zig_runtime.SOURCE, "-o", str(output)]
    return CompilerJob(words, output)
