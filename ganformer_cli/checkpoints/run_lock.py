"""One training at a time in a run folder.

Two files mark a run that is being trained. ``.lock`` is locked by the operating system, which releases it when the
process ends, however it ends. ``lock.json`` names the owner (host, process, start of the process): for people, for
file systems without locks, and for other machines that see the same folder. One that a killed process has left is
recognised and replaced, unless it is another machine's, which cannot be asked.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ganformer_cli.errors import GanformerError, OutputError
from ganformer_cli.files import error_reason, read_json, write_json

#: The environment variable that tells a process which one has started it.
LAUNCHER = "GANFORMER_LAUNCHER"
#: Seconds that a process whose launcher is gone gets to save and end by itself.
ORPHAN_GRACE = 60.0
LOCK_FILE = ".lock"
OWNER_FILE = "lock.json"
#: Seconds in which two processes that take a folder without locks at the same moment notice each other.
SETTLE_SECONDS = 0.3
RETRY_SECONDS = 0.2


class LockedError(OutputError):
    """Another process trains in the folder."""


@dataclass(frozen=True)
class Owner:
    """The process that trains in a folder."""

    host: str
    boot: str | None  # identifies one boot of the machine; None where the system has no such identifier
    pid: int
    start: str | None  # of the process; None if unknown
    since: str  # for people
    launcher_pid: int | None = None  # that ends its workers, and without which they end themselves
    launcher_start: str | None = None

    def description(self) -> str:
        """The owner, for a message."""
        return f"process {self.pid} on {self.host}, since {self.since}"


def this_process() -> Owner:
    """The owner that this process would be."""
    launcher = os.environ.get(LAUNCHER, "")
    launcher_pid = int(launcher) if launcher.isdecimal() and len(launcher) < 10 else None
    return Owner(
        host=socket.gethostname(),
        boot=boot_id(),
        pid=os.getpid(),
        start=process_start(os.getpid()),
        since=datetime.datetime.now().astimezone().isoformat(" ", "seconds"),
        launcher_pid=launcher_pid,
        launcher_start=None if launcher_pid is None else process_start(launcher_pid),
    )


# ----- Processes -----


def boot_id() -> str | None:
    """An identifier of this boot of the machine; its containers share it."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return None


def process_start(pid: int) -> str | None:
    """When a process began, only to be compared; None if there is no such process, or it cannot be told."""
    if os.name == "nt":
        return _windows_start(pid)
    stat = Path(f"/proc/{pid}/stat")
    if stat.parent.parent.joinpath("self").exists():
        try:
            fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else fields[19]  # it has ended, but its parent has not waited for it yet
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        line = ["ps", "-o", "lstart=", "-p", str(pid)]
        said = subprocess.run(line, capture_output=True, text=True, timeout=10, check=False, env={"LC_ALL": "C"})
        return said.stdout.strip() or None
    return None


def _windows_start(pid: int) -> str | None:
    import ctypes

    kernel32 = ctypes.windll.kernel32  # type: ignore[attr-defined,unused-ignore]  # on Windows only
    kernel32.OpenProcess.restype = ctypes.c_void_p
    handle = ctypes.c_void_p(kernel32.OpenProcess(0x1000, False, pid))  # PROCESS_QUERY_LIMITED_INFORMATION
    if not handle:
        return None
    try:
        times = [ctypes.c_uint64() for _ in range(4)]
        code = ctypes.c_uint32()
        if not kernel32.GetProcessTimes(handle, *map(ctypes.byref, times)):
            return None
        if kernel32.GetExitCodeProcess(handle, ctypes.byref(code)) and code.value != 259:  # STILL_ACTIVE
            return None
        return str(times[0].value)
    finally:
        kernel32.CloseHandle(handle)


def is_alive(pid: int, start: str | None) -> bool:
    """Whether the process that began at ``start`` still runs: process IDs are reused."""
    now = process_start(pid)
    return now is not None and (start is None or now == start)


# ----- The lock -----


@dataclass
class _Held:
    """A lock that this process holds, and how often it was acquired."""

    system: Any  # filelock's; None where the file system has no locks
    count: int = 1


_held: dict[Path, _Held] = {}


@contextlib.contextmanager
def lock_run(folder: Path, message: Callable[[str], None] = lambda text: None) -> Iterator[None]:
    """Keep other processes from training in an existing ``folder``. This process may lock it again within the block.

    Args:
        message: told when a lock is taken over, and why that takes time.

    Raises:
        LockedError: another process trains there, or may do so on another machine.
        OutputError: the folder cannot be written to.
    """
    key = folder.resolve()
    if key in _held:
        _held[key].count += 1
    else:
        _held[key] = _Held(_acquire(folder, message))
    try:
        yield
    finally:
        _held[key].count -= 1
        if _held[key].count == 0:
            _release(folder, _held.pop(key).system)


def _acquire(folder: Path, message: Callable[[str], None]) -> Any:
    deadline: float | None = None
    system, taken = _system_lock(folder / LOCK_FILE)
    while not taken:
        holder = read_owner(folder)
        if holder is None or not _is_orphan(holder):
            raise LockedError(_refusal(folder, holder))
        if deadline is None:
            deadline = time.monotonic() + ORPHAN_GRACE + 10
            message(f"waiting for the processes of an earlier start to save and end ({holder.description()})")
        if time.monotonic() > deadline:
            raise LockedError(_refusal(folder, holder))
        time.sleep(RETRY_SECONDS)
        system, taken = _system_lock(folder / LOCK_FILE)
    owner = read_owner(folder)
    me = this_process()
    try:
        if owner is not None and (owner.pid, owner.start, owner.host) != (me.pid, me.start, me.host):
            _check_gone(folder, owner, has_system_lock=system is not None)
            message(f"{folder}: the process that trained here was killed ({owner.description()}); resuming it")
        write_json(folder / OWNER_FILE, asdict(me))
        if system is None:
            time.sleep(SETTLE_SECONDS)
            owner = read_owner(folder)
            if owner != me:
                raise LockedError(_refusal(folder, owner))
    except BaseException:
        if system is not None:
            system.release()
        raise
    return system


def _system_lock(path: Path) -> tuple[Any, bool]:
    """filelock's lock, and whether it is acquired; None and True on file systems without locks.

    Raises:
        OutputError: the folder cannot be written to.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(str(path), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return None, False
    except (PermissionError, FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise OutputError(f"--result-dir {path.parent}: cannot be written to ({error_reason(error)})") from error
    except NotImplementedError:
        return None, True
    except OSError as error:
        if path.exists():  # it can be created but not locked: ENOLCK, ENOTSUP and the like
            return None, True
        raise OutputError(f"--result-dir {path.parent}: cannot be written to ({error_reason(error)})") from error
    if type(lock).__name__ == "SoftFileLock":  # the fallback of newer filelocks, which outlives a kill
        lock.release()
        return None, True
    return lock, True


def _is_orphan(owner: Owner) -> bool:
    """Whether the launcher of a process is gone: the process then saves and ends."""
    launcher = owner.launcher_pid
    return launcher is not None and _is_here(owner) and not is_alive(launcher, owner.launcher_start)


def _is_here(owner: Owner) -> bool:
    """Whether an owner's process, if it is_alive, is one of those that we see."""
    return owner.host == socket.gethostname()


def _check_gone(folder: Path, owner: Owner, *, has_system_lock: bool) -> None:
    """Raise LockedError unless the process that ``lock.json`` names is gone.

    Its lock file is not locked. That is proof if it ran on this machine, also in another container; on network file
    systems other machines may lock independently.
    """
    same_machine = owner.boot is not None and owner.boot == boot_id()
    if _is_here(owner):
        if is_alive(owner.pid, owner.start) and (owner.boot is None or same_machine):
            raise LockedError(_refusal(folder, owner))
    elif not (same_machine and has_system_lock):
        raise LockedError(
            f"{folder}: {owner.description()} trains in it, or was killed there. If it no longer runs, delete "
            f"{folder / OWNER_FILE} and start again; start another run with --restart"
        )


def _refusal(folder: Path, owner: Owner | None) -> str:
    who = "" if owner is None else f" ({owner.description()})"
    return (
        f"{folder} is being trained by another process{who}; let it finish, or end it. A run beside it begins with "
        "--restart or another --expname"
    )


def read_owner(folder: Path) -> Owner | None:
    """The owner in ``lock.json``; None if there is none, or it is damaged."""
    path = folder / OWNER_FILE
    if not path.exists():
        return None
    try:
        values = read_json(path, max_bytes=1 << 16)
        owner = Owner(**values)
    except (GanformerError, TypeError):
        return None
    optional = (owner.boot, owner.start, owner.launcher_start)
    sound = (
        all(isinstance(value, str) and value.isprintable() for value in (owner.host, owner.since))
        and all(value is None or isinstance(value, str) for value in optional)
        and isinstance(owner.pid, int)
        and isinstance(owner.launcher_pid, (int, type(None)))
        and 0 < owner.pid < 2**31
        and 0 <= (owner.launcher_pid or 0) < 2**31
    )
    return owner if sound else None


def is_training(owner: Owner) -> bool:
    """Whether the process that ``lock.json`` names still runs; one of another machine, which cannot be asked, counts.

    Nothing is locked or written, so that it may be asked while the run goes on.
    """
    if not _is_here(owner):
        return True
    return owner.boot in (None, boot_id()) and is_alive(owner.pid, owner.start)


def _release(folder: Path, system: Any) -> None:
    owner = read_owner(folder)
    if owner is None or (owner.pid, owner.host) == (os.getpid(), socket.gethostname()):
        with contextlib.suppress(OSError):
            (folder / OWNER_FILE).unlink(missing_ok=True)
    if system is None:
        return
    # POSIX can remove it before others lock it; Windows only when nobody has it open.
    if os.name != "nt":
        with contextlib.suppress(OSError):
            (folder / LOCK_FILE).unlink(missing_ok=True)
    system.release()
    if os.name == "nt":
        with contextlib.suppress(OSError):
            (folder / LOCK_FILE).unlink(missing_ok=True)
