"""Images that are files with names, of which any can be read at once."""

from __future__ import annotations

import abc
from collections.abc import Iterator

from ganformer_cli.data.found_files import FoundFiles
from ganformer_cli.data.sources.base import IndexedSource, Item, reason
from ganformer_cli.data.sources.labels import choose_labels, dataset_json
from ganformer_cli.errors import DataError


class FileSource(IndexedSource):
    """The image files of a folder or a zip, in the order of their names."""

    _found: FoundFiles

    @abc.abstractmethod
    def name(self, number: int) -> str:
        """The name of image ``number``, as it is written there."""

    @abc.abstractmethod
    def read(self, number: int) -> bytes:
        """The file of image ``number``.

        Raises:
            OSError, ValueError: it cannot be read.
        """

    @abc.abstractmethod
    def state(self, number: int) -> str:
        """Changes with image ``number``, as far as is known without reading it; the same wherever a copy lies."""

    @abc.abstractmethod
    def _read_labels(self, name: str) -> bytes:
        """The file called ``name``, which is no image."""

    def names(self) -> Iterator[str]:
        return map(self.name, range(self.count()))

    def item(self, number: int) -> Item:
        return self._item(number, self.name(number), lambda: self.read(number))

    def labels_file(self) -> bytes | None:
        """The ``dataset.json`` that gives the labels; None where none does.

        Raises:
            DataError: it cannot be read.
        """
        name = self._found.labels_name
        try:
            return None if name is None else self._read_labels(name)
        except (OSError, ValueError) as error:
            raise DataError(f"{self.path}: {name} cannot be read ({reason(error)}); repair or remove it") from error

    def _use(self, found: FoundFiles, labels: str | None) -> None:
        """Take what else was found, and the labels that ``--labels`` asks for."""
        self._found = found
        self.labels = choose_labels(
            labels, self.path, own=lambda: dataset_json(found, self.path, lambda _: self.labels_file()),
            names=self.names, count=self.count,
        )  # fmt: skip
        self._others, self._unread = found.others, found.unread
