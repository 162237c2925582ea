"""What a run takes is measured once on a machine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ganformer_cli.config import RunConfig, resolve_run
from ganformer_cli.resources import cache_folder
from ganformer_cli.training import estimate
from ganformer_cli.training.fitting import CostEstimate
from ganformer_cli.training.gan import GANTrainer
from ganformer_cli.training.kept_trials import TRIALS_FILE

CPU = torch.device("cpu")
MEASURED = CostEstimate(4, 2.5, 100.0, 4000.0, 30.0, {"generator.b32": "bf16"})


@pytest.fixture
def config(tiny: dict[str, Any]) -> RunConfig:
    return resolve_run(tiny, dataset_preset={}, on_cpu=True)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    """The configurations that have been measured."""
    asked: list[RunConfig] = []

    def measure(trainer: GANTrainer) -> CostEstimate:
        asked.append(trainer.config)
        return MEASURED

    monkeypatch.setattr(estimate, "fit_micro_batch", lambda trainer, say: MEASURED.micro_batch)
    monkeypatch.setattr(estimate, "estimate_cost", measure)
    monkeypatch.setattr(estimate, "free_memory_mib", lambda device: 3000.0)
    return asked


def test_an_estimate_is_kept_but_for_the_free_memory(config: RunConfig, measured: list[RunConfig]) -> None:
    assert estimate.run_estimate(config, CPU) == MEASURED
    longer = RunConfig(model=config.model, train=replace(config.train, total_kimg=99.0, seed=5))
    assert estimate.run_estimate(longer, CPU) == replace(MEASURED, free_mib=3000.0)
    assert len(measured) == 1
    estimate.run_estimate(RunConfig(model=config.model, train=replace(config.train, gamma=0.0)), CPU)
    assert len(measured) == 2


def test_with_too_little_memory_it_is_measured_again(
    config: RunConfig, measured: list[RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    estimate.run_estimate(config, CPU)
    monkeypatch.setattr(estimate, "free_memory_mib", lambda device: 110.0)
    estimate.run_estimate(config, CPU)
    assert len(measured) == 2


@pytest.mark.parametrize(
    "damage",
    [
        {"micro_batch": "4"}, {"seconds_per_kimg": None}, {"memory_mib": -1}, {"precision": []},
        {"precision": {"generator.b32": 16}}, {"disk_mib": True}, {"more": 1},
    ],
    ids=str,
)  # fmt: skip
def test_a_damaged_estimate_is_ignored(config: RunConfig, measured: list[RunConfig], damage: dict[str, Any]) -> None:
    estimate.run_estimate(config, CPU)
    file = Path(cache_folder()) / TRIALS_FILE
    ((key, kept),) = json.loads(file.read_text(encoding="utf-8")).items()
    file.write_text(json.dumps({key: {**kept, **damage}}), encoding="utf-8")
    assert estimate.run_estimate(config, CPU) == MEASURED
    assert len(measured) == 2
