"""Pictures at a network's size: as TensorFlow 1 does it, and as Pillow does."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch import Tensor

from ganformer_cli.errors import ConfigError
from ganformer_cli.metrics.resizing import resized

SIZES = [(5, 5), (7, 12), (64, 64), (299, 299), (300, 200), (640, 481)]


def noise(height: int, width: int) -> Tensor:
    return torch.from_numpy(np.random.RandomState(0).randint(0, 256, (2, 3, height, width), np.uint8))


def test_twice_the_size_repeats_the_last_pixel() -> None:
    """Place i/2: pixels, and the middles behind them; behind the last pixel there is none."""
    row = torch.tensor([0, 100, 50], dtype=torch.uint8).expand(1, 3, 3, 3)
    found = resized(row, 6, "tf1")[0, 0]
    assert found[0].tolist() == [0, 50, 100, 75, 50, 50]
    assert torch.equal(found, found[:1].expand(6, 6))


def test_half_the_size_takes_every_other_pixel() -> None:
    image = noise(64, 64)
    assert torch.equal(resized(image, 32, "tf1"), image[:, :, ::2, ::2].float())


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_tf1_is_bilinear_between_two_neighbours(height: int, width: int) -> None:
    image = noise(height, width)

    def matrix(given: int) -> npt.NDArray[np.float64]:
        found = np.zeros((299, given))
        for i in range(299):
            place = i * given / 299
            low = min(int(place + 1e-9), given - 1)
            found[i, low] += 1 - (place - low)
            found[i, min(low + 1, given - 1)] += place - low
        return found

    expected = matrix(height) @ image.double().numpy() @ matrix(width).T
    np.testing.assert_allclose(resized(image, 299, "tf1").numpy(), expected, atol=0.02)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_clean_is_pillows_bicubic_of_float_channels(height: int, width: int) -> None:
    image = noise(height, width)
    found = resized(image, 299, "clean")
    for channel in range(3):
        opened = Image.fromarray(image[1, channel].float().numpy())
        expected = np.asarray(opened.resize((299, 299), Image.Resampling.BICUBIC)).clip(0, 255)
        np.testing.assert_allclose(found[1, channel].numpy(), expected, atol=1e-4)


def test_only_clean_keeps_fine_stripes_from_becoming_coarse_ones() -> None:
    stripes = torch.zeros(1, 3, 598 + 4, 598 + 4, dtype=torch.uint8)
    stripes[..., ::2] = 255
    assert resized(stripes, 299, "tf1").std() > 50
    assert resized(stripes, 299, "clean").std() < 10


@pytest.mark.parametrize("resize", ["tf1", "clean"])
def test_its_size_is_wanted_alone(resize: str) -> None:
    image = noise(299, 299)
    assert torch.equal(resized(image, 299, resize), image.float())  # type: ignore[arg-type]


def test_there_is_no_other() -> None:
    with pytest.raises(ConfigError, match="--resize nearest: there are tf1 and clean"):
        resized(noise(4, 4), 8, "nearest")  # type: ignore[arg-type]
