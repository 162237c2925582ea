"""Images of mixed styles and components, of one truncated component, and what the noise varies."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ganformer_cli.models import Generator
from ganformer_cli.sampling import latents_from_seeds, map_latents, sample_seeds
from ganformer_cli.visualization import mixing
from ganformer_cli.visualization.noise import noise_sheet, noise_variation
from tests.small_generators import CONFIG, small_generator


@pytest.fixture(scope="module")
def model() -> Generator:
    return small_generator()


@pytest.fixture(scope="module")
def ws(model: Generator) -> torch.Tensor:
    return map_latents(model, latents_from_seeds(model, range(3)))


# ----- Pictures -----


def test_the_difference_is_in_levels() -> None:
    one, other = np.zeros((3, 2, 2), np.uint8), np.zeros((3, 2, 2), np.uint8)
    other[:, 0, 1] = 30
    other[0, 1, 1] = 90
    np.testing.assert_allclose(mixing.difference(one, other), [[0, 30], [0, np.sqrt(90**2 / 3)]])
    np.testing.assert_array_equal(mixing.difference(one, other), mixing.difference(other, one))


def test_a_component_of_the_picture_itself_changes_nothing(model: Generator, ws: torch.Tensor) -> None:
    for each in mixing.take_each(model, ws[0], ws[0], range(4)):
        assert each.difference.max() == 0


def test_each_component_changes_the_picture(model: Generator, ws: torch.Tensor) -> None:
    (before,) = mixing.draw(model, [ws[0]])
    for mixtures in (
        mixing.take_each(model, ws[0], ws[1], range(4)),
        mixing.remove_each(model, ws[0], range(4)),
        mixing.truncate_each(model, ws[0], range(4), [0.0]),
    ):
        assert [each.component for each in mixtures] == [0, 1, 2, 3]
        for each in mixtures:
            assert each.difference.max() > 0
            np.testing.assert_array_equal(each.difference, mixing.difference(before.image, each.changed[-1]))


def test_the_drawn_picture_is_the_seeds(model: Generator, ws: torch.Tensor) -> None:
    (expected,) = [sample.image for sample in sample_seeds(model, [0])]
    (drawn,) = mixing.draw(model, [ws[0]])
    assert np.abs(drawn.image.astype(int) - expected).max() <= 1


def test_truncation_changes_more_the_farther_it_pulls(model: Generator, ws: torch.Tensor) -> None:
    (found,) = mixing.truncate_each(model, ws[0], [2], [1.0, 0.95, 0.8, 0.5])  # a longer way need not lead farther
    (before,) = mixing.draw(model, [ws[0]])
    changes = [mixing.difference(before.image, image).mean() for image in found.changed]
    assert changes[0] == 0
    assert changes == sorted(changes)
    assert changes[1] > 0


# ----- Sheets -----


def test_a_mixture_sheet_has_a_row_a_component(model: Generator, ws: torch.Tensor) -> None:
    (before,) = mixing.draw(model, [ws[0]], attention=True)
    mixtures = mixing.take_each(model, ws[0], ws[1], range(4))
    four = mixing.mixture_sheet(before, mixtures, ["taken"], "seed 0")
    one = mixing.mixture_sheet(before, mixtures[:1], ["taken"], "seed 0")
    assert four.shape[1] - one.shape[1] == 3 * 100
    # Picture, mixture, difference, attention.
    assert four.shape[2] >= 4 * 100


def test_a_swap_sheet_shows_both_pictures(model: Generator, ws: torch.Tensor) -> None:
    before = list(mixing.draw(model, [ws[0], ws[1]]))
    both = mixing.take_each(model, ws[0], ws[1], [0]), mixing.take_each(model, ws[1], ws[0], [0])
    sheet = mixing.swap_sheet((before[0], before[1]), both, ("seed 0", "seed 1"))
    assert sheet.shape[2] >= 6 * 100


def test_a_style_table_has_the_pictures_themselves_on_its_diagonal(model: Generator, ws: torch.Tensor) -> None:
    sheet = mixing.style_table(model, list(ws[:2]), ["a", "b"], range(3))
    top, left = sheet.shape[1] - 300, sheet.shape[2] - 300
    cells = [
        [sheet[:, top + 100 * i : top + 100 * i + 100, left + 100 * j :][:, :, :100] for j in range(3)]
        for i in range(3)
    ]
    for k in (1, 2):
        np.testing.assert_array_equal(cells[k][k], cells[0][k])
        np.testing.assert_array_equal(cells[k][k], cells[k][0])
    assert (cells[1][2] != cells[1][0]).any()
    assert (cells[1][2] != cells[0][2]).any()


# ----- Noise -----


def test_noise_varies_the_picture_where_its_strength_lets_it(model: Generator, ws: torch.Tensor) -> None:
    found = noise_variation(model, ws[0], repeats=4)
    assert len(found.images) == 4
    assert found.variation.shape == (32, 32)
    assert found.variation.mean() > 0.5
    expected = np.sqrt(np.stack(found.images).astype(float).var(0).mean(0))
    np.testing.assert_allclose(found.variation, expected)
    again = noise_variation(model, ws[0], repeats=4)
    np.testing.assert_array_equal(found.variation, again.variation)


def test_without_strength_noise_varies_nothing(ws: torch.Tensor) -> None:
    torch.manual_seed(0)
    silent = Generator(CONFIG).eval()
    found = noise_variation(silent, ws[0], repeats=3)
    assert found.variation.max() == 0
    for image in found.images:
        np.testing.assert_array_equal(image, found.without)


def test_a_noise_sheet_has_a_row_a_picture(model: Generator, ws: torch.Tensor) -> None:
    found = [noise_variation(model, each, repeats=3) for each in ws[:2]]
    assert noise_sheet(found, ["a", "b"]).shape[1] - noise_sheet(found[:1], ["a"]).shape[1] == 100
