"""Diversity: how far apart the samples are from one another, relative to the data.

The distance of two images is the root mean square of their pixel differences, in 8-bit levels (0 to 255): the L2
distance over the root of the number of values, so that it means the same at every size. Averaged over all pairs of a
set it does not depend, but for sampling noise, on how many images there are. The ratio is about 1 for samples as
varied as the data, 0 when all samples are one image, and above 1 for samples that are more unlike than the data,
noise for one. It sees pixels only: it cannot tell *what* varies.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ganformer_cli.errors import DataError
from ganformer_cli.metrics.blocks import BlockSize

_BLOCK_BYTES = 64 << 20

_Images = npt.NDArray[np.uint8]


def mean_pairwise_distance(images: _Images) -> float:
    """Mean over all pairs of different images of their RMS pixel difference, in 8-bit levels.

    Args:
        images: uint8 ``[N, 3, H, W]``, N >= 2. Time grows with N², memory does not (about 130 MB).

    Raises:
        DataError: fewer than two images, or not uint8.
    """
    if images.dtype != np.uint8 or images.ndim != 4:
        raise DataError(f"images must be uint8 [N, 3, height, width], not {images.dtype} {list(images.shape)}")
    count = len(images)
    if count < 2:
        raise DataError(f"diversity compares pairs and needs at least 2 images, not {count}")
    flat = images.reshape(count, -1)
    values = flat.shape[1]
    block = BlockSize(max(1, min(count, _BLOCK_BYTES // (values * 8))), "measuring distances of images")
    return block.run(lambda size: _sum_of_distances(flat, size)) / (count * (count - 1) / 2)


def _sum_of_distances(flat: npt.NDArray[np.uint8], block: int) -> float:
    """Over all pairs of rows, ``block`` rows at a time."""
    count, values = flat.shape
    total = 0.0
    for start in range(0, count, block):
        rows = flat[start : start + block].astype(np.float64)
        row_squares = np.einsum("nd,nd->n", rows, rows)
        for other in range(start, count, block):
            columns = rows if other == start else flat[other : other + block].astype(np.float64)
            column_squares = row_squares if other == start else np.einsum("nd,nd->n", columns, columns)
            # Sums of products of 8-bit integers are exact in float64: equal images have distance exactly 0.
            squares = row_squares[:, None] + column_squares - 2 * (rows @ columns.T)
            distances = np.sqrt(squares / values)
            total += float(np.triu(distances, 1).sum() if other == start else distances.sum())
    return total


def diversity_ratio(fakes: _Images, reals: _Images) -> float:
    """Mean pairwise distance of the samples over that of the data; the sets may differ in number.

    Raises:
        DataError: as ``mean_pairwise_distance``, or all reals are one image.
    """
    spread = mean_pairwise_distance(reals)
    if spread == 0:
        raise DataError("all images of the data set are identical; diversity has nothing to compare with")
    return mean_pairwise_distance(fakes) / spread
