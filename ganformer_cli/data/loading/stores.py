"""Images of one size where they lie, read by number, with the labels of StyleGAN's ``dataset.json``.

They lie in what ``ganformer prepare`` made, or in a zip or a folder in StyleGAN's layout.
"""

from __future__ import annotations

import abc
import contextlib
import zipfile
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ganformer_cli.config.names import quoted
from ganformer_cli.data.file_kinds import ImageSelection
from ganformer_cli.data.images import Decoding, ImageArray, decode, has_several_frames, open_image, upright_size
from ganformer_cli.data.limits import MAX_LABELS_BYTES
from ganformer_cli.data.manifest import DATASET_JSON, MANIFEST, image_name
from ganformer_cli.data.set_labels import plain_labels
from ganformer_cli.data.sources.base import Labels, files_fingerprint
from ganformer_cli.data.sources.files import FileSource
from ganformer_cli.data.sources.folders import FolderSource
from ganformer_cli.data.sources.opening import no_images
from ganformer_cli.data.sources.zips import ZipSource
from ganformer_cli.data.zips import FilePool, ZipIndex, read_zip_entry
from ganformer_cli.errors import DataError
from ganformer_cli.files import error_reason, why_no_file

_LOOKED_AT = 64  # images whose size is looked at when a set without a manifest is opened


class Store(abc.ABC):
    """Images in the order of their names. Safe for threads, and to send to a process."""

    decoding = Decoding()
    fitted: tuple[int, int] | None = None  # (height, width) to crop and shrink each to; None keeps its own

    several_frames = False  # whether some of those that were looked at are animations or have several pages

    path: Path
    count: int  # of the images

    @abc.abstractmethod
    def name(self, index: int) -> str:
        """The name of image ``index``: relative, with forward slashes."""

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
        return f"{self.path}: {self.name(index)}"

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
        return sorted({i * (self.count - 1) // max(1, _LOOKED_AT - 1) for i in range(_LOOKED_AT)})

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
            f"{self.path} has images of several sizes ({self.name(a)}: {first[1]}x{first[0]}, {self.name(b)}: "
            f"{second[1]}x{second[0]}); make a data set of them with: ganformer prepare {quoted(str(self.path))}"
        )


class PlainStore(Store):
    """The images of a folder or a zip that is not prepared."""

    def __init__(self, source: FileSource) -> None:
        self.path, self.count = source.path, source.count()
        self.labels = plain_labels(source)
        self.unread_files = source.unread_files()
        source.labels = Labels()  # the others are of use for all images together only, and do not travel to processes
        self._source = source

    def name(self, index: int) -> str:
        return self._source.name(index)

    def read(self, index: int) -> bytes:
        return self._source.read(index)

    def close(self) -> None:
        self._source.close()

    def fingerprint(self) -> str:
        """sha256 that changes with the images; found without reading them all.

        Raises:
            DataError: their labels cannot be read.
        """
        states = ((self.name(index), self._source.state(index)) for index in range(self.count))
        return files_fingerprint(self._source.labels_file() or b"", states)


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
        self.path, self.count = path, len(self._entries)

    def name(self, index: int) -> str:
        return image_name(index)

    def close(self) -> None:
        self._files.close()

    def read(self, index: int) -> bytes:
        return read_zip_entry(self._files, self._path(index), self._entries[index].item())

    def where(self, index: int) -> str:
        return f"{self._path(index)}: {self.name(index)}"

    def _path(self, index: int) -> Path:
        return self._paths[int(np.searchsorted(self._starts, index, "right")) - 1]


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
        raise DataError(f"{file} cannot be read: {error_reason(error)}") from error
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
    with contextlib.ExitStack() as opened:  # closed again, unless all goes well
        source: FileSource
        try:
            if path.is_dir():
                source = FolderSource(path, ImageSelection(), None)
            elif why := why_no_file(path):
                raise DataError(f"{path} {why}; give the path of a folder or a zip of images")
            else:
                index = ZipIndex(path)
                opened.callback(index.close)
                source = ZipSource(index, ImageSelection(), None, most_labels=MAX_LABELS_BYTES)
        except OSError as error:
            raise DataError(f"{error.filename or path} cannot be read: {error_reason(error)}") from error
        except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
            raise DataError(
                f"{path} is not a readable zip of images ({error}); make a data set of what you have with: "
                "ganformer prepare"
            ) from error
        if not source.count():
            raise no_images(source)
        store = PlainStore(source)
        opened.pop_all()
    return store
