"""What a run writes and goes on from: snapshots, training states, grids, scores and the log of events."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path

from ganformer_cli import __version__
from ganformer_cli.checkpoints import headers, run_folder, training_state
from ganformer_cli.checkpoints.snapshots import save_snapshot
from ganformer_cli.config import ModelConfig, RunConfig
from ganformer_cli.data import ImageDataset
from ganformer_cli.errors import ConfigError, GanformerError, SnapshotError
from ganformer_cli.files import append_json_line, remove
from ganformer_cli.training.network_trainer import NetworkTrainer
from ganformer_cli.training.samples import REALS, SampleGrids
from ganformer_cli.training.scoring import Scoring, by_training


class Checkpointer:
    """Saves a run, restores it, and makes up for what a kill left out.

    Args:
        config: of the run.
        dataset: the real images.
        folder: the run folder.
        gan: what is trained.
        message: receives what the user should read.
    """

    def __init__(
        self,
        config: RunConfig,
        dataset: ImageDataset,
        folder: Path,
        gan: NetworkTrainer,
        message: Callable[[str], None],
    ) -> None:
        self.config, self.dataset, self.folder, self.gan, self.message = config, dataset, folder, gan, message
        self.group = gan.group
        self.counters = training_state.Counters()
        self.scoring = Scoring(config.train, dataset, folder, gan.device, message, gan.group)
        self.grids = SampleGrids(folder, config, dataset, self.warn_not_deleted, gan.draw_grid)
        self.restored = False  # whether a training state was read
        self.scored_snapshot: bool | None = None  # see TrainingState
        self._not_deleted: set[str] = set()  # warnings that were given

    @property
    def kimg(self) -> float:
        """Thousands of real images shown."""
        return self.counters.images_seen / 1000

    @property
    def snapshot_path(self) -> Path:
        """The file of a snapshot that is taken now."""
        return self.folder / run_folder.SNAPSHOT_FOLDER / run_folder.snapshot_name(self.kimg)

    # ----- Warnings -----

    def warn(self, event: str, text: str) -> None:
        """Warn the user, and add a line to ``events.jsonl``."""
        if not self.group.is_main:
            return
        self.message(f"warning: {text}")
        record = {"kimg": self.kimg, "event": event, "text": text}
        run_folder.append_record(self.folder / run_folder.EVENTS_FILE, record, self.scoring.warn_once)

    def record_failure(self, error: Exception) -> None:
        """Add the error that ends the run to ``events.jsonl``; what is raised matters more than a full disk."""
        if self.group.is_main:
            text = " ".join(str(error).split())[:1000] or type(error).__name__
            with contextlib.suppress(OSError, GanformerError):
                append_json_line(
                    self.folder / run_folder.EVENTS_FILE, {"kimg": self.kimg, "event": "failed", "text": text}
                )

    def record_resume(self) -> None:
        """Add to ``events.jsonl`` that the run goes on, if anything happened to it before: an error is over then."""
        events = self.folder / run_folder.EVENTS_FILE
        if events.is_file():
            record = {"kimg": self.kimg, "event": "resumed", "text": f"resumed at {self.kimg:g} kimg"}
            run_folder.append_record(events, record, self.scoring.warn_once)

    def warn_not_deleted(self, text: str) -> None:
        """Warn once of an old file that could not be deleted; the next save tries again."""
        if text not in self._not_deleted:
            self._not_deleted.add(text)
            self.warn("tidying", text)

    # ----- Saving -----

    def save_snapshot(self) -> None:
        """Write the networks."""
        save_snapshot(
            self.snapshot_path,
            config=self.config.model,
            ema=self.gan.ema,
            generator=self.gan.generator,
            discriminator=self.gan.discriminator,
            kimg=self.kimg,
            provenance={
                "version": __version__,
                **({"training": notes} if (notes := self.gan.training_notes) else {}),
                "dataset": {
                    "name": self.config.train.dataset,
                    "fingerprint": self.dataset.fingerprint,
                    "images": len(self.dataset),
                    "mirror_augment": self.config.train.mirror_augment,
                },
            },
        )

    def save_state(self, tick_seconds: float, *, scored_snapshot: bool | None = None) -> None:
        """Write the training state.

        Args:
            tick_seconds: time of training that the counters do not hold yet.
            scored_snapshot: see ``training_state.save_state``.
        """
        training_state.save_state(
            self.folder,
            networks=self.gan.networks,
            optimizers=self.gan.optimizers,
            scalars=self.gan.scalars,
            counters=dataclasses.replace(
                self.counters, micro_batch=self.gan.micro_batch, seconds=self.counters.seconds + tick_seconds
            ),
            identity={"config": self.config.to_dict(), "dataset": self.dataset.fingerprint},
            warn=self.warn_not_deleted,
            scored_snapshot=scored_snapshot,
            kept=self.config.train.last_states,
        )

    def save(self, tick_seconds: float, *, due: bool, score: bool) -> dict[str, float]:
        """Save snapshot, training state and grids in the first process; compute the scores in all of them.

        Args:
            tick_seconds: see ``save_state``.
            due: whether an uninterrupted run takes a snapshot here, too.
            score: False leaves the scores for when the run goes on.

        Returns:
            The scores.
        """
        last = self.counters.images_seen >= round(self.config.train.total_kimg * 1000)
        scored = due and self.scoring.can_score(self.gan.ema) and self.scoring.is_due(self.kimg, last=last)

        def write() -> None:
            self.save_snapshot()
            # Before grids and scores: a run that is killed here makes them from the networks in the state.
            self.save_state(tick_seconds, scored_snapshot=scored)
            self.delete_old_snapshots()
            self.grids.save_fakes(self.gan.ema, self.kimg)

        self.group.run_on_rank0(write)
        scores = self.score() if score and scored else {}
        self.announce(scores)
        return scores

    def score(self) -> dict[str, float]:
        """Compute and record the scores of the snapshot that belongs to this moment."""
        return self.scoring.score(self.gan.ema, self.snapshot_path, self.kimg)

    def announce(self, scores: dict[str, float]) -> None:
        """One line for the user: the scores of a snapshot, and where its images are."""
        if self.group.is_main:
            parts = [*([self.scoring.summary] if scores else []), f"images {self.grids.paths(self.kimg)[0]}"]
            self.message(f"snapshot at {self.kimg:g} kimg: {', '.join(parts)}")

    def delete_old_snapshots(self) -> None:
        """Keep the newest snapshots, the best ones, and those that a user has named."""
        kept = self.scoring.snapshots_to_keep()
        if kept is None:  # it is unknown which is the best
            return
        for old in run_folder.snapshots_of(self.folder)[: -self.config.train.last_snapshots]:
            if old not in kept and run_folder.images_in_name(old) is not None:
                remove(old, warn=self.warn_not_deleted)

    # ----- Going on -----

    def restore(self, *, override: bool = False) -> bool:
        """Load the newest intact training state; False if the folder holds none yet.

        Raises:
            SnapshotError: there are states, but none can be used.
            ConfigError: they are of other settings or other images, without ``override``.
        """
        paths = training_state.states_of(self.folder)
        for path in reversed(paths):
            try:
                state = training_state.read_state(path)
            except headers.NewerError:
                raise
            except SnapshotError as error:
                self.warn("damaged state", f"{error}; continuing from the one before")
                continue
            self.check_identity(state, override=override)
            self.load(state)
            return True
        if paths:
            raise SnapshotError(
                f"{self.folder / run_folder.STATE_FOLDER}: none of the training states in it can be read; begin a "
                "new run with --restart, from its newest snapshot with --restart --pretrained-pkl FILE"
            )
        self.message(f"{self.folder} holds no training state yet; starting at the beginning")
        return False

    def check_identity(self, state: training_state.TrainingState, *, override: bool) -> None:
        """Raise ConfigError unless a state belongs to this run."""
        model = None
        with contextlib.suppress(ConfigError, KeyError, TypeError, AttributeError):
            model = ModelConfig.from_dict(state.identity["config"]["model"], where=str(state.path))
        if model != self.config.model:
            raise ConfigError(
                f"{state.path}: is the state of other networks than {self.folder / run_folder.CONFIG_FILE} describes; "
                "begin a new run with --restart"
            )
        if state.identity.get("dataset") != self.dataset.fingerprint and not override:
            raise ConfigError(
                f"{self.folder}: the images of data set {self.dataset.name} are not those that this run was trained "
                "with; bring those back, continue with these with --override, or begin a new run with --restart"
            )

    def load(self, state: training_state.TrainingState) -> None:
        """Set networks, optimisers and counters to a state, and drop later lines from the logs."""
        gan = self.gan
        gan.scalars = training_state.apply_state(state, networks=gan.networks, optimizers=gan.optimizers)
        self.counters = state.counters
        self.restored, self.scored_snapshot = True, state.scored_snapshot
        before = state.counters.micro_batch
        if before in gan.sizes():
            gan.micro_batch = before
        elif before:
            self.warn(
                "micro-batch",
                f"this run has taken {before} images at a time so far, which {self.group.world_size} processes cannot; "
                f"continuing with {gan.micro_batch}. The results differ from there on: minibatch-std and noise "
                "follow that number",
            )
        notice = self.scoring.warn_once
        run_folder.forget_records_after(self.folder / run_folder.LOG_FILE, self.kimg, notice)
        run_folder.forget_records_after(self.folder / run_folder.METRICS_FILE, self.kimg, notice, ours=by_training)

    def broadcast(self) -> None:
        """Copy the first process's state to all others."""
        self.gan.broadcast_state()
        self.counters, self.restored, self.scored_snapshot = self.group.run_on_rank0(
            lambda: (self.counters, self.restored, self.scored_snapshot)
        )

    def complete(self) -> dict[str, float]:
        """Write what a new run begins with, or what a stop or a kill left out of the last snapshot.

        Returns:
            The scores of the snapshot, where they are computed now.
        """
        if not self.restored and self.counters.images_seen == 0:
            self.group.run_on_rank0(self.grids.save_reals)
            return self.save(0.0, due=True, score=True)

        def write_missing() -> bool:
            missing, scores = self.missing_pieces()
            if not (self.grids.folder / REALS).is_file():
                self.grids.save_reals()
                missing = [REALS, *missing]
            if missing or scores:
                what = ", ".join([*missing, *(["scores"] if scores else [])])
                self.message(f"missing at {self.kimg:g} kimg, and made again: {what}")
            if self.snapshot_path.name in missing:
                self.save_snapshot()
            if self.grids.missing(self.kimg) and set(missing) - {REALS}:
                self.grids.save_fakes(self.gan.ema, self.kimg)
            return scores

        if not self.group.run_on_rank0(write_missing):
            return {}
        scores = self.score()
        if scores:
            self.announce(scores)
        return scores

    def missing_pieces(self) -> tuple[list[str], bool]:
        """Missing files of the snapshot that belongs to the restored state, and whether its scores are missing."""
        if self.scored_snapshot is None:  # no snapshot belongs to it, or an earlier version wrote the state
            any_snapshot = bool(run_folder.snapshots_of(self.folder))
            return ([] if any_snapshot else [self.snapshot_path.name, *self.grids.missing(self.kimg)]), False
        missing = [] if self.snapshot_path.is_file() else [self.snapshot_path.name]
        missing += self.grids.missing(self.kimg)
        return missing, self.scored_snapshot and not self.scoring.has_scored(self.snapshot_path)
