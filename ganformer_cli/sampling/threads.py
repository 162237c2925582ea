"""Several computations at once on a CPU, with results that do not depend on the number of threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def map_single_threaded(
    compute: Callable[[_Item], _Result], items: Sequence[_Item], *, together: bool = True, at_most: int | None = None
) -> list[_Result]:
    """Map ``compute`` over ``items``, each in a single thread.

    Args:
        together: compute as many at once as torch uses threads; else one after the other.
        at_most: limits how many are computed at once, if memory is short.
    """
    threads = torch.get_num_threads()
    workers = threads if together else 1
    workers = min(workers, at_most or workers)
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(compute, items))
    finally:
        # Some of the libraries under torch keep one number for the whole process.
        torch.set_num_threads(threads)
