"""Half precision and recomputed activations: what they change, and what not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ganformer_cli.config import RunConfig, resolve_run
from ganformer_cli.data import open_dataset
from ganformer_cli.errors import GanformerError
from ganformer_cli.memory import kept_bytes
from ganformer_cli.models import Discriminator, Generator
from ganformer_cli.models.generator import SynthesisLayer
from ganformer_cli.models.layers import Conv2d
from ganformer_cli.models.precision import CLAMP, blocks_of, use_half
from ganformer_cli.training import Callbacks, open_run, precision_trial
from ganformer_cli.training.gan import GANTrainer
from ganformer_cli.training.loop import Trainer
from ganformer_cli.training.network_trainer import RunningMeans

KINDS = [
    {"attention": "simplex"},
    {"attention": "kmeans"},
    {"attention": "duplex-equation", "d_transformer": True, "d_ltnt2img": True, "g_arch": "skip", "d_arch": "skip"},
    {"attention": "none", "g_img2img": 8, "style": False, "latent_stem": True},
    {"attention": "none", "kgan": True, "components_num": 2},
]
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind.values())))


@pytest.fixture
def small(tiny: dict[str, Any]) -> dict[str, Any]:
    """Settings in which every part of a step is there: both regularisations in each."""
    return {**tiny, "pl_weight": 2.0, "gamma": 1.0, "g_reg_interval": 1, "d_reg_interval": 1}


def settings(small: dict[str, Any], **options: Any) -> RunConfig:
    """Of a run; without components where there is no attention."""
    given = {**small, **options}
    if given.get("attention") == "none" and not given.get("kgan"):
        del given["components_num"]
    return resolve_run(given, dataset_preset={}, on_cpu=True)


def trained(config: RunConfig, steps: int = 2) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The weights after some steps, and the means of what was logged."""
    torch.manual_seed(5)
    gan = GANTrainer(config, torch.device("cpu"))
    random = torch.Generator().manual_seed(6)
    side = config.model.resolution
    batch = (torch.randint(0, 256, (4, 3, side, side), dtype=torch.uint8, generator=random), torch.zeros(4, 0))
    means = RunningMeans()
    for number in range(steps):
        gan.step(batch, number, means)
        gan.average(4 * number + 4)
    weights = {f"{name}.{key}": value for name, net in gan.networks.items() for key, value in net.state_dict().items()}
    return weights, means.read()


@pytest.mark.slow
@each_kind
def test_recomputed_activations_give_the_very_same_weights(small: dict[str, Any], kind: dict[str, Any]) -> None:
    plain, _ = trained(settings(small, resolution=8, **kind))
    again, _ = trained(settings(small, resolution=8, **kind, checkpoint_activations=True))
    assert all(torch.equal(again[name], value) for name, value in plain.items())


@pytest.mark.slow
def test_recomputed_activations_are_not_kept(small: dict[str, Any]) -> None:
    """What a forward pass of both players keeps for the backward one."""

    def kept(**options: Any) -> int:
        gan = GANTrainer(settings(small, **options), torch.device("cpu"))
        return kept_bytes(lambda: gan.discriminator(gan.generator(torch.randn(16, *gan.config.model.z_shape))), [])

    assert kept(checkpoint_activations=True) < 0.5 * kept()


@pytest.mark.slow
@each_kind
def test_bfloat16_trains_nearly_the_same_weights_in_float32(small: dict[str, Any], kind: dict[str, Any]) -> None:
    """After one step: gradients of a second change tenfold with weights that differ by 1e-3, also in float32."""
    options = {"resolution": 8, **kind, **({"attention_dropout": 0.0} if kind["attention"] != "none" else {})}
    plain, figures = trained(settings(small, **options), steps=1)
    half, half_figures = trained(settings(small, **options, precision="bf16"), steps=1)
    assert {value.dtype for value in half.values()} == {value.dtype for value in plain.values()}
    assert any(not torch.equal(half[name], value) for name, value in plain.items())
    for name, value in figures.items():
        assert half_figures[name] == pytest.approx(value, rel=0.1, abs=0.05), name


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_only_features_of_the_highest_resolutions_are_halved(small: dict[str, Any], dtype: torch.dtype) -> None:
    config = resolve_run({**small, "resolution": 128, "channel_base": 512}, dataset_preset={}, on_cpu=True).model
    generator, discriminator = Generator(config).eval(), Discriminator(config).eval()
    use_half(generator, dtype)
    use_half(discriminator, dtype)
    seen: dict[str, torch.dtype] = {}

    def watch(name: str) -> Any:
        return lambda module, args, out: seen.update({name: (out[0] if isinstance(out, tuple) else out).dtype})

    for network in (generator, discriminator):
        for name, module in network.named_modules():
            if isinstance(module, SynthesisLayer | Conv2d):
                module.register_forward_hook(watch(f"{type(network).__name__}.{name}"))
    with torch.no_grad():
        image = generator(torch.randn(4, *config.z_shape))
        logits = discriminator(image)
    assert image.dtype == logits.dtype == torch.float32
    assert {parameter.dtype for net in (generator, discriminator) for parameter in net.parameters()} == {torch.float32}
    halved = {f".b{resolution}." for resolution in (16, 32, 64, 128)}
    for name, found in seen.items():
        assert found == (dtype if any(part in f"{name}." for part in halved) else torch.float32), name
    assert len(set(seen.values())) == 2


def test_no_style_takes_float16_out_of_its_range(small: dict[str, Any]) -> None:
    """Styles ten thousand times as large leave the picture what it was, as demodulation divides by their size."""
    config = settings(small, attention="none").model
    torch.manual_seed(0)
    generator = Generator(config).eval()
    with torch.no_grad():
        for layer in synthesis_layers(generator):
            assert layer.conv.affine is not None
            layer.conv.affine.weight.mul_(1e4)
            assert layer.conv.affine.bias is not None
            layer.conv.affine.bias.mul_(1e4)
        z = torch.randn(4, *generator.z_shape)
        truth = generator(z, noise_mode="const")
        use_half(generator, torch.float16)
        image = generator(z, noise_mode="const")
    assert image.isfinite().all()
    assert (image - truth).norm() < 0.02 * truth.norm()


def test_activations_in_float16_are_clamped(small: dict[str, Any]) -> None:
    generator = Generator(settings(small, attention="none").model).eval()
    use_half(generator, torch.float16)
    largest: list[float] = []
    with torch.no_grad():
        for layer in synthesis_layers(generator):
            layer.bias.fill_(5e4)
            layer.register_forward_hook(lambda module, args, out: largest.append(float(out[0].abs().max())))
        image = generator(torch.randn(4, *generator.z_shape))
    assert image.isfinite().all()
    assert len(largest) == 7
    assert all(value == pytest.approx(CLAMP, rel=0.3) for value in largest)


def test_blocks_take_the_precision_that_is_named(small: dict[str, Any]) -> None:
    gan = GANTrainer(settings(small), torch.device("cpu"))
    gan.use_precision({"generator.b32": "bf16", "discriminator.b16": "bf16"})
    assert {name for name, block in blocks_of(gan.generator).items() if block.dtype} == {"b32"}
    assert {name for name, block in blocks_of(gan.discriminator).items() if block.dtype} == {"b16"}
    gan.use_precision({})
    assert not any(block.dtype for net in (gan.generator, gan.discriminator) for block in blocks_of(net).values())


@pytest.mark.slow
@pytest.mark.parametrize("classes", [{}, {"c_dim": 3, "labels": True}], ids=["plain", "classes"])
def test_the_trial_takes_what_is_faster_and_changes_nothing(
    small: dict[str, Any], classes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    gan = GANTrainer(settings(small, **classes), torch.device("cpu"))
    before, random = [p.detach().clone() for p in gan.generator.parameters()], torch.get_rng_state()
    dtypes = [block.dtype for block in blocks_of(gan.discriminator).values()]

    def clock_of(seconds: dict[bool, float]) -> Callable[[], float]:
        """A clock by which a run takes these seconds, with blocks in bf16 or without."""
        now = iter(range(10**9))

        def clock() -> float:
            halved = any(block.dtype for net in (gan.generator, gan.discriminator) for block in blocks_of(net).values())
            return (next(now) % 2) * seconds[halved]

        return clock

    for name in ("thread_time", "perf_counter"):
        monkeypatch.setattr(precision_trial.time, name, clock_of({True: 1.0, False: 2.0}))
    blocks = {f"{net}.b{resolution}" for net in ("generator", "discriminator") for resolution in (8, 16, 32)}
    assert precision_trial.fastest_precision(gan) == dict.fromkeys(blocks, "bf16")
    for name in ("thread_time", "perf_counter"):
        monkeypatch.setattr(precision_trial.time, name, clock_of({True: 2.0, False: 1.0}))
    assert precision_trial.fastest_precision(gan) == {}
    assert all(torch.equal(a, b) for a, b in zip(before, gan.generator.parameters(), strict=True))
    assert torch.equal(random, torch.get_rng_state())
    assert [block.dtype for block in blocks_of(gan.discriminator).values()] == dtypes
    assert all(p.grad is None for net in gan.networks.values() for p in net.parameters())


BLOCKS = {"generator.b32": "bf16", "discriminator.b32": "bf16", "discriminator.b16": "bf16"}


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[GANTrainer]:
    """Trials find ``BLOCKS`` faster; here is for which networks they were made."""
    made: list[GANTrainer] = []
    monkeypatch.setenv("GANFORMER_CACHE", str(tmp_path / "cache"))

    def fastest(gan: GANTrainer) -> Any:
        made.append(gan)
        return BLOCKS

    monkeypatch.setattr(precision_trial, "fastest_precision", fastest)
    return made


def run(folder: Path, small: dict[str, Any], *, resume: bool = False, **options: Any) -> tuple[Trainer, list[str]]:
    """Train in ``folder``; the trainer and what the user was told."""
    said: list[str] = []
    config = settings(small, metrics="none", vis_num=2, snapshot_kimg=0.008, **{"precision": "auto", **options})
    data = open_dataset("scenes", resolution=32, max_images=16)
    callbacks = Callbacks(message=said.append)
    trainer = open_run(config, data, folder, device=torch.device("cpu"), resume=resume, callbacks=callbacks)
    trainer.run()
    return trainer, said


@pytest.mark.slow
def test_auto_is_what_a_trial_finds_and_stays_with_the_run(
    small: dict[str, Any], tmp_path: Path, trials: list[GANTrainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, said = run(tmp_path / "whole", small, total_kimg=0.016)
    assert whole.gan.precision == BLOCKS
    assert any("bf16 in the generator at 32 and discriminator at 32, 16" in line for line in said)
    run(tmp_path / "parts", small, total_kimg=0.008)
    assert len(trials) == 1, "the second run takes the kept trial"
    monkeypatch.setattr(precision_trial, "kept_precision", lambda gan: {})  # as on another machine
    parts, _ = run(tmp_path / "parts", small, total_kimg=0.016, resume=True)
    assert parts.gan.precision == BLOCKS
    for name, network in whole.gan.networks.items():
        for key, value in network.state_dict().items():
            assert torch.equal(value, parts.gan.networks[name].state_dict()[key]), f"{name}.{key}"


@pytest.mark.slow
def test_a_run_of_an_earlier_version_goes_on_in_float32(
    small: dict[str, Any], tmp_path: Path, trials: list[GANTrainer]
) -> None:
    run(tmp_path / "run", small, total_kimg=0.008, precision="tf32")
    trainer, _ = run(tmp_path / "run", small, total_kimg=0.016, resume=True)
    again, _ = run(tmp_path / "run", small, total_kimg=0.024, resume=True)
    assert trainer.gan.precision == again.gan.precision == {}
    assert not trials


@pytest.mark.slow
def test_bf16_is_done_where_it_is_slower_and_says_so(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GANFORMER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(precision_trial, "fastest_precision", lambda gan: {})
    trainer, said = run(tmp_path / "run", small, total_kimg=0.008, precision="bf16")
    assert any("--precision bf16 is no faster than fp32" in line for line in said)
    assert "generator.b32" in trainer.gan.precision


@pytest.mark.slow
def test_a_damaged_choice_is_refused_by_name(small: dict[str, Any], tmp_path: Path, trials: list[GANTrainer]) -> None:
    run(tmp_path / "run", small, total_kimg=0.004)
    for text in ("[]", "{}", '{"blocks": {"generator.b32": "fp8"}}', "not JSON"):
        (tmp_path / "run" / "precision.json").write_text(text, encoding="utf-8")
        with pytest.raises(GanformerError, match=r"precision\.json"):
            run(tmp_path / "run", small, total_kimg=0.016, resume=True)


def synthesis_layers(generator: nn.Module) -> Iterator[SynthesisLayer]:
    """All of them, coarse to fine."""
    return (module for module in generator.modules() if isinstance(module, SynthesisLayer))


def test_gradients_that_overflow_in_float16_count_as_zero(small: dict[str, Any]) -> None:
    gan = GANTrainer(settings(small, precision="fp16"), torch.device("cpu"))
    bias = gan.generator.synthesis_network.get_submodule("b32").conv1.bias  # type: ignore[union-attr]
    assert isinstance(bias, nn.Parameter)
    before = bias.detach().clone()
    bias.grad = torch.ones_like(bias)
    bias.grad[0], bias.grad[1] = float("inf"), float("nan")
    gan.move(gan.g_optimizer, gan.g_weights)
    assert bias.isfinite().all()
    assert torch.equal(bias[:2], before[:2])
    assert (bias[2:] != before[2:]).all()
