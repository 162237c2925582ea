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
from ganformer_cli.errors import DataError
from ganformer_cli.files import error_reason

Pixels = npt.NDArray[Any]  # uint8, uint16 or floating point; see images.from_pixels
Label = int | tuple[float, ...]

# What reading a damaged or protected zip, array or stream raises: each kind of compression has errors of its own, and
# numpy reads an array's header as Python.
READ_ERRORS = (
    OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, SyntaxError,
    tokenize.TokenError,
)  # fmt: skip
DAMAGED = "the archive is damaged here"  # how the error of the last item of a damaged archive begins

_Self = TypeVar("_Self", bound="Source")


class BrokenArchiveError(Exception):
    """Nothing can be read from here on."""

    def __init__(self, why: str, *, inside: bool) -> None:
        super().__init__(why)
        self.inside = inside  # whether the file before was there, but not all of it


class MissingLibraryError(DataError):
    """What is given needs a library that is not installed."""


@dataclass(frozen=True)
class Item:
    """One image of a source."""

    name: str  # relative, with forward slashes; how messages name it
    data: bytes | Pixels | None  # an image file, or pixels [H, W, C] with C in 1, 3, 4; None if it could not be read
    label: Label | None = None
    error: str = ""  # why data is None: a few words, the same on every run


class Labels:
    """The labels of a source. This class gives no image one: there are none, or the images bring them along."""

    def __init__(
        self,
        kind: str | None = None,
        class_names: list[str] | None = None,
        *,
        class_count: int | None = None,
        width: int = 0,
        notes: Sequence[str] = (),
    ) -> None:
        self.kind = kind  # None without labels, "classes" or "vectors". Some images may have none all the same
        self.class_names = class_names  # sorted; label i is class_names[i]
        self.class_count = class_count  # where it is known beyond the largest class that an image has
        self.width = width  # classes, or numbers of a vector, as far as is known beforehand
        self.example = ""  # a name that the labels give an image, where they go by name
        self.notes = list(notes)  # what the user should know of how they were read
        self.faults: list[str] = []  # what is wrong with them, and no obstacle unless it is to be (--strict)

    def of(self, number: int, name: str) -> Label | None:
        """The label of image ``number``, called ``name``; None where it has none."""
        return None

    def fingerprint(self) -> str:
        """Changes with the labels."""
        return ""


class Source(abc.ABC):
    """Images in a fixed order. A context manager; iterated by one thread at a time.

    Making one raises what :func:`~ganformer_cli.data.sources.opening.open_source` turns into its own errors.
    """

    path: Path
    format: str  # "folder", "zip", "tar", "npy", "npz", "hdf5", "lmdb", "tfrecords", "webdataset", "tfds"
    labels = Labels()
    _others = 0
    _unread = UnreadFiles()  # who counts any has an object of its own

    @abc.abstractmethod
    def count(self) -> int:
        """The number of items, before any is decoded. May take a pass over headers, and is cached."""

    def others(self) -> int:
        """How many other files there are, hidden ones not counted."""
        return self._others

    def unread_files(self) -> UnreadFiles:
        """The unexpected ones among the other files, counted by suffix."""
        return self._unread

    @abc.abstractmethod
    def items(self, start: int = 0) -> Iterator[Item]:
        """The images from number ``start`` on, lazily and in bounded memory."""

    def samples(self, most: int) -> Iterator[Item]:
        """At most ``most`` images, spread over the source where that is cheap, else the first ones."""
        return islice(self.items(), most)

    def fingerprint(self) -> str:
        """sha256, hexadecimal, of names, sizes and times of the files: no image is read."""
        return hashlib.sha256(f"{self._state()} {self.labels.fingerprint()}".encode()).hexdigest()

    def _state(self) -> str:
        """Changes with the images."""
        return file_state(self.path)

    def _item(self, number: int, name: str, read: Callable[[], bytes | Pixels]) -> Item:
        """Image ``number``, with what ``read`` gives, or why that fails."""
        label = self.labels.of(number, name)
        try:
            return Item(shown(name), read(), label)
        except BrokenArchiveError as error:
            return Item(shown(name), None, label, f"{DAMAGED}: {error}")
        except (OSError, ValueError) as error:
            return Item(shown(name), None, label, reason(error))

    def close(self) -> None:  # noqa: B027 (some hold nothing open)
        """Close the files, and delete what was unpacked."""

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class IndexedSource(Source):
    """A source where every image can be reached at once."""

    @abc.abstractmethod
    def item(self, number: int) -> Item:
        """Image ``number``."""

    def items(self, start: int = 0) -> Iterator[Item]:
        return map(self.item, range(start, self.count()))

    def samples(self, most: int) -> Iterator[Item]:
        return map(self.item, spread(self.count(), most))


class StreamedSource(Source):
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
    most = min(count, most)
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
        return error_reason(error).lower()
    text = " ".join(str(error).split())
    return text[:200] or type(error).__name__


def import_library(module: str, path: Path, install: str) -> Any:
    """An optional library, which ``path`` needs.

    Raises:
        MissingLibraryError: it is not installed; the message says what needs it and how to get it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingLibraryError(f"{path} needs the library {module}: pip install {install}") from error
