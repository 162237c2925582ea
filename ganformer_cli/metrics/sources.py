"""Where the pictures of an evaluation come from: a data set, a folder, a zip, an array, or a generator."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ganformer_cli.data.datasets import ImageDataset, PreparedDataset
from ganformer_cli.data.manifest import MANIFEST
from ganformer_cli.data.stores import open_store
from ganformer_cli.errors import DataError
from ganformer_cli.files import check_regular, sha256_of
from ganformer_cli.sampling import Generator, NoiseMode, sample_images

Images = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

#: Seeds of one evaluation are consecutive; evaluations of different ``seed`` share none.
SEEDS_APART = 2**32
#: Pictures whose seeds and labels are held at a time, at least.
_TOGETHER = 1024
_MOST_READERS = 8


class Source(ABC):
    """Numbered pictures, all uint8 [3, height, width]."""

    def __init__(self, count: int, height: int, width: int) -> None:
        self.count, self.height, self.width = count, height, width

    @abstractmethod
    def blocks(self, places: Sequence[range]) -> Iterator[Images]:
        """The pictures of each of ``places``, in this order: uint8 [len(place), 3, height, width]."""


class Chosen(Source):
    """Pictures of a data set, in the order of ``indices``; read ahead by several threads."""

    def __init__(self, dataset: ImageDataset, indices: npt.NDArray[np.int64]) -> None:
        super().__init__(len(indices), dataset.height, dataset.width)
        self.dataset, self.indices = dataset, indices

    def blocks(self, places: Sequence[range]) -> Iterator[Images]:
        if not places:
            return
        # The first picture makes the data set's memory, which only one thread may do.
        self.dataset.image(int(self.indices[places[0].start]))
        readers = min(_MOST_READERS, os.cpu_count() or 1)
        with ThreadPoolExecutor(readers, thread_name_prefix="reading") as pool:
            waiting: deque[Future[Images]] = deque()
            try:
                for place in places:
                    waiting.append(pool.submit(self._read, place))
                    if len(waiting) > readers + 1:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for task in waiting:
                    task.cancel()

    def _read(self, place: range) -> Images:
        return np.stack([self.dataset.image(int(self.indices[i])) for i in place])


class Drawn(Source):
    """Pictures of a generator: picture i is that of the i-th seed from ``first_seed`` on."""

    def __init__(
        self,
        generator: Generator,
        count: int,
        *,
        first_seed: int,
        truncation_psi: float,
        noise_mode: NoiseMode,
        batch_size: int,
        label: Callable[[int], Floats] | None = None,
    ) -> None:
        """
        Args:
            label: of picture i, float32 [c_dim]; None for a model without classes.
        """
        super().__init__(count, *generator.config.image_size)
        self.generator, self.first_seed, self.batch_size = generator, first_seed, batch_size
        self.truncation_psi, self.noise_mode, self.label = truncation_psi, noise_mode, label

    def blocks(self, places: Sequence[range]) -> Iterator[Images]:
        together = max(1, max(_TOGETHER, self.batch_size) // max(map(len, places), default=1))
        for start in range(0, len(places), together):
            some = places[start : start + together]
            drawn = self._draw([i for place in some for i in place])
            for place in some:
                yield np.stack([next(drawn) for _ in place])

    def _draw(self, numbers: Sequence[int]) -> Iterator[Images]:
        labels = None if self.label is None else np.stack([self.label(i) for i in numbers])
        drawn = sample_images(
            self.generator,
            [self.first_seed + i for i in numbers],
            truncation_psi=self.truncation_psi,
            noise_mode=self.noise_mode,
            batch_size=self.batch_size,
            labels=labels,
        )
        for _, picture in drawn:
            yield picture


class ArrayPictures(ImageDataset):
    """Pictures in a ``.npy`` file, as ``ganformer generate --format npy`` writes them.

    Args:
        path: of an array [N, 3, height, width], uint8, or floating point nominally in [-1, 1].

    Raises:
        DataError: it is no such array.
    """

    def __init__(self, path: Path) -> None:
        try:
            check_regular(path)
            rows = np.load(path, mmap_mode="r", allow_pickle=False)
            digest = sha256_of(path)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path}: not a numpy array that can be read ({error})") from error
        known = isinstance(rows, np.ndarray) and (rows.dtype == np.uint8 or rows.dtype.kind == "f")
        if not known or rows.ndim != 4 or rows.shape[1] != 3 or 0 in rows.shape:
            shape = f"{rows.dtype} {list(rows.shape)}" if isinstance(rows, np.ndarray) else "something else"
            raise DataError(
                f"{path}: {shape}; an array of pictures is [N, 3, height, width], uint8 or floating point from -1 to 1"
            )
        count, _, height, width = rows.shape
        super().__init__(path.stem, height, width, height / width, count, digest)
        self.path, self._rows = path, rows
        self.cache_bytes = 0  # it lies in memory as it is

    def _load(self, index: int) -> Images:
        row = self._rows[index]
        if row.dtype != np.uint8:
            if not np.isfinite(row).all():
                raise DataError(f"{self.path}: picture {index} holds numbers that are not finite (NaN or infinite)")
            row = np.clip(np.rint((row.astype(np.float32) + 1) * 127.5), 0, 255)
        return np.ascontiguousarray(row, np.uint8)


def open_pictures(path: Path, option: str) -> ImageDataset:
    """Pictures of one size: a folder, a zip, a prepared data set, or a ``.npy`` array.

    Raises:
        DataError: there are none; the message begins with ``option``.
    """
    try:
        return ArrayPictures(path) if path.suffix.lower() == ".npy" and not path.is_dir() else PreparedDataset(path)
    except DataError as error:
        raise DataError(f"{option} {error}") from error


def content_of(dataset: ImageDataset, indices: npt.NDArray[np.int64]) -> str:
    """A hash that changes with the chosen pictures: the data set's fingerprint, where that follows from their bytes.

    The fingerprint of a plain folder knows names and sizes only, which uncompressed pictures of one size share.
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


def places_of(count: int, size: int, rank: int, ranks: int) -> list[range]:
    """The blocks of ``size`` consecutive numbers below ``count`` that process ``rank`` of ``ranks`` takes.

    Blocks are the same whatever the number of processes, and so is what is computed of each.
    """
    starts = range(rank * size, count, ranks * size)
    return [range(start, min(start + size, count)) for start in starts]
