"""Images through feature networks, and what is kept of them.

Images are read ahead by other threads while a network computes, and another thread fetches a block's features and sums
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
from ganformer_cli.metrics.metric import Metric
from ganformer_cli.metrics.processes import ProcessGroup, fail_together
from ganformer_cli.metrics.sources import ImageSource, block_ranges
from ganformer_cli.metrics.statistics import GaussianStatistics, check_finite

if TYPE_CHECKING:
    from ganformer_cli.metrics.features import FeatureNetwork

#: Images in a block, at most, and their bytes.
_BLOCK, _BLOCK_BYTES = 64, 32 << 20
#: Larger arrays are kept in a temporary file.
_MAX_IN_MEMORY = 256 << 20
#: Bytes that are exchanged between processes at a time.
_EXCHANGE_BYTES = 64 << 20

#: A network's name, and which of its outputs.
FeatureKey = tuple[str, str]


@dataclass
class Collected:
    """What was kept of a set of images."""

    moments: dict[FeatureKey, GaussianStatistics] = field(default_factory=dict)
    rows: dict[FeatureKey, npt.NDArray[Any]] = field(default_factory=dict)  # float32 [N, D]
    pixels: npt.NDArray[np.uint8] | None = None  # [some, 3, H, W], the first ones

    def get(self, metric: Metric, count: int) -> Any:
        """What ``metric`` needs of the first ``count`` images."""
        if metric.needs == "moments":
            return self.moments[metric.features]
        if metric.needs == "rows":
            return self.rows[metric.features][:count]
        assert self.pixels is not None  # the plan asks for them
        return self.pixels[:count]


def collect(
    source: ImageSource,
    networks: Mapping[str, FeatureNetwork],
    *,
    count: int,
    moments: Sequence[FeatureKey] = (),
    rows: Sequence[FeatureKey] = (),
    pixels: int = 0,
    group: ProcessGroup,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Collected:
    """Pass the images of ``source`` once, split over the processes; all of them return the whole result.

    Args:
        count: of how many, from the first on, features are wanted.
        moments: features of which mean and covariance are wanted.
        rows: features that are wanted as they are.
        pixels: how many images are wanted as they are.
        progress: called with how many of this process's images are done, and how many there are.

    Raises:
        DataError: an image cannot be read, or has features that are not finite.
        OutputError: the disk has no space for the features.
    """
    names = sorted({name for name, _ in (*moments, *rows)})
    seen = max(count if names else 0, pixels)
    size = max(1, min(_BLOCK, _BLOCK_BYTES // (3 * source.height * source.width)))
    blocks_by_rank = [block_ranges(seen, size, rank, group.world_size) for rank in range(group.world_size)]
    found = Collected({key: GaussianStatistics() for key in moments})

    def keep(block: range, features: Mapping[str, Mapping[str, Tensor]]) -> None:
        for key in {*moments, *rows} if features else ():
            values = features[key[0]][key[1]].cpu().numpy()
            check_finite(values, block.start)
            if key in moments:
                found.moments[key].add(values)
            if key in rows:
                if key not in found.rows:
                    found.rows[key] = scratch((count, values.shape[1]), np.float32)
                found.rows[key][block.start : block.stop] = values

    def look() -> None:
        if pixels:
            found.pixels = scratch((pixels, 3, source.height, source.width), np.uint8)
        own = blocks_by_rank[group.rank]
        total, done = sum(map(len, own)), 0
        if total:
            progress(0, total)
        with ThreadPoolExecutor(1, thread_name_prefix="keeping") as pool:
            waiting: Future[None] | None = None
            for block, images in zip(own, source.blocks(own), strict=True):
                if found.pixels is not None and block.start < pixels:
                    found.pixels[block.start : block.stop] = images[: pixels - block.start]
                some = range(block.start, min(block.stop, count))
                batch = torch.from_numpy(images[: len(some)])
                features = {name: networks[name](batch) for name in names} if some else {}
                if waiting is not None:
                    waiting.result()
                waiting = submit(pool, keep, some, features)
                done += len(block)
                progress(done, total)
            if waiting is not None:
                waiting.result()

    fail_together(group, look)
    if group.world_size > 1:
        _merge(found, blocks_by_rank, group)
    return found


def scratch(shape: tuple[int, ...], kind: npt.DTypeLike) -> npt.NDArray[Any]:
    """An array to write to: in memory, or, if it is large, in a temporary file that goes away with it.

    Raises:
        OutputError: the disk has no space for it.
    """
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    if size <= _MAX_IN_MEMORY:
        return np.zeros(shape, kind)
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if free < size * 1.05:
        raise OutputError(
            f"{folder}: {free >> 20} MiB are free, {size >> 20} MiB are needed for what is computed of the images; "
            "free some space, set TMPDIR to another folder, or choose a smaller --eval-images-num"
        )
    with tempfile.TemporaryFile(prefix="ganformer-") as file:
        return np.memmap(file, kind, "w+", shape=shape)


def _merge(found: Collected, blocks_by_rank: list[list[range]], group: ProcessGroup) -> None:
    """Give every process what all of them have, merged in one order."""
    for key, own in found.moments.items():
        whole = GaussianStatistics()
        for arrays in group.all_gather_object(own.to_arrays()):
            whole.merge(GaussianStatistics.from_arrays(arrays))
        found.moments[key] = whole
    names = sorted({key for known in group.all_gather_object(sorted(found.rows)) for key in known})
    for key in names:
        shapes = group.all_gather_object(found.rows[key].shape if key in found.rows else None)
        shape = next(shape for shape in shapes if shape is not None)
        if key not in found.rows:  # more processes than blocks
            found.rows[key] = scratch(shape, np.float32)
        _exchange(found.rows[key], blocks_by_rank, group)
    if found.pixels is not None:
        _exchange(found.pixels, blocks_by_rank, group)


def _exchange(array: npt.NDArray[Any], blocks_by_rank: list[list[range]], group: ProcessGroup) -> None:
    """Fill in what the other processes have of ``array``: its blocks in turn, some at a time."""
    row_bytes = max(1, array[:1].nbytes)
    longest = max(map(len, blocks_by_rank))
    size = max((len(block) for blocks in blocks_by_rank for block in blocks), default=1)
    at_once = max(1, _EXCHANGE_BYTES // (row_bytes * size * group.world_size))
    for start in range(0, longest, at_once):
        own = [np.array(array[p.start : p.stop]) for p in blocks_by_rank[group.rank][start : start + at_once]]
        for rank, blocks in enumerate(group.all_gather_object(own)):
            for place, values in zip(blocks_by_rank[rank][start : start + at_once], blocks, strict=True):
                array[place.start : place.stop] = values
