"""Pictures through feature networks, and what is kept of them.

Pictures are read ahead by other threads while a network computes, and another one fetches a block's features and sums
them up while the next block is on its way. Blocks are the same whatever the batch size and the number of processes.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ganformer_cli.errors import OutputError
from ganformer_cli.metrics.blocks import submit
from ganformer_cli.metrics.processes import ProcessGroup, fail_together
from ganformer_cli.metrics.sources import Images, ImageSource, block_ranges
from ganformer_cli.metrics.statistics import GaussianStatistics, check_finite

if TYPE_CHECKING:
    from ganformer_cli.metrics.features import FeatureNetwork

#: Pictures that are handed on together, at most, and their bytes.
_BLOCK, _BLOCK_BYTES = 64, 32 << 20
#: Arrays above this are kept in a file that has no name.
_MOST_IN_MEMORY = 256 << 20
#: Bytes that travel between processes at a time.
_TRAVELLING = 64 << 20

Array = npt.NDArray[Any]
#: A network's name, and which of its outputs.
FeatureKey = tuple[str, str]


@dataclass
class Collected:
    """What was kept of a set of pictures."""

    moments: dict[FeatureKey, GaussianStatistics] = field(default_factory=dict)
    rows: dict[FeatureKey, Array] = field(default_factory=dict)  # float32 [N, D]
    pixels: Images | None = None  # uint8 [some, 3, H, W], the first ones


def collect(
    source: ImageSource,
    networks: Mapping[str, FeatureNetwork],
    *,
    count: int,
    moments: Sequence[FeatureKey] = (),
    rows: Sequence[FeatureKey] = (),
    pixels: int = 0,
    group: ProcessGroup,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Collected:
    """Look at the pictures of ``source`` once, each process at its share; all then have the whole.

    Args:
        source: the pictures.
        networks: by name.
        count: of how many, from the first on, features are wanted.
        moments: features of which mean and covariance are wanted.
        rows: features that are wanted as they are.
        pixels: how many pictures are wanted as they are.
        group: the processes.
        report: told how many of this process's pictures have been looked at, and of how many.

    Raises:
        DataError: a picture cannot be read, or has features that are not finite.
        OutputError: the disk has no space for the features.
    """
    names = {name for name, _ in (*moments, *rows)}
    seen = max(count if names else 0, pixels)
    size = max(1, min(_BLOCK, _BLOCK_BYTES // (3 * source.height * source.width)))
    places = [block_ranges(seen, size, rank, group.world_size) for rank in range(group.world_size)]
    found = Collected({wanted: GaussianStatistics() for wanted in moments})
    keeper = _Keeper(found, rows, count)

    def look() -> None:
        if pixels:
            found.pixels = scratch((pixels, 3, source.height, source.width), np.uint8)
        own = places[group.rank]
        total, done = sum(map(len, own)), 0
        report(0, total)
        with ThreadPoolExecutor(1, thread_name_prefix="keeping") as pool:
            waiting: Future[None] | None = None
            for place, images in zip(own, source.blocks(own), strict=True):
                if found.pixels is not None and place.start < pixels:
                    found.pixels[place.start : place.stop] = images[: pixels - place.start]
                some = range(place.start, min(place.stop, count))
                features = {}
                if some and names:
                    batch = torch.from_numpy(images[: len(some)])
                    features = {name: networks[name](batch) for name in sorted(names)}
                if waiting is not None:
                    waiting.result()
                waiting = submit(pool, keeper.keep, some, features)
                done += len(place)
                report(done, total)
            if waiting is not None:
                waiting.result()

    fail_together(group, look)
    _share(found, places_by_rank=places, group=group)
    return found


class _Keeper:
    """Puts the features of each block where they are wanted."""

    def __init__(self, found: Collected, rows: Sequence[FeatureKey], count: int) -> None:
        self.found, self.rows, self.count = found, rows, count

    def keep(self, place: range, features: Mapping[str, Mapping[str, Tensor]]) -> None:
        fetched = {
            (name, output): features[name][output].cpu().numpy()
            for name, output in {*self.found.moments, *self.rows}
            if name in features
        }
        for wanted, block in fetched.items():
            check_finite(block, place.start)
            if wanted in self.found.moments:
                self.found.moments[wanted].add(block)
            if wanted in self.rows:
                if wanted not in self.found.rows:
                    self.found.rows[wanted] = scratch((self.count, block.shape[1]), np.float32)
                self.found.rows[wanted][place.start : place.stop] = block


def scratch(shape: tuple[int, ...], kind: npt.DTypeLike) -> Array:
    """An array to write to: in memory, or, if it is large, in a temporary file that goes away with it.

    Raises:
        OutputError: the disk has no space for it.
    """
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    if size <= _MOST_IN_MEMORY:
        return np.zeros(shape, kind)
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if free < size * 1.05:
        raise OutputError(
            f"{folder}: {free >> 20} MiB are free, {size >> 20} MiB are needed for what is computed of the pictures; "
            "free some space, set TMPDIR to another folder, or choose a smaller --eval-images-num"
        )
    with tempfile.TemporaryFile(prefix="ganformer-") as file:
        return np.memmap(file, kind, "w+", shape=shape)


def _share(found: Collected, *, places_by_rank: list[list[range]], group: ProcessGroup) -> None:
    """Give every process what all have, put together in one order."""
    if group.world_size == 1:
        return
    for wanted, own in found.moments.items():
        whole = GaussianStatistics()
        for arrays in group.gather(own.to_arrays()):
            whole.merge(GaussianStatistics.from_arrays(arrays))
        found.moments[wanted] = whole
    names = sorted({wanted for known in group.gather(sorted(found.rows)) for wanted in known})
    for wanted in names:
        shapes = group.gather(found.rows[wanted].shape if wanted in found.rows else None)
        shape = next(shape for shape in shapes if shape is not None)
        if wanted not in found.rows:  # more processes than blocks
            found.rows[wanted] = scratch(shape, np.float32)
        _exchange(found.rows[wanted], places_by_rank, group)
    if found.pixels is not None:
        _exchange(found.pixels, places_by_rank, group)


def _exchange(array: Array, places_by_rank: list[list[range]], group: ProcessGroup) -> None:
    """Fill in what the other processes have of ``array``: its blocks in turn, some at a time."""
    row_bytes = max(1, array[:1].nbytes)
    longest = max(map(len, places_by_rank))
    size = max((len(place) for places in places_by_rank for place in places), default=1)
    at_once = max(1, _TRAVELLING // (row_bytes * size * group.world_size))
    for start in range(0, longest, at_once):
        own = [np.array(array[p.start : p.stop]) for p in places_by_rank[group.rank][start : start + at_once]]
        for rank, blocks in enumerate(group.gather(own)):
            for place, block in zip(places_by_rank[rank][start : start + at_once], blocks, strict=True):
                array[place.start : place.stop] = block
