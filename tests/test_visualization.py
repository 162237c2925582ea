"""Grids, the palette, and attention sheets."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL.Image
import pytest
import torch

from ganformer_cli.errors import ConfigError
from ganformer_cli.sampling import AttentionMap
from ganformer_cli.visualization import (
    PALETTE,
    attention_sheet,
    component_sheet,
    crop_to_ratio,
    grid_columns,
    image_grid,
    layer_sheet,
    region_colours,
    save_png,
)


def numbered(count: int, height: int = 4, width: int = 6) -> npt.NDArray[np.uint8]:
    """Pictures of one colour each: 1, 2, 3, ..."""
    return np.broadcast_to(np.arange(1, count + 1, dtype=np.uint8)[:, None, None, None], (count, 3, height, width))


def attention(winners: npt.ArrayLike, components: int = 4, heads: int = 1) -> torch.Tensor:
    """``[heads, m, h, w]`` in which each place attends mostly to its winner."""
    hot = torch.nn.functional.one_hot(torch.as_tensor(np.asarray(winners)), components).permute(2, 0, 1).float()
    return (0.8 * hot + 0.2 / components).expand(heads, -1, -1, -1)


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
    with pytest.raises(ConfigError, match="at least one picture"):
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


# ----- The palette -----

# Linear RGB as people with protanopia, deuteranopia and tritanopia see it: Machado, Oliveira and Fernandes (2009).
VISION = {
    "normal": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def lab(colours: npt.NDArray[np.uint8], vision: str) -> npt.NDArray[np.float64]:
    """CIELAB (D65) of sRGB as seen with that vision."""
    scaled = colours / 255
    linear = np.where(scaled <= 0.04045, scaled / 12.92, ((scaled + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(VISION[vision]).T, 0, 1)
    to_xyz = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    )
    t = seen @ to_xyz.T / to_xyz.sum(1)
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize(("components", "least"), [(16, 16), (32, 12)])
def test_components_can_be_told_apart_by_everyone(vision: str, components: int, least: float) -> None:
    colours = lab(PALETTE[:components], vision)
    nearest = min(float(np.linalg.norm(one - other)) for one, other in itertools.combinations(colours, 2))
    assert nearest > least


def test_no_colour_comes_twice() -> None:
    assert PALETTE.shape == (64, 3)
    assert len({tuple(colour) for colour in PALETTE.tolist()}) == 64


# ----- Attention -----


def test_regions_have_the_colour_of_the_component_attended_to_most() -> None:
    colours = region_colours(attention([[0, 3], [2, 1]]), 2, 2)
    expected = PALETTE[[[0, 3], [2, 1]]].transpose(2, 0, 1)
    np.testing.assert_array_equal(colours, expected)


def test_small_maps_grow_with_the_picture() -> None:
    colours = region_colours(attention([[0, 1], [0, 1]]), 8, 8)
    assert (colours[:, :, :4] == PALETTE[0][:, None, None]).all()
    assert (colours[:, :, 4:] == PALETTE[1][:, None, None]).all()


def test_maps_of_a_cropped_picture_are_cropped_alike() -> None:
    """A model of ratio 0.7 at 32 px draws 24x32 and keeps the middle 22 rows; so must its maps."""
    winners = np.zeros((24, 32), int)
    winners[0], winners[1], winners[22], winners[23] = 1, 2, 2, 1
    colours = region_colours(attention(winners), 22, 32)
    assert (colours[:, 0] == PALETTE[2][:, None]).all()
    assert (colours[:, -1] == PALETTE[2][:, None]).all()
    assert (colours[:, 1:-1] == PALETTE[0][:, None, None]).all()


def test_heads_vote_with_their_probabilities() -> None:
    heads = torch.tensor([[0.6, 0.4, 0.0], [0.1, 0.4, 0.5]])[:, :, None, None]
    np.testing.assert_array_equal(region_colours(heads, 1, 1)[:, 0, 0], PALETTE[1])


def test_more_components_than_colours_start_over() -> None:
    colours = region_colours(attention([[64]], components=65), 1, 1)
    np.testing.assert_array_equal(colours[:, 0, 0], PALETTE[0])


def test_a_sheet_shows_each_picture_beside_its_regions() -> None:
    images = numbered(4, 8, 8) * np.uint8(50)
    maps = AttentionMap("b8.conv1", torch.stack([attention(np.full((8, 8), k)) for k in range(4)]))
    sheet = attention_sheet(images, maps, alpha=0.0)
    # Two rows of two pairs, with two grey pixels between.
    assert sheet.shape == (3, 18, 38)
    np.testing.assert_array_equal(sheet[:, 0, 0], [50] * 3)
    np.testing.assert_array_equal(sheet[:, 0, 8], [128] * 3)
    for k, (top, left) in enumerate([(0, 10), (0, 30), (10, 10), (10, 30)]):
        np.testing.assert_array_equal(sheet[:, top, left], PALETTE[k])


def test_alpha_is_the_pictures_share() -> None:
    images = np.full((1, 3, 4, 4), 200, np.uint8)
    maps = AttentionMap("b4.conv1", attention(np.zeros((4, 4), int))[None])
    blended = attention_sheet(images, maps, alpha=0.25)[:, 0, -1]
    np.testing.assert_array_equal(blended, np.rint(0.25 * 200 + 0.75 * PALETTE[0]))
    assert (attention_sheet(images, maps, alpha=1.0)[:, 0, -1] == 200).all()
    with pytest.raises(ConfigError, match="--blending-alpha 1.5"):
        attention_sheet(images, maps, alpha=1.5)


def test_a_layer_sheet_has_a_cell_a_layer() -> None:
    image = numbered(1, 8, 8)[0]
    maps = [AttentionMap(f"b{size}.conv1", attention(np.zeros((size, size), int))[None]) for size in (4, 8, 8)]
    assert layer_sheet(image, maps).shape == (3, 18, 18)


def test_a_component_sheet_lights_each_component_where_it_is_attended_to() -> None:
    image = np.full((3, 4, 4), 200, np.uint8)
    winners = np.zeros((4, 4), int)
    winners[:, 2:] = 1
    sheet = component_sheet(image, AttentionMap("b4.conv1", attention(winners, components=2)[None]), alpha=0.0)
    # Picture, regions, two components: 2x2 cells of 4 pixels in a frame of 2, 2 apart.
    assert sheet.shape == (3, 18, 18)
    first, second = sheet[:, 10:, :8], sheet[:, 10:, 10:]
    np.testing.assert_array_equal(first[:, 0, 0], PALETTE[0])
    np.testing.assert_array_equal(second[:, 0, 0], PALETTE[1])
    assert first[0, 2:6, 2:6].tolist() == [[200, 200, 22, 22]] * 4
    assert second[0, 2:6, 2:6].tolist() == [[22, 22, 200, 200]] * 4
