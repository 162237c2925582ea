"""WebDataset: tars in which the files of one sample follow one another and share a name up to its first dot."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from ganformer_cli.data.file_kinds import UnreadFiles, is_hidden
from ganformer_cli.data.image_formats import readable_suffixes
from ganformer_cli.data.sources.base import (
    DAMAGED,
    BrokenArchiveError,
    Item,
    Label,
    Labels,
    StreamedSource,
    file_state,
    files_fingerprint,
    shown,
)
from ganformer_cli.data.sources.label_values import MAX_CLASSES, class_of, is_name, is_number
from ganformer_cli.data.sources.labels import choose_labels
from ganformer_cli.data.sources.tars import Member, TarReader
from ganformer_cli.errors import DataError
from ganformer_cli.files import parse_json

LABEL_EXTENSIONS = frozenset({"cls", "json"})
_PROBED = 256  # files that are looked at to see what a shard holds
_SHARDS_PROBED = 8
_MAX_LABEL_BYTES = 1 << 24  # bytes
NAMES = "names"  # labels are texts, which stand for classes


class WebdatasetSource(StreamedSource):
    """The images of one tar or of several, shard after shard."""

    format = "webdataset"

    def __init__(self, path: Path, shards: list[str], beside: list[str], labels: str | None) -> None:
        """
        Args:
            path: a tar, or the folder of the shards.
            shards: names in the folder; none where ``path`` is a tar.
            beside: what else lies there.
        """
        self.path = path
        self._shards = shards
        self._beside = beside
        self._classes: dict[str, int] = {}  # by name
        self._kind: str | None = None  # of the labels that lie in the shards
        with TarReader(self._paths()[0][1]) as reader:
            self.passing_is_cheap = not reader.is_compressed
        self.labels = choose_labels(labels, path, count=self.count)
        if labels is None:
            kinds = (label_kind_of(shard) for _, shard in self._paths()[:_SHARDS_PROBED])
            self._kind = next((kind for kind in kinds if kind is not None), None)
            self.labels = Labels(self._kind)
            if self._kind == NAMES:
                names = sorted(self._names_in_shards())
                self.labels = Labels("classes", names, width=len(names))
                self._classes = {name: number for number, name in enumerate(names)}

    def _names_in_shards(self) -> set[str]:
        """The texts that stand for classes in all shards."""
        names: set[str] = set()
        for _, path in self._paths():
            with TarReader(path) as reader, contextlib.suppress(BrokenArchiveError):
                for member in reader:
                    if _is_label(member) and not is_hidden(member.name):
                        label = _label(_split(member.name)[1], reader.read())
                        names |= {label} if isinstance(label, str) else set()
                    if len(names) > MAX_CLASSES:
                        raise DataError(f"{path}: more than {MAX_CLASSES} texts as labels; try --labels none")
        return names

    def _paths(self) -> list[tuple[str, Path]]:
        """What stands before the names of each shard's images, and where it lies."""
        return [(f"{name}/", self.path / name) for name in self._shards] or [("", self.path)]

    def others(self) -> int:
        self.count()
        return self._others

    def unread_files(self) -> UnreadFiles:
        self.count()
        return self._unread

    def scan(self, wanted: Callable[[int], bool]) -> Iterator[Item | None]:
        number, self._others = 0, len(self._beside)
        self._unread = UnreadFiles()
        for name in self._beside:
            self._unread.add_beside(name)
        for before, path in self._paths():
            for item in self._scan_shard(before, path, number, wanted):
                yield item
                number += 1

    def _scan_shard(self, before: str, path: Path, number: int, wanted: Callable[[int], bool]) -> Iterator[Item | None]:
        """The images of one shard, the first of which has this number. Damage ends it, and not those behind it."""
        sample: _Sample | None = None
        with TarReader(path) as reader:
            try:
                for member in reader:
                    key, extension = _split(member.name)
                    if is_hidden(member.name):
                        continue
                    if sample is None or sample.key != key:
                        images = self._finish(sample, before, number)
                        yield from images
                        number += len(images)
                        sample = _Sample(key, wanted(number))
                    if is_image_extension(extension) and sample.image is None:
                        sample.take(member, reader)
                    elif extension in LABEL_EXTENSIONS:
                        sample.take_label(extension, member, reader)
                    else:
                        self._others += 1
                        sample.others.append(member.name)
            except BrokenArchiveError as error:
                if sample is not None and sample.image is not None:
                    if error.inside:  # what was broken is part of this sample
                        sample.data, sample.error = None, f"{DAMAGED}: {error}"
                    yield from self._finish(sample, before, number)
                    number += 1
                    if error.inside:
                        return
                yield Item(f"{before}image {number}", None, None, f"{DAMAGED}: {error}") if wanted(number) else None
                return
        yield from self._finish(sample, before, number)

    def _finish(self, sample: _Sample | None, before: str, number: int) -> list[Item | None]:
        """The image of a sample of which all was seen; none where there is none, and its files are counted instead."""
        if sample is None:
            return []
        if sample.image is None:
            for name in sample.others:
                self._unread.add_beside(name)
            return []
        if not sample.wanted:
            return [None]
        name = f"{before}{sample.image}"
        label = self.labels.of(number, name)
        if self._kind is not None and _kind(sample.label) == self._kind:
            own = sample.label
            label = self._classes.get(own) if isinstance(own, str) else own
        return [Item(shown(name), sample.data, label, sample.error)]

    def fingerprint(self) -> str:
        states = ((name, file_state(path)) for name, path in self._paths())
        return files_fingerprint(self.labels.fingerprint().encode(), states)


class _Sample:
    """What was found so far of one sample."""

    def __init__(self, key: str, wanted: bool) -> None:
        self.key = key
        self.wanted = wanted  # whether to read it
        self.image: str | None = None  # its name
        self.data: bytes | None = None
        self.error = ""
        self.label: Label | str | None = None
        self.others: list[str] = []  # names of what is neither image nor label

    def take(self, member: Member, reader: TarReader) -> None:
        self.image = member.name
        if self.wanted:
            self.error = member.fault
            self.data = None if self.error else reader.read()

    def take_label(self, extension: str, member: Member, reader: TarReader) -> None:
        if self.wanted and not member.problem and member.size <= _MAX_LABEL_BYTES:
            label = _label(extension, reader.read())
            self.label = label if self.label is None else self.label


def label_kind_of(path: Path) -> str | None:
    """What labels lie beside the images at the beginning of a tar: "classes", "vectors", or None without any."""
    images: set[str] = set()
    kinds: dict[str, str] = {}
    with TarReader(path) as reader, contextlib.suppress(BrokenArchiveError):
        for member in islice(reader, _PROBED):
            key, extension = _split(member.name)
            if is_image_extension(extension):
                images.add(key)
            elif _is_label(member) and (kind := _kind(_label(extension, reader.read()))) is not None:
                kinds.setdefault(key, kind)
    return next((kind for key, kind in kinds.items() if key in images), None)


def is_image_extension(extension: str) -> bool:
    """Whether files of this extension (without the dot) are a sample's image."""
    return f".{extension}" in readable_suffixes()


def _split(name: str) -> tuple[str, str]:
    """Key and extension of a file: ``a/b.seg.png`` is ``a/b`` and ``seg.png``."""
    folder, slash, file = name.rpartition("/")
    key, _, extension = file.partition(".")
    return folder + slash + key, extension.lower()


def _is_label(member: Member) -> bool:
    """Whether this is the label of a sample, and can be read."""
    return _split(member.name)[1] in LABEL_EXTENSIONS and not member.problem and member.size <= _MAX_LABEL_BYTES


def _label(extension: str, data: bytes) -> Label | str | None:
    """A class, its name, or a vector; None if it is none of them."""
    try:
        value: Any = data.decode("utf-8-sig").strip() if extension == "cls" else parse_json(data, "label")
    except (ValueError, DataError):
        return None
    if isinstance(value, dict):
        value = value.get("label", value.get("class"))
    if (number := class_of(value)) is not None:
        return number
    if isinstance(value, list) and value and all(map(is_number, value)):
        return tuple(float(x) for x in value)
    return value if isinstance(value, str) and is_name(value) else None


def _kind(label: Label | str | None) -> str | None:
    if isinstance(label, str):
        return NAMES
    return None if label is None else "classes" if isinstance(label, int) else "vectors"
