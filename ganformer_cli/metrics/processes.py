"""Several processes that evaluate together, as this room sees them; who they are, ``training.distributed`` knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from ganformer_cli.errors import GanformerError

_Value = TypeVar("_Value")


class ProcessGroup(Protocol):
    """Processes that all run the same evaluation; each computes the features of its share of the images."""

    @property
    def rank(self) -> int:
        """Which one this is."""

    @property
    def world_size(self) -> int:
        """How many there are."""

    def all_gather_object(self, value: _Value) -> list[_Value]:
        """What all of them have, in the order of their ranks."""

    def run_on_rank0(self, value: Callable[[], _Value]) -> _Value:
        """What ``value`` gives in the first one, in all of them; an error there is one everywhere."""


class SingleProcess:
    """One process."""

    rank = 0
    world_size = 1

    def all_gather_object(self, value: _Value) -> list[_Value]:
        return [value]

    def run_on_rank0(self, value: Callable[[], _Value]) -> _Value:
        return value()


SINGLE_PROCESS: ProcessGroup = SingleProcess()


def fail_together(group: ProcessGroup, work: Callable[[], _Value]) -> _Value:
    """``work`` of this process. Where it fails in one it fails in all: none then waits for another for ever.

    Raises:
        GanformerError: it failed in another process.
        Exception: whatever it raised in this one.
    """
    if group.world_size == 1:
        return work()
    done: list[_Value] = []
    error: Exception | None = None
    try:
        done.append(work())
    except Exception as raised:  # the others must learn of it
        error = raised
    reasons = group.all_gather_object(None if error is None else str(error) or type(error).__name__)
    if error is not None:
        raise error
    if failed := [f"process {rank} failed: {reason}" for rank, reason in enumerate(reasons) if reason is not None]:
        raise GanformerError("; ".join(failed))
    return done[0]
