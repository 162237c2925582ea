"""Both stages of a VQGAN: their losses, and that a run goes on to the bit."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from ganformer_cli.checkpoints import snapshots, training_state
from ganformer_cli.checkpoints.headers import read_header
from ganformer_cli.cli.main import program
from ganformer_cli.config import RunConfig, resolve_run
from ganformer_cli.errors import ConfigError, TrainingError
from ganformer_cli.sampling import sample
from ganformer_cli.training import Callbacks, RunResult, open_run, vqgan
from ganformer_cli.training.network_trainer import RunningMeans
from ganformer_cli.training.vqgan import VQGANTrainer, adaptive_weight, gradient_loss
from ganformer_cli.web.logs import read_last
from tests.small_pictures import small_pictures

CPU = torch.device("cpu")
TINY: dict[str, Any] = {
    "attention": "none", "vqgan": True, "resolution": 16, "channel_base": 128, "channel_max": 8, "batch_size": 4,
    "codebook_size": 8, "code_dim": 4, "code_stride": 4, "transformer_layers": 1, "transformer_width": 8,
    "transformer_heads": 2, "total_kimg": 0.032, "vq_kimg": 0.016, "vq_warmup_kimg": 0.008, "tick_kimg": 0.008,
    "snapshot_kimg": 0.012, "vis_num": 2, "metrics": "none",
}  # fmt: skip


def settings(**options: Any) -> RunConfig:
    """Four steps of each stage."""
    return resolve_run({**TINY, **options}, dataset_preset={}, on_cpu=True)


def train(folder: Path, *, stop: int | None = None, resume: bool = False, **options: Any) -> RunResult:
    """Train; stop after so many steps."""
    calls = iter(range(10**6))
    callbacks = Callbacks(should_stop=lambda: stop is not None and next(calls) + 1 >= stop)
    data = small_pictures(14, 16)
    return open_run(settings(**options), data, folder, device=CPU, resume=resume, callbacks=callbacks).run()


def digest(run: Path) -> str:
    """Of all tensors of the newest state."""
    return training_state.digest(training_state.read_state(training_state.states_of(run)[-1]).tensors)


def test_the_adaptive_weight_is_the_ratio_of_the_gradients_of_the_last_layer() -> None:
    torch.manual_seed(0)
    layer, x, target = torch.nn.Conv2d(3, 3, 3), torch.randn(2, 3, 8, 8), torch.randn(2, 3, 6, 6)
    out = layer(x)
    found = adaptive_weight((out - target).abs().mean(), -out.pow(3).mean(), layer.weight)
    # The gradients by hand, in float64: that of a convolution is a correlation with its input.
    assert layer.bias is not None
    weight, bias = layer.weight.detach().double(), layer.bias.detach().double()
    values = torch.nn.functional.conv2d(x.double(), weight, bias)
    norms = []
    for slope in ((values - target.double()).sign() / values.numel(), -3 * values.square() / values.numel()):
        by_weight = torch.einsum(
            "bohw,bihwkl->oikl", slope, x.double().unfold(2, 3, 1).unfold(3, 3, 1).reshape(2, 3, 6, 6, 3, 3)
        )
        norms.append(by_weight.norm())
    assert found.item() == pytest.approx(float(norms[0] / (norms[1] + 1e-6)), rel=1e-5)
    assert not found.requires_grad


def test_the_gradient_loss_ignores_brightness_and_sees_edges() -> None:
    images = torch.rand(2, 3, 16, 16)
    assert float(gradient_loss(images + 0.25, images)) == pytest.approx(0, abs=1e-6)
    blurred = torch.nn.functional.avg_pool2d(images, 3, 1, 1)
    assert float(gradient_loss(blurred, images)) > 0.05


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never stopped."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(folder)
    return folder


@pytest.mark.slow
def test_a_run_that_is_stopped_in_either_stage_goes_on_to_the_bit(tmp_path: Path, whole: Path) -> None:
    for number, stop in enumerate((3, 2)):
        train(tmp_path / "stopped", stop=stop, resume=number > 0)
    result = train(tmp_path / "stopped", resume=True)
    assert result.finished
    assert digest(tmp_path / "stopped") == digest(whole)
    model = snapshots.load_snapshot(whole)
    assert model.can_sample
    assert torch.equal(sample(model, [3])[0], sample(snapshots.load_snapshot(tmp_path / "stopped"), range(4))[3])


def test_each_stage_changes_its_own_networks_only() -> None:
    trainer = VQGANTrainer(settings(), CPU)
    images, labels = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8), torch.zeros(4, 0)

    def weights() -> dict[str, torch.Tensor]:
        return {
            f"{network}.{name}": value.clone()
            for network, module in trainer.networks.items()
            for name, value in module.state_dict().items()
        }

    for number, moved in ((0, {"encoder", "decoder", "quantizer"}), (4, {"transformer", "transformer_steps"})):
        before, means = weights(), RunningMeans()
        trainer.step((images, labels), number, means)
        trainer.average((number + 1) * 4)
        changed = {name.split(".")[1] for name, value in weights().items() if not torch.equal(value, before[name])}
        assert changed == moved
        assert all(math.isfinite(value) for value in means.read().values())


def test_micro_batches_give_the_gradients_of_the_whole() -> None:
    found = []
    for micro in (4, 2):
        torch.manual_seed(0)
        trainer = VQGANTrainer(settings(batch_gpu=micro, mbstd_group_size=2, vq_warmup_kimg=1.0), CPU)
        images = torch.arange(4 * 3 * 16 * 16).mul(37).remainder(256).view(4, 3, 16, 16).to(torch.uint8)
        trainer.step((images, torch.zeros(4, 0)), 0, RunningMeans())
        found.append(trainer.generator.quantizer.counts)
    assert torch.equal(found[0], found[1])


def test_stage_two_alone_needs_the_codes_of_a_stage_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--vq-stage 2: there are no codes"):
        train(tmp_path / "run", vq_stage="2", vq_kimg=None, vq_warmup_kimg=0.0)


def test_a_collapsed_codebook_is_told_with_advice() -> None:
    trainer = VQGANTrainer(settings(), CPU)
    assert trainer.warnings({"perplexity": 6.0}) == []
    (warning,) = trainer.warnings({"perplexity": 1.2})
    assert "collapsed" in warning
    assert "--g-lr" in warning


def test_lpips_stands_in_the_loss_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the network: it must get images of 0 to 255 and give gradients."""
    seen = []

    def network(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        seen.append((one.detach(), other))
        return (one - other).abs().double().mean((1, 2, 3)) * 7

    monkeypatch.setattr(vqgan, "open_distance", lambda **_: SimpleNamespace(differentiable=network))
    trainer = VQGANTrainer(settings(vq_perceptual="lpips"), CPU)
    means = RunningMeans()
    reals = torch.full((4, 3, 16, 16), 255, dtype=torch.uint8)
    trainer.step((reals, torch.zeros(4, 0)), 0, means)
    ((fake, real),) = seen
    assert torch.equal(real, reals.float())
    expected = (fake - real).abs().mean() * (1 / 127.5 + 7)
    assert means.read()["loss_g"] == pytest.approx(float(expected), rel=1e-5)
    assert trainer.training_notes == {"perceptual_loss": "LPIPS"}


def test_lpips_without_weights_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GANFORMER_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match="--vq-perceptual lpips: its weights are not in the cache"):
        VQGANTrainer(settings(vq_perceptual="lpips"), CPU)


def test_a_snapshot_says_which_perceptual_loss_it_was_trained_with(tmp_path: Path) -> None:
    result = train(tmp_path / "run", stop=1)
    assert read_header(result.snapshot)["training"]["perceptual_loss"].startswith("differences of image gradients")


KILLED_LINE = (
    "train --baseline VQGAN --resolution 32 --channel-base 128 --channel-max 8 --codebook-size 8 --code-dim 4 "
    "--transformer-layers 1 --transformer-width 8 --transformer-heads 2 --batch-size 4 --total-kimg 0.06 "
    "--vq-kimg 0.03 --tick-kimg 0.004 --snapshot-kimg 0.03 --save-minutes 0.000001 --vis-num 2 --metrics none "
    "--train-images-num 16 --gpus none --processes 1 --threads 1 --expname run --result-dir"
)


def kimg_of(run: Path) -> float:
    """Where a run stands, by the last whole line of its log, which may be in the middle of being written."""
    return float(read_last(run / "log.jsonl").get("kimg", 0.0))


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX")
def test_a_kill_in_either_stage_costs_nothing(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "ganformer_cli", *KILLED_LINE.split(), str(tmp_path / "killed")]
    for kill_at in (0.012, 0.036):
        process = subprocess.Popen(line, stdout=subprocess.DEVNULL)
        try:
            while kimg_of(tmp_path / "killed/run-000") < kill_at:
                assert process.poll() is None
                time.sleep(0.005)
        finally:
            process.kill()
            process.wait()
        assert kimg_of(tmp_path / "killed/run-000") < (0.03 if kill_at < 0.03 else 0.06)
    for name in ("killed", "whole"):
        done = CliRunner().invoke(program, [*KILLED_LINE.split(), str(tmp_path / name)])
        assert done.exit_code == 0, done.output
    assert digest(tmp_path / "killed/run-000") == digest(tmp_path / "whole/run-000")


def command(*words: str | Path) -> Result:
    """``ganformer train`` of tiny networks in the current folder."""
    line = ("train", "--baseline", "VQGAN", "--train-images-num", "16", "--batch-size", "4", "--metrics", "none")
    small = ("--resolution", "32", "--vis-num", "2", "--total-kimg", "0.008", "--gpus", "none", "--threads", "1")
    return CliRunner().invoke(program, [str(word) for word in (*line, *small, "--processes", "1", *words)])


NETWORKS = (
    *("--channel-base", "128", "--channel-max", "8", "--codebook-size", "8", "--code-dim", "4"),
    *("--transformer-layers", "1", "--transformer-width", "8", "--transformer-heads", "2"),
)


@pytest.mark.slow
def test_stage_two_goes_on_from_a_run_of_stage_one(own_folder: Path) -> None:
    first = command("--vq-stage", "1", "--expname", "first", *NETWORKS)
    assert first.exit_code == 0, first.output
    assert not snapshots.load_snapshot("results/first-000").can_sample
    other = command("--vq-stage", "2", "--pretrained-pkl", "results/first-000", "--codebook-size", "16")
    assert other.exit_code == 1
    assert "--codebook-size 16: the networks of --pretrained-pkl results/first-000" in other.stderr
    assert "have 8" in other.stderr
    none = command("--vq-stage", "2", "--expname", "none", *NETWORKS)
    assert none.exit_code == 1
    assert "--vq-stage 2: there are no codes to learn from" in none.stderr
    assert not Path("results/none-000").exists()
    gan = CliRunner().invoke(program, ["train", "--pretrained-pkl", "results/first-000", "--resolution", "32"])
    assert gan.exit_code == 1
    assert "--pretrained-pkl results/first-000" in gan.stderr
    assert "is a VQGAN; give --baseline VQGAN" in gan.stderr
    assert "--autotune with --baseline VQGAN" in command("--autotune").stderr
    second = command("--vq-stage", "2", "--pretrained-pkl", "results/first-000", "--expname", "second")
    assert second.exit_code == 0, second.output
    model, before = snapshots.load_snapshot("results/second-000"), snapshots.load_snapshot("results/first-000")
    assert model.can_sample
    kept = {name: value for name, value in before.state_dict().items() if not name.startswith("transformer")}
    assert all(torch.equal(model.state_dict()[name], value) for name, value in kept.items())


def test_memory_that_does_not_suffice_is_told_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = VQGANTrainer(settings(vq_kimg=0.004), CPU)
    batch = torch.zeros(4, 3, 16, 16, dtype=torch.uint8), torch.zeros(4, 0)
    trainer.micro_batch = 4
    seen = []

    def fails(*_: object) -> None:
        seen.append(trainer.micro_batch)
        raise MemoryError

    monkeypatch.setattr(trainer, "transformer_gradients", fails)
    with pytest.raises(TrainingError, match=r"16 codes .*--batch-gpu, a larger --code-stride"):
        trainer.step(batch, 1, RunningMeans())


@pytest.mark.parametrize(("stage", "expected"), [("both", {1, 2}), ("1", {1}), ("2", {2})])
def test_the_trial_for_memory_takes_every_image_through_each_stage(
    monkeypatch: pytest.MonkeyPatch, stage: str, expected: set[int]
) -> None:
    trainer = VQGANTrainer(settings(vq_stage=stage, **({} if stage == "both" else {"vq_warmup_kimg": 0.0})), CPU)
    seen = []
    first, second = trainer.autoencoder_gradients, trainer.transformer_gradients

    def stage_one(*given: Any) -> Any:
        seen.append((1, len(given[0])))
        return first(*given)

    def stage_two(*given: Any) -> Any:
        seen.append((2, len(given[0])))
        return second(*given)

    monkeypatch.setattr(trainer, "autoencoder_gradients", stage_one)
    monkeypatch.setattr(trainer, "transformer_gradients", stage_two)
    trainer.trial(torch.zeros(4, 3, 16, 16), None, regularised=True)
    assert set(seen) == {(number, 4) for number in expected}


@pytest.mark.parametrize(
    ("resolution", "on_cpu", "grid", "codes", "precision"),
    [(32, True, (8, 8), 256, "fp32"), (64, True, (8, 8), 256, "fp32"), (256, False, (16, 16), 1024, "tf32")],
)
def test_presets(resolution: int, on_cpu: bool, grid: tuple[int, int], codes: int, precision: str) -> None:
    given = {"attention": "none", "vqgan": True, "resolution": resolution}
    run = resolve_run(given, dataset_preset={"gamma": 40.0, "components_num": 4}, on_cpu=on_cpu)
    assert (run.model.code_grid, run.model.codebook_size, run.train.precision) == (grid, codes, precision)
    assert run.train.vq_kimg == run.train.total_kimg / 2
    assert run.train.vq_warmup_kimg == run.train.total_kimg / 10
