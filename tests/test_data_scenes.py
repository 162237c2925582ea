"""The built-in images: the same everywhere, and with every object to be seen."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from ganformer_cli.data import SceneDataset, open_dataset
from ganformer_cli.data.scenes.composition import COLORS, MATERIALS, MAX_OBJECTS, MIN_OBJECTS, SHAPES, SIZES, compose
from ganformer_cli.data.scenes.rendering import render, render_mask
from ganformer_cli.errors import GanformerError

# If a change of the drawing is meant, raise _SCENES_DRAWING in data/loading/datasets.py and put the new sum here.
FIRST_PICTURES = "af3f6d9d0c16d9f9c6b63a070ebe9a8a3c647e29395da88aa420ffd34e71e680"


def test_pictures_are_the_same_on_every_machine() -> None:
    digest = hashlib.sha256()
    for resolution, ratio in ((32, 1.0), (64, 0.75), (128, 2.0)):
        dataset = SceneDataset(resolution=resolution, ratio=ratio)
        for index in range(4):
            digest.update(dataset.image(index).tobytes())
    assert digest.hexdigest() == FIRST_PICTURES


def test_a_picture_does_not_depend_on_those_before() -> None:
    forward, backward = SceneDataset(resolution=32, seed=3), SceneDataset(resolution=32, seed=3)
    there = [forward.image(i) for i in range(5)]
    back = [backward.image(i) for i in reversed(range(5))][::-1]
    assert np.array_equal(there, back)


@pytest.mark.parametrize(
    ("resolution", "ratio", "height", "width"),
    [
        (32, 1.0, 32, 32),
        (64, 0.5, 32, 64),
        (64, 2.0, 64, 32),
        (48, 0.7, 34, 48),
        (256, 1.0, 256, 256),
        (32, 4.0, 32, 8),
    ],
)
def test_any_resolution_and_ratio(resolution: int, ratio: float, height: int, width: int) -> None:
    dataset = open_dataset("scenes", resolution=resolution, ratio=ratio, max_images=7)
    assert (dataset.height, dataset.width, len(dataset)) == (height, width, 7)
    picture = dataset.image(6)
    assert picture.shape == (3, height, width)
    assert picture.dtype == np.uint8
    assert picture.std() > 5
    assert dataset.label(0).shape == (0,)


def test_every_picture_is_another_and_seeds_differ() -> None:
    pictures = {SceneDataset(resolution=32, seed=seed).image(i).tobytes() for seed in (0, 1, -1) for i in range(20)}
    assert len(pictures) == 60


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0])
def test_every_object_is_seen(ratio: float) -> None:
    dataset = SceneDataset(resolution=64, ratio=ratio)
    counts = set()
    for index in range(60):
        scene, mask = dataset.scene(index), dataset.masks(index)
        counts.add(len(scene.objects))
        assert mask.shape == (dataset.height, dataset.width)
        assert mask.dtype == np.uint8
        assert set(np.unique(mask)) == set(range(len(scene.objects) + 1))
        for k, item in enumerate(scene.objects, start=1):
            alone = render_mask(replace(scene, objects=(item,)), dataset.height, dataset.width) == 1
            seen = mask == k
            assert seen.sum() >= 20
            assert seen.sum() >= 0.3 * alone.sum()
            assert (seen & ~alone).sum() <= 0.1 * seen.sum()  # where three things share a pixel, the largest part wins
            # Nothing is cut by the frame.
            rim = np.concatenate([alone[0], alone[-1], alone[:, 0], alone[:, -1]])
            assert not rim.any()
    assert counts == set(range(MIN_OBJECTS, MAX_OBJECTS + 1))


def grown(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The mask and all pixels beside it."""
    padded = np.pad(mask, 1)
    shifted = [padded[i : i + mask.shape[0], j : j + mask.shape[1]] for i in range(3) for j in range(3)]
    return np.logical_or.reduce(shifted)


def test_masks_tell_where_the_picture_changes_when_an_object_goes() -> None:
    dataset = SceneDataset(resolution=64)
    for index in range(6):
        scene, mask, picture = dataset.scene(index), dataset.masks(index), dataset.image(index).astype(int)
        darkest = 0
        for k, item in enumerate(scene.objects, start=1):
            others = tuple(other for other in scene.objects if other is not item)
            without = render(replace(scene, objects=others), 64, 64).astype(int)
            change = np.abs(picture - without).max(axis=0)
            assert (change[mask == k] > 8).mean() > 0.9  # grey before grey may change little
            # What else changes is its shadow: darker with the object than without, apart from blended rims.
            beside = ~grown(mask > 0)
            assert np.all(picture[:, beside] <= without[:, beside] + 1)
            darkest = max(darkest, int((without - picture)[:, beside].max()))
        assert darkest > 25


def test_colours_of_a_scene_differ_and_all_attributes_occur() -> None:
    seen: dict[str, set[str]] = {"shape": set(), "size": set(), "material": set(), "color": set()}
    for index in range(80):
        attributes = compose(0, index, 32, 32).attributes()
        assert len({item["color"] for item in attributes}) == len(attributes)
        for item in attributes:
            for key, values in seen.items():
                values.add(item[key])
    assert seen == {"shape": set(SHAPES), "size": set(SIZES), "material": set(MATERIALS), "color": set(COLORS)}


def test_one_scene_at_every_resolution() -> None:
    small, large = SceneDataset(resolution=32), SceneDataset(resolution=128)
    assert small.scene(3) == large.scene(3)
    shrunk = large.image(3).reshape(3, 32, 4, 32, 4).mean(axis=(2, 4))
    assert np.abs(shrunk - small.image(3)).mean() < 2


def test_fingerprint_follows_content() -> None:
    prints = [
        SceneDataset(resolution=32).fingerprint,
        SceneDataset(resolution=64).fingerprint,
        SceneDataset(resolution=32, ratio=0.5).fingerprint,
        SceneDataset(resolution=32, seed=1).fingerprint,
        SceneDataset(resolution=32, count=5).fingerprint,
    ]
    assert len(set(prints)) == 5
    assert prints[0] == open_dataset("scenes", resolution=32).fingerprint


@pytest.mark.parametrize(
    ("resolution", "ratio", "words"),
    [
        (16, 1.0, "--resolution 16"),
        (512, 1.0, "--resolution 512"),
        (32, 0.125, "--ratio 0.125"),
        (32, -1.0, "--ratio -1"),
        (32, float("nan"), "--ratio nan"),
    ],
)
def test_what_cannot_be_drawn_is_refused(resolution: int, ratio: float, words: str) -> None:
    with pytest.raises(GanformerError, match=words):
        open_dataset("scenes", resolution=resolution, ratio=ratio)
