"""Which images make up the batch at a position of the stream, and the batch itself. Without torch: processes that only
read need none."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ganformer_cli.data.loading.datasets import ImageDataset
from ganformer_cli.data.loading.readers import BatchArrays


class SampleOrder:
    """Which image comes at which position.

    Every epoch is a fresh permutation of all images. With ``mirror`` half of them, chosen again every two epochs,
    are mirrored in the first of the two and the other half in the second: so two epochs show each image both ways.
    """

    def __init__(self, count: int, seed: int, mirror: bool) -> None:
        self._count = count
        self._seed = seed & 0xFFFFFFFFFFFFFFFF
        self._mirror = mirror
        self._epoch = -1
        self._indices: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self._flips: npt.NDArray[np.bool_] = np.empty(0, np.bool_)

    def __getitem__(self, position: int) -> tuple[int, bool]:
        """(index of the image, whether it is mirrored) at ``position``, counted from 0."""
        epoch, at = divmod(position, self._count)
        if epoch != self._epoch:
            # The raw bit stream is what numpy says to keep; its permutation() it may change.
            self._indices = np.argsort(self._bits(epoch, 0), kind="stable")
            self._flips = (self._bits(epoch // 2, 1) & np.uint64(1)).astype(np.bool_) ^ bool(epoch & 1)
            self._epoch = epoch
        index = int(self._indices[at])
        return index, self._mirror and bool(self._flips[index])

    def _bits(self, *key: int) -> npt.NDArray[np.uint64]:
        return np.random.PCG64(np.random.SeedSequence((self._seed, *key))).random_raw(self._count)


class ImageBatches:
    """The batch that begins at a position of the stream."""

    def __init__(self, dataset: ImageDataset, order: SampleOrder, batch_size: int) -> None:
        self.dataset = dataset
        self._order = order
        self._batch_size = batch_size

    def read(self, position: int) -> BatchArrays:
        """Images uint8 [batch_size, 3, height, width] and labels float32 [batch_size, label_dim].

        Raises:
            DataError: an image cannot be read.
        """
        data = self.dataset
        images = np.empty((self._batch_size, 3, data.height, data.width), np.uint8)
        labels = np.empty((self._batch_size, data.label_dim), np.float32)
        for i in range(self._batch_size):
            index, flip = self._order[position + i]
            image = data.image(index)
            images[i] = image[:, :, ::-1] if flip else image
            labels[i] = data.label(index)
        return images, labels
