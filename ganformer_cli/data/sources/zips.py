"""A zip of images."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from functools import partial

import numpy as np

from ganformer_cli.data.file_kinds import FileKind, ImageSelection, UnreadFiles
from ganformer_cli.data.labels_finder import LabelsFinder
from ganformer_cli.data.manifest import DATASET_JSON
from ganformer_cli.data.sources.base import IndexedSource, Item, Labels, reason, shown
from ganformer_cli.data.sources.labels import choose_labels, dataset_json
from ganformer_cli.data.zips import PASSWORD, ZipIndex
from ganformer_cli.errors import DataError


class ZipSource(IndexedSource):
    """Every image in a zip. Nothing is ever unpacked to disk, so the names in it can do no harm."""

    format = "zip"

    def __init__(self, index: ZipIndex, selection: ImageSelection, labels: str | None) -> None:
        """
        Raises:
            DataError: all images are protected by a password, or the labels cannot be used.
        """
        self.path = index.path
        self._index = index
        images = array("Q")
        self._leftover = UnreadFiles()
        self._finder = LabelsFinder()
        jsons: dict[str, int] = {}
        for number, name in enumerate(index.names()):
            if (kind := selection.kind(name, partial(index.start, number))) is FileKind.IMAGE:
                images.append(number)
                self._finder.see_image(name)
            else:
                if name.rpartition("/")[2] == DATASET_JSON:
                    self._finder.see_file(name)
                    jsons[name] = number
                self._others += name != DATASET_JSON
                self._leftover.add(name, kind)
        self._dataset_jsons = jsons
        self._numbers = np.frombuffer(images, np.uint64)
        if images and all(index.is_encrypted(number) for number in images):
            raise DataError(f"{self.path} is {PASSWORD}; unpack it with its password, and give the folder")
        self.use(choose_labels(labels, self.path, own=self._own_labels, names=self.names, count=self.count))

    def _own_labels(self) -> Labels | None:
        name, labels = dataset_json(self._finder, self.path, self._read_labels)
        self._others -= name not in (None, DATASET_JSON)
        return labels

    def _read_labels(self, name: str) -> bytes:
        try:
            return self._index.read(self._dataset_jsons[name])
        except (OSError, ValueError) as error:
            raise DataError(f"{self.path}: {name} cannot be read ({reason(error)}); download it again") from error

    def names(self) -> Iterator[str]:
        """The names of the images in order, as they stand in the zip."""
        return (self._index.name(int(number)) for number in self._numbers)

    def count(self) -> int:
        return len(self._numbers)

    def item(self, number: int) -> Item:
        place = int(self._numbers[number])
        name = self._index.name(place)
        label = self._label(number, name)
        try:
            return Item(shown(name), self._index.read(place), label)
        except (OSError, ValueError) as error:
            return Item(shown(name), None, label, reason(error))

    def _state(self) -> str:
        return self._index.fingerprint

    def close(self) -> None:
        self._index.close()
