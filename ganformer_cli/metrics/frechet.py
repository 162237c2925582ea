"""Fréchet distance of two Gaussians fitted to features (Heusel et al. 2017; on DINOv2 features Stein et al. 2023).

    d² = |m1 - m2|² + tr C1 + tr C2 - 2 tr (C1 C2)^½        (Dowson & Landau 1982, equation 4)

The last trace is the sum of the singular values of R1ᵀ R2, where Ci = Ri Riᵀ and Ri has the eigenvectors of Ci times
the roots of their eigenvalues. Unlike a root of the product C1 C2, which is not symmetric, that is never complex; and
it loses no digits: identical sets have distance 0 to float64's rounding, however few their images are.

The distance is biased: the fewer images, the larger it is. Compare values of equal numbers only.
"""

from __future__ import annotations

import numpy as np

from ganformer_cli.metrics.statistics import Doubles, GaussianStatistics, check_same_width


def frechet_distance(a: GaussianStatistics, b: GaussianStatistics) -> float:
    """The squared distance, at least 0 and symmetric in ``a`` and ``b``.

    With fewer rows than columns a covariance is singular: the distance exists, and says more about the number of rows
    than about what they were drawn from.

    Raises:
        DataError: fewer than two rows on a side, or features of different width.
    """
    mean, other = a.mean, b.mean
    check_same_width(mean[None], other[None])
    covariances = a.covariance, b.covariance
    roots = [_root(covariance) for covariance in covariances]
    shared = float(np.linalg.svd(roots[0].T @ roots[1], compute_uv=False).sum())
    traces = sum(float(np.trace(covariance)) for covariance in covariances)
    apart = mean - other
    return max(0.0, float(apart @ apart) + traces - 2 * shared)


def _root(covariance: Doubles) -> Doubles:
    """R ``[D, rank]`` with R Rᵀ = C; eigenvalues that are nothing but rounding are left out."""
    values, vectors = np.linalg.eigh(covariance)
    least = max(float(values[-1]), 0.0) * len(values) * np.finfo(np.float64).eps
    kept = values > least
    return vectors[:, kept] * np.sqrt(values[kept])
