"""Kernel distance, "KID" on Inception's features (Bińkowski et al. 2018, section 4).

The squared maximum mean discrepancy of two sets under the kernel k(x, y) = (xᵀy / D + 1)³, estimated without bias:

    mean over i≠j of k(xi, xj) + mean over i≠j of k(yi, yj) - 2 mean of k(xi, yj)

on random subsets, and averaged over them. Being unbiased it can come out slightly below 0, and its mean does not depend
on the number of images.

The deviation says how sure the value is. Of many images it is that over the subsets, as papers print it: the one of an
estimate from 1000 images. Subsets that share most of their images, or are the whole set, tell nothing of that; the
standard deviation of the value is then estimated from Hoeffding's decomposition (1948) of the estimate into
uncorrelated parts, whose variances have unbiased estimates (as in Sutherland & Deka 2019, "Unbiased estimators for the
variance of MMD estimators").
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ganformer_cli.errors import DataError
from ganformer_cli.metrics.statistics import Doubles, Features, as_doubles, as_rows, check_same_width

SUBSETS = 100
SUBSET_SIZE = 1000
#: From so many times the subset's size on, subsets share few enough images to be a sample: their deviation is then at
#: most a factor 1.41 too low, and 1.05 from ten times on.
APART = 2
#: Fewer images on a side have no unbiased estimate of a variance.
_LEAST = 4


def kernel_distance(
    reals: Features, fakes: Features, *, subsets: int = SUBSETS, subset_size: int = SUBSET_SIZE, seed: int = 0
) -> tuple[float, float | None]:
    """The mean over subsets, and a standard deviation.

    Args:
        reals, fakes: ``[N, D]`` and ``[M, D]``, floating; arrays that are mapped from a file are read subset by subset.
        subsets: how many are drawn; a single one where it is all of both sets.
        subset_size: rows of each side in a subset, without repetition; at most the smaller of N and M is used.
        seed: of the subsets.

    Returns:
        The value, and its deviation: over subsets where both N and M are at least twice ``subset_size``, else the
        estimated standard deviation of the value; None of fewer than 4 rows.

    Raises:
        DataError: no such arrays, fewer than two rows on a side, or values that are not finite.
    """
    both = as_rows(fakes), as_rows(reals)
    check_same_width(*both)
    fewest = min(map(len, both))
    size = min(subset_size, fewest)
    if size < 2:
        raise DataError(f"a kernel distance needs at least 2 images of either kind, not {size}")
    if all(len(rows) == size for rows in both):
        subsets = 1
    # numpy promises never to change this generator's numbers.
    random = np.random.RandomState(seed)
    found = np.empty(subsets)
    for number in range(subsets):
        found[number] = _unbiased(*(as_doubles(rows[random.choice(len(rows), size, replace=False)]) for rows in both))
    mean = float(found.mean())
    if fewest >= APART * subset_size:
        return mean, float(found.std())
    if fewest < _LEAST:
        return mean, None
    # The parts' variances need no more rows than this; which ones does not matter.
    some = (rows[np.sort(random.permutation(len(rows))[: max(APART * size, _LEAST)])] for rows in both)
    parts = _variances(*map(as_doubles, some))
    whole, one = parts.of_estimate(*map(len, both)), parts.of_estimate(size, size)
    # An average over subsets has what the estimate from all rows has, and what is left of the choice of the subsets.
    return mean, math.sqrt(max(0.0, whole + (one - whole) / subsets))


class _Variances(NamedTuple):
    """Variances of the uncorrelated parts of a kernel distance, for one row x and one row y.

    With a kernel k centred over both of its arguments k', the parts are the witness function f(x) = E k(x, x2) -
    E k(x, y) and f(y), and k'(x1, x2), k'(y1, y2), k'(x, y).
    """

    x: float
    y: float
    xx: float
    yy: float
    xy: float

    def of_estimate(self, n: int, m: int) -> float:
        """Of the unbiased estimate from n rows x and m rows y."""
        linear = 4 * self.x / n + 4 * self.y / m
        return linear + 2 * self.xx / (n * (n - 1)) + 2 * self.yy / (m * (m - 1)) + 4 * self.xy / (n * m)


def _variances(x: Doubles, y: Doubles) -> _Variances:
    """Estimates of ``_Variances``, each unbiased but that none is negative; at least 4 rows a side."""
    n, m = len(x), len(y)
    between = _kernel(x, y)
    of_x, of_y = between.mean(1), between.mean(0)
    between -= of_x[:, None] + (of_y - of_y.mean())
    xy = float(np.square(between, out=between).sum()) / ((n - 1) * (m - 1))
    del between
    sums, squares = [], []
    for rows in (x, y):
        total, square = _within(rows)
        sums.append(total)
        squares.append(square)
    # The means over the other rows vary by chance, too, which is taken off.
    linear = [
        max(0.0, float((own - across).var(ddof=1)) - square / (len(own) - 2) - xy / others)
        for own, across, square, others in zip(sums, (of_x, of_y), squares, (m, n), strict=True)
    ]
    return _Variances(x=linear[0], y=linear[1], xx=squares[0], yy=squares[1], xy=xy)


def _within(rows: Doubles) -> tuple[Doubles, float]:
    """Of one side: each row's sum of kernels with the others over n - 2, and the mean square of the centred kernel.

    Centred as by Székely & Rizzo (2014, "Partial distance correlation with methods for dissimilarities", equation 2.4),
    so that both are unbiased.
    """
    n = len(rows)
    kernel = _kernel(rows, rows)
    np.fill_diagonal(kernel, 0.0)
    sums: Doubles = kernel.sum(1) / (n - 2)
    kernel -= sums[:, None] + (sums - sums.sum() / (n - 1))
    np.fill_diagonal(kernel, 0.0)
    return sums, float(np.square(kernel, out=kernel).sum()) / (n * (n - 3))


def _unbiased(x: Doubles, y: Doubles) -> float:
    """The estimate for two subsets of one size."""
    count = len(x)
    own = sum(float(kernel.sum() - np.trace(kernel)) for kernel in (_kernel(x, x), _kernel(y, y)))
    return own / (count * (count - 1)) - 2 * float(_kernel(x, y).mean())


def _kernel(x: Doubles, y: Doubles) -> Doubles:
    inner = x @ y.T / x.shape[1] + 1
    return inner * inner * inner
