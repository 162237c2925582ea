"""Where the images of an evaluation come from: a data set, a folder, a zip, an array, or a generator."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ganformer_cli.data.images import Decoding, UnusableImageError, decode_array, is_large_enough
from ganformer_cli.data.loading.datasets import ImageDataset, PreparedDataset, conformed_text
from ganformer_cli.data.loading.stores import open_store
from ganformer_cli.data.manifest import MANIFEST
from ganformer_cli.data.sources.arrays import layout_of
from ganformer_cli.errors import DataError
from ganformer_cli.files import sha256_of
from ganformer_cli.metrics.blocks import submit
from ganformer_cli.npy_header import check_npy
from ganformer_cli.sampling import Generator, NoiseMode, reconstruct_images, sample_seeds

_Images = npt.NDArray[np.uint8]

#: Seeds of one evaluation are consecutive; evaluations of different ``seed`` share none.
SEED_STRIDE = 2**32
#: Images whose seeds and labels are held at a time, at least.
_TOGETHER = 1024
_MOST_READERS = 8
#: Bytes of an array that are looked at together to find the range of its values.
_SCANNED = 64 << 20
#: Values farther from 0 than this are no images of -1 to 1, however far a generator may overshoot.
_FARTHEST = 100.0
#: A share of values beyond -1 to 1 that is worth a word.
_CLIPPED = 0.05


class ImageSource(ABC):
    """Numbered images, all uint8 [3, height, width]."""

    def __init__(self, count: int, height: int, width: int) -> None:
        self.count, self.height, self.width = count, height, width

    @abstractmethod
    def blocks(self, places: Sequence[range]) -> Iterator[_Images]:
        """The images of each of ``places``, in this order: uint8 [len(place), 3, height, width]."""


class DatasetImages(ImageSource):
    """Images of a data set, in the order of ``indices``; read ahead by several threads."""

    def __init__(self, dataset: ImageDataset, indices: npt.NDArray[np.int64]) -> None:
        super().__init__(len(indices), dataset.height, dataset.width)
        self.dataset, self.indices = dataset, indices

    def blocks(self, places: Sequence[range]) -> Iterator[_Images]:
        if not places:
            return
        # The first image makes the data set's memory, which only one thread may do.
        self.dataset.image(int(self.indices[places[0].start]))
        readers = min(_MOST_READERS, os.cpu_count() or 1)
        with ThreadPoolExecutor(readers, thread_name_prefix="reading") as pool:
            waiting: deque[Future[_Images]] = deque()
            try:
                for place in places:
                    waiting.append(submit(pool, self._read, place))
                    if len(waiting) > readers + 1:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for task in waiting:
                    task.cancel()

    def _read(self, place: range) -> _Images:
        return np.stack([self.dataset.image(int(self.indices[i])) for i in place])


class GeneratedImages(ImageSource):
    """Images of a generator: image i is that of the i-th seed from ``first_seed`` on."""

    def __init__(
        self,
        generator: Generator,
        count: int,
        *,
        first_seed: int,
        truncation_psi: float,
        noise_mode: NoiseMode,
        batch_size: int,
        label: Callable[[int], npt.NDArray[np.float32]] | None = None,
    ) -> None:
        """
        Args:
            label: of image i, float32 [c_dim]; None for a model without classes.
        """
        super().__init__(count, *generator.config.image_size)
        self.generator, self.first_seed, self.batch_size = generator, first_seed, batch_size
        self.truncation_psi, self.noise_mode, self.label = truncation_psi, noise_mode, label

    def blocks(self, places: Sequence[range]) -> Iterator[_Images]:
        together = max(1, max(_TOGETHER, self.batch_size) // max(map(len, places), default=1))
        for start in range(0, len(places), together):
            some = places[start : start + together]
            drawn = self._draw([i for place in some for i in place])
            for place in some:
                yield np.stack([next(drawn) for _ in place])

    def _draw(self, numbers: Sequence[int]) -> Iterator[_Images]:
        labels = None if self.label is None else np.stack([self.label(i) for i in numbers])
        drawn = sample_seeds(
            self.generator,
            [self.first_seed + i for i in numbers],
            truncation_psi=self.truncation_psi,
            noise_mode=self.noise_mode,
            batch_size=self.batch_size,
            labels=labels,
        )
        return (sample.image for sample in drawn)


class ArrayImages(ImageDataset):
    """Images in a ``.npy`` file: what ``ganformer prepare`` reads, or what ``ganformer generate --format npy`` writes.

    Floating point is from -1 to 1 where any value of the array is negative, and else from 0 to 1, as for ``prepare``.

    Args:
        path: of an array [N, H, W, C], [N, C, H, W] or [N, H, W] of uint8, uint16 or floating point.
        decoding: background of transparent parts, and the range of the values where they lie in it.
        size: (height, width) to crop and shrink them to, if they are large enough.

    Raises:
        DataError: it is no such array.
    """

    def __init__(
        self, path: Path, *, decoding: Decoding | None = None, size: tuple[int, int] | None = None
    ) -> None:  # fmt: skip
        try:
            check_npy(path)
            rows = np.load(path, mmap_mode="r", allow_pickle=False)
            digest = sha256_of(path)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path}: not a readable numpy array ({error})") from error
        if not isinstance(rows, np.ndarray):
            raise DataError(f"{path}: does not hold a single array; save the images with numpy.save")
        self._layout = layout_of(rows.shape, rows.dtype, str(path))
        if not len(rows):
            raise DataError(f"{path}: the array is empty; it needs at least one image")
        height, width = own = self._layout.image_size
        self._size = size if size is not None and is_large_enough(own, size) else None
        notes: list[str] = []
        if self._size is not None and self._size != own:
            height, width = self._size
            notes = [conformed_text([own], self._size)]
        super().__init__(path.stem, height, width, height / width, len(rows), digest)
        self.decoding, self.notes = decoding or Decoding(), notes
        self.path, self._rows = path, rows
        self.cache_bytes = 0  # it lies in memory as it is
        self._value_range = self._find_range()

    def _find_range(self) -> tuple[float, float] | None:
        """What becomes 0 and 255; None: what is usual for the type."""
        given = self.decoding.value_range
        if self._rows.dtype.kind != "f":
            return given if self._rows.dtype != np.uint8 else None
        low, high, beyond = np.inf, -np.inf, 0
        some = max(1, _SCANNED // max(1, self._layout.row_bytes))
        for start in range(0, len(self._rows), some):
            block = self._rows[start : start + some]
            low = min(low, float(np.fmin.reduce(block, axis=None)))
            high = max(high, float(np.fmax.reduce(block, axis=None)))
            beyond += int(np.count_nonzero(np.abs(block) > 1))
        if given is not None and given[0] <= low and high <= given[1]:
            return given
        if low < 0 and max(-low, high) <= _FARTHEST:
            if beyond > _CLIPPED * self._rows.size:
                self.notes = [
                    *self.notes,
                    f"{beyond / self._rows.size:.0%} of the values lie outside -1 to 1 ({low:g} to {high:g}) and are "
                    "clipped; scale the array if it means something else",
                ]
            return -1.0, 1.0
        if low < 0 or high > 1:
            raise DataError(
                f"{self.path}: values from {low:g} to {high:g}; floating-point images are from -1 to 1, or from 0 to "
                "1: scale the array, or save it as uint8"
            )
        return None

    def _load(self, index: int) -> _Images:
        row = self._layout.pixels(self._rows[index])
        if row.dtype.kind == "f" and not np.isfinite(row).all():
            raise DataError(f"{self.path}: image {index} holds NaN or infinite values")
        if row.dtype.kind == "f" and self._value_range == (-1.0, 1.0):
            row = np.clip(np.rint((row.astype(np.float32) + 1) * 127.5), 0, 255).astype(np.uint8)
        try:
            image = decode_array(row, Decoding(self.decoding.background, self._value_range), self._size)
        except UnusableImageError as error:
            raise DataError(f"{self.path}: image {index}: {error}") from error
        return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


class ReconstructedImages(ImageSource):
    """Images of a data set through a VQGAN's encoder, codebook and decoder."""

    def __init__(self, generator: Generator, originals: DatasetImages, *, batch_size: int) -> None:
        super().__init__(originals.count, originals.height, originals.width)
        self.generator, self.originals, self.batch_size = generator, originals, batch_size

    def blocks(self, places: Sequence[range]) -> Iterator[_Images]:
        for block in self.originals.blocks(places):
            yield reconstruct_images(self.generator, block, batch_size=self.batch_size)


def open_images(
    path: Path, option: str, *, like: ImageDataset | None = None, notice: Callable[[str], None] = lambda text: None
) -> ImageDataset:
    """Images of one size: a folder, a zip, a prepared data set, or a ``.npy`` array.

    Args:
        option: that names them.
        like: what they are to be compared with: they are decoded as its images were, and cropped and shrunk to its size
            where they are larger.
        notice: called with what was done to the images, and which files are not read.

    Raises:
        DataError: there are none; the message begins with ``option``.
    """
    how: dict[str, Any] = {} if like is None else {"decoding": like.decoding, "size": (like.height, like.width)}
    opened: ArrayImages | PreparedDataset
    try:
        is_array = path.suffix.lower() == ".npy" and not path.is_dir()
        opened = ArrayImages(path, **how) if is_array else PreparedDataset(path, **how)
    except DataError as error:
        raise DataError(f"{option} {error}") from error
    for note in opened.notes:
        notice(f"{option} {path}: {note}")
    if isinstance(like, PreparedDataset) and not like.is_prepared and opened.decoding != like.decoding:
        like.decode(opened.decoding)
    return opened


def content_digest(dataset: ImageDataset, indices: npt.NDArray[np.int64]) -> str:
    """A hash that changes with the chosen images: the data set's fingerprint, where that follows from their bytes.

    The fingerprint of a plain folder knows names and sizes only, which uncompressed images of one size share.
    """
    if not isinstance(dataset, PreparedDataset) or not dataset.path.is_dir() or (dataset.path / MANIFEST).is_file():
        return dataset.fingerprint
    store = open_store(dataset.path)
    digest = hashlib.sha256()
    for index in indices:
        try:
            digest.update(hashlib.sha256(store.read(int(index))).digest())
        except (OSError, ValueError) as error:
            raise DataError(f"{store.where(int(index))} cannot be read: {error}") from error
    return digest.hexdigest()


def block_ranges(count: int, size: int, rank: int, world_size: int) -> list[range]:
    """The blocks of ``size`` consecutive numbers below ``count`` that process ``rank`` of ``world_size`` takes.

    Blocks are the same whatever the number of processes, and so is what is computed of each.
    """
    starts = range(rank * size, count, world_size * size)
    return [range(start, min(start + size, count)) for start in starts]
