"""Writes TFRecord files as TensorFlow does, for the tests of what reads them."""

from __future__ import annotations

import struct

from ganformer_cli.data.sources.crc32c import masked_crc32c


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def example(packed: bool = True, **features: bytes | list[int] | list[float]) -> bytes:
    """A ``tf.train.Example``; names have ``__`` for a slash."""
    entries = b""
    for name, value in features.items():
        if isinstance(value, bytes):
            feature = field(1, field(1, value))
        elif isinstance(value[0], float):
            feature = field(2, field(1, struct.pack(f"<{len(value)}f", *value)))
        elif packed:
            feature = field(3, field(1, b"".join(varint(int(x)) for x in value)))
        else:
            feature = field(3, b"".join(varint(1 << 3) + varint(int(x)) for x in value))
        entries += field(1, field(1, name.replace("__", "/").encode()) + field(2, feature))
    return field(1, entries)


def record(data: bytes) -> bytes:
    """An entry of a file."""
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc32c(length)) + data + struct.pack("<I", masked_crc32c(data))
