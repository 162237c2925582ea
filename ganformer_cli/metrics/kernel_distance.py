"""Kernel distance, "KID" on Inception's features (Bińkowski et al. 2018, section 4).

The squared maximum mean discrepancy of two sets under the kernel k(x, y) = (xᵀy / D + 1)³, estimated without bias:

    mean over i≠j of k(xi, xj) + mean over i≠j of k(yi, yj) - 2 mean of k(xi, yj)

on random subsets, and averaged over them. Being unbiased it can come out slightly below 0, and its mean does not depend
on the number of pictures; the deviation over subsets tells how sure it is.
"""

from __future__ import annotations

import numpy as np

from ganformer_cli.errors import DataError
from ganformer_cli.metrics.statistics import Doubles, Features, as_doubles, as_rows, check_same_width

VERSION = "kid-1"
SUBSETS = 100
SUBSET_SIZE = 1000


def kernel_distance(
    reals: Features, fakes: Features, *, subsets: int = SUBSETS, subset_size: int = SUBSET_SIZE, seed: int = 0
) -> tuple[float, float]:
    """Mean and standard deviation over subsets.

    Args:
        reals, fakes: ``[N, D]`` and ``[M, D]``, floating; arrays that are mapped from a file are read subset by subset.
        subsets: how many are drawn.
        subset_size: rows of each side in a subset, without repetition; at most the smaller of N and M is used.
        seed: of the subsets.

    Raises:
        DataError: no such arrays, fewer than two rows on a side, or values that are not finite.
    """
    sides = as_rows(fakes), as_rows(reals)
    check_same_width(*sides)
    size = min(subset_size, *map(len, sides))
    if size < 2:
        raise DataError(f"a kernel distance needs at least 2 pictures of either kind, not {size}")
    # numpy promises never to change this generator's numbers.
    random = np.random.RandomState(seed)
    found = np.empty(subsets)
    for number in range(subsets):
        found[number] = _unbiased(*(as_doubles(rows[random.choice(len(rows), size, replace=False)]) for rows in sides))
    return float(found.mean()), float(found.std())


def _unbiased(x: Doubles, y: Doubles) -> float:
    """The estimate for two subsets of one size."""
    count = len(x)
    own = sum(float(kernel.sum() - np.trace(kernel)) for kernel in (_kernel(x, x), _kernel(y, y)))
    return own / (count * (count - 1)) - 2 * float(_kernel(x, y).mean())


def _kernel(x: Doubles, y: Doubles) -> Doubles:
    inner = x @ y.T / x.shape[1] + 1
    return inner * inner * inner
