"""How many processes and threads train fastest on this CPU: tried once, and kept for this machine.

Small networks are limited by what surrounds the arithmetic, which threads do not share: one process a core with one
thread each is faster than one process with a thread a core. Large ones are the other way round.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ganformer_cli.checkpoints.run_folder import PARALLELISM_FILE
from ganformer_cli.config import RunConfig
from ganformer_cli.cpus import UsableCores, thread_seconds, usable_cores
from ganformer_cli.errors import ConfigError, GanformerError
from ganformer_cli.files import read_json, write_json
from ganformer_cli.training.kept_trials import keep_trial, kept_trial, key_of

THREADS_VARIABLE = "OMP_NUM_THREADS"
#: Longer side from which images are large enough for threads to share the work well: no trial then, which would take
#: long.
LARGE_SIDE = 128
#: What the exchange of gradients adds to a step of several processes; and how much faster threads must be, which wait
#: for one another several thousand times a step, so that any other program on the machine slows all of them down.
EXCHANGE, _MARGIN = 1.05, 1.1
#: The first trial builds operators and records what the others repeat.
_REPEATS = 3


@dataclass(frozen=True)
class Parallelism:
    """How a run uses the CPU."""

    processes: int
    threads: int  # of each process
    reason: str

    def __str__(self) -> str:
        processes = "1 process" if self.processes == 1 else f"{self.processes} processes"
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        each = " each" if self.processes > 1 else ""
        return f"{processes} with {threads}{each} ({self.reason})"


def choose_parallelism(
    config: RunConfig,
    *,
    processes: int | None,
    threads: int | None,
    folder: Path | None,
    message: Callable[[str], None],
) -> Parallelism:
    """Processes and threads of a run on the CPU.

    In this order: what the user asks for, what the run in ``folder`` has used, what a trial finds. ``OMP_NUM_THREADS``
    counts as asking for that number of threads.

    Args:
        config: of the run.
        processes: those of ``--processes``, or None.
        threads: those of ``--threads``, or None.
        folder: the run to go on with, or None.
        message: receives what the user should know beside the choice.

    Raises:
        ConfigError: more processes are asked for than cores can be used.
    """
    cores = usable_cores()
    used = None if folder is None else read_parallelism(folder)
    check_processes(processes, cores, None if used is None else used[0])
    if threads is not None and threads > cores.whole:
        message(f"warning: --threads {threads}: this process may use {cores.number:.3g} cores; fewer are faster")
    asked = threads if threads is not None else threads_variable()
    choice = _choose(config, processes, asked, threads is not None, used, cores)
    if used is not None and used != (choice.processes, choice.threads):
        message(
            f"this run has used {used[0]} processes with {used[1]} threads so far; with {choice.processes} and "
            f"{choice.threads} it continues the same up to rounding, if --batch-gpu is the same"
        )
    if used is not None and processes is None and choice.processes > cores.whole:
        message(
            f"warning: this run continues with {choice.processes} processes, and this machine lets it use "
            f"{cores.number:.3g} CPU cores{f' ({cores.limit})' if cores.limit else ''}: --processes 1 may be faster"
        )
    return choice


def _choose(
    config: RunConfig,
    processes: int | None,
    threads: int | None,
    threads_option: bool,
    used: tuple[int, int] | None,
    cores: UsableCores,
) -> Parallelism:
    named = "--threads" if threads_option else f"{THREADS_VARIABLE}={threads}"
    if processes is not None:
        reason = "--processes" if threads is None else f"--processes, {named}"
        return Parallelism(processes, threads or max(1, cores.whole // processes), reason)
    if used is not None:
        return Parallelism(used[0], threads or used[1], "as this run began" if threads is None else named)
    if threads is not None:
        return Parallelism(1, threads, named)
    if cores.whole == 1:
        return Parallelism(1, 1, cores.limit or "one core")
    limit = f"; {cores.limit}" if cores.limit else ""
    if config.model.resolution >= LARGE_SIDE:
        return Parallelism(1, cores.whole, f"large images{limit}")
    key = trial_key(config, cores)
    found = _counts(kept_trial(key))
    if found is not None and found[0] * found[1] <= cores.whole:
        return Parallelism(*found, f"fastest in an earlier trial on this machine{limit}")
    found = run_speed_trial(config, cores.whole)
    keep_trial(key, dict(zip(("processes", "threads"), found, strict=True)))
    return Parallelism(*found, f"fastest in a trial{limit}")


def check_processes(processes: int | None, cores: UsableCores, used: int | None) -> None:
    """Raise ConfigError where more processes are asked for than can run at once, and than the run has used."""
    if processes is not None and processes > cores.whole and processes != used:
        why = f" ({cores.limit})" if cores.limit else ""
        raise ConfigError(
            f"--processes {processes}: this machine lets it use {cores.number:.3g} CPU cores{why}, and processes that "
            f"share a core wait for one another in every step; choose at most {cores.whole}"
        )


def threads_variable() -> int | None:
    """What ``OMP_NUM_THREADS`` says; None where it is not set, or no number."""
    text = os.environ.get(THREADS_VARIABLE, "").partition(",")[0].strip()
    return int(text) if text.isascii() and text.isdecimal() and int(text[:6]) > 0 else None


# ----- With the run -----


def read_parallelism(folder: Path) -> tuple[int, int] | None:
    """Processes and threads that the run in ``folder`` has used; None where that is unknown."""
    try:
        values = read_json(folder / PARALLELISM_FILE, max_bytes=1 << 16)
        return _counts(values)
    except GanformerError:
        return None


def write_parallelism(folder: Path, processes: int, threads: int) -> None:
    """Store with a run how it uses the CPU: going on then gives the same bits.

    Raises:
        OutputError: it cannot be written.
    """
    write_json(folder / PARALLELISM_FILE, {"processes": processes, "threads": threads})


def _counts(values: Any) -> tuple[int, int] | None:
    """``processes`` and ``threads`` of a JSON object, if they are sound."""
    if not isinstance(values, dict):
        return None
    processes, threads = values.get("processes"), values.get("threads")
    sound = all(type(value) is int and 1 <= value <= 1024 for value in (processes, threads))
    return (processes, threads) if sound else None  # type: ignore[return-value]  # they are ints


# ----- Kept trials -----


def trial_key(config: RunConfig, cores: UsableCores) -> str:
    """Names what a trial's outcome depends on: machine, its usable cores, torch, networks and batch."""
    return key_of(
        trial="parallelism",
        cores=cores.whole,
        model=asdict(config.model),
        batch=[config.train.batch_size, config.train.batch_gpu],
        precision=config.train.precision,
        checkpoint_activations=config.train.checkpoint_activations,
    )


# ----- The trial -----


def shareable(config: RunConfig, cores: int) -> int:
    """The most processes, at most one a core, that can share a batch equally."""
    from ganformer_cli.training.opening import check_batch

    for processes in range(min(cores, config.train.batch_size // 2), 1, -1):
        try:
            check_batch(config, processes)
        except ConfigError:
            continue
        return processes
    return 1


def run_speed_trial(config: RunConfig, cores: int) -> tuple[int, int]:
    """Measure gradients of one step: processes and threads of the fastest division of ``cores``.

    Several processes are not started for it: their step is timed in this process with one thread, and how much cores
    that work at once slow one another down is measured with convolutions in as many Python threads.
    """
    import torch

    from ganformer_cli.memory import return_free_memory
    from ganformer_cli.training.families import network_trainer
    from ganformer_cli.training.fitting import run_trial
    from ganformer_cli.training.precision_trial import kept_precision

    before = torch.get_num_threads()
    random_state = torch.get_rng_state()
    gc.freeze()  # collections between trials need not walk through what has been imported
    try:
        torch.manual_seed(config.train.seed)
        gan = network_trainer(config, torch.device("cpu"))
        torch.set_num_threads(1)
        if config.train.precision == "auto":
            gan.use_precision(kept_precision(gan))
        batch = config.train.batch_size
        many = shareable(config, cores)

        def seconds(threads: int, micro_batch: int) -> float:
            torch.set_num_threads(threads)
            # Of one thread its own time: it does not count what other programs take. Several wait for one another.
            trials = [run_trial(gan, micro_batch, regularised=False) for _ in range(_REPEATS)]
            return min(trial.thread_seconds if threads == 1 else trial.seconds for trial in trials)

        micro = min(gan.micro_batch, batch)
        found = {(1, cores): seconds(cores, micro) * (batch / micro)}
        if many > 1:
            local, each = batch // many, max(1, cores // many)
            part = min(micro, local)
            alone = seconds(each, part) * (local / part)
            found[many, each] = alone * slowdown(many) * EXCHANGE / _MARGIN
        return min(found, key=lambda choice: found[choice])
    finally:
        torch.set_num_threads(before)
        torch.set_rng_state(random_state)
        gc.collect()
        return_free_memory()


def slowdown(cores: int) -> float:
    """How many times as long a core takes while ``cores`` work at once: caches, memory and hyper-threads are shared."""
    import torch

    from ganformer_cli.sampling.threads import map_single_threaded

    image, weight = torch.randn(4, 64, 32, 32), torch.randn(64, 64, 3, 3)

    def work(_: int) -> float:
        start = thread_seconds()
        for _ in range(8):
            torch.nn.functional.conv2d(image, weight, padding=1).mul_(0.5)
        return thread_seconds() - start

    before = torch.get_num_threads()
    torch.set_num_threads(cores)
    try:
        with torch.inference_mode():
            work(0)
            alone = min(map_single_threaded(work, range(1))[0] for _ in range(3))
            together = min(max(map_single_threaded(work, range(cores))) for _ in range(3))
    finally:
        torch.set_num_threads(before)
    return max(1.0, together / alone)
