"""How many pictures fit into memory at a time, and what a run will estimate_cost: tried, not computed.

A run_trial makes the gradients of both players for one micro-batch of random pictures, and changes nothing.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from ganformer_cli.checkpoints.training_state import KEPT_STATES
from ganformer_cli.config import RunConfig
from ganformer_cli.files import MIB
from ganformer_cli.memory import Peak, free_memory_mib, is_out_of_memory
from ganformer_cli.training.distributed import ONE_PROCESS
from ganformer_cli.training.gan import GANTrainer, StepResult

#: Share of the free memory that a step may take: the system, and grids and scores between the steps, need some, too.
USABLE_SHARE = 0.85
#: Where the smallest run_trial says that a batch takes less than this share, it is not tried itself.
CERTAIN_SHARE = 0.4
#: Seconds of a run_trial that is made several times.
SHORT_SECONDS = 3.0


@dataclass(frozen=True)
class Trial:
    """One micro-batch, tried."""

    micro_batch: int
    regularised: bool
    seconds: float
    needed_mib: float | None  # beside the networks; None where it cannot be told


@dataclass(frozen=True)
class CostEstimate:
    """What a run takes."""

    micro_batch: int
    seconds_per_kimg: float
    memory_mib: float | None  # of networks, optimisers, and a step at its worst
    free_mib: float | None  # before the gradients and the optimisers
    disk_mib: float  # of the snapshots that are kept and the states
    precision: dict[str, str]  # of the blocks that do not compute in float32


def fit_micro_batch(gan: GANTrainer, message: Callable[[str], None]) -> int:
    """The largest micro-batch whose step fits into the free memory, with both regularisations if they will be used.

    The smallest where none does: the run itself then says so.

    Args:
        gan: as they begin; left as they are.
        message: told the outcome where the batch does not fit whole.
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


def optimizer_mib(gan: GANTrainer) -> float:
    """What the optimisers will remember, which no run_trial makes: twice the parameters."""
    return 2 * sum(_mib(module) for optimizer, module in gan.optimizers.values() if not optimizer.state)


def run_trial(gan: GANTrainer, micro_batch: int, *, regularised: bool) -> Trial:
    """Make the gradients of both players for one micro-batch.

    Raises:
        torch.OutOfMemoryError, RuntimeError, MemoryError: it does not fit.
    """
    with _for_trial(gan, micro_batch) as (images, labels), Peak(gan.device) as peak:
        number = 0 if regularised else 1
        start = time.perf_counter()
        with gan.training_generator():
            gan.generator_gradients(labels, number, StepResult(), "trial")
        gan.g_weights.clear_gradients()
        with gan.training_discriminator():
            gan.discriminator_gradients(images, labels, number, StepResult(), "trial")
        if gan.device.type == "cuda":
            torch.cuda.synchronize(gan.device)
        seconds = time.perf_counter() - start
    return Trial(micro_batch, regularised, seconds, peak.added_mib)


def estimate_cost(gan: GANTrainer) -> CostEstimate:
    """Time, memory and disk space of a run at its micro-batch.

    On a CPU a long step is tried with four pictures only: in large networks a picture takes its time, however many come
    with it. In small ones it does not, and the step is tried whole.

    Raises:
        torch.OutOfMemoryError, RuntimeError, MemoryError: it does not fit.
    """
    config, micro = gan.config, gan.micro_batch
    free = free_memory_mib(gan.device)
    size = micro if gan.device.type == "cuda" else min(micro, 4)
    first = run_trial(gan, size, regularised=False)  # builds operators and chooses algorithms
    if first.seconds * micro / size < SHORT_SECONDS:
        size = micro

    def least(regularised: bool) -> Trial:
        tried = [run_trial(gan, size, regularised=regularised)]
        if tried[0].seconds < SHORT_SECONDS:
            tried += [run_trial(gan, size, regularised=regularised) for _ in range(3)]
        needed = [one.needed_mib for one in tried if one.needed_mib is not None]
        return replace(min(tried, key=lambda one: one.seconds), needed_mib=max(needed, default=None))

    plain = least(regularised=False).seconds
    worst = least(regularised=True)
    regularisation = max(0.0, worst.seconds - plain) / _interval(config)
    memory = None
    if worst.needed_mib is not None:
        own = sum(map(_mib, gan.networks.values()))
        memory = own + optimizer_mib(gan) + worst.needed_mib * micro / size
    return CostEstimate(micro, (plain + regularisation) / size * 1000, memory, free, disk_mib(gan)[1], gan.precision)


def disk_mib(gan: GANTrainer) -> tuple[float, float]:
    """What a run needs of the disk to begin, a snapshot and a state, and what in all."""
    own = {name: _mib(module) for name, module in gan.networks.items()}
    snapshot = sum(own.values())
    state = snapshot + 2 * (own["generator"] + own["discriminator"])
    return snapshot + state, gan.config.train.last_snapshots * snapshot + KEPT_STATES * state


def _mib(module: torch.nn.Module) -> float:
    """Of the parameters."""
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters()) / MIB


def _interval(config: RunConfig) -> float:
    """Steps between two regularisations; that of the more frequent one, when there are both."""
    train = config.train
    used = [train.d_reg_interval] * (train.gamma > 0) + [train.g_reg_interval] * (train.pl_weight > 0)
    return min(used, default=math.inf)


@contextmanager
def _for_trial(gan: GANTrainer, micro_batch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
    """Random pictures ``[b, 3, H, W]`` and labels; afterwards the players are what they were."""
    config, own, group = gan.config, gan.micro_batch, gan.group
    size = (micro_batch, 3, *config.model.image_size)
    try:
        gan.config = replace(config, train=replace(config.train, batch_size=micro_batch, batch_gpu=None))
        gan.micro_batch, gan.group = micro_batch, ONE_PROCESS
        labels = None
        if config.model.c_dim > 0:
            classes = torch.arange(micro_batch) % config.model.c_dim
            labels = torch.nn.functional.one_hot(classes, config.model.c_dim).float().to(gan.device)
        yield torch.rand(size, device=gan.device) * 2 - 1, labels
    finally:
        gan.config, gan.micro_batch, gan.group = config, own, group
        gan.g_weights.clear_gradients()
        gan.d_weights.clear_gradients()
        gc.collect()
        if gan.device.type == "cuda":
            torch.cuda.empty_cache()
