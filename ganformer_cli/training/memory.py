"""How much memory there is, and how much this process holds."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from pathlib import Path

import torch

from ganformer_cli.allocator import return_free_memory
from ganformer_cli.process_memory import is_out_of_memory as is_out_of_memory
from ganformer_cli.process_memory import proc_mib, reset_high_water

MIB = 2**20


def process_memory_mib() -> float | None:
    """Resident memory of this process in MiB, or None where it cannot be told."""
    if sys.platform == "win32":
        return _windows_working_set() / MIB
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return None
    pages = int(statm.read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


def free_memory_mib(device: torch.device) -> float | None:
    """Memory that this process may still take on ``device``, in MiB; None where it cannot be told.

    On a CPU the limit of a container counts, too.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return (free + unused) / MIB
    if sys.platform == "win32":
        return _windows_free_memory() / MIB
    available = proc_mib("MemAvailable", Path("/proc/meminfo"))
    limits = [_container_room_mib(Path("/sys/fs/cgroup"), "memory.max", "memory.current")]
    limits.append(_container_room_mib(Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes"))
    known = [value for value in (available, *limits) if value is not None]
    return min(known, default=None)


class Peak:
    """Within the block, the most memory that is held beyond what was held before; None where it cannot be told."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.added_mib: float | None = None
        self._before: float | None = None

    def __enter__(self) -> Peak:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device) / MIB
        else:
            return_free_memory()
            self._before = proc_mib("VmRSS") if reset_high_water() else None
        return self

    def __exit__(self, *_: object) -> None:
        on_gpu = self.device.type == "cuda"
        peak = torch.cuda.max_memory_allocated(self.device) / MIB if on_gpu else proc_mib("VmHWM")
        if self._before is not None and peak is not None:
            self.added_mib = max(0.0, peak - self._before)


def _container_room_mib(folder: Path, limit: str, usage: str) -> float | None:
    """What a container's limit leaves; None without a limit."""
    with contextlib.suppress(OSError, ValueError):
        most = (folder / limit).read_text(encoding="ascii").strip()
        if most != "max" and int(most) < 2**60:
            return max(0, int(most) - int((folder / usage).read_text(encoding="ascii"))) / MIB
    return None


def gpu_memory_mib(device: torch.device) -> float | None:
    """Peak memory that torch allocated on ``device`` in MiB; None on a CPU."""
    return torch.cuda.max_memory_allocated(device) / MIB if device.type == "cuda" else None


class _ProcessMemoryCounters(ctypes.Structure):
    """PROCESS_MEMORY_COUNTERS of the Windows API."""

    _fields_ = [
        ("cb", ctypes.c_uint32),
        ("PageFaultCount", ctypes.c_uint32),
        *(
            (name, ctypes.c_size_t)
            for name in (
                "PeakWorkingSetSize",
                "WorkingSetSize",
                "QuotaPeakPagedPoolUsage",
                "QuotaPagedPoolUsage",
                "QuotaPeakNonPagedPoolUsage",
                "QuotaNonPagedPoolUsage",
                "PagefileUsage",
                "PeakPagefileUsage",
            )
        ),
    ]


def _windows_working_set() -> int:
    counters = _ProcessMemoryCounters()
    counters.cb = ctypes.sizeof(counters)
    windll = getattr(ctypes, "windll")  # noqa: B009  # mypy on Linux does not know it
    kernel, api = windll.kernel32, windll.psapi
    kernel.GetCurrentProcess.restype = ctypes.c_void_p
    process = ctypes.c_void_p(kernel.GetCurrentProcess())
    api.GetProcessMemoryInfo(process, ctypes.byref(counters), counters.cb)
    return int(counters.WorkingSetSize)


class _MemoryStatus(ctypes.Structure):
    """MEMORYSTATUSEX of the Windows API."""

    _fields_ = [
        ("dwLength", ctypes.c_uint32),
        ("dwMemoryLoad", ctypes.c_uint32),
        *(
            (name, ctypes.c_uint64)
            for name in (
                "ullTotalPhys",
                "ullAvailPhys",
                "ullTotalPageFile",
                "ullAvailPageFile",
                "ullTotalVirtual",
                "ullAvailVirtual",
                "ullAvailExtendedVirtual",
            )
        ),
    ]


def _windows_free_memory() -> int:
    status = _MemoryStatus()
    status.dwLength = ctypes.sizeof(status)
    getattr(ctypes, "windll").kernel32.GlobalMemoryStatusEx(ctypes.byref(status))  # noqa: B009  # as above
    return int(status.ullAvailPhys)
