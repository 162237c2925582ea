"""What the run folders of a result folder hold, read while they are written.

A folder may be of an earlier version, cut off in mid-line, or deleted meanwhile: what cannot be read is left out. Links
are not followed: nothing outside the result folder is shown.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ganformer_cli.checkpoints.run_folder import (
    CONFIG_FILE,
    ENVIRONMENT_FILE,
    EVENTS_FILE,
    LOG_FILE,
    METRICS_FILE,
    SAMPLE_FOLDER,
)
from ganformer_cli.checkpoints.run_lock import OWNER_FILE, is_training, read_owner
from ganformer_cli.files import without_nan
from ganformer_cli.metrics.records import finite_or_none, scores_in
from ganformer_cli.metrics.registry import SCORES, is_better
from ganformer_cli.visualization.palette import component_colour
from ganformer_cli.web.logs import Curves, LogReader, read_last, read_object

#: Runs of a result folder that are shown.
MAX_RUNS = 2000
#: Event at which a run ends by an error.
FAILED = "failed"
_SAMPLE = re.compile(r"(fakes|attention)-(\d{1,15})(?:_(\d{3}))?\.png|reals\.png")


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run."""
    has_more = any((folder / name).exists() for name in (SAMPLE_FOLDER, OWNER_FILE))
    return (folder / LOG_FILE).is_file() or (has_more and (folder / CONFIG_FILE).is_file())


def find_runs(folder: Path) -> list[Path]:
    """The folder itself if it is a run, else the runs in it, by name."""
    if is_run(folder):
        return [folder]
    try:
        runs = sorted(path for path in folder.iterdir() if not path.is_symlink() and path.is_dir() and is_run(path))
    except OSError:
        return []
    return runs[:MAX_RUNS]


def sample_files(run: Path) -> dict[str, list[tuple[float, str]]]:
    """Names of the grids by kind (``fakes``, ``attention``, ``reals``), each with its kimg, oldest first."""
    found: dict[str, list[tuple[float, str]]] = {"fakes": [], "attention": [], "reals": []}
    try:
        names = [] if (run / SAMPLE_FOLDER).is_symlink() else list((run / SAMPLE_FOLDER).iterdir())
    except OSError:
        names = []
    for path in names:
        match = _SAMPLE.fullmatch(path.name)
        if match and not path.is_symlink():
            found[match[1] or "reals"].append((int(match[2] or 0) + int(match[3] or 0) / 1000, match[0]))
    return {kind: sorted(files) for kind, files in found.items()}


class RunReader:
    """What is shown of one run. What has been read of its logs is not read again; threads may share it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._metrics, self._scores = LogReader(folder / METRICS_FILE), list[tuple[float | None, dict[str, float]]]()
        self._curves: Curves | None = None

    def summarize(self, *, ended: bool = False) -> dict[str, Any]:
        """One row of the table of runs.

        Args:
            ended: whether the process that holds the run's lock is about to end.

        Returns:
            ``name``, ``state`` (running, stopped, failed, finished), ``reason`` (of a failure), ``kimg``,
            ``total_kimg``, ``images_per_second``, ``seconds`` (of training), ``seconds_left``, ``scores`` (by name:
            ``last``, ``best``, ``best_kimg`` and ``better``: lower, higher or one), ``samples`` (number of grids),
            ``sample`` (name of the newest) and ``updated`` (when the log was, in seconds since 1970). What is unknown
            is None.
        """
        last = read_last(self.folder / LOG_FILE)
        train = read_object(self.folder / CONFIG_FILE).get("train")
        total = finite_or_none(train.get("total_kimg")) if isinstance(train, dict) else None
        kimg, sec_per_kimg = finite_or_none(last.get("kimg")), finite_or_none(last.get("sec_per_kimg"))
        state, reason = self._state(kimg, total, ended=ended)
        left = None
        if state == "running" and kimg is not None and total is not None and sec_per_kimg is not None:
            left = max(0.0, (total - kimg) * sec_per_kimg)
        fakes = sample_files(self.folder)["fakes"]
        with self._lock:
            self._read_scores()
            scores = _last_and_best(self._scores)
        return {
            "name": self.folder.name,
            "state": state,
            "reason": reason,
            "kimg": kimg,
            "total_kimg": total,
            "images_per_second": 1000 / sec_per_kimg if sec_per_kimg and sec_per_kimg > 0 else None,
            "seconds": finite_or_none(last.get("seconds")),
            "seconds_left": left,
            "scores": scores,
            "samples": len(fakes),
            "sample": fakes[-1][1] if fakes else None,
            "updated": self._updated(),
        }

    def describe(self, *, ended: bool = False) -> dict[str, Any]:
        """All that the page of one run shows, as plain JSON values.

        Returns:
            ``summarize``, and ``log`` and ``metrics`` (curves, see ``Curves.thinned``), ``recent`` (the last records of
            the log), ``events``, ``config``, ``environment``, ``files`` (grids) and ``components`` (their colours).
        """
        row = self.summarize(ended=ended)
        with self._lock:
            if self._curves is None:
                self._curves = Curves(self.folder / LOG_FILE)
            self._curves.update()
            curves, recent = self._curves.thinned(), list(self._curves.recent)
            known = [(kimg, scores) for kimg, scores in self._scores if kimg is not None]
        names = dict.fromkeys(name for _, scores in known for name in scores)
        metrics = {"kimg": [kimg for kimg, _ in known], **{n: [scores.get(n) for _, scores in known] for n in names}}
        _, events = LogReader(self.folder / EVENTS_FILE).read()
        config = read_object(self.folder / CONFIG_FILE)
        described = {
            **row,
            "log": curves,
            "metrics": {"step": 1, "length": len(known), "columns": metrics},
            "recent": recent,
            "events": list(events)[-500:],
            "config": config,
            "environment": read_object(self.folder / ENVIRONMENT_FILE),
            "files": sample_files(self.folder),
            "components": _component_colours(config),
        }
        return dict(without_nan(described))

    def _read_scores(self) -> None:
        goes_on, records = self._metrics.read()
        if not goes_on:
            self._scores.clear()
        for record in records:
            scores = {name: score.value for name, score in scores_in(record).items()}
            if scores:
                self._scores.append((finite_or_none(record.get("kimg")), scores))

    def _state(self, kimg: float | None, total: float | None, *, ended: bool) -> tuple[str, str | None]:
        """A process that ends by itself takes its ``lock.json`` away; one that was killed leaves it."""
        owner = read_owner(self.folder)
        if not ended and owner is not None and is_training(owner):
            return "running", None
        if kimg is not None and total is not None and kimg >= total:
            return "finished", None
        event = read_last(self.folder / EVENTS_FILE)
        if event.get("event") == FAILED and (kimg or 0.0) <= (finite_or_none(event.get("kimg")) or 0.0):
            return "failed", str(event.get("text"))
        if not ended and (self.folder / OWNER_FILE).exists():
            return "failed", "the process was killed, or the machine went down"
        return "stopped", None

    def _updated(self) -> float | None:
        for name in (LOG_FILE, CONFIG_FILE):
            try:
                return (self.folder / name).stat().st_mtime
            except OSError:
                continue
        return None


def _last_and_best(scored: list[tuple[float | None, dict[str, float]]]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for kimg, scores in scored:
        for name, value in scores.items():
            first = {"last": value, "best": value, "best_kimg": kimg, "better": SCORES[name].better}
            entry = found.setdefault(name, first)
            entry["last"] = value
            if is_better(name, value, entry["best"]):
                entry |= {"best": value, "best_kimg": kimg}
    return {name: found[name] for name in SCORES if name in found}


def _component_colours(config: Mapping[str, Any]) -> list[str]:
    """The colours of the components in maps of attention, as the page writes them; none without attention."""
    model = config.get("model")
    count = model.get("components_num") if isinstance(model, dict) and model.get("attention") != "none" else 0
    if not isinstance(count, int) or isinstance(count, bool) or not 0 < count <= 256:
        return []
    return ["#" + bytes(component_colour(index)).hex() for index in range(count)]
