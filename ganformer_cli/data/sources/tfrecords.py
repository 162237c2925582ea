"""TFRecords of images, as StyleGAN, the GANsformer's authors and many others write them; in a folder or in a zip."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO

from ganformer_cli.data.file_kinds import UnreadFiles, is_hidden
from ganformer_cli.data.limits import MAX_FILE_BYTES, too_large
from ganformer_cli.data.sources.base import (
    DAMAGED,
    READ_ERRORS,
    BrokenArchiveError,
    Item,
    Labels,
    Pixels,
    StreamedSource,
    file_state,
    files_fingerprint,
    reason,
    shown,
)
from ganformer_cli.data.sources.folders import walk
from ganformer_cli.data.sources.label_values import MAX_CLASSES
from ganformer_cli.data.sources.labels import NumberedLabels, choose_labels, read_npy
from ganformer_cli.data.sources.records import RecordReader, image_of
from ganformer_cli.data.zips import checked_member, open_zip
from ganformer_cli.errors import DataError
from ganformer_cli.files import open_regular

_NAME = re.compile(
    r"(?P<base>.*?)(?:-r(?P<level>\d\d))?(?P<suffix>\.tfrecords?)?"
    r"(?:(?P<part>\d+)of(?P<parts>\d+)|-(?P<part0>\d+)-of-(?P<parts0>\d+))?(?P<end>\.tfrecords?)?"
)
_PROBED = 8  # records that are looked at to see whether images have labels


@dataclass(frozen=True, order=True)
class Part:
    """What the name of a file of TFRecords says."""

    base: str
    level: int  # the images' side is 2**level; 0 where it is not said
    parts: int  # of how many it is one; 0 where it is not said
    number: int  # which; counted from `first`
    name: str
    first: int


def part_of(name: str) -> Part | None:
    """What a file's name says; None where it is not that of TFRecords."""
    found = _NAME.fullmatch(name)
    if found is None or not (found["suffix"] or found["end"] or found["parts0"]):
        return None
    first = 0 if found["part0"] else 1
    number, parts = found["part"] or found["part0"] or 0, found["parts"] or found["parts0"] or 0
    return Part(found["base"], int(found["level"] or 0), int(parts), int(number), name, first)


class FolderFiles:
    """The files of a folder, or one of them with its labels."""

    can_seek = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self._only = None if path.is_dir() else path.name
        self._folder = path if self._only is None else path.parent

    def names(self) -> list[str]:
        """All files, hidden ones left out."""
        if self._only is None:
            return list(walk(self._folder))
        part = part_of(self._only)
        beside = [f"{part.base}{end}" for end in ("-rxx.labels", ".labels")] if part is not None else []
        return [self._only, *(name for name in beside if (self._folder / name).is_file())]

    def open(self, name: str) -> IO[bytes]:
        return open_regular(self._folder / name)

    def size(self, name: str) -> int:
        return (self._folder / name).stat().st_size

    def state(self, name: str) -> str:
        return file_state(self._folder / name)

    def close(self) -> None:
        """Do nothing: no file is held open."""


class ZipFiles:
    """The files of a zip."""

    can_seek = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip = open_zip(path)

    def names(self) -> list[str]:
        return sorted({name for name in self._zip.namelist() if not name.endswith("/") and not is_hidden(name)})

    def open(self, name: str) -> IO[bytes]:
        return self._zip.open(checked_member(self._zip, self.path, name))

    def size(self, name: str) -> int:
        return self._zip.getinfo(name).file_size

    def state(self, name: str) -> str:
        return f"{self.size(name)} {self._zip.getinfo(name).CRC}"

    def close(self) -> None:
        self._zip.close()


class TfrecordsSource(StreamedSource):
    """The images in files of TFRecords, file by file."""

    format = "tfrecords"
    _in_records = False  # whether classes are read from the records

    def __init__(self, store: FolderFiles | ZipFiles, resolution: int | None, labels: str | None) -> None:
        """
        Args:
            resolution: of files of several resolutions, that with images of this size is taken, else the next
                larger, else the largest; None: the largest.
        """
        self.path = store.path
        self._store = store
        self.passing_is_cheap = store.can_seek
        names = store.names()
        labels_files = [name for name in names if name.endswith(".labels")]
        self._files = [name for name in names if not name.endswith(".labels")]
        self._unread = UnreadFiles()
        if len(self._files) > 1:
            parts = [part for name in self._files if (part := part_of(name)) is not None]
            self._others = len(self._files) - len(parts)
            for name in self._files:
                if part_of(name) is None:
                    self._unread.add_beside(name)
            self._files = [part.name for part in _chosen(parts, self.path, resolution)]
        own = partial(self._own_labels, labels_files)
        self.labels = choose_labels(labels, self.path, own=own, count=self.count)
        self._in_records = labels is None and self.labels.kind is None and self._has_classes()
        if self._in_records:
            self.labels = Labels("classes")

    def _own_labels(self, names: list[str]) -> Labels | None:
        """StyleGAN's: numpy's format, one label an image in order."""
        if not names:
            return None
        where = f"{self.path}: {names[0]}"
        if len(names) > 1:
            raise DataError(f"{where} and {names[1]} both hold labels; keep one, or choose --labels FILE")
        try:
            with self._store.open(names[0]) as stream:
                values = read_npy(stream)
        except READ_ERRORS as error:
            raise DataError(f"{where} cannot be read ({reason(error)}); download it again") from error
        return NumberedLabels(values, where) if values.size else None

    def _has_classes(self) -> bool:
        """Whether one of the first records gives its image a class."""
        self._in_records = True
        return any(item is not None and item.label is not None for item in islice(self.items(), _PROBED))

    def scan(self, wanted: Callable[[int], bool]) -> Iterator[Item | None]:
        number = 0
        for name in self._files:
            for item in self._scan_file(name, number, wanted):
                yield item
                number += 1

    def _scan_file(self, name: str, number: int, wanted: Callable[[int], bool]) -> Iterator[Item | None]:
        """The images of one file, the first of which has this number. Damage ends it, and not the files behind it."""
        first = number
        try:
            with self._store.open(name) as stream:
                reader = RecordReader(stream, self._store.size(name) if self._store.can_seek else None)
                while (length := reader.next()) is not None:
                    item = None
                    if wanted(number):
                        item = self._read(reader, length, number, f"{shown(name)}[{number - first}]")
                    yield item
                    number += 1
                    if item is not None and item.error.startswith(DAMAGED):
                        return
        except (BrokenArchiveError, *READ_ERRORS) as error:
            if not getattr(error, "inside", False):  # else the item before was it
                why = f"{DAMAGED}: {reason(error)}"
                yield Item(f"{shown(name)}[{number - first}]", None, None, why) if wanted(number) else None

    def _read(self, reader: RecordReader, length: int, number: int, name: str) -> Item:
        label: int | None = None

        def read() -> bytes | Pixels:
            nonlocal label
            if length > MAX_FILE_BYTES:
                raise ValueError(too_large(length))
            data, label = image_of(reader.read())
            return data

        item = self._item(number, name, read)
        in_range = label is not None and 0 <= label < MAX_CLASSES
        return replace(item, label=label) if self._in_records and in_range else item

    def fingerprint(self) -> str:
        states = ((name, self._store.state(name)) for name in self._files)
        return files_fingerprint(self.labels.fingerprint().encode(), states)

    def close(self) -> None:
        self._store.close()


def _chosen(parts: list[Part], path: Path, resolution: int | None) -> list[Part]:
    """The files of one resolution, part after part."""
    levels = sorted({part.level for part in parts})
    if not levels:
        raise DataError(f"{path} holds no files of TFRecords (NAME-r08.tfrecords or the like); give the file itself")
    level = levels[-1] if resolution is None else next((x for x in levels if 2**x >= resolution), levels[-1])
    chosen = sorted(part for part in parts if part.level == level)
    groups: dict[tuple[str, int, int], set[int]] = {}
    for part in chosen:
        groups.setdefault((part.base, part.parts, part.first), set()).add(part.number)
    for (base, count, first), numbers in groups.items():
        missing = set(range(first, first + count)) - numbers
        if count and missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise DataError(
                f"{path}: of the {count} files of {base}, number {min(missing)} is missing{more}; get it, "
                f"or give one file by itself"
            )
    return chosen
