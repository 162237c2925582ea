"""A run outlives being stopped, killed and damaged, and the weights do not show it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result

from ganformer_cli import system_errors
from ganformer_cli.checkpoints import run_folder, snapshots, training_state
from ganformer_cli.checkpoints.run_folder import append_record
from ganformer_cli.config import RunConfig, resolve_run
from ganformer_cli.data import ImageDataset, open_dataset
from ganformer_cli.data.loading import readers, stream
from ganformer_cli.errors import ConfigError, OutputError, SnapshotError, TrainingError
from ganformer_cli.training import Callbacks, RunResult, open_run
from ganformer_cli.training.gan import GANTrainer
from ganformer_cli.training.loop import Trainer
from ganformer_cli.training.watch import DIVERSITY, MAX_TICKS_OUTSIDE, SIGN_REAL, CollapseWatch, all_finite
from tests.small_pictures import small_pictures, small_pictures_file

STEPS = 10
TINY: dict[str, Any] = {
    "resolution": 8,
    "attention": "duplex-equation",
    "components_num": 2,
    "latent_size": 16,
    "channel_base": 128,
    "channel_max": 8,
    "mapping_num_layers": 2,
    "precision": "fp32",
    "batch_size": 4,
    "batch_gpu": 4,
    "total_kimg": 0.004 * STEPS,
    "tick_kimg": 0.008,
    "snapshot_kimg": 0.012,
    "vis_num": 2,
    "metrics": "diversity",
    "eval_images_num": 4,
    "pl_weight": 2.0,
    "g_reg_interval": 2,
    "d_reg_interval": 3,
    "component_dropout": 0.2,
    "component_mixing": 0.3,
    "mirror_augment": True,
}
CPU = torch.device("cpu")


def settings(**options: Any) -> RunConfig:
    """A run of ten steps that does everything a run can do."""
    return resolve_run({**TINY, **options}, dataset_preset={}, on_cpu=True)


def data(count: int = 14, resolution: int = 8) -> ImageDataset:
    """Scenes, small or as they are drawn."""
    return small_pictures(count) if resolution == 8 else open_dataset("scenes", resolution=32, max_images=count)


def train(
    folder: Path,
    *,
    stop: int | None = None,
    resume: bool = False,
    resume_from: float | None = None,
    messages: list[str] | None = None,
    **options: Any,
) -> RunResult:
    """Train on a CPU; stop after so many steps."""
    calls = iter(range(10**6))
    callbacks = Callbacks(
        should_stop=lambda: stop is not None and next(calls) + 1 >= stop,
        message=(messages if messages is not None else []).append,
    )
    config = settings(**options)
    pictures = data(resolution=config.model.resolution)
    run = open_run(
        config, pictures, folder, device=CPU, resume=resume, resume_from=resume_from, callbacks=callbacks
    )  # fmt: skip
    return run.run()


def everything(run: Path) -> str:
    """sha256 of all that the newest state holds: networks, optimisers, random state, counters but for time."""
    found = training_state.read_state(training_state.states_of(run)[-1])
    counters = {name: value for name, value in vars(found.counters).items() if name not in ("seconds", "ticks")}
    return hashlib.sha256((training_state.digest(found.tensors) + json.dumps(counters)).encode()).hexdigest()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run never stopped. It is not written to: tests that go on with it copy it."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    train(folder)
    return folder


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run stopped after one step; tests copy it."""
    folder = tmp_path_factory.mktemp("begun") / "run"
    train(folder, stop=1)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "stops"),
    [
        # At once, where a snapshot is saved anyway, and between two of them.
        pytest.param({}, (1, 2, 4), id="small"),
        pytest.param(
            {"attention": "kmeans", "resolution": 32, "metrics": "swd", "total_kimg": 0.024}, (1, 2), id="kmeans"
        ),
    ],
)
def test_a_stopped_run_leaves_the_very_same_weights(
    tmp_path: Path, undisturbed: Path, options: dict[str, Any], stops: tuple[int, ...]
) -> None:
    if options:
        train(undisturbed := tmp_path / "undisturbed", **options)
    expected = everything(undisturbed)
    for number, stop in enumerate(stops):
        assert not train(tmp_path / "run", stop=stop, resume=number > 0, **options).finished
    assert train(tmp_path / "run", resume=True, **options).finished
    assert everything(tmp_path / "run") == expected
    kimg = [json.loads(line)["kimg"] for line in (tmp_path / "run/log.jsonl").read_text("utf-8").splitlines()]
    assert kimg == sorted(set(kimg))


RUN = """
import json, sys
from pathlib import Path
import torch
from ganformer_cli.config import resolve_run
from ganformer_cli.data import open_dataset
from ganformer_cli.training import open_run

given, pictures, folder, begun = sys.argv[1:]
config = resolve_run(json.loads(given), dataset_preset={}, on_cpu=True)
data = open_dataset(pictures, max_images=14)
open_run(config, data, Path(folder), device=torch.device("cpu"), resume=begun == "go on").run()
"""


@pytest.mark.slow
def test_going_on_from_an_earlier_state_loses_nothing(tmp_path: Path, undisturbed: Path) -> None:
    folder = tmp_path / "run"
    said: list[str] = []
    options: dict[str, Any] = {"last_states": 5}
    train(folder, **options)
    before = {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("latest.png", "events.jsonl")
    }
    with pytest.raises(
        ConfigError, match=r"0.02: .* has no training state at 0.02 kimg; .* 0, 0.012, 0.024, 0.036, 0.04"
    ):
        train(folder, resume=True, resume_from=0.02, **options)
    train(folder, resume=True, resume_from=0.012, stop=1, messages=said, **options)
    aside = folder / "set-aside-000"
    moved = next(text for text in said if text.startswith("--resume-from"))
    assert "3 training states, 3 snapshots, 6 grids of later are moved to" in moved
    assert str(aside) in moved
    for name, content in before.items():  # every file is where it was, or aside
        if name.suffix != ".jsonl" or name.parent != Path():
            assert any(place.is_file() and place.read_bytes() == content for place in (folder / name, aside / name)), (
                name
            )
    assert (aside / "log.jsonl").read_bytes() == before[Path("log.jsonl")]
    assert train(folder, resume=True, **options).finished
    assert everything(folder) == everything(undisturbed)
    kimg = [json.loads(line)["kimg"] for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]
    assert kimg == sorted(set(kimg))


@pytest.mark.slow
def test_the_newest_state_moves_nothing_aside_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    said: list[str] = []
    few: dict[str, Any] = {"total_kimg": 0.008, "snapshot_kimg": 0.004, "metrics": "none", "vis_num": 1}
    train(folder, **few)
    train(folder, resume=True, resume_from=0.008, messages=said, **few)
    assert "--resume-from 0.008: this is the newest state; nothing is moved aside" in said
    training_state.states_of(folder)[0].write_bytes(b"damaged")
    with pytest.raises(SnapshotError, match="training-state-000000004"):
        train(folder, resume=True, resume_from=0.004, **few)
    assert not list(folder.glob("set-aside-*"))
    with pytest.raises(ConfigError, match="--resume-from 1: .* holds no run yet"):
        train(tmp_path / "other", resume_from=1.0, **few)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX")
def test_kills_at_random_moments_lose_no_run(tmp_path: Path, undisturbed: Path) -> None:
    folder, chance = tmp_path / "run", random.Random(1)
    options = json.dumps({**TINY, "save_minutes": 1e-6})
    program = [sys.executable, "-c", RUN, options, str(small_pictures_file()), str(folder)]
    kills = 0
    while kills < 3:
        begun = "go on" if (folder / "config.json").is_file() else "begin"
        process = subprocess.Popen([*program, begun], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # torch takes a moment to load: no kill is wasted on that.
        seen, deadline = newest_change(folder), time.monotonic() + 60
        while newest_change(folder) == seen and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(chance.random() * 0.1)
        process.kill()
        process.wait()
        kills += 1
    assert train(folder, save_minutes=1e-6, resume=True).finished
    assert everything(folder) == everything(undisturbed)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="this system cannot stop a process")
def test_a_stop_saves_though_the_process_that_reads_images_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: Path
) -> None:
    train(tmp_path / "run", stop=3)
    hung = False

    def start_and_hang(*given: Any, **named: Any) -> readers.ReaderPool:
        nonlocal hung
        started = readers.ReaderPool(*given, **named)
        for pid in started.pids:
            os.kill(pid, signal.SIGSTOP)
        hung = True
        return started

    with monkeypatch.context() as patch:
        patch.setattr(readers, "STOP_GRACE", 0.1)
        patch.setattr(stream, "ReaderPool", start_and_hang)
        callbacks = Callbacks(should_stop=lambda: hung)
        config = settings(num_threads=1)
        stopped = open_run(config, data(), tmp_path / "run", device=CPU, resume=True, callbacks=callbacks).run()
    assert hung
    assert (stopped.finished, stopped.kimg) == (False, 0.012)
    assert train(tmp_path / "run", resume=True).finished
    assert everything(tmp_path / "run") == everything(undisturbed)


def newest_change(folder: Path) -> float:
    """When something in a folder changed last."""
    times = [0.0]
    for path in folder.rglob("*"):
        try:
            times.append(path.stat().st_mtime)
        except OSError:  # it may be gone by now
            continue
    return max(times)


def spoil_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def spoil_start(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 4
    path.write_bytes(data)


@pytest.mark.slow
@pytest.mark.parametrize("spoil", [spoil_end, spoil_start, flip_a_bit])
def test_a_damaged_state_gives_way_to_the_one_before(
    tmp_path: Path, undisturbed: Path, spoil: Callable[[Path], None]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)
    newest = training_state.states_of(folder)
    assert len(newest) == 2
    spoil(newest[-1])
    messages: list[str] = []
    assert train(folder, resume=True, messages=messages).finished
    assert any(newest[-1].name in line and "the one before" in line for line in messages)
    assert everything(folder) == everything(undisturbed)


@pytest.mark.slow
def test_without_any_whole_state_nothing_is_overwritten(tmp_path: Path, begun: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(begun, folder)
    for path in training_state.states_of(folder):
        spoil_start(path)
    with pytest.raises(SnapshotError, match=r"none of the training states.*--restart"):
        train(folder, resume=True)


@pytest.mark.slow
def test_a_state_of_a_newer_version_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(snapshots, "FORMAT_VERSION", 99)
        train(folder, stop=1)
    with pytest.raises(SnapshotError, match="newer ganformer"):
        train(folder, resume=True)


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_costs_no_state(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    saved = snapshots.save_tensors

    def full(path: Path, *rest: Any) -> None:
        if "000000020" in path.name:
            raise OutputError(f"cannot write {path}: No space left on device")
        saved(path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(snapshots, "save_tensors", full)
        with pytest.raises(OutputError, match="No space left"):
            train(folder, save_minutes=1e-6)
    assert train(folder, resume=True).finished
    assert everything(folder) == everything(undisturbed)


@pytest.mark.slow
def test_a_run_that_cannot_keep_its_micro_batch_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when it goes on with more processes, whose share is smaller."""
    folder = tmp_path / "run"
    train(folder, stop=1, batch_gpu=None)
    messages: list[str] = []
    train(folder, stop=1, resume=True, messages=messages, batch_gpu=None)
    assert not any("at a time so far" in text for text in messages)
    monkeypatch.setattr(GANTrainer, "sizes", lambda self: [2])
    train(folder, stop=1, resume=True, messages=messages, batch_gpu=None)
    assert any("has taken 4 images at a time so far" in text for text in messages)
    assert "micro-batch" in (folder / "events.jsonl").read_text(encoding="utf-8")


def in_use() -> PermissionError:
    """What Windows raises for a file that another program has open."""
    error = PermissionError(13, "The process cannot access the file")
    error.winerror = 32  # type: ignore[attr-defined]  # elsewhere there is none
    return error


@pytest.mark.slow
def test_old_files_that_another_program_holds_cost_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unlink, folder = os.unlink, tmp_path / "run"
    messages: list[str] = []
    options: dict[str, Any] = {"keep_samples": False, "last_snapshots": 1}

    def refuse(path: Any, *rest: Any, **options: Any) -> None:
        if os.fspath(path).endswith(("000000.safetensors", "000004.safetensors", ".png")):
            raise in_use()
        unlink(path, *rest, **options)

    monkeypatch.setattr(system_errors, "WAITS", ())
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse)
        assert train(folder, stop=6, messages=messages, save_minutes=1e-6, **options).kimg < 0.04
    warnings = [text for text in messages if text.startswith("warning: cannot delete")]
    assert len(warnings) == len(set(warnings)) >= 2
    assert all("another program has it open" in text for text in warnings)
    events = (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["event"] for line in events] == ["tidying"] * len(warnings)
    assert train(folder, resume=True, **options).finished
    assert len(training_state.states_of(folder)) == 2
    # The newest one and the best.
    assert len(run_folder.snapshots_of(folder)) <= 2


def test_lines_for_a_log_that_another_program_holds_are_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log.jsonl"
    messages: list[str] = []

    def refuse(*_: object, **__: object) -> None:
        raise in_use()

    monkeypatch.setattr(system_errors, "WAITS", ())
    append_record(path, {"tick": 0}, messages.append)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        append_record(path, {"tick": 1}, messages.append)
        with pytest.raises(OutputError, match="another program has it open"):
            append_record(tmp_path / "metrics.jsonl", {})
    assert len(messages) == 1
    append_record(path, {"tick": 2}, messages.append)
    assert [json.loads(line)["tick"] for line in path.read_text(encoding="utf-8").splitlines()] == [0, 1, 2]


@pytest.mark.slow
def test_state_and_configuration_must_agree(tmp_path: Path, begun: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(begun, folder)
    described = json.loads((folder / "config.json").read_text("utf-8"))
    described["model"]["channel_max"] = 16
    (folder / "config.json").write_text(json.dumps(described), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"other networks than .*config.json.*--restart"):
        train(folder, resume=True, channel_max=16)


@pytest.mark.slow
def test_other_pictures_are_noticed(tmp_path: Path, begun: Path) -> None:
    shutil.copytree(begun, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"images of data set scenes-8x8 are not those.*--override"):
        open_run(settings(), data(13), tmp_path / "run", device=CPU, resume=True)
    open_run(settings(), data(13), tmp_path / "run", device=CPU, resume=True, override=True)


@pytest.mark.slow
def test_settings_of_training_can_be_overridden_and_those_of_networks_cannot(tmp_path: Path, begun: Path) -> None:
    shutil.copytree(begun, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"gamma was .*--override"):
        open_run(settings(gamma=3.0), data(), tmp_path / "run", device=CPU, resume=True)
    open_run(settings(gamma=3.0), data(), tmp_path / "run", device=CPU, resume=True, override=True)
    assert json.loads((tmp_path / "run/config.json").read_text("utf-8"))["train"]["gamma"] == 3.0
    for override in (False, True):
        with pytest.raises(ConfigError, match="channel_max was 8") as error:
            open_run(settings(channel_max=16), data(), tmp_path / "run", device=CPU, resume=True, override=override)
        assert "--override" not in str(error.value)


# ----- Steps that go wrong -----


def poison(monkeypatch: pytest.MonkeyPatch, at: Callable[[int], bool]) -> None:
    """Let the discriminator's weights become nan after the steps that ``at`` chooses by their number."""
    whole, steps = Trainer.train_step, iter(range(10**6))

    def step(self: Trainer, *given: Any) -> None:
        whole(self, *given)
        if at(next(steps)):
            next(self.gan.discriminator.parameters()).data.fill_(float("nan"))

    monkeypatch.setattr(Trainer, "train_step", step)


@pytest.mark.slow
def test_a_step_without_numbers_is_rolled_back_its_pictures_passed_over_and_all_is_repeatable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages: list[str] = []
    for name in ("again", "run"):
        messages.clear()
        with monkeypatch.context() as patch:
            poison(patch, lambda number: number == 4)
            result = train(tmp_path / name, messages=messages)
    assert result.finished
    assert result.kimg == TINY["total_kimg"]
    assert sum("NaN or inf" in line for line in messages) == 1
    found = training_state.read_state(training_state.states_of(tmp_path / "run")[-1])
    assert all(value.isfinite().all() for value in found.tensors.values() if value.is_floating_point())
    assert found.counters.images_skipped > 0
    events = [json.loads(line) for line in (tmp_path / "run/events.jsonl").read_text("utf-8").splitlines()]
    assert [event["event"] for event in events] == ["setback"]
    assert everything(tmp_path / "again") == everything(tmp_path / "run")


@pytest.mark.slow
def test_after_three_setbacks_in_a_row_it_stops_with_a_diagnosis(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages: list[str] = []
    with monkeypatch.context() as patch:
        poison(patch, lambda number: number >= 4)
        with pytest.raises(TrainingError, match=r"3 times in a row.*--g-lr"):
            train(tmp_path / "run", messages=messages)
    assert sum("NaN or inf" in line for line in messages) == 3
    events = (tmp_path / "run" / "events.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["event"] for line in events] == ["setback"] * 3 + ["failed"]
    assert "3 times in a row" in json.loads(events[-1])["text"]
    newest = training_state.read_state(training_state.states_of(tmp_path / "run")[-1])
    assert all(value.isfinite().all() for value in newest.tensors.values() if value.is_floating_point())
    train(tmp_path / "run", resume=True, stop=1)
    last = (tmp_path / "run" / "events.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    assert json.loads(last)["event"] == "resumed"


def test_all_finite() -> None:
    assert all_finite([torch.ones(3), torch.zeros(2, 2)])
    for value in (float("nan"), float("inf"), -float("inf")):
        assert not all_finite([torch.ones(3), torch.tensor([0.0, value])])


# ----- The watch -----


def test_the_watch_warns_after_some_ticks_and_once() -> None:
    watch = CollapseWatch(data())
    messages = [watch.warnings({"diversity": 0.01, "sign_real": 0.5}, 5.0) for _ in range(MAX_TICKS_OUTSIDE + 2)]
    assert [len(lines) for lines in messages] == [0] * (MAX_TICKS_OUTSIDE - 1) + [1, 0, 0]
    assert DIVERSITY.below in messages[MAX_TICKS_OUTSIDE - 1][0]
    assert watch.warnings({"diversity": 0.9, "sign_real": 0.5}, 5.0) == []
    again = [watch.warnings({"diversity": 0.01}, 5.0) for _ in range(MAX_TICKS_OUTSIDE)]
    assert len(again[-1]) == 1


def test_the_watch_knows_both_ends_of_the_discriminator_and_wgan_has_none() -> None:
    for value, said in ((0.99, SIGN_REAL.above), (-0.2, SIGN_REAL.below)):
        watch, wgan = CollapseWatch(data()), CollapseWatch(data(), judged_by_sign=False)
        messages = [line for _ in range(MAX_TICKS_OUTSIDE) for line in watch.warnings({"sign_real": value}, 5.0)]
        assert len(messages) == 1
        assert said in messages[0]
        assert [line for _ in range(MAX_TICKS_OUTSIDE) for line in wgan.warnings({"sign_real": value}, 5.0)] == []


def test_nothing_is_said_before_training_has_settled() -> None:
    watch = CollapseWatch(data())
    assert [line for _ in range(9) for line in watch.warnings({"diversity": 0.0}, 0.5)] == []


@pytest.mark.slow
def test_samples_that_are_all_alike_have_no_diversity(tmp_path: Path) -> None:
    trainer = open_run(settings(), data(), tmp_path / "run", device=CPU, resume=False)
    before = torch.get_rng_state()
    usual = trainer.watch.diversity(trainer.gan.generator)
    assert usual is not None
    assert usual > 0.05
    with torch.no_grad():
        for parameter in trainer.gan.generator.parameters():
            parameter.zero_()
    assert trainer.watch.diversity(trainer.gan.generator) == 0
    assert torch.equal(before, torch.get_rng_state())
    assert trainer.gan.generator.training


@pytest.mark.slow
def test_a_run_of_an_earlier_version_keeps_what_use_pos_meant(
    ganformer: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It took away the image's positions, too; the same command goes on with such a run."""
    from ganformer_cli.training import run_settings

    line: tuple[str, ...] = ("train", "--use-pos", "False")
    line += ("--resolution", "32", "--channel-max", "8", "--channel-base", "128")
    line += ("--components-num", "2", "--latent-size", "16", "--batch-size", "4", "--mapping-num-layers", "2")
    line += ("--metrics", "none", "--vis-num", "2", "--train-images-num", "8", "--expname", "old")
    resolve = run_settings.resolve

    def as_earlier(*args: Any, **more: Any) -> RunConfig:
        config = resolve(*args, **more)
        return dataclasses.replace(config, model=dataclasses.replace(config.model, image_positions=False))

    with monkeypatch.context() as patch:
        patch.setattr(run_settings, "resolve", as_earlier)
        assert ganformer(*line, "--total-kimg", "0.004").exit_code == 0
    path = Path("results/old-000/config.json")
    config = json.loads(path.read_text(encoding="utf-8"))
    for name in ("image_positions", "cropped_positions", "mapping_ltnt_gate"):
        del config["model"][name]
    path.write_text(json.dumps(config), encoding="utf-8")
    done = ganformer(*line, "--total-kimg", "0.008")
    assert done.exit_code == 0, done.output
    assert json.loads(path.read_text(encoding="utf-8"))["model"]["image_positions"] is False
    assert ganformer(*line, "--total-kimg", "0.004", "--restart").exit_code == 0
    again = json.loads(Path("results/old-001/config.json").read_text(encoding="utf-8"))
    assert again["model"]["image_positions"] is True
