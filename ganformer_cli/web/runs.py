"""What the run folders of a result folder hold, read while they are written.

A folder may be of an earlier version, cut off in mid-line, or deleted meanwhile: what cannot be read is left out.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ganformer_cli.checkpoints.run_folder import CONFIG_FILE, EVENTS_FILE, LOG_FILE, METRICS_FILE, SAMPLE_FOLDER
from ganformer_cli.checkpoints.run_lock import OWNER_FILE, is_training, read_owner
from ganformer_cli.errors import GanformerError
from ganformer_cli.files import read_json, read_json_lines
from ganformer_cli.metrics.records import is_finite_number, scores_in
from ganformer_cli.metrics.registry import SCORES

#: Points of a curve that a page receives; longer logs are thinned out.
MAX_POINTS = 4000
_SAMPLE = re.compile(r"(fakes|attention)-(\d{1,15})(?:_(\d{3}))?\.png|reals\.png")


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run."""
    return (folder / CONFIG_FILE).is_file() or (folder / LOG_FILE).is_file()


def find_runs(folder: Path) -> list[Path]:
    """The folder itself if it is a run, else the runs in it, by name."""
    if is_run(folder):
        return [folder]
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink() and is_run(path))
    except OSError:
        return []


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a log; empty if it cannot be read."""
    try:
        return [record for _, record in read_json_lines(path, damaged=lambda error: None, finite=False)]
    except (GanformerError, OSError):
        return []


def stored_config(run: Path) -> dict[str, Any]:
    """The configuration as the file holds it, of whatever version; empty if it cannot be read."""
    try:
        settings = read_json(run / CONFIG_FILE)
    except (GanformerError, OSError):
        return {}
    return settings if isinstance(settings, dict) else {}


def sample_files(run: Path) -> dict[str, list[tuple[float, str]]]:
    """Names of the grids by kind (``fakes``, ``attention``, ``reals``), each with its kimg, oldest first."""
    found: dict[str, list[tuple[float, str]]] = {"fakes": [], "attention": [], "reals": []}
    try:
        if (run / SAMPLE_FOLDER).is_symlink():
            return found
        names = [path.name for path in (run / SAMPLE_FOLDER).iterdir() if path.is_file() and not path.is_symlink()]
    except OSError:
        names = []
    for match in filter(None, map(_SAMPLE.fullmatch, names)):
        kimg = int(match[2] or 0) + int(match[3] or 0) / 1000
        found[match[1] or "reals"].append((kimg, match[0]))
    return {kind: sorted(files) for kind, files in found.items()}


def summarize(run: Path, log: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """One row of the table of runs.

    Returns:
        ``name``, ``state`` (running, stopped, failed, finished), ``kimg``, ``total_kimg``, ``images_per_second``,
        ``seconds_left``, ``scores`` (by name: ``last``, ``best``), ``samples`` (number of grids) and ``sample`` (name
        of the newest). What is unknown is None.
    """
    last = next(iter((read_lines(run / LOG_FILE) if log is None else log)[-1:]), {})
    train = stored_config(run).get("train")
    total = _number(train.get("total_kimg")) if isinstance(train, dict) else None
    kimg, sec_per_kimg = _number(last.get("kimg")), _number(last.get("sec_per_kimg"))
    state = _state(run, kimg, total)
    left = None
    if state == "running" and None not in (kimg, total, sec_per_kimg):
        left = max(0.0, (total - kimg) * sec_per_kimg)  # type: ignore[operator]
    fakes = sample_files(run)["fakes"]
    return {
        "name": run.name,
        "state": state,
        "kimg": kimg,
        "total_kimg": total,
        "images_per_second": 1000 / sec_per_kimg if sec_per_kimg else None,
        "seconds_left": left,
        "scores": _scores(read_lines(run / METRICS_FILE)),
        "samples": len(fakes),
        "sample": fakes[-1][1] if fakes else None,
    }


def without_nan(value: Any) -> Any:
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    if isinstance(value, dict):
        return {name: without_nan(part) for name, part in value.items()}
    return [without_nan(part) for part in value] if isinstance(value, (list, tuple)) else value


def describe_run(run: Path) -> dict[str, Any]:
    """Everything that the page of one run shows: its row, ``log``, ``metrics``, ``events``, ``config``, ``files``."""
    log = read_lines(run / LOG_FILE)
    return without_nan(
        {
            **summarize(run, log),
            "log": log[:: max(1, -(-len(log) // MAX_POINTS))],
            "metrics": read_lines(run / METRICS_FILE),
            "events": read_lines(run / EVENTS_FILE)[-500:],
            "config": stored_config(run),
            "files": sample_files(run),
        }
    )


def _state(run: Path, kimg: float | None, total: float | None) -> str:
    """A process that ends by itself takes its ``lock.json`` away; one that was killed leaves it."""
    owner = read_owner(run)
    if owner is not None and is_training(owner):
        return "running"
    if kimg is not None and total is not None and kimg >= total:
        return "finished"
    return "failed" if (run / OWNER_FILE).exists() else "stopped"


def _scores(records: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    values: dict[str, list[float]] = {}
    for record in records:
        for name, score in scores_in(record).items():
            values.setdefault(name, []).append(score.value)
    return {name: {"last": found[-1], "best": _best(name, found)} for name, found in values.items()}


def _best(name: str, values: list[float]) -> float:
    better = SCORES[name].better
    if better == "higher":
        return max(values)
    return min(values) if better == "lower" else min(values, key=lambda value: abs(value - 1))


def _number(value: Any) -> float | None:
    return float(value) if is_finite_number(value) else None
