"""TFRecords without TensorFlow: the records of a file, and the features of the ``tf.train.Example`` in one."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import islice
from typing import IO, Any

import numpy as np

from ganformer_cli.data.limits import MAX_FILE_BYTES
from ganformer_cli.data.sources.base import READ_ERRORS, BrokenArchiveError, Pixels, reason
from ganformer_cli.data.sources.crc32c import masked_crc32c

_HEADER = struct.Struct("<QI")  # length of the data, and its checksum
_FOOTER = struct.Struct("<I")  # checksum of the data
_VARINT, _WIDE, _BYTES, _NARROW = 0, 1, 2, 5  # kinds of protobuf's fields
_TEXTS, _WHOLES = 1, 3  # kinds of features
_MAX_FEATURES = 10_000  # of an Example
_MAX_VALUES = 1024  # of a feature: those behind are left out, for each would be an object in memory
_IMAGE_KEYS = (b"image/encoded", b"image", b"image_raw")
_CLASSES = (b"image/class/label", b"label")


class RecordReader:
    """The records of one file, one after another."""

    def __init__(self, stream: IO[bytes], size: int | None) -> None:
        """
        Args:
            stream: the file.
            size: its bytes, where it can be jumped over them; None where it must be read through.
        """
        self._stream = stream
        self._size = size
        self._left = 0  # bytes of the present record and its checksum

    def next(self) -> int | None:
        """The length of the next record; None at the end.

        Raises:
            BrokenArchiveError: the file is damaged or cut short.
        """
        self._skip()
        header = self._read(_HEADER.size, inside=False)
        if not header:
            return None
        if len(header) < _HEADER.size:
            raise BrokenArchiveError("it is cut short", inside=False)
        length, crc = _HEADER.unpack(header)
        if masked_crc32c(header[:8]) != crc:
            raise BrokenArchiveError("the checksum of a record's length is wrong", inside=False)
        self._left = length + _FOOTER.size
        return int(length)

    def read(self) -> memoryview:
        """The record whose length :meth:`next` gave.

        Raises:
            BrokenArchiveError: the file is cut short.
            ValueError: the record is damaged; those behind it need not be.
        """
        self._check_left()
        data = memoryview(self._read(self._left, inside=True))
        if len(data) < self._left:
            raise BrokenArchiveError("it is cut short", inside=True)
        self._left = 0
        if masked_crc32c(data[: -_FOOTER.size]) != _FOOTER.unpack(data[-_FOOTER.size :])[0]:
            raise ValueError("damaged: the checksum of the record is wrong")
        return data[: -_FOOTER.size]

    def _skip(self) -> None:
        """Go behind the present record."""
        if self._size is not None:
            self._check_left()
            self._stream.seek(self._left, 1)
            self._left = 0
        while self._left:
            data = self._read(min(self._left, 1 << 20), inside=True)
            if not data:
                raise BrokenArchiveError("it is cut short", inside=True)
            self._left -= len(data)

    def _check_left(self) -> None:
        if self._size is not None and self._stream.tell() + self._left > self._size:
            raise BrokenArchiveError("it is cut short", inside=True)

    def _read(self, size: int, *, inside: bool) -> bytes:
        try:
            return self._stream.read(size)
        except READ_ERRORS as error:  # of a damaged zip around it
            raise BrokenArchiveError(reason(error), inside=inside) from error


def starts_as_records(start: bytes) -> bool:
    """Whether the first bytes of a file (at least 12) are those of TFRecords."""
    if len(start) < _HEADER.size:
        return False
    length, crc = _HEADER.unpack(start[: _HEADER.size])
    return length <= MAX_FILE_BYTES and masked_crc32c(start[:8]) == crc


def image_of(record: memoryview) -> tuple[bytes | Pixels, int | None]:
    """The image of an Example, an image file or pixels [H, W, C], and its class if one is given.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    features = example(record)
    label = next((features[key][0] for key in _CLASSES if features.get(key) and type(features[key][0]) is int), None)
    if b"data" in features and b"shape" in features:
        return _raw_pixels(features[b"data"], features[b"shape"]), label
    for key in _IMAGE_KEYS:
        values = features.get(key, [])
        if values and isinstance(values[0], memoryview):
            return bytes(values[0]), label
    names = ", ".join(sorted(key.decode("utf-8", "backslashreplace") for key in features))
    raise ValueError(f"no image among its features ({names or 'none'})")


def example(record: memoryview) -> dict[bytes, list[Any]]:
    """The features of a ``tf.train.Example``: lists of ``memoryview`` or int; numbers with a point are left out.

    Raises:
        ValueError: it is none, or damaged.
    """
    found: dict[bytes, list[Any]] = {}
    for number, features in _fields(record):
        if number != 1 or not isinstance(features, memoryview):
            continue
        for inner, entry in _fields(features):
            if inner == 1 and isinstance(entry, memoryview):
                parts = dict(_fields(entry))
                key, value = parts.get(1), parts.get(2)
                if isinstance(key, memoryview) and isinstance(value, memoryview):
                    found[bytes(key)] = list(islice(_values(value), _MAX_VALUES))
                    if len(found) > _MAX_FEATURES:
                        raise ValueError(f"more than {_MAX_FEATURES} features")
    return found


def _values(feature: memoryview) -> Iterator[memoryview | int]:
    for kind, content in _fields(feature):
        if kind not in (_TEXTS, _WHOLES) or not isinstance(content, memoryview):
            continue
        for number, value in _fields(content):
            if number != 1:
                continue
            if kind == _TEXTS:
                if isinstance(value, memoryview):
                    yield value
            elif isinstance(value, int):
                yield _signed(value)
            else:  # several, packed
                place = 0
                while place < len(value):
                    whole, place = _varint(value, place)
                    yield _signed(whole)


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field of a protobuf message."""
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, place = _varint(data, place)
            yield number, value
            continue
        if kind == _BYTES:
            length, place = _varint(data, place)
        elif kind in (_WIDE, _NARROW):
            length = 8 if kind == _WIDE else 4
        else:
            raise ValueError("damaged: not a tf.train.Example")
        if place + length > len(data):
            raise ValueError("damaged: not a tf.train.Example")
        yield number, data[place : place + length]
        place += length


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(data) and shift < 70:
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place += 1
        if byte < 0x80:
            return value, place
        shift += 7
    raise ValueError("damaged: not a tf.train.Example")


def _signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def _raw_pixels(data: list[Any], shape: list[Any]) -> Pixels:
    sizes = [value for value in shape if type(value) is int and value > 0]
    if len(sizes) != 3 or len(shape) != 3 or sizes[0] not in (1, 3, 4):
        raise ValueError(f"images of shape {shape} instead of [1, 3 or 4, height, width]")
    raw = data[0] if data and isinstance(data[0], memoryview) else memoryview(b"")
    if len(raw) != sizes[0] * sizes[1] * sizes[2]:
        raise ValueError(f"damaged: {len(raw)} bytes for an image of shape {sizes}")
    return np.ascontiguousarray(np.frombuffer(raw, np.uint8).reshape(sizes).transpose(1, 2, 0))
