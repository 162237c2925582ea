"""What asks a program to stop: Ctrl-C, a shutdown, a terminal that is closed, the end of a Slurm job.

SIGINT is Ctrl-C, SIGTERM a shutdown, SIGHUP a terminal that was closed, SIGUSR1 how Slurm can announce that a job's
time ends (--signal=USR1@120). On Windows SIGBREAK is Ctrl-Break; a console that is closed and a user who logs off are
no signals there, but events of the console. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

#: Those that the terminal sends to all its processes: nobody need pass them on.
OF_THE_TERMINAL = ("SIGINT", "SIGHUP", "SIGBREAK")
#: Events of a Windows console: it is closed, the user logs off, the machine shuts down.
_CONSOLE_ENDS = (2, 5, 6)
#: Seconds that a closed console waits for its programs at most; Windows itself may wait for five only.
_CONSOLE_PATIENCE = 30.0

Handler = Callable[[int, Any], None]


class StopSignal(KeyboardInterrupt):
    """A signal to stop, raised where the program is just then."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = signal.Signals(number)

    @property
    def status(self) -> int:
        """128 and the signal's number, as shells report it."""
        return 128 + self.number


def signals_named(*names: str) -> list[signal.Signals]:
    """Those of ``names`` that this system has."""
    return [getattr(signal, name) for name in names if hasattr(signal, name)]


@contextlib.contextmanager
def handled(handler: Handler, *names: str) -> Iterator[None]:
    """Within the block ``handler`` gets these signals, and a console that ends as SIGBREAK; nothing where it may not.

    A SIGHUP that is ignored stays so: whoever said ``nohup`` wants the program to go on. Processes that are forked
    within do as they would outside.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner, had_terminal = os.getpid(), _has_terminal()
    before: dict[signal.Signals, Any] = {}

    def own(number: int, frame: Any) -> None:
        if os.getpid() != owner:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        if number in signals_named("SIGHUP") and had_terminal and not _has_terminal():
            _discard_output()
        handler(number, frame)

    for number in signals_named(*names):
        if number in signals_named("SIGHUP") and signal.getsignal(number) is signal.SIG_IGN:
            continue
        before[number] = signal.signal(number, own)
    if hasattr(signal, "pthread_sigmask"):  # whoever started this process may have held them back: see held_back
        signal.pthread_sigmask(signal.SIG_UNBLOCK, before)
    try:
        with console_end("SIGBREAK" in names):
            yield
    finally:
        for number, old in before.items():
            # None: it was set by something other than Python, which cannot set it again.
            signal.signal(number, signal.SIG_DFL if old is None else old)


@contextlib.contextmanager
def held_back(*names: str) -> Iterator[None]:
    """Processes that are started within get these signals only when they handle them: none ends one before it is ready.

    In this process they arrive behind the block. Does nothing on Windows.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals_named(*names))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def stop_requested(say: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Within the block the first signal only sets what the yielded function tells, and calls ``say``.

    A second Ctrl-C, SIGTERM or SIGUSR1 does what it would have done without this. A terminal that is closed asks twice
    by itself (the system, and the shell), so more of that changes nothing.
    """
    stop = False
    before = {number: signal.getsignal(number) for number in signals_named("SIGINT", "SIGTERM", "SIGUSR1")}

    def request(number: int, frame: Any) -> None:
        nonlocal stop
        first, stop = not stop, True
        if number in before:
            old = before[signal.Signals(number)]
            signal.signal(number, signal.SIG_DFL if old is None else old)
        if first:
            with contextlib.suppress(OSError, ValueError):  # nobody may be there to read it
                say()

    with handled(request, "SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGBREAK"):
        yield lambda: stop


@contextlib.contextmanager
def as_interrupts() -> Iterator[None]:
    """Within the block SIGTERM, SIGHUP and SIGBREAK raise :class:`StopSignal`, as Ctrl-C raises KeyboardInterrupt."""

    def interrupt(number: int, frame: Any) -> None:
        raise StopSignal(number)

    with handled(interrupt, "SIGTERM", "SIGHUP", "SIGBREAK"):
        yield


def leave_to_parent() -> None:
    """In a worker process: let the parent, which gets the terminal's signals too, decide when this one ends."""
    for number in signals_named(*OF_THE_TERMINAL):
        signal.signal(number, signal.SIG_IGN)
    _console_handlers.append(_set_console_handler(lambda: threading.Event().wait(_CONSOLE_PATIENCE)))


# ----- Windows -----

_console_handlers: list[Any] = []  # they must live as long as the process


@contextlib.contextmanager
def console_end(wanted: bool = True) -> Iterator[None]:
    """Within the block a Windows console that is closed raises SIGBREAK, and waits until the block is left."""
    done = threading.Event()

    def end() -> None:
        signal.raise_signal(signals_named("SIGBREAK")[0])
        done.wait(_CONSOLE_PATIENCE)

    handler = _set_console_handler(end) if wanted else None
    try:
        yield
    finally:
        done.set()
        if handler is not None:
            _kernel().SetConsoleCtrlHandler(handler, False)


def _set_console_handler(end: Callable[[], object]) -> Any:
    """Call ``end``, in a thread, when the console ends; Windows ends the process when that returns. None elsewhere."""
    if os.name != "nt":
        return None
    import ctypes

    def on_event(event: int) -> bool:
        if event not in _CONSOLE_ENDS:
            return False  # Ctrl-C and Ctrl-Break are Python's
        end()
        return True

    handler = getattr(ctypes, "WINFUNCTYPE")(ctypes.c_int, ctypes.c_uint)(on_event)  # noqa: B009  # mypy on Linux
    _kernel().SetConsoleCtrlHandler(handler, True)
    return handler


def _kernel() -> Any:
    import ctypes

    return getattr(ctypes, "windll").kernel32  # noqa: B009  # mypy on Linux does not know it


# ----- A terminal that has gone -----


def _has_terminal() -> bool:
    """Whether this process has a terminal, wherever its output goes."""
    if os.name == "nt":
        return False
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _discard_output() -> None:
    """Let output that went to the terminal, or through a pipe to a program there, go nowhere: it would be an error."""
    with contextlib.suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                if not stat.S_ISREG(os.fstat(number).st_mode):
                    os.dup2(nowhere, number)
                    stream.flush()
        os.close(nowhere)
