"""Work that is done in blocks, which become smaller where memory runs out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ganformer_cli.errors import GanformerError
from ganformer_cli.process_memory import is_out_of_memory

Value = TypeVar("Value")


class BlockSize:
    """How many items are computed at a time. What did not fit once is not tried again.

    Args:
        size: to begin with, at least 1.
        doing: what the items are for, such as ``"comparing features"``; for the error.
    """

    def __init__(self, size: int, doing: str) -> None:
        self.size, self.doing = size, doing

    def run(self, compute: Callable[[int], Value]) -> Value:
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
            # Outside of the handler, whose traceback holds on to what was computed.
            self.size //= 2


def out_of_memory(doing: str) -> str:
    """The message where nothing smaller can be tried."""
    return f"memory ran out while {doing}; close other programs, or use another device (--gpus)"
