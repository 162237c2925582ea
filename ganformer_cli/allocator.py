"""How the C library hands out large blocks of memory on a CPU: kept and given again, instead of fetched anew each time.

glibc maps every block above a few MiB afresh and returns it at once. The kernel then zeroes it page by page whenever a
tensor is written for the first time, which costs several times what the arithmetic on the tensor does. Keeping freed
blocks takes that away. The very largest are mapped all the same, but in huge pages: kept, they would leave holes in the
heap, which add up where many live long, as in training. Other C libraries keep blocks by themselves.
"""

from __future__ import annotations

import ctypes
import os
import sys

# malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_LARGEST = 2**31 - 1  # mallopt takes an int

#: Blocks up to here are kept, in MiB.
TRAINING_MIB = 64
EVALUATION_MIB = 192


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


def return_free_memory() -> None:
    """Give memory that the C library keeps for reuse back to the system, so that needing it again shows."""
    if sys.platform.startswith("linux"):
        library = ctypes.CDLL(None)
        if hasattr(library, "malloc_trim"):
            library.malloc_trim(0)
