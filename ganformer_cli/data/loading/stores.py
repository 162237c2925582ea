"""Images of one size where they lie, read by number, with the labels of StyleGAN's ``dataset.json``.

They lie in what ``ganformer prepare`` made, or in a zip or a folder in StyleGAN's layout.
"""

from __future__ import annotations

import abc
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from ganformer_cli.config.names import quoted
from ganformer_cli.data.file_kinds import FileKind, ImageSelection, UnreadFiles, start_of, unread_text
from ganformer_cli.data.images import Decoding, ImageArray, decode, has_several_frames, open_image, upright_size
from ganformer_cli.data.labels_finder import LabelsFinder
from ganformer_cli.data.limits import MAX_LABELS_BYTES
from ganformer_cli.data.manifest import DATASET_JSON, MANIFEST, image_name
from ganformer_cli.data.sources.base import files_fingerprint
from ganformer_cli.data.sources.folders import read_file, walk
from ganformer_cli.data.zips import FilePool, ZipIndex, read_zip_entry
from ganformer_cli.errors import DataError
from ganformer_cli.files import read_regular, why_no_file
from ganformer_cli.text import printable

_LOOKED_AT = 64  # images whose size is looked at when a set without a manifest is opened


class Store(abc.ABC):
    """Images in the order of their names. Safe for threads, and to send to a process."""

    decoding = Decoding()
    fitted: tuple[int, int] | None = None  # (height, width) to crop and shrink each to; None keeps its own

    several_frames = False  # whether some of those that were looked at are animations or have several pages

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self.path = path
        self.names = names  # relative, with forward slashes

    @abc.abstractmethod
    def read(self, index: int) -> bytes:
        """The file of image ``index``.

        Raises:
            OSError, ValueError: it cannot be read.
        """

    def close(self) -> None:  # noqa: B027 (a folder has nothing to let go of)
        """Let go of the file; it is opened again when needed."""

    def where(self, index: int) -> str:
        """Image ``index`` as a message names it."""
        return f"{self.path}: {self.names[index]}"

    def image(self, index: int) -> ImageArray:
        """Image ``index`` decoded: uint8 [3, height, width], RGB.

        Raises:
            DataError: it cannot be read.
        """
        try:
            pixels = np.asarray(decode(self.read(index), self.decoding, self.fitted))
        except Exception as error:  # a damaged archive can break its reader in any way
            raise DataError(f"{self.where(index)} cannot be read ({error}); {self._remedy}") from error
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))

    _remedy = "repair or remove it, or make a data set of the readable ones with: ganformer prepare"

    def sizes(self) -> dict[tuple[int, int], int]:
        """Height and width of some of the images as they are meant to be seen, each with the first that has it.

        Raises:
            DataError: one cannot be read.
        """
        found: dict[tuple[int, int], int] = {}
        for index in self._some():
            try:
                with open_image(self.read(index)) as image:
                    found.setdefault(upright_size(image), index)
                    self.several_frames = self.several_frames or has_several_frames(image)
            except Exception as error:
                raise DataError(f"{self.where(index)} cannot be read ({error}); {self._remedy}") from error
        return found

    def _some(self) -> list[int]:
        count = len(self.names)
        return sorted({i * (count - 1) // max(1, _LOOKED_AT - 1) for i in range(_LOOKED_AT)})

    def common_size(self) -> tuple[int, int]:
        """Height and width that the images share, as far as a look at some of them shows.

        Raises:
            DataError: they differ, or one cannot be read.
        """
        sizes = self.sizes()
        for index in self._some():  # decoded, so that a damaged one is found before training
            sizes.setdefault(self.image(index).shape[1:], index)
        if len(sizes) > 1:
            raise self.several(sizes)
        return next(iter(sizes))

    def several(self, sizes: Mapping[tuple[int, int], int]) -> DataError:
        """The error that the images have several sizes."""
        (first, a), (second, b) = list(sizes.items())[:2]
        return DataError(
            f"{self.path} has images of several sizes ({self.names[a]}: {first[1]}x{first[0]}, {self.names[b]}: "
            f"{second[1]}x{second[0]}); make a data set of them with: ganformer prepare {quoted(str(self.path))}"
        )


class PlainStore(Store):
    """Images that are not prepared."""

    labels_name: str | None = None  # where the labels lie
    labels_note: str | None = None  # what to say of labels that are not used
    unread_files = UnreadFiles()  # those of the others that are not expected beside images
    others = 0  # how many files beside them are not images

    def _select(self, path: Path, files: Iterable[tuple[str, Callable[[], bytes]]]) -> list[int]:
        """The places of the images among ``files``: their names, and what gives their first bytes."""
        self.unread_files = UnreadFiles()
        selection, finder, images = ImageSelection(), LabelsFinder(), []
        for number, (name, start) in enumerate(files):
            kind = selection.kind(name, start)
            if kind is FileKind.IMAGE:
                images.append(number)
                finder.see_image(name)
            else:
                self.others += 1
                self.unread_files.add(name, kind)
                finder.see_file(name)
        self.labels_name = finder.find(path)
        self.labels_note = finder.note(self.labels_name)
        self.others -= self.labels_name is not None
        return images

    def labels_file(self) -> bytes | None:
        """The file ``dataset.json`` at ``labels_name``, or None where there is none.

        Raises:
            DataError: it cannot be read, or is too large.
        """
        try:
            return None if self.labels_name is None else self._read_labels(self.labels_name)
        except (OSError, ValueError) as error:
            raise DataError(
                f"{self.path}: {self.labels_name} cannot be read ({printable(error)}); repair or remove it"
            ) from error

    @abc.abstractmethod
    def _read_labels(self, name: str) -> bytes:
        """That file."""

    @abc.abstractmethod
    def fingerprint(self) -> str:
        """sha256 that changes with the images; found without reading them all."""


class FolderStore(PlainStore):
    """Every image below a folder. Linked folders are followed, each once."""

    def __init__(self, path: Path) -> None:
        files = list(walk(path))
        numbers = self._select(path, ((name, partial(start_of, path / name)) for name in files))
        super().__init__(path, [files[number] for number in numbers])

    def read(self, index: int) -> bytes:
        return read_file(self.path / self.names[index])

    def _read_labels(self, name: str) -> bytes:
        return read_regular(self.path / name)

    def fingerprint(self) -> str:
        sizes = ((name, str((self.path / name).stat().st_size)) for name in self.names)
        return files_fingerprint(self.labels_file() or b"", sizes)


class ZipStore(PlainStore):
    """Every image in a zip."""

    def __init__(self, path: Path) -> None:
        self._zip = ZipIndex(path)
        starts = (partial(self._zip.start, number) for number in range(len(self._zip)))
        self._numbers = self._select(path, zip(self._zip.names(), starts, strict=True))
        super().__init__(path, [self._zip.name(number) for number in self._numbers])

    def read(self, index: int) -> bytes:
        return self._zip.read(self._numbers[index])

    def close(self) -> None:
        self._zip.close()

    def _read_labels(self, name: str) -> bytes:
        return self._zip.read(self._zip.find(name) or 0, MAX_LABELS_BYTES)

    def fingerprint(self) -> str:
        entries = zip(self.names, self._zip.entries[self._numbers], strict=True)
        states = ((name, f"{entry['size']} {entry['crc']}") for name, entry in entries)
        return files_fingerprint(self.labels_file() or b"", states)


class ShardStore(Store):
    """The zips of a prepared data set, read as one.

    Of each image a few numbers are kept, which lie in one block of memory for all: millions of images cost little,
    here and in every process that this is sent to.
    """

    _remedy = "prepare the data set again"

    def __init__(self, path: Path, shards: list[dict[str, Any]]) -> None:
        """
        Args:
            shards: as the manifest has them.

        Raises:
            DataError: a zip is missing, or is not what the manifest says.
        """
        self._files = FilePool()
        self._paths = [path / shard["file"] for shard in shards]
        self._starts = np.cumsum([0, *(shard["count"] for shard in shards)])
        self._entries = np.concatenate([
            _shard_entries(*each) for each in zip(self._paths, self._starts.tolist(), shards, strict=False)
        ])  # fmt: skip
        super().__init__(path, _ImageNames(len(self._entries)))

    def close(self) -> None:
        self._files.close()

    def read(self, index: int) -> bytes:
        return read_zip_entry(self._files, self._path(index), self._entries[index].item())

    def where(self, index: int) -> str:
        return f"{self._path(index)}: {self.names[index]}"

    def _path(self, index: int) -> Path:
        return self._paths[int(np.searchsorted(self._starts, index, "right")) - 1]


class _ImageNames(Sequence[str]):
    """The names of a prepared data set, made when they are asked for."""

    def __init__(self, count: int) -> None:
        self._range = range(count)

    def __len__(self) -> int:
        return len(self._range)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        chosen = self._range[index]
        return image_name(chosen) if isinstance(chosen, int) else [image_name(i) for i in chosen]


def _shard_entries(file: Path, first: int, shard: dict[str, Any]) -> npt.NDArray[Any]:
    """Where the images of a zip lie, of dtype :data:`ENTRY` [images]; the first of them is number ``first``."""
    count = shard["count"]
    names = chain(map(image_name, range(first, first + count)), [DATASET_JSON])
    try:
        zipped = ZipIndex(file)
        fits = file.stat().st_size == shard["bytes"] and len(zipped) == count + 1
        fits = fits and all(map(str.__eq__, zipped.names(), names))
    except FileNotFoundError:
        raise DataError(f"{file} does not exist; prepare it again") from None
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}") from error
    except zipfile.BadZipFile:
        fits = False
    if not fits:
        raise DataError(f"{file} does not match {file.parent / MANIFEST}: changed or cut short; prepare it again")
    return zipped.entries[:count]


def open_store(path: Path) -> PlainStore:
    """The images of folder or zip ``path``.

    Raises:
        DataError: there is nothing there, it is neither a folder nor a zip, or it holds no images.
    """
    store: PlainStore
    try:
        if path.is_dir():
            store = FolderStore(path)
        elif why := why_no_file(path):
            raise DataError(f"{path} {why}; give the path of a folder or a zip of images")
        else:
            store = _open_zip(path)
    except OSError as error:
        raise DataError(f"{error.filename or path} cannot be read: {error.strerror or error}") from error
    if not store.names:
        found = f"; the {store.others} files in it are something else" if store.others else ", it is empty"
        found += f" ({unread_text(store.unread_files.unread)})" if store.unread_files.unread else ""
        store.close()
        raise DataError(f"{path} holds no images{found}")
    return store


def _open_zip(path: Path) -> ZipStore:
    try:
        return ZipStore(path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise DataError(
            f"{path} is not a readable zip of images ({error}); make a data set of what you have with: "
            f"ganformer prepare"
        ) from error
