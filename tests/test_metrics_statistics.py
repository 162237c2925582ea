"""Mean and covariance of features that come piece by piece."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from ganformer_cli.errors import DataError
from ganformer_cli.metrics.statistics import GaussianStatistics


def rows(count: int, width: int = 7, seed: int = 0) -> npt.NDArray[np.float64]:
    """Correlated features far from 0, where a careless sum of squares loses its digits."""
    random = np.random.RandomState(seed)
    return random.randn(count, width) @ random.randn(width, width) + 1e4


def statistics(features: npt.NDArray[np.float64], *cuts: int) -> GaussianStatistics:
    found = GaussianStatistics()
    for part in np.split(features, list(cuts)):
        found.add(part)
    return found


@pytest.mark.parametrize("count", [2, 255, 256, 257, 1000])
def test_they_are_mean_and_covariance(count: int) -> None:
    features = rows(count)
    found = statistics(features)
    assert found.count == count
    np.testing.assert_allclose(found.mean, features.mean(0), rtol=1e-14)
    np.testing.assert_allclose(found.covariance, np.cov(features, rowvar=False), rtol=1e-10)


def test_how_many_come_at_a_time_does_not_change_a_bit() -> None:
    features = rows(700)
    whole = statistics(features)
    for cuts in ((1, 2, 3), (255, 256, 257), (300,), tuple(range(0, 700, 64))):
        part = statistics(features, *cuts)
        assert np.array_equal(part.mean, whole.mean)
        assert np.array_equal(part.covariance, whole.covariance)


def test_looking_does_not_change_what_comes_out() -> None:
    features = rows(400)
    looked = GaussianStatistics()
    for part in np.split(features, 8):
        looked.add(part)
        looked.covariance  # noqa: B018
    assert np.array_equal(looked.covariance, statistics(features).covariance)


@pytest.mark.parametrize("cuts", [(0,), (1,), (300,), (256, 512), (10, 20, 690)])
def test_shares_of_several_processes_merge_into_the_whole(cuts: tuple[int, ...]) -> None:
    features = rows(700)
    merged = GaussianStatistics()
    for part in np.split(features, cuts):
        merged.merge(statistics(part) if len(part) else GaussianStatistics())
    assert merged.count == 700
    np.testing.assert_allclose(merged.mean, features.mean(0), rtol=1e-14)
    np.testing.assert_allclose(merged.covariance, statistics(features).covariance, rtol=1e-11)


def test_merging_leaves_the_other_side_alone_and_goes_on() -> None:
    one, other = statistics(rows(100)), statistics(rows(100, seed=1))
    before = other.covariance
    one.merge(other)
    assert np.array_equal(other.covariance, before)
    one.add(rows(100, seed=2))
    features = np.concatenate([rows(100, seed=seed) for seed in range(3)])
    np.testing.assert_allclose(one.covariance, np.cov(features, rowvar=False), rtol=1e-10)


def test_they_can_be_kept() -> None:
    features = rows(300)
    kept = statistics(features[:200]).to_arrays()
    again = GaussianStatistics.from_arrays(kept)
    again.add(features[200:])
    assert again.count == 300
    np.testing.assert_allclose(again.covariance, statistics(features).covariance, rtol=1e-11)


def test_float32_tensors_are_summed_in_float64() -> None:
    features = torch.from_numpy(rows(300)).float()
    found = GaussianStatistics()
    found.add(features)
    assert np.array_equal(found.covariance, statistics(features.double().numpy()).covariance)


def test_what_has_no_statistics() -> None:
    empty = GaussianStatistics()
    with pytest.raises(DataError, match="at least 1 images, not of 0"):
        empty.mean  # noqa: B018
    with pytest.raises(DataError, match="at least 2 images, not of 1"):
        statistics(rows(1)).covariance  # noqa: B018
    with pytest.raises(DataError, match="features of 3 numbers cannot be added to features of 7"):
        statistics(rows(5)).add(np.zeros((2, 3)))
    with pytest.raises(DataError, match="features of 3 numbers"):
        statistics(rows(5)).merge(statistics(rows(5, 3)))
    damaged = rows(5)
    damaged[3, 1] = np.nan
    with pytest.raises(DataError, match="image 3 are not finite"):
        statistics(damaged)
    with pytest.raises(DataError, match=r"floating-point \[N, D\], not int64 \[4, 2\]"):
        empty.add(np.zeros((4, 2), np.int64))
    kept = statistics(rows(5)).to_arrays()
    for wrong in ({}, {**kept, "scatter": kept["scatter"][:3]}, {**kept, "mean": kept["mean"] * np.nan}):
        with pytest.raises(DataError, match="statistics of features"):
            GaussianStatistics.from_arrays(wrong)
