"""An endless, shuffled stream of images whose every element follows from its position alone."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch

from ganformer_cli.data.loading.batches import ImageBatches, SampleOrder
from ganformer_cli.data.loading.datasets import ImageDataset
from ganformer_cli.data.loading.readers import Batches, ReaderPool
from ganformer_cli.errors import ConfigError

Batch = tuple[torch.Tensor, torch.Tensor]


class ImageStream:
    """Batches of a data set, for ever.

    Image ``k`` of the stream is a function of (seed, mirror, k) and the data set, whatever the batch size and the
    number of workers: a stream opened at ``position=k`` goes on exactly where another stopped after ``k`` images.
    Several processes share one stream without overlap: of every ``world_size`` batches, each takes the one of its
    ``rank``, so that together they get, in this order, what one process with a batch ``world_size`` times as large
    would get.

    Iterating yields (images, labels): uint8 [batch_size, 3, height, width] and float32 [batch_size, label_dim].

    Args:
        dataset: the images.
        batch_size: images a batch of this process.
        seed: of the order and the mirroring; any integer.
        mirror: show images left-right mirrored half of the time.
        position: images handed out before, by all processes together.
        rank: number of this process among those that share the stream.
        world_size: how many they are.
        workers: processes that read ahead; 0 reads in this one. They start by spawning, on every system: a script
            that uses them needs the usual ``if __name__ == "__main__":``. One that dies or hangs is replaced.
        warn: given a line when a worker is lost, or images come very slowly.
        should_stop: whether the run is to stop, asked while a batch is waited for.
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
        world_size: int = 1,
        workers: int = 0,
        warn: Callable[[str], None] = lambda text: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        for name, value, least in (
            ("batch size", batch_size, 1), ("position", position, 0), ("rank", rank, 0),
            ("world_size", world_size, 1), ("workers", workers, 0),
        ):  # fmt: skip
            if value < least:
                raise ConfigError(f"a stream of images cannot have {name} {value}; the least is {least}")
        if rank >= world_size:
            raise ConfigError(
                f"a stream of images shared by {world_size} has no rank {rank}; the last is {world_size - 1}"
            )
        self.dataset = dataset
        self.batch_size = batch_size
        self.position = position  # images handed out so far, by all processes
        self._offset = rank * batch_size
        self._step = world_size * batch_size
        self._workers = workers
        self._warn, self._should_stop = warn, should_stop
        self._batches = ImageBatches(dataset, SampleOrder(len(dataset), seed, mirror), batch_size)
        self.readers: ReaderPool | None = None

    def __iter__(self) -> ImageStream:
        return self

    def __next__(self) -> Batch:
        """The next batch.

        Raises:
            StoppedWaiting: ``should_stop`` said so while the workers bring nothing. The same batch comes next.
            DataError: an image cannot be read.
        """
        if self._workers and self.readers is None:
            batches = copy.copy(self._batches)
            batches.dataset = copy.copy(self.dataset)
            batches.dataset.cache_bytes //= self._workers  # each has a memory of its own
            self.readers = ReaderPool(
                batches, first=self.position + self._offset, step=self._step, count=self._workers, warn=self._warn,
                should_stop=self._should_stop,
            )  # fmt: skip
        return self._read(self._batches if self.readers is None else self.readers)

    def next_without_workers(self) -> Batch:
        """The next batch, read in this process; the workers are stopped."""
        self.close()
        return self._read(self._batches)

    def _read(self, source: Batches) -> Batch:
        images, labels = source.read(self.position + self._offset)
        self.position += self._step
        return torch.from_numpy(images), torch.from_numpy(labels)

    def close(self) -> None:
        """Stop the workers. The next batch, if any, starts new ones."""
        if self.readers is not None:
            self.readers.close()
            self.readers = None

    def __enter__(self) -> ImageStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
