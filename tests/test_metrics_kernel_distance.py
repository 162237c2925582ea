"""Kernel distance: the unbiased estimate of a squared maximum mean discrepancy."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from ganformer_cli.errors import DataError
from ganformer_cli.metrics.kernel_distance import kernel_distance

Rows = npt.NDArray[np.float64]


def normal(count: int, width: int = 5, seed: int = 0) -> Rows:
    return np.random.RandomState(seed).randn(count, width)


def by_definition(reals: Rows, fakes: Rows) -> float:
    def kernel(x: Rows, y: Rows) -> float:
        return float((x @ y / len(x) + 1) ** 3)

    within = [np.mean([kernel(x, y) for x, y in itertools.permutations(rows, 2)]) for rows in (reals, fakes)]
    return float(sum(within) - 2 * np.mean([kernel(x, y) for x, y in itertools.product(reals, fakes)]))


def test_it_is_the_estimate_of_the_paper() -> None:
    reals, fakes = normal(9), normal(9, seed=1) + 0.5
    mean, _ = kernel_distance(reals, fakes, subsets=2, subset_size=9)
    assert mean == pytest.approx(by_definition(reals, fakes), rel=1e-12)


@pytest.mark.slow
def test_it_is_unbiased_where_samples_of_one_distribution_are_few() -> None:
    found = [kernel_distance(normal(20, seed=s), normal(20, seed=1000 + s), subsets=1)[0] for s in range(300)]
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found)) < 3 * error
    assert min(found) < 0  # which an estimate that is never below 0 cannot be


def test_it_grows_with_the_shift() -> None:
    reals = normal(300)
    found = [kernel_distance(reals, normal(300, seed=1) + shift, subsets=20)[0] for shift in (0.0, 0.3, 0.6, 1.2)]
    assert found == sorted(found)


def test_subsets_are_drawn_by_seed_without_repetition() -> None:
    reals, fakes = normal(50), normal(60, seed=1)
    first = kernel_distance(reals, fakes, subsets=5, subset_size=10)
    assert kernel_distance(reals, fakes, subsets=5, subset_size=10) == first
    assert kernel_distance(reals, fakes, subsets=5, subset_size=10, seed=1) != first
    # Were a row drawn twice, the sum over unequal pairs would hold a diagonal: of one row repeated there is no other.
    apart = np.eye(30) * 1000
    alone, _ = kernel_distance(apart, apart + 0, subsets=5, subset_size=30)
    assert alone == pytest.approx(-2 * ((1e6 / 30 + 1) ** 3 - 1) / 30, rel=1e-9)


def test_fewer_pictures_than_a_subset_are_all_taken() -> None:
    reals, fakes = normal(30), normal(12, seed=1)
    assert kernel_distance(reals, fakes, subsets=7) == kernel_distance(reals, fakes, subsets=7, subset_size=12)


def spread(
    reals: int, fakes: int, size: int, shift: float = 0.0, width: int = 12, times: int = 60
) -> tuple[float, list[float]]:
    """The standard deviation of the value over many sets of rows, and the one that each set gave."""
    found = [
        kernel_distance(
            normal(reals, width, seed=2 * s), normal(fakes, width, seed=2 * s + 1) + shift, subsets=5, subset_size=size
        )
        for s in range(times)
    ]
    deviations = [deviation for _, deviation in found if deviation is not None]
    assert len(deviations) == times
    return float(np.std([value for value, _ in found], ddof=1)), deviations


@pytest.mark.parametrize("shift", [0.0, 0.5])
@pytest.mark.parametrize(
    ("reals", "fakes"),
    [(20, 20), (40, 40), (44, 44), (44, 40), (76, 76), (120, 24), (24, 120)],
)
def test_the_deviation_is_that_of_the_value_where_subsets_share_most_rows(reals: int, fakes: int, shift: float) -> None:
    true, messages = spread(reals, fakes, 40, shift)
    assert true > 1e-3
    assert true / 1.5 < np.mean(messages) < 1.5 * true
    assert min(messages) > true / 4


def test_subsets_tell_the_deviation_of_an_estimate_of_their_size() -> None:
    true, _ = spread(40, 40, 40)
    _, messages = spread(800, 800, 40, times=20)
    assert true / 1.5 < np.mean(messages) < 1.5 * true


def test_the_deviation_of_876_normal_features() -> None:
    """What repeated draws of 876 and 876 rows of 80 normal numbers have: 1.11e-3 over 60 of them."""
    _, deviation = kernel_distance(normal(876, 80), normal(876, 80, seed=1))
    assert deviation == pytest.approx(1.11e-3, rel=0.25)


def test_too_few_rows_tell_no_deviation() -> None:
    for reals, fakes in ((2, 2), (3, 50), (50, 3)):
        value, deviation = kernel_distance(normal(reals), normal(fakes, seed=1))
        assert np.isfinite(value)
        assert deviation is None
    _, deviation = kernel_distance(normal(4), normal(4, seed=1))
    assert deviation is not None
    assert deviation > 0


def test_rows_may_lie_in_a_file(own_folder: Path) -> None:
    reals, fakes = normal(50).astype(np.float32), normal(60, seed=1).astype(np.float32)
    np.save("reals.npy", reals)
    mapped = np.load("reals.npy", mmap_mode="r")
    assert kernel_distance(mapped, fakes, subsets=3, subset_size=9) == kernel_distance(
        reals, fakes, subsets=3, subset_size=9
    )


def test_number_of_old() -> None:
    found = kernel_distance(normal(200, 32), normal(150, 32, seed=1) * 1.1 + 0.1, subsets=10, subset_size=50)
    assert found == pytest.approx(GOLDEN, rel=1e-9)


GOLDEN = (0.08112480086239734, 0.04560097666822087)


def test_what_cannot_be_compared() -> None:
    with pytest.raises(DataError, match="at least 2 images of either kind, not 1"):
        kernel_distance(normal(5), normal(1))
    with pytest.raises(DataError, match="different networks"):
        kernel_distance(normal(5), normal(5, 4))
    with pytest.raises(DataError, match="not finite"):
        kernel_distance(normal(5), normal(5) * np.inf)
