"""A zip of images."""

from __future__ import annotations

from array import array
from functools import partial

import numpy as np

from ganformer_cli.data.file_kinds import ImageSelection
from ganformer_cli.data.found_files import FoundFiles
from ganformer_cli.data.limits import MAX_FILE_BYTES
from ganformer_cli.data.sources.files import FileSource
from ganformer_cli.data.zips import PASSWORD, ZipIndex
from ganformer_cli.errors import DataError


class ZipSource(FileSource):
    """Every image in a zip. Nothing is ever unpacked to disk, so the names in it can do no harm."""

    format = "zip"

    def __init__(
        self, index: ZipIndex, selection: ImageSelection, labels: str | None, *, most_labels: int = MAX_FILE_BYTES
    ) -> None:
        """
        Args:
            most_labels: bytes that ``dataset.json`` may have.
        """
        self.path = index.path
        self._index = index
        self._most_labels = most_labels
        found = FoundFiles(selection)
        images = (i for i, name in enumerate(index.names()) if found.is_image(name, partial(index.start, i)))
        self._places = np.frombuffer(array("Q", images), np.uint64)  # in the zip
        if len(self._places) and all(map(index.is_encrypted, self._places)):
            raise DataError(f"{self.path} is {PASSWORD}; unpack it with its password, and give the folder")
        self._use(found, labels)

    def count(self) -> int:
        return len(self._places)

    def name(self, number: int) -> str:
        return self._index.name(int(self._places[number]))

    def read(self, number: int) -> bytes:
        return self._index.read(int(self._places[number]))

    def state(self, number: int) -> str:
        entry = self._index.entries[self._places[number]]
        return f"{entry['size']} {entry['crc']}"

    def _read_labels(self, name: str) -> bytes:
        return self._index.read(self._index.find(name) or 0, self._most_labels)

    def _state(self) -> str:
        return self._index.fingerprint

    def close(self) -> None:
        self._index.close()
