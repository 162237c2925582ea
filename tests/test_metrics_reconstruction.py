"""Scores of a VQGAN's reconstructions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ganformer_cli.config import ModelConfig, resolve_run
from ganformer_cli.data import open_dataset
from ganformer_cli.errors import ConfigError
from ganformer_cli.metrics.evaluate import evaluate
from ganformer_cli.metrics.signal_noise import MAX_RATIO, peak_signal_noise_ratio
from ganformer_cli.models import Generator
from ganformer_cli.models.vqgan import VQGAN
from ganformer_cli.sampling import reconstruct_images
from ganformer_cli.training.scoring import Scoring

CONFIG = ModelConfig(
    resolution=32, attention="none", components_num=0, latent_size=16, channel_base=128, channel_max=8, vqgan=True,
    codebook_size=8, code_dim=4, code_stride=8, transformer_layers=1, transformer_width=8, transformer_heads=2,
)  # fmt: skip


def model(*, steps: int = 0) -> VQGAN:
    """Random weights, after so many steps of stage 2."""
    torch.manual_seed(0)
    made = VQGAN(CONFIG)
    made.transformer_steps += steps
    return made


def scores(fakes: Any, **options: Any) -> dict[str, Any]:
    """Of ten images."""
    return evaluate(fakes, open_dataset("scenes", resolution=32, max_images=24), num_images=10, **options)


def test_psnr_is_its_formula() -> None:
    one = np.zeros((2, 3, 4, 4), np.uint8)
    other = one.copy()
    other[0] += 5
    other[1, :, 0, 0] = 255  # a sixteenth of all values
    expected = (10 * np.log10(255**2 / 25) + 10 * np.log10(16)) / 2
    assert peak_signal_noise_ratio(one, other) == pytest.approx(expected, abs=1e-9)
    assert peak_signal_noise_ratio(one, one) == MAX_RATIO


def test_reconstructions_do_not_depend_on_the_batch() -> None:
    images = np.random.default_rng(0).integers(0, 256, (10, 3, 32, 32), dtype=np.uint8)
    whole = reconstruct_images(model(), images)
    assert whole.shape == images.shape
    assert np.array_equal(whole, reconstruct_images(model(), images, batch_size=1))
    assert np.array_equal(whole[4:7], reconstruct_images(model(), images[4:7]))


@pytest.mark.slow
def test_both_stages_have_the_scores_that_they_can_have() -> None:
    first, second = scores(model()), scores(model(steps=1))
    assert {"rswd", "psnr"} <= set(first)
    assert not {"swd", "diversity"} & set(first)
    assert {"swd", "diversity", "rswd", "psnr"} <= set(second)
    assert second["psnr"] == first["psnr"]
    assert scores(model(), batch_size=1)["rswd"] == first["rswd"]


def test_reconstruction_scores_compare_each_real_with_its_reconstruction() -> None:
    """A model that gives back what it gets loses nothing."""

    class Perfect(VQGAN):
        def reconstruct(self, images: torch.Tensor) -> torch.Tensor:
            return images

    found = scores(Perfect(CONFIG))
    assert found["psnr"] == MAX_RATIO
    assert found["rswd"] == 0
    assert "rswd_floor" not in found


@pytest.mark.parametrize(
    ("metrics", "said"), [(["swd"], "this VQGAN is in stage 1"), (["psnr", "diversity"], "--metrics diversity: ")]
)
def test_stage_one_has_no_samples(metrics: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        scores(model(), metrics=metrics)


def test_only_a_vqgan_reconstructs() -> None:
    gan = Generator(ModelConfig(resolution=32, channel_base=128, channel_max=8, components_num=2, latent_size=16))
    with pytest.raises(ConfigError, match="--metrics psnr: scores reconstructions, which only a VQGAN makes"):
        scores(gan, metrics=["psnr"])
    with pytest.raises(ConfigError, match="--metrics rswd: scores reconstructions"):
        scores(open_dataset("scenes", resolution=32, max_images=24), metrics=["rswd"])


def test_training_refuses_metrics_that_it_can_never_compute(tmp_path: Path) -> None:
    data = open_dataset("scenes", resolution=32, max_images=24)

    def check(generator: Generator, **options: Any) -> None:
        run = resolve_run({"resolution": 32, **options}, dataset_preset={}, on_cpu=True)
        Scoring(run.train, data, tmp_path, torch.device("cpu"), lambda text: None).check(generator)

    vqgan = {"attention": "none", "vqgan": True}
    check(model(), **vqgan)
    check(model(), vq_stage="1", **vqgan)
    with pytest.raises(ConfigError, match="--metrics swd with --vq-stage 1"):
        check(model(), vq_stage="1", metrics="swd", **vqgan)
    gan = Generator(ModelConfig(resolution=32, channel_base=128, channel_max=8, components_num=2, latent_size=16))
    with pytest.raises(ConfigError, match="--metrics rswd: scores reconstructions, which only --baseline VQGAN"):
        check(gan, metrics="swd,rswd")
