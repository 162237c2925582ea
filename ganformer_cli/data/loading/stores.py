"""Pictures of one size where they lie, read by number, with the labels of StyleGAN's ``dataset.json``.

They lie in what ``ganformer prepare`` made, or in a zip or a folder in StyleGAN's layout.
"""

from __future__ import annotations

import abc
import hashlib
import lzma
import os
import threading
import zipfile
import zlib
from array import array
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, overload

import numpy as np
import numpy.typing as npt

from ganformer_cli.config.names import quoted
from ganformer_cli.data.budgets import (
    LARGEST_FILE,
    LARGEST_SHARD_DIRECTORY,
    is_bomb,
    open_zip,
    read_labels_entry,
    unpacks_to,
)
from ganformer_cli.data.file_kinds import START, Kind, Leftover, Selection, describe, start_of
from ganformer_cli.data.images import (
    Decoding,
    UnusableError,
    decode,
    has_several_frames,
    open_image,
    shown_size,
)
from ganformer_cli.data.labels_finder import LabelsFinder
from ganformer_cli.data.manifest import LABELS, MANIFEST, image_name
from ganformer_cli.data.prepare.shards import read_directory
from ganformer_cli.errors import DataError
from ganformer_cli.files import open_regular, read_regular, why_no_file

Bytes = npt.NDArray[np.uint8]

_MOST_OPEN = 16  # zips of a data set at a time, of which it may have hundreds: systems allow each process so many
_LOCAL_HEADER = 30  # bytes of it before a zip entry's name
_LOOKED_AT = 64  # pictures whose size is looked at when a set without a manifest is opened


class Store(abc.ABC):
    """Pictures in the order of their names. Safe for threads, and to send to a process."""

    decoding = Decoding()
    fitted: tuple[int, int] | None = None  # (height, width) to crop and shrink each to; None keeps its own

    def __init__(self, path: Path, names: Sequence[str], others: int, leftover: Leftover | None = None) -> None:
        self.path = path
        self.names = names  # relative, with forward slashes
        self.others = others  # how many files beside them are not pictures
        self.leftover = leftover or Leftover()  # those of them that nobody expects there
        self.several_frames = False  # whether some of those that were looked at are animations or have several pages

    labels_name: str | None = None  # where the labels lie
    labels_note: str | None = None  # what to say of labels that are not used

    def _find_labels(self, path: Path, finder: LabelsFinder) -> None:
        self.labels_name = finder.find(path)
        self.labels_note = finder.note(self.labels_name)

    @abc.abstractmethod
    def read(self, index: int) -> bytes:
        """The file of picture ``index``.

        Raises:
            OSError, ValueError, zipfile.BadZipFile, RuntimeError, NotImplementedError: it cannot be read.
        """

    def close(self) -> None:  # noqa: B027 (a folder has nothing to let go of)
        """Let go of the file; it is opened again when needed."""

    def labels_file(self) -> bytes | None:
        """The file ``dataset.json`` at ``labels_name``, or None where there is none."""
        return None

    @abc.abstractmethod
    def size(self) -> int:
        """Bytes on disk: of the zip, or of all picture files."""

    @abc.abstractmethod
    def fingerprint(self) -> str:
        """sha256 that changes with the pictures; found without reading them all."""

    def where(self, index: int) -> str:
        """Picture ``index`` as a message names it."""
        return f"{self.path}: {self.names[index]}"

    def image(self, index: int) -> Bytes:
        """Picture ``index`` decoded: uint8 [3, height, width], RGB.

        Raises:
            DataError: it cannot be read.
        """
        try:
            pixels = np.asarray(decode(self.read(index), self.decoding, self.fitted))
        except UnusableError as error:
            raise DataError(f"{self.where(index)} cannot be read ({error}); {self._remedy}") from error
        except Exception as error:  # a damaged archive can break its reader in any way
            raise DataError(f"{self.where(index)} cannot be read ({error}); {self._remedy}") from error
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))

    _remedy = "mend or remove it, or make a data set of the readable ones with: ganformer prepare"

    def sizes(self) -> dict[tuple[int, int], int]:
        """Height and width of some of the pictures as they are meant to be seen, each with the first that has it.

        Raises:
            DataError: one cannot be read.
        """
        found: dict[tuple[int, int], int] = {}
        for index in self._some():
            try:
                with open_image(self.read(index)) as image:
                    found.setdefault(shown_size(image), index)
                    self.several_frames = self.several_frames or has_several_frames(image)
            except Exception as error:
                raise DataError(f"{self.where(index)} cannot be read ({error}); {self._remedy}") from error
        return found

    def _some(self) -> list[int]:
        count = len(self.names)
        return sorted({i * (count - 1) // max(1, _LOOKED_AT - 1) for i in range(_LOOKED_AT)})

    def common_size(self) -> tuple[int, int]:
        """Height and width that the pictures share, as far as a look at some of them shows.

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
        """The error that the pictures have several sizes."""
        (first, a), (second, b) = list(sizes.items())[:2]
        return DataError(
            f"{self.path} has pictures of several sizes ({self.names[a]}: {first[1]}x{first[0]}, {self.names[b]}: "
            f"{second[1]}x{second[0]}); make a data set of them with: ganformer prepare {quoted(str(self.path))}"
        )


class FolderStore(Store):
    """Every picture below a folder. Linked folders are followed, each once."""

    def __init__(self, path: Path) -> None:
        names: list[str] = []
        others, leftover, selection, finder = 0, Leftover(), Selection(), LabelsFinder()
        seen: set[tuple[int, int]] = set()
        for folder, folders, files in os.walk(path, followlinks=True, onerror=_raise):
            state = os.stat(folder)
            if (state.st_dev, state.st_ino) in seen:  # a link back up, or a second link to the same place
                folders.clear()
                continue
            seen.add((state.st_dev, state.st_ino))
            folders[:] = sorted(name for name in folders if not _hidden(name))
            below = Path(folder).relative_to(path)
            for name in files:
                if _hidden(name):
                    continue
                kind = selection.kind(name, partial(start_of, Path(folder) / name))
                if kind is Kind.IMAGE:
                    names.append((below / name).as_posix())
                elif name != LABELS:
                    others += 1
                    leftover.add(name, kind)
                else:
                    finder.see_file((below / name).as_posix())
        for name in names:
            finder.see_image(name)
        self._find_labels(path, finder)
        super().__init__(path, sorted(names), others, leftover)

    def read(self, index: int) -> bytes:
        with open_regular(self.path / self.names[index]) as stream:
            _check_size(os.fstat(stream.fileno()).st_size)
            return stream.read()

    def labels_file(self) -> bytes | None:
        return None if self.labels_name is None else read_regular(self.path / self.labels_name)

    def size(self) -> int:
        return sum((self.path / name).stat().st_size for name in self.names)

    def fingerprint(self) -> str:
        digest = hashlib.sha256(self.labels_file() or b"")
        for name in self.names:
            digest.update(f"{name}\0{(self.path / name).stat().st_size}\n".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


class ZipStore(Store):
    """Every picture in a zip. Nothing is ever unpacked to disk, so the names in it can do no harm."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._zip: zipfile.ZipFile | None = None
        self._process = 0
        self.path = path
        visible = [
            info
            for info in self._archive().infolist()
            if not info.is_dir() and not any(_hidden(part) for part in info.filename.split("/"))
        ]
        # Two entries may share a name; both count, in the order in which they lie.
        selection, leftover, chosen, finder = Selection(), Leftover(), [], LabelsFinder()
        for info in visible:
            kind = selection.kind(info.filename, partial(self._start, info))
            leftover.add(info.filename, kind)
            if kind is Kind.IMAGE:
                chosen.append(info)
                finder.see_image(info.filename)
            else:
                finder.see_file(info.filename)
        self._infos = sorted(chosen, key=lambda info: (info.filename, info.header_offset))
        self._find_labels(path, finder)
        self._labels = next((info for info in visible if info.filename == self.labels_name), None)
        others = len(visible) - len(chosen) - (self._labels is not None)
        super().__init__(path, [info.filename for info in self._infos], others, leftover)

    def _start(self, info: zipfile.ZipInfo) -> bytes:
        """The first bytes of a file; none where it cannot be read."""
        try:
            with self._archive().open(info) as stream:
                return stream.read(START)
        except (OSError, RuntimeError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError):
            return b""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lock": None, "_zip": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def _archive(self) -> zipfile.ZipFile:
        """The zip, opened by this very process: a file position must not be shared with another."""
        with self._lock:
            if self._zip is None or self._process != os.getpid():
                self._zip = open_zip(self.path, LARGEST_SHARD_DIRECTORY)
                self._process = os.getpid()
            return self._zip

    def close(self) -> None:
        with self._lock:
            if self._zip is not None:
                self._zip.close()
                self._zip = None

    def read(self, index: int) -> bytes:
        info = self._infos[index]
        _check_size(info.file_size)
        if is_bomb(info.file_size, info.compress_size):
            raise ValueError(unpacks_to(info.file_size, info.compress_size))
        return self._archive().read(info)

    def labels_file(self) -> bytes | None:
        return None if self._labels is None else read_labels_entry(self._archive(), self._labels)

    def size(self) -> int:
        return self.path.stat().st_size

    def fingerprint(self) -> str:
        digest = hashlib.sha256(self.labels_file() or b"")
        for info in self._infos:
            digest.update(f"{info.filename}\0{info.file_size} {info.CRC}\n".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


class ShardStore(Store):
    """The zips of a prepared data set, read as one.

    Of each picture three numbers are kept, which lie in one block of memory for all: millions of pictures cost little,
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
        self._lock = threading.Lock()
        self._streams: dict[int, IO[bytes]] = {}
        self._process = 0
        self.files = [path / shard["file"] for shard in shards]
        self._starts = np.cumsum([0, *(shard["count"] for shard in shards)])
        where = [_images_of(self.files[i], int(self._starts[i]), shard) for i, shard in enumerate(shards)]
        self._where = np.concatenate(where)  # uint64 [pictures, 3]: where in its zip, bytes, checksum
        super().__init__(path, _ImageNames(len(self._where)), 0)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lock": None, "_streams": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def close(self) -> None:
        with self._lock:
            for stream in self._streams.values():
                stream.close()
            self._streams = {}

    def read(self, index: int) -> bytes:
        shard = int(np.searchsorted(self._starts, index, "right")) - 1
        at, size, crc = map(int, self._where[index])
        with self._lock:
            if self._process != os.getpid():  # a file position must not be shared with another process
                self._streams, self._process = {}, os.getpid()
            stream = self._streams.pop(shard, None) or open_regular(self.files[shard])
            self._streams[shard] = stream  # the one used last stands at the end
            if len(self._streams) > _MOST_OPEN:
                self._streams.pop(next(iter(self._streams))).close()
            stream.seek(at)
            header = stream.read(_LOCAL_HEADER)
            name, extra = header[26:28], header[28:30]
            stream.seek(int.from_bytes(name, "little") + int.from_bytes(extra, "little"), os.SEEK_CUR)
            data = stream.read(size)
        if len(data) != size or zlib.crc32(data) != crc:
            raise ValueError("its bytes were changed")
        return data

    def where(self, index: int) -> str:
        shard = int(np.searchsorted(self._starts, index, "right")) - 1
        return f"{self.files[shard]}: {self.names[index]}"

    def size(self) -> int:
        return sum(file.stat().st_size for file in self.files)

    def fingerprint(self) -> str:
        return hashlib.sha256(self._where.tobytes()).hexdigest()


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


def _images_of(file: Path, first: int, shard: dict[str, Any]) -> npt.NDArray[np.uint64]:
    """uint64 [pictures, 3]: where each picture of a zip begins, how many bytes it has, and its checksum.

    Raises:
        DataError: the zip is missing, or is not what the manifest says.
    """
    try:
        size = file.stat().st_size
        rows = array("Q")
        for number, (name, *numbers) in enumerate(read_directory(file), first):
            if name == image_name(number):
                rows.extend(numbers)
    except FileNotFoundError:
        raise DataError(f"{file} does not exist; prepare it again") from None
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}") from error
    except zipfile.BadZipFile:
        size = -1
    if size != shard["bytes"] or len(rows) != 3 * shard["count"]:
        raise DataError(f"{file} does not match {file.parent / MANIFEST}: changed or cut short; prepare it again")
    return np.asarray(rows, np.uint64).reshape(-1, 3)


def open_store(path: Path) -> Store:
    """The pictures of folder or zip ``path``.

    Raises:
        DataError: there is nothing there, it is neither a folder nor a zip, or it holds no pictures.
    """
    store: Store
    try:
        if path.is_dir():
            store = FolderStore(path)
        elif why := why_no_file(path):
            raise DataError(f"{path} {why}; give the path of a folder or a zip of pictures")
        else:
            store = _open_zip(path)
    except OSError as error:
        raise DataError(f"{error.filename or path} cannot be read: {error.strerror or error}") from error
    if not store.names:
        found = f"; the {store.others} files in it are something else" if store.others else ", it is empty"
        found += f" ({describe(store.leftover.unread)})" if store.leftover.unread else ""
        store.close()
        raise DataError(f"{path} holds no pictures{found}")
    return store


def _open_zip(path: Path) -> ZipStore:
    try:
        return ZipStore(path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise DataError(
            f"{path} is no zip of pictures that can be read ({error}); make a data set of what you have with: "
            f"ganformer prepare"
        ) from error


def _check_size(size: int) -> None:
    if size > LARGEST_FILE:
        raise ValueError(f"a file of {size >> 20} MiB")


def _hidden(name: str) -> bool:
    """What systems leave behind: ``.DS_Store``, ``._a.png``, ``__MACOSX``."""
    return (name.startswith(".") and name not in {".", ".."}) or name == "__MACOSX"


def _raise(error: OSError) -> None:
    raise error
