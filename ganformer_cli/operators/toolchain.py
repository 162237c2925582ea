"""Finds the C++ compiler that builds the native operators.

On Linux GCC or Clang; on Windows Microsoft's compiler (Visual Studio and its Build Tools, 2017 and later, every edition
and previews). Where there is none, the compiler in the PyPI package ``ziglang``: Clang with the headers and libraries
of every system, which also builds for systems other than the one it runs on.
"""

from __future__ import annotations

import importlib.util
import itertools
import ntpath
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ganformer_cli.errors import GanformerError
from ganformer_cli.files import parse_json

#: Runs a program, with the given environment or ours, and returns its status and output. A string is a whole command
#: line, which only Windows accepts.
Runner = Callable[["Sequence[str] | str", "Mapping[str, str] | None"], "tuple[int, bytes]"]

#: Names the Visual Studio to build with, by its folder, on Windows.
VISUAL_STUDIO_VARIABLE = "GANFORMER_VISUAL_STUDIO"
SECONDS_TO_ANSWER = 120.0  # for a program that is only queried; vcvarsall may take ten seconds on a cold disk


class BuildError(GanformerError):
    """The native operators cannot be built or loaded.

    Attributes:
        problem: what is wrong.
        remedy: what to do about it.
        output: the compiler's whole output.
    """

    def __init__(self, problem: str, remedy: str, output: str = "") -> None:
        super().__init__(f"{problem}; {remedy}" if remedy else problem)
        self.problem = problem
        self.remedy = remedy
        self.output = output


class NoCompilerError(BuildError):
    """There is no compiler, and no earlier build."""


def run_program(
    words: Sequence[str] | str,
    environment: Mapping[str, str] | None = None,
    *,
    folder: Path | None = None,
    seconds: float = SECONDS_TO_ANSWER,
) -> tuple[int, bytes]:
    """Status and output of a program; -1 and the reason if it cannot be started or does not end."""
    try:
        done = subprocess.run(
            words if isinstance(words, str) else list(words),
            env=None if environment is None else dict(environment),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return -1, f"error: no result after {seconds:g} seconds".encode()
    except (OSError, subprocess.SubprocessError) as error:
        return -1, str(error).encode()
    return done.returncode, done.stdout


def decoded(output: bytes) -> str:
    """A program's output as text: UTF-8, else the code page of Windows consoles."""
    try:
        return output.decode("utf-8")
    except UnicodeDecodeError:
        return output.decode("oem" if sys.platform == "win32" else "latin-1", errors="replace")


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler that was found.

    Attributes:
        kind: whose command-line syntax it has.
        command: its full path, then the flags that ``CXX`` adds. The path is not resolved, since wrappers such as
            ccache depend on the name that they are called by.
        name: ``g++``, ``clang++``, ``MSVC`` or ``zig c++``.
        version: ``12.2.0``.
        environment: all variables that it needs, or None for the environment of this process.
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


def find_compiler(environment: Mapping[str, str] | None = None, run: Runner = run_program) -> Compiler | None:
    """The C++ compiler of this machine, or None.

    That of ``ziglang`` comes last. A ``CXX`` that does not run, or a ``GANFORMER_VISUAL_STUDIO`` that has no compiler,
    is not replaced by another compiler.
    """
    return next(_compilers(os.environ if environment is None else environment, run), None)


def compilers_after(
    failed: Compiler, environment: Mapping[str, str] | None = None, run: Runner = run_program
) -> Iterator[Compiler]:
    """The compilers to try on Windows where ``failed`` cannot compile: older Visual Studios, then ``ziglang``'s.

    On Linux there are none: a compiler there is chosen with ``CXX``.
    """
    environment = os.environ if environment is None else environment
    if sys.platform == "win32":
        rest = itertools.dropwhile(lambda compiler: compiler.command != failed.command, _compilers(environment, run))
        return (compiler for compiler in rest if compiler.command != failed.command)
    return iter(())


def _compilers(environment: Mapping[str, str], run: Runner) -> Iterator[Compiler]:
    """Those of this machine that answer, best first; if the user named one, that one alone."""
    if sys.platform == "win32":
        named = _variable(environment, VISUAL_STUDIO_VARIABLE)
        found = find_all_msvc(environment, run)
    else:
        named = environment.get("CXX", "").strip()
        found = filter(None, (_describe_gnu(command, run) for command in gnu_commands(environment)))
    yield from found
    if not named and (zig := find_zig(run)):
        yield zig


def file_identity(path: str) -> dict[str, Any] | None:
    """What changes when the program at ``path`` is replaced; None if there is none. Does not run it."""
    resolved = os.path.realpath(path)
    try:
        state = os.stat(resolved)
    except OSError:
        return None
    return {"path": path, "resolved": resolved, "mtime": state.st_mtime_ns, "size": state.st_size}


def is_current(known: Mapping[str, Any]) -> bool:
    """Whether the compiler that would be chosen now is this one; runs no program.

    Args:
        known: of a compiler, its ``command`` as a list and the ``identity`` of its file.
    """
    command, identity = known.get("command"), known.get("identity")
    if not isinstance(command, list) or not command or not isinstance(identity, dict):
        return False
    # On Windows finding the compiler takes seconds: there it is enough that the old one still exists. ziglang's is
    # chosen only where there is no other.
    others = () if sys.platform == "win32" else gnu_commands(os.environ)
    chosen = sys.platform == "win32" or tuple(command) in others or (not others and command[1:] == ["c++"])
    return chosen and file_identity(command[0]) == identity


def how_to_get_a_compiler() -> str:
    """What to do where there is no compiler."""
    if sys.platform == "win32":
        if named := _variable(os.environ, VISUAL_STUDIO_VARIABLE):
            return (
                f"{VISUAL_STUDIO_VARIABLE}={named} is not the folder of a Visual Studio with "
                "'Desktop development with C++': correct or unset it"
            )
        return (
            "run: pip install ziglang (or install the Visual Studio Build Tools from "
            "https://visualstudio.microsoft.com/downloads/ with 'Desktop development with C++')"
        )
    if chosen := os.environ.get("CXX", "").strip():
        return f"CXX={chosen} does not name a compiler that runs: correct or unset it"
    return "run: pip install ziglang (or install g++ or clang++ with the system's packages, or name one with CXX=...)"


# ----- GCC and Clang -----


def gnu_commands(environment: Mapping[str, str]) -> list[tuple[str, ...]]:
    """The compilers to try, best first: ``CXX`` alone if it is set, possibly with flags. Runs none."""
    search = environment.get("PATH", os.defpath)
    chosen = environment.get("CXX", "").strip()
    # The second form of CXX has flags; the first is a path that may hold spaces.
    names = [(chosen,), tuple(shlex.split(chosen))] if chosen else [("c++",), ("g++",), ("clang++",)]
    found = [(path, *flags) for name, *flags in names if (path := shutil.which(name, path=search))]
    return found[:1] if chosen else found


def _describe_gnu(command: tuple[str, ...], run: Runner) -> Compiler | None:
    """Name and version, as ``--version`` prints them; None if the output is not a compiler's."""
    status, output = run([*command, "--version"], None)
    text = decoded(output).strip()
    if status != 0 or not text:
        return None
    if "clang" in text.lower():
        version = re.search(r"version (\d+(?:\.\d+)*)", text)
        return Compiler("gnu", command, "clang++", version[1] if version else "of an unknown version")
    # "g++ (Debian 12.2.0-14+deb12u1) 12.2.0": the distribution's own version stands in brackets.
    version = re.search(r"\d+(?:\.\d+)+", re.sub(r"\([^)]*\)", "", text.partition("\n")[0]))
    return Compiler("gnu", command, "g++", version[0]) if version else None


# ----- Microsoft's -----

#: By the platform of the Python that loads the library: vcvarsall's name for it, and the component that is required.
MSVC_ARCHITECTURES = {
    "win-amd64": ("x64", "Microsoft.VisualStudio.Component.VC.Tools.x86.x64"),
    "win-arm64": ("arm64", "Microsoft.VisualStudio.Component.VC.Tools.ARM64"),
}
OLDEST_VISUAL_STUDIO = (15,)  # 2017: earlier ones have neither C++17 nor vswhere


@dataclass(frozen=True)
class Installation:
    """A Visual Studio, or its Build Tools."""

    folder: Path
    version: tuple[int, ...]

    @property
    def vcvarsall(self) -> Path:
        return self.folder / "VC" / "Auxiliary" / "Build" / "vcvarsall.bat"


def find_all_msvc(environment: Mapping[str, str], run: Runner, platform: str | None = None) -> Iterator[Compiler]:
    """Each ``cl.exe`` for this Python: a developer prompt's, then those of the installations, newest first.

    ``GANFORMER_VISUAL_STUDIO`` leaves only the one that it names. Finding each takes seconds, so they are found as
    they are asked for.
    """
    platform = platform or sysconfig.get_platform()
    if platform not in MSVC_ARCHITECTURES:
        return
    architecture, component = MSVC_ARCHITECTURES[platform]
    if named := _variable(environment, VISUAL_STUDIO_VARIABLE):
        candidates = [Installation(Path(named), ())]
    else:
        prompt = environment.get("VSCMD_ARG_TGT_ARCH") == architecture
        if prompt and (here := _describe_msvc(environment, architecture)):
            yield here
        candidates = installations(environment, run, component)
    for installation in candidates:
        prepared = developer_environment(installation.vcvarsall, architecture, environment, run)
        if prepared and (found := _describe_msvc(prepared, architecture)):
            yield found


def installations(environment: Mapping[str, str], run: Runner, component: str) -> list[Installation]:
    """Every installation that has the compiler, newest first."""
    found: dict[str, Installation] = {}
    for installation in (*_from_vswhere(environment, run, component), *_in_usual_folders(environment)):
        if installation.version >= OLDEST_VISUAL_STUDIO and installation.vcvarsall.is_file():
            found.setdefault(os.path.normcase(installation.folder), installation)
    return sorted(found.values(), key=lambda installation: installation.version, reverse=True)


def program_folders(environment: Mapping[str, str]) -> list[Path]:
    """``C:\\Program Files`` and its 32-bit counterpart, wherever Windows has them."""
    names = ("ProgramFiles", "ProgramW6432", "ProgramFiles(x86)")
    values = [_variable(environment, name) for name in names]
    return list(dict.fromkeys(Path(value) for value in values if value))


def _from_vswhere(environment: Mapping[str, str], run: Runner, component: str) -> Iterator[Installation]:
    places = [folder / "Microsoft Visual Studio" / "Installer" for folder in program_folders(environment)]
    if packages := _variable(environment, "ProgramData"):
        places.append(Path(packages) / "chocolatey" / "bin")
    places += [Path(folder) for folder in _variable(environment, "PATH").split(";") if folder]
    # os.path.isfile, because PATH may hold what is no path at all: Path.is_file raises then.
    vswhere = next((path for place in places if os.path.isfile(path := place / "vswhere.exe")), None)
    if vswhere is None:
        return
    # Without -products * it omits the Build Tools, without -prerelease the previews; without -utf8 it prints in the
    # console's code page. The first vswhere of Visual Studio 2017 does not know -utf8.
    words = [str(vswhere), "-products", "*", "-prerelease", "-requires", component, "-format", "json"]
    for more in (["-utf8"], []):
        status, output = run([*words, *more], None)
        if status == 0:
            break
    try:
        records = parse_json(decoded(output).lstrip("\ufeff"), str(vswhere))
    except GanformerError:
        return
    for record in records if isinstance(records, list) else []:
        if isinstance(record, dict) and isinstance(record.get("installationPath"), str):
            yield Installation(Path(record["installationPath"]), _numbers(str(record.get("installationVersion", ""))))


def _in_usual_folders(environment: Mapping[str, str]) -> Iterator[Installation]:
    """``Program Files/Microsoft Visual Studio/2022/BuildTools`` and the like; since 2026 ``18`` in place of a year."""
    years = {2017: 15, 2019: 16, 2022: 17}
    for programs in program_folders(environment):
        for year in (programs / "Microsoft Visual Studio").glob("[0-9]*"):
            number = _numbers(year.name)[0]
            yield from (Installation(edition, (years.get(number, number),)) for edition in year.iterdir())


def developer_environment(
    vcvarsall: Path, architecture: str, environment: Mapping[str, str], run: Runner
) -> dict[str, str] | None:
    """All variables after ``vcvarsall.bat architecture``, or None if it fails.

    Its ``PATH`` holds Windows' own folders only: a long one breaks it ("the input line is too long"), and other tools
    such as Git's ``link.exe`` must not hide Microsoft's. ``cmd /u`` prints in UTF-16, which every name survives.
    """
    root = _variable(environment, "SystemRoot") or "C:\\Windows"
    system = ntpath.join(root, "System32")
    folders = (system, root, ntpath.join(system, "Wbem"), ntpath.join(system, "WindowsPowerShell", "v1.0"))
    start = {name: value for name, value in environment.items() if name.upper() not in _VCVARS_RESET}
    start |= {"PATH": ";".join(folders), "VSCMD_SKIP_SENDTELEMETRY": "1", "VSLANG": "1033"}
    command = ntpath.join(system, "cmd.exe")
    # /s removes the outermost quotes and keeps the others.
    line = f'"{command}" /d /u /s /c ""{vcvarsall}" {architecture} >nul 2>&1 && set"'
    status, output = run(line, start)
    if status != 0:
        return None
    variables = {}
    for entry in output.decode("utf-16-le", errors="replace").lstrip("\ufeff").splitlines():
        name, equals, value = entry.partition("=")
        if name and equals:
            variables[name.upper()] = value
    return variables or None


#: What would change vcvarsall's result: a developer prompt for another architecture.
_VCVARS_RESET = {"PATH", "INCLUDE", "LIB", "LIBPATH", "CL", "_CL_", "LINK", "_LINK_"} | {
    "VSCMD_ARG_TGT_ARCH", "VSCMD_ARG_HOST_ARCH", "VSCMD_VER", "VSINSTALLDIR", "VCINSTALLDIR", "VCTOOLSINSTALLDIR",
    "VCTOOLSVERSION", "VISUALSTUDIOVERSION", "DEVENVDIR", "__VSCMD_PREINIT_PATH",
}  # fmt: skip


def _describe_msvc(environment: Mapping[str, str], architecture: str) -> Compiler | None:
    """``cl.exe`` of a developer environment. Its version is the folder's name: its banner is localised."""
    tools = _variable(environment, "VCToolsInstallDir")
    if not tools:
        return None
    folder = Path(tools.rstrip("\\/"))
    for host in (architecture, "x64", "x86"):
        path = folder / "bin" / f"Host{host}" / architecture / "cl.exe"
        if path.is_file():
            version = _variable(environment, "VCToolsVersion") or folder.name
            return Compiler("msvc", (str(path),), "MSVC", version, dict(environment))
    return None


def _variable(environment: Mapping[str, str], name: str) -> str:
    """A variable in any case: a copy of Windows' environment is case-sensitive."""
    return next((value for key, value in environment.items() if key.upper() == name.upper()), "").strip()


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text))


# ----- ziglang -----

#: The oldest glibc that its Linux libraries run with: RHEL 8, Debian 10, Ubuntu 18.10, as ``manylinux_2_28`` wheels.
GLIBC = (2, 28)


@dataclass(frozen=True)
class TargetSystem:
    """A system to build for.

    Attributes:
        name: as ``build-ops --target`` has it.
        triple: zig's name for it.
        tag: ``build.platform_tag`` there.
        wheel: the platform tag of wheels.
        libc: the oldest glibc that the library runs with; empty on Windows.
    """

    name: str
    triple: str
    tag: str
    wheel: str
    libc: tuple[int, ...] = ()

    @property
    def windows(self) -> bool:
        return self.wheel.startswith("win")

    @property
    def arm(self) -> bool:
        return "aarch64" in self.triple


def _linux(machine: str) -> TargetSystem:
    major, minor = GLIBC
    wheel = f"manylinux_{major}_{minor}_{machine}"
    return TargetSystem(f"linux-{machine}", f"{machine}-linux-gnu.{major}.{minor}", f"linux-{machine}", wheel, GLIBC)


_WINDOWS = TargetSystem("windows-x86_64", "x86_64-windows-gnu", "win32-amd64", "win_amd64")
TARGETS = {target.name: target for target in (_WINDOWS, _linux("x86_64"), _linux("aarch64"))}
_TARGET_OF_PLATFORM = {"win-amd64": "windows-x86_64", "linux-x86_64": "linux-x86_64", "linux-aarch64": "linux-aarch64"}
#: By torch's name for a CPU's instruction set.
_ZIG_CPUS = {"AVX512": "x86_64_v4", "AVX2": "x86_64_v3", "DEFAULT": "x86_64"}


def this_target(platform: str | None = None) -> TargetSystem | None:
    """The system that this Python runs on; None where zig is not known to build for it."""
    name = _TARGET_OF_PLATFORM.get(platform or sysconfig.get_platform())
    return TARGETS[name] if name else None


def target_words(target: TargetSystem, capability: str) -> list[str]:
    """zig's options for a target. By default its Clang makes undefined behaviour abort; the tests check ours."""
    cpu = "generic" if target.arm else _ZIG_CPUS.get(capability, _ZIG_CPUS["DEFAULT"])
    return ["-target", target.triple, f"-mcpu={cpu}", "-fno-sanitize=undefined", "-DNOMINMAX"]


def find_zig(run: Runner = run_program, platform: str | None = None) -> Compiler | None:
    """The compiler of the package ``ziglang``, if it is installed, runs, and builds for this system."""
    try:
        package = importlib.util.find_spec("ziglang")
    except (ImportError, ValueError):  # an incomplete installation
        return None
    if this_target(platform) is None or package is None:
        return None
    for folder in package.submodule_search_locations or ():
        program = Path(folder) / ("zig.exe" if sys.platform == "win32" else "zig")
        if program.is_file():
            status, output = run([str(program), "version"], None)
            version = decoded(output).split()
            if status == 0 and version and version[0][0].isdigit():
                return Compiler("zig", (str(program), "c++"), "zig c++", version[0])
    return None
