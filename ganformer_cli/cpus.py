"""The CPU of this machine: which it is, and how many of its cores this process may use."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


def thread_seconds() -> float:
    """A clock for what this thread computes: it stands still while other programs have the core.

    On Windows, where that clock advances by 16 ms at a time, it is the one on the wall.
    """
    return time.perf_counter() if sys.platform == "win32" else time.thread_time()


class UsableCores(NamedTuple):
    """How many cores this process may use."""

    number: float  # a container may allow half a core
    limit: str  # what allows fewer than the machine has; empty where nothing does

    @property
    def whole(self) -> int:
        """The number of threads that can run at once, at least one."""
        return max(1, math.floor(self.number + 0.01))


def usable_cores() -> UsableCores:
    """The cores that this process may use: those of the machine, of its affinity mask (taskset), of its cgroups."""
    machine = os.cpu_count() or 1
    number, limit = float(machine), ""
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
        if allowed < machine:
            number, limit = allowed, f"the affinity mask allows {allowed} of {machine} cores"
    quota = cgroup_cores()
    if quota is not None and quota < number:
        number, limit = quota, f"a CPU limit of {quota:.3g} cores (cgroup)"
    return UsableCores(number, limit)


def cgroup_cores(root: Path = _CGROUPS, own: Path = _OWN_CGROUPS) -> float | None:
    """The CPU time that cgroups, version 1 or 2, allow this process, in cores; None without a limit.

    Args:
        root: where the cgroup file systems are mounted.
        own: the file that names the groups of this process.
    """
    try:
        lines = own.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    quotas = []
    for line in lines:
        _, controllers, path = (line.split(":", 2) + ["", ""])[:3]
        if not controllers:
            quotas += [_quota_v2(folder) for folder in _with_parents(root, path)]
        elif "cpu" in controllers.split(","):
            for mount in (root / controllers, root / "cpu"):
                quotas += [_quota_v1(folder) for folder in _with_parents(mount, path)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _with_parents(root: Path, path: str) -> Iterator[Path]:
    """A group's folder and those above it, up to ``root``; in a container only some of them are there."""
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    for count in range(len(parts), -1, -1):
        yield root.joinpath(*parts[:count])


def _quota_v2(folder: Path) -> float | None:
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        return None if quota == "max" else int(quota) / int(period)
    return None


def _quota_v1(folder: Path) -> float | None:
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        quota = int((folder / "cpu.cfs_quota_us").read_text(encoding="ascii"))
        return None if quota <= 0 else quota / int((folder / "cpu.cfs_period_us").read_text(encoding="ascii"))
    return None


def cpu_name() -> str:
    """The processor's name, as the system tells it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("model name", "Hardware"):
                return value.strip()
    return platform.processor() or platform.machine()


def limit_spinning() -> None:
    """Let threads that wait for one another sleep after some microseconds; call this before torch is loaded.

    OpenMP's threads spin for milliseconds by default. Beside another program that takes the core on which the awaited
    thread should run: the default training fell to a fifteenth of its speed. Sleeping at once costs much on a machine
    of one's own, where most waits are short. What the user has set stays.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ):
        os.environ["GOMP_SPINCOUNT"] = "1000"  # GNU's: rounds of some ten nanoseconds
    if not {"OMP_WAIT_POLICY", "KMP_BLOCKTIME"} & set(os.environ):
        os.environ["KMP_BLOCKTIME"] = "0"  # Intel's and LLVM's: milliseconds
