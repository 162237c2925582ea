"""A folder of images, with all below it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ganformer_cli.data.file_kinds import ImageSelection, is_hidden, start_of
from ganformer_cli.data.found_files import FoundFiles, NameList
from ganformer_cli.data.limits import MAX_FILE_BYTES, too_large
from ganformer_cli.data.sources.base import file_state, files_fingerprint
from ganformer_cli.data.sources.files import FileSource
from ganformer_cli.errors import DataError
from ganformer_cli.files import error_reason, open_regular, read_regular


class FolderSource(FileSource):
    """Every image below a folder, in the order of the full names. Linked folders are followed, each once."""

    format = "folder"

    def __init__(self, path: Path, selection: ImageSelection, labels: str | None) -> None:
        self.path = path
        found = FoundFiles(selection)
        self._names = NameList(name for name in walk(path) if found.is_image(name, partial(start_of, path / name)))
        self._use(found, labels)

    def count(self) -> int:
        return len(self._names)

    def name(self, number: int) -> str:
        return self._names[number]

    def read(self, number: int) -> bytes:
        return read_file(self.path / self._names[number])

    def state(self, number: int) -> str:
        return str((self.path / self._names[number]).stat().st_size)

    def _read_labels(self, name: str) -> bytes:
        return read_regular(self.path / name)

    def fingerprint(self) -> str:
        states = ((name, file_state(self.path / name)) for name in self.names())
        return files_fingerprint(self.labels.fingerprint().encode(), states)


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
        raise DataError(f"{folder} cannot be read: {error_reason(error)}") from error
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
