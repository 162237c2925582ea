"""Memory of this process and machine: how much is in use and free, how to tell that it ran out, what is kept for reuse.

Nothing heavy is imported; what asks about a GPU loads torch.

On a CPU the C library hands out the memory of tensors. glibc maps every block above a few MiB afresh and returns it at
once. The kernel then zeroes it page by page whenever a tensor is written for the first time, which costs several times
what the arithmetic on the tensor does. ``keep_large_blocks`` keeps freed blocks instead. The very largest are mapped
all the same, but in huge pages: kept, they would leave holes in the heap, which add up where many live long, as in
training. Other C libraries keep blocks by themselves.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ganformer_cli.files import MIB

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_STATUS = Path("/proc/self/status")
_OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "could not create a memory object",
    "could not create a primitive",  # oneDNN, whose scratchpad does not fit
    "bad_alloc",
    "bad allocation",  # the same on Windows
    "can't start new thread",  # its stack does not fit
)

# malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_LARGEST = 2**31 - 1  # mallopt takes an int

#: Blocks up to here are kept, in MiB.
TRAINING_MIB = 64
EVALUATION_MIB = 192

#: Training on a CPU in more MiB returns free memory before each step: kept blocks would add up from step to step. At
#: 256x256 that is 7 % less memory for 3 % more CPU time; in less, keeping them is faster.
RETURN_ABOVE_MIB = 1024


# ----- In use and free -----


def proc_mib(name: str, path: Path = _STATUS) -> float | None:
    """The size in MiB on a line such as ``VmRSS:  123 kB``; None where the system does not tell."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in path.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) / 1024
    return None


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
        import torch

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


def _container_room_mib(folder: Path, limit: str, usage: str) -> float | None:
    """What a container's limit leaves; None without a limit."""
    with contextlib.suppress(OSError, ValueError):
        most = (folder / limit).read_text(encoding="ascii").strip()
        if most != "max" and int(most) < 2**60:
            return max(0, int(most) - int((folder / usage).read_text(encoding="ascii"))) / MIB
    return None


def gpu_memory_mib(device: torch.device) -> float | None:
    """Peak memory that torch allocated on ``device`` in MiB; None on a CPU."""
    if device.type != "cuda":
        return None
    import torch

    return torch.cuda.max_memory_allocated(device) / MIB


class Peak:
    """Within the block, the most memory that is held, and how much of it was not before; None where it is unknown."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.mib: float | None = None
        self.added_mib: float | None = None
        self._before: float | None = None

    def __enter__(self) -> Peak:
        if self.device.type == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device) / MIB
        else:
            return_free_memory()
            self._before = proc_mib("VmRSS") if reset_high_water() else None
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is None:
            return
        self.mib = gpu_memory_mib(self.device) if self.device.type == "cuda" else proc_mib("VmHWM")
        if self.mib is not None:
            self.added_mib = max(0.0, self.mib - self._before)


def reset_high_water() -> bool:
    """Let ``VmHWM`` begin anew at what is resident now (proc(5)); whether the system does that."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def kept_bytes(call: Callable[[], object], given: Iterable[Tensor]) -> int:
    """Bytes that autograd keeps for the backward pass of ``call``, apart from those of the tensors in ``given``.

    Counts the memory of each tensor once, however many views of it are kept.
    """
    from torch.autograd.graph import saved_tensors_hooks

    found = {}

    def pack(tensor: Tensor) -> Tensor:
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        result = call()
    del result  # until here: a freed block might be given to the next tensor, which would not be counted
    known = {tensor.untyped_storage().data_ptr() for tensor in given}
    return sum(size for place, size in found.items() if place not in known)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on whichever device."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's
        return True
    if isinstance(error, OSError):  # of a mapped file, for instance
        return error.errno == errno.ENOMEM
    # On a CPU, and in libraries that torch calls, it is a RuntimeError like any other.
    said = str(error)
    return isinstance(error, RuntimeError) and any(words in said for words in _OUT_OF_MEMORY)


# ----- Kept for reuse -----


def keep_large_blocks(largest_mib: int = TRAINING_MIB) -> bool:
    """Let this process keep the memory of freed tensors for the next ones; it is returned when the process ends.

    To be called before torch makes its first tensor; later, the largest blocks come in pages of the usual size.

    Args:
        largest_mib: larger blocks are not kept.

    Returns:
        Whether that is so now: glibc only (Linux).
    """
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    # torch reads this at its first allocation.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    mallopt = library.mallopt
    mallopt.argtypes, mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    return bool(mallopt(_M_MMAP_THRESHOLD, largest_mib << 20) and mallopt(_M_TRIM_THRESHOLD, _LARGEST))


def return_free_memory(above_mib: float = 0) -> None:
    """Give memory that the C library keeps for reuse back to the system, so that needing it again shows.

    Args:
        above_mib: done only in a process that holds more.
    """
    if above_mib and (process_memory_mib() or 0) <= above_mib:
        return
    if sys.platform.startswith("linux"):
        library = ctypes.CDLL(None)
        if hasattr(library, "malloc_trim"):
            library.malloc_trim(0)


# ----- Windows -----


class _ProcessMemoryCounters(ctypes.Structure):
    """PROCESS_MEMORY_COUNTERS of the Windows API."""

    _fields_ = [
        ("cb", ctypes.c_uint32),
        ("PageFaultCount", ctypes.c_uint32),
        *((name, ctypes.c_size_t) for name in (
            "PeakWorkingSetSize", "WorkingSetSize", "QuotaPeakPagedPoolUsage", "QuotaPagedPoolUsage",
            "QuotaPeakNonPagedPoolUsage", "QuotaNonPagedPoolUsage", "PagefileUsage", "PeakPagefileUsage",
        )),
    ]  # fmt: skip


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
        *((name, ctypes.c_uint64) for name in (
            "ullTotalPhys", "ullAvailPhys", "ullTotalPageFile", "ullAvailPageFile", "ullTotalVirtual",
            "ullAvailVirtual", "ullAvailExtendedVirtual",
        )),
    ]  # fmt: skip


def _windows_free_memory() -> int:
    status = _MemoryStatus()
    status.dwLength = ctypes.sizeof(status)
    getattr(ctypes, "windll").kernel32.GlobalMemoryStatusEx(ctypes.byref(status))  # noqa: B009  # as above
    return int(status.ullAvailPhys)
