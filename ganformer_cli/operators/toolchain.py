"""Finds the C++ compiler that builds the native operators: GCC or Clang, on Windows Microsoft's (``msvc.py``); where
there is none, the one of the PyPI package ``ziglang`` (``zig.py``)."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

#: Runs a program, with an environment of its own or ours, and gives its status and all that it said. A string is a
#: whole command line, which only Windows can take.
Runner = Callable[["Sequence[str] | str", "Mapping[str, str] | None"], "tuple[int, bytes]"]

SECONDS_TO_ANSWER = 120.0  # for a program that is only asked something; vcvarsall may take ten on a cold disk


def run_program(words: Sequence[str] | str, environment: Mapping[str, str] | None = None) -> tuple[int, bytes]:
    """The ``Runner``. Status -1 and the reason where the program cannot be started or does not end."""
    try:
        done = subprocess.run(
            words if isinstance(words, str) else list(words),
            env=None if environment is None else dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=SECONDS_TO_ANSWER,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return -1, str(error).encode()
    return done.returncode, done.stdout


def decoded(said: bytes) -> str:
    """What a program said, as text: UTF-8, or else what the consoles of Windows speak."""
    try:
        return said.decode("utf-8")
    except UnicodeDecodeError:
        return said.decode("oem" if sys.platform == "win32" else "latin-1", errors="replace")


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler that was found.

    Attributes:
        kind: whose command line it understands.
        command: the words that call it: its full path, and what ``CXX`` says behind it. The path is not resolved, since
            wrappers such as ccache go by the name that they are called with.
        name: what people call it: ``g++``, ``clang++``, ``MSVC``, ``zig c++``.
        version: ``12.2.0``.
        environment: all that must be set for it, or None for the environment of this process.
    """

    kind: Literal["gnu", "msvc", "zig"]
    command: tuple[str, ...]
    name: str
    version: str
    environment: Mapping[str, str] | None = field(default=None, repr=False, compare=False)

    @property
    def path(self) -> str:
        return self.command[0]

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


def file_identity(path: str) -> dict[str, Any] | None:
    """What changes when the program at ``path`` is replaced, without running it; None if it is not there."""
    resolved = os.path.realpath(path)
    try:
        known = os.stat(resolved)
    except OSError:
        return None
    return {"path": path, "resolved": resolved, "mtime": known.st_mtime_ns, "size": known.st_size}


def gnu_commands(environment: Mapping[str, str]) -> list[tuple[str, ...]]:
    """The compilers to try, best first; runs none. ``CXX`` alone if it is set, maybe with flags behind it."""
    search = environment.get("PATH", os.defpath)
    chosen = environment.get("CXX", "").strip()
    names = [(chosen,), tuple(shlex.split(chosen))] if chosen else [("c++",), ("g++",), ("clang++",)]
    found = []
    for name, *flags in names:
        path = shutil.which(name, path=search)
        if path:
            found.append((path, *flags))
    return found[:1] if chosen else found


def _described(command: tuple[str, ...], run: Runner) -> Compiler | None:
    """Ask a command what it is; None if it does not answer like a compiler."""
    status, answer = run([*command, "--version"], None)
    said = decoded(answer).strip()
    if status != 0 or not said:
        return None
    first = said.partition("\n")[0]
    if "clang" in said.lower():
        version = re.search(r"version (\d+(?:\.\d+)*)", said)
        return Compiler("gnu", command, "clang++", version[1] if version else "of an unknown version")
    # "g++ (Debian 12.2.0-14+deb12u1) 12.2.0": what the distribution says stands in brackets.
    version = re.search(r"\d+(?:\.\d+)+", re.sub(r"\([^)]*\)", "", first))
    return Compiler("gnu", command, "g++", version[0]) if version else None


def find_compiler(environment: Mapping[str, str] | None = None, run: Runner = run_program) -> Compiler | None:
    """The C++ compiler of this machine, or None.

    The one of ``ziglang`` comes after all others; where ``CXX`` names one that does not run, there is none.
    """
    environment = os.environ if environment is None else environment
    if sys.platform == "win32":
        from ganformer_cli.operators.msvc import find_msvc

        if compiler := find_msvc(environment, run):
            return compiler
    else:
        for command in gnu_commands(environment):
            if compiler := _described(command, run):
                return compiler
        if environment.get("CXX", "").strip():
            return None
    from ganformer_cli.operators.zig import find_zig

    return find_zig(run)


def is_current(known: Mapping[str, Any]) -> bool:
    """Whether the compiler that would be taken now is this one; asks no program.

    Args:
        known: of a compiler, its ``command`` as a list and the ``identity`` of its file.
    """
    command, identity = known.get("command"), known.get("identity")
    if not isinstance(command, list) or not command or not isinstance(identity, dict):
        return False
    # On Windows asking which one would be taken lasts seconds: the one that was taken will do if it is still there.
    # The one of ziglang is taken where there is no other.
    others = () if sys.platform == "win32" else gnu_commands(os.environ)
    taken = sys.platform == "win32" or tuple(command) in others or (not others and command[1:] == ["c++"])
    return taken and file_identity(command[0]) == identity


def how_to_get_a_compiler() -> str:
    """What to do where there is none."""
    if sys.platform == "win32":
        return (
            "run: pip install ziglang (or install the Visual Studio Build Tools from "
            "https://visualstudio.microsoft.com/downloads/ with 'Desktop development with C++')"
        )
    if chosen := os.environ.get("CXX", "").strip():
        return f"CXX={chosen} does not name one that runs: correct it, or unset it to have one looked for"
    return "run: pip install ziglang (or install g++ or clang++ with the system's packages, or name one with CXX=...)"
