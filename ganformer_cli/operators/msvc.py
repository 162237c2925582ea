"""Finds Microsoft's compiler: Visual Studio and its Build Tools, 2017 and later, every edition, previews too.

vswhere knows what is installed; where it is missing, the usual folders are looked through. The compiler needs a dozen
environment variables, which the installation's own ``vcvarsall.bat`` sets: it is run once, and what it has set is read.
"""

from __future__ import annotations

import ntpath
import os
import re
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ganformer_cli.errors import GanformerError
from ganformer_cli.files import parse_json
from ganformer_cli.operators.toolchain import Compiler, Runner, decoded

#: By the platform of the Python that will load the library: as vcvarsall says it, and the component that must be there.
ARCHITECTURES = {
    "win-amd64": ("x64", "Microsoft.VisualStudio.Component.VC.Tools.x86.x64"),
    "win-arm64": ("arm64", "Microsoft.VisualStudio.Component.VC.Tools.ARM64"),
}
OLDEST = (15,)  # Visual Studio 2017: earlier ones know no C++17, nor vswhere


@dataclass(frozen=True)
class Installation:
    """A Visual Studio, or its Build Tools."""

    folder: Path
    name: str
    version: tuple[int, ...]

    @property
    def vcvarsall(self) -> Path:
        return self.folder / "VC" / "Auxiliary" / "Build" / "vcvarsall.bat"


def find_msvc(environment: Mapping[str, str], run: Runner, platform: str | None = None) -> Compiler | None:
    """The newest compiler for this Python that works, or None; in a developer prompt, that prompt's."""
    if (platform or sysconfig.get_platform()) not in ARCHITECTURES:
        return None
    architecture, component = ARCHITECTURES[platform or sysconfig.get_platform()]
    if environment.get("VSCMD_ARG_TGT_ARCH") == architecture and (here := _compiler(environment, architecture)):
        return here
    for installation in installations(environment, run, component):
        prepared = developer_environment(installation.vcvarsall, architecture, environment, run)
        if prepared and (found := _compiler(prepared, architecture)):
            return found
    return None


# ----- What is installed -----


def installations(environment: Mapping[str, str], run: Runner, component: str) -> list[Installation]:
    """Every installation with the compiler, newest first."""
    found: dict[str, Installation] = {}
    for installation in (*_told_by_vswhere(environment, run, component), *_in_usual_folders(environment)):
        if installation.version >= OLDEST and installation.vcvarsall.is_file():
            found.setdefault(os.path.normcase(installation.folder), installation)
    return sorted(found.values(), key=lambda installation: installation.version, reverse=True)


def program_folders(environment: Mapping[str, str]) -> list[Path]:
    """``C:\\Program Files`` and its 32-bit sister, wherever Windows has them."""
    names = ("ProgramFiles", "ProgramW6432", "ProgramFiles(x86)")
    values = [_variable(environment, name) for name in names]
    return list(dict.fromkeys(Path(value) for value in values if value))


def _told_by_vswhere(environment: Mapping[str, str], run: Runner, component: str) -> Iterator[Installation]:
    places = [folder / "Microsoft Visual Studio" / "Installer" for folder in program_folders(environment)]
    if packages := _variable(environment, "ProgramData"):
        places.append(Path(packages) / "chocolatey" / "bin")
    places += [Path(folder) for folder in _variable(environment, "PATH").split(";") if folder]
    # os.path.isfile, because the path may hold what is no path at all: Path.is_file raises then.
    vswhere = next((path for place in places if os.path.isfile(path := place / "vswhere.exe")), None)
    if vswhere is None:
        return
    # Without -products * it knows no Build Tools, without -prerelease no previews, and without -utf8 it answers in the
    # code page of the console. The first that came with Visual Studio 2017 do not know that last word.
    words = [str(vswhere), "-products", "*", "-prerelease", "-requires", component, "-format", "json"]
    for more in (["-utf8"], []):
        status, said = run([*words, *more], None)
        if status == 0:
            break
    try:
        records = parse_json(decoded(said).lstrip("\ufeff"), str(vswhere))
    except GanformerError:
        return
    for record in records if isinstance(records, list) else []:
        if isinstance(record, dict) and isinstance(record.get("installationPath"), str):
            name = str(record.get("displayName") or "Visual Studio")
            version = _numbers(str(record.get("installationVersion", "")))
            yield Installation(Path(record["installationPath"]), name, version)


def _in_usual_folders(environment: Mapping[str, str]) -> Iterator[Installation]:
    """``Program Files/Microsoft Visual Studio/2022/BuildTools`` and the like; since 2026 with ``18`` for the year."""
    years = {2017: 15, 2019: 16, 2022: 17}
    for programs in program_folders(environment):
        for year in (programs / "Microsoft Visual Studio").glob("[0-9]*"):
            number = _numbers(year.name)
            for edition in year.iterdir():
                version = (years.get(number[0], number[0]),)
                yield Installation(edition, f"Visual Studio {edition.name} {year.name}", version)


# ----- The environment that it needs -----


def developer_environment(
    vcvarsall: Path, architecture: str, environment: Mapping[str, str], run: Runner
) -> dict[str, str] | None:
    """All variables after ``vcvarsall.bat architecture``, or None if it fails.

    It gets a short ``PATH`` of Windows' own folders: a long one breaks it ("the input line is too long"), and tools of
    others, such as the ``link.exe`` of Git, must not be found before Microsoft's. ``cmd /u`` writes what ``set`` shows
    in UTF-16, so that no code page spoils names with letters outside of it.
    """
    root = _variable(environment, "SystemRoot") or "C:\\Windows"
    system = ntpath.join(root, "System32")
    folders = (system, root, ntpath.join(system, "Wbem"), ntpath.join(system, "WindowsPowerShell", "v1.0"))
    start = {name: value for name, value in environment.items() if name.upper() not in _LEFT_OUT}
    start |= {"PATH": ";".join(folders), "VSCMD_SKIP_SENDTELEMETRY": "1", "VSLANG": "1033"}
    command = ntpath.join(system, "cmd.exe")
    # /s takes off the outermost quotes and leaves the others alone.
    line = f'"{command}" /d /u /s /c ""{vcvarsall}" {architecture} >nul 2>&1 && set"'
    status, said = run(line, start)
    if status != 0:
        return None
    variables = {}
    for entry in said.decode("utf-16-le", errors="replace").lstrip("\ufeff").splitlines():
        name, equals, value = entry.partition("=")
        if name and equals:
            variables[name.upper()] = value
    return variables or None


#: What would change what vcvarsall does: a developer prompt for another architecture.
_LEFT_OUT = {"PATH", "INCLUDE", "LIB", "LIBPATH", "CL", "_CL_", "LINK", "_LINK_"} | {
    "VSCMD_ARG_TGT_ARCH", "VSCMD_ARG_HOST_ARCH", "VSCMD_VER", "VSINSTALLDIR", "VCINSTALLDIR", "VCTOOLSINSTALLDIR",
    "VCTOOLSVERSION", "VISUALSTUDIOVERSION", "DEVENVDIR", "__VSCMD_PREINIT_PATH",
}  # fmt: skip


def _compiler(environment: Mapping[str, str], architecture: str) -> Compiler | None:
    """``cl.exe`` of a developer environment. Its version is the folder's: its own banner speaks every language."""
    tools = _variable(environment, "VCToolsInstallDir")
    if not tools:
        return None
    for host in (architecture, "x64", "x86"):
        path = Path(tools.rstrip("\\/")) / "bin" / f"Host{host}" / architecture / "cl.exe"
        if path.is_file():
            version = _variable(environment, "VCToolsVersion") or Path(tools.rstrip("\\/")).name
            return Compiler("msvc", (str(path),), "MSVC", version, dict(environment))
    return None


def _variable(environment: Mapping[str, str], name: str) -> str:
    """A variable whatever its case, which a copy of the environment does not forgive as Windows does."""
    return next((value for key, value in environment.items() if key.upper() == name.upper()), "").strip()


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text))
