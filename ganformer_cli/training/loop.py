"""The training loop."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ganformer_cli.checkpoints import run_folder
from ganformer_cli.checkpoints.run_lock import lock_run
from ganformer_cli.checkpoints.training_state import Counters
from ganformer_cli.config import RunConfig
from ganformer_cli.data import ImageDataset
from ganformer_cli.data.loading.readers import StoppedWaiting
from ganformer_cli.data.loading.stream import ImageStream
from ganformer_cli.errors import TrainingError
from ganformer_cli.memory import gpu_memory_mib, process_memory_mib, return_free_memory
from ganformer_cli.models import LabelDistribution
from ganformer_cli.training.checkpointing import Checkpointer
from ganformer_cli.training.distributed import ONE_PROCESS, Group, describe_sharing
from ganformer_cli.training.families import network_trainer
from ganformer_cli.training.listeners import Listener, Listeners, RunStart, SnapshotRecord
from ganformer_cli.training.network_trainer import RunningMeans
from ganformer_cli.training.samples import REALS
from ganformer_cli.training.watch import CollapseWatch, all_finite

#: Rollbacks in a row to one training state before the run gives up.
MAX_ROLLBACKS = 3
#: On a GPU, steps between checks of the losses: each check waits for the device.
CHECK_INTERVAL = 16


@dataclass
class Callbacks:
    """What a caller may watch; all do nothing by default."""

    #: (thousands of images shown, this tick's means), after every step.
    progress: Callable[[float, RunningMeans], None] = lambda kimg, means: None
    #: a sentence for the user.
    message: Callable[[str], None] = lambda text: None
    #: True asks the loop to save and return.
    should_stop: Callable[[], bool] = lambda: False
    #: told of each tick and snapshot, in the main process.
    listeners: Sequence[Listener] = ()


@dataclass(frozen=True)
class RunResult:
    """How a run ended."""

    folder: Path
    kimg: float
    finished: bool  # False: stopped on request, or when its time was over
    snapshot: Path
    samples: Path
    seconds: float  # of training, over all starts of the run
    scores: dict[str, float] = field(default_factory=dict)
    best: Path | None = None  # the snapshot with the best score of the first metric
    time_is_up: bool = False  # ended by the time limit


class Decision(NamedTuple):
    """What all processes do after a step."""

    stop: bool = False
    save: bool = False
    roll_back: bool = False
    time_is_up: bool = False


class Trainer:
    """One run: the networks, the loop that trains them, and what it writes.

    Args:
        config: of the run.
        dataset: the real images.
        folder: the run folder.
        device: where to compute.
        callbacks: see ``Callbacks``.
        group: the processes that train together.
    """

    def __init__(
        self,
        config: RunConfig,
        dataset: ImageDataset,
        folder: Path,
        device: torch.device,
        callbacks: Callbacks,
        group: Group = ONE_PROCESS,
    ) -> None:
        self.config, self.folder, self.device, self.callbacks = config, folder, device, callbacks
        self.dataset, self.group = dataset, group
        options = config.train
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = options.cuda_bench
            torch.backends.cuda.matmul.allow_tf32 = options.precision != "fp32"
            torch.backends.cudnn.allow_tf32 = options.precision != "fp32"
        torch.manual_seed(options.seed)
        self.gan = network_trainer(config, device, self.on_out_of_memory, group)
        self.keep_labels()
        self.checkpointer = Checkpointer(config, dataset, folder, self.gan, callbacks.message)
        self.listeners = Listeners(
            callbacks.listeners if group.is_main else (), lambda text: callbacks.message(f"warning: {text}")
        )
        self.watch = CollapseWatch(dataset, judged_by_sign=options.has_signs)
        self.tick_kimg = 0.0  # where the current tick began
        self.tick_start: float | None = None  # when; None before the first step
        self.rollbacks = 0  # since the newest training state
        self.saved_at = time.monotonic()
        self.max_seconds = math.inf  # of ``run``

    def keep_labels(self) -> None:
        """Give the generators the labels of the data: they draw from them, and snapshots keep them."""
        labels = self.dataset.labels() if self.config.model.c_dim > 0 else None
        if labels is None:
            return
        kept = LabelDistribution.from_labels(labels, self.config.model.c_dim, self.dataset.class_names)
        self.gan.generator.label_distribution = self.gan.ema.label_distribution = kept
        if kept.vectors is not None and not kept.is_whole and self.group.is_main:
            self.callbacks.message(
                f"--labels: the data have {kept.distinct} different labels; {len(kept.vectors)} of a random choice of "
                "the images are kept in the model, and drawn by ganformer generate"
            )

    @property
    def counters(self) -> Counters:
        """Where the run stands."""
        return self.checkpointer.counters

    @property
    def kimg(self) -> float:
        """Thousands of real images shown."""
        return self.checkpointer.kimg

    @property
    def position(self) -> int:
        """Where the next batch begins in the stream of real images."""
        return self.counters.images_seen + self.counters.images_skipped

    @property
    def tick_seconds(self) -> float:
        """Seconds of training in the current tick."""
        return 0.0 if self.tick_start is None else time.perf_counter() - self.tick_start

    # ----- The run -----

    def run(self) -> RunResult:
        """Train until ``total_kimg`` or until ``callbacks.should_stop``; leave the folder complete either way.

        Raises:
            LockedError: another process trains in the folder.
        """
        with contextlib.ExitStack() as stack:
            if self.group.world_size == 1:
                stack.enter_context(lock_run(self.folder, self.callbacks.message))
            stack.callback(self.listeners.close)
            try:
                return self.train()
            except Exception as error:
                self.checkpointer.record_failure(error)
                raise

    def train(self) -> RunResult:
        """``run`` for a process that has locked the folder, or does not write."""
        options, deadline = self.config.train, time.monotonic() + self.max_seconds
        total = round(options.total_kimg * 1000)
        self.callbacks.message(self.opening_line(total))
        if self.group.world_size > 1:
            self.callbacks.message(describe_sharing(self.group, options.batch_size, self.gan.micro_batch))
        self.tell_start()
        is_new = self.counters.images_seen == 0 and not self.checkpointer.restored
        scores = self.checkpointer.complete()
        if is_new or scores:
            self.tell_snapshot(scores)
        self.saved_at = time.monotonic()
        means, decision = self.begin_tick(), Decision()
        with self.open_stream() as stream:
            while self.counters.images_seen < total and not decision.stop:
                before = self.counters.images_seen
                batch = self.next_batch(stream)
                if batch is not None:
                    self.train_step(batch, means)
                last = self.counters.images_seen >= total
                ends_tick = last or self.crossed(before, options.tick_kimg)
                takes_snapshot = last or self.is_snapshot_due(before)
                decision = self.decide(
                    means,
                    must_check=batch is None or ends_tick,
                    takes_snapshot=takes_snapshot,
                    time_is_up=time.monotonic() > deadline,
                )
                if decision.roll_back:
                    self.roll_back(means)
                    self.tell_start()
                    stream.close()
                    stream.position = self.position
                    means, decision = self.begin_tick(), Decision()
                    continue
                self.callbacks.progress(self.kimg, means)
                if ends_tick or (decision.stop and means.steps):
                    self.end_tick(means, self.tick_seconds)
                    means = self.begin_tick()
                if takes_snapshot or decision.stop:
                    scores = self.take_snapshot(due=takes_snapshot, score=not decision.stop) or scores
                elif decision.save:
                    self.group.run_on_rank0(lambda: self.checkpointer.save_state(self.tick_seconds))
                    self.saved_at, self.rollbacks = time.monotonic(), 0
        return self.result(scores, finished=self.counters.images_seen >= total, time_is_up=decision.time_is_up)

    def opening_line(self, total: int) -> str:
        """Which run this is, and how far it is."""
        if self.counters.images_seen == 0:
            return f"run folder {self.folder}"
        if self.counters.images_seen < total:
            return f"resuming {self.folder} at {self.kimg:g} kimg"
        return (
            f"{self.folder} has its {self.kimg:g} kimg already; lengthen it with --total-kimg, "
            "or begin a new run with --restart"
        )

    def result(self, scores: dict[str, float], *, finished: bool, time_is_up: bool) -> RunResult:
        """How the run has ended, alike in all processes: other machines need not see the folder."""
        newest, samples, best = self.group.run_on_rank0(
            lambda: (
                run_folder.resolve_model(self.folder),
                self.checkpointer.grids.newest(),
                self.checkpointer.scoring.best(),
            )
        )
        return RunResult(
            folder=self.folder,
            kimg=self.kimg,
            finished=finished,
            snapshot=newest,
            samples=samples,
            seconds=self.counters.seconds,
            scores=scores,
            best=None if best is None else best[0],
            time_is_up=time_is_up and not finished,
        )

    # ----- One step -----

    def open_stream(self) -> ImageStream:
        """The real images, from where the run stands."""
        options = self.config.train
        return ImageStream(
            self.dataset,
            batch_size=self.gan.local_batch_size,
            rank=self.group.rank,
            world_size=self.group.world_size,
            seed=options.seed,
            mirror=options.mirror_augment,
            position=self.position,
            workers=options.num_threads,
            warn=lambda text: self.checkpointer.warn("readers", text),
            should_stop=self.callbacks.should_stop,
        )

    def next_batch(self, stream: ImageStream) -> tuple[Tensor, Tensor] | None:
        """The next real images; None where the run is to stop and they do not come."""
        try:
            return next(stream)
        except StoppedWaiting:
            # The other processes of the run wait for this one's part of the step.
            return None if self.group.world_size == 1 else stream.next_without_workers()

    def train_step(self, batch: tuple[Tensor, Tensor], means: RunningMeans) -> None:
        """One update of both networks with one batch of uint8 ``[B, 3, H, W]`` and labels ``[B, c_dim]``."""
        self.gan.step(batch, self.counters.step, means, attempt=self.counters.images_skipped)
        self.counters.step += 1
        self.counters.images_seen += self.config.train.batch_size
        self.gan.average(self.counters.images_seen)

    def on_out_of_memory(self, micro_batch: int) -> None:
        """Memory ran out; the step is made again."""
        self.checkpointer.warn("out of memory", f"out of memory; continuing with {micro_batch} images at a time")

    def crossed(self, before: int, every_kimg: float) -> bool:
        """Whether the last step passed a multiple of ``every_kimg``."""
        every = every_kimg * 1000
        return before // every != self.counters.images_seen // every

    def is_snapshot_due(self, before: int) -> bool:
        """Whether the last step passed a multiple of ``snapshot_kimg``, or one of the closer marks at the beginning."""
        options = self.config.train
        mark = options.first_snapshot_kimg or options.snapshot_kimg
        while mark < options.snapshot_kimg:
            if before < mark * 1000 <= self.counters.images_seen:
                return True
            mark *= 2
        return self.crossed(before, options.snapshot_kimg)

    # ----- After a step -----

    def decide(self, means: RunningMeans, *, must_check: bool, takes_snapshot: bool, time_is_up: bool) -> Decision:
        """Agree with all processes on what comes next: stop, save the training state, or roll back.

        Args:
            means: of the current tick.
            must_check: whether the check cannot wait.
            takes_snapshot: whether the networks are about to be saved.
            time_is_up: whether this process has reached the time limit, which stops all of them.
        """
        # On a GPU a check waits for the step, and so does what all processes must agree on.
        if not (must_check or takes_snapshot or self.device.type == "cpu" or means.steps % CHECK_INTERVAL == 0):
            return Decision()
        broken = not all(math.isfinite(float(total)) for total in means.sums.values())
        save_due = time.monotonic() - self.saved_at > self.config.train.save_minutes * 60
        flags = [self.callbacks.should_stop() or time_is_up, save_due, broken, time_is_up]
        decision = Decision(*self.group.all_reduce_any(flags, self.device))
        if (decision.stop or decision.save or takes_snapshot) and not decision.roll_back:
            # Weights that are NaN or inf are never saved.
            weights = (p for network in self.gan.networks.values() for p in network.parameters())
            broken = self.group.all_reduce_any([not all_finite(weights)], self.device)[0]
            decision = decision._replace(roll_back=broken)
        return decision

    def roll_back(self, means: RunningMeans) -> None:
        """Return to the newest training state, skip the images since, and draw other random numbers from there on.

        Raises:
            TrainingError: it has happened too often since that state.
        """
        broken = ", ".join(name for name, value in means.read().items() if not math.isfinite(value)) or "the weights"
        position, kimg, rollbacks = self.position, self.kimg, self.rollbacks + 1
        if rollbacks > MAX_ROLLBACKS:
            raise TrainingError(
                f"{self.folder}: NaN or inf in {broken} at {kimg:g} kimg, {MAX_ROLLBACKS} times in a row "
                "since the last training state. Begin again from an earlier snapshot (--restart --pretrained-pkl FILE) "
                "with lower --g-lr and --d-lr or a larger --gamma; look for odd images in the data set"
            )
        self.group.run_on_rank0(lambda: self.checkpointer.restore(override=True))
        self.broadcast_state()
        self.rollbacks = rollbacks
        # The number of skipped images also changes the random numbers of the steps to come.
        self.counters.images_skipped = position - self.counters.images_seen
        self.checkpointer.warn(
            "setback", f"NaN or inf in {broken} at {kimg:g} kimg; continuing from {self.kimg:g} kimg with other images"
        )

    def broadcast_state(self) -> None:
        """Copy the first process's state to all others."""
        self.checkpointer.broadcast()
        self.tick_kimg = self.kimg

    def begin_tick(self) -> RunningMeans:
        """Start the clock; the means of the tick."""
        self.tick_start = time.perf_counter()
        return RunningMeans()

    def end_tick(self, means: RunningMeans, seconds: float) -> None:
        """Write one line to the log, and return memory that the steps have fragmented."""
        counters = self.counters
        counters.seconds += seconds
        memory = process_memory_mib()
        # Kept blocks are cut up from step to step: within a day the heap would be several times what a step needs.
        return_free_memory()
        shown = self.kimg - self.tick_kimg
        tick, self.tick_kimg = counters.ticks, self.kimg
        counters.ticks += 1
        means.gather(self.group)
        if not self.group.is_main:
            return
        figures = means.read() | self.gan.figures
        generator = self.gan.generator
        diversity = self.watch.diversity(generator) if generator.can_sample else None
        if diversity is not None:
            figures["diversity"] = diversity
        gpu_memory = gpu_memory_mib(self.device)
        record = {
            "tick": tick,
            "kimg": self.kimg,
            "sec_per_kimg": round(seconds / shown, 4) if shown > 0 else None,
            "seconds": round(counters.seconds, 3),
            **{name: float(f"{value:.6g}") for name, value in figures.items()},
            "memory_mib": None if memory is None else round(memory, 1),
            "gpu_memory_mib": None if gpu_memory is None else round(gpu_memory, 1),
        }
        run_folder.append_record(self.folder / run_folder.LOG_FILE, record, self.checkpointer.scoring.warn_once)
        self.listeners.call(lambda listener: listener.on_tick(record, counters.images_seen))
        for warning in [*self.watch.warnings(figures, self.kimg), *self.gan.warnings(figures)]:
            self.checkpointer.warn("health", warning)

    def take_snapshot(self, *, due: bool, score: bool) -> dict[str, float]:
        """``Checkpointer.save``; of a tick that goes on, the time that it takes does not count."""
        begun = time.perf_counter()
        scores = self.checkpointer.save(self.tick_seconds, due=due, score=score)
        self.tell_snapshot(scores)
        self.saved_at, self.rollbacks = time.monotonic(), 0
        if self.tick_start is not None:
            self.tick_start += time.perf_counter() - begun
        return scores

    # ----- Listeners -----

    def tell_start(self) -> None:
        """Tell the listeners where training begins."""
        start = RunStart(self.folder, self.config.to_dict(), self.counters.images_seen)
        self.listeners.call(lambda listener: listener.on_start(start))

    def tell_snapshot(self, scores: dict[str, float]) -> None:
        """Tell the listeners of the snapshot that was just taken."""
        if not self.listeners.active:
            return
        checkpointer = self.checkpointer
        grid, attention = checkpointer.grids.paths(self.kimg)
        snapshot = SnapshotRecord(
            path=checkpointer.snapshot_path,
            images_seen=self.counters.images_seen,
            grid=grid,
            attention=attention if self.config.model.has_maps else None,
            reals=checkpointer.grids.folder / REALS,
            scores=scores,
            component_shares=checkpointer.grids.component_shares,
        )
        self.listeners.call(lambda listener: listener.on_snapshot(snapshot))
