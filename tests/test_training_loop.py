"""Training: that it learns the right thing, leaves a complete folder, stops and goes on."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ganformer_cli.checkpoints import run_folder, snapshots, training_state
from ganformer_cli.config import RunConfig, resolve_run
from ganformer_cli.data import ImageDataset
from ganformer_cli.errors import ConfigError, OutputError
from ganformer_cli.memory import process_memory_mib
from ganformer_cli.models import Generator
from ganformer_cli.training import Callbacks, RunResult, loop, losses, open_run
from ganformer_cli.training.checkpointing import Checkpointer
from ganformer_cli.training.ema import MovingAverage, ema_decay
from ganformer_cli.training.network_trainer import seed_generators
from tests.small_pictures import small_pictures

TINY: dict[str, Any] = {
    "resolution": 8,
    "components_num": 2,
    "latent_size": 16,
    "channel_base": 128,
    "channel_max": 8,
    "mapping_num_layers": 2,
    "precision": "fp32",
    "batch_size": 4,
    "batch_gpu": 4,
    "total_kimg": 0.024,
    "tick_kimg": 0.008,
    "snapshot_kimg": 0.012,
    "vis_num": 4,
    "metrics": "none",
}


def settings(**options: Any) -> RunConfig:
    """A run of six steps."""
    return resolve_run({**TINY, **options}, dataset_preset={}, on_cpu=True)


def data() -> ImageDataset:
    """Sixteen pictures."""
    return small_pictures()


def run(folder: Path, config: RunConfig, *, resume: bool = False, callbacks: Callbacks | None = None) -> RunResult:
    """Train on a CPU."""
    return open_run(config, data(), folder, device=torch.device("cpu"), resume=resume, callbacks=callbacks).run()


def log_of(folder: Path) -> list[dict[str, Any]]:
    """The lines of the log."""
    return [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def stop_after(steps: int) -> Callbacks:
    """Ask to stop after so many steps."""
    calls = iter(range(10**6))
    return Callbacks(should_stop=lambda: next(calls) + 1 >= steps)


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["none", "simplex", "duplex-equation", "kmeans"])
def test_a_run_leaves_a_complete_folder(tmp_path: Path, attention: str) -> None:
    folder = tmp_path / "run-000"
    components = {"components_num": 0} if attention == "none" else {}
    config = settings(attention=attention, batch_gpu=None, **components)  # as most users train: what fits is tried
    result = run(folder, config)
    assert result.finished
    assert result.kimg == pytest.approx(0.024)
    assert run_folder.read_run_config(folder) == config
    samples = {path.name for path in (folder / "samples").iterdir()}
    kinds = ["fakes"] if attention == "none" else ["fakes", "attention"]
    expected = {
        "reals.png",
        "latest.png",
        *(f"{kind}-{at}.png" for kind in kinds for at in ("000000", "000000_012", "000000_024")),
    }
    assert samples == expected
    log = log_of(folder)
    assert [record["kimg"] for record in log] == [0.008, 0.016, 0.024]
    for record in log:
        assert {"sec_per_kimg", "loss_g", "loss_d", "score_real", "score_fake", "memory_mib"} <= set(record)
        assert record["loss_d"] > 0
    assert "r1" in log[0]
    assert snapshots.load_snapshot(folder).config == config.model


@pytest.mark.slow
def test_seconds_are_those_of_all_steps_and_of_no_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Snapshots fall inside a tick: two steps are a tick, three a snapshot."""
    now = [0.0]

    def taking(seconds: float, owner: type, name: str) -> None:
        real = getattr(owner, name)

        def slow(*arguments: Any, **options: Any) -> Any:
            done = real(*arguments, **options)
            now[0] += seconds
            return done

        monkeypatch.setattr(owner, name, slow)

    taking(1.0, loop.Trainer, "train_step")
    taking(100.0, Checkpointer, "save")
    clock = SimpleNamespace(perf_counter=lambda: now[0], monotonic=time.monotonic)
    monkeypatch.setattr(loop, "time", clock)
    folder = tmp_path / "run-000"
    run(folder, settings(tick_kimg=0.008, snapshot_kimg=0.012))
    assert [record["seconds"] for record in log_of(folder)] == [2, 4, 6]
    assert [record["sec_per_kimg"] for record in log_of(folder)] == [250] * 3
    assert training_state.read_state(training_state.states_of(folder)[0]).counters.seconds == 3


@pytest.mark.slow
def test_training_moves_every_network(tmp_path: Path) -> None:
    folder = tmp_path / "run-000"
    run(folder, settings(total_kimg=0.004))
    first = load_file(run_folder.resolve_model(folder))
    torch.manual_seed(TINY.get("seed", 0))
    start = Generator(settings().model).state_dict()
    assert not torch.equal(first["generator.synthesis_network.b4.const"], start["synthesis_network.b4.const"])
    assert not torch.equal(first["ema.synthesis_network.b4.const"], start["synthesis_network.b4.const"])


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run(tmp_path: Path) -> None:
    results = [run(tmp_path / name, settings()) for name in ("a", "b")]
    first, second = (load_file(result.snapshot) for result in results)
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = load_file(run(tmp_path / "c", settings(seed=1, total_kimg=0.004)).snapshot)
    assert not torch.equal(first["ema.pos"], other["ema.pos"])


@pytest.mark.slow
def test_a_finished_run_can_be_lengthened(tmp_path: Path) -> None:
    run(tmp_path / "run", settings())
    again = run(tmp_path / "run", settings(), resume=True)
    assert again.finished
    assert len(log_of(tmp_path / "run")) == 3
    longer = run(tmp_path / "run", settings(total_kimg=0.032), resume=True)
    assert longer.kimg == pytest.approx(0.032)


@pytest.mark.slow
def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    run(tmp_path / "run", settings(total_kimg=0.004))
    with pytest.raises(ConfigError, match=r"gamma was .* now 9.*--restart") as error:
        run(tmp_path / "run", settings(gamma=9.0, channel_max=16), resume=True)
    assert "channel_max" in str(error.value)


@pytest.mark.slow
def test_old_snapshots_are_thinned_out(tmp_path: Path) -> None:
    config = settings(total_kimg=5.0, snapshot_kimg=1.0, last_snapshots=2, keep_samples=False, batch_size=4)
    folder = tmp_path / "run"
    # Only the names matter here: stop long before the end.
    run(folder, config, callbacks=stop_after(1))
    for kimg in (1, 2, 3):
        (folder / "snapshots" / run_folder.snapshot_name(kimg)).write_bytes(b"")
    (folder / "snapshots" / run_folder.snapshot_name(1)).unlink()
    run(folder, config, resume=True, callbacks=stop_after(1))
    assert len(run_folder.snapshots_of(folder)) == 2


@pytest.mark.slow
def test_accumulation_is_the_same_step(tmp_path: Path) -> None:
    """R1 and the losses are means over the batch, however it is cut; minibatch-std groups are the pictures' own."""
    torch.manual_seed(0)
    logits = torch.randn(8, 1)
    halves = [losses.real_loss(part) / 2 for part in logits.split(4)]
    torch.testing.assert_close(sum(halves), losses.real_loss(logits))
    result = run(tmp_path / "run", settings(batch_size=8, batch_gpu=4))
    assert result.finished


def test_losses_by_hand() -> None:
    logits = torch.tensor([[0.0], [2.0]])
    softplus = torch.log1p(torch.exp(logits))
    torch.testing.assert_close(losses.fake_loss(logits), softplus.mean())
    torch.testing.assert_close(losses.real_loss(logits), (softplus - logits).mean())
    torch.testing.assert_close(losses.generator_loss(logits), (softplus - logits).mean())
    images = torch.randn(3, 3, 4, 4, requires_grad=True)
    penalty = losses.gradient_penalty((images * 2).sum((1, 2, 3)), images)
    torch.testing.assert_close(penalty, torch.full((3,), 4.0 * 48))


def test_style_mixing_takes_later_layers_from_another_latent() -> None:
    torch.manual_seed(0)
    generator = Generator(settings().model)
    z = torch.randn(2, *generator.z_shape)
    mixed, _ = losses.mixed_latents(generator.eval(), z, None, 1.0)
    plain = generator.mapping(z)
    # Mixing maps twice as many latents at once, which may round otherwise.
    same = [torch.allclose(mixed[:, :, layer], plain[:, :, layer], atol=1e-5) for layer in range(plain.shape[2])]
    cutoff = same.index(False)
    assert cutoff >= 1
    assert same == [True] * cutoff + [False] * (len(same) - cutoff)
    assert torch.equal(losses.mixed_latents(generator, z, None, 0.0)[0], plain)


def test_seeding_a_step_is_that_of_torch_and_leaves_nothing_behind() -> None:
    torch.manual_seed(7)
    expected, waiting = torch.rand(3), len(torch.cuda._queued_calls)
    seed_generators(7, torch.device("cpu"))
    assert torch.equal(torch.rand(3), expected)
    assert len(torch.cuda._queued_calls) == waiting


def test_component_mask() -> None:
    torch.manual_seed(0)
    cpu = torch.device("cpu")
    assert losses.random_component_mask(4, 8, 0.0, cpu) is None
    assert losses.random_component_mask(4, 0, 0.5, cpu) is None
    mask = losses.random_component_mask(1000, 8, 0.25, cpu)
    assert mask is not None
    assert mask.float().mean().item() == pytest.approx(0.25, abs=0.03)


def test_ema() -> None:
    assert ema_decay(32, 10, 10**9, 0.05) ** (10_000 / 32) == pytest.approx(0.5)
    assert ema_decay(32, 10, 3200, 0.05) == pytest.approx(0.5**0.2)
    assert ema_decay(32, 0, 3200, None) == 0
    average, source = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    average.register_buffer("b", torch.zeros(1))
    source.register_buffer("b", torch.ones(1))
    expected = 0.75 * average.weight.detach() + 0.25 * source.weight.detach()
    MovingAverage(average, source).update(0.75)
    torch.testing.assert_close(average.weight.detach(), expected)
    assert average.b == 1


def test_numbering_of_runs(tmp_path: Path) -> None:
    choose = run_folder.choose_run_folder
    assert choose(tmp_path, "exp", restart=False) == (tmp_path / "exp-000", False)
    run_folder.create_run_folder(tmp_path / "exp-000", settings())
    assert choose(tmp_path, "exp", restart=False) == (tmp_path / "exp-000", True)
    assert choose(tmp_path, "exp", restart=True) == (tmp_path / "exp-001", False)
    (tmp_path / "exp-2-000").mkdir()
    assert choose(tmp_path, "exp", restart=True) == (tmp_path / "exp-001", False)
    for name in ("", "../x", "a/b", "-x", "x.", "a" * 101):
        with pytest.raises(ConfigError, match="--expname"):
            choose(tmp_path, name, restart=False)


def test_half_written_log_lines_are_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"kimg": 1}\n{"kimg": 2}\n{"kimg": 3}\n{"kim', encoding="utf-8")
    run_folder.forget_records_after(path, 2)
    assert path.read_text(encoding="utf-8") == '{"kimg": 1}\n{"kimg": 2}\n'


def test_a_disk_without_room_is_told_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, messages = settings(), list[str]()
    cpu, callbacks = torch.device("cpu"), Callbacks(message=messages.append)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100_000))
    with pytest.raises(OutputError, match=r"--result-dir .*0\.1 MiB free.*free some space"):
        open_run(config, data(), tmp_path / "run", device=cpu, resume=False, callbacks=callbacks)
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=400_000))
    open_run(config, data(), tmp_path / "run", device=cpu, resume=False, callbacks=callbacks)
    assert [text for text in messages if "--last-snapshots" in text]


def test_memory_is_told() -> None:
    memory = process_memory_mib()
    assert memory is None or 20 < memory < 10**6
