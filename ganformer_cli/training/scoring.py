"""Scores a run's snapshots during training, and finds the best one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ganformer_cli.checkpoints.run_folder import METRICS_FILE, SNAPSHOT_FOLDER, append_record, snapshots_of
from ganformer_cli.config import TrainConfig
from ganformer_cli.data import ImageDataset
from ganformer_cli.errors import ConfigError, DataError
from ganformer_cli.files import sha256_of
from ganformer_cli.metrics.cache import Cache
from ganformer_cli.metrics.evaluate import evaluate
from ganformer_cli.metrics.opening import open_networks
from ganformer_cli.metrics.plan import usable_metrics
from ganformer_cli.metrics.processes import fail_together
from ganformer_cli.metrics.records import ScoreValue, differences, provenance_of, read_records, scores_in
from ganformer_cli.metrics.registry import METRICS, SCORES, is_better, parse_metrics
from ganformer_cli.models import Generator
from ganformer_cli.training.distributed import ONE_PROCESS, Group

#: Evaluation takes seeds below this; those of training may be larger.
_SEEDS = 2**31
#: Marks the records that training has written: later evaluations may use other numbers of images.
_TRAINING = "training"


def by_training(record: Mapping[str, Any]) -> bool:
    """Whether training has written this record."""
    return record.get("by") == _TRAINING


class _ScoredRecord(NamedTuple):
    """A record and one of its scores."""

    record: dict[str, Any]
    score: ScoreValue


class Scoring:
    """Computes and records the scores of ``--metrics``.

    Args:
        options: of the run.
        dataset: the real images.
        folder: the run folder.
        device: where to compute.
        message: receives scores and warnings.
        group: the processes of the run, which share the work; rank 0 writes.

    Raises:
        ConfigError: there is no such metric.
    """

    def __init__(
        self,
        options: TrainConfig,
        dataset: ImageDataset,
        folder: Path,
        device: torch.device,
        message: Callable[[str], None],
        group: Group = ONE_PROCESS,
    ) -> None:
        self.options, self.dataset, self.folder, self.device = options, dataset, folder, device
        self.metrics = parse_metrics(options.metrics)
        self.message, self.group = message, group
        self.warned: set[str] = set()
        self.summary = ""  # of the newest scores, for the user
        self._damaged = False  # whether there are records that cannot be read
        self._digests: dict[tuple[str, int, int], str] = {}

    def check(self, generator: Generator) -> None:
        """Check that the metrics can be computed, before training.

        Raises:
            ConfigError: a feature network is missing, or a metric looks at images that are never made.
            SnapshotError: the weights of a feature network are damaged.
        """
        reconstructions = [name for name in self.metrics if METRICS[name].of == "reconstructions"]
        if reconstructions and not generator.can_reconstruct:
            raise ConfigError(
                f"--metrics {','.join(reconstructions)}: scores reconstructions, which only --baseline VQGAN makes; "
                "leave it out"
            )
        if self.metrics and self.options.vq_stage == "1" and not reconstructions:
            raise ConfigError(
                f"--metrics {self.options.metrics} with --vq-stage 1: it draws no samples; choose rswd,psnr, or none"
            )
        _, missing = open_networks(self.metrics, weights={}, resize=None, device=torch.device("cpu"), offline=True)
        if missing:
            reasons = "; ".join(map(str, missing.values()))
            raise ConfigError(f"--metrics {self.options.metrics}: {reasons}")

    def is_due(self, kimg: float, *, last: bool) -> bool:
        """Whether the snapshot at ``kimg`` is scored: every ``metrics_every``-th, and the ``last`` of the run.

        The close ones at the beginning (``first_snapshot_kimg``) are not: they are for looking at.
        """
        if self.options.first_snapshot_kimg is not None and 0 < kimg < self.options.snapshot_kimg and not last:
            return False
        number = round(kimg / self.options.snapshot_kimg)
        return bool(self.metrics) and (last or number % self.options.metrics_every == 0)

    def can_score(self, generator: Generator) -> bool:
        """Whether a metric looks at images that the generator makes: in stage 1 a VQGAN has reconstructions only."""
        return bool(usable_metrics(self.metrics, generator))

    def score(self, generator: Generator, snapshot: Path, kimg: float) -> dict[str, float]:
        """Compute and record the scores of a snapshot; empty if they cannot be computed.

        Args:
            generator: the averaged one, the same in all processes.
            snapshot: its file, which only rank 0 needs to see.
            kimg: thousands of real images shown so far.
        """
        count = min(self.options.eval_images_num, len(self.dataset))
        self.message(f"scoring {count} images against as many real ones")
        try:
            record = self._evaluate(generator, count)
            self.group.run_on_rank0(lambda: self._write(record, snapshot, kimg))
        except Exception as error:  # an error in a metric never ends training
            self.message(f"warning: no scores at {kimg:g} kimg: {str(error) or type(error).__name__}")
            return {}
        scores = {name: scored.value for name, scored in scores_in(record).items()}
        if not self.group.is_main:
            return scores
        shown = ", ".join(
            f"{name} {SCORES[name].text(value) if SCORES[name].percent else f'{value:.3g}'}"
            for name, value in scores.items()
        )
        best = self.best()
        mark = " (the best so far)" if best is not None and best[0] == snapshot and kimg > 0 else ""
        self.summary = f"{shown}{mark}"
        return scores

    def _write(self, record: dict[str, Any], snapshot: Path, kimg: float) -> None:
        record["provenance"]["snapshot_sha256"] = self._digest(snapshot)
        whole = {"snapshot": snapshot.name, "kimg": kimg, "by": _TRAINING, **record}
        append_record(self.folder / METRICS_FILE, whole, self.warn_once)

    def _evaluate(self, generator: Generator, count: int) -> dict[str, Any]:
        opening = partial(open_networks, self.metrics, weights={}, resize=None, device=self.device, offline=True)
        networks, _ = fail_together(self.group, opening)
        return evaluate(
            generator,
            self.dataset,
            num_images=count,
            seed=self.options.seed % _SEEDS,
            batch_size=self.options.batch_size,
            metrics=usable_metrics(self.metrics, generator),
            networks=networks,
            group=self.group,
            cache=Cache(notice=self.warn_once),
            device=self.device,
            warn=self.warn_once,
        )

    def warn_once(self, text: str) -> None:
        """Warn once, of what every snapshot would repeat."""
        if text not in self.warned:
            self.warned.add(text)
            self.message(f"warning: {text}")

    def best(self) -> tuple[Path, ScoreValue] | None:
        """The existing snapshot with the best score of the first metric; None if there is none.

        Only scores that are comparable with the newest one count: the number of images, for one, may change when a run
        is resumed. And only scores of this very file: a record holds its checksum.
        """
        if not self.metrics:
            return None
        scored = self._scored(METRICS[self.metrics[0]].scores[0].name, self._records() or [])
        return self._best([each for each in scored if not differences(each.score, scored[-1].score)])

    def snapshots_to_keep(self) -> set[Path] | None:
        """The snapshots that must not be deleted; None if that cannot be determined.

        Each is the best of a set with comparable scores, also if the run was resumed with other metrics since.
        """
        records = self._records()
        if records is None:
            return None
        kept: set[Path] = set()
        if self._damaged:  # the best may be one that no whole line names
            named = {record.get("snapshot") for record in records}
            kept.update(path for path in snapshots_of(self.folder) if path.name not in named)
        for name in {next((name for name in record if name in SCORES), "") for record in records} - {""}:
            groups: list[list[_ScoredRecord]] = []
            for scored_record in self._scored(name, records):
                group = next((group for group in groups if not differences(group[0].score, scored_record.score)), None)
                if group is None:
                    groups.append([scored_record])
                else:
                    group.append(scored_record)
            kept.update(best[0] for best in map(self._best, groups) if best is not None)
        return kept

    def has_scored(self, snapshot: Path) -> bool:
        """Whether there are scores of this very file, or none are wanted."""
        if not self.metrics or not snapshot.is_file():
            return not self.metrics
        return any(
            record.get("snapshot") == snapshot.name and self._is_of(record, snapshot)
            for record in self._records() or []
        )

    def _records(self) -> list[dict[str, Any]] | None:
        """Training's records in ``metrics.jsonl``; None if it cannot be read."""
        path = self.folder / METRICS_FILE
        self._damaged = False
        if not path.exists():
            return []

        def notice(text: str) -> None:
            self._damaged = True
            self.warn_once(text)

        try:
            return [record for record in read_records(path, notice) if by_training(record)]
        except DataError as error:
            self.warn_once(f"{error}; no snapshot is deleted")
            return None

    def _scored(self, name: str, records: list[dict[str, Any]]) -> list[_ScoredRecord]:
        """The records that have the score ``name``."""
        scores = [(record, scores_in(record).get(name)) for record in records]
        return [_ScoredRecord(record, score) for record, score in scores if score is not None]

    def _best(self, scored: list[_ScoredRecord]) -> tuple[Path, ScoreValue] | None:
        """The best of comparable scores whose file exists and is the one that was scored."""
        left = list(scored)
        while left:
            best = left[0]
            for scored_record in left[1:]:
                if is_better(best.score.name, scored_record.score.value, best.score.value):
                    best = scored_record
            name = str(best.record.get("snapshot"))
            path = self.folder / SNAPSHOT_FOLDER / name
            if path.name == name and path.is_file() and self._is_of(best.record, path):
                return path, best.score
            left.remove(best)
        return None

    def _is_of(self, record: dict[str, Any], snapshot: Path) -> bool:
        """Whether a record is of this very file; records of earlier versions may not say."""
        digest = provenance_of(record).get("snapshot_sha256")
        return digest is None or digest == self._digest(snapshot)

    def _digest(self, snapshot: Path) -> str:
        """sha256 of a file, read again only if the file has changed."""
        status = snapshot.stat()
        key = (snapshot.name, status.st_size, status.st_mtime_ns)
        if key not in self._digests:
            self._digests[key] = sha256_of(snapshot)
        return self._digests[key]
