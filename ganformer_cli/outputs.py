"""Where ``--output FILE`` and the like may write: files, never over what else has that name. Standard library only.

- A regular file is replaced with ``--overwrite`` only, whole or not at all; one that is empty, or holds the very same
  bytes, needs no asking. A symbolic link is followed: the file that it leads to is replaced, the link stays. Of a file
  with several names (hard links) the others keep what it was.
- A device such as ``/dev/null`` or ``/dev/stdout``, or a pipe, is written to, and stays.
- A disk, a socket or a folder is refused, and so is a file that the command reads.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from ganformer_cli.errors import OutputError
from ganformer_cli.files import remove_parts, write_bytes
from ganformer_cli.system_errors import advice, is_name_too_long

SECONDS_FOR_A_READER = 10.0
_NO_PLACE = {stat.S_IFDIR: "a folder", stat.S_IFBLK: "a disk", stat.S_IFSOCK: "a socket"}


def check_output(path: Path, option: str, *, overwrite: bool = False, inputs: Iterable[Path] = ()) -> None:
    """Refuse what must not be written to; call it before the work begins.

    Args:
        option: how messages name it.
        overwrite: a regular file may be replaced.
        inputs: files that the command reads.

    Raises:
        OutputError: it is a folder, a disk, a socket or one of ``inputs``, or a file, and ``overwrite`` was not said.
    """
    state = _state(path, option)
    if state is None or _is_written_through(path, state):
        return
    if kind := _NO_PLACE.get(stat.S_IFMT(state.st_mode)):
        raise OutputError(f"{_said(option, path)}: is {kind}; give the name of a file")
    for other in inputs:
        try:
            same = os.path.samestat(state, os.stat(other))
        except (OSError, ValueError):
            continue
        if same:
            raise OutputError(f"{_said(option, path)}: is one of the files that are read; give another name")
    if state.st_size and not overwrite:
        raise OutputError(f"{_said(option, path)}: exists already; give another name, or --overwrite to replace it")


def write_output(path: Path, data: bytes, option: str, *, overwrite: bool = False, inputs: Iterable[Path] = ()) -> None:
    """Write ``data`` to where a command was told to; arguments as for :func:`check_output`.

    Raises:
        OutputError: it must not be written to, or cannot.
    """
    state = _state(path, option)
    if state is not None and _is_written_through(path, state):
        _write_through(path, data, option, state)
        return
    if state is not None and not (stat.S_ISREG(state.st_mode) and _holds(path, data)):
        check_output(path, option, overwrite=overwrite, inputs=inputs)
    remove_parts(path)
    write_bytes(path, data)


def _said(option: str, path: Path) -> str:
    return f"{option} {path}".strip()


def _state(path: Path, option: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except (OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError | NotADirectoryError) and not is_name_too_long(error):
            return None  # nothing there, or a link to nothing: written where it leads
        reason = advice(error) if isinstance(error, OSError) else "no name of a file; choose another"
        raise OutputError(f"{_said(option, path)}: cannot be written ({reason})") from error


def _is_written_through(path: Path, state: os.stat_result) -> bool:
    # What is redirected has a name in /dev as well: /dev/stdout may be a regular file, which must stay that file.
    below = os.path.abspath(path).startswith(("/dev/", "/proc/")) and sys.platform != "win32"
    return stat.S_ISCHR(state.st_mode) or stat.S_ISFIFO(state.st_mode) or (below and stat.S_ISREG(state.st_mode))


def _write_through(path: Path, data: bytes, option: str, state: os.stat_result) -> None:
    """Write to a device or pipe as it is. If nobody reads a pipe, this waits for a reader, for a limited time."""
    flags = os.O_WRONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
    end = time.monotonic() + SECONDS_FOR_A_READER
    while True:
        try:
            descriptor = os.open(path, flags | (os.O_TRUNC if stat.S_ISREG(state.st_mode) else 0))
            break
        except OSError as error:
            if not stat.S_ISFIFO(state.st_mode) or time.monotonic() > end:
                why = "nobody reads this pipe" if error.errno == errno.ENXIO else advice(error)
                raise OutputError(f"{_said(option, path)}: cannot be written ({why})") from error
            time.sleep(0.05)
    try:
        if hasattr(os, "O_NONBLOCK"):
            os.set_blocking(descriptor, True)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
    except OSError as error:
        raise OutputError(f"{_said(option, path)}: cannot be written ({advice(error)})") from error


def _holds(path: Path, data: bytes) -> bool:
    try:
        return path.stat().st_size == len(data) and path.read_bytes() == data
    except OSError:
        return False
