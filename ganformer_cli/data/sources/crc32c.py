"""The checksum of TFRecords: CRC32C (Castagnoli), masked as TensorFlow does.

``google-crc32c`` computes it where it is installed; otherwise numpy does, in many lanes at once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint32]

_POLYNOMIAL = 0x82F63B78  # bits reversed
_LANE = 32  # bytes; every step works on one pair of bytes of all lanes
_SHORT = 1024  # bytes below which a plain loop is as fast


def masked_crc32c(data: bytes | memoryview) -> int:
    """The checksum that follows a record, or its length."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: bytes | memoryview) -> int:
    """CRC32C of ``data``."""
    native = _native()
    return numpy_crc32c(data) if native is None else native(bytes(data))


@cache
def _native() -> Callable[[bytes], int] | None:
    """The compiled function of ``google-crc32c``; None where it is missing or has only its slow Python form."""
    try:
        import google_crc32c
    except Exception:  # not installed, or its native library does not load
        return None
    value: Callable[[bytes], int] = google_crc32c.value
    return value if google_crc32c.implementation == "c" else None


def numpy_crc32c(data: bytes | memoryview) -> int:
    """CRC32C of ``data``, without a library.

    The checksums of the lanes are computed side by side and combined in pairs. CRC32C is linear: that of A followed by
    B is that of A, moved on by as many zero bytes as B has, xor that of B. Zeros before the data change nothing once
    the start value is in the first four bytes.
    """
    if len(data) < _SHORT:
        table, crc = _zero_tables(1)[0].tolist(), 0xFFFFFFFF
        for byte in data:
            crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
        return int(crc) ^ 0xFFFFFFFF
    lanes = -(-len(data) // _LANE)
    padded = np.zeros(lanes * _LANE, np.uint8)
    first = len(padded) - len(data)
    padded[first:] = np.frombuffer(data, np.uint8)
    padded[first : first + 4] ^= 0xFF
    pairs = np.ascontiguousarray(padded.view("<u2").reshape(lanes, _LANE // 2).T)  # [_LANE / 2, lanes]
    low, high = _zero_tables(2)[:2]
    table = (high[:, None] ^ low).ravel()  # what two bytes at once, the second in the high one, do: [65536]
    crcs = np.zeros(lanes, np.uint32)
    for row in pairs:
        crcs = (crcs >> 16) ^ table[(crcs ^ row) & 0xFFFF]  # the pair meets the lower half
    zeros = _LANE
    while len(crcs) > 1:
        if len(crcs) % 2:
            crcs = np.concatenate([np.zeros(1, np.uint32), crcs])
        crcs = _append_zeros(crcs[0::2], zeros) ^ crcs[1::2]
        zeros *= 2
    return int(crcs[0]) ^ 0xFFFFFFFF


def _append_zeros(crcs: Words, zeros: int) -> Words:
    """The checksums after so many more zero bytes, a power of 2."""
    tables = _zero_tables(zeros)
    return tables[0][crcs & 0xFF] ^ tables[1][crcs >> 8 & 0xFF] ^ tables[2][crcs >> 16 & 0xFF] ^ tables[3][crcs >> 24]


@cache
def _zero_tables(zeros: int) -> Words:
    """What ``zeros`` zero bytes, a power of 2, make of each value of each of a checksum's four bytes: [4, 256]."""
    values = np.arange(256, dtype=np.uint32) << np.array([[0], [8], [16], [24]], np.uint32)
    if zeros > 1:
        return _append_zeros(_append_zeros(values, zeros // 2), zeros // 2)
    table = values[0]
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(_POLYNOMIAL), table >> 1)
    return table[values & 0xFF] ^ (values >> 8)
