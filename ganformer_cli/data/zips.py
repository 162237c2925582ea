"""Reads zips: those of a few files with Python's ``zipfile``, those of images through an index.

``zipfile`` takes half a kilobyte of memory for each file, and the zips of a data set may hold millions of images. Of an
index's file about sixty bytes are kept. Nothing is ever unpacked to disk, so the names in a zip can do no harm.
"""

from __future__ import annotations

import bisect
import bz2
import hashlib
import lzma
import os
import re
import struct
import threading
import zipfile
import zlib
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from ganformer_cli.data.file_kinds import START, is_hidden
from ganformer_cli.data.limits import MAX_FILE_BYTES, MAX_WINDOW_BYTES, bomb_text, is_bomb, too_large
from ganformer_cli.errors import DataError
from ganformer_cli.files import open_regular

DAMAGED_IN_ZIP = "damaged in the zip: "  # how an error begins
PASSWORD = "password-protected"
MAX_DIRECTORY_BYTES = 16 << 20  # out of each of which ``zipfile`` makes up to twenty in memory
MAX_OPEN = 16  # files of a pool: a data set may have hundreds of zips, and systems allow each process so many

ZIP_ENTRY = np.dtype([("offset", "<u8"), ("packed", "<u8"), ("size", "<u8"), ("crc", "<u4"), ("method", "<u2"),
                  ("flags", "<u2")])  # fmt: skip

ZipEntry = tuple[int, int, int, int, int, int]
_PACKED_ENTRY = struct.Struct("<3QL2H")  # the same
END = struct.Struct("<4s4H2LH")  # end of the directory
END64 = struct.Struct("<4sQ2H2L4Q")
LOCATOR64 = struct.Struct("<4sLQL")
CENTRAL = struct.Struct("<4s6H3L5H2L")  # one file in the directory
LOCAL = struct.Struct("<4s5H3L2H")  # before one file's data
_MAX_CENTRAL = CENTRAL.size + 3 * 0xFFFF
_BLOCK = 1 << 20
_WIDE = 0xFFFFFFFF  # a number that is too large for its field
_UTF8, _ENCRYPTED = 0x800, 0x1


class FilePool:
    """Keeps a few files open for reading, for all threads of a process.

    Can be sent to another process, or be inherited by it: each opens them again, because a file position must not be
    shared.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._streams: dict[Path, IO[bytes]] = {}
        self._process = 0

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        FilePool.__init__(self)

    def read_entry(self, path: Path, offset: int, size: int) -> bytes:
        """Data of the zip entry whose header lies at ``offset``, as it is packed: at most ``size`` bytes.

        Raises:
            OSError, ValueError: it cannot be read.
        """
        with self._lock:
            if self._process != os.getpid():
                self._streams, self._process = {}, os.getpid()
            stream = self._streams.pop(path, None) or open_regular(path)
            self._streams[path] = stream  # the one used last stands at the end
            if len(self._streams) > MAX_OPEN:
                self._streams.pop(next(iter(self._streams))).close()
            stream.seek(min(offset, 1 << 62))  # the largest that every system takes
            header = stream.read(LOCAL.size)
            if len(header) < LOCAL.size or not header.startswith(b"PK\3\4"):
                raise ValueError(f"{DAMAGED_IN_ZIP}it is not where the directory says")
            *_, name_length, extra_length = LOCAL.unpack(header)
            stream.seek(name_length + extra_length, os.SEEK_CUR)
            return stream.read(size)

    def close(self) -> None:
        """Close the files; they are opened again when they are needed."""
        with self._lock:
            for stream in self._streams.values():
                stream.close()
            self._streams = {}


class ZipIndex:
    """The files of a zip, hidden ones and folders left out, in the order of their names.

    Two may share a name: they follow one another as they lie in the zip. Safe for threads, and to send to a process.

    Attributes:
        entries: of dtype :data:`ZIP_ENTRY` [N]; where each file lies, and how it is packed.
        fingerprint: sha256 of the directory: names, sizes and checksums of the files.
    """

    def __init__(self, path: Path) -> None:
        """
        Raises:
            OSError: it cannot be read.
            zipfile.BadZipFile: it is no zip, or damaged.
        """
        self.path = path
        self._files = FilePool()
        try:
            with open_regular(path) as stream:
                self._read_directory(stream)
        except (struct.error, EOFError) as error:
            raise zipfile.BadZipFile("its directory is damaged") from error

    def close(self) -> None:
        """Close the file; it is opened again when it is needed."""
        self._files.close()

    def __len__(self) -> int:
        return len(self.entries)

    def name(self, number: int) -> str:
        """The name of file ``number``, as it stands in the zip."""
        row = int(self._order[number])
        return self._names[self._ends[row] : self._ends[row + 1]].decode("utf-8", "surrogatepass")

    def names(self) -> Iterator[str]:
        return map(self.name, range(len(self)))

    def find(self, name: str) -> int | None:
        """The number of the last file called ``name``; None where there is none."""
        after = bisect.bisect_right(range(len(self)), name, key=self.name)
        return after - 1 if after and self.name(after - 1) == name else None

    def is_encrypted(self, number: int) -> bool:
        return bool(self.entries[number]["flags"] & _ENCRYPTED)

    def read(self, number: int, most: int = MAX_FILE_BYTES) -> bytes:
        """File ``number``; see :func:`read_entry`."""
        return read_zip_entry(self._files, self.path, self.entries[number].item(), most)

    def start(self, number: int) -> bytes:
        """The first :data:`START` bytes of file ``number``; none where it cannot be read."""
        try:
            return _unpacked(self._files, self.path, self.entries[number].item(), START)[:START]
        except (OSError, ValueError):
            return b""

    def _read_directory(self, stream: IO[bytes]) -> None:
        start, length, shift = _find_directory(stream)
        digest = hashlib.sha256()
        names, self._ends, rows = bytearray(), array("Q", [0]), bytearray()
        in_order, before = True, (b"", -1)
        for buffer, at in _directory(stream, start, length):
            (sign, _, _, flags, method, _, _, crc, packed, size, name_length, extra_length, comment_length, *_,
             offset) = CENTRAL.unpack_from(buffer, at)  # fmt: skip
            behind = at + CENTRAL.size + name_length
            end = behind + extra_length + comment_length
            if sign != b"PK\1\2" or end > len(buffer):
                raise zipfile.BadZipFile("its directory is damaged")
            digest.update(buffer[at:end])
            raw = buffer[at + CENTRAL.size : behind]
            if not raw.isascii():
                text = raw.decode("utf-8" if flags & _UTF8 else "cp437", "surrogateescape")
                raw = text.encode("utf-8", "surrogatepass")
            if raw.endswith(b"/") or is_hidden(raw.decode("utf-8", "surrogatepass")):
                continue
            if _WIDE in (size, packed, offset):
                size, packed, offset = _zip64(buffer[behind : behind + extra_length], size, packed, offset)
            in_order, before = in_order and before < (raw, offset), (raw, offset)
            names += raw
            self._ends.append(len(names))
            rows += _PACKED_ENTRY.pack(offset + shift, packed, size, crc, method, flags)
        self._names = bytes(names)
        self.fingerprint = digest.hexdigest()
        self.entries: npt.NDArray[Any] = np.frombuffer(bytes(rows), ZIP_ENTRY)
        self._order: npt.NDArray[np.int64] = np.arange(len(self.entries))
        if not in_order:  # UTF-8 sorts as the text does
            as_they_lie = np.argsort(self.entries["offset"], kind="stable").tolist()
            ends = self._ends
            self._order = np.array(sorted(as_they_lie, key=lambda row: self._names[ends[row] : ends[row + 1]]))
            self.entries = self.entries[self._order]


def read_zip_entry(files: FilePool, path: Path, entry: ZipEntry, most: int = MAX_FILE_BYTES) -> bytes:
    """A file of the zip ``path``.

    Args:
        entry: a row of dtype :data:`ZIP_ENTRY`.
        most: bytes that it may have.

    Raises:
        OSError, ValueError: it cannot be read, or is too large.
    """
    _, packed, size, crc, *_ = entry
    if max(size, packed) > most:
        raise ValueError(too_large(max(size, packed)))
    if is_bomb(size, packed):
        raise ValueError(bomb_text(size, packed))
    data = _unpacked(files, path, entry, None)
    if len(data) != size or zlib.crc32(data) != crc:
        raise ValueError(f"{DAMAGED_IN_ZIP}its checksum is wrong")
    return data


def _unpacked(files: FilePool, path: Path, entry: ZipEntry, most: int | None) -> bytes:
    """At most one byte more than ``most``, or than the entry says."""
    offset, packed, size, _, method, flags = entry
    if flags & _ENCRYPTED:
        raise ValueError(PASSWORD)
    data = files.read_entry(path, offset, packed if most is None else min(packed, 4 * most))
    if method == zipfile.ZIP_STORED:
        return data
    limit = 1 + (size if most is None else most)
    try:
        if method == zipfile.ZIP_DEFLATED:
            return zlib.decompressobj(-15).decompress(data, limit)
        if method == zipfile.ZIP_BZIP2:
            return bz2.BZ2Decompressor().decompress(data, limit)
        if method == zipfile.ZIP_LZMA:
            properties, span = divmod(data[4], 9), int.from_bytes(data[5:9], "little")
            if span > MAX_WINDOW_BYTES:  # it is memory
                raise ValueError(f"packed with a dictionary of {span >> 20} MiB, which is not read")
            options = {"lc": properties[1], "lp": properties[0] % 5, "pb": properties[0] // 5, "dict_size": span}
            unpacker = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA1, **options}])
            return unpacker.decompress(data[9:], limit)
    except (zlib.error, lzma.LZMAError, OSError, EOFError, IndexError) as error:
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{DAMAGED_IN_ZIP}{why}") from error
    raise ValueError(f"packed by method {method}, which is not read")


# ---- The directory at a zip's end ------------------------------------------------------------------------------------


def _find_directory(stream: IO[bytes]) -> tuple[int, int, int]:
    """Where the directory starts, its length, and how far all places in the file are shifted."""
    tail_start = max(0, stream.seek(0, os.SEEK_END) - END.size - 0xFFFF)
    stream.seek(tail_start)
    tail = stream.read()
    ends = [found.start() for found in re.finditer(b"PK\5\6", tail) if found.start() + END.size <= len(tail)]
    if not ends:
        raise zipfile.BadZipFile("its directory at the end is missing")
    # A comment stands behind it, in which the same four bytes may be: the right one knows the comment's length.
    exact = (at for at in ends if at + END.size + END.unpack_from(tail, at)[-1] == len(tail))
    found = next(exact, ends[-1])
    _, disk, _, _, _, length, offset, _ = END.unpack_from(tail, found)
    end = tail_start + found
    if disk not in (0, 0xFFFF):
        raise zipfile.BadZipFile("it is one of several parts")
    if end >= LOCATOR64.size:  # the large kind has a second end before this one
        stream.seek(end - LOCATOR64.size)
        sign, _, at, _ = LOCATOR64.unpack(stream.read(LOCATOR64.size))
        if sign == b"PK\6\7":
            end -= LOCATOR64.size + END64.size  # its usual place; `at` is wrong where something stands before
            for place in (end, at):
                stream.seek(max(0, place))
                end64 = END64.unpack(stream.read(END64.size))
                if end64[0] == b"PK\6\6":
                    end, length, offset = place, end64[-2], end64[-1]
                    break
            else:
                raise zipfile.BadZipFile("its directory is damaged")
    shift = end - length - offset  # of a zip behind something else, as in a program that unpacks itself
    if shift < 0:
        raise zipfile.BadZipFile("it is cut short, or damaged")
    return offset + shift, length, shift


def _directory(stream: IO[bytes], start: int, length: int) -> Iterator[tuple[bytes, int]]:
    """A part of the directory and a place in it, for each file: there the file's description begins."""
    stream.seek(start)
    buffer, at = b"", 0
    while length or at < len(buffer):
        if length and len(buffer) - at < _MAX_CENTRAL:
            block = stream.read(min(length, _BLOCK))
            if not block:
                raise EOFError
            buffer, at, length = buffer[at:] + block, 0, length - len(block)
            continue
        yield buffer, at
        at += CENTRAL.size + sum(struct.unpack_from("<3H", buffer, at + 28))


def _zip64(extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int]:
    """The three numbers, those that were too large for their fields taken from the extra field."""
    values = [size, packed, offset]
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<HH", extra)
        if kind == 1:
            wide = [i for i, value in enumerate(values) if value == _WIDE]
            for place, i in enumerate(wide):
                values[i] = struct.unpack_from("<Q", extra, 4 + 8 * place)[0]
            break
        extra = extra[4 + length :]
    return values[0], values[1], values[2]


# ---- Zips of a few files ---------------------------------------------------------------------------------------------


def open_zip(path: Path) -> zipfile.ZipFile:
    """A zip, by Python's own reader.

    Raises:
        OSError, zipfile.BadZipFile: it cannot be read.
        DataError: it lists more files than that reader has room for.
    """
    with open_regular(path) as stream:
        try:
            length = _find_directory(stream)[1]
        except struct.error as error:
            raise zipfile.BadZipFile("its directory is damaged") from error
    if length > MAX_DIRECTORY_BYTES:
        raise DataError(
            f"{path} lists too many files to be read as it is (a directory of {length >> 20} MiB); unpack it, and give "
            "the folder"
        )
    return zipfile.ZipFile(path)


def checked_member(opened: zipfile.ZipFile, path: Path, name: str) -> zipfile.ZipInfo:
    """The entry ``name`` of the zip ``path``.

    Raises:
        DataError: it is password-protected, or a decompression bomb.
    """
    info = opened.getinfo(name)
    if info.flag_bits & _ENCRYPTED:
        raise DataError(f"{path}: {name} is {PASSWORD}; unpack it with its password, and give the folder")
    if is_bomb(info.file_size, info.compress_size):
        raise DataError(f"{path}: {name} is {bomb_text(info.file_size, info.compress_size)}; download it again")
    return info
