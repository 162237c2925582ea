"""Images in one array: numpy's ``.npy`` and ``.npz``. Nothing is ever unpickled."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from ganformer_cli.data.limits import MAX_FILE_BYTES
from ganformer_cli.data.sources.base import (
    DAMAGED,
    READ_ERRORS,
    IndexedSource,
    Item,
    Labels,
    Pixels,
    Source,
    StreamedSource,
    reason,
)
from ganformer_cli.data.sources.labels import array_labels, choose_labels, read_npy
from ganformer_cli.data.zips import open_zip
from ganformer_cli.errors import DataError
from ganformer_cli.files import open_regular

CHANNELS = (1, 3, 4)
IMAGE_NAMES = ("images", "data", "x")  # what an array of images is called where there are several
LABEL_NAMES = ("labels", "y", "label")
_MAX_HEADER = 1 << 16  # bytes; those of images have a hundred
_WANTED = (
    "uint8, uint16, or floating point from 0 to 1, of shape [N, H, W, C], [N, C, H, W] or [N, H, W] with C in 1, 3, 4"
)


@dataclass(frozen=True)
class Layout:
    """How images lie in an array."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    channels_first: bool

    @property
    def count(self) -> int:
        return self.shape[0]

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of an image."""
        place = 2 if self.channels_first else 1
        return self.shape[place], self.shape[place + 1]

    def row(self, data: bytes) -> npt.NDArray[Any]:
        """One row, of its bytes."""
        return np.frombuffer(data, self.dtype).reshape(self.shape[1:])

    def pixels(self, row: npt.NDArray[Any]) -> Pixels:
        """Image [H, W, C] of one row, in its own type and this machine's byte order."""
        if row.ndim == 2:
            row = row[..., None]
        elif self.channels_first:
            row = row.transpose(1, 2, 0)
        return np.ascontiguousarray(row, row.dtype.newbyteorder("="))


def layout_of(shape: tuple[int, ...], dtype: np.dtype[Any], where: str) -> Layout:
    """How images lie in an array of this shape and type.

    Raises:
        DataError: there are none in it.
    """
    last = len(shape) == 4 and shape[3] in CHANNELS
    first = len(shape) == 4 and shape[1] in CHANNELS
    if first and last:  # tiny images; most are square
        first = shape[2] == shape[3] and shape[1] != shape[2]
    good_type = dtype.kind == "f" or (dtype.kind == "u" and dtype.itemsize <= 2)
    if not (last or first or len(shape) == 3) or not good_type:
        raise DataError(f"{where}: {dtype} {list(shape)}; images are {_WANTED}: convert it")
    if len(shape) == 3 and shape[2] in CHANNELS:
        raise DataError(f"{where}: {list(shape)} looks like one image; an array of images is [N, H, W, C]")
    if shape[0] and min(shape) < 1:
        raise DataError(f"{where}: {list(shape)}: the images have no pixels")
    layout = Layout(shape, dtype, first)
    if layout.row_bytes > MAX_FILE_BYTES:
        raise DataError(f"{where}: images of {layout.row_bytes >> 20} MiB each; scale them down")
    return layout


def read_layout(stream: IO[bytes], where: str) -> tuple[Layout, bool]:
    """How images lie in an array in numpy's format, and whether its rows do not lie one after another.

    Raises:
        ValueError: it is not numpy's format.
        DataError: there are no images in it.
    """
    shape, rows_apart, dtype = npy_header(stream)
    return layout_of(shape, dtype, where), rows_apart and len(shape) > 1


def npy_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether the order is Fortran's, and type.

    Raises:
        ValueError: it is not numpy's format.
    """
    version = np.lib.format.read_magic(stream)
    wide = 4 if version == (2, 0) else 2
    length = stream.read(wide)
    size = int.from_bytes(length, "little")
    if size > _MAX_HEADER:  # numpy would read all of it before it looks
        raise ValueError(f"a header of {size} bytes")
    header = io.BytesIO(length + stream.read(size))
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(header)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(header)
    raise ValueError(f"version {version} of numpy's format")


class Arrayed(Source):
    """The rows of one array."""

    _name: str  # of the array
    _layout: Layout

    def count(self) -> int:
        return self._layout.count

    def item_of(self, number: int, read: Callable[[], npt.NDArray[Any]]) -> Item:
        """Image ``number``, of the row that ``read`` gives."""
        return self._item(number, f"{self._name}[{number}]", lambda: self._layout.pixels(read()))


class NpySource(Arrayed, IndexedSource):
    """The images of a ``.npy`` file."""

    format = "npy"

    def __init__(self, path: Path, labels: str | None) -> None:
        self.path, self._name = path, path.name
        self._stream = open_regular(path)
        try:
            self._layout, rows_apart = read_layout(self._stream, str(path))
            self._start = self._stream.tell()
            held = path.stat().st_size - self._start
            if held < self._layout.count * self._layout.row_bytes:
                raise DataError(
                    f"{path} is cut short: it holds {held // max(1, self._layout.row_bytes)} whole images of "
                    f"{self._layout.count}; download it again"
                )
            # Rows are read, not mapped: mapped pages would count as this process's memory.
            self._mapped = np.load(path, mmap_mode="r", allow_pickle=False) if rows_apart else None
            self.labels = choose_labels(labels, path, count=self.count)
        except BaseException:
            self._stream.close()
            raise

    def item(self, number: int) -> Item:
        return self.item_of(number, lambda: self._row(number))

    def _row(self, number: int) -> npt.NDArray[Any]:
        if self._mapped is not None:
            row: npt.NDArray[Any] = self._mapped[number]
            return row
        self._stream.seek(self._start + number * self._layout.row_bytes)
        return self._layout.row(self._stream.read(self._layout.row_bytes))

    def close(self) -> None:
        self._stream.close()
        self._mapped = None


class NpzSource(Arrayed, StreamedSource):
    """The images of one array in a ``.npz`` file, with the labels of another."""

    format = "npz"
    passing_is_cheap = False

    def __init__(self, path: Path, labels: str | None) -> None:
        self.path = path
        self._zip = open_zip(path)
        try:
            self._arrays = {name.removesuffix(".npy"): name for name in self._zip.namelist() if name.endswith(".npy")}
            self._name, self._layout = self._choose()
            self.labels = choose_labels(labels, path, own=self._own_labels, count=self.count)
        except BaseException:
            self._zip.close()
            raise

    def _choose(self) -> tuple[str, Layout]:
        """The array of images."""
        named = [name for name in IMAGE_NAMES if name in self._arrays]
        why = "it holds no arrays"
        for name in [*named, *(name for name in self._arrays if name not in (*named, *LABEL_NAMES))]:
            where = f"{self.path}: array {name}"
            try:
                with self._zip.open(self._arrays[name]) as stream:
                    layout, rows_apart = read_layout(stream, where)
                claimed = layout.count * layout.row_bytes
                if claimed > self._zip.getinfo(self._arrays[name]).file_size:
                    why = f"{where} is cut short: it claims {claimed} bytes; download it again"
                    continue
                if not rows_apart:
                    return name, layout
                why = f"{where} lies in Fortran's order; save numpy.ascontiguousarray of it"
            except READ_ERRORS as error:
                why = f"{where}: {reason(error)}"
            except DataError as error:
                why = str(error)
        raise DataError(f"{self.path} holds no array of images ({why})")

    def _own_labels(self) -> Labels | None:
        name = next((name for name in LABEL_NAMES if name in self._arrays), None)
        if name is None:
            return None

        def read() -> npt.NDArray[Any]:
            with self._zip.open(self._arrays[name]) as stream:
                return read_npy(stream)

        return array_labels(read, f"{self.path}: array {name}", self.count())

    def scan(self, wanted: Callable[[int], bool]) -> Iterator[Item | None]:
        number = 0
        try:
            with self._zip.open(self._arrays[self._name]) as stream:
                npy_header(stream)
                for number in range(self.count()):
                    data = stream.read(self._layout.row_bytes)
                    if len(data) < self._layout.row_bytes:
                        raise EOFError("it is cut short")
                    yield self.item_of(number, partial(self._layout.row, data)) if wanted(number) else None
        except READ_ERRORS as error:
            name = f"{self._name}[{number}]"
            yield Item(name, None, None, f"{DAMAGED}: {reason(error)}") if wanted(number) else None

    def close(self) -> None:
        self._zip.close()
