"""The folder of a data set: intact, or as it was before.

The work lies in ``.NAME.part`` beside it until it is done. That folder holds ``lock`` (one process at a time),
``journal.jsonl``, ``set`` (the data set as far as it is made) and, while the finished one takes its place, ``old`` (the
data set that it replaces).
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from ganformer_cli.data.prepare.statistics import DatasetPlan, UnusableSourceError
from ganformer_cli.data.prepare.writer import JOURNAL, SET, DatasetWriter
from ganformer_cli.errors import OutputError
from ganformer_cli.files import ensure_writable_folder, quietly, reason_and_remedy, remove, replace

OLD, LOCK = "old", "lock"


def recover(target: Path) -> None:
    """Clean up after a process that was killed while it published a data set."""
    part = _part(target)
    if part.is_dir():
        with _explained(target), _exclusive(part):
            _restore_old(part, target)
            if target.exists() and not (part / SET).exists():
                _discard(part)
                remove(part / OLD)


@contextlib.contextmanager
def writing(target: Path, plan: DatasetPlan) -> Iterator[DatasetWriter]:
    """Writes a data set, which takes the place of ``target`` if the block succeeds.

    Otherwise what was done is kept for the next time, unless that is nothing, or of no use.

    Raises:
        OutputError: the folder cannot be written, or another process works on it.
    """
    parent, part = target.parent, _part(target)
    new_folders = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    ensure_writable_folder(parent, "--data-dir")
    try:
        with _explained(target), _exclusive(part):
            writer = DatasetWriter(part, plan)
            try:
                writer.start()
                yield writer
                writer.close()
                _publish(part, target)
            except BaseException as error:
                writer.close()
                if isinstance(error, UnusableSourceError) or not writer.committed:
                    _discard(part)
                raise
    finally:
        with contextlib.suppress(OSError):  # they are not empty if all went well
            for folder in new_folders:
                folder.rmdir()


def _part(target: Path) -> Path:
    return target.parent / f".{target.name}.part"


@contextlib.contextmanager
def _exclusive(part: Path) -> Iterator[None]:
    """Keep other processes from working in ``part``, which is made; removed at the end if nothing is in it."""
    part.mkdir(exist_ok=True)
    lock = FileLock(part / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise OutputError(f"{part} is in use by another process; wait until that ends, or end it") from None
    try:
        yield
    finally:
        lock.release()
        if os.listdir(part) in ([LOCK], []) and remove(part / LOCK, warn=quietly):
            part.rmdir()


def _publish(part: Path, target: Path) -> None:
    """Let the finished data set take its place, and remove the rest of the folder."""
    remove(part / OLD)  # left by a process that was killed when all was done
    try:
        if target.exists():
            replace(target, part / OLD)
        replace(part / SET, target)
    except BaseException:
        _restore_old(part, target)
        raise
    _discard(part)
    remove(part / OLD, warn=quietly)  # the next run removes it


def _restore_old(part: Path, target: Path) -> None:
    """Put the old data set back if the new one was not published."""
    if (part / OLD).exists() and not target.exists():
        replace(part / OLD, target)


def _discard(part: Path) -> None:
    """Remove what was made."""
    # The journal goes last: it says what the rest is.
    for name in (SET, JOURNAL):
        remove(part / name, warn=quietly)  # the next run removes it


@contextlib.contextmanager
def _explained(target: Path) -> Iterator[None]:
    """Turn an OSError into an OutputError that says what to do."""
    try:
        yield
    except OSError as error:
        reason, remedy = reason_and_remedy(error)
        full = error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None))  # Windows knows no quota
        first = "free some space" if full else "fix that"
        raise OutputError(
            f"cannot write {target}: {reason}; {first} and run the same again: it resumes where it was. Or {remedy}"
        ) from error
