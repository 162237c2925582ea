"""Data sets of tensorflow_datasets, where it is installed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ganformer_cli.data.sources.arrays import CHANNELS
from ganformer_cli.data.sources.base import Item, Label, Labels, Source, import_library, reason
from ganformer_cli.data.sources.label_values import MAX_CLASSES
from ganformer_cli.data.sources.labels import choose_labels
from ganformer_cli.errors import DataError


class TfdsSource(Source):
    """The images of a data set's split ``train``, or of its first where there is none of this name."""

    format = "tfds"

    def __init__(self, path: Path, labels: str | None) -> None:
        """
        Args:
            path: the name of the data set, as tensorflow_datasets takes it: ``cifar10``, ``mnist:3.0.1``.
        """
        self.path = path
        self._tfds = import_library("tensorflow_datasets", path, "tensorflow-datasets tensorflow")
        name = path.as_posix()
        try:
            self._builder: Any = self._tfds.builder(name)
            self._builder.download_and_prepare()
            info = self._builder.info
            splits = dict(info.splits)
            features = dict(info.features)
        except Exception as error:  # whatever the library, or the network, may raise
            raise DataError(f"tensorflow_datasets cannot give {name}: {reason(error)}; is this its name?") from error
        if "image" not in features or not splits:
            raise DataError(f"{name} has no images called image (but {', '.join(features) or 'nothing'})")
        self._split = "train" if "train" in splits else next(iter(splits))
        self._count = int(splits[self._split].num_examples)
        self._identity = f"{info.full_name} {self._split} {self._count}"
        self._in_set = labels is None and "label" in features
        self.labels = Labels("classes") if self._in_set else choose_labels(labels, path, count=self.count)

    def count(self) -> int:
        return self._count

    def items(self, start: int = 0) -> Iterator[Item]:
        # The order must be the same on every run: no shuffling, and one file after another.
        config = self._tfds.ReadConfig(interleave_cycle_length=1)
        data = self._builder.as_dataset(split=self._split, shuffle_files=False, read_config=config)
        rows = self._tfds.as_numpy(data.skip(start))
        for number, row in enumerate(islice(rows, self._count - start), start):
            yield self._of_row(number, row)

    def _of_row(self, number: int, row: dict[str, Any]) -> Item:
        name = f"{self._split}[{number}]"
        label: Label | None = self.labels.of(number, name)
        if self._in_set and np.ndim(row["label"]) == 0 and 0 <= int(row["label"]) < MAX_CLASSES:
            label = int(row["label"])
        image = np.asarray(row["image"])
        if image.dtype not in (np.uint8, np.uint16) or image.ndim != 3 or image.shape[2] not in CHANNELS:
            return Item(name, None, label, f"{image.dtype} {list(image.shape)} is not an image")
        return Item(name, np.ascontiguousarray(image), label)

    def _state(self) -> str:
        return self._identity
