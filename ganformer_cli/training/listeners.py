"""What else is told how a run goes, beside its log: a seam for TensorBoard, Weights & Biases, and other writers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class RunStart:
    """Where a run begins, or resumes."""

    folder: Path
    config: Mapping[str, Any]  # plain JSON values
    images_seen: int  # 0 for a new run


@dataclass(frozen=True)
class SnapshotRecord:
    """A snapshot that has been taken."""

    path: Path
    images_seen: int
    grid: Path  # of generated images
    attention: Path | None  # their attention maps; None without attention
    reals: Path  # the grid of real images
    scores: Mapping[str, float] = field(default_factory=dict)
    component_shares: Sequence[float] = ()  # of the last attention layer's probabilities; they sum to 1


class Listener:
    """Base class: every method does nothing. The main process calls them; an error ends the listener, not the run."""

    #: In messages.
    name = "listener"

    def on_start(self, start: RunStart) -> None:
        """The first step comes next. Also after a rollback: later values replace those after ``images_seen``."""

    def on_tick(self, record: Mapping[str, Any], images_seen: int) -> None:
        """A line has been added to ``log.jsonl``: ``record``, whose values are numbers or None."""

    def on_snapshot(self, snapshot: SnapshotRecord) -> None:
        """A snapshot and its grids have been written."""

    def close(self) -> None:
        """Training has ended, however it did."""


class Listeners:
    """Calls all listeners, and leaves out those that have failed.

    Args:
        listeners: in the order in which they are called.
        warn: receives why one of them is left out.
    """

    def __init__(self, listeners: Sequence[Listener], warn: Callable[[str], None]) -> None:
        self.active, self.warn = list(listeners), warn
        self.seconds = 0.0  # time spent in them

    def call(self, event: Callable[[Listener], None]) -> None:
        """Call ``event`` with each of them."""
        begun = time.perf_counter()
        for listener in list(self.active):
            try:
                event(listener)
            except Exception as error:  # whatever a writer or its service does, training goes on
                self.active.remove(listener)
                reason = " ".join(str(error).split()) or type(error).__name__
                self.warn(f"{listener.name}: {reason}; training continues without it")
        self.seconds += time.perf_counter() - begun

    def close(self) -> None:
        """Close those that are left."""
        self.call(lambda listener: listener.close())
        self.active.clear()
