"""Memory of this process and machine, as Linux tells it, and how to tell that it ran out. Standard library only."""

from __future__ import annotations

import contextlib
import errno
from pathlib import Path

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


def proc_mib(name: str, path: Path = _STATUS) -> float | None:
    """The size in MiB on a line such as ``VmRSS:  123 kB``; None where the system does not tell."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in path.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) / 1024
    return None


def reset_high_water() -> bool:
    """Let ``VmHWM`` begin anew at what is resident now (proc(5)); whether the system does that."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on whichever device."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's
        return True
    if isinstance(error, OSError):  # of a mapped file, for instance
        return error.errno == errno.ENOMEM
    # On a CPU, and in libraries that torch calls, it is a RuntimeError like any other.
    said = str(error)
    return isinstance(error, RuntimeError) and any(words in said for words in _OUT_OF_MEMORY)
