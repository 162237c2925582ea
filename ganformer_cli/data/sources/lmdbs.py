"""LMDB as LSUN has it: the value of each key is an image's file. Also in a zip, which is unpacked for the time."""

from __future__ import annotations

import contextlib
import shutil
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ganformer_cli.data.limits import MAX_FILE_BYTES, too_large
from ganformer_cli.data.sources.base import READ_ERRORS, Item, StreamedSource, file_state, import_library, reason
from ganformer_cli.data.sources.labels import choose_labels
from ganformer_cli.data.zips import checked_member, open_zip
from ganformer_cli.errors import DataError, OutputError
from ganformer_cli.files import advice, check_regular, quietly, read_json, remove, write_json

DATA = "data.mdb"
_MAGIC = bytes.fromhex("dec0efbe")
_MAPPED = 16 << 20  # bytes that are read before the file is opened anew
_SPARE = 64 << 20  # bytes that stay free on the disk
_PIECE = 4 << 20
_MIN_ENTRY = 8  # bytes of an entry, at least


def is_lmdb(start: bytes) -> bool:
    """Whether a file that starts so (at least 20 bytes) is a ``data.mdb``, written on a machine like this one."""
    return start[16:20] in (_MAGIC, _MAGIC[::-1])


class LmdbSource(StreamedSource):
    """Every value of the database, in the order of the keys."""

    format = "lmdb"

    def __init__(self, path: Path, labels: str | None, *, data: Path | None = None, unpacked: Unpacked | None = None):
        """
        Args:
            path: what the user gave: a folder with ``data.mdb``, such a file, or a zip of it.
            data: where ``data.mdb`` lies; None: at the path.
            unpacked: what to remove at the end.
        """
        self.path = path
        self._unpacked = unpacked
        self._data = data or (path / DATA if path.is_dir() else path)
        self._env: Any = None
        self._opened = 0  # how often
        try:
            self._lmdb = import_library("lmdb", path, '"ganformer[lmdb]"')
            self._env = self._open()
            pages = self._env.info()["last_pgno"] + 1
            # A page behind the end of the file would stop the whole process, and not raise anything.
            if pages * self._env.stat()["psize"] > self._data.stat().st_size:
                raise DataError(f"{self._data} is cut short; download it again")
            if self.count() > self._data.stat().st_size // _MIN_ENTRY:
                raise DataError(f"{self._data} is damaged: it claims {self.count()} entries; download it again")
            self.labels = choose_labels(labels, path, count=self.count)
        except BaseException:
            self.close()
            raise

    def _open(self) -> Any:
        if self._env is not None:
            self._env.close()
        self._opened += 1
        check_regular(self._data)
        try:
            return self._lmdb.open(
                str(self._data), subdir=False, readonly=True, lock=False, readahead=False, max_readers=1
            )
        except self._lmdb.Error as error:
            self._env = None
            raise DataError(f"{self._data} is damaged, or no LMDB ({reason(error)}); download it again") from error

    def count(self) -> int:
        return int(self._env.stat()["entries"])

    def scan(self, wanted: Callable[[int], bool]) -> Iterator[Item | None]:
        number, key = 0, b""
        while True:
            opened, passed = self._opened, 0
            with self._env.begin(buffers=True) as transaction, transaction.cursor() as cursor:
                there = cursor.set_range(key) if key else cursor.first()
                if there and key and cursor.key() == key:  # where it stopped
                    there = cursor.next()
                while there:
                    key, value = bytes(cursor.key()), cursor.value()
                    passed += len(value)
                    name = key.decode("utf-8", "backslashreplace")
                    yield self._item(number, name, partial(_copied, value)) if wanted(number) else None
                    number += 1
                    if self._opened != opened or passed > _MAPPED:
                        break
                    there = cursor.next()
                else:
                    return
            if self._opened == opened:
                # This lets go of the pages that were read, which would all count as this process's memory.
                self._env = self._open()

    def _state(self) -> str:
        return file_state(self._data if self._unpacked is None else self.path)

    def close(self) -> None:
        if self._env is not None:
            self._env.close()
            self._env = None
        if self._unpacked is not None:
            self._unpacked.remove()
            self._unpacked = None


def _copied(value: memoryview) -> bytes:
    if len(value) > MAX_FILE_BYTES:
        raise ValueError(too_large(len(value)))
    return bytes(value)


class Unpacked:
    """The ``data.mdb`` of a zip, unpacked beside it. One that a stopped process left whole is taken as it is."""

    def __init__(self, archive: Path, member: str) -> None:
        """
        Raises:
            DataError: the zip is damaged or protected, or another process is unpacking it.
            OutputError: there is not enough space beside it.
        """
        from filelock import FileLock, Timeout

        self.folder = archive.with_name(f".{archive.name}.unpacked")
        self.data = self.folder / DATA
        self._lock = FileLock(archive.with_name(f".{archive.name}.unpacked.lock"))
        try:
            self._lock.acquire(blocking=False)
            try:
                self._unpack(archive, member)
            except BaseException:
                self.remove()
                raise
        except Timeout as error:
            raise DataError(f"{archive} is being unpacked by another process; wait until it is done") from error
        except OSError as error:
            raise OutputError(
                f"{archive} cannot be unpacked in its folder: {advice(error)}. Or unpack it yourself and give the "
                "folder"
            ) from error

    def remove(self) -> None:
        """Remove what was unpacked."""
        remove(self.folder, warn=quietly)
        self._lock.release()
        remove(Path(self._lock.lock_file), warn=quietly)  # another process may have taken it meanwhile

    def _unpack(self, archive: Path, member: str) -> None:
        stamp = self.folder / "unpacked.json"
        wanted = {"archive": file_state(archive), "member": member}
        with contextlib.suppress(DataError):  # a damaged stamp: unpack anew
            if stamp.is_file() and self.data.is_file() and read_json(stamp) == wanted:
                return
        remove(self.folder)
        with open_zip(archive) as opened:
            info = checked_member(opened, archive, member)
            free = shutil.disk_usage(archive.parent).free
            if free < info.file_size + _SPARE:
                raise OutputError(
                    f"{archive} needs {info.file_size / 1e9:.1f} GB in its folder to be unpacked, {free / 1e9:.1f} GB "
                    f"are free; make room, or unpack it elsewhere and give the folder"
                )
            self.folder.mkdir()
            written = 0
            try:
                with opened.open(info) as packed, self.data.open("wb") as out:
                    while piece := packed.read(_PIECE):
                        written += len(piece)
                        if written > info.file_size:
                            raise zipfile.BadZipFile("more in it than it says")
                        out.write(piece)
            except OSError:
                raise
            except READ_ERRORS as error:
                raise DataError(f"{archive}: {member} is damaged ({reason(error)}); download it again") from error
        write_json(stamp, wanted)
