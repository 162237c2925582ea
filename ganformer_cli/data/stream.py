"""An endless, shuffled stream of pictures whose every element follows from its position alone."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from types import TracebackType

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from ganformer_cli.data.datasets import ImageDataset
from ganformer_cli.errors import ConfigError
from ganformer_cli.stop_signals import leave_to_parent

Batch = tuple[torch.Tensor, torch.Tensor]

_AHEAD = 4  # batches that each worker prepares beforehand


class Order:
    """Which picture comes at which position.

    Every epoch is a fresh permutation of all pictures. With ``mirror`` half of them, chosen anew for every two epochs,
    are mirrored in the first of the two and the other half in the second: so two epochs show each picture both ways.
    """

    def __init__(self, count: int, seed: int, mirror: bool) -> None:
        self._count = count
        self._seed = seed & 0xFFFFFFFFFFFFFFFF
        self._mirror = mirror
        self._epoch = -1
        self._indices: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self._flips: npt.NDArray[np.bool_] = np.empty(0, np.bool_)

    def __getitem__(self, position: int) -> tuple[int, bool]:
        """(index of the picture, whether it is mirrored) at ``position``, counted from 0."""
        epoch, at = divmod(position, self._count)
        if epoch != self._epoch:
            # The raw bit stream is what numpy promises to keep; its permutation() it may change.
            self._indices = np.argsort(self._bits(epoch, 0), kind="stable")
            self._flips = (self._bits(epoch // 2, 1) & np.uint64(1)).astype(np.bool_) ^ bool(epoch & 1)
            self._epoch = epoch
        index = int(self._indices[at])
        return index, self._mirror and bool(self._flips[index])

    def _bits(self, *key: int) -> npt.NDArray[np.uint64]:
        return np.random.PCG64(np.random.SeedSequence((self._seed, *key))).random_raw(self._count)


class ImageStream:
    """Batches of a data set, for ever.

    Picture ``k`` of the stream is a function of (seed, mirror, k) and the data set, whatever the batch size and the
    number of workers: a stream opened at ``position=k`` goes on exactly where another stopped after ``k`` pictures.
    Several processes share one stream without overlap: of every ``ranks`` batches, each takes that of its ``rank``, so
    that together they get what one process with a batch ``ranks`` times as large would get, in this order.

    Iterating yields (images, labels): uint8 [batch_size, 3, height, width] and float32 [batch_size, label_dim].

    Args:
        dataset: the pictures.
        batch_size: pictures a batch of this process.
        seed: of the order and the mirroring; any integer.
        mirror: show pictures left-right mirrored half of the time.
        position: pictures handed out before, by all processes together.
        rank: number of this process among those that share the stream.
        ranks: how many they are.
        workers: processes that read ahead; 0 reads in this one. They start by spawning, on every system: a script
            that uses them needs the usual ``if __name__ == "__main__":``.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        *,
        batch_size: int,
        seed: int,
        mirror: bool,
        position: int = 0,
        rank: int = 0,
        ranks: int = 1,
        workers: int = 0,
    ) -> None:
        least = {"batch size": 1, "position": 0, "rank": 0, "ranks": 1, "workers": 0}
        given = {"batch size": batch_size, "position": position, "rank": rank, "ranks": ranks, "workers": workers}
        for option, value in given.items():
            if value < least[option]:
                raise ConfigError(f"a stream of pictures cannot have {option} {value}; the least is {least[option]}")
        if rank >= ranks:
            raise ConfigError(f"a stream of pictures shared by {ranks} has no rank {rank}; the last is {ranks - 1}")
        self.dataset = dataset
        self.batch_size = batch_size
        self.position = position  # pictures handed out so far, by all processes
        self._offset = rank * batch_size
        self._step = ranks * batch_size
        self._workers = workers
        self._batches = _Batches(dataset, Order(len(dataset), seed, mirror), batch_size)
        self._ahead: Iterator[Batch] | None = None

    def __iter__(self) -> ImageStream:
        return self

    def __next__(self) -> Batch:
        if self._workers and self._ahead is None:
            self._ahead = self._start_workers()
        batch = self._batches[self.position + self._offset] if self._ahead is None else next(self._ahead)
        self.position += self._step
        return batch

    def close(self) -> None:
        """Stop the workers. The next batch, if any, starts new ones."""
        self._ahead = None

    def __enter__(self) -> ImageStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start_workers(self) -> Iterator[Batch]:
        batches = copy.copy(self._batches)
        batches.dataset = copy.copy(self.dataset)
        batches.dataset.cache_bytes //= self._workers  # each has a memory of its own
        loader: DataLoader[Batch] = DataLoader(
            batches,
            batch_size=None,
            sampler=_Starts(self.position + self._offset, self._step),
            num_workers=self._workers,
            prefetch_factor=_AHEAD,
            multiprocessing_context="spawn",
            worker_init_fn=_leave_interrupts_to_parent,
            generator=torch.Generator(),  # or it would draw from, and so disturb, torch's global one
        )
        return iter(loader)


class _Batches(Dataset[Batch]):
    """The batch that begins at a position."""

    def __init__(self, dataset: ImageDataset, order: Order, batch_size: int) -> None:
        self.dataset = dataset
        self._order = order
        self._batch_size = batch_size

    def __getitem__(self, position: int) -> Batch:
        data = self.dataset
        images = np.empty((self._batch_size, 3, data.height, data.width), np.uint8)
        labels = np.empty((self._batch_size, data.label_dim), np.float32)
        for i in range(self._batch_size):
            index, flip = self._order[position + i]
            image = data.image(index)
            images[i] = image[:, :, ::-1] if flip else image
            labels[i] = data.label(index)
        return torch.from_numpy(images), torch.from_numpy(labels)


class _Starts(Sampler[int]):
    """Positions of the batches, for ever."""

    def __init__(self, position: int, step: int) -> None:
        self._position = position
        self._step = step

    def __iter__(self) -> Iterator[int]:
        position = self._position
        while True:
            yield position
            position += self._step


def _leave_interrupts_to_parent(worker: int) -> None:
    leave_to_parent()
