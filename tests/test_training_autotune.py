"""Processes and threads of a run: asked for, kept with the run, tried, or limited by the machine."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result

from ganformer_cli.config import RunConfig, resolve_run
from ganformer_cli.cpus import UsableCores
from ganformer_cli.errors import ConfigError
from ganformer_cli.training import autotune, estimate, kept_trials
from ganformer_cli.training.autotune import Parallelism, choose_parallelism, read_parallelism, write_parallelism
from ganformer_cli.training.fitting import CostEstimate
from ganformer_cli.training.gan import GANTrainer


@pytest.fixture
def config(tiny: dict[str, Any]) -> RunConfig:
    return resolve_run({**tiny, "batch_size": 8}, dataset_preset={}, on_cpu=True)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Two free cores, an empty cache, and no setting of the user; counts the trials, which find two processes."""
    monkeypatch.setattr(autotune, "usable_cores", lambda: UsableCores(2, ""))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("GANFORMER_CACHE", str(tmp_path / "cache"))
    trials: list[int] = []

    def trial(config: RunConfig, cores: int) -> tuple[int, int]:
        trials.append(cores)
        return cores, 1

    monkeypatch.setattr(autotune, "run_speed_trial", trial)
    return trials


def choose(config: RunConfig, said: list[str] | None = None, **given: Any) -> Parallelism:
    options: dict[str, Any] = {"processes": None, "threads": None, "folder": None, **given}
    return choose_parallelism(config, message=(said if said is not None else []).append, **options)


def test_a_trial_is_made_once_for_a_machine_and_a_model(
    config: RunConfig, machine: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, again = choose(config), choose(config)
    assert (first.processes, first.threads, first.reason) == (2, 1, "fastest in a trial")
    assert (again.processes, again.threads) == (2, 1)
    assert "earlier trial" in again.reason
    assert machine == [2]
    choose(dataclasses.replace(config, model=dataclasses.replace(config.model, channel_max=16)))
    assert machine == [2, 2]
    monkeypatch.setattr(platform, "node", lambda: "another machine")
    choose(config)
    assert machine == [2, 2, 2]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"KEY": 3}', '{"KEY": {"processes": 0, "threads": "1"}}'])
def test_a_damaged_file_of_trials_is_ignored(config: RunConfig, machine: list[int], tmp_path: Path, text: str) -> None:
    path = tmp_path / "cache" / kept_trials.TRIALS_FILE
    path.parent.mkdir(parents=True)
    path.write_text(text.replace("KEY", autotune.trial_key(config, UsableCores(2, ""))), encoding="utf-8")
    assert choose(config).processes == 2
    assert machine == [2]
    choose(config)
    assert machine == [2]


@pytest.mark.parametrize(
    ("given", "variable", "expected", "reason"),
    [
        ({"processes": 1}, "", (1, 2), "--processes"),
        ({"processes": 2}, "", (2, 1), "--processes"),
        ({"threads": 1}, "", (1, 1), "--threads"),
        ({"processes": 2, "threads": 3}, "", (2, 3), "--processes, --threads"),
        ({}, "1", (1, 1), "OMP_NUM_THREADS=1"),
        ({}, "2,1", (1, 2), "OMP_NUM_THREADS=2"),
        ({"processes": 2}, "1", (2, 1), "--processes, OMP_NUM_THREADS=1"),
    ],
)
def test_what_the_user_asks_for(
    config: RunConfig,
    machine: list[int],
    monkeypatch: pytest.MonkeyPatch,
    given: dict[str, Any],
    variable: str,
    expected: tuple[int, int],
    reason: str,
) -> None:
    if variable:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    assert choose(config, **given) == Parallelism(*expected, reason)
    assert machine == []


def test_more_processes_than_cores_are_refused(config: RunConfig, machine: list[int], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--processes 64: .*2 CPU cores.*at most 2"):
        choose(config, processes=64)
    write_parallelism(tmp_path, 4, 1)  # begun on another machine
    assert choose(config, processes=4, folder=tmp_path).processes == 4
    said: list[str] = []
    assert choose(config, said, folder=tmp_path).processes == 4
    assert "2 CPU cores" in said[0]


def test_more_threads_than_cores_are_warned_of(config: RunConfig, machine: list[int]) -> None:
    said: list[str] = []
    assert choose(config, said, threads=64).threads == 64
    assert "--threads 64" in said[0]


def test_a_run_keeps_what_it_has_used(config: RunConfig, machine: list[int], tmp_path: Path) -> None:
    write_parallelism(tmp_path, 1, 2)
    assert choose(config, folder=tmp_path) == Parallelism(1, 2, "as this run began")
    assert machine == []
    said: list[str] = []
    assert choose(config, said, folder=tmp_path, processes=2).processes == 2
    assert "up to rounding" in said[0]


@pytest.mark.parametrize("text", [None, "", "[1]", '{"processes": true, "threads": 1}', '{"processes": 2}'])
def test_a_run_that_does_not_say_is_tried(
    config: RunConfig, machine: list[int], tmp_path: Path, text: str | None
) -> None:
    if text is not None:
        (tmp_path / "parallelism.json").write_text(text, encoding="utf-8")
    assert read_parallelism(tmp_path) is None
    assert choose(config, folder=tmp_path).processes == 2


def test_half_a_core_is_one_thread_and_no_trial(
    config: RunConfig, machine: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autotune, "usable_cores", lambda: UsableCores(0.5, "a CPU limit of 0.5 cores (cgroup)"))
    assert choose(config) == Parallelism(1, 1, "a CPU limit of 0.5 cores (cgroup)")
    assert machine == []


@pytest.mark.slow
def test_a_trial_leaves_no_trace(config: RunConfig) -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    processes, each = autotune.run_speed_trial(config, 2)
    assert (processes, each) in {(1, 2), (2, 1)}
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_a_batch_that_cannot_be_shared_has_one_process(config: RunConfig) -> None:
    odd = dataclasses.replace(config, train=dataclasses.replace(config.train, batch_size=3))
    assert autotune.shareable(odd, 2) == 1
    assert autotune.shareable(config, 64) == 4


@pytest.mark.slow
def test_a_run_stores_its_threads_and_a_dry_run_says_them(ganformer: Callable[..., Result], tmp_path: Path) -> None:
    words = ["train", "--result-dir", str(tmp_path), "--expname", "x", "--json", "--metrics", "none", "--vis-num", "1"]
    words += ["--resolution", "32", "--batch-size", "8", "--channel-base", "128", "--channel-max", "8"]
    plan = json.loads(ganformer(*words, "--threads", "1", "--dry-run").stdout)
    assert plan["parallelism"] == {"processes": 1, "threads": 1, "reason": "--threads"}
    ended = json.loads(ganformer(*words, "--threads", "1", "--max-minutes", "0.0001").stdout)
    assert read_parallelism(tmp_path / "x-000") == (1, 1)
    assert ended["time_is_up"]
    assert ended["kimg"] == 0.008  # the step that was begun, whole


def test_an_estimate_is_that_of_all_processes(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process takes its part of the batch, at the same time as the others."""
    monkeypatch.setenv("GANFORMER_CACHE", str(tmp_path))
    measured: list[int] = []

    def measure(trainer: GANTrainer) -> CostEstimate:
        measured.append(trainer.config.train.batch_size)
        return CostEstimate(trainer.config.train.batch_size, 10.0, 100.0, None, 5.0, {})

    monkeypatch.setattr(estimate, "fit_micro_batch", lambda trainer, say: trainer.config.train.batch_size)
    monkeypatch.setattr(estimate, "estimate_cost", measure)
    monkeypatch.setattr(estimate, "slowdown", lambda cores: 1.5)
    cpu = torch.device("cpu")
    one, two, again = (estimate.run_estimate(config, cpu, processes) for processes in (1, 2, 2))
    assert measured == [8, 4]
    assert (one.seconds_per_kimg, one.memory_mib) == (10.0, 100.0)
    assert two.seconds_per_kimg == pytest.approx(10 / 2 * 1.5 * autotune.EXCHANGE)
    assert (two.memory_mib, two.micro_batch) == (200.0, 4)
    assert again.seconds_per_kimg == two.seconds_per_kimg
