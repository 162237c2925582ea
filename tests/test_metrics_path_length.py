"""Perceptual path length: how fast pictures change along a way through latent space."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ganformer_cli.config import ModelConfig
from ganformer_cli.errors import ConfigError, DataError
from ganformer_cli.metrics import vgg
from ganformer_cli.metrics.path_length import pair_lengths, perceptual_path_length, summary
from ganformer_cli.models import Generator


class Pixels:
    """Mean squared difference of pixels, in place of LPIPS."""

    name, resize, weights_sha256, published = "pixels", "none", "", False
    device = torch.device("cpu")

    def __init__(self) -> None:
        self.sizes: set[tuple[int, ...]] = set()

    def __call__(self, one: Tensor, other: Tensor) -> Tensor:
        self.sizes.add(tuple(one.shape))
        return (one.double() - other.double()).square().mean((1, 2, 3))


@pytest.fixture(scope="module")
def generator() -> Generator:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"components_num": 2, "latent_size": 16, "channel_base": 128, "channel_max": 8}
    return Generator(ModelConfig(resolution=16, mapping_num_layers=2, **sizes)).eval()


def lengths(generator: Generator, pairs: list[int] | range, **options: Any) -> np.ndarray:
    return pair_lengths(generator, Pixels(), pairs, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("space", ["z", "w"])
@pytest.mark.parametrize("end", [True, False])
def test_it_is_the_squared_speed_along_the_way(space: str, end: bool, generator: Generator) -> None:
    """Against derivatives in float64, at the same places of the same ways."""
    found = lengths(generator, range(4), space=space, end=end, seed=3)
    network = Generator(generator.config).double().eval()
    network.load_state_dict({name: value.double() for name, value in generator.state_dict().items()})
    for number in range(4):
        seeds = [3 * 2**32 + 2 * number, 3 * 2**32 + 2 * number + 1]
        shape = generator.z_shape
        first, last = (
            torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()[None] for seed in seeds
        )
        t = 0.0 if end else np.random.RandomState([3, number]).random_sample()
        if space == "w":
            first, last = (network.mapping(z) for z in (first, last))

        def picture(t: float, first: Tensor = first, last: Tensor = last) -> Tensor:
            with torch.no_grad():
                if space == "w":
                    return network.synthesis(first + (last - first) * t, "const")
                cosine = torch.nn.functional.cosine_similarity(first, last, dim=-1)[..., None]
                angle = cosine.arccos()
                z = (((1 - t) * angle).sin() * first + (t * angle).sin() * last) / angle.sin()
                return network(z, noise_mode="const")

        middle = t + 0.5e-4  # of the step that is measured: ways bend
        speed = (picture(middle + 1e-6) - picture(middle - 1e-6)) / 2e-6
        # Pixels go from 0 to 255. Steps of 1e-4 in float32 leave three digits.
        expected = float((speed * 127.5).square().mean())
        assert found[number] == pytest.approx(expected, rel=0.02)


@pytest.mark.slow
def test_a_pair_has_its_length_in_every_share(generator: Generator) -> None:
    whole = lengths(generator, range(40), space="w")
    assert np.array_equal(lengths(generator, range(40), space="w"), whole)
    assert np.array_equal(lengths(generator, [33, 5, 17], space="w"), whole[[33, 5, 17]])
    assert np.array_equal(lengths(generator, range(11, 29), space="w"), whole[11:29])
    assert not np.array_equal(lengths(generator, range(2), space="w", seed=1), whole[:2])


def test_a_generator_of_one_picture_has_none(generator: Generator) -> None:
    still = Generator(generator.config).eval()
    for name, parameter in still.named_parameters():
        if "affine" in name or "mapping" in name:
            torch.nn.init.zeros_(parameter)
    mean, deviation = perceptual_path_length(still, Pixels(), space="w", pairs=16)  # type: ignore[arg-type]
    assert mean >= 0
    assert (mean, deviation) == (0, 0)


def test_the_extremes_are_left_out() -> None:
    assert summary(np.concatenate([np.ones(980), np.full(9, 1e9), np.zeros(9)])) == (1, 0)
    assert summary(np.arange(1.0, 4.0)) == pytest.approx((2, (2 / 3) ** 0.5))


def test_large_pictures_are_averaged(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vgg, "LPIPS_SIDE", 5)
    distance = Pixels()
    pair_lengths(generator, distance, [0], space="w")  # type: ignore[arg-type]
    assert distance.sizes == {(16, 3, 5, 5)}


def test_progress_ends_at_the_end(generator: Generator) -> None:
    said: list[tuple[int, int]] = []
    lengths(generator, range(20), space="w", progress=lambda done, total: said.append((done, total)))
    assert said == [(16, 20), (20, 20)]


def test_what_has_no_length(generator: Generator) -> None:
    with pytest.raises(ConfigError, match="there are z and w"):
        lengths(generator, [0], space="x")
    for damaged in (np.zeros(0), np.array([1.0, np.nan])):
        with pytest.raises(DataError, match="path lengths"):
            summary(damaged)
