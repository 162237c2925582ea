"""The realism score, by its definition and by what it means."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ganformer_cli.errors import DataError
from ganformer_cli.metrics.realism import MAX_REALISM, pixel_features, realism


def test_it_is_the_definition() -> None:
    random = np.random.default_rng(0)
    reals, fakes = random.normal(size=(20, 5)), random.normal(size=(7, 5))
    apart = np.linalg.norm(reals[:, None] - reals[None], axis=2)
    radii = np.sort(apart, axis=1)[:, 3]
    small = radii <= np.sort(radii)[(len(radii) - 1) // 2]
    ratios = radii[small] / np.linalg.norm(fakes[:, None] - reals[None, small], axis=2)
    found = realism(torch.from_numpy(reals), torch.from_numpy(fakes))
    np.testing.assert_allclose(found, ratios.max(1), rtol=1e-9)


def test_near_the_reals_is_more_real_than_far_away() -> None:
    random = torch.Generator().manual_seed(0)
    reals = torch.randn(200, 8, generator=random)
    steps = torch.tensor([0.1, 3.0, 30.0])
    found = realism(reals, reals.mean(0) + steps[:, None] * torch.ones(8))
    assert found[0] > found[1] > found[2]


def test_a_real_image_is_as_real_as_can_be() -> None:
    reals = torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
    found = realism(reals, reals)
    assert (found == MAX_REALISM).mean() >= 0.5, "those whose balls count"
    assert np.isfinite(realism(torch.zeros(5, 3), torch.zeros(2, 3))).all(), "balls of no size"


def test_too_few_reals() -> None:
    with pytest.raises(DataError, match="more than 3 real images, and there are 3"):
        realism(torch.zeros(3, 2), torch.zeros(1, 2))


def test_features_of_pixels_do_not_depend_on_the_size() -> None:
    small = torch.randint(0, 256, (2, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    large = small.repeat_interleave(4, 2).repeat_interleave(4, 3)
    torch.testing.assert_close(pixel_features(small), pixel_features(large))
    assert pixel_features(small).shape == (2, 768)
