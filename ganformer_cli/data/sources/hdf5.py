"""Images in a dataset of an HDF5 file; h5py reads it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ganformer_cli.data.limits import MAX_FILE_BYTES, is_archive_bomb
from ganformer_cli.data.sources.arrays import IMAGE_NAMES, LABEL_NAMES, Arrayed, layout_of
from ganformer_cli.data.sources.base import IndexedSource, Item, Labels, import_library, reason
from ganformer_cli.data.sources.hdf5_links import check_held, elsewhere, external_links, member
from ganformer_cli.data.sources.labels import array_labels, choose_labels
from ganformer_cli.errors import DataError
from ganformer_cli.files import check_regular

# Bytes that are read at once, at most: image by image, a chunk of the file would be unpacked again and again.
_BLOCK = 64 << 20
_LINKS_NAMED = 3  # in a message


class Hdf5Source(Arrayed, IndexedSource):
    """The images of a dataset called images, data or x, else of the first that looks like images."""

    format = "hdf5"

    def __init__(self, path: Path, labels: str | None) -> None:
        self.path = path
        self._h5py = h5py = import_library("h5py", path, '"ganformer[hdf5]"')
        try:
            check_regular(path)
            self._file: Any = h5py.File(path, "r")
        except Exception as error:
            raise DataError(f"{path} is damaged or cut short ({reason(error)}); download it again") from error
        try:
            self._data = self._choose(h5py)
            self._name = self._data.name.lstrip("/")
            self._layout = layout_of(self._data.shape, self._data.dtype, f"{path}: dataset {self._name}")
            self.labels = choose_labels(labels, path, own=self._own_labels, count=self.count)
        except DataError:
            self._file.close()
            raise
        except Exception as error:  # a damaged file can break h5py in any way
            self._file.close()
            raise DataError(f"{path} is damaged ({reason(error)}); download it again") from error

    def _choose(self, h5py: Any) -> Any:
        found: list[Any] = []
        links = external_links(h5py, self._file)

        def see(_: str, node: Any) -> None:
            if isinstance(node, h5py.Dataset):
                found.append(node)
            elif len(links) < _LINKS_NAMED:
                links.extend(external_links(h5py, node) if isinstance(node, h5py.Group) else ())

        self._file.visititems(see)  # which follows no link but hard ones
        named = [node for name in IMAGE_NAMES for node in found if node.name.rpartition("/")[2] == name]
        typical = [node for node in found if node.dtype in (np.uint8, np.uint16) and node.ndim in (3, 4)]
        for node in [*(node for node in named if node.ndim in (3, 4)), *typical]:
            check_held(self.path, node)
            self._check_claim(node)
            return node
        if links:
            raise elsewhere(self.path, "its images are links to other files", links)
        names = ", ".join(f"{node.name} {node.dtype} {list(node.shape or ())}" for node in found[:5])
        raise DataError(f"{self.path} holds no dataset of images, uint8 [N, H, W, C] (but {names or 'nothing'})")

    def _own_labels(self) -> Labels | None:
        group = self._data.parent
        for name in LABEL_NAMES:
            found = member(self._h5py, self.path, group, name)
            if isinstance(found, self._h5py.Dataset):
                check_held(self.path, found)
                self._check_claim(found)
                read = partial(np.asarray, found)
                return array_labels(read, f"{self.path}: dataset {name}", self.count(), shape=found.shape)
        return None

    def _check_claim(self, dataset: Any) -> None:
        """Refuse a dataset that cannot be what it claims to be: its chunks would not fit into memory, or it was never
        written, and all that is claimed would be made up."""
        chunk = math.prod(dataset.chunks) * dataset.dtype.itemsize if dataset.chunks else 0
        if chunk > MAX_FILE_BYTES:
            raise DataError(
                f"{self.path}: dataset {dataset.name} has chunks of {chunk >> 20} MiB, each of which has to fit into "
                f"memory at once; rewrite it with smaller ones (h5repack -l)"
            )
        claimed, held = dataset.size * dataset.dtype.itemsize, dataset.id.get_storage_size()
        if is_archive_bomb(claimed, held):
            raise DataError(f"{self.path}: dataset {dataset.name} claims {claimed >> 20} MiB and holds {held} bytes")

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
                yield from (self.item_of(start + i, partial(np.asarray, row)) for i, row in enumerate(block))
            start = end

    def item(self, number: int) -> Item:
        return self.item_of(number, lambda: self._row(number))

    def _row(self, number: int) -> Any:
        try:
            return self._data[number]
        except Exception as error:  # as above
            raise ValueError(f"damaged: {reason(error)}") from error

    def close(self) -> None:
        self._file.close()
