"""A folder of images, with all below it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from ganformer_cli.data.file_kinds import FileKind, ImageSelection, UnreadFiles, is_hidden, start_of
from ganformer_cli.data.labels_finder import LabelsFinder
from ganformer_cli.data.limits import MAX_FILE_BYTES, too_large
from ganformer_cli.data.manifest import DATASET_JSON
from ganformer_cli.data.sources.base import Item, Labels, StreamedSource, file_state, files_fingerprint, reason, shown
from ganformer_cli.data.sources.labels import choose_labels, dataset_json
from ganformer_cli.errors import DataError
from ganformer_cli.files import open_regular, read_regular


class FolderSource(StreamedSource):
    """Every image below a folder, in the order of the full names. Linked folders are followed, each once."""

    format = "folder"

    def __init__(self, path: Path, selection: ImageSelection, labels: str | None) -> None:
        """
        Raises:
            DataError: a folder cannot be read, or the labels cannot be used.
        """
        self.path = path
        self._selection = selection
        self._dataset_json: str | None = None  # where it lies
        self.use(choose_labels(labels, path, own=self._own_labels, names=self._names, count=self.count))

    def _own_labels(self) -> Labels | None:
        finder = LabelsFinder()
        if (self.path / DATASET_JSON).exists():
            finder.see_file(DATASET_JSON)
        else:
            self._look_through(finder)
        self._dataset_json, labels = dataset_json(finder, self.path, lambda name: read_regular(self.path / name))
        return labels

    def _names(self) -> Iterator[str]:
        return (name for name in walk(self.path) if self._kind(name) is FileKind.IMAGE)

    def _kind(self, name: str) -> FileKind:
        return self._selection.kind(name, lambda: start_of(self.path / name))

    def count(self) -> int:
        if self._count is None:
            self._look_through()
        return self._count or 0

    def others(self) -> int:
        self.count()
        return self._others - (self._dataset_json not in (None, DATASET_JSON))

    def unread_files(self) -> UnreadFiles:
        self.count()
        return self._leftover

    def _look_through(self, finder: LabelsFinder | None = None) -> None:
        """Count what there is; ``finder`` sees all names."""
        images = others = 0
        self._leftover = UnreadFiles()
        for name in walk(self.path):
            if (kind := self._kind(name)) is FileKind.IMAGE:
                images += 1
                if finder is not None:
                    finder.see_image(name)
            elif name != DATASET_JSON:
                others += 1
                self._leftover.add(name, kind)
                if finder is not None:
                    finder.see_file(name)
        self._count, self._others = images, others

    def scan(self, wanted: Callable[[int], bool]) -> Iterator[Item | None]:
        for number, name in enumerate(self._names()):
            yield self._read(number, name) if wanted(number) else None

    def _read(self, number: int, name: str) -> Item:
        label = self._label(number, name)
        try:
            data = read_file(self.path / name)
        except (OSError, ValueError) as error:
            return Item(shown(name), None, label, reason(error))
        return Item(shown(name), data, label)

    def fingerprint(self) -> str:
        states = ((name, file_state(self.path / name)) for name in self._names())
        return files_fingerprint(self._labels_fingerprint().encode(), states)


def walk(root: Path) -> Iterator[str]:
    """The files below ``root`` in the order of their full names, hidden ones left out: with forward slashes.

    One listing a level is in memory. Folders are followed through links, but each is visited once.

    Raises:
        DataError: a folder cannot be read.
    """
    seen: set[tuple[int, int]] = set()
    levels = [_listing(root, "", seen)]
    while levels:
        name = next(levels[-1], None)
        if name is None:
            levels.pop()
        elif name.endswith("/"):
            levels.append(_listing(root, name, seen))
        else:
            yield name


def _listing(root: Path, below: str, seen: set[tuple[int, int]]) -> Iterator[str]:
    """What lies in one folder, sorted; folders end in a slash, which is where they stand among full names."""
    folder = root / below
    names = []
    try:
        state = os.stat(folder)
        if (state.st_dev, state.st_ino) in seen:  # a link back up, or a second link to the same place
            return iter(())
        seen.add((state.st_dev, state.st_ino))
        with os.scandir(folder) as entries:
            for entry in entries:
                if not is_hidden(entry.name):
                    names.append(f"{entry.name}/" if _is_folder(entry) else entry.name)
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror or error}") from error
    names.sort()
    return (below + name for name in names)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def read_file(path: Path) -> bytes:
    """An image's file.

    Raises:
        OSError, ValueError: it cannot be read, or is no image's file.
    """
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > MAX_FILE_BYTES:
            raise ValueError(too_large(size))
        return stream.read()
