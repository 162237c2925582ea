"""Zips of stored images that can be written on after an interruption, and the journal that says how far they are.

The zip is written here, not by ``zipfile``, because that keeps half a kilobyte of memory for each entry and cannot go
on behind a zip whose directory is not written yet. Entries are stored, dated 1980-01-01, and hold nothing that differs
from system to system. Larger zips than 4 GiB and 65,535 entries have the usual extensions (zip64).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
import zlib
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ganformer_cli.data.manifest import DATASET_JSON, image_name
from ganformer_cli.data.zips import CENTRAL, END, END64, LOCAL, LOCATOR64
from ganformer_cli.files import open_regular

_EXTRA = struct.Struct("<2HQ")  # where an entry lies, if that is too far for the usual field
_DATE = (1 << 5) | 1  # 1980-01-01
_PLAIN, _ZIP64 = 20, 45  # versions of the format
_MODE = 0o644 << 16
_MANY32, _MANY16 = 0xFFFFFFFF, 0xFFFF
_BLOCK = 1 << 20


class _AppendedFile:
    """A file that is written on from where it was."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stream: IO[bytes] | None = None

    def sync(self) -> None:
        """Flush everything to the disk."""
        if self._stream is not None:
            self._stream.flush()
            os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Close the file as it is."""
        if self._stream is not None:
            # Closing writes what is still in memory. On a full disk that fails as the write before it did, and what
            # was committed is on the disk all the same.
            with contextlib.suppress(OSError):
                self._stream.close()
            self._stream = None

    def _write(self, data: bytes) -> None:
        if self._stream is None:
            raise ValueError(f"{self.path} is not open")
        self._stream.write(data)


class ShardWriter(_AppendedFile):
    """Writes one zip: images numbered from ``first``, then ``dataset.json``, then the directory.

    What was committed before an interruption is counted by :meth:`count_existing`; :meth:`open` then cuts off what
    follows it.
    """

    def __init__(self, path: Path, first: int) -> None:
        super().__init__(path)
        self.offset = 0  # bytes so far
        self._first = first
        self._sizes = array("Q")
        self._checks = array("I")
        self._digest = hashlib.sha256()

    @property
    def count(self) -> int:
        """Images so far."""
        return len(self._sizes)

    def count_existing(self, size: int, crc: int) -> None:
        """Count an image of ``size`` bytes that is in the file already."""
        name = image_name(self._first + self.count)
        self.offset += LOCAL.size + len(name) + size
        self._sizes.append(size)
        self._checks.append(crc)

    def open(self) -> None:
        """Open the file to append to what was counted.

        Raises:
            OSError: it cannot be opened.
            EOFError: it is shorter than that.
        """
        stream = self.path.open("r+b" if self.offset else "wb")
        self._stream = stream
        left = self.offset
        while left:
            block = stream.read(min(left, _BLOCK))
            if not block:
                raise EOFError
            self._digest.update(block)
            left -= len(block)
        stream.seek(self.offset)
        stream.truncate()

    def add(self, png: bytes, crc: int) -> None:
        """Write the next image."""
        self._write(_local(image_name(self._first + self.count), len(png), crc) + png)
        self._sizes.append(len(png))
        self._checks.append(crc)

    def finish(self, labels_json: bytes) -> dict[str, Any]:
        """Write ``dataset.json`` and the directory, and close; what the manifest says of the zip."""
        crc = zlib.crc32(labels_json)
        at = self.offset
        self._write(_local(DATASET_JSON, len(labels_json), crc) + labels_json)
        start, offset, block = self.offset, 0, bytearray()
        for number, (size, check) in enumerate(zip(self._sizes, self._checks, strict=True), self._first):
            name = image_name(number)
            block += _central(name, size, check, offset)
            offset += LOCAL.size + len(name) + size
            if len(block) > _BLOCK:
                self._write(bytes(block))
                block.clear()
        self._write(bytes(block) + _central(DATASET_JSON, len(labels_json), crc, at))
        self._write(_end(self.count + 1, start, self.offset))
        self.sync()
        self.close()
        return {
            "file": self.path.name, "count": self.count, "bytes": self.offset, "sha256": self._digest.hexdigest(),
        }  # fmt: skip

    def _write(self, data: bytes) -> None:
        super()._write(data)
        self._digest.update(data)
        self.offset += len(data)


class Journal(_AppendedFile):
    """Lines of JSON, each with its checksum: what is done and on the disk.

    A line that is cut short or damaged ends it: that line and all behind it count for nothing.
    """

    def lines(self) -> Iterator[tuple[dict[str, Any], int]]:
        """Each valid line, and where it ends; one at a time."""
        if not self.path.is_file():
            return
        end = 0
        with open_regular(self.path) as stream:
            for line in stream:
                mark, _, text = line.rstrip(b"\n").partition(b" ")
                if not line.endswith(b"\n") or mark != _mark(text):
                    return
                end += len(line)
                yield json.loads(text), end

    def open(self, end: int) -> None:
        """Open it to append after byte ``end``."""
        self._stream = self.path.open("r+b" if end else "wb")
        self._stream.seek(end)
        self._stream.truncate()

    def append(self, entry: dict[str, Any]) -> None:
        """Write a line and flush it to the disk."""
        text = json.dumps(entry, separators=(",", ":")).encode()
        self._write(_mark(text) + b" " + text + b"\n")
        self.sync()


def _mark(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest()[:16].encode()


def _local(name: str, size: int, crc: int) -> bytes:
    return LOCAL.pack(b"PK\3\4", _PLAIN, 0, 0, 0, _DATE, crc, size, size, len(name), 0) + name.encode()


def _central(name: str, size: int, crc: int, offset: int) -> bytes:
    far = offset >= _MANY32
    version = _ZIP64 if far else _PLAIN
    extra = _EXTRA.pack(1, 8, offset) if far else b""
    head = CENTRAL.pack(
        b"PK\1\2", (3 << 8) | version, version, 0, 0, 0, _DATE, crc, size, size, len(name), len(extra), 0, 0, 0,
        _MODE, min(offset, _MANY32),
    )  # fmt: skip
    return head + name.encode() + extra


def _end(count: int, start: int, end: int) -> bytes:
    """The end of a zip whose directory of ``count`` entries lies from byte ``start`` to byte ``end``."""
    record = b""
    if count >= _MANY16 or max(start, end - start) >= _MANY32:
        version = (3 << 8) | _ZIP64
        record = END64.pack(b"PK\6\6", END64.size - 12, version, _ZIP64, 0, 0, count, count, end - start, start)
        record += LOCATOR64.pack(b"PK\6\7", 0, end, 1)
    few, size, at = min(count, _MANY16), min(end - start, _MANY32), min(start, _MANY32)
    return record + END.pack(b"PK\5\6", 0, 0, few, few, size, at, 0)
