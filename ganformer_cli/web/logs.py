"""Logs of one JSON object a line, read while another process adds to them."""

from __future__ import annotations

import errno
import math
import os
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from ganformer_cli.errors import GanformerError
from ganformer_cli.files import MAX_LINE, open_regular, parse_json
from ganformer_cli.metrics.records import finite_numbers, is_finite_number

#: Points of a curve that a page receives; longer logs are thinned out.
MAX_POINTS = 2000
#: Bytes that are read at once; what is older in a longer log is left out.
MAX_READ = 64 << 20
#: Bytes at the end of a log in which its last line is looked for.
TAIL_BYTES = 64 << 10
#: Different curves in a log; an odd one has more.
MAX_CURVES = 100
_FINGERPRINT = 200  # bytes before the place where reading goes on, which tell whether the file is still the same


def read_object(path: Path) -> dict[str, Any]:
    """The object in a small JSON file; empty if there is none, it cannot be read, or it is a link."""
    try:
        with _open(path) as stream:
            value = parse_json(stream.read(MAX_LINE), str(path), finite=False)
    except (GanformerError, OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def read_last(path: Path) -> dict[str, Any]:
    """The last whole record of a log; empty if there is none."""
    try:
        with _open(path) as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - TAIL_BYTES))
            lines = stream.read(TAIL_BYTES).split(b"\n")
    except OSError:
        return {}
    return next(_records(reversed(lines[:-1])), {})


class LogReader:
    """Reads a log from where it stopped the last time, and anew when the log has been cut or replaced."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._end = 0  # of what has been read
        self._before = b""  # the bytes before it

    def read(self) -> tuple[bool, Iterator[dict[str, Any]]]:
        """Whether what was read before still counts, and the records since. A line that is cut short waits."""
        data, goes_on = b"", True
        try:
            with _open(self.path) as stream:
                size = os.fstat(stream.fileno()).st_size
                stream.seek(max(0, self._end - len(self._before)))
                if size < self._end or stream.read(len(self._before)) != self._before:
                    goes_on, self._end, self._before = False, 0, b""
                start = max(self._end, size - MAX_READ)
                stream.seek(start)
                data = stream.read(max(0, size - start))
        except OSError:
            goes_on, self._end, self._before = False, 0, b""
            return goes_on, iter(())
        whole = data.rfind(b"\n") + 1
        if whole:
            self._end, self._before = start + whole, data[max(0, whole - _FINGERPRINT) : whole]
        return goes_on, _records(data[:whole].split(b"\n"))


class Curves:
    """The numbers of a log by name, and its last records."""

    def __init__(self, path: Path) -> None:
        self.reader = LogReader(path)
        self.columns: dict[str, array[float]] = {}
        self.recent: deque[dict[str, Any]] = deque(maxlen=200)
        self.length = 0

    def update(self) -> None:
        """Read what has been added."""
        goes_on, records = self.reader.read()
        if not goes_on:
            self.columns.clear()
            self.recent.clear()
            self.length = 0
        for record in records:
            if not is_finite_number(record.get("kimg")):
                continue
            for name, value in finite_numbers(record).items():
                column = self.columns.get(name)
                if column is None:
                    if len(self.columns) >= MAX_CURVES:
                        continue
                    column = self.columns[name] = array("d")
                column.extend([math.nan] * (self.length - len(column)))
                column.append(value)
            self.recent.append(record)
            self.length += 1

    def thinned(self) -> dict[str, Any]:
        """``step`` (one of so many records), ``length`` (of the log) and ``columns``: lists of numbers and None."""
        step = -(-self.length // MAX_POINTS) or 1
        # The same records each time, and the newest.
        kept = list(range(0, self.length, step))
        if kept and kept[-1] != self.length - 1:
            kept.append(self.length - 1)
        columns = {name: [_known(values, index) for index in kept] for name, values in self.columns.items()}
        return {"step": step, "length": self.length, "columns": columns}


def _open(path: Path) -> IO[bytes]:
    """Open a file that is no link, which could lead out of the result folder; raises ``OSError`` where it is one."""
    if path.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return open_regular(path)


def _known(values: Sequence[float], index: int) -> float | None:
    value = values[index] if index < len(values) else math.nan
    return None if math.isnan(value) else value


def _records(lines: Any) -> Iterator[dict[str, Any]]:
    """The objects in those lines that hold one."""
    for line in lines:
        if not line.strip() or len(line) > MAX_LINE:
            continue
        try:
            record = parse_json(line, "", finite=False)
        except GanformerError:
            continue
        if isinstance(record, dict):
            yield record
