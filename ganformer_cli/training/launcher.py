"""Starts the processes of a run on one machine and ends them together: none outlives the launcher."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from ganformer_cli.checkpoints.run_lock import LAUNCHER
from ganformer_cli.cpus import usable_cores
from ganformer_cli.stop_signals import handled, held_back, signals_named

#: Seconds that the others get to end by themselves after one has failed, and to end after SIGTERM.
GRACE_SECONDS = 20.0
#: Seconds between checks of the processes.
POLL_SECONDS = 0.2


def run_workers(words: Sequence[str], count: int, threads: int | None = None) -> int:
    """Run ``ganformer`` with the command line ``words`` in ``count`` processes that train together.

    Args:
        words: the command line without the program's name.
        count: of the processes.
        threads: of each process; None: ``OMP_NUM_THREADS``, or an equal part of the cores.

    A terminal sends Ctrl-C to all of them; other stop signals are passed on.

    Returns:
        0 if all succeeded, else the status of the first that failed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        LAUNCHER: str(os.getpid()),
    }
    # Otherwise each would use all cores, and they would slow one another down.
    equal_part = os.environ.get("OMP_NUM_THREADS") or str(max(1, usable_cores().whole // count))
    shared["OMP_NUM_THREADS"] = equal_part if threads is None else str(threads)
    command = [sys.executable, "-m", "ganformer_cli", *words]
    # Their standard input is a pipe that closes when this process ends, however it ends; see when_launcher_ends.
    with held_back("SIGUSR1", "SIGHUP"):
        workers = [
            subprocess.Popen(
                command,
                env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdin=subprocess.PIPE,
            )
            for rank in range(count)
        ]
    try:
        with _passing_signals(workers):
            return _wait(workers)
    finally:
        _end(workers)


def when_launcher_ends(act: Callable[[], None]) -> None:
    """In a process started by ``run_workers`` or torchrun, call ``act`` in a thread once the launcher has ended.

    Does nothing in other processes.
    """
    wait: Callable[[], None]
    if LAUNCHER in os.environ:
        wait = _end_of_input
    elif "TORCHELASTIC_RUN_ID" in os.environ and os.name != "nt":
        parent = os.getppid()
        wait = functools.partial(_end_of_parent, parent)
    else:
        return

    def watch() -> None:
        wait()
        act()

    threading.Thread(target=watch, daemon=True).start()


def _end_of_input() -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 1024):
            pass


def _end_of_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)


def _wait(workers: Sequence[subprocess.Popen[bytes]]) -> int:
    """Wait until all have ended, or until ``GRACE_SECONDS`` after the first failed; the status."""
    status, deadline = 0, float("inf")
    while any(worker.poll() is None for worker in workers) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        failed = [worker.returncode for worker in workers if worker.returncode]
        if failed and not status:
            status, deadline = failed[0], time.monotonic() + GRACE_SECONDS
    failed = [worker.returncode for worker in workers if worker.returncode]
    # On POSIX a negative status is minus the signal that ended it; shells report 128 plus the signal.
    found = status or next(iter(failed), 0)
    return found if found >= 0 else 128 - found


def _end(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    """End those that still run."""
    for worker in workers:
        if worker.poll() is None:
            worker.terminate()
    deadline = time.monotonic() + GRACE_SECONDS
    for worker in workers:
        try:
            worker.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


@contextlib.contextmanager
def _passing_signals(workers: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Within the block, pass stop signals to the workers, which save; this process ends after them."""

    def pass_on(number: int, frame: object) -> None:
        # Ctrl-C, and Ctrl-Break on Windows, have reached the workers already: the terminal sends it to all. Twice would
        # be "at once". SIGHUP may have come to this process alone, and twice it changes nothing.
        if number not in signals_named("SIGINT", "SIGBREAK"):
            for worker in workers:
                if worker.poll() is None:
                    worker.send_signal(number)

    with handled(pass_on, "SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGBREAK"):
        yield
