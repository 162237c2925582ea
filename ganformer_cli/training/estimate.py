"""Time and memory that a run takes on this machine: measured by a few steps, and kept for the next time."""

from __future__ import annotations

import math
from dataclasses import asdict, fields, replace
from typing import Any

import torch

from ganformer_cli.config import RunConfig
from ganformer_cli.errors import TrainingError
from ganformer_cli.memory import free_memory_mib, is_out_of_memory
from ganformer_cli.training.autotune import EXCHANGE, slowdown
from ganformer_cli.training.families import network_trainer
from ganformer_cli.training.fitting import USABLE_SHARE, CostEstimate, estimate_cost, fit_micro_batch
from ganformer_cli.training.kept_trials import keep_trial, kept_trial, key_of
from ganformer_cli.training.precision_trial import kept_precision

#: Settings that no step depends on.
_WITHOUT_EFFECT = frozenset({"total_kimg", "seed", "dataset", "metrics", "metrics_every", "eval_images_num"})


def run_estimate(config: RunConfig, device: torch.device, processes: int = 1) -> CostEstimate:
    """What a run takes, from an earlier measurement if there is one that fits.

    Args:
        config: of the run.
        device: where it is trained.
        processes: that share a CPU. One is measured; the memory is that of all.

    Raises:
        TrainingError: not even the smallest micro-batch fits into memory.
    """
    train = {name: value for name, value in config.train.to_dict().items() if name not in _WITHOUT_EFFECT}
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    cpu = [processes, torch.get_num_threads()]
    key = key_of(trial="cost", model=config.model.to_dict(), train=train, device=name, cpu=cpu)
    kept, free = _checked(kept_trial(key)), free_memory_mib(device)
    # With less memory than then, fewer images may fit at a time.
    if kept is not None and (kept.memory_mib is None or free is None or kept.memory_mib <= USABLE_SHARE * free):
        return replace(kept, free_mib=free)
    local_batch_size = config.train.batch_size // processes
    measured = _measure(replace(config, train=replace(config.train, batch_size=local_batch_size)), device)
    if processes > 1:
        memory = None if measured.memory_mib is None else processes * measured.memory_mib
        seconds = measured.seconds_per_kimg / processes * slowdown(processes) * EXCHANGE
        measured = replace(measured, memory_mib=memory, seconds_per_kimg=seconds)
    if measured.micro_batch in (config.train.batch_gpu, local_batch_size):  # memory did not limit it
        keep_trial(key, asdict(replace(measured, free_mib=None)))
    return measured


def _measure(config: RunConfig, device: torch.device) -> CostEstimate:
    torch.manual_seed(config.train.seed)
    gan = network_trainer(config, device)
    if config.train.precision == "auto" and device.type == "cpu":
        gan.use_precision(kept_precision(gan))
    if config.train.batch_gpu is None:
        gan.micro_batch = fit_micro_batch(gan, lambda text: None)
    try:
        return estimate_cost(gan)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(
            f"out of memory with {gan.micro_batch} images per forward pass; {gan.memory_advice}"
        ) from error


def _checked(values: Any) -> CostEstimate | None:
    """A kept estimate; None if there is none, or it is damaged."""
    if not isinstance(values, dict) or set(values) != {field.name for field in fields(CostEstimate)}:
        return None
    numbers = [values["seconds_per_kimg"], values["disk_mib"], values["memory_mib"] or 0.0]
    sound = all(type(number) in (int, float) and math.isfinite(number) and number >= 0 for number in numbers)
    precision = values["precision"]
    if not sound or type(values["micro_batch"]) is not int or not isinstance(precision, dict):
        return None
    return CostEstimate(**values) if all(isinstance(text, str) for text in precision.values()) else None
