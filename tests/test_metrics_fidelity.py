"""Against torch-fidelity: the same weights give the same features, the same features the same scores."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ganformer_cli.benchmarks.images import load_fidelity as load
from ganformer_cli.metrics.features import FeatureNetwork, LearnedDistance
from ganformer_cli.metrics.frechet import frechet_distance
from ganformer_cli.metrics.inception import Inception
from ganformer_cli.metrics.inception_score import inception_score
from ganformer_cli.metrics.kernel_distance import kernel_distance
from ganformer_cli.metrics.manifold import precision_recall
from ganformer_cli.metrics.statistics import GaussianStatistics
from ganformer_cli.metrics.vgg import Lpips, Vgg16
from tests.random_weights import random_weights

Weights = dict[str, Tensor]


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    """Skip all of this without the package."""
    if importlib.util.find_spec("torch_fidelity") is None:
        pytest.skip("needs torch-fidelity: pip install torch-fidelity==0.4.0 torch==2.13.0")


def pictures(count: int, height: int, width: int) -> Tensor:
    """Smooth ones, unlike each other."""
    coarse = np.random.RandomState(0).random_sample((count, 3, 4, 4)) * 255
    return torch.nn.functional.interpolate(torch.from_numpy(coarse), (height, width), mode="bilinear").to(torch.uint8)


def same(found: Tensor, expected: Tensor) -> None:
    """Features that tell pictures apart, and agree to 1e-5 of their size."""
    assert expected.std(0).mean() > 1e-3 * expected.abs().mean()
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), [(64, 64), (97, 40), (320, 301)])
def test_inception_features(height: int, width: int, inception_weights: Weights, own_folder: Path) -> None:
    torch.save(inception_weights, "weights.pth")
    theirs = load("feature_extractor_inceptionv3").FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path="weights.pth"
    )
    ours = FeatureNetwork("inception", Inception(inception_weights), weights_sha256="", published=False, resize="tf1")
    images = pictures(2, height, width)
    pool, logits = theirs(images)
    found = ours(images)
    same(found["pool"], pool)
    same(found["logits"], logits)


@pytest.fixture(scope="module")
def vgg_weights() -> Weights:
    """Of VGG16. The first fully connected layer, three quarters of all, repeats some rows: drawing it takes long."""
    shapes = dict(Vgg16.shapes())
    large = shapes.pop("classifier.0.weight")
    some = random_weights({"classifier.0.weight": (64, large[1])})["classifier.0.weight"]
    return {**random_weights(shapes), "classifier.0.weight": some.repeat(large[0] // 64, 1)}


@pytest.fixture
def their_vgg(vgg_weights: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch-fidelity's pretrained VGG16 has our weights."""
    load("utils_torchvision")
    models = importlib.import_module("torchvision.models")

    def make(**rest: Any) -> torch.nn.Module:
        with torch.device("meta"):
            network: torch.nn.Module = models.vgg16(init_weights=False)
        network.load_state_dict(vgg_weights, assign=True)
        return network

    for module in ("feature_extractor_vgg16", "sample_similarity_lpips"):
        monkeypatch.setattr(load(module), "torchvision_load_pretrained_vgg16", make)


@pytest.mark.slow
def test_vgg16_features(vgg_weights: Weights, their_vgg: None) -> None:
    theirs = load("feature_extractor_vgg16").FeatureExtractorVGG16("vgg16", ["fc2_relu"])
    ours = FeatureNetwork("vgg16", Vgg16(vgg_weights), weights_sha256="", published=False, resize="tf1")
    images = pictures(2, 64, 48)
    same(ours(images)["fc2"], theirs(images)[0])


@pytest.mark.slow
def test_lpips_distances(
    vgg_weights: Weights,
    their_vgg: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = {name: values.abs() for name, values in random_weights(Lpips.own_shapes()).items()}
    module = load("sample_similarity_lpips")
    monkeypatch.setattr(module, "load_state_dict_from_url", lambda *args, **kwargs: own)
    theirs = module.SampleSimilarityLPIPS("lpips-vgg16")
    ours = LearnedDistance(Lpips({**vgg_weights, **own}), weights_sha256="", published=False)
    images = pictures(4, 48, 64).float()
    expected = theirs(images[:2], images[2:]).flatten()
    assert ours(images[:2], images[2:]).tolist() == pytest.approx(expected.tolist(), rel=1e-5)


# ----- Scores -----


@pytest.fixture(scope="module")
def features() -> tuple[Tensor, Tensor]:
    """Of 300 reals and 260 fakes, as ReLUs leave them; float64, since torch-fidelity takes means in the given dtype."""
    random = np.random.RandomState(0)
    mixing = random.standard_normal((24, 48))
    reals = np.maximum(random.standard_normal((300, 24)) @ mixing, 0)
    fakes = np.maximum(random.standard_normal((260, 24)) * 0.8 @ mixing + 0.4, 0)
    return torch.from_numpy(reals), torch.from_numpy(fakes)


def moments(features: Tensor) -> GaussianStatistics:
    found = GaussianStatistics()
    found.add(features)
    return found


def test_frechet_distance(features: tuple[Tensor, Tensor]) -> None:
    fid = load("metric_fid")
    statistics = [fid.fid_features_to_statistics(each) for each in features]
    expected = fid.fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert expected > 1
    assert frechet_distance(*map(moments, features)) == pytest.approx(expected, rel=1e-6)


def test_kernel_distance(features: tuple[Tensor, Tensor]) -> None:
    reals, fakes = features
    expected = load("metric_kid").kid_features_to_metric(
        fakes, reals, kid_subsets=10, kid_subset_size=100, rng_seed=2020, verbose=False
    )
    found = kernel_distance(reals, fakes, subsets=10, subset_size=100, seed=2020)
    assert found[0] == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-6)
    assert found[1] == pytest.approx(expected["kernel_inception_distance_std"], rel=1e-6)


@pytest.mark.parametrize("seed", [None, 2020])
def test_inception_score(seed: int | None, features: tuple[Tensor, Tensor]) -> None:
    logits = features[1] / 2
    expected = load("metric_isc").isc_features_to_metric(logits, splits=10, shuffle=seed is not None, rng_seed=seed)
    found = inception_score(logits, seed=seed)
    assert expected["inception_score_mean"] > 1.5
    assert found[0] == pytest.approx(expected["inception_score_mean"], rel=1e-6)
    assert found[1] == pytest.approx(expected["inception_score_std"], rel=1e-6)


def test_precision_and_recall(features: tuple[Tensor, Tensor]) -> None:
    reals, fakes = features
    expected = load("metric_prc").prc_features_to_metric(fakes, reals, save_cpu_ram=False, verbose=False)
    assert 0.1 < expected["recall"] < expected["precision"] < 1
    assert precision_recall(reals, fakes) == pytest.approx((expected["precision"], expected["recall"]), rel=1e-6)
