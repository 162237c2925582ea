"""Adaptive augmentation: what it does to pictures, and how its probability follows the discriminator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ganformer_cli.checkpoints import training_state
from ganformer_cli.config import TrainConfig, resolve_run
from ganformer_cli.data import open_dataset
from ganformer_cli.errors import ConfigError
from ganformer_cli.training import Callbacks, open_run
from ganformer_cli.training.augment import INTERVAL, MAX_P, Augmentation, colours, geometry
from ganformer_cli.training.gan import GANTrainer
from ganformer_cli.training.network_trainer import RunningMeans

CPU = torch.device("cpu")


def augmentation(**options: Any) -> Augmentation:
    """On a CPU."""
    return Augmentation(TrainConfig(**options), CPU)


def pictures(count: int = 64, height: int = 16, width: int = 16) -> Tensor:
    """Smooth ones, another colour in each corner."""
    torch.manual_seed(0)
    corners = torch.rand(count, 3, 2, 2) * 2 - 1
    return torch.nn.functional.interpolate(corners, (height, width), mode="bilinear", align_corners=True)


def test_with_probability_zero_nothing_changes() -> None:
    images = pictures(height=16, width=24)
    assert torch.allclose(augmentation(augment="ada")(images), images, atol=1e-5)
    assert augmentation()(images) is images


@pytest.mark.parametrize("p", [0.2, 0.7])
def test_each_transformation_happens_with_its_probability(p: float) -> None:
    """Scaling, turning and so on are there in a share of the maps that follows from p."""
    torch.manual_seed(1)
    count = 4000
    maps = geometry(count, torch.tensor(p), 16, 16)
    unit = torch.eye(3)
    untouched = ((maps - unit).abs().amax((1, 2)) < 1e-4).float().mean()
    # A flip is none in half of the cases, a quarter turn in one of four; whole-pixel shifts of 16 pixels, within two,
    # round to none in both directions in 1 of 16 cases.
    expected = (1 - p / 2) * (1 - 0.75 * p) * (1 - p * 15 / 16) * (1 - p) ** 2 * (1 - p) * (1 - p)
    assert float(untouched) == pytest.approx(expected, abs=0.03)
    changed = ((colours(count, torch.tensor(p)) - torch.eye(4)).abs().amax((1, 2)) > 1e-5).float().mean()
    assert float(changed) == pytest.approx(1 - (1 - p) ** 4 * (1 - p / 2), abs=0.03)


def test_maps_of_colours_keep_grey_grey() -> None:
    """Hue and saturation turn about the grey axis; brightness and contrast move along it."""
    torch.manual_seed(2)
    grey = torch.tensor([0.3, 0.3, 0.3, 1.0])
    out = colours(500, torch.tensor(1.0)) @ grey
    assert torch.allclose(out[:, :3], out[:, :1].expand(-1, 3), atol=1e-5)
    assert torch.allclose(out[:, 3], torch.ones(500))


def test_pictures_that_are_not_square_are_turned_without_stretching() -> None:
    """A map of places is a similarity in pixels, but for stretching; its determinant keeps the sizes' ratio."""
    torch.manual_seed(3)
    maps = geometry(300, torch.tensor(1.0), 16, 32)
    to_pixels = torch.diag(torch.tensor([16.0, 8.0, 1.0]))
    linear = (to_pixels @ maps @ to_pixels.inverse())[:, :2, :2]
    sizes = torch.linalg.svdvals(linear)
    # Both sides of a pixel become scale·stretch and scale/stretch long.
    log_stretch = (sizes[:, 0] / sizes[:, 1]).log2() / 2
    assert float(log_stretch.max()) < 1.0
    assert float(sizes.prod(1).sqrt().log2().std()) == pytest.approx(0.2, abs=0.03)


def test_gradients_flow_to_the_pictures() -> None:
    images = pictures(4).double().requires_grad_()
    torch.manual_seed(4)
    augment = augmentation(augment="fixed", augment_p=0.8)
    augment(images.float()).square().sum().backward()
    assert images.grad is not None
    assert images.grad.isfinite().all()
    assert float(images.grad.abs().sum()) > 0


@pytest.mark.parametrize(("sign", "moves"), [(0.9, 1), (0.1, -1)])
def test_the_probability_follows_the_signs(sign: float, moves: int) -> None:
    augment = augmentation(augment="ada", augment_p=0.3, augment_kimg=1.0, batch_size=10)
    for number in range(INTERVAL - 1):
        augment.observe(torch.tensor([10 * sign, 10.0]), number)
        assert float(augment.p) == pytest.approx(0.3)
    augment.observe(torch.tensor([10 * sign, 10.0]), INTERVAL - 1)
    assert float(augment.p) == pytest.approx(0.3 + moves * 10 * INTERVAL / 1000)
    for number in range(INTERVAL, 400):
        augment.observe(torch.tensor([10 * sign, 10.0]), number)
    assert float(augment.p) == pytest.approx(MAX_P if moves > 0 else 0)


def test_a_fixed_probability_stays() -> None:
    augment = augmentation(augment="fixed", augment_p=0.3)
    for number in range(20):
        augment.observe(torch.tensor([10.0, 10.0]), number)
    assert float(augment.p) == pytest.approx(0.3)


@pytest.mark.slow
def test_the_discriminator_sees_transformed_pictures_of_both_kinds(tiny: dict[str, Any]) -> None:
    config = resolve_run({**tiny, "augment": "fixed", "augment_p": 0.9}, dataset_preset={}, on_cpu=True)
    gan = GANTrainer(config, CPU)
    black = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    seen: list[Tensor] = []
    gan.discriminator.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    shown: list[Tensor] = []
    gan.generator.register_forward_hook(lambda module, args, out: shown.append(out.detach()))
    gan.step((black, torch.zeros(4, 0)), 0, RunningMeans())
    assert len(seen) == 3  # with R1: generator's fakes, fakes, reals
    # A black picture that only turns stays black: these are brighter, or of another contrast.
    assert float((seen[-1] + 1).abs().max()) > 0.1


@pytest.mark.slow
def test_a_stopped_run_goes_on_with_the_same_probability(tiny: dict[str, Any], tmp_path: Path) -> None:
    """Stopped between two changes, with signs half gathered."""
    options = {"augment": "ada", "augment_kimg": 0.1, "augment_target": 0.01, "total_kimg": 0.04, "vis_num": 2}
    config = resolve_run({**tiny, **options, "metrics": "none"}, dataset_preset={}, on_cpu=True)
    data = open_dataset("scenes", resolution=32, max_images=16)

    def go(folder: Path, resume: bool, stop_after: int = 10**6) -> dict[str, Tensor]:
        steps = iter(range(10**6))
        callbacks = Callbacks(should_stop=lambda: next(steps) >= stop_after - 1)
        open_run(config, data, folder, device=CPU, resume=resume, callbacks=callbacks).run()
        return training_state.read_state(training_state.states_of(folder)[-1]).tensors

    whole = go(tmp_path / "whole", False)
    half = go(tmp_path / "parts", False, stop_after=6)
    assert float(half["scalar.augment_signs"][1]) == 8  # two steps of four pictures
    parts = go(tmp_path / "parts", True)
    assert all(torch.equal(parts[name], value) for name, value in whole.items())
    assert float(whole["scalar.augment_p"]) > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"augment_p": 0.2}, "--augment-p 0.2 does nothing with --augment none"),
        ({"augment": "fixed"}, "--augment fixed needs --augment-p"),
        ({"augment": "fixed", "augment_p": 0.2, "augment_target": 0.5}, "--augment-target 0.5 does nothing"),
        ({"augment": "ada", "augment_p": 1.2}, "--augment-p 1.2: choose a number from 0 to 1"),
        ({"augment": "ada", "d_loss": "wgan", "g_loss": "wgan"}, "--augment ada .* --d-loss wgan"),
        ({"augment": "all"}, "--augment all: choose one of none, ada, fixed"),
    ],
)
def test_settings_that_contradict(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**options)
