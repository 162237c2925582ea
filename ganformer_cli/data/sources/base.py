"""What every source of images can do: say how many there are, and hand them over one by one in a fixed order."""

from __future__ import annotations

import abc
import hashlib
import importlib
import lzma
import os
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy.typing as npt

from ganformer_cli.data.file_kinds import ImageSelection, UnreadFiles
from ganformer_cli.data.image_formats import readable_suffixes
from ganformer_cli.data.sources.label_values import LabelValues
from ganformer_cli.errors import DataError

Pixels = npt.NDArray[Any]  # uint8, uint16 or floating point; see images.from_pixels
Label = int | tuple[float, ...]

# What --format names.
SOURCE_FORMATS = ("png", "jpg", "zip", "tar", "npy", "hdf5", "tfds", "lmdb", "tfrecords", "webdataset")
# What reading a damaged or protected zip, array or stream raises: each kind of compression has errors of its own, and
# numpy reads an array's header as Python.
READ_ERRORS = (
    OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, SyntaxError,
    tokenize.TokenError,
)  # fmt: skip
DAMAGED = "the archive is damaged here"  # how the error of the last item of a damaged archive begins

_Self = TypeVar("_Self", bound="Source")


@dataclass(frozen=True)
class Item:
    """One image of a source."""

    name: str  # relative, with forward slashes; how messages name it
    data: bytes | Pixels | None  # an image file, or pixels [H, W, C] with C in 1, 3, 4; None if it could not be read
    label: Label | None = None
    error: str = ""  # why data is None: a few words, the same on every run


class Labels(abc.ABC):
    """The labels of a source, by an image's number or its name."""

    kind: str | None = None  # "classes" or "vectors"; None: there are none after all
    class_names: list[str] | None = None
    class_count: int | None = None  # where it is known beyond the largest class that an image has
    width: int = 0  # classes, or numbers of a vector

    def __init__(self, *notes: str) -> None:
        self.notes = list(notes)  # what the user should know of how they were read
        self.faults: list[str] = []  # what is wrong with them, and no obstacle unless it is to be (--strict)

    def describe(self, found: LabelValues, where: str) -> None:
        """Take kind, classes and width from what was read from ``where``."""
        self.kind, self.class_names, self.class_count = found.kind, found.class_names, found.class_count
        self.width = found.width
        self.notes += [f"{where}: {found.note}"] if found.note else []

    @abc.abstractmethod
    def of(self, number: int, name: str) -> Label | None:
        """The label of image ``number``, called ``name``; None where it has none."""

    @abc.abstractmethod
    def fingerprint(self) -> str:
        """Changes with the labels."""


class Source(abc.ABC):
    """Images in a fixed order. A context manager; iterated by one thread at a time."""

    path: Path
    format: str  # "folder", "zip", "tar", "npy", "npz", "hdf5", "lmdb", "tfrecords", "webdataset", "tfds"
    label_kind: str | None = None  # None, "classes" or "vectors". An item of a labelled source may still have none
    class_names: list[str] | None = None  # sorted; label i is class_names[i]
    class_count: int | None = None  # where it is known beyond the largest class that an image has
    label_width: int | None = None  # classes, or numbers of a vector, as far as is known beforehand
    label_example: str = ""  # a name that the labels give an image, where they go by name
    label_notes: Sequence[str] = ()  # what the user should know of how the labels were read
    label_faults: Sequence[str] = ()  # what is wrong with them, and an error under --strict

    @abc.abstractmethod
    def count(self) -> int:
        """The number of items, before any is decoded. May take a pass over headers, and is cached."""

    @abc.abstractmethod
    def others(self) -> int:
        """How many other files there are, hidden ones not counted."""

    def unread_files(self) -> UnreadFiles:
        """The unexpected ones among the other files, counted by suffix."""
        return UnreadFiles()

    @abc.abstractmethod
    def items(self, start: int = 0) -> Iterator[Item]:
        """The images from number ``start`` on, lazily and in bounded memory."""

    def samples(self, most: int) -> Iterator[Item]:
        """At most ``most`` images, spread over the source where that is cheap, else the first ones."""
        return islice(self.items(), most)

    @abc.abstractmethod
    def fingerprint(self) -> str:
        """sha256, hexadecimal, of names, sizes and times of the files: no image is read."""

    def close(self) -> None:  # noqa: B027 (some hold nothing open)
        """Close the files, and delete what was unpacked."""

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class LabelledSource(Source):
    """A source whose labels, if any, are looked up by number or name."""

    _labels: Labels | None = None
    _others = 0  # files that are no images
    _leftover = UnreadFiles()  # the unexpected ones among them; who counts any has an object of its own

    def use(self, labels: Labels | None) -> None:
        """Give the images these labels."""
        self._labels = None if labels is None or labels.kind is None else labels
        if labels is not None:
            self.label_kind, self.class_names, self.class_count = labels.kind, labels.class_names, labels.class_count
            self.label_width, self.label_example = labels.width, getattr(labels, "example", "")
            self.label_notes, self.label_faults = labels.notes, labels.faults

    def _label(self, number: int, name: str) -> Label | None:
        return None if self._labels is None else self._labels.of(number, name)

    def _labels_fingerprint(self) -> str:
        return "" if self._labels is None else self._labels.fingerprint()

    def others(self) -> int:
        return self._others

    def unread_files(self) -> UnreadFiles:
        return self._leftover

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self._state()} {self._labels_fingerprint()}".encode()).hexdigest()

    def _state(self) -> str:
        """Changes with the images."""
        return file_state(self.path)


class IndexedSource(LabelledSource):
    """A source where every image can be reached at once."""

    @abc.abstractmethod
    def item(self, number: int) -> Item:
        """Image ``number``."""

    def items(self, start: int = 0) -> Iterator[Item]:
        return (self.item(number) for number in range(start, self.count()))

    def samples(self, most: int) -> Iterator[Item]:
        return (self.item(number) for number in spread(self.count(), most))


class StreamedSource(LabelledSource):
    """A source that is gone through from its beginning, images that are not wanted being passed over."""

    passing_is_cheap = True  # whether samples may lie anywhere, because passing over an image does not read it
    _count: int | None = None

    @abc.abstractmethod
    def scan(self, wanted: Callable[[int], bool]) -> Iterator[Item | None]:
        """Every image in order: an item where its number is wanted, None where it is not."""

    def count(self) -> int:
        if self._count is None:
            self._count = sum(1 for _ in self.scan(lambda _: False))
        return self._count

    def items(self, start: int = 0) -> Iterator[Item]:
        return (item for item in self.scan(lambda number: number >= start) if item is not None)

    def samples(self, most: int) -> Iterator[Item]:
        numbers = set(spread(self.count(), most)) if self.passing_is_cheap else set(range(most))
        return islice((item for item in self.scan(numbers.__contains__) if item is not None), len(numbers))


def file_state(path: Path) -> str:
    """Size and time of a file, or that there is none."""
    try:
        state = path.stat()
    except OSError:
        return "missing"
    return f"{state.st_size} {state.st_mtime_ns}"


def files_fingerprint(start: bytes, states: Iterable[tuple[str, str]]) -> str:
    """sha256, hexadecimal, of ``start`` and of the name and state of each file."""
    digest = hashlib.sha256(start)
    for name, state in states:
        digest.update(f"{name}\0{state}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def spread(count: int, most: int) -> list[int]:
    """At most ``most`` numbers below ``count``, evenly spread, ascending."""
    if count <= most:
        return list(range(count))
    return [number * count // most for number in range(most)]


def has_image_suffix(name: str) -> bool:
    """Whether a file is called as an image is."""
    return os.path.splitext(name)[1].lower() in readable_suffixes()


def wanted_images(format: str | None) -> ImageSelection:
    """Which files are images: all that can be read, or those called as ``png`` or ``jpg`` are."""
    return ImageSelection({"png": frozenset({".png"}), "jpg": frozenset({".jpg", ".jpeg"})}.get(format or ""))


def shown(name: str) -> str:
    """A file's name as text that can be written as UTF-8: bytes that were none are spelt out."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def reason(error: BaseException) -> str:
    """Why something cannot be read, in a few words that are the same on every machine and run."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    text = " ".join(str(error).split())
    return text[:200] or type(error).__name__


class MissingLibraryError(DataError):
    """What is given needs a library that is not installed."""


def import_library(module: str, path: Path, install: str) -> Any:
    """An optional library.

    Raises:
        DataError: it is not installed; the message says what needs it and how to get it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingLibraryError(f"{path} needs the library {module}: pip install {install}") from error
