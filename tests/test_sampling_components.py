"""Edits of components: what each changes, what it leaves alone, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ganformer_cli.config import ModelConfig
from ganformer_cli.errors import ConfigError
from ganformer_cli.models import Generator
from ganformer_cli.models.families import build_generator
from ganformer_cli.sampling import components, latents_from_seeds, map_latents, sample_latents, sample_seeds
from ganformer_cli.sampling.components import ComponentEdit, edit_components, map_seeds
from tests.small_generators import CONFIG, SMALL_VQGAN, small_generator


@pytest.fixture(scope="module")
def model() -> Generator:
    return small_generator()


@pytest.fixture(scope="module")
def ws(model: Generator) -> torch.Tensor:
    return map_latents(model, latents_from_seeds(model, range(3)))


# ----- Latents -----


def test_taking_a_component_takes_nothing_else(ws: torch.Tensor) -> None:
    mixed = components.take_component(ws[0], ws[1], 2)
    assert (mixed[2] == ws[1, 2]).all()
    assert (mixed[[0, 1, 3, 4]] == ws[0, [0, 1, 3, 4]]).all()
    assert not (ws[0, 2] == ws[1, 2]).all(), "the first picture's latents are as they were"


def test_a_component_is_pulled_to_its_own_mean(model: Generator, ws: torch.Tensor) -> None:
    assert (components.pull_component(model, ws[0], 1, 1.0) == ws[0]).all()
    at_mean = components.pull_component(model, ws[0], 1, 0.0)
    torch.testing.assert_close(at_mean[1], model.mapping_network.w_avg[1].expand(CONFIG.num_ws, -1))
    assert (at_mean[[0, 2, 3, 4]] == ws[0, [0, 2, 3, 4]]).all()
    beyond = components.pull_component(model, ws[0], 1, -1.0)
    torch.testing.assert_close((beyond[1] + ws[0, 1]) / 2, at_mean[1])


def test_pulling_every_latent_is_truncation(model: Generator, ws: torch.Tensor) -> None:
    pulled = ws[0]
    for k in range(5):
        pulled = components.pull_component(model, pulled, k, 0.3)
    torch.testing.assert_close(pulled, map_latents(model, latents_from_seeds(model, [0]), truncation_psi=0.3)[0])


@pytest.mark.parametrize("shared", [False, True])
def test_a_mean_may_be_shared_by_all(shared: bool) -> None:
    config = ModelConfig.from_dict({**CONFIG.to_dict(), "w_avg_per_component": not shared})
    generator = Generator(config).eval()
    generator.mapping_network.w_avg.normal_()
    at_mean = components.pull_component(generator, torch.zeros(5, config.num_ws, 8), 3, 0.0)
    mean = generator.mapping_network.w_avg
    torch.testing.assert_close(at_mean[3], (mean if shared else mean[3]).expand(config.num_ws, -1))


def test_groups_of_layers_are_all_layers_in_order(model: Generator) -> None:
    groups = components.layer_groups(model)
    assert list(groups) == ["coarse", "middle", "fine"]
    assert [i for layers in groups.values() for i in layers] == list(range(CONFIG.num_ws))
    # Blocks 4 and 8 have three layers, 16 two; 32 has two, a last convolution, and the colours.
    assert [len(layers) for layers in groups.values()] == [3, 2, 4]


def test_two_blocks_are_two_groups() -> None:
    config = ModelConfig.from_dict({**CONFIG.to_dict(), "resolution": 8})
    assert components.layer_groups(Generator(config)) == {"coarse": range(1), "middle": range(1, 5)}


def test_mixing_layers_takes_every_latent_of_these_and_no_other(ws: torch.Tensor) -> None:
    mixed = components.mix_layers(ws[0], ws[1], range(3, 5))
    assert (mixed[:, 3:5] == ws[1, :, 3:5]).all()
    assert (mixed[:, :3] == ws[0, :, :3]).all()
    assert (mixed[:, 5:] == ws[0, :, 5:]).all()


@pytest.mark.parametrize("component", [-1, 5])
def test_a_component_that_is_not_there(model: Generator, ws: torch.Tensor, component: int) -> None:
    with pytest.raises(ConfigError, match=f"component {component}: .* latents 0 to 4"):
        components.take_component(ws[0], ws[1], component)
    with pytest.raises(ConfigError, match=f"component {component}: .* latents 0 to 4"):
        components.pull_component(model, ws[0], component, 0.5)


# ----- Edits -----


def edited(model: Generator, *edits: ComponentEdit, **options: Any) -> torch.Tensor:
    return edit_components(model, [5], edits, **options).latents[0]


@pytest.fixture(scope="module")
def own(model: Generator) -> torch.Tensor:
    """Seed 5 with the default truncation."""
    return map_seeds(model, [5], truncation_psi=0.7)[0]


@pytest.fixture(scope="module")
def seven(model: Generator) -> torch.Tensor:
    return map_seeds(model, [7], truncation_psi=0.7)[0]


def changed(before: torch.Tensor, after: torch.Tensor) -> list[int]:
    """The components that differ in any layer."""
    return (before != after).flatten(1).any(1).nonzero().flatten().tolist()


def test_no_edit_is_the_image_of_the_seed(model: Generator) -> None:
    found = edit_components(model, [5, 6], [])
    assert found.dropped is None
    drawn = [each.image for each in sample_latents(model, found.latents, space="w")]
    expected = [each.image for each in sample_seeds(model, [5, 6], truncation_psi=0.7)]
    # The k-th of given latents takes the slot of seed k, so the last bit may be rounded otherwise.
    assert np.abs(np.array(drawn, np.int16) - np.array(expected)).max() <= 1


def test_a_reroll_is_one_component_of_another_seed(model: Generator, own: torch.Tensor, seven: torch.Tensor) -> None:
    after = edited(model, ComponentEdit("reroll", 2, seed=7))
    assert changed(own, after) == [2]
    assert (after[2] == seven[2]).all()


def test_a_component_moves_toward_a_seed(model: Generator, own: torch.Tensor, seven: torch.Tensor) -> None:
    assert (edited(model, ComponentEdit("toward-seed", 1, seed=7, amount=0)) == own).all()
    assert (edited(model, ComponentEdit("toward-seed", 1, seed=7))[1] == seven[1]).all()
    half = edited(model, ComponentEdit("toward-seed", 1, seed=7, amount=0.5))
    assert changed(own, half) == [1]
    torch.testing.assert_close(half[1], (own[1] + seven[1]) / 2)


def test_a_component_moves_toward_its_mean(model: Generator, own: torch.Tensor) -> None:
    mean = model.mapping_network.w_avg[3].expand(CONFIG.num_ws, -1)
    after = edited(model, ComponentEdit("toward-mean", 3))
    assert changed(own, after) == [3]
    torch.testing.assert_close(after[3], mean)
    beyond = edited(model, ComponentEdit("toward-mean", 3, amount=2))
    torch.testing.assert_close(beyond[3] - mean, mean - own[3])


def test_a_copy_comes_from_another_component_or_given_latents(
    model: Generator, own: torch.Tensor, seven: torch.Tensor
) -> None:
    after = edited(model, ComponentEdit("copy", 0, seed=7, other=3))
    assert changed(own, after) == [0]
    assert (after[0] == seven[3]).all()
    given = edited(model, ComponentEdit("copy", 0, latents=seven, other=3))
    assert (given == after).all()


def test_a_swap_exchanges_two(model: Generator, own: torch.Tensor) -> None:
    after = edited(model, ComponentEdit("swap", 0, other=2))
    assert changed(own, after) == [0, 2]
    assert (after[[0, 2]] == own[[2, 0]]).all()


def test_a_removed_component_changes_the_image_and_comes_back(model: Generator) -> None:
    gone = edit_components(model, [5], [ComponentEdit("remove", 1)])
    assert gone.dropped is not None
    assert gone.dropped.tolist() == [[False, True, False, False]]
    swapped = edit_components(model, [5], [ComponentEdit("remove", 1), ComponentEdit("swap", 1, other=3)])
    assert swapped.dropped is not None
    assert swapped.dropped.tolist() == [[False, False, False, True]]
    assert edit_components(model, [5], [ComponentEdit("remove", 1), ComponentEdit("reroll", 1, seed=7)]).dropped is None


def test_only_the_layers_asked_for_change(model: Generator, own: torch.Tensor, seven: torch.Tensor) -> None:
    after = edited(model, ComponentEdit("reroll", 2, seed=7, layers="middle"))
    assert (after[2, 3:5] == seven[2, 3:5]).all()
    assert changed(own[:, [0, 1, 2, 5, 6, 7, 8]], after[:, [0, 1, 2, 5, 6, 7, 8]]) == []
    assert (after == edited(model, ComponentEdit("reroll", 2, seed=7, layers=(3, 5)))).all()


def test_given_latents_are_edited_as_they_are(model: Generator, ws: torch.Tensor) -> None:
    found = edit_components(model, ws, [ComponentEdit("swap", 0, other=1)])
    assert (found.latents[:, [1, 0]] == ws[:, :2]).all()
    assert not (ws[:, 0] == ws[:, 1]).all(), "what was given is as it was"
    flat = edit_components(model, ws[:, :, 0].numpy(), [])
    assert (flat.latents == ws).all()


def test_seeds_of_edits_have_the_label_asked_for() -> None:
    config = ModelConfig.from_dict({**CONFIG.to_dict(), "c_dim": 3})
    torch.manual_seed(0)
    model = Generator(config).eval()
    label = [0.0, 0.0, 1.0]
    after = edited(model, ComponentEdit("reroll", 4, seed=7), labels=label)
    assert (after[4] == map_seeds(model, [7], truncation_psi=0.7, labels=label)[0, 4]).all()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"action": "explode"}, "'explode': choose one of reroll"),
        ({"component": 5}, "component 5: .* 0 to 4"),
        ({"component": -1}, "component -1"),
        ({"component": True}, "component True"),
        ({"component": "1"}, "component 1:"),
        ({}, "give a seed"),
        ({"seed": -4}, "seed -4 is out of range"),
        ({"seed": 1, "amount": 0.5}, "an amount does nothing here"),
        ({"seed": 1, "other": 2}, "no other component"),
        ({"seed": 1, "layers": "finest"}, "'finest': choose one of coarse, middle, fine"),
        ({"seed": 1, "layers": (3, 99)}, "within 0 to 9"),
        ({"action": "toward-seed", "seed": 1, "amount": float("nan")}, "amount nan: choose a number"),
        ({"action": "toward-mean", "seed": 1}, "a seed does nothing here"),
        ({"action": "toward-mean", "amount": 1e9}, "from -4 to 4"),
        ({"action": "swap"}, "give the component to swap with"),
        ({"action": "remove", "component": 4}, "the global latent, which cannot be removed"),
        ({"action": "remove", "layers": "fine"}, "removed from all layers"),
        ({"action": "copy"}, "give a seed"),
        ({"action": "copy", "latents": torch.zeros(2, 9, 8)}, "this model wants"),
        ({"action": "reroll", "seed": 1, "latents": torch.zeros(5, 9, 8)}, "only copy takes latents"),
    ],
)
def test_bad_edits_say_what_is_wrong(model: Generator, edit: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        edited(model, ComponentEdit(**{"action": "reroll", "component": 1, **edit}))


def test_what_is_removed_cannot_move_and_one_stays(model: Generator) -> None:
    with pytest.raises(ConfigError, match="it has been removed"):
        edited(model, ComponentEdit("remove", 1), ComponentEdit("toward-mean", 1))
    with pytest.raises(ConfigError, match="keep a component"):
        edited(model, *(ComponentEdit("remove", k) for k in range(4)))


@pytest.mark.parametrize(
    ("changes", "edit", "message"),
    [
        ({"attention": "none", "components_num": 0}, ComponentEdit("remove", 0), "no layer of this model attends"),
        ({"attention": "none", "kgan": True}, ComponentEdit("remove", 0), "no layer of this model attends"),
        ({"style": False}, ComponentEdit("reroll", 4, seed=1), "nothing in this model reads its global latent"),
        (SMALL_VQGAN, ComponentEdit("reroll", 0, seed=1), "a VQGAN"),
    ],
)
def test_other_models_refuse_what_they_do_not_have(changes: dict[str, Any], edit: ComponentEdit, message: str) -> None:
    model = build_generator(ModelConfig.from_dict({**CONFIG.to_dict(), **changes}))
    with pytest.raises(ConfigError, match=message):
        edit_components(model, [1], [edit])


def test_the_latents_of_kgan_and_stylegan2_can_be_rerolled() -> None:
    for changes in ({"attention": "none", "kgan": True}, {"attention": "none", "components_num": 0}):
        torch.manual_seed(0)
        model = build_generator(ModelConfig.from_dict({**CONFIG.to_dict(), **changes})).eval()
        after = edit_components(model, [5], [ComponentEdit("reroll", 0, seed=7)]).latents
        assert (after[0, 0] == map_seeds(model, [7], truncation_psi=0.7)[0, 0]).all()
