"""Grids, crops, PNGs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL.Image
import pytest

from ganformer_cli.errors import ConfigError
from ganformer_cli.sampling.image_files import crop_to_ratio, save_png
from ganformer_cli.visualization.grids import grid_columns, image_grid


def numbered(count: int, height: int = 4, width: int = 6) -> npt.NDArray[np.uint8]:
    """Pictures of one colour each: 1, 2, 3, ..."""
    return np.broadcast_to(np.arange(1, count + 1, dtype=np.uint8)[:, None, None, None], (count, 3, height, width))


# ----- Grids -----


def test_pictures_lie_row_by_row_and_empty_places_are_grey() -> None:
    grid = image_grid(numbered(5), columns=3)
    assert grid.shape == (3, 8, 18)
    assert grid[0, ::4, ::6].tolist() == [[1, 2, 3], [4, 5, 128]]


def test_a_gap_lies_between_not_around() -> None:
    grid = image_grid(numbered(4), columns=2, gap=3)
    assert grid.shape == (3, 11, 15)
    assert grid[0, 0].tolist() == [1] * 6 + [128] * 3 + [2] * 6


@pytest.mark.parametrize(
    ("count", "height", "width", "columns"),
    [(1, 9, 9, 1), (4, 9, 9, 2), (32, 9, 9, 8), (7, 9, 9, 3), (10, 9, 9, 5), (8, 9, 18, 2), (8, 18, 9, 4)],
)
def test_grids_are_about_square_and_full_if_they_can_be(count: int, height: int, width: int, columns: int) -> None:
    assert grid_columns(count, height, width) == columns


def test_a_grid_needs_pictures_and_columns() -> None:
    with pytest.raises(ConfigError, match="at least one image"):
        image_grid(numbered(0))
    with pytest.raises(ConfigError, match="0 columns"):
        image_grid(numbered(2), columns=0)


@pytest.mark.parametrize(("ratio", "shape"), [(1.0, (20, 20)), (0.5, (20, 40)), (0.25, (10, 40)), (2.0, (20, 10))])
def test_a_crop_is_the_largest_middle_of_that_ratio(ratio: float, shape: tuple[int, int]) -> None:
    image = np.arange(800).reshape(1, 20, 40) % 251
    cropped = crop_to_ratio(image.astype(np.uint8), ratio)
    assert cropped.shape[1:] == shape
    top, left = (20 - shape[0]) // 2, (40 - shape[1]) // 2
    assert cropped[0, 0, 0] == image[0, top, left]


@pytest.mark.parametrize("ratio", [0.0, -1.0, float("nan"), 1e-9])
def test_a_crop_of_an_impossible_ratio(ratio: float) -> None:
    with pytest.raises(ConfigError, match="--ratio"):
        crop_to_ratio(numbered(1)[0], ratio)


def test_a_png_holds_the_very_pixels(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, 5, 7)).astype(np.uint8)
    save_png(tmp_path / "sub" / "a.png", image)
    with PIL.Image.open(tmp_path / "sub" / "a.png") as read:
        assert read.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(read).transpose(2, 0, 1), image)
