"""Runs compilers: all at once with ninja, or one after another where ninja cannot run."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ganformer_cli.operators.toolchain import BuildError, decoded, run_program

SECONDS_TO_BUILD = 3600.0  # for all jobs together, on a busy machine
SECONDS_TO_STOP = 10.0
SECONDS_TO_REPORT = 0.2  # for ninja, between a job's failure and the end of what it prints about it
SECONDS_BETWEEN_CHECKS = 0.2  # of ninja; Ctrl-C waits for it on Windows


@dataclass(frozen=True)
class CompilerJob:
    """One run of a compiler.

    Attributes:
        words: the command line; relative paths in it are below the folder that it runs in.
        output: the file that it writes, a relative path.
        inputs: outputs of other jobs that it reads.
    """

    words: Sequence[str]
    output: Path
    inputs: Sequence[Path] = ()


def run_jobs(jobs: Sequence[CompilerJob], folder: Path, environment: Mapping[str, str] | None, who: str) -> None:
    """Run ``jobs`` in ``folder``. The first failure stops the others, and so does Ctrl-C.

    Args:
        jobs: in an order in which they can run one after another.
        folder: where they run, and where their outputs go.
        environment: all variables, or None for those of this process.
        who: the compiler, for messages.

    Raises:
        BuildError: with the first error line of the compiler.
    """
    for job in jobs:
        (folder / job.output).parent.mkdir(parents=True, exist_ok=True)
    failed = _run_ninja(jobs, folder, environment)
    if failed is None:
        failed = _run_in_order(jobs, folder, environment)
    if not failed and (missing := next((job for job in jobs if not (folder / job.output).is_file()), None)):
        failed = f"error: {missing.words[0]} reported success, but wrote no {missing.output}"
    if failed:
        raise BuildError(f"{who} failed: {first_error(failed)}", remedy_of(failed, who), failed)


def _run_in_order(jobs: Sequence[CompilerJob], folder: Path, environment: Mapping[str, str] | None) -> str:
    """The output of the first job that fails; empty if none does."""
    for job in jobs:
        status, output = run_program(job.words, environment, folder=folder, seconds=SECONDS_TO_BUILD)
        if status != 0:
            return decoded(output).strip() or f"error: {job.output}: status {status}, without a message"
    return ""


# ----- ninja -----


def find_ninja() -> str | None:
    """The program of the package ``ninja``, or another one on the path."""
    try:
        from ninja import BIN_DIR
    except ImportError:
        BIN_DIR = ""
    return shutil.which("ninja", path=BIN_DIR or None)


def build_file(jobs: Sequence[CompilerJob]) -> str:
    """A ninja file with one edge a job."""

    def escaped(path: Path) -> str:
        return re.sub(r"([$ :])", r"$\1", path.as_posix())

    joined = subprocess.list2cmdline if sys.platform == "win32" else shlex.join
    lines = ["rule run", "  command = $words"]
    for job in jobs:
        lines.append(f"build {escaped(job.output)}: run {' '.join(map(escaped, job.inputs))}")
        lines.append("  words = " + joined(list(map(str, job.words))).replace("$", "$$"))
    return "\n".join([*lines, ""])


def _run_ninja(jobs: Sequence[CompilerJob], folder: Path, environment: Mapping[str, str] | None) -> str | None:
    """The output of the first job that fails, empty if none does; None where ninja itself cannot run."""
    program = find_ninja()
    if program is None:
        return None
    try:
        (folder / "build.ninja").write_text(build_file(jobs), encoding="utf-8")
        process = subprocess.Popen(
            [program, "--quiet", "-j", str(_processors())],
            cwd=folder,
            env=None if environment is None else dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # so that Ctrl-Break reaches only ninja
        )
    except OSError:
        return None
    too_slow = threading.Event()

    def give_up() -> None:
        too_slow.set()
        _interrupt(process)

    timer = threading.Timer(SECONDS_TO_BUILD, give_up)
    timer.start()
    lines: list[bytes] = []

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if line.startswith(b"FAILED: "):  # ninja would wait for the other jobs; it prints this one's output first
                _later(SECONDS_TO_REPORT, lambda: _interrupt(process))

    # In a thread: on Windows a compiler that ninja could not end would keep our end of the pipe open.
    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        while process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(SECONDS_BETWEEN_CHECKS)
        reader.join(SECONDS_TO_STOP)
        status = process.returncode
    except BaseException:
        _interrupt(process)
        _end(process)
        raise
    finally:
        timer.cancel()
    output = decoded(b"".join(lines))
    if status == 0:
        return ""
    if too_slow.is_set():
        return f"error: no result after {SECONDS_TO_BUILD:.0f} seconds"
    if "FAILED: " in output:
        return output_of_failure(output)
    return "error: interrupted" if "interrupted by user" in output else None


def output_of_failure(output: str) -> str:
    """What the first failing job printed, out of ninja's output: behind ``FAILED: file`` and the command line."""
    lines = output.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("FAILED: "))
    rest = itertools.takewhile(lambda line: not line.startswith(("FAILED: ", "ninja: ")), lines[start + 2 :])
    return "\n".join(rest).strip() or f"error: {lines[start].removeprefix('FAILED: ').strip()}: no message"


def _interrupt(process: subprocess.Popen[bytes]) -> None:
    """Let ninja end its compilers and itself; end it if it does not."""
    try:
        process.send_signal(getattr(signal, "CTRL_BREAK_EVENT", signal.SIGTERM))
    except OSError:  # a Windows process without a console
        process.kill()
        return
    # Ctrl-Break need not reach it: Wine loses it, and so may a console that another program has made.
    _later(SECONDS_TO_STOP, process.kill)


def _later(seconds: float, act: Callable[[], None]) -> None:
    timer = threading.Timer(seconds, act)
    timer.daemon = True
    timer.start()


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(SECONDS_TO_STOP)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _processors() -> int:
    """How many this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # Windows
        return os.cpu_count() or 1


# ----- What compilers print -----

_ERROR_LINE = re.compile(
    r"\berror\b|\bfatal\b|\b(?:C|D|LNK)\d{4}\b|undefined reference|undefined symbol|cannot find"
    r"|cannot open|can't create|no space left",
    re.IGNORECASE,
)


def first_error(output: str) -> str:
    """The line of a compiler's output that names the error; else the first line."""
    lines = [" ".join(line.split()) for line in output.splitlines() if line.strip()]
    return next((line for line in lines if _ERROR_LINE.search(line)), lines[0] if lines else "")


def _missing(header: str) -> str:
    """A pattern for a header that is not found, as GCC, Clang and Microsoft's compiler report it."""
    return rf"fatal error: '?(?:{header})(?:'? file not found|: )|include file: '(?:{header})'"


_STANDARD = (
    r"c\w+|algorithm|vector|string|memory|utility|type_traits|limits|(?:std\w+|math|features|sys/\w+)\.h|bits/.*"
)

_ZIG_AGAIN = "run: pip install --force-reinstall ziglang"
_MISSING_FILES = (
    "repair that Visual Studio with its installer, or name another one's folder in GANFORMER_VISUAL_STUDIO"
    if sys.platform == "win32"
    else "the C++ library's development files are missing (Debian, Ubuntu: apt install g++)"
)

#: A pattern for a compiler's error line, and what to do about it. The first that matches counts.
_REMEDIES = (
    (r"zig installation directory|[\\/]ziglang[\\/]", _ZIG_AGAIN),
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
        "this compiler is too old for C++17: run pip install ziglang, or install a newer one",
    ),
    (
        _missing("(?:torch|ATen|c10)/.*") + r"|cannot find -l(?:torch|c10)",
        "this torch lacks its headers or libraries: install it again with pip",
    ),
    (r"cudart|cuda_runtime", "the CUDA toolkit is not complete: install all of it"),
    (
        _missing(_STANDARD) + r"|crt[1in]+\.o|cannot find -l",
        _MISSING_FILES,
    ),
)


def remedy_of(output: str, who: str = "") -> str:
    """What to do about a failure of the compiler ``who``."""
    line = first_error(output)
    for pattern, remedy in _REMEDIES:
        if re.search(pattern, line, re.IGNORECASE):
            return _ZIG_AGAIN if remedy is _MISSING_FILES and who.startswith("zig") else remedy
    if sys.platform == "win32":
        return "run pip install ziglang for another compiler, and report this if that one fails too"
    return "try another compiler with CXX=..., and report this if that one fails too"
