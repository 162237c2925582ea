"""Pictures in a dataset of an HDF5 file; h5py reads it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ganformer_cli.data.sources.arrays import LABEL_NAMES, PICTURE_NAMES, Arrayed, layout_of
from ganformer_cli.data.sources.base import Item, Labels, Numbered, library, reason
from ganformer_cli.data.sources.labels import array_labels, choose_labels
from ganformer_cli.errors import DataError
from ganformer_cli.files import check_regular

# Bytes that are read at once, at most: picture by picture, a chunk of the file would be unpacked again and again.
_BLOCK = 64 << 20


class Hdf5Source(Arrayed, Numbered):
    """The pictures of a dataset called images, data or x, else of the first that looks like pictures."""

    form = "hdf5"

    def __init__(self, path: Path, labels: str | None) -> None:
        """
        Raises:
            DataError: h5py is missing, or the file is damaged or holds no pictures, or the labels cannot be used.
        """
        self.path = path
        h5py = library("h5py", path, '"ganformer[hdf5]"')
        try:
            check_regular(path)
            self._file: Any = h5py.File(path, "r")
        except Exception as error:
            raise DataError(f"{path} is damaged or cut short ({reason(error)}); get it again") from error
        try:
            self._data = self._choose(h5py)
            self._name = self._data.name.lstrip("/")
            self._layout = layout_of(self._data.shape, self._data.dtype, f"{path}: dataset {self._name}")
            self.use(choose_labels(labels, path, own=self._own_labels, count=self.count))
        except DataError:
            self._file.close()
            raise
        except Exception as error:  # a damaged file can break h5py in any way
            self._file.close()
            raise DataError(f"{path} is damaged ({reason(error)}); get it again") from error

    def _choose(self, h5py: Any) -> Any:
        found: list[Any] = []
        self._file.visititems(lambda _, node: found.append(node) if isinstance(node, h5py.Dataset) else None)
        named = [node for name in PICTURE_NAMES for node in found if node.name.rpartition("/")[2] == name]
        typical = [node for node in found if node.dtype in (np.uint8, np.uint16) and node.ndim in (3, 4)]
        for node in [*(node for node in named if node.ndim in (3, 4)), *typical]:
            return node
        names = ", ".join(f"{node.name} {node.dtype} {list(node.shape or ())}" for node in found[:5])
        raise DataError(f"{self.path} holds no dataset of pictures, uint8 [N, H, W, C] (but {names or 'nothing'})")

    def _own_labels(self) -> Labels | None:
        group = self._data.parent
        name = next((name for name in LABEL_NAMES if name in group), None)
        if name is None:
            return None
        return array_labels(lambda: np.asarray(group[name][...]), f"{self.path}: dataset {name}", self.count())

    def items(self, start: int = 0) -> Iterator[Item]:
        chunk = self._data.chunks[0] if self._data.chunks else 1
        rows = max(1, min(chunk, _BLOCK // max(1, self._layout.row_bytes)))
        while start < self.count():
            end = min(self.count(), start - start % rows + rows)
            try:
                block = self._data[start:end]
            except Exception:  # some of them may still be readable
                yield from (self.item(number) for number in range(start, end))
            else:
                yield from (self.item_of(number, block[number - start]) for number in range(start, end))
            start = end

    def item(self, number: int) -> Item:
        try:
            row = self._data[number]
        except Exception as error:
            name = f"{self._name}[{number}]"
            return Item(name, None, self._label(number, name), f"damaged: {reason(error)}")
        return self.item_of(number, row)

    def close(self) -> None:
        self._file.close()
