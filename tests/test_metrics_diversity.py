"""Diversity: the mean distance between two samples over that between two real pictures."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ganformer_cli.errors import DataError
from ganformer_cli.metrics import diversity
from ganformer_cli.metrics.diversity import diversity_ratio, mean_pairwise_distance


def noise(count: int, *, seed: int = 0, low: int = 0, high: int = 256) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, (count, 3, 16, 24)).astype(np.uint8)


@pytest.mark.parametrize("block_bytes", [1, 5 * 3 * 16 * 24 * 8, 64 << 20])
def test_it_is_the_mean_over_all_pairs_whatever_the_blocks(block_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diversity, "_BLOCK_BYTES", block_bytes)
    images = noise(13)
    pairs = itertools.combinations(images.astype(np.float64), 2)
    expected = np.mean([np.sqrt(((first - second) ** 2).mean()) for first, second in pairs])
    assert mean_pairwise_distance(images) == pytest.approx(expected, rel=1e-12)


def test_unit_is_one_grey_level() -> None:
    images = np.zeros((2, 3, 8, 8), np.uint8)
    images[1] = 17
    assert mean_pairwise_distance(images) == 17.0


def test_one_and_the_same_picture_has_none() -> None:
    assert mean_pairwise_distance(np.repeat(noise(1), 50, 0)) == 0.0


def test_the_number_of_pictures_does_not_matter() -> None:
    assert diversity_ratio(noise(20, seed=1), noise(300, seed=2)) == pytest.approx(1, abs=0.01)


def test_half_the_contrast_is_half_as_diverse() -> None:
    images = noise(40) // 2 * 2
    assert diversity_ratio(images // 2, images) == pytest.approx(0.5)


def test_few_modes_are_less_diverse_than_many() -> None:
    reals = noise(64)
    ratios = [diversity_ratio(np.repeat(reals[:modes], 64 // modes, 0), reals) for modes in (1, 2, 8, 64)]
    assert ratios[0] == 0.0
    assert ratios == sorted(ratios)
    assert ratios[-1] == 1.0


def test_what_cannot_be_measured() -> None:
    with pytest.raises(DataError, match="at least 2 images, not 1"):
        mean_pairwise_distance(noise(1))
    with pytest.raises(DataError, match="all images of the data set are identical"):
        diversity_ratio(noise(4), np.zeros((4, 3, 16, 24), np.uint8))
    with pytest.raises(DataError, match="uint8"):
        mean_pairwise_distance(noise(4).astype(np.float32))
