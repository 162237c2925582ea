"""The checksum of TFRecords: CRC32C (Castagnoli), masked as TensorFlow does. Long data are worked on in many lanes."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint32]

_POLYNOMIAL = 0x82F63B78  # bits reversed
_LANE = 32  # bytes; every step works on one pair of bytes of all lanes at once
_SHORT = 1024  # bytes below which a plain loop is as fast


def masked_crc32c(data: bytes | memoryview) -> int:
    """The checksum that follows a record, or its length."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: bytes | memoryview) -> int:
    """CRC32C of ``data``."""
    if len(data) >= _SHORT:
        return _of_lanes(data)
    table, crc = _byte_list(), 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def _of_lanes(data: bytes | memoryview) -> int:
    """The lanes' checksums are found side by side and then put together, two and two.

    The checksum is linear: that of A followed by B is that of A moved on by as many zero bytes as B has, xor that of B.
    Zeros before the data change nothing once the start value is worked into the first four bytes.
    """
    lanes = -(-len(data) // _LANE)
    padded = np.zeros(lanes * _LANE, np.uint8)
    first = len(padded) - len(data)
    padded[first:] = np.frombuffer(data, np.uint8)
    padded[first : first + 4] ^= 0xFF
    # [_LANE / 2, lanes]
    pairs = np.ascontiguousarray(padded.view("<u2").reshape(lanes, _LANE // 2).T).astype(np.uint32)
    table = _pair_table()
    crcs = np.zeros(lanes, np.uint32)
    index = np.empty(lanes, np.uint32)
    for row in pairs:
        np.bitwise_xor(crcs, row, out=index)
        np.bitwise_and(index, 0xFFFF, out=index)
        np.right_shift(crcs, 16, out=crcs)
        np.bitwise_xor(crcs, table[index], out=crcs)
    level = 0
    while len(crcs) > 1:
        if len(crcs) % 2:
            crcs = np.concatenate([np.zeros(1, np.uint32), crcs])
        crcs = _move(crcs[0::2], level) ^ crcs[1::2]
        level += 1
    return int(crcs[0]) ^ 0xFFFFFFFF


def _move(crcs: Words, level: int) -> Words:
    """Checksums moved on by ``_LANE * 2**level`` zero bytes."""
    tables = _move_tables(level)
    return tables[0][crcs & 0xFF] ^ tables[1][crcs >> 8 & 0xFF] ^ tables[2][crcs >> 16 & 0xFF] ^ tables[3][crcs >> 24]


@cache
def _move_tables(level: int) -> Words:
    """What moving makes of each value of each of the four bytes: [4, 256]."""
    values = np.arange(256, dtype=np.uint32)
    tables = np.stack([values, values << 8, values << 16, values << 24])
    if level:
        return _move(_move(tables.ravel(), level - 1), level - 1).reshape(4, 256)
    byte_table = _byte_table()
    for _ in range(_LANE):
        tables = byte_table[tables & 0xFF] ^ (tables >> 8)
    return tables


@cache
def _byte_table() -> Words:
    crcs = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        crcs = np.where(crcs & 1, (crcs >> 1) ^ np.uint32(_POLYNOMIAL), crcs >> 1)
    return crcs


@cache
def _byte_list() -> list[int]:
    return [int(value) for value in _byte_table()]


@cache
def _pair_table() -> Words:
    """What two bytes at once make of the lower half of the checksum: [65536]."""
    table = _byte_table()
    crcs = np.arange(1 << 16, dtype=np.uint32)
    for _ in range(2):
        crcs = table[crcs & 0xFF] ^ (crcs >> 8)
    return crcs
