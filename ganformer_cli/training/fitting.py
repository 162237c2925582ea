"""How many images fit into memory at a time, and what a run costs: measured, not computed.

A trial computes the gradients of both networks for one micro-batch of random images, and changes nothing.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from ganformer_cli.config import RunConfig
from ganformer_cli.cpus import thread_seconds
from ganformer_cli.files import MIB
from ganformer_cli.memory import Peak, free_memory_mib, is_out_of_memory
from ganformer_cli.models.prepared import adam_keys
from ganformer_cli.training.distributed import ONE_PROCESS
from ganformer_cli.training.network_trainer import NetworkTrainer, trial_labels

#: Share of the free memory that a step may use: the system, and grids and scores between the steps, need some, too.
USABLE_SHARE = 0.85
#: If the smallest trial says that a whole batch takes less than this share, the batch itself is not tried.
CERTAIN_SHARE = 0.4
#: Trials shorter than this, in seconds, are repeated.
SHORT_SECONDS = 3.0


@dataclass(frozen=True)
class Trial:
    """What one micro-batch takes."""

    micro_batch: int
    regularised: bool
    seconds: float
    thread_seconds: float  # of this thread's own, which does not count what other programs take
    needed_mib: float | None  # besides the networks; None where the system does not tell


@dataclass(frozen=True)
class CostEstimate:
    """What a run takes."""

    micro_batch: int
    seconds_per_kimg: float
    memory_mib: float | None  # of networks, optimisers, and a step at its worst
    free_mib: float | None  # before the gradients and the optimisers
    disk_mib: float  # of the snapshots that are kept and the states
    precision: dict[str, str]  # of the blocks that do not compute in float32


def fit_micro_batch(gan: NetworkTrainer, message: Callable[[str], None]) -> int:
    """The largest micro-batch whose step fits into free memory, with both regularisations if the run uses them.

    If none fits, the smallest: the run itself then raises the error.

    Args:
        gan: the networks of a new run; left unchanged.
        message: receives the outcome if the whole batch does not fit.
    """
    sizes, batch = gan.sizes(), gan.local_batch_size
    free = free_memory_mib(gan.device)
    if free is None or len(sizes) < 2:
        return batch
    room = USABLE_SHARE * free - optimizer_mib(gan)
    best, needed = sizes[0], 0.0
    # From below: a CPU has no error to catch when memory runs out, the system kills. So none is tried that cannot fit.
    for size in sizes:
        if needed * size / best > room:
            break
        try:
            tried = run_trial(gan, size, regularised=True).needed_mib
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            break
        if tried is None:
            return batch
        if tried > room:
            break
        best, needed = size, tried
        if needed * batch / size < CERTAIN_SHARE * room:
            best = batch
            break
    if best < batch:
        message(f"{best} images at a time fit into the {free / 1024:.1f} GiB of free memory; the rest is accumulated")
    return best


def optimizer_mib(gan: NetworkTrainer) -> float:
    """Memory of Adam's moments that do not exist yet, which no trial creates: once or twice the parameters."""
    return _moments_mib((optimizer, module) for optimizer, module in gan.optimizers.values() if not optimizer.state)


def run_trial(gan: NetworkTrainer, micro_batch: int, *, regularised: bool) -> Trial:
    """Compute the gradients of both networks for one micro-batch of random images.

    Raises:
        torch.OutOfMemoryError, RuntimeError, MemoryError: it does not fit.
    """
    with _for_trial(gan, micro_batch) as (images, labels), Peak(gan.device) as peak:
        start, own_start = time.perf_counter(), thread_seconds()
        gan.trial(images, labels, regularised=regularised)
        if gan.device.type == "cuda":
            torch.cuda.synchronize(gan.device)
        seconds, own = time.perf_counter() - start, thread_seconds() - own_start
    return Trial(micro_batch, regularised, seconds, own, peak.added_mib)


def estimate_cost(gan: NetworkTrainer) -> CostEstimate:
    """Time, memory and disk space of a run at its micro-batch.

    On a CPU a long step is tried with four images only: in large networks the time is proportional to the number of
    images. In small ones it is not, and the step is tried whole.

    Raises:
        torch.OutOfMemoryError, RuntimeError, MemoryError: it does not fit.
    """
    config, micro = gan.config, gan.micro_batch
    free = free_memory_mib(gan.device)
    size = micro if gan.device.type == "cuda" else min(micro, 4)
    first = run_trial(gan, size, regularised=False)  # builds operators and chooses algorithms
    if first.seconds * micro / size < SHORT_SECONDS:
        size = micro

    def fastest(regularised: bool) -> Trial:
        tried = [run_trial(gan, size, regularised=regularised)]
        if tried[0].seconds < SHORT_SECONDS:
            tried.append(run_trial(gan, size, regularised=regularised))
        needed = [one.needed_mib for one in tried if one.needed_mib is not None]
        return replace(min(tried, key=lambda one: one.seconds), needed_mib=max(needed, default=None))

    plain = fastest(regularised=False).seconds
    worst = fastest(regularised=True)
    regularisation = max(0.0, worst.seconds - plain) / _interval(config)
    memory = None
    if worst.needed_mib is not None:
        own = sum(map(_mib, gan.networks.values()))
        memory = own + optimizer_mib(gan) + worst.needed_mib * micro / size
    return CostEstimate(micro, (plain + regularisation) / size * 1000, memory, free, disk_mib(gan)[1], gan.precision)


def disk_mib(gan: NetworkTrainer) -> tuple[float, float]:
    """Disk space for a snapshot and a training state, and for all that a run keeps; the networks may be on ``meta``."""
    options = gan.config.train
    snapshot = sum(map(_mib, gan.networks.values()))
    state = snapshot + _moments_mib(gan.optimizers.values())
    return snapshot + state, options.last_snapshots * snapshot + options.last_states * state


def _moments_mib(optimizers: Iterable[tuple[torch.optim.Optimizer, torch.nn.Module]]) -> float:
    """Memory of Adam's moments of all parameters."""
    return sum((len(adam_keys(optimizer)) - 1) * _mib(module) for optimizer, module in optimizers)


def _mib(module: torch.nn.Module) -> float:
    """Size of the parameters."""
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters()) / MIB


def _interval(config: RunConfig) -> float:
    """Steps between two regularisations; if both are used, those of the more frequent one."""
    train = config.train
    used = [train.d_reg_interval] * (train.gamma > 0) + [train.g_reg_interval] * (train.pl_weight > 0)
    return min(used, default=math.inf)


@contextmanager
def _for_trial(gan: NetworkTrainer, micro_batch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
    """Random images ``[b, 3, H, W]`` and labels; on exit the networks' settings are restored."""
    config, own, group = gan.config, gan.micro_batch, gan.group
    size = (micro_batch, 3, *config.model.image_size)
    try:
        gan.config = replace(config, train=replace(config.train, batch_size=micro_batch, batch_gpu=None))
        gan.micro_batch, gan.group = micro_batch, ONE_PROCESS
        yield torch.rand(size, device=gan.device) * 2 - 1, trial_labels(gan, micro_batch)
    finally:
        gan.config, gan.micro_batch, gan.group = config, own, group
        gan.clear_gradients()
        gc.collect()
        if gan.device.type == "cuda":
            torch.cuda.empty_cache()
