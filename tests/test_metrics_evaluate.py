"""Scores of a model: what is compared, what is written down about it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ganformer_cli import __version__
from ganformer_cli.config import ModelConfig
from ganformer_cli.data import ImageDataset, open_dataset
from ganformer_cli.errors import ConfigError, DataError
from ganformer_cli.metrics.diversity import diversity_ratio
from ganformer_cli.metrics.evaluate import default_num_images, evaluate
from ganformer_cli.metrics.sliced_wasserstein import sliced_wasserstein
from ganformer_cli.models import Generator
from ganformer_cli.sampling import sample


def generator(c_dim: int = 0, ratio: float = 1.0) -> Generator:
    torch.manual_seed(0)
    small = {"resolution": 32, "components_num": 2, "latent_size": 16, "channel_base": 256, "channel_max": 16}
    return Generator(ModelConfig(c_dim=c_dim, ratio=ratio, **small)).eval()  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def model() -> Generator:
    return generator()


@pytest.fixture(scope="module")
def scenes() -> ImageDataset:
    return open_dataset("scenes", resolution=32, max_images=48)


class Labelled(ImageDataset):
    """Grey pictures with a label of three classes."""

    label_dim = 3

    def __init__(self) -> None:
        super().__init__("labelled", 32, 32, 1.0, 30, "f" * 64)

    def label(self, index: int) -> np.ndarray:
        return np.eye(3, dtype=np.float32)[index % 3]

    def _load(self, index: int) -> np.ndarray:
        return np.full((3, 32, 32), index, np.uint8)


def test_scores_are_those_of_the_pictures_that_generate_draws(model: Generator, scenes: ImageDataset) -> None:
    scores = evaluate(model, scenes, num_images=20)
    chosen = np.random.default_rng(0).permutation(48)[:20]
    reals = np.stack([scenes.image(int(i)) for i in chosen])
    fakes = sample(model, range(20)).numpy()
    expected = sliced_wasserstein(reals, fakes)
    assert scores["swd"] == expected.pop("mean")
    assert scores["swd_levels"] == expected
    assert scores["diversity"] == diversity_ratio(fakes, reals)


def test_batch_size_does_not_change_a_score_but_the_seed_does(model: Generator, scenes: ImageDataset) -> None:
    first = evaluate(model, scenes, num_images=10, batch_size=1)
    assert evaluate(model, scenes, num_images=10, batch_size=7) == first
    assert evaluate(model, scenes, num_images=10, seed=1)["swd"] != first["swd"]


def test_the_floor_is_far_below_an_untrained_model(model: Generator, scenes: ImageDataset) -> None:
    scores = evaluate(model, scenes, num_images=24, floor=True)
    assert scores["swd_floor_images"] == 24
    assert 0 < scores["swd_floor"] < scores["swd"] / 3


def test_a_small_data_set_gives_its_halves_to_the_floor(model: Generator, scenes: ImageDataset) -> None:
    assert evaluate(model, scenes, num_images=40, floor=True)["swd_floor_images"] == 24


def test_only_what_is_asked_for(model: Generator, scenes: ImageDataset) -> None:
    diversity = evaluate(model, scenes, num_images=4, metrics=["diversity"], floor=True)
    assert set(diversity) == {"diversity", "provenance"}
    distance = evaluate(model, scenes, num_images=4, metrics=["swd"])
    assert set(distance) == {"swd", "swd_levels", "provenance"}


def test_provenance_says_what_was_compared(model: Generator, scenes: ImageDataset) -> None:
    provenance = evaluate(model, scenes, num_images=6, seed=3, truncation_psi=0.5)["provenance"]
    assert provenance["metrics"] == ["swd-1", "diversity-1"]
    assert (provenance["num_reals"], provenance["num_fakes"], provenance["seed"]) == (6, 6, 3)
    assert provenance["truncation_psi"] == 0.5
    assert provenance["dataset_fingerprint"] == scenes.fingerprint
    assert provenance["ganformer"] == __version__


def test_it_compares_as_many_as_there_are(model: Generator, scenes: ImageDataset) -> None:
    assert default_num_images(scenes) == 48
    assert evaluate(model, scenes, num_images=999, metrics=["diversity"])["provenance"]["num_fakes"] == 48


def test_samples_have_the_labels_of_the_reals_they_are_compared_with() -> None:
    model, dataset = generator(c_dim=3), Labelled()
    chosen = np.random.default_rng(0).permutation(30)[:8]
    labels = [dataset.label(int(i)) for i in chosen]
    fakes = sample(model, range(8), labels=labels).numpy()
    reals = np.stack([dataset.image(int(i)) for i in chosen])
    scores = evaluate(model, dataset, num_images=8, metrics=["diversity"])
    assert scores["diversity"] == diversity_ratio(fakes, reals)


def test_progress_counts_every_stage_to_its_end(model: Generator, scenes: ImageDataset) -> None:
    last: dict[str, tuple[int, int]] = {}

    def report(stage: str, done: int, total: int) -> None:
        last[stage] = done, total

    evaluate(model, scenes, num_images=6, floor=True, progress=report)
    assert last == {"reading reals": (12, 12), "drawing samples": (6, 6), "comparing": (3, 3)}


def test_what_does_not_fit_is_named(model: Generator, scenes: ImageDataset) -> None:
    with pytest.raises(DataError, match="--dataset scenes has pictures of 32x32, this model makes 32x24"):
        evaluate(generator(ratio=0.75), scenes)
    with pytest.raises(DataError, match="--dataset scenes has labels of 0 numbers, this model takes 3"):
        evaluate(generator(c_dim=3), scenes)
    with pytest.raises(ConfigError, match="--metrics fid: unknown; there are swd, diversity"):
        evaluate(model, scenes, metrics=["fid"])
    with pytest.raises(ConfigError, match="--eval-images-num 1"):
        evaluate(model, scenes, num_images=1)
