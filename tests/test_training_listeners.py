"""Listeners of a run: what they are told, that they cannot harm it, and what TensorBoard and wandb get."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ganformer_cli.config import RunConfig, resolve_run
from ganformer_cli.errors import ConfigError
from ganformer_cli.training import Callbacks, RunResult, open_run
from ganformer_cli.training.listeners import Listener, Listeners, RunStart, SnapshotRecord
from ganformer_cli.training.run_writers import TENSORBOARD_FOLDER, WandbWriter, open_writers, tick_scalars
from tests.small_pictures import small_pictures

TINY: dict[str, Any] = {
    "resolution": 8, "components_num": 2, "latent_size": 16, "channel_base": 128, "channel_max": 8,
    "mapping_num_layers": 2, "precision": "fp32", "batch_size": 4, "total_kimg": 0.024, "tick_kimg": 0.008,
    "snapshot_kimg": 0.012, "vis_num": 4, "metrics": "none",
}  # fmt: skip


def settings(**options: Any) -> RunConfig:
    """A run of six steps."""
    return resolve_run({**TINY, **options}, dataset_preset={}, on_cpu=True)


def run(folder: Path, config: RunConfig, *listeners: Listener, resume: bool = False, said: list[str]) -> RunResult:
    """Train on a CPU."""
    callbacks = Callbacks(message=said.append, listeners=listeners)
    data = small_pictures()
    return open_run(config, data, folder, device=torch.device("cpu"), resume=resume, callbacks=callbacks).run()


def events_of(folder: Path) -> Any:
    """What TensorBoard reads of a run."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder / TENSORBOARD_FOLDER), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    return events


@pytest.mark.slow
def test_tensorboard_reads_back_one_curve_of_a_resumed_run(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    folder = tmp_path / "run-000"
    said: list[str] = []
    writers = [open_writers(tensorboard=True, wandb=False, message=said.append) for _ in range(2)]
    ada = {"augment": "ada", "pl_weight": 2.0, "g_reg_interval": 1, "metrics": "diversity", "eval_images_num": 4}
    run(folder, settings(total_kimg=0.016, **ada), *writers[0], said=said)
    run(folder, settings(**ada), *writers[1], resume=True, said=said)
    events = events_of(folder)
    tags = events.Tags()
    expected = {
        *("loss/loss_g", "loss/loss_d", "loss/r1", "loss/path_length", "augmentation/augment_p"),
        *("discriminator/sign_real", "gradients/grad_norm_g", "gradients/grad_norm_d"),
        *("speed/images_per_second", "memory/memory_mib", "scores/diversity", "components/share_00"),
    }
    assert expected <= set(tags["scalars"])
    assert [event.step for event in events.Scalars("loss/loss_d")] == [8, 16, 24]
    assert [event.step for event in events.Images("samples/fakes")] == [0, 12, 16, 24]
    shares = [events.Scalars(f"components/share_{index:02}")[-1].value for index in range(2)]
    assert sum(shares) == pytest.approx(1, abs=1e-5)
    fakes = events.Images("samples/fakes")[-1].encoded_image_string
    assert fakes == (folder / "samples" / "fakes-000000_024.png").read_bytes()
    assert {"samples/attention", "samples/reals"} <= set(tags["images"])


def test_what_was_undone_is_not_shown_after_resuming(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    for start, value in ((0, 1.0), (8, 2.0)):
        writer = open_writers(tensorboard=True, wandb=False, message=print)[0]
        writer.on_start(RunStart(tmp_path, {}, start))
        for images in (start + 8, start + 16):
            writer.on_tick({"loss_g": value}, images)
        writer.close()
    assert [(event.step, event.value) for event in events_of(tmp_path).Scalars("loss/loss_g")] == [
        (8, 1.0),
        (16, 2.0),
        (24, 2.0),
    ]


def test_a_listener_that_fails_is_named_and_left_out() -> None:
    class Failing(Listener):
        name = "--tensorboard"
        calls = 0

        def on_tick(self, record: Any, images_seen: int) -> None:
            self.calls += 1
            raise OSError("disk\nfull")

    failing = Failing()
    said: list[str] = []
    listeners = Listeners([failing], said.append)
    for _ in range(2):
        listeners.call(lambda listener: listener.on_tick({}, 0))
    assert failing.calls == 1
    assert said == ["--tensorboard: disk full; training continues without it"]


@pytest.mark.slow
def test_where_tensorboard_cannot_write_training_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    folder = tmp_path / "run-000"
    said: list[str] = []
    folder.mkdir()
    (folder / TENSORBOARD_FOLDER).write_text("not a folder", encoding="utf-8")
    config = settings(total_kimg=0.004, vis_num=1)
    assert run(folder, config, *open_writers(tensorboard=True, wandb=False, message=said.append), said=said).finished
    (warning,) = [text for text in said if text.startswith("warning")]
    assert warning.startswith(f"warning: --tensorboard: folder {folder / TENSORBOARD_FOLDER}: cannot be written to")
    assert warning.endswith("; training continues without it")


def test_a_package_that_is_missing_costs_one_line_each(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorboard", "tensorboard.compat.proto.event_pb2", "wandb"):
        monkeypatch.setitem(sys.modules, name, None)
    said: list[str] = []
    assert open_writers(tensorboard=True, wandb=True, message=said.append) == []
    assert [("pip install tensorboard" in said[0]), ("pip install wandb" in said[1]), len(said)] == [True, True, 2]
    assert open_writers(tensorboard=False, wandb=False, message=said.append) == []


def test_wandb_gets_the_same_and_resumes_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[dict[str, Any]] = []
    logged: list[dict[str, Any]] = []
    finished: list[bool] = []
    service = SimpleNamespace(
        log=logged.append, define_metric=lambda *_, **__: None, finish=lambda: finished.append(True)
    )

    def start(**given: Any) -> SimpleNamespace:
        begun.append(given)
        return service

    stand_in = SimpleNamespace(init=start, Image=lambda path: f"image {path}")
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    grid = tmp_path / "fakes.png"
    grid.write_bytes(b"")
    for images in (0, 8):
        writer = WandbWriter()
        writer.on_start(RunStart(tmp_path, {"train": {}}, images))
        writer.on_tick({"loss_g": 0.5, "gpu_memory_mib": None}, images + 8)
        writer.on_snapshot(SnapshotRecord(tmp_path / "m", images + 8, grid, None, tmp_path / "none.png", {"swd": 3.0}))
        writer.close()
    assert begun[0]["id"] == begun[1]["id"]
    assert begun[0]["resume"] == "allow"
    assert logged[0] == {"kimg": 0.008, "loss/loss_g": 0.5}
    assert logged[1] == {"kimg": 0.008, "scores/swd": 3.0, "samples/fakes": f"image {grid}"}
    assert finished == [True, True]


@pytest.mark.slow
def test_images_come_often_at_first(tmp_path: Path) -> None:
    """After 4, 8 and 16 images, then every 20; the closer ones are not scored."""

    class Seen(Listener):
        def __init__(self) -> None:
            self.snapshots: list[SnapshotRecord] = []

        def on_snapshot(self, snapshot: SnapshotRecord) -> None:
            self.snapshots.append(snapshot)

    often = {"snapshot_kimg": 0.020, "first_snapshot_kimg": 0.004, "total_kimg": 0.048, "vis_num": 2}
    config = settings(**often, metrics="diversity", eval_images_num=4)
    seen = Seen()
    said: list[str] = []
    run(tmp_path / "run-000", config, seen, said=said)
    assert [snapshot.images_seen for snapshot in seen.snapshots] == [0, 4, 8, 16, 20, 40, 48]
    assert [bool(snapshot.scores) for snapshot in seen.snapshots] == [True, False, False, False, True, True, True]
    grids = [text for text in said if text.startswith("snapshot at")]
    assert len(grids) == 7
    assert grids[1] == f"snapshot at 0.004 kimg: images {seen.snapshots[1].grid}"


@pytest.mark.parametrize("on_cpu", [True, False])
def test_a_given_interval_is_even(on_cpu: bool) -> None:
    given = {"resolution": 64, "snapshot_kimg": 8.0}
    assert resolve_run(given, dataset_preset={}, on_cpu=on_cpu).train.first_snapshot_kimg is None
    usual = resolve_run({"resolution": 64}, dataset_preset={}, on_cpu=on_cpu).train
    assert usual.first_snapshot_kimg is not None
    assert usual.first_snapshot_kimg < usual.snapshot_kimg


def test_the_first_snapshot_is_not_later_than_the_others() -> None:
    with pytest.raises(ConfigError, match="--first-snapshot-kimg 9.0 is later than --snapshot-kimg 8.0"):
        settings(snapshot_kimg=8.0, first_snapshot_kimg=9.0)


def test_speed_is_said_in_images() -> None:
    assert tick_scalars({"sec_per_kimg": 50.0})["speed/images_per_second"] == 20
    assert "speed/images_per_second" not in tick_scalars({"sec_per_kimg": None})
