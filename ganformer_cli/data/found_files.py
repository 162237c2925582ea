"""What lies in a folder or an archive, gone through file by file: its images, its labels, and what else there is."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterable
from pathlib import Path

from ganformer_cli.data.file_kinds import FileKind, ImageSelection, UnreadFiles
from ganformer_cli.data.manifest import DATASET_JSON
from ganformer_cli.errors import DataError


class FoundFiles:
    """Sorts files by their names, which have forward slashes.

    Attributes:
        others: files that are no images, labels that are used not counted.
        unread: the unexpected ones among them.
        labels_name: the ``dataset.json`` that :meth:`find_labels` has found.
    """

    def __init__(self, selection: ImageSelection) -> None:
        self.others = 0
        self.unread = UnreadFiles()
        self.labels_name: str | None = None
        self._selection = selection
        self._labels: list[str] = []  # every dataset.json
        self._around: list[str] | None = None  # folders that all images lie in

    def is_image(self, name: str, start: Callable[[], bytes]) -> bool:
        """Take the next file, and say whether it is an image; ``start`` gives its first bytes."""
        kind = self._selection.kind(name, start)
        if kind is FileKind.IMAGE:
            self.add_image(name)
        else:
            self.add_other(name, kind)
        return kind is FileKind.IMAGE

    def add_image(self, name: str) -> None:
        folders = name.split("/")[:-1]
        self._around = list(os.path.commonprefix([folders if self._around is None else self._around, folders]))

    def add_other(self, name: str, kind: FileKind, *, may_be_labels: bool = True) -> None:
        self.others += name != DATASET_JSON or not may_be_labels
        self.unread.add(name, kind)
        if may_be_labels and name.rpartition("/")[2] == DATASET_JSON:
            self._labels.append(name)

    def find_labels(self, source: Path) -> str | None:
        """The ``dataset.json`` that lies at the top, or else in a folder that all images lie in; None without one.

        Raises:
            DataError: there are several.
        """
        around = "".join(f"{folder}/" for folder in self._around or [])
        found = sorted({name for name in self._labels if around.startswith(name.removesuffix(DATASET_JSON))})
        if DATASET_JSON in found:
            found = [DATASET_JSON]
        if len(found) > 1:
            raise DataError(f"{source}: {found[0]} and {found[1]} both hold labels; say which with --labels FILE")
        if found:
            self.labels_name = found[0]
            self.others -= self.labels_name != DATASET_JSON
        return self.labels_name

    def note(self) -> str | None:
        """What to say where there is a ``dataset.json`` that is not used."""
        if self.labels_name is not None or not self._labels:
            return None
        return (
            f"{self._labels[0]} is not used, because there are images outside of its folder; prepare that folder by "
            "itself, or name the file with --labels"
        )


class NameList:
    """Names in one block of memory: a few bytes more than their letters take."""

    def __init__(self, names: Iterable[str]) -> None:
        text, self._ends = bytearray(), array("Q", [0])
        for name in names:
            text += name.encode("utf-8", "surrogatepass")
            self._ends.append(len(text))
        self._text = bytes(text)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, number: int) -> str:
        return self._text[self._ends[number] : self._ends[number + 1]].decode("utf-8", "surrogatepass")
