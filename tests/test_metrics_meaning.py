"""Scores of pictures: the worse the pictures, the worse the score, through a real feature network."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ganformer_cli.data import open_dataset
from ganformer_cli.metrics.frechet import frechet_distance
from ganformer_cli.metrics.inception import Inception
from ganformer_cli.metrics.kernel_distance import kernel_distance
from ganformer_cli.metrics.manifold import density_coverage, precision_recall
from ganformer_cli.metrics.resizing import resized
from ganformer_cli.metrics.statistics import GaussianStatistics

COUNT = 48
#: The network takes any size from 75 up; at 75 it is sixteen times as fast as at 299.
SIDE = 75
#: Of 2048. More than there are pictures: covariances are singular.
FEATURES = 256


@pytest.fixture(scope="module")
def scenes() -> tuple[Tensor, Tensor]:
    """Reals, and as many others; uint8 [N, 3, 64, 64]."""
    dataset = open_dataset("scenes", resolution=64, max_images=2 * COUNT)
    images = torch.from_numpy(np.stack([dataset.image(i) for i in range(2 * COUNT)]))
    return images[:COUNT], images[COUNT:]


@pytest.fixture(scope="module")
def features(inception_weights: dict[str, Tensor]) -> Callable[[Tensor], Tensor]:
    network = Inception(inception_weights)

    def compute(images: Tensor) -> Tensor:
        with torch.inference_mode():
            found = [network(network.scaled(resized(part, SIDE, "tf1")))["pool"] for part in images.split(8)]
            return torch.cat(found)[:, :FEATURES]

    return compute


@pytest.fixture(scope="module")
def reals(scenes: tuple[Tensor, Tensor], features: Callable[[Tensor], Tensor]) -> Tensor:
    return features(scenes[0])


def fid(reals: Tensor, fakes: Tensor) -> float:
    sides = GaussianStatistics(), GaussianStatistics()
    for side, rows in zip(sides, (reals, fakes), strict=True):
        side.add(rows)
    return frechet_distance(*sides)


def kid(reals: Tensor, fakes: Tensor) -> float:
    return kernel_distance(reals, fakes, subsets=1)[0]


def blurred(images: Tensor, width: int) -> Tensor:
    means = F.avg_pool2d(F.pad(images.float(), [width // 2] * 4, mode="reflect"), width, stride=1)
    return means.round().to(torch.uint8)


def noised(images: Tensor, deviation: int) -> Tensor:
    noise = torch.from_numpy(np.random.RandomState(0).standard_normal(images.shape)) * deviation
    return (images + noise).round().clamp(0, 255).to(torch.uint8)


def shifted(images: Tensor, pixels: int) -> Tensor:
    """Up, and a black strip below."""
    return F.pad(images[:, :, pixels:], (0, 0, 0, pixels))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("worsen", "amounts"),
    [(blurred, (3, 9)), (noised, (20, 60)), (shifted, (8, 24))],
    ids=["blurred", "noised", "shifted"],
)
def test_the_worse_the_further(
    worsen: Callable[[Tensor, int], Tensor],
    amounts: tuple[int, int],
    scenes: tuple[Tensor, Tensor],
    features: Callable[[Tensor], Tensor],
    reals: Tensor,
) -> None:
    sets = [features(scenes[1]), *(features(worsen(scenes[1], amount)) for amount in amounts)]
    for score in (fid, kid):
        found = [score(reals, fakes) for fakes in sets]
        assert found[0] < found[1] < found[2], score.__name__
        assert found[2] > 1.5 * abs(found[0])


@pytest.mark.slow
def test_the_same_pictures_have_none(reals: Tensor) -> None:
    """Far fewer than the features have numbers: the covariance is singular, and the distance is 0 all the same."""
    assert fid(reals, reals) < 1e-6
    assert fid(reals, reals.flip(0)) < 1e-6
    assert precision_recall(reals, reals) == (1, 1)


@pytest.mark.slow
def test_collapsed_pictures_are_precise_and_recall_little(
    scenes: tuple[Tensor, Tensor], features: Callable[[Tensor], Tensor], reals: Tensor
) -> None:
    few = features(scenes[0][:4])
    collapsed = few.repeat(COUNT // 4, 1)
    precision, recall = precision_recall(reals, collapsed)
    assert precision == 1
    assert recall == pytest.approx(4 / COUNT)
    assert density_coverage(reals, collapsed)[1] < 0.6
    assert fid(reals, collapsed) > 1.2 * fid(reals, features(scenes[1]))
