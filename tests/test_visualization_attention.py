"""The palette, heat maps, captions, and attention sheets; maps are capped, and given out layer by layer."""

from __future__ import annotations

import itertools
import weakref

import numpy as np
import numpy.typing as npt
import pytest
import torch

from ganformer_cli.config import ModelConfig
from ganformer_cli.errors import ConfigError
from ganformer_cli.models import Generator
from ganformer_cli.sampling import AttentionMap, drawing, map_latents, sample_latents, sample_seeds
from ganformer_cli.visualization.attention import attention_sheet, component_sheet, layer_sheet, region_colours
from ganformer_cli.visualization.palette import PALETTE, component_colour, heat_colours
from ganformer_cli.visualization.sheets import captioned_grid, component_legend, fit_to_cell, image_table, stack_sheets


def numbered(count: int, height: int = 4, width: int = 6) -> npt.NDArray[np.uint8]:
    """Pictures of one colour each: 1, 2, 3, ..."""
    return np.broadcast_to(np.arange(1, count + 1, dtype=np.uint8)[:, None, None, None], (count, 3, height, width))


def attention(winners: npt.ArrayLike, components: int = 4, heads: int = 1) -> torch.Tensor:
    """``[heads, m, h, w]`` in which each place attends mostly to its winner."""
    hot = torch.nn.functional.one_hot(torch.as_tensor(np.asarray(winners)), components).permute(2, 0, 1).float()
    return (0.8 * hot + 0.2 / components).expand(heads, -1, -1, -1)


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


def test_heat_grows_lighter_so_that_it_reads_without_colours() -> None:
    colours = heat_colours(np.linspace(0, 50, 101)[None], 50.0).astype(float)
    brightness = np.tensordot([0.2126, 0.7152, 0.0722], colours, 1)[0]
    assert (np.diff(brightness) > 0).all()
    assert brightness[0] == 0
    assert brightness[-1] > 240


def test_heat_ends_at_its_scale() -> None:
    hot = heat_colours(np.array([[5.0, 10.0, 99.0]]), 10.0)
    np.testing.assert_array_equal(hot[:, 0, 1], hot[:, 0, 2])
    assert (hot[:, 0, 0] != hot[:, 0, 1]).any()
    assert not heat_colours(np.zeros((2, 2)), 0.0).any()


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


def test_soft_maps_mix_the_colours_as_a_pixel_attends() -> None:
    probabilities = torch.tensor([0.25, 0.75])[None, :, None, None]
    mixed = region_colours(probabilities, 1, 1, "soft")[:, 0, 0]
    np.testing.assert_array_equal(mixed, np.rint(0.25 * PALETTE[0].astype(float) + 0.75 * PALETTE[1]))
    np.testing.assert_array_equal(region_colours(probabilities, 1, 1, "hard")[:, 0, 0], PALETTE[1])


def has_colour(sheet: npt.NDArray[np.uint8], colour: npt.NDArray[np.uint8]) -> bool:
    return bool((sheet == colour[:, None, None]).all(0).any())


def test_a_layer_sheet_shows_every_layer_and_names_the_components() -> None:
    image = np.full((3, 8, 8), 200, np.uint8)
    layers = [AttentionMap(f"b8.conv{k}", attention(np.full((8, 8), k))[None]) for k in range(3)]
    sheet = layer_sheet(image, layers, alpha=0.0)
    # Each of layers 0 to 2 is a cell in its component's colour; component 3 is in the legend alone.
    for k in range(3):
        assert (sheet == PALETTE[k][:, None, None]).all(0).sum() > 96 * 96
    assert 0 < (sheet == PALETTE[3][:, None, None]).all(0).sum() < 20 * 20


def test_a_layer_of_several_heads_has_a_row_with_each_of_them() -> None:
    image = np.full((3, 96, 96), 200, np.uint8)
    heads = torch.cat([attention(np.full((96, 96), k)) for k in (0, 1)])
    # All heads together attend to both alike; the third component is nowhere but in the legend.
    sheet = layer_sheet(image, [AttentionMap("b8.conv0", heads[None])], alpha=0.0)
    assert (sheet == PALETTE[0][:, None, None]).all(0).sum() > 2 * 96 * 96  # the mean, whose first of equals it is
    assert (sheet == PALETTE[1][:, None, None]).all(0).sum() > 96 * 96


def test_a_component_sheet_lights_each_component_where_it_is_attended_to() -> None:
    image = np.full((3, 96, 96), 200, np.uint8)
    winners = np.zeros((96, 96), int)
    winners[:, 48:] = 1
    sheet = component_sheet(image, AttentionMap("b4.conv1", attention(winners, components=2)[None]), alpha=0.0)
    # Picture, regions and two components, each in a frame of 2 with a caption above.
    assert sheet.shape[2] == 400
    first, second = sheet[:, :, 200:300], sheet[:, :, 300:]
    for cell, colour, light, dark in ((first, PALETTE[0], 10, 90), (second, PALETTE[1], 90, 10)):
        np.testing.assert_array_equal(cell[:, -1, 0], colour)
        np.testing.assert_array_equal(cell[:, 0, -1], [255] * 3)
        assert cell[0, -50, light] == 200
        assert cell[0, -50, dark] == 22


# ----- Sheets -----


def test_small_pictures_are_enlarged_and_large_ones_shrunk() -> None:
    small = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
    large = fit_to_cell(small)
    assert large.shape == (3, 80, 100)
    np.testing.assert_array_equal(large[:, ::20, ::20], small)
    assert fit_to_cell(np.zeros((3, 200, 100), np.uint8)).shape == (3, 200, 100)
    shrunk = fit_to_cell(np.full((3, 716, 1024), 7, np.uint8))
    assert shrunk.shape == (3, 358, 512)
    assert (shrunk == 7).all()


def test_a_table_has_captions_frames_and_empty_places() -> None:
    cell = np.full((3, 10, 10), 50, np.uint8)
    bare = image_table([[cell, None], [cell, cell]], colours=[PALETTE[5], None])
    assert bare.shape == (3, 28, 28)
    np.testing.assert_array_equal(bare[:, 0, 0], PALETTE[5])
    np.testing.assert_array_equal(bare[:, 14, 0], [128] * 3)
    np.testing.assert_array_equal(bare[:, 0, 14], [255] * 3)
    named = image_table([[cell, None], [cell, cell]], columns=["a", "wider than a cell"], rows=["one", "two"])
    left, top = named.shape[2] - 2 * (named.shape[2] // 2), named.shape[1] - 28
    assert top > 0
    assert left >= 0
    assert (named[:, :top] == 0).any(), "captions are written"
    assert (named[:, top:, :10] == 0).any()


def test_swatches_take_as_many_rows_as_they_need() -> None:
    one, two = component_legend(8, 500), component_legend(8, 200)
    assert one.shape[2] == 500
    assert two.shape[1] == 2 * one.shape[1]
    for component in range(8):
        assert has_colour(one, component_colour(component))
        assert has_colour(two, component_colour(component))


def test_sheets_of_different_widths_stand_on_white() -> None:
    both = stack_sheets([np.zeros((3, 5, 30), np.uint8), np.zeros((3, 5, 10), np.uint8)])
    assert both.shape[2] == 30
    assert (both[:, -5:, :10] == 0).all()
    assert (both[:, -5:, 10:] == 255).all()


def test_a_grid_of_named_pictures_keeps_their_frames() -> None:
    cells = [np.full((3, 96, 96), 9, np.uint8)] * 4
    grid = captioned_grid(cells, ["a", "b", "c", "d"], list(PALETTE[:4]))
    assert all(has_colour(grid, colour) for colour in PALETTE[:4])


# ----- Maps as they are made -----

CONFIG = ModelConfig(resolution=32, components_num=4, latent_size=32, channel_base=256, channel_max=16)


@pytest.fixture(scope="module")
def model() -> Generator:
    torch.manual_seed(0)
    return Generator(CONFIG).eval()


def test_maps_are_given_out_layer_by_layer_and_not_kept(model: Generator) -> None:
    ws = model.mapping(torch.randn(1, *model.z_shape))
    with torch.no_grad():
        expected: list[AttentionMap] = []
        model.synthesis(ws, "const", on_attention=expected.append)
    alive: list[weakref.ref[torch.Tensor]] = []
    seen = []

    def look(made: AttentionMap) -> None:
        assert all(one() is None for one in alive), "the maps of the layers before are still there"
        alive.append(weakref.ref(made.probabilities))
        seen.append((made.layer, made.probabilities.sum().item()))

    with torch.no_grad():
        image = model.synthesis(ws, "const", on_attention=look)
    assert isinstance(image, torch.Tensor)
    assert seen == [(each.layer, each.probabilities.sum().item()) for each in expected]


def test_large_maps_are_averaged_down(model: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    (whole,) = sample_seeds(model, [3], attention=True)
    monkeypatch.setattr(drawing, "MAP_SIZE", 8)
    (capped,) = sample_seeds(model, [3], attention=True)
    np.testing.assert_array_equal(capped.image, whole.image)
    assert [each.probabilities.shape[-1] for each in whole.maps] == [4, 8, 8, 16, 16, 32, 32]
    assert [each.probabilities.shape[-1] for each in capped.maps] == [4, 8, 8, 8, 8, 8, 8]
    for one, other in zip(whole.maps, capped.maps, strict=True):
        torch.testing.assert_close(
            torch.nn.functional.adaptive_avg_pool2d(one.probabilities[0], other.probabilities.shape[-1]),
            other.probabilities[0],
        )
        torch.testing.assert_close(other.probabilities.sum(2), torch.ones_like(other.probabilities[:, :, 0]))


def test_nothing_attends_to_a_dropped_component(model: Generator) -> None:
    z = torch.randn(2, *model.z_shape)
    dropped = np.zeros((2, 4), bool)
    dropped[1, 2] = True
    plain = list(sample_latents(model, z, attention=True))
    first, second = sample_latents(model, z, attention=True, dropped=dropped)
    np.testing.assert_array_equal(first.image, plain[0].image)
    assert (second.image != plain[1].image).any()
    for each in second.maps:
        assert each.probabilities[:, :, 2].max() == 0
        assert each.probabilities[:, :, :2].min() > 0


def test_dropped_components_must_fit(model: Generator) -> None:
    z = torch.randn(2, *model.z_shape)
    with pytest.raises(ConfigError, match=r"\[2, 5\].*attends to 4 components"):
        next(sample_latents(model, z, dropped=np.zeros((2, 5), bool)))


def test_latents_reach_space_w_one_by_one(model: Generator) -> None:
    z = torch.randn(3, *model.z_shape)
    ws = map_latents(model, z, truncation_psi=0.5)
    assert ws.shape == (3, 5, CONFIG.num_ws, 8)
    torch.testing.assert_close(ws[1:2], map_latents(model, z[1:2], truncation_psi=0.5), rtol=0, atol=0)
    drawn = list(sample_latents(model, z, truncation_psi=0.5))
    again = list(sample_latents(model, ws, space="w"))
    for one, other in zip(drawn, again, strict=True):
        assert np.abs(one.image.astype(int) - other.image).max() <= 1
