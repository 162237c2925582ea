"""Checksums of files: given by whoever published them, or remembered from the first download."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from ganformer_cli.errors import DownloadError, OutputError
from ganformer_cli.files import (
    digest_file,
    error_reason,
    open_regular,
    read_json,
    reason_and_remedy,
    sha256_of,
    write_json,
)

CHECKSUMS = "checksums.json"
DIGITS = {"md5": 32, "sha256": 64}  # kinds of checksums, and their hexadecimal digits
BLOCK = 1 << 20  # bytes read at a time

Progress = Callable[[int, int | None], None]  # bytes that are there, bytes in all if known


class ChecksumError(DownloadError):
    """A file that is whole and is not the one that was announced."""


def split_checksum(checksum: str) -> tuple[str, str]:
    """``"md5:74de…"`` as ``("md5", "74de…")``, lower case.

    Raises:
        ValueError: it is none.
    """
    kind, _, value = checksum.lower().partition(":")
    if kind not in DIGITS or not re.fullmatch(rf"[0-9a-f]{{{DIGITS[kind]}}}", value):
        raise ValueError(f"{checksum!r} is not a checksum; write md5: and 32, or sha256: and 64 hexadecimal digits")
    return kind, value


class Digest:
    """The checksum of a file that grows, computed as it comes."""

    def __init__(self, checksum: str) -> None:
        self.kind, self.expected = split_checksum(checksum)
        self._restart()

    def _restart(self) -> None:
        self._hash = hashlib.new(self.kind, usedforsecurity=False)
        self.done = 0  # bytes that it knows

    def update(self, block: bytes) -> None:
        """Take the bytes that follow."""
        self._hash.update(block)
        self.done += len(block)

    def catch_up(self, path: Path, offset: int) -> None:
        """Stand at byte ``offset`` of ``path``: read what is not known yet, or begin anew where too much is."""
        if self.done > offset:
            self._restart()
        if self.done == offset:
            return
        with open_regular(path) as stream:
            stream.seek(self.done)
            while self.done < offset:
                block = stream.read(min(BLOCK, offset - self.done))
                if not block:
                    raise OSError(f"{path} is shorter than it was")
                self.update(block)

    @property
    def found(self) -> str:
        return self._hash.hexdigest()

    @property
    def fits(self) -> bool:
        return self.found == self.expected


def check_file(path: Path, checksum: str, progress: Progress | None = None) -> None:
    """See that ``path`` has ``checksum``. A file that was found right is read again only once it has changed.

    Raises:
        ChecksumError: it has another one.
        DownloadError: it cannot be read.
    """
    kind, expected = split_checksum(checksum)
    try:
        with contextlib.suppress(DownloadError):  # there is no note, or a damaged one
            if _note(path, checksum) == read_json(checked_note(path), kind=DownloadError):
                return
        found = digest_file(path, kind, progress)
    except OSError as error:
        raise DownloadError(f"cannot read {path}: {error_reason(error)}; delete it to download it again") from error
    if found != expected:
        raise ChecksumError(
            f"{path} has the {kind} {found}, where {expected} is expected: it is damaged, or another file; remove it "
            "to download it again"
        )
    note_checked(path, checksum)


def note_checked(path: Path, checksum: str) -> None:
    """Remember beside ``path`` that it has ``checksum``, so that a large file is not read again for that."""
    with contextlib.suppress(OSError, OutputError):  # an unwritable folder only costs the time
        write_json(checked_note(path), _note(path, checksum))


def checked_note(path: Path) -> Path:
    """Where it is noted that ``path`` was found right."""
    return path.with_name(f"{path.name}.checked.json")


def _note(path: Path, checksum: str) -> dict[str, object]:
    there = path.stat()
    return {"checksum": checksum.lower(), "bytes": there.st_size, "changed": there.st_mtime_ns}


def remember_checksum(path: Path) -> str:
    """The sha256 of ``path``, hexadecimal: noted in ``checksums.json`` beside it the first time, compared afterwards.

    Raises:
        DownloadError: the file is not the one that was noted, or one of the two files cannot be read.
        OutputError: the note cannot be written.
    """
    book = path.with_name(CHECKSUMS)
    try:
        found = sha256_of(path)
    except OSError as error:
        raise DownloadError(f"cannot read {path}: {error_reason(error)}; delete it to download it again") from error
    known = _read_checksums(book)
    if path.name not in known:
        with download_lock(book):
            known = _read_checksums(book)  # another process may have written it meanwhile
            if path.name not in known:
                known[path.name] = found
                write_json(book, dict(sorted(known.items())))
    if known[path.name] != found:
        raise DownloadError(
            f"{path} has changed: its sha256 is {found}, and was {known[path.name]} when it was first downloaded; "
            f"delete the file to download it again, or, if it was renewed on purpose, its line in {book}"
        )
    return found


def _read_checksums(book: Path) -> dict[str, str]:
    """The sums noted in ``book`` by the name of the file; none if there is no book."""
    if not book.exists():
        return {}
    known = read_json(book, kind=DownloadError, remedy="delete it to compute the checksums again")
    if not isinstance(known, dict) or not all(isinstance(value, str) for value in known.values()):
        raise DownloadError(f"{book}: not a table of checksums; delete it to compute the checksums again")
    return known


@contextlib.contextmanager
def download_lock(path: Path) -> Iterator[None]:
    """Hold ``<path>.lock``, waiting as long as another process or thread has it; makes the folder."""
    from filelock import FileLock

    lock_path = path.with_name(f"{path.name}.lock")
    lock = FileLock(str(lock_path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except (OSError, NotImplementedError) as error:  # the second: a file system without locks
        reason = reason_and_remedy(error)[0] if isinstance(error, OSError) else error
        raise OutputError(f"cannot lock {lock_path}: {reason}; choose a writable folder on a local disk") from error
    try:
        yield
    finally:
        lock.release()
