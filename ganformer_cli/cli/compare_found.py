"""What ``ganformer compare`` tabulates: runs, other snapshots and images that have scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganformer_cli.cli.compare_rows import read_settings, row_names
from ganformer_cli.cli.model_choice import GDRIVE, HUB, run_of
from ganformer_cli.cli.options import warn
from ganformer_cli.config import RunConfig
from ganformer_cli.config.names import quoted
from ganformer_cli.errors import DataError, SnapshotError

if TYPE_CHECKING:
    from ganformer_cli.metrics.records import ScoreValue
    from ganformer_cli.metrics.tabulate import ScoredRun

#: Files of scores that a command line may name themselves.
_FILES = (".json", ".jsonl")


@dataclass(frozen=True)
class Target:
    """One thing that is tabulated."""

    label: str | None  # of its row, where the user gave one
    path: Path
    run: Path | None = None  # the run that it is, or lies in
    snapshot: str | None = None  # the one of that run that is meant; None: the newest or the best


@dataclass(frozen=True)
class ScoresPart:
    """The scores of one thing against one data set, before it has a row."""

    name: str | None  # of the row; None: a run's settings say it
    dataset: str
    kimg: float | None
    scores: Mapping[str, ScoreValue]
    identity: str  # of what was scored; empty where nobody knows
    shares_row: bool = False  # with others of its name: seeds of one setting
    course: Sequence[Mapping[str, float]] = ()  # as ``ScoredRun`` has it


def read_runs(names: Sequence[str], result_dir: Path, snapshot: str, columns: Sequence[str] | None) -> list[ScoredRun]:
    """The scores that are target, each with the name of its row.

    Raises:
        SnapshotError: there is no such run, snapshot or file, or none at all.
        DataError: none has scores.
    """
    from ganformer_cli.metrics.registry import SCORES
    from ganformer_cli.metrics.tabulate import ScoredRun

    targets = [find(text) for text in names] or find_all(result_dir)
    settings = [None if each.run is None else read_settings(each.run) for each in targets]
    of_runs = [(each.label, each.run, config) for each, config in zip(targets, settings, strict=True) if each.run]
    labels = iter(row_names(of_runs))
    found: list[tuple[ScoredRun, ScoresPart]] = []
    for each, config in zip(targets, settings, strict=True):
        label = each.label if each.run is None else next(labels)
        parts = of_run(each, config, snapshot, columns or list(SCORES)) if each.run else of_others(each.path)
        if not parts:
            option = "--model" if each.run or not each.path.is_dir() else "--images"
            how = f"{option} {quoted(str(each.path))}"
            warn(f"{each.path}: no scores yet; score it with ganformer eval {how}")
        for part in parts:
            name = label or part.name or "?"
            run = ScoredRun(each.path.as_posix(), name, part.dataset, part.kimg, part.scores, part.course)
            found.append((run, replace(part, name=None) if label else part))
    if not found:
        raise DataError("none of these runs has scores; score them with ganformer eval")
    return _unique_rows(found)


# ----- Which -----


def find(text: str) -> Target:
    """What ``[NAME=]PATH`` means: a run, a snapshot in one or elsewhere, images, or a file of scores.

    Raises:
        SnapshotError: there is no such thing.
    """
    from ganformer_cli.checkpoints.run_folder import CONFIG_FILE
    from ganformer_cli.metrics.kept import file_beside

    label, equals, rest = text.partition("=")
    named = bool(equals) and not Path(text).exists()
    name, place = (label, rest) if named else (None, text)
    if place.startswith(GDRIVE):
        from ganformer_cli.original_snapshots.catalogue import PUBLISHED, snapshot_path

        published = place.removeprefix(GDRIVE)
        if published not in PUBLISHED:
            raise SnapshotError(f"{place}: no such published model; see ganformer info --list")
        return Target(name, snapshot_path(published))
    if place.startswith(HUB):
        from ganformer_cli.downloads.hub import hub_copy, parse_hub_address

        if (copy := hub_copy(parse_hub_address(place, "MODEL"))) is None:
            raise SnapshotError(f"{place}: was not downloaded yet, so has no scores; see ganformer eval --model")
        return Target(name, copy)
    path = Path(place)
    if (path / CONFIG_FILE).is_file():
        return Target(name, path, path)
    if path.is_file() and (run := run_of(path)) is not None:
        return Target(name, path, run, path.name)
    if path.exists() or file_beside(path).is_file():
        return Target(name, path)
    raise SnapshotError(
        f"{place}: no run folder, snapshot, images or file of scores; give one, for example results/NAME-000"
    )


def find_all(result_dir: Path) -> list[Target]:
    """All runs in a folder, and the other things in it whose scores are kept beside them or in a file.

    Raises:
        SnapshotError: there is nothing.
    """
    from ganformer_cli.checkpoints.run_folder import CONFIG_FILE
    from ganformer_cli.metrics.kept import SUFFIX

    inside = sorted(result_dir.iterdir()) if result_dir.is_dir() else []
    found = [Target(None, path, path) for path in inside if (path / CONFIG_FILE).is_file()]
    for path in inside:
        if path.name.endswith(SUFFIX) and path.is_file():
            scored = path.with_name(path.name.removesuffix(SUFFIX))
            found.append(Target(None, scored if scored.exists() else path))
    if not found:
        raise SnapshotError(f"--result-dir {result_dir}: no runs there; name run folders, or give another folder")
    return found


# ----- Their scores -----


def of_run(target: Target, config: RunConfig | None, which: str, by: Sequence[str]) -> list[ScoresPart]:
    """The scores of a run's snapshot."""
    from ganformer_cli.checkpoints.run_folder import LOG_FILE, METRICS_FILE
    from ganformer_cli.metrics.kept import identity
    from ganformer_cli.metrics.records import finite_numbers, read_records, with_seconds
    from ganformer_cli.metrics.tabulate import scores_of_run

    file = (target.run or target.path) / METRICS_FILE
    records = read_records(file, warn) if file.exists() else []
    if target.snapshot is not None:
        records = [record for record in records if record.get("snapshot") == target.snapshot]
    kimg, scores = scores_of_run(records, "best" if which == "best" else "newest", by)
    if not scores:
        return []
    scored_on = next(iter(scores.values())).conditions.get("dataset")
    dataset = str(scored_on or (config.train.dataset if config else "?"))
    what = next((identity(record) for record in reversed(records) if record.get("kimg") == kimg), "")
    course = [finite_numbers(each) for each in with_seconds(records, (target.run or target.path) / LOG_FILE)]
    return [ScoresPart(None, dataset, kimg, scores, what, course=course)]


def of_others(path: Path) -> list[ScoresPart]:
    """The scores of another snapshot or of images, or those in a file, against each data set."""
    from ganformer_cli.metrics.kept import identity, read_kept
    from ganformer_cli.metrics.records import finite_or_none, newest_scores, provenance_of, read_records, scores_in

    if path.is_file() and path.suffix in _FILES:
        records = read_records(path, warn)
    else:
        kept = read_kept(path)
        records = kept.records
        for text in kept.warnings:
            warn(text)
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for record in records:
        if scores_in(record):
            dataset = str(provenance_of(record).get("dataset") or "?")
            groups.setdefault((_name(record, path), dataset, identity(record)), []).append(record)
    parts = []
    for (name, dataset, what), some in groups.items():
        parts.append(
            ScoresPart(
                name,
                dataset,
                finite_or_none(some[-1].get("kimg")),
                newest_scores(some),
                what,
                shares_row=_setting(some[-1]) is not None,
                course=_course(some[-1]),
            )
        )
    return parts


def _sweep(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a sweep has said of its run."""
    sweep = record.get("sweep")
    return sweep if isinstance(sweep, Mapping) else {}


def _course(record: Mapping[str, Any]) -> list[dict[str, float]]:
    """The course of a sweep's run."""
    from ganformer_cli.metrics.records import finite_numbers

    course = _sweep(record).get("course")
    points = [each for each in course if isinstance(each, Mapping)] if isinstance(course, list) else []
    return [finite_numbers(each) for each in points]


def _setting(record: Mapping[str, Any]) -> str | None:
    """The setting of a sweep that a record is of, if it is of one."""
    setting = _sweep(record).get("setting")
    return setting if isinstance(setting, str) else None


def _name(record: Mapping[str, Any], path: Path) -> str:
    """The row of what is no run: a sweep's setting, the snapshot's file name without its ending, or the images'."""
    from ganformer_cli.metrics.kept import SUFFIX

    if setting := _setting(record):
        return setting
    if isinstance(name := record.get("snapshot"), str) and name:
        return Path(name).stem
    if isinstance(name := record.get("images"), str) and name:
        return Path(name).name
    return path.name.removesuffix(SUFFIX)


def _unique_rows(found: Sequence[tuple[ScoredRun, ScoresPart]]) -> list[ScoredRun]:
    """Nothing twice, since one snapshot at two paths is no second run; and no row of two things but of runs."""
    kept: list[tuple[ScoredRun, ScoresPart]] = []
    for run, part in found:
        for place, (other, known) in enumerate(kept):
            if part.identity and (known.identity, other.dataset) == (part.identity, run.dataset):
                if run.path != other.path:
                    warn(f"{run.path} has the same checksum as {other.path} and counts once")
                # What only one of them has been scored by is not lost.
                kept[place] = replace(other, scores={**run.scores, **other.scores}), known
                break
        else:
            kept.append((run, part))
    rows = Counter((run.dataset, run.model) for run, _ in kept)
    return [
        replace(run, model=f"{run.model} ({part.identity[:8] or run.path})")
        if part.name is not None and not part.shares_row and rows[run.dataset, run.model] > 1
        else run
        for run, part in kept
    ]
