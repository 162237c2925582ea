"""Turns the sources of ``ops/`` into a library: the command lines, and running them side by side.

There are two libraries. That of the CPU holds all C++ but ``cuda_bindings.cpp`` and defines the operators; that of CUDA
holds the kernels (``*.cu``) and ``cuda_bindings.cpp``. Both use torch's stable interface only, so that one file serves
every torch since 2.10.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ganformer_cli.errors import GanformerError
from ganformer_cli.operators.cuda_toolkit import Nvcc, nvcc_words
from ganformer_cli.operators.toolchain import Compiler, decoded
from ganformer_cli.operators.zig import TARGETS, Target, target_words, this_target
from ganformer_cli.resources import resource_folder

Library = Literal["cpu", "cuda"]

TORCH_TARGET = "0x020a000000000000"  # the oldest torch whose stable interface is used: 2.10
BINDINGS = "cuda_bindings.cpp"
SECONDS_TO_COMPILE = 900.0  # for one source, on a machine with other work

#: What torch calls the abilities of a CPU, from the richest to the plainest: a CPU runs what was built for those below.
CAPABILITIES = ("AVX512", "AVX2", "DEFAULT")

_GNU_CAPABILITIES = {
    "AVX512": "-mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mf16c -mprefer-vector-width=512",
    "AVX2": "-mavx2 -mfma -mf16c",
}
_MSVC_CAPABILITIES = {"AVX512": "/arch:AVX512", "AVX2": "/arch:AVX2"}

# No -ffast-math: NaN must stay NaN. Traps and errno are what keeps loops from being vectorised.
_GNU_FLAGS = "-std=c++17 -O3 -fPIC -fvisibility=hidden -fno-trapping-math -fno-math-errno -ffp-contract=fast"
_MSVC_FLAGS = "/nologo /utf-8 /std:c++17 /Zc:__cplusplus /bigobj /O2 /EHsc /MD /DNOMINMAX /D_USE_MATH_DEFINES /w"
_ZIG_FLAGS = _GNU_FLAGS.replace("-fPIC ", "")  # which Windows' libraries do without; for Linux it is put back
_MSVC_CONTRACT = (14, 30)  # the first tools with /fp:contract; those before contract without being told


class BuildError(GanformerError):
    """The native operators cannot be had.

    Attributes:
        problem: what is wrong.
        remedy: what to do about it.
        output: all that the compiler said.
    """

    def __init__(self, problem: str, remedy: str, output: str = "") -> None:
        super().__init__(f"{problem}; {remedy}" if remedy else problem)
        self.problem = problem
        self.remedy = remedy
        self.output = output


class NoCompilerError(BuildError):
    """There is no compiler, and nothing that was built before."""


@dataclass(frozen=True)
class Recipe:
    """What is to be built, and for which machines.

    Attributes:
        library: which of the two.
        folder: where the sources lie.
        sources: names of the files to compile.
        headers: names of the files that those may include.
        capability: of the CPU, as torch calls it; for the CUDA library the cards, ``sm80-sm90``.
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


_ALL_FLAGS = (
    *(TORCH_TARGET, _GNU_FLAGS, _GNU_CAPABILITIES, _MSVC_FLAGS, _MSVC_CAPABILITIES),
    *(target_words(target, capability) for target in TARGETS.values() for capability in CAPABILITIES),
    nvcc_words(Nvcc("nvcc", (0, 0), ()), ["0"]),
)


def make_recipe(library: Library, capability: str, folder: Path | None = None) -> Recipe | None:
    """The recipe of a library from the sources that are there; None if there are none."""
    folder = resource_folder("ops") if folder is None else folder
    names = sorted(path.name for path in folder.iterdir() if path.suffix in {".cpp", ".cu", ".h"})
    if library == "cpu":
        sources = [name for name in names if name.endswith(".cpp") and name != BINDINGS]
        headers = [name for name in names if name.endswith(".h") and not name.startswith("cuda_")]
    else:
        sources = [name for name in names if name.endswith(".cu") or name == BINDINGS]
        headers = [name for name in names if name.endswith(".h")]
    return Recipe(library, folder, tuple(sources), tuple(headers), capability) if sources else None


def cuda_capability(architectures: Sequence[str]) -> str:
    return "-".join(f"sm{name}" for name in architectures)


def library_suffix(target: Target | None = None) -> str:
    """Of a shared library's file name, on this system or another."""
    windows = target.windows if target else sys.platform == "win32"
    return ".dll" if windows else ".so"


# ----- Command lines -----


@dataclass(frozen=True)
class Tools:
    """What compiles.

    Attributes:
        compiler: of C++.
        torch: folder of the torch whose headers are read.
        nvcc: for the CUDA library.
        target: the system to build for, with zig; None is this one.
        libraries: folder of the libraries of torch to link with, if that is not ``torch / "lib"``.
    """

    compiler: Compiler
    torch: Path
    nvcc: Nvcc | None = None
    target: Target | None = None
    libraries: Path | None = None

    @property
    def zig_target(self) -> Target:
        """What zig builds for."""
        target = self.target or this_target()
        if target is None:
            raise BuildError("zig is not known to build for this system", "install g++ or clang++")
        return target

    def __str__(self) -> str:
        return f"{self.nvcc} and {self.compiler}" if self.nvcc else str(self.compiler)


@dataclass(frozen=True)
class Job:
    """One run of a compiler."""

    words: Sequence[str]
    output: Path
    size: int = 0  # of what is compiled: the largest takes longest


def compile_jobs(recipe: Recipe, tools: Tools, work: Path) -> list[Job]:
    """A job for each source, the longest first, with its object file in ``work``."""
    includes = [tools.torch / "include", tools.torch / "include" / "torch" / "csrc" / "api" / "include"]
    jobs = []
    for name in recipe.sources:
        source = recipe.folder / name
        if name.endswith(".cu"):
            words, output = _cuda_words(recipe, tools, source, work)
        else:
            words, output = _cpp_words(recipe, tools, source, work, includes)
        jobs.append(Job(words, output, _size_with_headers(source)))
    return sorted(jobs, key=lambda job: -job.size)


def _size_with_headers(source: Path) -> int:
    """Bytes of a source and of all headers beside it that it includes, since that is where templates stand."""
    seen, waiting = set(), [source.name]
    while waiting:
        name = waiting.pop()
        path = source.parent / name
        if name not in seen and path.is_file():
            seen.add(name)
            waiting += re.findall(r'^\s*#\s*include "([^"]+)"', path.read_text("utf-8", errors="replace"), re.MULTILINE)
    return sum((source.parent / name).stat().st_size for name in seen)


def _cpp_words(
    recipe: Recipe, tools: Tools, source: Path, work: Path, includes: Sequence[Path]
) -> tuple[list[str], Path]:
    compiler, words = tools.compiler, list(tools.compiler.command)
    capability = recipe.capability if recipe.library == "cpu" else "DEFAULT"
    definitions = [f"TORCH_TARGET_VERSION={TORCH_TARGET}"]
    if tools.nvcc:
        includes = [*includes, *tools.nvcc.include_folders]
        definitions.append("USE_CUDA")  # declares what the stable interface has for it
    if compiler.kind == "msvc":
        output = work / f"{source.stem}.obj"
        words += [*_MSVC_FLAGS.split(), *_MSVC_CAPABILITIES.get(capability, "").split()]
        if tuple(int(part) for part in re.findall(r"\d+", compiler.version)[:2]) >= _MSVC_CONTRACT:
            words.append("/fp:contract")
        words += [f"/D{definition}" for definition in definitions] + [f"/I{folder}" for folder in includes]
        return [*words, "/c", str(source), f"/Fo{output}"], output
    output = work / f"{source.stem}.o"
    if compiler.kind == "zig":
        words += [*_ZIG_FLAGS.split(), *target_words(tools.zig_target, capability)]
        words += [] if tools.zig_target.windows else ["-fPIC"]
        # Errors name the source; the folder of the machine that built it says nobody anything.
        words.append(f"-ffile-prefix-map={recipe.folder}=ops")
    else:
        words += [*_GNU_FLAGS.split(), *_GNU_CAPABILITIES.get(capability, "").split()]
    words += [f"-D{definition}" for definition in definitions]
    for folder in includes:
        words += ["-isystem", str(folder)]
    return [*words, "-c", str(source), "-o", str(output)], output


def _cuda_words(recipe: Recipe, tools: Tools, source: Path, work: Path) -> tuple[list[str], Path]:
    if tools.nvcc is None:
        raise ValueError("a .cu needs nvcc")
    msvc = tools.compiler.kind == "msvc"
    output = work / f"{source.stem}.cu{'.obj' if msvc else '.o'}"
    words = nvcc_words(tools.nvcc, recipe.architectures)
    words += ["-Xcompiler", "/MD,/EHsc,/utf-8" if msvc else "-fPIC,-fvisibility=hidden"]
    if not {"NVCC_CCBIN", "CUDAHOSTCXX"} & set(os.environ):
        words += ["-ccbin", str(Path(tools.compiler.path).parent) if msvc else tools.compiler.path]
    elif chosen := os.environ.get("NVCC_CCBIN") or os.environ.get("CUDAHOSTCXX"):
        words += ["-ccbin", chosen]
    return [*words, str(source), "-o", str(output)], output


def link_job(recipe: Recipe, tools: Tools, objects: Sequence[Path], work: Path) -> Job:
    """Links ``objects`` with torch, and with the CUDA runtime that nvcc brings."""
    compiler = tools.compiler
    output = work / f"library{library_suffix(tools.target)}"
    folder = tools.libraries or tools.torch / "lib"
    runtime = tools.nvcc.runtime if tools.nvcc else None
    words = list(compiler.command)
    if compiler.kind == "msvc":
        names = ("torch_cpu", "c10", "torch", *(["torch_cuda"] if tools.nvcc else []))
        words += ["/nologo", "/LD", *map(str, objects), f"/Fe{output}", "/link", f"/LIBPATH:{folder}"]
        words += [f"{name}.lib" for name in names]
        words += [str(runtime or "cudart.lib")] if tools.nvcc else []
        return Job([*words, f"/IMPLIB:{work / 'library.lib'}"], output)
    if compiler.kind == "zig":
        words += [*target_words(tools.zig_target, recipe.capability), "-s"]
        if tools.zig_target.windows:
            linked = [*map(str, objects), str(folder / "torch_cpu.lib"), str(folder / "c10.lib")]
            return Job([*words, "-shared", "-o", str(output), *linked], output)
        if tools.libraries:  # stand-ins without contents
            words.append("-Wl,--no-as-needed")
    words += ["-shared", "-o", str(output), *map(str, objects), f"-L{folder}", "-ltorch_cpu", "-lc10"]
    if tools.nvcc:
        words += [str(runtime or "-lcudart"), "-Wl,--no-as-needed", str(_torch_cuda(tools, work))]
    elif sys.platform == "linux" and not tools.libraries:
        words.append("-Wl,-z,defs")  # what is missing shows now, with its name, and not when it is loaded
    return Job(words, output)


def _torch_cuda(tools: Tools, work: Path) -> Path:
    """torch's CUDA library to link with; for a torch without CUDA, which may build for one with it, where a stand-in is
    made by :func:`stand_in_job`."""
    return next((tools.torch / "lib").glob("libtorch_cuda.so"), work / "libtorch_cuda.so")


def stand_in_job(tools: Tools, work: Path) -> Job | None:
    """Makes an empty library of the name of torch's CUDA library, if it is not there: the real one is at work already
    when ours is loaded, and by the name ours finds it."""
    path = _torch_cuda(tools, work)
    if tools.nvcc is None or tools.compiler.kind == "msvc" or path.is_file():
        return None
    return Job([*tools.compiler.command, "-shared", f"-Wl,-soname,{path.name}", "-o", str(path)], path)


# ----- Running them -----


def compile_library(recipe: Recipe, tools: Tools, work: Path) -> Path:
    """Compile all sources side by side and link them: the library's file, in ``work``, an absolute path.

    Raises:
        BuildError: with the first error line of the compiler.
    """
    processes = _Processes(work, tools)
    jobs = compile_jobs(recipe, tools, work)
    with ThreadPoolExecutor(min(len(jobs), _processors())) as pool:
        futures: list[Future[None]] = [pool.submit(processes.run, job) for job in jobs]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        except BaseException:
            processes.stop()
            raise
        if failed := next((error for future in done if (error := future.exception())), None):
            processes.stop()
            raise failed
    if stand_in := stand_in_job(tools, work):
        processes.run(stand_in)
    job = link_job(recipe, tools, [job.output for job in jobs], work)
    processes.run(job)
    return job.output


def _processors() -> int:
    """How many this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # Windows
        return os.cpu_count() or 1


@dataclass
class _Processes:
    """The compilers at work; ``stop`` ends them all, and those still to come never start."""

    work: Path
    tools: Tools
    running: set[subprocess.Popen[bytes]] = field(default_factory=set)
    stopped: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, job: Job) -> None:
        environment: Mapping[str, str] | None = self.tools.compiler.environment
        if self.tools.compiler.kind == "zig":  # which otherwise writes below the home folder, if there is one
            cache = str(self.work / "zig")
            environment = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache}
        try:
            with self.lock:
                if self.stopped:
                    return
                process = subprocess.Popen(
                    list(job.words),
                    cwd=self.work,  # where compilers leave what nobody asked for
                    env=None if environment is None else dict(environment),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                )
                self.running.add(process)
            try:
                said = decoded(process.communicate(timeout=SECONDS_TO_COMPILE)[0])
                status = process.returncode
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                said, status = f"error: no result after {SECONDS_TO_COMPILE:.0f} seconds", -1
            finally:
                with self.lock:
                    self.running.discard(process)
        except OSError as error:
            said, status = f"error: {job.words[0]} cannot be started: {error.strerror or error}", -1
        if status == 0 and not job.output.is_file():
            said, status = f"error: {job.words[0]} said that all went well, and wrote nothing", -1
        if status != 0 and not self.stopped:
            line = first_error(said) or f"it ended with status {status} and said nothing"
            raise BuildError(f"{self.tools} failed: {line}", remedy_of(said), said)

    def stop(self) -> None:
        with self.lock:
            self.stopped = True
            for process in self.running:
                process.kill()


_TELLING = re.compile(
    r"\berror\b|\bfatal\b|\b(?:C|D|LNK)\d{4}\b|undefined reference|undefined symbol|cannot find"
    r"|cannot open|can't create|no space left",
    re.IGNORECASE,
)


def first_error(said: str) -> str:
    """The line of a compiler's output that says what is wrong; else the first."""
    lines = [" ".join(line.split()) for line in said.splitlines() if line.strip()]
    return next((line for line in lines if _TELLING.search(line)), lines[0] if lines else "")


def _missing(header: str) -> str:
    """A pattern for a header that is not found, as GCC, Clang and Microsoft's say it."""
    return rf"fatal error: '?(?:{header})(?:'? file not found|: )|include file: '(?:{header})'"


_STANDARD = (
    r"c\w+|algorithm|vector|string|memory|utility|type_traits|limits|(?:std\w+|math|features|sys/\w+)\.h|bits/.*"
)

#: What a compiler's line shows, and what to do about it. The first that fits is said.
_REMEDIES = (
    (r"no space left|C1085|LNK1180", "make room on the disk"),
    (
        r"can't create|(?:cannot|unable to) open output file|read-only file system",
        "the compiler cannot write where it builds: choose another folder with GANFORMER_CACHE, or with --output-dir",
    ),
    (r"out of memory|killed|cannot allocate|C1060|C1076", "close other programs, or build where more memory is"),
    (
        r"unsupported (?:gnu|clang|microsoft visual studio) version",
        "this nvcc needs an older host compiler: name its program in NVCC_CCBIN",
    ),
    (r"unsupported gpu architecture", "this nvcc does not know that card: install a CUDA toolkit that does"),
    (
        r"unrecognized .*option|unknown argument|invalid value 'c\+\+17'|D8021",
        "this compiler is too old to know C++17: run pip install ziglang, or install a newer one",
    ),
    (
        _missing("(?:torch|ATen|c10)/.*") + r"|cannot find -l(?:torch|c10)",
        "this torch lacks its headers or libraries: install it again with pip",
    ),
    (r"cudart|cuda_runtime", "the CUDA toolkit is not complete: install all of it"),
    (
        _missing(_STANDARD) + r"|crt[1in]+\.o|cannot find -l",
        "the C++ library's development files are missing (Debian, Ubuntu: apt install g++)",
    ),
)


def remedy_of(said: str) -> str:
    """What to do about what a compiler said."""
    line = first_error(said)
    for pattern, remedy in _REMEDIES:
        if re.search(pattern, line, re.IGNORECASE):
            return remedy
    if sys.platform == "win32":
        return "run pip install ziglang for another compiler, and report this if it is the same with that one"
    return "try another compiler with CXX=..., and report this if it is the same with that one"
