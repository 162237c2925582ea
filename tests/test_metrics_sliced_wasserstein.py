"""The sliced Wasserstein distance: against a plain float64 implementation, and what it means."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from ganformer_cli.errors import DataError
from ganformer_cli.metrics.sliced_wasserstein import descriptors, laplacian_level, pyramid_sizes, sliced_wasserstein

Images = npt.NDArray[np.uint8]
Doubles = npt.NDArray[np.float64]


def pictures(count: int, height: int = 32, width: int = 32, *, seed: int = 0) -> Images:
    """Random smooth pictures with edges: a few coloured discs each."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    images = np.empty((count, 3, height, width), np.uint8)
    for image in images:
        image[:] = rng.integers(60, 200, (3, 1, 1))
        for _ in range(4):
            inside = (y - rng.uniform(0, height)) ** 2 + (x - rng.uniform(0, width)) ** 2 < rng.uniform(2, 9) ** 2
            image[:, inside] = rng.integers(0, 256, (3, 1))
    return images


# ----- A second implementation: float64, two-dimensional filters, loops -----


def plain_filter(image: Doubles, gain: float) -> Doubles:
    taps = np.array([1.0, 4.0, 6.0, 4.0, 1.0])
    kernel = np.outer(taps, taps) / 256 * gain
    _, height, width = image.shape
    out = np.zeros_like(image)
    for y in range(height):
        for x in range(width):
            for dy in range(-2, 3):
                for dx in range(-2, 3):
                    # Reflection about the border pixel.
                    row = abs(y + dy) if y + dy < height else 2 * (height - 1) - (y + dy)
                    column = abs(x + dx) if x + dx < width else 2 * (width - 1) - (x + dx)
                    out[:, y, x] += kernel[dy + 2, dx + 2] * image[:, row, column]
    return out


def plain_pyramid(image: Images) -> list[Doubles]:
    levels = []
    fine = image.astype(np.float64)
    while min((fine.shape[1] + 1) // 2, (fine.shape[2] + 1) // 2) >= 16:
        coarse = plain_filter(fine, 1)[:, ::2, ::2]
        spread = np.zeros_like(fine)
        spread[:, ::2, ::2] = coarse
        levels.append(fine - plain_filter(spread, 4))
        fine = coarse
    return [*levels, fine]


def plain_distances(reals: Images, fakes: Images, seed: int) -> list[float]:
    directions = np.random.default_rng([seed, 0xD1]).standard_normal((512, 147))
    directions /= np.sqrt((directions**2).sum(1, keepdims=True))
    pyramids = [[plain_pyramid(image) for image in images] for images in (reals, fakes)]
    distances = []
    for level in range(len(pyramids[0][0])):
        height, width = pyramids[0][0][level].shape[1:]
        places = np.random.default_rng([seed, level]).integers((height - 6) * (width - 6), size=(len(reals), 128))
        projected = []
        for pyramid in pyramids:
            patches = []
            for image, some in zip(pyramid, places, strict=True):
                for place in some:
                    top, left = divmod(int(place), width - 6)
                    patches.append(image[level][:, top : top + 7, left : left + 7])
            patch = np.array(patches)
            patch = (patch - patch.mean((0, 2, 3), keepdims=True)) / patch.std((0, 2, 3), keepdims=True)
            projected.append(np.sort(patch.reshape(len(patch), 147) @ directions.T, axis=0))
        distances.append(1000 * float(np.abs(projected[0] - projected[1]).mean()))
    return distances


@pytest.mark.slow
def test_it_is_the_plain_implementation_in_float64() -> None:
    reals, fakes = pictures(3, 34, 49, seed=1), pictures(3, 34, 49, seed=2)
    found = sliced_wasserstein(reals, fakes, seed=5)
    assert list(found) == ["34x49", "17x25", "mean"]
    expected = plain_distances(reals, fakes, seed=5)
    assert list(found.values()) == pytest.approx([*expected, np.mean(expected)], rel=1e-5)


def test_golden_number() -> None:
    """From the plain implementation. A change of the definition, however slight, needs a new ``VERSION``."""
    golden = {"32x32": 49.685474, "16x16": 115.217896, "mean": 82.451685}
    assert sliced_wasserstein(pictures(16, seed=1), pictures(16, seed=2)) == pytest.approx(golden, rel=1e-5)


# ----- The pyramid -----


def test_levels_go_down_to_sixteen() -> None:
    assert pyramid_sizes(32, 32) == [(32, 32), (16, 16)]
    assert pyramid_sizes(256, 256)[-1] == (16, 16)
    assert pyramid_sizes(64, 96) == [(64, 96), (32, 48), (16, 24)]
    assert pyramid_sizes(45, 64) == [(45, 64), (23, 32)]
    assert pyramid_sizes(16, 200) == [(16, 200)]


def test_details_of_a_flat_picture_are_zero_and_the_coarsest_level_keeps_its_colour() -> None:
    flat = np.full((2, 3, 45, 64), 77, np.uint8)
    # Up-sampling an odd side reflects between samples: still flat.
    assert np.abs(laplacian_level(flat, 0)).max() < 1e-3
    assert np.abs(laplacian_level(flat, 1) - 77).max() < 1e-3


def test_positions_do_not_depend_on_the_number_of_pictures() -> None:
    images = pictures(5)
    np.testing.assert_array_equal(descriptors(images, 0, seed=3)[:2], descriptors(images[:2], 0, seed=3))


# ----- Meaning -----


@pytest.fixture(scope="module")
def reals() -> Images:
    return pictures(96, seed=1)


@pytest.fixture(scope="module")
def floor(reals: Images) -> float:
    return sliced_wasserstein(reals, pictures(96, seed=2))["mean"]


@pytest.mark.slow
def test_identical_sets_have_no_distance(reals: Images) -> None:
    assert set(sliced_wasserstein(reals, reals.copy()).values()) == {0.0}


@pytest.mark.slow
def test_it_is_symmetric_and_repeatable(reals: Images) -> None:
    other = pictures(96, seed=3)
    assert sliced_wasserstein(reals, other) == sliced_wasserstein(reals, other)
    assert sliced_wasserstein(reals, other) == pytest.approx(sliced_wasserstein(other, reals), rel=1e-5)


@pytest.mark.slow
def test_more_noise_is_further(reals: Images, floor: float) -> None:
    rng = np.random.default_rng(0)
    distances = []
    for strength in (10, 40, 120):
        noisy = pictures(96, seed=2) + rng.normal(0, strength, reals.shape)
        distances.append(sliced_wasserstein(reals, noisy.clip(0, 255).astype(np.uint8))["mean"])
    assert floor < distances[0] < distances[1] < distances[2]


@pytest.mark.slow
def test_more_blur_is_further_and_shows_in_the_finest_level(reals: Images) -> None:
    other = pictures(96, seed=2).astype(np.float64)
    found = [sliced_wasserstein(reals, other.astype(np.uint8))]
    for _ in range(2):
        other = (other + np.roll(other, 1, 2) + np.roll(other, 1, 3) + np.roll(other, (1, 1), (2, 3))) / 4
        found.append(sliced_wasserstein(reals, other.astype(np.uint8)))
    means = [distances["mean"] for distances in found]
    assert means[0] < means[1] < means[2]
    assert found[2]["32x32"] / found[0]["32x32"] > found[2]["16x16"] / found[0]["16x16"]


@pytest.mark.slow
def test_a_collapsed_set_is_far(reals: Images, floor: float) -> None:
    assert sliced_wasserstein(reals, np.repeat(reals[:1], 96, 0))["mean"] > 2 * floor


@pytest.mark.slow
def test_a_tint_of_the_whole_set_is_divided_out_but_not_one_of_each_image(reals: Images) -> None:
    """As in the paper."""
    dim = reals // 4
    same = sliced_wasserstein(reals, dim + np.array([40, 0, 90], np.uint8)[:, None, None])["mean"]
    tints = np.random.default_rng(0).integers(0, 190, (96, 3, 1, 1)).astype(np.uint8)
    assert sliced_wasserstein(reals, dim + tints)["mean"] > 10 * same


@pytest.mark.slow
def test_a_set_of_one_flat_colour_is_far_but_finite(reals: Images) -> None:
    found = sliced_wasserstein(reals, np.full_like(reals, 9))
    assert all(np.isfinite(value) and value > 100 for value in found.values())


@pytest.mark.slow
def test_fewer_pictures_on_one_side_compare_as_many_of_the_other(reals: Images) -> None:
    other = pictures(40, seed=3)
    assert sliced_wasserstein(reals, other) == sliced_wasserstein(reals[:40], other)


@pytest.mark.parametrize(
    ("reals_shape", "fakes_shape", "message"),
    [
        ((2, 3, 32, 32), (2, 3, 16, 32), "one size, not 32x32 and 32x16"),
        ((2, 3, 12, 32), (2, 3, 12, 32), "32x12 are too small"),
        ((2, 1, 32, 32), (2, 3, 32, 32), "the real images must be uint8"),
        ((2, 3, 32, 32), (0, 3, 32, 32), "no generated images"),
    ],
)
def test_sets_that_do_not_compare(reals_shape: tuple[int, ...], fakes_shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        sliced_wasserstein(np.zeros(reals_shape, np.uint8), np.zeros(fakes_shape, np.uint8))


def test_floats_are_refused() -> None:
    with pytest.raises(DataError, match="uint8"):
        sliced_wasserstein(np.zeros((2, 3, 32, 32), np.uint8), np.zeros((2, 3, 32, 32)))  # type: ignore[arg-type]
