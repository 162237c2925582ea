"""Disentanglement on constructed cases; objects found in real scenes against their true masks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
import torch

from ganformer_cli.config import ModelConfig
from ganformer_cli.data import SceneDataset
from ganformer_cli.errors import ConfigError
from ganformer_cli.models import Generator
from ganformer_cli.sampling import latents_from_seeds, map_latents
from ganformer_cli.visualization.disentanglement import disentanglement, disentanglement_sheet
from ganformer_cli.visualization.region_measures import (
    adjusted_rand_index,
    ceiling_regions,
    components_used,
    connected_regions,
    map_entropy,
    map_information,
    measure_change,
    object_iou,
)
from ganformer_cli.visualization.segmentation import segment_scene

Regions = npt.NDArray[np.int64]


def quarters(size: int = 8) -> Regions:
    """Four parts: 0 1 above, 2 3 below."""
    half = np.arange(size) >= size // 2
    return 2 * half[:, None].astype(np.int64) + half[None]


# ----- Adjusted Rand index -----


def test_the_same_partition_under_other_names_agrees_entirely() -> None:
    parts = quarters()
    assert adjusted_rand_index(parts, parts) == 1
    assert adjusted_rand_index(parts, np.array([7, 3, 9, 1])[parts]) == 1


def test_one_region_says_nothing_about_several_objects() -> None:
    parts = quarters()
    assert adjusted_rand_index(np.zeros_like(parts), parts) == pytest.approx(0, abs=1e-12)


def test_random_regions_agree_no_more_than_chance() -> None:
    random = np.random.default_rng(0)
    found = [adjusted_rand_index(random.integers(0, 4, (32, 32)), quarters(32)) for _ in range(20)]
    assert abs(np.mean(found)) < 0.002


def test_partly_right_lies_between_and_halves_of_objects_cost() -> None:
    parts = quarters()
    merged = np.minimum(parts, 2)
    assert 0.3 < adjusted_rand_index(merged, parts) < 0.9
    assert adjusted_rand_index(merged, parts) == adjusted_rand_index(parts, merged)


def test_a_known_value() -> None:
    """The textbook example of a table [[2, 1], [0, 3]]: pairs 4, expected 6·7/15, largest 6.5."""
    one, other = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 0, 1, 1, 1, 1])
    assert adjusted_rand_index(one, other) == pytest.approx((4 - 6 * 7 / 15) / (6.5 - 6 * 7 / 15))


def test_two_partitions_into_one_part_are_the_same() -> None:
    assert adjusted_rand_index(np.zeros((3, 3), int), np.ones((3, 3), int)) == 1


# ----- Entropy and use -----


def test_entropy_goes_from_one_component_to_all_alike() -> None:
    shares = np.zeros((4, 1, 3))
    shares[0, 0, 0] = 1
    shares[:2, 0, 1] = 0.5
    shares[:, 0, 2] = 0.25
    np.testing.assert_allclose(map_entropy(shares), [[0, 0.5, 1]])
    np.testing.assert_array_equal(map_entropy(np.ones((1, 2, 2))), np.zeros((2, 2)))


def test_components_used_counts_those_that_own_pixels() -> None:
    assert components_used(quarters()) == pytest.approx(4)
    assert components_used(np.full((4, 4), 3)) == 1
    mostly = np.zeros((10, 10), int)
    mostly[0, 0] = 5
    assert 1 < components_used(mostly) < 1.1


def test_information_needs_sharp_attention_and_several_components() -> None:
    sharp = np.eye(4)[quarters()].transpose(2, 0, 1)
    assert map_information(sharp) == pytest.approx(1)
    assert map_information(np.full((4, 8, 8), 0.25)) == pytest.approx(0, abs=1e-12), "all alike"
    assert map_information(np.eye(4)[np.zeros((8, 8), int)].transpose(2, 0, 1)) == 0, "one owns everything"
    assert 0 < map_information(0.5 * sharp + 0.125) < 1


# ----- Objects and components -----


@pytest.mark.slow
def test_each_object_has_a_component_of_its_own() -> None:
    objects = quarters()  # 0 is the ground
    assert object_iou(objects, objects) == 1
    assert object_iou(np.array([5, 2, 7, 0])[objects], objects) == 1
    # One component for two objects serves one of them, with half of its pixels.
    assert object_iou(np.array([0, 1, 1, 3])[objects], objects) == pytest.approx((0.5 + 0 + 1) / 3)
    assert object_iou(np.zeros_like(objects), objects) == pytest.approx(0.25 / 3)
    assert object_iou(objects, np.zeros_like(objects)) is None


def test_the_assignment_is_the_best_of_all() -> None:
    """Greedy would give component 0 to the object that it overlaps most, and leave the other with nothing."""
    objects = np.array([[1, 1, 1, 1, 2, 2, 2]])
    regions = np.array([[0, 0, 1, 1, 0, 0, 0]])
    assert object_iou(regions, objects) == pytest.approx((2 / 4 + 3 / 5) / 2)


def test_pieces_of_a_region_are_counted() -> None:
    assert connected_regions(quarters()) == 1
    checkers = np.indices((4, 4)).sum(0) % 2
    assert connected_regions(checkers) == 8, "corners do not connect"


def test_the_ceiling_is_what_a_small_map_can_show() -> None:
    objects = quarters(16)
    (perfect,) = ceiling_regions(objects, (16, 16), 4)
    np.testing.assert_array_equal(perfect, objects)
    (small,) = ceiling_regions(objects, (4, 4), 4)
    assert object_iou(small, objects) == pytest.approx(1, abs=0.15)
    dropped, joined = ceiling_regions(objects, (16, 16), 3)  # the third object has no component of its own
    np.testing.assert_array_equal(dropped, np.array([0, 1, 2, 0])[objects])
    np.testing.assert_array_equal(joined, np.array([0, 1, 2, 2])[objects])
    wide = objects[4:12]  # of a model that shows the middle of its square grid
    np.testing.assert_array_equal(ceiling_regions(wide, (16, 16), 4)[0], wide)


# ----- Change -----


def test_a_change_within_the_region_is_all_inside() -> None:
    regions = quarters()
    found = measure_change(2, regions, regions, np.where(regions == 2, 5.0, 0.0))
    assert found.total == found.inside == 16 * 5
    assert found.expected == pytest.approx(found.total / 4)


def test_a_change_elsewhere_is_not() -> None:
    regions = quarters()
    assert measure_change(2, regions, regions, np.where(regions == 1, 5.0, 0.0)).inside == 0


def test_a_change_spread_evenly_is_what_is_expected() -> None:
    regions = quarters()
    found = measure_change(2, regions, regions, np.ones((8, 8)))
    assert found.inside == pytest.approx(found.expected)


def test_where_the_component_has_gone_belongs_to_it() -> None:
    before = quarters()
    after = before.T.copy()
    moved = np.where((before == 2) | (after == 2), 1.0, 0.0)
    found = measure_change(2, before, after, moved)
    assert found.inside == found.total
    assert found.expected == pytest.approx(found.total / 2)


# ----- Objects in scenes -----


@pytest.mark.slow
@pytest.mark.parametrize(("resolution", "least", "least_objects"), [(32, 0.8, 0.8), (64, 0.8, 0.9)])
def test_objects_of_real_scenes_are_found(resolution: int, least: float, least_objects: float) -> None:
    dataset = SceneDataset(resolution=resolution, count=24)
    whole, objects = [], []
    for k in range(len(dataset)):
        found, mask = segment_scene(dataset.image(k)), dataset.masks(k)
        whole.append(adjusted_rand_index(found, mask))
        objects.append(adjusted_rand_index(found[mask > 0], mask[mask > 0]))
    assert np.mean(whole) > least
    assert np.mean(objects) > least_objects


def test_an_empty_ground_has_no_objects() -> None:
    y, x = np.mgrid[0:32, 0:32] / 32
    noise = np.random.default_rng(0).normal(0, 1.5, (3, 32, 32))
    ground = 120 + 60 * y - 20 * x * x + noise
    assert segment_scene(np.clip(ground, 0, 255).astype(np.uint8)).max() == 0
    assert segment_scene(np.zeros((3, 32, 32), np.uint8)).max() == 0


def test_two_coloured_bodies_with_a_shadow_are_two_objects() -> None:
    image = np.full((3, 32, 32), 150, np.uint8)
    image[:, 20:26, 4:16] = 60  # a shadow: darker, no other colour
    image[:, 8:20, 4:12] = np.array([200, 40, 40], np.uint8)[:, None, None]
    image[:, 8:14, 12:20] = np.array([40, 40, 200], np.uint8)[:, None, None]
    found = segment_scene(image)
    assert (found[8:20, 4:12] == 1).all()
    assert (found[8:14, 12:20] == 2).all()
    assert (found > 0).sum() == 12 * 8 + 6 * 8


# ----- Of a model -----

CONFIG = ModelConfig(resolution=32, components_num=4, latent_size=32, channel_base=256, channel_max=16)


@pytest.fixture(scope="module")
def model() -> Generator:
    torch.manual_seed(0)
    return Generator(CONFIG).eval()


@pytest.fixture(scope="module")
def ws(model: Generator) -> list[torch.Tensor]:
    return list(map_latents(model, latents_from_seeds(model, range(3))))


@pytest.mark.slow
def test_an_untrained_model_is_measured(model: Generator, ws: list[torch.Tensor]) -> None:
    seen: list[tuple[int, int]] = []
    found = disentanglement(model, ws, scenes=True, shown=2, progress=lambda *now: seen.append(now))
    measures = found.measures
    layers = measures["layers"]
    assert list(layers) == [f"b{r}.conv{k}" for r, k in [(4, 1), (8, 0), (8, 1), (16, 0), (16, 1), (32, 0), (32, 1)]]
    assert measures["layer"] == max(layers, key=lambda name: layers[name]["information"])
    assert layers[measures["layer"]].items() <= measures.items()
    assert measures["pictures"] == measures["resampled_pictures"] == 3
    assert 0 < measures["entropy"] <= 1
    assert 1 <= measures["components_used"] <= 4
    assert measures["connected_regions"] <= measures["connected_regions_chance"]
    inside, expected = measures["change_inside"], measures["change_expected"]
    assert 0 <= inside <= 1
    assert 0 < expected < 1
    assert measures["change_ratio"] == pytest.approx(inside / expected)
    assert measures["change_ratio"] <= measures["change_ratio_ceiling"]
    assert measures["change_localised"] == pytest.approx((inside - expected) / (1 - expected))
    both = measures["change_of_components"] + measures["change_of_global"]
    assert measures["change_share"] == pytest.approx(measures["change_of_components"] / both)
    assert seen[-1] == (6, 6)
    assert seen == sorted(seen)
    assert measures == disentanglement(model, ws, scenes=True).measures
    sheet = disentanglement_sheet(found.images, ["a", "b"])
    assert sheet.shape[1] - disentanglement_sheet(found.images[:1], ["a"]).shape[1] == 100


def test_a_perfect_map_reaches_the_ceiling(
    model: Generator, ws: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Maps that are the objects themselves, in two images with different objects."""
    from ganformer_cli.sampling import AttentionMap, Sample
    from ganformer_cli.visualization import disentanglement as module

    images = [SceneDataset(resolution=32, count=4).image(k) for k in (0, 1)]

    def draw(generator: Generator, some: list[torch.Tensor], **_: object) -> Iterator[Sample]:
        samples = []
        for latents in some:
            image = images[next((k for k in (0, 1) if torch.equal(latents, ws[k])), 0)]
            objects = np.minimum(segment_scene(image), 3)
            one_hot = torch.eye(4)[torch.from_numpy(objects)].permute(2, 0, 1)
            samples.append(Sample(0, image, [AttentionMap("b32.conv1", one_hot[None, None])]))
        return iter(samples)

    monkeypatch.setattr(module, "draw", draw)
    measures = disentanglement(model, ws[:2], scenes=True).measures
    for name in ("adjusted_rand_index", "object_iou"):
        assert 0.3 < measures[name] <= measures[f"{name}_ceiling"] + 1e-9
        assert measures[name] > 0.7 * measures[f"{name}_ceiling"]
    assert measures["object_iou_chance"] < 0.5 * measures["object_iou"]
    assert (measures["ground_component"], measures["ground_rate"], measures["ground_share"]) == (0, 1, 1)
    assert measures["ground_share_chance"] < 1
    assert 0.5 < measures["ground_rate_chance"] < 1


def test_without_a_global_latent_there_is_no_share() -> None:
    torch.manual_seed(0)
    config = ModelConfig(
        resolution=32, components_num=2, latent_size=16, channel_base=256, channel_max=8, style=False, latent_stem=False
    )
    assert not config.reads_global_latent
    generator = Generator(config).eval()
    latents = list(map_latents(generator, latents_from_seeds(generator, range(2))))
    measures = disentanglement(generator, latents, scenes=False).measures
    assert measures["change_of_components"] > 0
    assert (measures["change_of_global"], measures["change_share"]) == (None, None)


def test_what_does_not_change_anything_is_no_change(model: Generator, ws: list[torch.Tensor]) -> None:
    """The second picture has the first one's components, and another global latent."""
    mixed = torch.cat([ws[0][:4], ws[1][4:]])
    measures = disentanglement(model, [ws[0], mixed], scenes=False).measures
    assert measures["change_of_components"] == 0
    assert measures["change_of_global"] > 0
    assert measures["change_inside"] is None, "no component has changed anything"


def test_objects_are_looked_for_in_scenes_only(model: Generator, ws: list[torch.Tensor]) -> None:
    measures = disentanglement(model, ws[:2], scenes=False).measures
    assert measures["adjusted_rand_index"] is None
    assert measures["adjusted_rand_index_objects"] is None
    assert measures["segmentation"] is None
    for name in ("object_iou", "object_iou_chance", "object_iou_ceiling", "ground_component", "ground_rate"):
        assert measures[name] is None
    assert measures["connected_regions"] >= 1, "that needs no objects"


def test_one_picture_has_none_to_exchange_with(model: Generator, ws: list[torch.Tensor]) -> None:
    with pytest.raises(ConfigError, match="at least 2"):
        disentanglement(model, ws[:1], scenes=True)


def test_a_model_without_maps_cannot_be_measured() -> None:
    config = ModelConfig(
        resolution=32, attention="none", components_num=0, latent_size=16, channel_base=256, channel_max=16
    )
    generator = Generator(config).eval()
    with pytest.raises(ConfigError, match="none"):
        disentanglement(generator, [torch.zeros(1, config.num_ws, 16)] * 2, scenes=True)


def test_one_component_cannot_be_told_from_others() -> None:
    config = ModelConfig(resolution=32, components_num=1, latent_size=16, channel_base=256, channel_max=8)
    with pytest.raises(ConfigError, match="only one"):
        disentanglement(Generator(config).eval(), [torch.zeros(2, config.num_ws, 16)] * 2, scenes=True)
