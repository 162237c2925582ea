"""Scores of a run's snapshots while it trains, and which of them is the best."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ganformer_cli.checkpoints import SNAPSHOT_FOLDER
from ganformer_cli.config import TrainConfig
from ganformer_cli.data import ImageDataset
from ganformer_cli.errors import ConfigError, DataError
from ganformer_cli.files import sha256_of
from ganformer_cli.metrics.cache import Cache
from ganformer_cli.metrics.evaluate import evaluate
from ganformer_cli.metrics.opening import open_networks
from ganformer_cli.metrics.processes import together
from ganformer_cli.metrics.records import Scored, differences, read_records, scores_in
from ganformer_cli.metrics.registry import is_better, parse_metrics, scores_of
from ganformer_cli.models import Generator
from ganformer_cli.training.distributed import ALONE, Group
from ganformer_cli.training.run_folder import METRICS_FILE, append_record

#: Seeds of an evaluation; those of training reach further.
_SEEDS = 2**31
#: Says in a record that training made it: what somebody evaluates later may be of other numbers.
_TRAINING = "training"


class Scoring:
    """What ``--metrics`` asks for.

    Args:
        options: of the run.
        dataset: the real pictures.
        folder: the run folder.
        device: where to compute.
        message: told scores and warnings.
        group: the processes of the run, which share the work; the first one writes.

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
        group: Group = ALONE,
    ) -> None:
        self.options, self.dataset, self.folder, self.device = options, dataset, folder, device
        self.metrics = parse_metrics(options.metrics)
        self.message, self.group = message, group
        self.told: set[str] = set()

    def check(self) -> None:
        """See that the feature networks are there, before anything is trained.

        Raises:
            ConfigError: one is missing.
            SnapshotError: its weights are damaged.
        """
        _, missing = open_networks(self.metrics, weights={}, resize=None, device=torch.device("cpu"), offline=True)
        if missing:
            reasons = "; ".join(map(str, missing.values()))
            raise ConfigError(f"--metrics {self.options.metrics}: {reasons}")

    def is_due(self, kimg: float, *, last: bool) -> bool:
        """Whether the snapshot at ``kimg`` is scored: every so many of them, and the ``last`` one of the run."""
        number = round(kimg / self.options.snapshot_kimg)
        return bool(self.metrics) and (last or number % self.options.metrics_every == 0)

    def score(self, generator: Generator, snapshot: Path, kimg: float) -> dict[str, float]:
        """The scores of a snapshot, which are also written down; none if they cannot be computed.

        Args:
            generator: the averaged one, the same in all processes.
            snapshot: the file that it was saved to, which only the first process need see.
            kimg: thousands of pictures shown so far.
        """
        count = min(self.options.eval_images_num, len(self.dataset))
        self.message(f"scoring {count} pictures against as many real ones")
        try:
            record = self._evaluate(generator, count)
            self.group.told(lambda: self._write(record, snapshot, kimg))
        except Exception as error:  # whatever goes wrong in a metric, it never ends training
            self.message(f"warning: no scores at {kimg:g} kimg: {str(error) or type(error).__name__}")
            return {}
        scores = {name: scored.value for name, scored in scores_in(record).items()}
        if not self.group.leads:
            return scores
        shown = ", ".join(f"{name} {value:.3g}" for name, value in scores.items())
        best = self.best()
        mark = " (the best so far)" if best is not None and best[0] == snapshot and kimg > 0 else ""
        self.message(f"snapshot at {kimg:g} kimg: {shown}{mark}")
        return scores

    def _write(self, record: dict[str, Any], snapshot: Path, kimg: float) -> None:
        record["provenance"]["snapshot_sha256"] = sha256_of(snapshot)
        whole = {"snapshot": snapshot.name, "kimg": kimg, "by": _TRAINING, **record}
        append_record(self.folder / METRICS_FILE, whole, self.tell_once)

    def _evaluate(self, generator: Generator, count: int) -> dict[str, Any]:
        opening = partial(open_networks, self.metrics, weights={}, resize=None, device=self.device, offline=True)
        networks, _ = together(self.group, opening)
        return evaluate(
            generator,
            self.dataset,
            num_images=count,
            seed=self.options.seed % _SEEDS,
            batch_size=self.options.batch_size,
            metrics=self.metrics,
            networks=networks,
            group=self.group,
            cache=Cache(notice=self.tell_once),
            device=self.device,
            notice=self.tell_once,
        )

    def tell_once(self, text: str) -> None:
        """A warning that every snapshot would repeat."""
        if text not in self.told:
            self.told.add(text)
            self.message(f"warning: {text}")

    def best(self) -> tuple[Path, Scored] | None:
        """The snapshot with the best score of the first metric, among those that are there; None where there is none.

        Only scores that compare with the newest one count: numbers of pictures, for one, may change as a run goes on.
        """
        if not self.metrics or not (self.folder / METRICS_FILE).is_file():
            return None
        wanted = scores_of(self.metrics[0])[0].name
        try:
            records = [record for record in read_records(self.folder / METRICS_FILE) if record.get("by") == _TRAINING]
        except DataError:
            return None
        known = [(record, scores_in(record).get(wanted)) for record in records]
        scored = [(str(record.get("snapshot")), score) for record, score in known if score is not None]
        best: tuple[Path, Scored] | None = None
        for name, score in scored:
            path = self.folder / SNAPSHOT_FOLDER / name
            if differences(score, scored[-1][1]) or not path.is_file():
                continue
            if best is None or is_better(wanted, score.value, best[1].value):
                best = path, score
        return best
