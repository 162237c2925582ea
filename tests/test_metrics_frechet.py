"""Fréchet distance: its formula where it has a short one, and what it means."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from ganformer_cli.errors import DataError
from ganformer_cli.metrics.frechet import frechet_distance
from ganformer_cli.metrics.statistics import GaussianStatistics

Rows = npt.NDArray[np.float64]


def normal(count: int, width: int = 6, seed: int = 0) -> Rows:
    return np.random.RandomState(seed).randn(count, width)


def distance(one: Rows, other: Rows) -> float:
    sides = GaussianStatistics(), GaussianStatistics()
    for side, rows in zip(sides, (one, other), strict=True):
        side.add(rows)
    return frechet_distance(*sides)


def exactly_white(count: int, width: int) -> Rows:
    """Rows whose mean is 0 and whose covariance is the identity, up to rounding."""
    rows = normal(count, width)
    rows -= rows.mean(0)
    values, vectors = np.linalg.eigh(np.cov(rows, rowvar=False))
    return rows @ vectors / np.sqrt(values) @ vectors.T


def test_of_commuting_covariances_it_is_the_distance_of_means_and_of_deviations() -> None:
    white = exactly_white(500, 4)
    deviations, others = np.array([1.0, 2.0, 3.0, 0.5]), np.array([2.0, 2.0, 0.1, 4.0])
    shift = np.array([0.0, 1.0, -2.0, 0.5])
    expected = (shift**2).sum() + ((deviations - others) ** 2).sum()
    assert distance(white * deviations, white * others + shift) == pytest.approx(expected, rel=1e-10)


def test_of_covariances_that_do_not_commute() -> None:
    """[[2, 1], [1, 2]] against diag(1, 4): the eigenvalues of their product are 5 ± √13, from its trace and
    determinant."""
    white = exactly_white(500, 2)
    first = white @ np.linalg.cholesky(np.array([[2.0, 1.0], [1.0, 2.0]])).T
    second = white * np.array([1.0, 2.0])
    root = np.sqrt(5 + np.sqrt(13)) + np.sqrt(5 - np.sqrt(13))
    assert distance(first, second) == pytest.approx(4 + 5 - 2 * root, rel=1e-9)


@pytest.mark.parametrize(("count", "width"), [(500, 20), (21, 20), (12, 20), (2, 300), (60, 300)])
def test_identical_sets_have_none_however_few(count: int, width: int) -> None:
    rows = np.maximum(normal(count, width), 0) * np.linspace(1e-3, 1e2, width)
    scale = float(np.trace(np.cov(rows, rowvar=False)))
    assert 0 <= distance(rows, rows.copy()) < 1e-10 * scale
    assert distance(rows, rows[::-1].copy()) < 1e-10 * scale


def test_it_does_not_hang_on_the_side_nor_on_the_axes() -> None:
    one, other = normal(200), normal(300, seed=1) * 2 + 1
    turned, _ = np.linalg.qr(normal(6, seed=2))
    assert distance(one, other) == pytest.approx(distance(other, one), rel=1e-12)
    assert distance(one @ turned, other @ turned) == pytest.approx(distance(one, other), rel=1e-12)
    assert distance(3 * one, 3 * other) == pytest.approx(9 * distance(one, other), rel=1e-12)


def test_sets_without_a_common_direction_keep_their_whole_spread() -> None:
    """Singular covariances on different axes: nothing is shared, and nothing becomes complex."""
    one, other = np.zeros((100, 4)), np.zeros((100, 4))
    one[:, :2], other[:, 2:] = exactly_white(100, 2), 2 * exactly_white(100, 2)
    assert distance(one, other) == pytest.approx(2 + 8, rel=1e-9)


def test_one_picture_repeated_is_as_far_as_the_data_are_spread() -> None:
    rows = exactly_white(400, 5)
    assert distance(rows, np.zeros((50, 5))) == pytest.approx(5, rel=1e-9)
    assert distance(np.zeros((50, 5)), np.ones((50, 5))) == pytest.approx(5, rel=1e-12)


def test_few_pictures_are_further() -> None:
    """The bias that a warning speaks of: two samples of one distribution, ever larger."""
    found = [distance(normal(count, 40, seed=3), normal(count, 40, seed=4)) for count in (50, 200, 1000, 5000)]
    assert found == sorted(found, reverse=True)
    assert found[-1] < 0.2 < 10 < found[0]


def test_number_of_old() -> None:
    one, other = np.maximum(normal(300, 32), 0), np.maximum(normal(200, 32, seed=1) * 1.2 - 0.1, 0)
    assert distance(one, other) == pytest.approx(GOLDEN, rel=1e-9)


GOLDEN = 1.3539068580433735


def test_what_has_no_distance() -> None:
    with pytest.raises(DataError, match="different networks"):
        distance(normal(10, 3), normal(10, 4))
    with pytest.raises(DataError, match="at least 2 images, not of 1"):
        distance(normal(10), normal(1))
