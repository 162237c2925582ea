"""Why a place cannot be written to and what to do about it; replacing and deleting files that other programs hold.

Standard library only. Everybody imports these names from ``files``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ganformer_cli.errors import OutputError

#: Seconds between attempts while another program holds a file, which on Windows nobody else can then replace or delete.
#: A virus scanner or an indexer lets go of it within a second or two.
WAITS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)

#: Windows' error codes of a file in use: access denied, sharing and lock violation, open in a memory mapping.
_IN_USE = frozenset({5, 32, 33, 1224})
_MAX_NAME, _MAX_PATH = 255, 260  # characters that Windows allows, where long paths are not switched on
_HOLDERS = "a virus scanner, a sync client, a preview or an editor"

#: What to do about an error, by the name of its errno.
_OTHER_DISK = "free some space, or choose a folder on another disk"
_REMEDIES = {
    "EROFS": "this file system is mounted for reading only, choose a folder on another one",
    "EACCES": "choose a folder that you may write to, or ask its owner",
    "EPERM": "it is protected, or belongs to another user: choose another folder",
    "ENOSPC": _OTHER_DISK,
    "EDQUOT": _OTHER_DISK,
    "EFBIG": "the file system, or ulimit -f, allows no larger one; choose a folder on another disk",
    "EMFILE": "allow this process more of them with ulimit -n",
    "ENFILE": "the whole system has too many, close other programs",
    "ENAMETOOLONG": "choose a shorter name",
    "ENOTDIR": "a part of its path is a file, choose another folder",
    "EEXIST": "a file of that name is in the way, choose another folder",
    "EISDIR": "choose another name",
    "EIO": "the disk or the network drive does not answer, choose a folder on another one",
    "ESTALE": "the network drive has gone, mount it again or choose a local folder",
    "EBUSY": "close the program that uses it, or choose another name",
    "ETXTBSY": "end that program, or choose another name",
}
_REMEDY = {getattr(errno, name): text for name, text in _REMEDIES.items() if hasattr(errno, name)}

Warn = Callable[[str], None]
Value = TypeVar("Value")


def reason_and_remedy(error: OSError) -> tuple[str, str]:
    """Why something could not be written, and what to do: ``("Read-only file system", "choose a folder ...")``."""
    if is_in_use(error):
        maybe = "" if getattr(error, "winerror", None) in _IN_USE - {5} else ", or you may not write there"
        return f"another program has it open ({_HOLDERS}){maybe}", "close that program, or choose another folder"
    code = errno.ENAMETOOLONG if is_name_too_long(error) else error.errno
    remedy = None if code is None else _REMEDY.get(code)
    return error_reason(error), remedy or "see that the place is there and can be written to"


def advice(error: OSError) -> str:
    """Reason and remedy in one: ``No space left on device; free some space, or choose a folder on another disk``."""
    return "; ".join(reason_and_remedy(error))


def error_reason(error: OSError) -> str:
    """What went wrong, as the system words it."""
    if is_name_too_long(error):
        return "File name too long"
    return error.strerror or str(error)


def is_name_too_long(error: OSError) -> bool:
    """Whether the file's name, or on Windows its whole path, is the reason. Windows says that there is no such file."""
    on_windows: bool = sys.platform == "win32"
    if not on_windows or error.errno not in (errno.ENOENT, errno.EINVAL):
        return error.errno == errno.ENAMETOOLONG
    path = os.fspath(error.filename) if isinstance(error.filename, str | os.PathLike) else ""
    return any(len(part) > _MAX_NAME for part in re.split(r"[\\/]", path)) or len(os.path.abspath(path)) >= _MAX_PATH


def is_in_use(error: OSError) -> bool:
    """Whether another program may hold the file, so that trying again may help. Only Windows lets it."""
    code = getattr(error, "winerror", None)
    if code is None:  # open() there tells no more than EACCES
        return sys.platform == "win32" and isinstance(error, PermissionError)
    return code in _IN_USE


def insist(action: Callable[[], Value]) -> Value:
    """What ``action`` gives; it is called again for a moment while another program holds the file.

    Raises:
        OSError: that of the last attempt.
    """
    for wait in WAITS:
        try:
            return action()
        except OSError as error:
            if not is_in_use(error):
                raise
        time.sleep(wait)
    return action()


def check_replaceable(path: Path) -> None:
    """Look at what lies at ``path`` before something takes its place.

    Raises:
        OutputError: it is a device, a pipe or a socket, which must not go.
    """
    try:
        mode = os.lstat(path).st_mode
    except (OSError, ValueError):
        return  # nothing there; if it cannot be written to, that will be said
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
        kinds = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
        kind = kinds.get(stat.S_IFMT(mode), "a device")
        raise OutputError(f"cannot write {path}: it is {kind}; choose another name")


def replace(source: Path, target: Path) -> None:
    """Let ``source`` take the place and the name of ``target``, at once.

    Raises:
        OutputError: it cannot; both are as they were.
    """
    check_replaceable(target)
    try:
        insist(lambda: os.replace(source, target))
    except OSError as error:
        raise OutputError(f"cannot write {target}: {advice(error)}") from error


def remove(path: Path, warn: Warn | None = None) -> bool:
    """Delete a file, or a folder with all that is in it; whether it is gone, which it may have been before.

    Args:
        warn: called with the reason if the file stays and nothing is lost by it. None: that is an error.

    Raises:
        OutputError: it cannot be deleted, and there is no ``warn``.
    """
    try:
        insist(lambda: _delete(path))
    except OSError as error:
        said = f"cannot delete {error.filename or path}: {advice(error)}"
        if warn is None:
            raise OutputError(said) from error
        warn(said)
        return False
    return True


def quietly(text: str) -> None:
    """A ``warn`` that says nothing: for temporary files that the next run deletes."""


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(path)
        return
    try:
        path.unlink(missing_ok=True)
    except PermissionError:
        # Windows refuses to delete what is marked as read-only; elsewhere the folder's permissions decide.
        if os.name != "nt" or path.stat().st_mode & stat.S_IWRITE:
            raise
        path.chmod(stat.S_IWRITE)
        path.unlink(missing_ok=True)
