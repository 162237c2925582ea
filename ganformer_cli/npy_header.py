"""The header of numpy's ``.npy`` files, looked at before numpy does: it is Python text that anybody may write.

numpy evaluates it safely, but what damaged ones provoke is any kind of error, or an array of more than the file holds.
"""

from __future__ import annotations

import ast
import math
import re
from pathlib import Path
from typing import IO

from ganformer_cli.files import open_regular

_MAGIC = b"\x93NUMPY"
_MAX_HEADER = 10_000  # as numpy has it
_MAX_DIMENSIONS = 32
_KIND = re.compile(r"[<>|=]?([biufcSaUVMmO?])(\d{0,6})(\[[\w/]+\])?")


def check_npy(path: Path) -> None:
    """Look at the file ``path`` before it is given to ``numpy.load``; one that is no ``.npy`` is left to that.

    Raises:
        ValueError: its header is damaged, or describes more than the file holds; the message is a few words.
        OSError: it is no regular file, or cannot be read.
    """
    with open_regular(path) as stream:
        check_npy_stream(stream, path.stat().st_size)


def check_npy_stream(stream: IO[bytes], size: int) -> None:
    """As ``check_npy``, for a stream of ``size`` bytes in all; reads it from where it stands.

    Raises:
        ValueError: as there.
    """
    start = stream.read(12)
    if not start.startswith(_MAGIC):
        return
    wide = start[6:7] >= b"\x02"
    length = int.from_bytes(start[8 : 12 if wide else 10], "little")
    if length > _MAX_HEADER:
        raise ValueError("a damaged header: it is too long")
    begin = 12 if wide else 10
    text = (start[begin:] + stream.read(length - len(start[begin:])))[:length]
    try:
        fields = ast.literal_eval(re.sub(r"(\d)L\b", r"\1", text.decode("utf-8").strip()))  # 5L is Python 2's
        kind, shape, order = fields["descr"], fields["shape"], fields["fortran_order"]
    except (ValueError, SyntaxError, TypeError, KeyError, RecursionError, MemoryError, OverflowError) as error:
        raise ValueError("a damaged header") from error
    if not isinstance(shape, tuple) or len(shape) > _MAX_DIMENSIONS or not isinstance(order, bool):
        raise ValueError("a damaged header: no shape")
    if not all(type(side) is int and 0 <= side < 1 << 63 for side in shape):
        raise ValueError("a damaged header: no shape")
    found = _KIND.fullmatch(kind) if isinstance(kind, str) else None
    if found is None:
        raise ValueError("an array of something other than numbers")
    if found[1] == "O":
        raise ValueError("an array of Python objects, which can run any code: save numbers")
    width = int(found[2] or 1) * (4 if found[1] == "U" else 1)
    if math.prod(shape) * width > size - begin - length:
        raise ValueError("a header that describes more than the file holds; it is cut short")
