"""The compiler in the PyPI package ``ziglang``: Clang with the headers and libraries of every system.

It needs no installation beyond ``pip install ziglang``, and builds for other systems than the one that it runs on. What
it makes for Linux runs with glibc 2.28 and later; what it makes for Windows needs no Visual C++ runtime.
"""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from ganformer_cli.operators.toolchain import Compiler, Runner, decoded

PACKAGE = "ziglang"
INSTALL = f"pip install {PACKAGE}"
#: Of Linux: RHEL 8, Debian 10, Ubuntu 18.10 and later, the systems that ``manylinux_2_28`` wheels serve.
GLIBC = (2, 28)


@dataclass(frozen=True)
class Target:
    """A system to build for.

    Attributes:
        name: as ``build-ops --target`` has it.
        triple: as zig has it.
        tag: as ``build.platform_tag`` says it there.
        wheel: the platform tag of wheels.
        suffix: of a shared library's file name.
        libc: the oldest glibc that the library runs with; empty on Windows.
    """

    name: str
    triple: str
    tag: str
    wheel: str
    suffix: str
    libc: tuple[int, ...]

    @property
    def windows(self) -> bool:
        return self.suffix == ".dll"

    @property
    def arm(self) -> bool:
        return "aarch64" in self.triple


def _linux(machine: str) -> Target:
    glibc = ".".join(map(str, GLIBC))
    wheel = f"manylinux_{'_'.join(map(str, GLIBC))}_{machine}"
    return Target(f"linux-{machine}", f"{machine}-linux-gnu.{glibc}", f"linux-{machine}", wheel, ".so", GLIBC)


TARGETS = {
    target.name: target
    for target in (
        Target("windows-x86_64", "x86_64-windows-gnu", "win32-amd64", "win_amd64", ".dll", ()),
        _linux("x86_64"),
        _linux("aarch64"),
    )
}

_HERE = {
    "win-amd64": "windows-x86_64",
    "linux-x86_64": "linux-x86_64",
    "linux-aarch64": "linux-aarch64",
}

#: By what torch calls the abilities of a CPU.
_CPUS = {"AVX512": "x86_64_v4", "AVX2": "x86_64_v3", "DEFAULT": "x86_64"}
#: Undefined behaviour ends the program by default in zig's Clang; ours is checked elsewhere.
FLAGS = ("-fno-sanitize=undefined", "-DNOMINMAX")


def this_target(platform: str | None = None) -> Target | None:
    """The system that this Python runs on; None where zig is not known to build for it."""
    name = _HERE.get(platform or sysconfig.get_platform())
    return TARGETS[name] if name else None


def target_words(target: Target, capability: str) -> list[str]:
    """The options that say what to build for."""
    cpu = "generic" if target.arm else _CPUS.get(capability, _CPUS["DEFAULT"])
    return ["-target", target.triple, f"-mcpu={cpu}", *FLAGS]


def find_zig(run: Runner, platform: str | None = None) -> Compiler | None:
    """The compiler of the package, if it is installed, answers, and builds for this system."""
    target = this_target(platform)
    try:
        spec = importlib.util.find_spec(PACKAGE)
    except (ImportError, ValueError):  # half an installation
        return None
    if target is None or spec is None or not spec.submodule_search_locations:
        return None
    for folder in spec.submodule_search_locations:
        program = Path(folder) / ("zig.exe" if sys.platform == "win32" else "zig")
        if program.is_file():
            status, answer = run([str(program), "version"], None)
            said = decoded(answer).strip()
            if status == 0 and said[:1].isdigit():
                return Compiler("zig", (str(program), "c++"), "zig c++", said.split()[0])
    return None
