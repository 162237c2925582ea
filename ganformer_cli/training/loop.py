"""The training loop."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ganformer_cli import __version__
from ganformer_cli.checkpoints import headers, run_folder, training_state
from ganformer_cli.checkpoints.run_lock import locked
from ganformer_cli.checkpoints.snapshots import save_snapshot
from ganformer_cli.config import ModelConfig, RunConfig
from ganformer_cli.data import ImageDataset
from ganformer_cli.data.loading.readers import StoppedWaiting
from ganformer_cli.data.loading.stream import ImageStream
from ganformer_cli.errors import ConfigError, OutputError, SnapshotError, TrainingError
from ganformer_cli.files import MIB, remove, write_json
from ganformer_cli.memory import gpu_memory_mib, process_memory_mib, return_free_memory
from ganformer_cli.metrics.processes import fail_together
from ganformer_cli.metrics.registry import parse_metrics
from ganformer_cli.models import LabelDistribution
from ganformer_cli.training.distributed import ALONE, Group, sharing
from ganformer_cli.training.fitting import disk_mib, fit_micro_batch
from ganformer_cli.training.gan import GANTrainer, RunningMeans, micro_batches
from ganformer_cli.training.samples import REALS, SampleGrids
from ganformer_cli.training.scoring import Scoring, by_training
from ganformer_cli.training.starting import Start
from ganformer_cli.training.watch import CollapseWatch, all_finite

#: Steps that may go wrong between two states before the run gives up.
MOST_SETBACKS = 3
#: On a GPU, steps between looks at the losses: each look waits for it.
LOOK_EVERY = 16


@dataclass
class Callbacks:
    """What a caller may watch; all do nothing by default."""

    #: (thousands of images shown, this tick's means), after every step.
    progress: Callable[[float, RunningMeans], None] = lambda kimg, means: None
    #: a sentence for the reader.
    message: Callable[[str], None] = lambda text: None
    #: True asks the loop to save and return.
    should_stop: Callable[[], bool] = lambda: False


@dataclass(frozen=True)
class RunResult:
    """How a run ended."""

    folder: Path
    kimg: float
    finished: bool  # False: stopped on request
    snapshot: Path
    samples: Path
    seconds: float  # of training, in all sittings
    scores: dict[str, float] = field(default_factory=dict)
    best: Path | None = None  # the snapshot with the best score of the first metric


def open_run(
    config: RunConfig,
    dataset: ImageDataset,
    folder: Path,
    *,
    device: torch.device,
    resume: bool,
    callbacks: Callbacks | None = None,
    start: Start | None = None,
    override: bool = False,
    group: Group = ALONE,
) -> Trainer:
    """Begin a run in ``folder`` or go on with the one that is there; ``Trainer.run`` then trains.

    Args:
        config: the networks and how they are trained.
        dataset: pictures of the networks' size.
        folder: the run folder; made here unless ``resume``.
        device: where to compute.
        resume: go on from the newest state in ``folder``.
        callbacks: see ``Callbacks``.
        start: the weights that a new run begins with; None: random ones.
        override: go on even where settings of training, or the pictures, are others than before.
        group: the processes that train together; all of them call this alike.

    Raises:
        GanformerError: ``start`` does not fit; ``folder`` cannot be written to, or holds another run.
    """
    callbacks = callbacks or Callbacks()
    check_batch(config, group.world_size)
    parse_metrics(config.train.metrics)
    group.same(json.dumps(config.to_dict(), sort_keys=True), "the settings")
    group.same(dataset.fingerprint, "the pictures")
    trainer = Trainer(config, dataset, folder, device, callbacks, group)

    fail_together(group, trainer.scoring.check)

    def begin() -> None:
        goes_on = False
        run_folder.remove_leftovers(folder)
        if not resume:
            run_folder.check_empty(folder)
        else:
            run_folder.check_same_run(folder, run_folder.read_run_config(folder), config, override=override)
            goes_on = trainer.restore(override=override)
        check_disk(folder, trainer.gan, callbacks.message)
        record = None if start is None or goes_on else start.apply(trainer.gan, callbacks.message)
        run_folder.create_run_folder(folder, config)
        if record is not None:
            write_json(folder / run_folder.TAKEN_FILE, record)

    group.run_on_rank0(begin)
    trainer.broadcast_state()
    if config.train.batch_gpu is None and not resume:
        found = fit_micro_batch(trainer.gan, callbacks.message)
        trainer.gan.micro_batch = group.least(found, device)
    return trainer


def check_disk(folder: Path, gan: GANTrainer, message: Callable[[str], None]) -> None:
    """Raise OutputError unless the disk of ``folder`` has room for a snapshot and a state; say where it gets tight."""
    there = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    free = shutil.disk_usage(there).free / MIB
    least, whole = disk_mib(gan)
    if free < least:
        raise OutputError(
            f"--result-dir {folder}: its disk has {free:.1f} MiB free, and a snapshot and a state of this run take "
            f"{least:.1f}; free some space, or choose another folder"
        )
    if free < whole:
        message(
            f"warning: the disk of {folder} has {free:.0f} MiB free; this run will come to about {whole:.0f}. Keep "
            "fewer snapshots with --last-snapshots, or free some space"
        )


def check_batch(config: RunConfig, world_size: int) -> None:
    """Raise ConfigError unless so many processes can share a batch."""
    batch, group = config.train.batch_size, config.model.mbstd_group_size
    if world_size == 1:
        return
    sizes = [] if batch % world_size else micro_batches(batch // world_size, group)
    if not sizes:
        raise ConfigError(
            f"--batch-size {batch} cannot be shared by {world_size} processes: each takes as many pictures as the "
            f"others, and minibatch-std needs two; choose a multiple of {2 * world_size}, or another number of "
            "processes"
        )
    micro = config.train.batch_gpu
    if micro is not None and micro not in sizes:
        raise ConfigError(
            f"--batch-gpu {micro} does not divide the {batch // world_size} pictures of --batch-size {batch} that each "
            f"of {world_size} processes takes; choose one of {', '.join(map(str, sizes))}"
        )


class Trainer:
    """The state of a run and the steps that change it."""

    def __init__(
        self,
        config: RunConfig,
        dataset: ImageDataset,
        folder: Path,
        device: torch.device,
        callbacks: Callbacks,
        group: Group = ALONE,
    ) -> None:
        self.config, self.folder, self.device, self.callbacks = config, folder, device, callbacks
        self.group = group
        self.dataset = dataset
        options = config.train
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = options.cuda_bench
            torch.backends.cuda.matmul.allow_tf32 = options.precision != "fp32"
            torch.backends.cudnn.allow_tf32 = options.precision != "fp32"
        torch.manual_seed(options.seed)
        self.gan = GANTrainer(config, device, self.on_out_of_memory, group)
        self.keep_labels()
        self.scoring = Scoring(options, dataset, folder, device, callbacks.message, group)
        self.counters = training_state.Counters()
        self.grids = SampleGrids(folder, config, dataset, self.tidying_failed)
        self.restored = False  # whether a state was read
        self.scored_snapshot: bool | None = None  # see TrainingState
        self.tick_kimg = 0.0  # where the current tick began
        self.tick_start: float | None = None  # when; None before the first step
        self.tidying: set[str] = set()  # what was said of files that could not be deleted
        self.setbacks = 0  # steps that went wrong since the last state
        self.saved_at = time.monotonic()
        self.watch = CollapseWatch(dataset, judged_by_sign=options.d_loss != "wgan")

    def keep_labels(self) -> None:
        """Let the generators know the labels of the data, which they draw from and snapshots keep."""
        labels = self.dataset.labels() if self.config.model.c_dim > 0 else None
        if labels is None:
            return
        kept = LabelDistribution.of(labels, self.config.model.c_dim, self.dataset.class_names)
        self.gan.generator.label_distribution = self.gan.ema.label_distribution = kept
        if kept.vectors is not None and not kept.is_whole and self.group.is_main:
            self.callbacks.message(
                f"--labels: the data have {kept.distinct} different labels; {len(kept.vectors)} of a random choice of "
                "the images are kept in the model, and drawn by ganformer generate"
            )

    @property
    def kimg(self) -> float:
        """Thousands of real pictures shown."""
        return self.counters.images_seen / 1000

    @property
    def position(self) -> int:
        """Where the next batch begins in the stream of real pictures."""
        return self.counters.images_seen + self.counters.images_skipped

    @property
    def tick_seconds(self) -> float:
        """Seconds of training in the current tick."""
        return 0.0 if self.tick_start is None else time.perf_counter() - self.tick_start

    # ----- Saving and going on -----

    @property
    def snapshot_path(self) -> Path:
        """Where a snapshot that is taken now lies."""
        return self.folder / run_folder.SNAPSHOT_FOLDER / run_folder.snapshot_name(self.kimg)

    def save(self, *, scored: bool) -> None:
        """Write a snapshot and the training state that belongs to it; thin out old snapshots.

        Args:
            scored: whether scores belong to it, now or when the run goes on.
        """
        self.save_snapshot()
        self.save_state(scored_snapshot=scored)
        kept = self.scoring.keepers()
        if kept is None:  # nobody can tell which is the best
            return
        snapshots = run_folder.snapshots_of(self.folder)[: -self.config.train.last_snapshots]
        for old in snapshots:
            if old not in kept and run_folder.images_in_name(old) is not None:
                remove(old, warn=self.tidying_failed)

    def save_snapshot(self) -> None:
        """Write the networks as they are."""
        save_snapshot(
            self.snapshot_path,
            config=self.config.model,
            ema=self.gan.ema,
            generator=self.gan.generator,
            discriminator=self.gan.discriminator,
            kimg=self.kimg,
            provenance={
                "version": __version__,
                "dataset": {
                    "name": self.config.train.dataset,
                    "fingerprint": self.dataset.fingerprint,
                    "images": len(self.dataset),
                    "mirror_augment": self.config.train.mirror_augment,
                },
            },
        )

    def save_state(self, *, scored_snapshot: bool | None = None) -> None:
        """Write what the run needs to go on from here."""
        training_state.save_state(
            self.folder,
            networks=self.gan.networks,
            optimizers=self.gan.optimizers,
            scalars=self.gan.scalars,
            counters=dataclasses.replace(
                self.counters,
                micro_batch=self.gan.micro_batch,
                seconds=self.counters.seconds + self.tick_seconds,
            ),
            identity={"config": self.config.to_dict(), "dataset": self.dataset.fingerprint},
            warn=self.tidying_failed,
            scored_snapshot=scored_snapshot,
        )

    def restore(self, *, override: bool = False) -> bool:
        """Go on from the newest whole state in the folder; whether there is one: a run may have just begun.

        Raises:
            SnapshotError: there are states, but none that can be used.
            ConfigError: they are of other settings or other pictures, without ``override``.
        """
        paths = training_state.states_of(self.folder)
        for path in reversed(paths):
            try:
                found = training_state.read_state(path)
            except headers.NewerError:
                raise
            except SnapshotError as error:
                self.tell("damaged state", f"{error}; going on from the one before")
                continue
            self.check_identity(found, override=override)
            self.apply(found)
            return True
        if paths:
            raise SnapshotError(
                f"{self.folder / run_folder.STATE_FOLDER}: none of the training states in it can be read; begin a "
                "new run with --restart, from its newest snapshot with --restart --pretrained-pkl FILE"
            )
        self.callbacks.message(f"{self.folder} holds no training state yet; starting at the beginning")
        return False

    def check_identity(self, found: training_state.TrainingState, *, override: bool) -> None:
        """Raise ConfigError unless a state belongs to this run."""
        model = None
        with contextlib.suppress(ConfigError, KeyError, TypeError, AttributeError):
            model = ModelConfig.from_dict(found.identity["config"]["model"], where=str(found.path))
        if model != self.config.model:
            raise ConfigError(
                f"{found.path}: is the state of other networks than {self.folder / run_folder.CONFIG_FILE} describes; "
                "begin a new run with --restart"
            )
        if found.identity.get("dataset") != self.dataset.fingerprint and not override:
            raise ConfigError(
                f"{self.folder}: the pictures of data set {self.dataset.name} are others than when this run stopped; "
                "bring those back, go on with these with --override, or begin a new run with --restart"
            )

    def apply(self, found: training_state.TrainingState) -> None:
        """Be what a state says."""
        gan = self.gan
        gan.scalars = training_state.apply_state(found, networks=gan.networks, optimizers=gan.optimizers)
        self.counters = found.counters
        self.restored, self.scored_snapshot = True, found.scored_snapshot
        before = found.counters.micro_batch
        if before in self.gan.sizes():
            self.gan.micro_batch = before
        elif before:
            self.tell(
                "micro-batch",
                f"this run has taken {before} images at a time so far, which {self.group.world_size} processes cannot; "
                f"going on with {self.gan.micro_batch}. The results differ from there on: minibatch-std and noise "
                "follow that number",
            )
        said = self.scoring.tell_once
        run_folder.forget_records_after(self.folder / run_folder.LOG_FILE, self.kimg, said)
        run_folder.forget_records_after(self.folder / run_folder.METRICS_FILE, self.kimg, said, ours=by_training)

    def broadcast_state(self) -> None:
        """Let all processes stand where the first one does."""
        self.gan.broadcast_state()
        self.counters, self.restored, self.scored_snapshot = self.group.run_on_rank0(
            lambda: (self.counters, self.restored, self.scored_snapshot)
        )
        self.tick_kimg = self.kimg

    def tell(self, event: str, text: str) -> None:
        """Warn the reader, and note it in the run folder."""
        if not self.group.is_main:
            return
        self.callbacks.message(f"warning: {text}")
        record = {"kimg": self.kimg, "event": event, "text": text}
        run_folder.append_record(self.folder / run_folder.EVENTS_FILE, record, self.scoring.tell_once)

    def tidying_failed(self, text: str) -> None:
        """An old file is still there, of which the next save makes another try; said once."""
        if text not in self.tidying:
            self.tidying.add(text)
            self.tell("tidying", text)

    # ----- When a step goes wrong -----

    def on_out_of_memory(self, micro_batch: int) -> None:
        """Memory ran out; the step is made again."""
        self.tell("out of memory", f"out of memory; going on with {micro_batch} pictures at a time")

    def agree(self, means: RunningMeans, *, snaps: bool) -> tuple[bool, bool, bool]:
        """What all processes do now: whether they stop, save their state, or have to go back."""
        numbers = all(math.isfinite(float(total)) for total in means.sums.values())
        stopped, saves, unsound = self.group.any(
            [self.callbacks.should_stop(), self.save_is_due(), not numbers], self.device
        )
        if (stopped or saves or snaps) and not unsound:
            # No weights that are no numbers are ever saved.
            weights = (p for network in self.gan.networks.values() for p in network.parameters())
            unsound = self.group.any([not all_finite(weights)], self.device)[0]
        return stopped, saves, unsound

    def roll_back(self, means: RunningMeans) -> None:
        """Return to the newest state, pass over the pictures since, and draw other random numbers from there on.

        Raises:
            TrainingError: it has happened too often since that state.
        """
        values = means.read()
        broken = ", ".join(name for name, value in values.items() if not math.isfinite(value)) or "the weights"
        where, kimg, setbacks = self.position, self.kimg, self.setbacks + 1
        if setbacks > MOST_SETBACKS:
            raise TrainingError(
                f"{self.folder}: no numbers any more in {broken} at {kimg:g} kimg, {MOST_SETBACKS} times in a row "
                "since the last state. Begin again from an earlier snapshot (--restart --pretrained-pkl FILE) with "
                "lower --g-lr and --d-lr or a larger --gamma; look for odd pictures in the data set"
            )
        self.group.run_on_rank0(lambda: self.restore(override=True))
        self.broadcast_state()
        self.setbacks = setbacks
        # Their number also changes the random numbers of the steps to come.
        self.counters.images_skipped = where - self.counters.images_seen
        self.tell(
            "setback",
            f"no numbers any more in {broken} at {kimg:g} kimg; going on from {self.kimg:g} kimg with other pictures",
        )

    # ----- One step -----

    def train_step(self, batch: tuple[Tensor, Tensor], means: RunningMeans) -> None:
        """One update of both players with one batch of uint8 ``[B, 3, H, W]`` and labels ``[B, c_dim]``."""
        self.gan.step(batch, self.counters.step, means, attempt=self.counters.images_skipped)
        self.counters.step += 1
        self.counters.images_seen += self.config.train.batch_size
        self.gan.average(self.counters.images_seen)

    # ----- The run -----

    def run(self) -> RunResult:
        """Train until ``total_kimg`` or until ``callbacks.should_stop``; leave the folder complete either way.

        Raises:
            LockedError: another process trains in the folder.
        """
        with contextlib.ExitStack() as stack:
            if self.group.world_size == 1:
                stack.enter_context(locked(self.folder, self.callbacks.message))
            return self.train()

    def train(self) -> RunResult:
        """``run`` for a process that has the folder to itself, or does not write."""
        options = self.config.train
        total = round(options.total_kimg * 1000)
        self.callbacks.message(self.opening(total))
        if self.group.world_size > 1:
            self.callbacks.message(sharing(options.batch_size, self.group.world_size, self.gan.micro_batch))
        scores = self.complete()
        means, self.tick_start = RunningMeans(), time.perf_counter()
        stopped = False
        with self.open_stream() as stream:
            while self.counters.images_seen < total and not stopped:
                before = self.counters.images_seen
                batch = self.next_batch(stream)
                if batch is not None:
                    self.train_step(batch, means)
                last = self.counters.images_seen >= total
                ticks, snaps = (
                    last or self.crossed(before, every) for every in (options.tick_kimg, options.snapshot_kimg)
                )
                saves = False
                # On a GPU a look waits for the step, and so does what all processes must agree on.
                if batch is None or ticks or snaps or self.device.type == "cpu" or means.steps % LOOK_EVERY == 0:
                    stopped, saves, unsound = self.agree(means, snaps=snaps)
                    if unsound:
                        self.roll_back(means)
                        stream.close()
                        stream.position = self.position
                        means, self.tick_start = RunningMeans(), time.perf_counter()
                        continue
                self.callbacks.progress(self.kimg, means)
                if ticks or (stopped and means.steps):
                    self.end_tick(means, self.tick_seconds)
                    means, self.tick_start = RunningMeans(), time.perf_counter()
                if snaps or stopped:
                    before_snapshot = time.perf_counter()
                    scores = self.snapshot(due=snaps, score=not stopped) or scores
                    # Of a tick that goes on, the steps before the snapshot count, and the snapshot does not.
                    self.tick_start += time.perf_counter() - before_snapshot
                elif saves:
                    self.group.run_on_rank0(self.save_state)
                    self.saved_at, self.setbacks = time.monotonic(), 0
        # Other machines need not see the folder.
        newest, samples, best = self.group.run_on_rank0(
            lambda: (run_folder.resolve_model(self.folder), self.grids.newest(), self.scoring.best())
        )
        return RunResult(
            folder=self.folder,
            kimg=self.kimg,
            finished=self.counters.images_seen >= total,
            snapshot=newest,
            samples=samples,
            seconds=self.counters.seconds,
            scores=scores,
            best=None if best is None else best[0],
        )

    def opening(self, total: int) -> str:
        """Where this run is and how far."""
        if self.counters.images_seen == 0:
            return f"run folder {self.folder}"
        if self.counters.images_seen < total:
            return f"going on in {self.folder} at {self.kimg:g} kimg"
        return (
            f"{self.folder} has its {self.kimg:g} kimg already; lengthen it with --total-kimg, "
            "or begin a new run with --restart"
        )

    def open_stream(self) -> ImageStream:
        """The real pictures, from where this run stands."""
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
            warn=lambda text: self.tell("readers", text),
            should_stop=self.callbacks.should_stop,
        )

    def next_batch(self, stream: ImageStream) -> tuple[Tensor, Tensor] | None:
        """The next real images; None where the run is to stop and they do not come."""
        try:
            return next(stream)
        except StoppedWaiting:
            # The other processes of the run wait for this one's share of the step.
            return None if self.group.world_size == 1 else stream.next_without_workers()

    def save_is_due(self) -> bool:
        """Whether the newest state is so old that losing what followed would hurt."""
        return time.monotonic() - self.saved_at > self.config.train.save_minutes * 60

    def crossed(self, before: int, every_kimg: float) -> bool:
        """Whether the last step passed a multiple of ``every_kimg``."""
        every = every_kimg * 1000
        return before // every != self.counters.images_seen // every

    def end_tick(self, means: RunningMeans, seconds: float) -> None:
        """Write one line to the log, and give back what memory the steps have left in pieces."""
        self.counters.seconds += seconds
        memory = process_memory_mib()
        # Kept blocks are cut up from step to step: within a day the heap would be several times what a step needs.
        return_free_memory()
        shown = self.kimg - self.tick_kimg
        tick, self.tick_kimg = self.counters.ticks, self.kimg
        self.counters.ticks += 1
        means.gather(self.group)
        if not self.group.is_main:
            return
        figures = means.read()
        if self.config.train.augment == "ada":
            figures["augment_p"] = float(self.gan.augmentation.p)
        spread = self.watch.diversity(self.gan.generator)
        if spread is not None:
            figures["diversity"] = spread
        record = {
            "tick": tick,
            "kimg": self.kimg,
            "sec_per_kimg": round(seconds / shown, 4) if shown > 0 else None,
            "seconds": round(self.counters.seconds, 3),
            **{name: float(f"{value:.6g}") for name, value in figures.items()},
            "memory_mib": rounded(memory),
            "gpu_memory_mib": rounded(gpu_memory_mib(self.device)),
        }
        run_folder.append_record(self.folder / run_folder.LOG_FILE, record, self.scoring.tell_once)
        for warning in self.watch.warnings(figures, self.kimg):
            self.tell("health", warning)

    def snapshot(self, *, due: bool, score: bool) -> dict[str, float]:
        """Save and draw the grids, which the first process does; compute the scores, which all do.

        Args:
            due: whether a run that nobody stops takes a snapshot here, too.
            score: whether there is time for scores now; else they are made up for when the run goes on.
        """
        last = self.counters.images_seen >= round(self.config.train.total_kimg * 1000)
        scored = due and self.scoring.is_due(self.kimg, last=last)

        def write() -> None:
            self.save(scored=scored)
            self.grids.save_fakes(self.gan.ema, self.kimg)

        self.group.run_on_rank0(write)
        scores = {}
        if score and scored:
            scores = self.scoring.score(self.gan.ema, self.snapshot_path, self.kimg)
        self.saved_at, self.setbacks = time.monotonic(), 0
        return scores

    def complete(self) -> dict[str, float]:
        """Make what a run begins with, or what is missing of the snapshot that a stop or a kill came upon.

        A state is written before grids and scores: the networks in it are those that these are made of.
        """
        if not self.restored and self.counters.images_seen == 0:
            self.group.run_on_rank0(self.grids.save_reals)
            return self.snapshot(due=True, score=True)

        def make_up() -> bool:
            missing, scores = self.missing_pieces()
            if not (self.grids.folder / REALS).is_file():
                self.grids.save_reals()
                missing = [REALS, *missing]
            if missing or scores:
                what = ", ".join([*missing, *(["scores"] if scores else [])])
                self.callbacks.message(f"missing at {self.kimg:g} kimg, and made again: {what}")
            if self.snapshot_path.name in missing:
                self.save_snapshot()
            if self.grids.missing(self.kimg) and set(missing) - {REALS}:
                self.grids.save_fakes(self.gan.ema, self.kimg)
            return scores

        scores = self.group.run_on_rank0(make_up)
        return self.scoring.score(self.gan.ema, self.snapshot_path, self.kimg) if scores else {}

    def missing_pieces(self) -> tuple[list[str], bool]:
        """Files of the snapshot that belongs to the state that was read, and whether its scores are missing."""
        if self.scored_snapshot is None:  # none does, or an earlier version wrote the state
            there = bool(run_folder.snapshots_of(self.folder))
            return ([] if there else [self.snapshot_path.name, *self.grids.missing(self.kimg)]), False
        missing = [] if self.snapshot_path.is_file() else [self.snapshot_path.name]
        missing += self.grids.missing(self.kimg)
        return missing, self.scored_snapshot and not self.scoring.has_scored(self.snapshot_path)


def rounded(value: float | None) -> float | None:
    """To one decimal, for the log."""
    return None if value is None else round(value, 1)
