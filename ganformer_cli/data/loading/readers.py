"""Processes that read batches ahead of training, each of which may die or hang at any moment without harm.

torch's DataLoader does not fit: it passes batches through shared memory, so a small ``/dev/shm``, as in containers,
ends or hangs a run; a worker that dies raises an error from a signal handler, anywhere in the training process; and it
waits for a hung worker for ever. Here batches come through a pipe, each process sends heartbeats, and a batch is a
function of its position: any process can be replaced, or left out, and the stream stays bit-identical.

Standard library and numpy only: these processes never load torch.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ganformer_cli.files import Warn, error_reason
from ganformer_cli.stop_signals import OF_THE_TERMINAL, held_back, leave_to_parent, signals_named

BatchArrays = tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]  # images and labels of a batch

PREFETCH = 4  # batches that each process reads ahead
HEARTBEAT_INTERVAL = 0.5  # seconds between a process's heartbeats
HEARTBEAT_TIMEOUT = 20.0  # seconds without a heartbeat, after which a process counts as hung
STARTUP_TIMEOUT = 120.0  # the same, until the first one
SLOW_INTERVAL = 60.0  # seconds that training waits for a batch, before and between two warnings
MAX_FAILURES = 3  # in a row, beyond one of each process; after that reading goes on without processes
STOP_GRACE = 1.0  # seconds that a batch may still take once the run is asked to stop
_TICK = 0.2  # seconds between looks at whether the run is asked to stop


class Batches(Protocol):
    """The batch that begins at a position; can be sent to a process."""

    def read(self, position: int) -> BatchArrays:
        """images uint8 [B, 3, height, width], labels float32 [B, label_dim]"""
        ...


class StoppedWaiting(Exception):
    """The run was asked to stop while a batch was waited for."""


class _LostError(Exception):
    """A process is lost; the message says why."""


class ReaderPool:
    """Reads the batches at ``first``, ``first + step``, ``first + 2 * step`` … in ``count`` processes, in turn.

    Args:
        batches: what is read.
        first: position of the first batch.
        step: how far batches lie apart.
        count: processes.
        warn: given a line when a process is lost, or the batches come very slowly.
        should_stop: asked while a batch is waited for.
    """

    def __init__(
        self, batches: Batches, *, first: int, step: int, count: int, warn: Warn, should_stop: Callable[[], bool]
    ) -> None:
        self._batches = batches
        self._step = step
        self._warn = warn
        self._should_stop = should_stop
        self._turn = 0
        self._failures = 0
        self._readers: list[_Reader] = []
        try:
            for number in range(count):
                self._readers.append(_Reader(batches, first + number * step, step * count))
        except OSError as error:
            _end_all(self._readers)
            warn(f"cannot start processes that read images ({error_reason(error)}); reading without them")
        self._finalizer = weakref.finalize(self, _end_all, self._readers)

    @property
    def pids(self) -> list[int]:
        """The process ids."""
        return [pid for reader in self._readers if (pid := reader.process.pid) is not None]

    def read(self, position: int) -> BatchArrays:
        """The batch at ``position``, which must be the next one.

        Raises:
            StoppedWaiting: the run is to stop, and the batch does not come.
            GanformerError: an image cannot be read.
        """
        if not self._readers:
            return self._batches.read(position)
        reader = self._readers[self._turn]
        try:
            batch = reader.wait(position, self._should_stop, self._warn)
            self._failures = 0
        except _LostError as lost:
            batch = None
            self._replace(reader, position, str(lost))
        if self._readers:
            self._turn = (self._turn + 1) % len(self._readers)
        # What a process could not read is read here: that succeeds, or raises the error where it can be reported.
        return self._batches.read(position) if batch is None else batch

    def close(self) -> None:
        """End the processes."""
        self._finalizer()

    def _replace(self, lost: _Reader, position: int, why: str) -> None:
        self._failures += 1
        lost.end()
        count = len(self._readers)
        if not self._should_stop():
            # Its other batches, beyond the one at position, which is read without it.
            if self._failures < MAX_FAILURES + count:
                with contextlib.suppress(OSError):
                    stride = self._step * count
                    self._readers[self._turn] = _Reader(self._batches, position + stride, stride)
                    self._warn(f"a process that reads images {why}; it was replaced")
                    return
            self._warn(f"the processes that read images fail ({why}); reading without them from now on, more slowly")
        _end_all(self._readers)


class _Reader:
    """One process, and the thread that receives from it."""

    def __init__(self, batches: Batches, first: int, stride: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, sending = context.Pipe(duplex=False)
        self.process = context.Process(target=_serve, args=(batches, first, stride, sending), daemon=True)
        try:
            with _signals_held_back():
                self.process.start()
        except BaseException:
            self._pipe.close()
            raise
        finally:
            sending.close()  # the other end: once the process is gone, nothing holds it open
        self._changed = threading.Condition()
        self._ready: deque[tuple[int, BatchArrays | None]] = deque()
        self._heard = 0  # messages
        self._ended = self._closed = False
        threading.Thread(target=self._receive, daemon=True).start()

    def wait(self, position: int, should_stop: Callable[[], bool], warn: Warn) -> BatchArrays | None:
        """The batch at ``position``; None if the process could not read it.

        Raises:
            _LostError: the process has ended, or does not respond.
            StoppedWaiting: the run is to stop, and the batch does not come.
        """
        waited = silent = stopping = 0.0
        warned, heard = 0.0, self._heard
        while True:
            before = time.monotonic()
            with self._changed:
                if not self._ready and not self._ended:
                    self._changed.wait(_TICK)
                if self._ready:
                    at, batch = self._ready.popleft()
                    self._changed.notify_all()
                    if at != position:
                        raise _LostError("is out of step")
                    return batch
                if self._ended:
                    self.process.join(1)
                    raise _LostError(f"ended{_status(self.process.exitcode)}")
                silent = silent if heard == self._heard else 0.0
                heard = self._heard
            # If this process was stopped itself, or the machine slept, the time proves nothing.
            passed = min(time.monotonic() - before, 2 * _TICK)
            waited, silent = waited + passed, silent + passed
            # On Windows, where the new process fetches its end of the pipe, one that ends before leaves it open here.
            if not heard and silent > _TICK and (status := self.process.exitcode) is not None:
                raise _LostError(f"ended{_status(status)}")
            if silent > (HEARTBEAT_TIMEOUT if heard else STARTUP_TIMEOUT):
                raise _LostError("does not respond")
            if waited - warned > SLOW_INTERVAL:
                warned = waited
                warn(f"waiting for images since {waited:.0f} s; is their disk slow or disconnected?")
            if should_stop():
                stopping += passed
                if stopping > STOP_GRACE:
                    raise StoppedWaiting

    def end(self) -> None:
        """End the process, even one that is stopped."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self.process.kill()
        self.process.join(5)

    def _receive(self) -> None:
        try:
            while True:
                message = self._pipe.recv()
                with self._changed:
                    self._heard += 1
                    if message is not None:
                        self._ready.append(message)
                        self._changed.notify_all()
                    self._changed.wait_for(lambda: self._closed or len(self._ready) < PREFETCH)
                    if self._closed:
                        return
        except Exception:  # it ended, perhaps in the middle of a message
            return
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()
            self._pipe.close()


def _end_all(readers: list[_Reader]) -> None:
    for reader in readers:
        reader.process.kill()
    for reader in readers:
        reader.end()
    readers.clear()


def _status(code: int | None) -> str:
    if code is None:
        return ""
    if code >= 0:
        return f" with status {code}"
    with contextlib.suppress(ValueError):
        return f" by {signal.Signals(-code).name}" + (" (memory may have run out)" if code == -9 else "")
    return f" by signal {-code}"


# Signals that may reach all processes of a terminal or job: training decides, and ends its readers itself.
_OF_ALL = (*OF_THE_TERMINAL, "SIGUSR1")


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    """A process that is started within begins with signals to stop held back: none ends it before it is ready, with a
    traceback. Here they arrive behind the block."""
    if hasattr(signal, "pthread_sigmask"):
        from multiprocessing import resource_tracker  # POSIX only

        # The first process that is spawned brings it along, and starting it lets SIGINT through again.
        resource_tracker.ensure_running()
    with held_back(*_OF_ALL):
        yield


# ----- In the process -----


def _serve(batches: Batches, position: int, stride: int, pipe: Connection) -> None:
    """Send batches until the training process stops receiving."""
    leave_to_parent()
    for number in signals_named(*_OF_ALL):
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals_named(*_OF_ALL))
    one_at_a_time = threading.Lock()

    def send(message: Any) -> None:
        with one_at_a_time:
            pipe.send(message)

    def live() -> None:
        with contextlib.suppress(OSError):
            while True:
                send(None)
                time.sleep(HEARTBEAT_INTERVAL)

    threading.Thread(target=live, daemon=True).start()
    with contextlib.suppress(OSError):  # the training process has ended, however it did
        while True:
            try:
                batch = batches.read(position)
            except Exception:  # the training process reads it, and reports what is wrong
                batch = None
            send((position, batch))
            position += stride
