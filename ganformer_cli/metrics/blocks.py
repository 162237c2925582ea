"""Work that is done in blocks, which become smaller where memory runs out."""

from __future__ import annotations

import gc
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from ganformer_cli.errors import GanformerError
from ganformer_cli.memory import is_out_of_memory, return_free_memory

_Value = TypeVar("_Value")


class BlockSize:
    """How many items are computed at a time. What did not fit once is not tried again.

    Args:
        size: to begin with, at least 1.
        doing: what the items are for, such as ``"comparing features"``; for the error.
    """

    def __init__(self, size: int, doing: str) -> None:
        self.size, self.doing = size, doing

    def run(self, compute: Callable[[int], _Value]) -> _Value:
        """``compute(size)``; where memory runs out, from the beginning with half the size, down to 1.

        Raises:
            GanformerError: there is not even the memory for one.
        """
        while True:
            try:
                return compute(self.size)
            except (RuntimeError, MemoryError, OSError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.size <= 1:
                    raise GanformerError(out_of_memory(self.doing)) from error
            # Outside of the handler, whose traceback holds on to what was computed. Those of other threads hang on to
            # their tensors in cycles, and what is free then may lie in pieces.
            gc.collect()
            return_free_memory()
            self.size //= 2


def submit(pool: ThreadPoolExecutor, compute: Callable[..., _Value], *args: Any) -> Future[_Value]:
    """``pool.submit``; where there is no memory for another thread, the work is done here and now."""
    try:
        return pool.submit(compute, *args)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    done: Future[_Value] = Future()
    done.set_result(compute(*args))
    return done


def out_of_memory(doing: str) -> str:
    """The message where nothing smaller can be tried."""
    return f"memory ran out while {doing}; close other programs, or use another device (--gpus)"
