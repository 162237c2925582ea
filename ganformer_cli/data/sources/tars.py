"""A tar of images, plain or compressed, read from its beginning to its end."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import importlib
import io
import lzma
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from ganformer_cli.data.file_kinds import START, FileKind, ImageSelection, is_hidden
from ganformer_cli.data.found_files import FoundFiles
from ganformer_cli.data.limits import (
    BOMB_BYTES,
    MAX_FILE_BYTES,
    MAX_WINDOW_BYTES,
    bomb_text,
    is_archive_bomb,
    is_bomb,
    too_large,
)
from ganformer_cli.data.manifest import DATASET_JSON
from ganformer_cli.data.sources.base import (
    DAMAGED,
    BrokenArchiveError,
    Item,
    StreamedSource,
    import_library,
    reason,
)
from ganformer_cli.data.sources.labels import choose_labels, dataset_json
from ganformer_cli.files import open_regular

_BLOCK = 512
_MAX_HEADER = 1 << 20  # of a name; more is damage
_MAX_LENGTH_DIGITS = 20  # letters of the length of a record of an extended header
_PIECE = 1 << 20
_READ_AHEAD = 1 << 18  # bytes that decompressing may have read of what comes before
_DATA_TYPES = {tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE, tarfile.GNUTYPE_SPARSE}
_LINKS = {tarfile.LNKTYPE, tarfile.SYMTYPE}


@dataclass(frozen=True)
class Member:
    """One entry of a tar."""

    name: str  # without "./" before it
    size: int
    problem: str  # why it holds no file that could be read; "" if it does

    @property
    def fault(self) -> str:
        """The same, or that the file is too large."""
        return self.problem or (too_large(self.size) if self.size > MAX_FILE_BYTES else "")


class TarReader:
    """The entries of a tar, one after another.

    Python's own reader takes damage in the middle for the end of the archive; this one says so.
    """

    def __init__(self, path: Path) -> None:
        self._stream, self._raw = _open(path)
        self.is_compressed = self._raw is not None
        self._unpacked = 0  # bytes
        self._end = None if self.is_compressed else path.stat().st_size
        self._left = 0  # bytes of the present file that were not read yet
        self._padding = 0  # bytes behind it
        self._fault = ""  # why it cannot be read
        self._peeked = b""  # bytes of it that were read ahead

    def close(self) -> None:
        self._stream.close()
        if self._raw is not None:
            self._raw.close()

    def __enter__(self) -> TarReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Member]:
        """Each file or link; see :meth:`next`."""
        return iter(self.next, None)

    def next(self) -> Member | None:
        """The next file or link; None at the end.

        Raises:
            BrokenArchiveError: the archive is damaged or cut short.
        """
        self._skip()
        name, attributes = "", {}
        while True:
            block = self._read(_BLOCK, inside=False)
            if not block.strip(b"\0"):
                return None
            try:
                info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            except tarfile.HeaderError as error:
                raise BrokenArchiveError(f"no entry where one should be ({reason(error)})", inside=False) from error
            if info.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
                attributes = _attributes(self._header(info.size))
            elif info.type == tarfile.GNUTYPE_LONGNAME:
                name = self._header(info.size).rstrip(b"\0").decode("utf-8", "surrogateescape")
            elif info.type in (tarfile.GNUTYPE_LONGLINK, tarfile.XGLTYPE):
                self._header(info.size)
            else:
                member = self._member(info, name, attributes, block)
                if member is not None:
                    self._fault = member.fault
                    return member
                name, attributes = "", {}

    def read(self) -> bytes:
        """The file that :meth:`next` gave.

        Raises:
            BrokenArchiveError: it is damaged or cut short.
            ValueError: there is none, or it is too large.
        """
        if self._fault:
            raise ValueError(self._fault)
        if self._end is not None and self._stream.tell() + self._left > self._end:
            raise BrokenArchiveError("it is cut short", inside=True)
        data = self._peeked + (self._read(self._left, inside=True) if self._raw is None else self._read_compressed())
        self._left, self._peeked = 0, b""
        return data

    def _read_compressed(self) -> bytes:
        """The rest of the present file, piece by piece: what is made to fill memory is found out on the way."""
        pieces, before, size = [], self._packed(), 0
        while size < self._left:
            pieces.append(self._read(min(self._left - size, BOMB_BYTES // 4), inside=True))
            size += len(pieces[-1])
            packed = self._packed() - before + _READ_AHEAD
            if is_bomb(size, packed):
                raise BrokenArchiveError(bomb_text(size, packed), inside=True)
        return b"".join(pieces)

    def _packed(self) -> int:
        """Bytes of the compressed file that were read."""
        return 0 if self._raw is None else self._raw.tell()

    def peek(self, size: int) -> bytes:
        """The first bytes of the file that :meth:`next` gave, at most ``size``; :meth:`read` still gives them all.

        Raises:
            BrokenArchiveError: it is damaged or cut short.
        """
        if not self._peeked:
            self._peeked = self._read(min(size, self._left), inside=True)
            self._left -= len(self._peeked)
        return self._peeked[:size]

    def starts_with_entry(self) -> bool:
        """Whether an entry comes next; asked before the first one is read."""
        try:
            block = self._read(_BLOCK, inside=False)
            if block.strip(b"\0"):  # else it is a tar with nothing in it
                tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (BrokenArchiveError, tarfile.HeaderError):
            return False
        return True

    def _member(self, info: tarfile.TarInfo, name: str, attributes: dict[str, str], block: bytes) -> Member | None:
        name = attributes.get("path") or name or info.name
        size = int(attributes["size"]) if attributes.get("size", "").isdecimal() else info.size
        if size < 0:
            raise BrokenArchiveError("an entry of negative size", inside=False)
        sparse = info.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse") for key in attributes)
        if info.type == tarfile.GNUTYPE_SPARSE:
            more = block[482]
            while more:
                more = self._read(_BLOCK, inside=False)[504]
        if info.type not in _DATA_TYPES and info.type in tarfile.SUPPORTED_TYPES:
            size = 0  # a folder or link has no data, whatever it says
        self._left, self._padding = size, -size % _BLOCK
        if info.type not in _DATA_TYPES | _LINKS:
            self._skip()
            return None
        while name.startswith("./"):
            name = name[2:]
        problem = "a link inside the archive" if info.type in _LINKS else "a sparse file" if sparse else ""
        return Member(name, size, problem)

    def _header(self, size: int) -> bytes:
        if not 0 <= size <= _MAX_HEADER:
            raise BrokenArchiveError(f"a name of {size} bytes", inside=False)
        return self._read(size + -size % _BLOCK, inside=False)[:size]

    def _skip(self) -> None:
        """Go behind the present file."""
        if self._end is not None:
            place = self._stream.tell() + self._left
            if place > self._end:
                raise BrokenArchiveError("it is cut short", inside=True)
            self._stream.seek(min(place + self._padding, self._end))
        else:
            while self._left:
                self._left -= len(self._read(min(self._left, _PIECE), inside=True))
            self._read(self._padding, inside=False)
        self._left = self._padding = 0
        self._peeked = b""

    def _read(self, size: int, *, inside: bool) -> bytes:
        try:
            data = self._stream.read(size)
        except Exception as error:  # each kind of compression has errors of its own
            if isinstance(error, MemoryError):
                raise
            raise BrokenArchiveError(reason(error), inside=inside) from error
        if len(data) < size:
            raise BrokenArchiveError("it is cut short", inside=inside)
        self._unpacked += size
        if self._raw is not None and is_archive_bomb(self._unpacked, self._packed()):
            raise BrokenArchiveError(bomb_text(self._unpacked, self._packed()), inside=inside)
        return data


class TarSource(StreamedSource):
    """Every image in a tar, in the order in which they lie."""

    format = "tar"

    def __init__(self, path: Path, selection: ImageSelection, labels: str | None) -> None:
        self.path = path
        self._selection = selection
        self._dataset_jsons: dict[str, bytes] = {}
        found = self._look_through()
        self.labels = choose_labels(
            labels, path, own=lambda: dataset_json(found, path, self._dataset_jsons.get), names=self._names,
            count=self.count,
        )  # fmt: skip
        self._dataset_jsons.clear()
        self._others, self._unread = found.others, found.unread

    def _look_through(self) -> FoundFiles:
        """Count the images, and keep what may be labels, in one pass."""
        count, found = 0, FoundFiles(self._selection)
        with TarReader(self.path) as reader:
            self.passing_is_cheap = not reader.is_compressed
            try:
                inside = False  # an image
                for member in reader:
                    kind = self._kind(reader, member)
                    inside = kind is FileKind.IMAGE
                    count += inside
                    if inside:
                        found.add_image(member.name)
                    elif not is_hidden(member.name):
                        found.add_other(member.name, kind, may_be_labels=self._keep_labels(member, reader))
            except BrokenArchiveError as error:
                count += not (error.inside and inside)
        self._count = count
        return found

    def _keep_labels(self, member: Member, reader: TarReader) -> bool:
        """Keep a ``dataset.json``; of those in folders, a few that are not too large together."""
        if member.name.rpartition("/")[2] != DATASET_JSON or member.fault:
            return False
        kept = sum(map(len, self._dataset_jsons.values()))
        if member.name != DATASET_JSON and kept + member.size > MAX_FILE_BYTES // 4:
            return False
        self._dataset_jsons[member.name] = reader.read()
        return True

    def _kind(self, reader: TarReader, member: Member) -> FileKind:
        if is_hidden(member.name):
            return FileKind.COMPANION
        return self._selection.kind(member.name, lambda: b"" if member.problem else reader.peek(START))

    def _names(self) -> Iterator[str]:
        with TarReader(self.path) as reader, contextlib.suppress(BrokenArchiveError):
            for member in reader:
                if self._kind(reader, member) is FileKind.IMAGE:
                    yield member.name

    def scan(self, wanted: Callable[[int], bool]) -> Iterator[Item | None]:
        number = 0
        inside = False
        with TarReader(self.path) as reader:
            try:
                for member in reader:
                    inside = self._kind(reader, member) is FileKind.IMAGE
                    if not inside:
                        continue
                    item = self._item(number, member.name, reader.read) if wanted(number) else None
                    yield item
                    if item is not None and item.error.startswith(DAMAGED):
                        return
                    number += 1
            except BrokenArchiveError as error:
                if not (error.inside and inside):
                    item = Item(f"image {number}", None, None, f"{DAMAGED}: {error}")
                    yield item if wanted(number) else None


def is_tar(path: Path) -> bool:
    """Whether a file starts as a tar does, compressed or not.

    Raises:
        OSError: it cannot be opened.
        DataError: it is compressed in a way that needs a library.
    """
    with TarReader(path) as reader:
        return reader.starts_with_entry()


def _open(path: Path) -> tuple[IO[bytes], IO[bytes] | None]:
    """The bytes of a tar, and where they are compressed, the file itself."""
    raw = open_regular(path)
    try:
        start = raw.read(8)
        raw.seek(0)
        opener = next((opener for magic, opener in COMPRESSED.items() if start.startswith(magic)), None)
        return (raw, None) if opener is None else (opener(raw, path), raw)
    except BaseException:
        raw.close()
        raise


class _XzReader(io.RawIOBase):
    """An xz file, which may be several behind one another. Python's own reader knows no limit of memory."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self._decompressor: lzma.LZMADecompressor | None = None
        self._rest = b""  # of what was read, not yet given to the decompressor

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            if self._decompressor is None or self._decompressor.eof:
                rest = self._decompressor.unused_data if self._decompressor is not None else b""
                rest = rest.lstrip(b"\0") or self._raw.read(_PIECE).lstrip(b"\0")  # padding may stand between
                if not rest:
                    return 0
                self._decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_WINDOW_BYTES)
                self._rest = rest
            if self._decompressor.needs_input and not self._rest:
                self._rest = self._raw.read(_PIECE)
                if not self._rest:
                    raise EOFError("it is cut short")
            data = self._decompressor.decompress(self._rest, len(buffer))
            self._rest = b""
            if data:
                buffer[: len(data)] = data
                return len(data)


def _open_zst(raw: IO[bytes], path: Path) -> IO[bytes]:
    try:  # Python 3.14 and newer
        zstd: Any = importlib.import_module("compression.zstd")
        options = {zstd.DecompressionParameter.window_log_max: MAX_WINDOW_BYTES.bit_length() - 1}
        own: Any = zstd.ZstdFile(raw, "rb", options=options)
    except ImportError:
        unpacker = import_library("zstandard", path, "zstandard").ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
        own = unpacker.stream_reader(raw, read_across_frames=True)
    return io.BufferedReader(own)


# How a compressed tar begins, and what unpacks it.
COMPRESSED: dict[bytes, Callable[[IO[bytes], Path], IO[bytes]]] = {
    b"\x1f\x8b": lambda raw, path: cast(IO[bytes], gzip.GzipFile(fileobj=raw)),
    b"BZh": lambda raw, path: bz2.BZ2File(raw),
    b"\xfd7zXZ\x00": lambda raw, path: io.BufferedReader(_XzReader(raw)),
    b"\x28\xb5\x2f\xfd": _open_zst,
}


def _attributes(data: bytes) -> dict[str, str]:
    """The records of an extended header: ``length key=value``."""
    found = {}
    place = 0
    while place < len(data):
        length, _, _ = data[place : place + _MAX_LENGTH_DIGITS].partition(b" ")
        if not length.isdigit() or not len(length) < int(length) <= len(data) - place:
            raise BrokenArchiveError("an extended header is damaged", inside=False)
        key, _, value = data[place + len(length) + 1 : place + int(length)].rstrip(b"\n").partition(b"=")
        found[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        place += int(length)
    return found
