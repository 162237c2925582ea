"""A zip of pictures. Its directory is kept as a few arrays, because Python's own takes a kilobyte an entry."""

from __future__ import annotations

import bz2
import hashlib
import lzma
import struct
import zipfile
import zlib
from array import array
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from ganformer_cli.data.budgets import LARGEST_FILE, LARGEST_WINDOW, is_bomb, unpacks_to
from ganformer_cli.data.file_kinds import START, Kind, Leftover, Selection
from ganformer_cli.data.labels_finder import LabelsFinder
from ganformer_cli.data.sources.base import (
    DATASET_JSON,
    Item,
    Labels,
    Numbered,
    is_hidden,
    reason,
    shown,
    too_large,
)
from ganformer_cli.data.sources.labels import choose_labels, dataset_json
from ganformer_cli.errors import DataError
from ganformer_cli.files import open_regular

PASSWORD = "password-protected"

_END = struct.Struct("<4s4H2LH")  # end of the directory
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64 = struct.Struct("<4sLQL")
_ENTRY = struct.Struct("<4s6H3L5H2L")  # one file in the directory
_LOCAL = struct.Struct("<4s5H3L2H")  # before one file's data
_UTF8, _ENCRYPTED = 0x800, 0x1


class ZipIndex:
    """The files of a zip, hidden ones and folders left out, in the order of their names.

    Two may share a name: they follow one another as they lie in the zip.
    """

    def __init__(self, path: Path) -> None:
        """
        Raises:
            OSError: it cannot be read.
            zipfile.BadZipFile: it is no zip, or damaged.
        """
        self.path = path
        self._opened: IO[bytes] | None = open_regular(path)
        try:
            self._read_directory()
        except (struct.error, EOFError, IndexError) as error:
            self.close()
            raise zipfile.BadZipFile("its directory is damaged") from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file; it is opened again when it is needed."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    @property
    def _stream(self) -> IO[bytes]:
        if self._opened is None:
            self._opened = open_regular(self.path)
        return self._opened

    def __len__(self) -> int:
        return len(self._order)

    def name(self, number: int) -> str:
        """The name of file ``number``, as it stands in the zip."""
        return self._name(int(self._order[number]))

    def names(self) -> Iterator[str]:
        return (self._name(row) for row in self._order.tolist())

    def size(self, number: int) -> int:
        """Bytes of file ``number``, as it claims."""
        return self._sizes[int(self._order[number])]

    def is_encrypted(self, number: int) -> bool:
        return bool(self._flags[int(self._order[number])] & _ENCRYPTED)

    def read(self, number: int) -> bytes:
        """File ``number``.

        Raises:
            OSError, ValueError: it cannot be read, or is too large for a picture.
        """
        row = int(self._order[number])
        size, packed, method = self._sizes[row], self._packed[row], self._methods[row]
        if self._flags[row] & _ENCRYPTED:
            raise ValueError(PASSWORD)
        if max(size, packed) > LARGEST_FILE:
            raise ValueError(too_large(max(size, packed)))
        if is_bomb(size, packed):
            raise ValueError(unpacks_to(size, packed))
        self._seek_data(row)
        data = _unpack(self._stream.read(packed), method, size)
        if len(data) != size or zlib.crc32(data) != self._sums[row]:
            raise ValueError("damaged in the zip: its checksum is wrong")
        return data

    def start(self, number: int) -> bytes:
        """The first :data:`START` bytes of file ``number``; none where it cannot be read."""
        row = int(self._order[number])
        if self._flags[row] & _ENCRYPTED:
            return b""
        try:
            self._seek_data(row)
            packed = self._stream.read(min(self._packed[row], 4 * START))
            return _unpack(packed, self._methods[row], START)[:START]
        except (OSError, ValueError):
            return b""

    def fingerprint(self) -> str:
        """sha256 of the directory: names, sizes and checksums of the files."""
        return self._fingerprint

    def _seek_data(self, row: int) -> None:
        """Go to the first byte of a file's data.

        Raises:
            ValueError: there is no file there.
        """
        self._stream.seek(self._offsets[row])
        header = self._stream.read(_LOCAL.size)
        if len(header) < _LOCAL.size or not header.startswith(b"PK\3\4"):
            raise ValueError("damaged in the zip: it is not where the directory says")
        *_, name_length, extra_length = _LOCAL.unpack(header)
        self._stream.seek(name_length + extra_length, 1)

    def _name(self, row: int) -> str:
        return self._blob[self._starts[row] : self._starts[row + 1]].decode("utf-8", "surrogatepass")

    def _read_directory(self) -> None:
        start, length, shift = self._find_directory()
        self._stream.seek(start)
        digest = hashlib.sha256()
        blob, self._starts = bytearray(), array("Q", [0])
        self._offsets, self._packed, self._sizes = array("Q"), array("Q"), array("Q")
        self._sums, self._methods, self._flags = array("I"), array("H"), array("H")
        in_order, before, end = True, (b"", -1), start + length
        while start < end:
            entry = self._exactly(_ENTRY.size)
            sign, _, _, flags, method, _, _, crc, packed, size, name_length, extra_length, comment_length, *_, at = (
                _ENTRY.unpack(entry)
            )
            if sign != b"PK\1\2":
                raise zipfile.BadZipFile("its directory is damaged")
            rest = self._exactly(name_length + extra_length + comment_length)
            digest.update(entry + rest)
            start += len(entry) + len(rest)
            name = rest[:name_length].decode("utf-8" if flags & _UTF8 else "cp437", "surrogateescape")
            if name.endswith("/") or is_hidden(name):
                continue
            extra = rest[name_length : name_length + extra_length]
            size, packed, at = _zip64(extra, size, packed, at)
            raw = name.encode("utf-8", "surrogatepass")
            in_order = in_order and before < (raw, at)
            before = (raw, at)
            blob += raw
            self._starts.append(len(blob))
            for column, value in (
                (self._offsets, at + shift), (self._packed, packed), (self._sizes, size),
                (self._sums, crc), (self._methods, method), (self._flags, flags),
            ):  # fmt: skip
                column.append(value)
        self._blob = blob
        self._fingerprint = digest.hexdigest()
        self._order: npt.NDArray[np.int64] = np.arange(len(self._offsets))
        if not in_order:
            self._order = _sorted_rows(self._blob, self._starts, self._offsets)

    def _find_directory(self) -> tuple[int, int, int]:
        """Where the directory starts, its length, and how far all places in the file are shifted."""
        size = self._stream.seek(0, 2)
        tail_start = max(0, size - _END.size - 0xFFFF)
        self._stream.seek(tail_start)
        tail = self._stream.read()
        ends = [at for at in _all(tail, b"PK\5\6") if at + _END.size <= len(tail)]
        if not ends:
            raise zipfile.BadZipFile("its directory at the end is missing")
        # A comment stands behind it, in which the same four bytes may be: the right one knows the comment's length.
        exact = (at for at in ends if at + _END.size + _END.unpack_from(tail, at)[-1] == len(tail))
        found = next(exact, ends[-1])
        _, disk, _, _, _, length, offset, _ = _END.unpack(tail[found : found + _END.size])
        end = tail_start + found
        if disk not in (0, 0xFFFF):
            raise zipfile.BadZipFile("it is one of several parts")
        if end >= _LOCATOR64.size:  # the large kind has a second end before this one
            self._stream.seek(end - _LOCATOR64.size)
            sign, _, at, _ = _LOCATOR64.unpack(self._exactly(_LOCATOR64.size))
            if sign == b"PK\6\7":
                end -= _LOCATOR64.size + _END64.size  # its usual place; `at` is wrong where something stands before
                for place in (end, at):
                    self._stream.seek(place)
                    end64 = _END64.unpack(self._exactly(_END64.size))
                    if end64[0] == b"PK\6\6":
                        end, length, offset = place, end64[-2], end64[-1]
                        break
                else:
                    raise zipfile.BadZipFile("its directory is damaged")
        shift = end - length - offset  # of a zip behind something else, as in a program that unpacks itself
        if shift < 0:
            raise zipfile.BadZipFile("it is cut short, or damaged")
        return offset + shift, length, shift

    def _exactly(self, size: int) -> bytes:
        data = self._stream.read(size)
        if len(data) < size:
            raise EOFError
        return data


class ZipSource(Numbered):
    """Every picture in a zip. Nothing is ever unpacked to disk, so the names in it can do no harm."""

    form = "zip"

    def __init__(self, index: ZipIndex, selection: Selection, labels: str | None) -> None:
        """
        Raises:
            DataError: all pictures are protected by a password, or the labels cannot be used.
        """
        self.path = index.path
        self._index = index
        images = array("Q")
        self._others = 0
        self._leftover = Leftover()
        self._finder = LabelsFinder()
        jsons: dict[str, int] = {}
        for number, name in enumerate(index.names()):
            if (kind := selection.kind(name, partial(index.start, number))) is Kind.IMAGE:
                images.append(number)
                self._finder.see_image(name)
            else:
                if name.rpartition("/")[2] == DATASET_JSON:
                    self._finder.see_file(name)
                    jsons[name] = number
                self._others += name != DATASET_JSON
                self._leftover.add(name, kind)
        self._dataset_jsons = jsons
        self._numbers = np.frombuffer(images, np.uint64)
        if images and all(index.is_encrypted(number) for number in images):
            raise DataError(f"{self.path} is {PASSWORD}; unpack it with its password, and give the folder")
        self.use(choose_labels(labels, self.path, own=self._own_labels, names=self.names, count=self.count))

    def _own_labels(self) -> Labels | None:
        name, labels = dataset_json(self._finder, self.path, self._read_labels)
        self._others -= name not in (None, DATASET_JSON)
        return labels

    def _read_labels(self, name: str) -> bytes:
        try:
            return self._index.read(self._dataset_jsons[name])
        except (OSError, ValueError) as error:
            raise DataError(f"{self.path}: {name} cannot be read ({reason(error)}); get it again") from error

    def names(self) -> Iterator[str]:
        """The names of the pictures in order, as they stand in the zip."""
        return (self._index.name(int(number)) for number in self._numbers)

    def count(self) -> int:
        return len(self._numbers)

    def others(self) -> int:
        return self._others

    def leftover(self) -> Leftover:
        return self._leftover

    def item(self, number: int) -> Item:
        place = int(self._numbers[number])
        name = self._index.name(place)
        label = self._label(number, name)
        try:
            return Item(shown(name), self._index.read(place), label)
        except (OSError, ValueError) as error:
            return Item(shown(name), None, label, reason(error))

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self._index.fingerprint()} {self._labels_fingerprint()}".encode()).hexdigest()

    def close(self) -> None:
        self._index.close()


def _sorted_rows(blob: bytearray, starts: array[int], offsets: array[int]) -> npt.NDArray[np.int64]:
    """The files in the order of their names, and those of one name as they lie. UTF-8 sorts as the text does."""
    rows = np.argsort(np.frombuffer(offsets, np.uint64), kind="stable")
    begins, ends = np.frombuffer(starts, np.uint64)[:-1], np.frombuffer(starts, np.uint64)[1:]
    longest = int((ends - begins).max())
    if longest * len(rows) > 4 * len(blob) or b"\0" in blob:  # a few very long names; numpy pads with zeros
        return np.array(sorted(rows.tolist(), key=lambda row: bytes(blob[starts[row] : starts[row + 1]])), np.int64)
    names = np.empty(len(rows), f"S{longest}")
    for place, row in enumerate(rows.tolist()):
        names[place] = bytes(blob[starts[row] : starts[row + 1]])
    return rows[np.argsort(names, kind="stable")]


def _all(data: bytes, sign: bytes) -> Iterator[int]:
    """Where ``sign`` stands in ``data``."""
    at = data.find(sign)
    while at >= 0:
        yield at
        at = data.find(sign, at + 1)


def _zip64(extra: bytes, size: int, packed: int, at: int) -> tuple[int, int, int]:
    """The three numbers, those that were too large for their fields taken from the extra field."""
    values = [size, packed, at]
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<HH", extra)
        if kind == 1:
            wide = [i for i, value in enumerate(values) if value == 0xFFFFFFFF]
            for place, i in enumerate(wide):
                values[i] = int(struct.unpack_from("<Q", extra, 4 + 8 * place)[0])
            break
        extra = extra[4 + length :]
    return values[0], values[1], values[2]


def _unpack(data: bytes, method: int, size: int) -> bytes:
    """At most one byte more than ``size``.

    Raises:
        ValueError: they are damaged, or packed in an unknown way.
    """
    try:
        if method == zipfile.ZIP_STORED:
            return data
        if method == zipfile.ZIP_DEFLATED:
            return zlib.decompressobj(-15).decompress(data, size + 1)
        if method == zipfile.ZIP_BZIP2:
            return bz2.BZ2Decompressor().decompress(data, size + 1)
        if method == zipfile.ZIP_LZMA:
            properties, span = divmod(data[4], 9), int.from_bytes(data[5:9], "little")
            if span > LARGEST_WINDOW:  # it is memory
                raise ValueError(f"packed with a dictionary of {span >> 20} MiB, which is not read")
            options = {"lc": properties[1], "lp": properties[0] % 5, "pb": properties[0] // 5, "dict_size": span}
            unpacker = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA1, **options}])
            return unpacker.decompress(data[9:], size + 1)
    except (zlib.error, lzma.LZMAError, OSError, EOFError, IndexError) as error:
        raise ValueError(f"damaged in the zip: {reason(error)}") from error
    raise ValueError(f"packed by method {method}, which is not read")
