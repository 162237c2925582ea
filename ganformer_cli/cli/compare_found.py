"""What ``ganformer compare`` tabulates: runs, other snapshots and images that have scores, and the paper's table."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganformer_cli.cli.kept_scores import SUFFIX, file_beside, identity, read_kept
from ganformer_cli.cli.model_choice import GDRIVE, run_of
from ganformer_cli.cli.options import warn
from ganformer_cli.config import BASELINES, ModelConfig, RunConfig
from ganformer_cli.config.names import quoted
from ganformer_cli.errors import ConfigError, DataError, SnapshotError

if TYPE_CHECKING:
    from ganformer_cli.metrics.records import ScoreValue
    from ganformer_cli.metrics.tabulate import ModelRow, ScoredRun

#: Files of scores that a command line may name themselves.
_FILES = (".json", ".jsonl")


@dataclass(frozen=True)
class Meant:
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
    """The scores that are meant, each with the name of its row.

    Raises:
        SnapshotError: there is no such run, snapshot or file, or none at all.
        DataError: none has scores.
    """
    from ganformer_cli.metrics.registry import SCORES
    from ganformer_cli.metrics.tabulate import ScoredRun

    meant = [find(text) for text in names] or find_all(result_dir)
    settings = [None if each.run is None else read_settings(each.run) for each in meant]
    of_runs = [(each.label, each.run, config) for each, config in zip(meant, settings, strict=True) if each.run]
    labels = iter(row_names(of_runs))
    found: list[tuple[ScoredRun, ScoresPart]] = []
    for each, config in zip(meant, settings, strict=True):
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
    return _told_apart(found)


# ----- Which -----


def find(text: str) -> Meant:
    """What ``[NAME=]PATH`` means: a run, a snapshot in one or elsewhere, images, or a file of scores.

    Raises:
        SnapshotError: there is no such thing.
    """
    from ganformer_cli.checkpoints.run_folder import CONFIG_FILE

    label, equals, rest = text.partition("=")
    named = bool(equals) and not Path(text).exists()
    name, place = (label, rest) if named else (None, text)
    if place.startswith(GDRIVE):
        from ganformer_cli.original_snapshots.catalogue import PUBLISHED, snapshot_path

        published = place.removeprefix(GDRIVE)
        if published not in PUBLISHED:
            raise SnapshotError(f"{place}: no such published model; see ganformer info --list")
        return Meant(name, snapshot_path(published))
    path = Path(place)
    if (path / CONFIG_FILE).is_file():
        return Meant(name, path, path)
    if path.is_file() and (run := run_of(path)) is not None:
        return Meant(name, path, run, path.name)
    if path.exists() or file_beside(path).is_file():
        return Meant(name, path)
    raise SnapshotError(
        f"{place}: no run folder, snapshot, images or file of scores; give one, for example results/NAME-000"
    )


def find_all(result_dir: Path) -> list[Meant]:
    """All runs in a folder, and the other things in it whose scores are kept beside them or in a file.

    Raises:
        SnapshotError: there is nothing.
    """
    from ganformer_cli.checkpoints.run_folder import CONFIG_FILE

    inside = sorted(result_dir.iterdir()) if result_dir.is_dir() else []
    found = [Meant(None, path, path) for path in inside if (path / CONFIG_FILE).is_file()]
    for path in inside:
        if path.name.endswith(SUFFIX) and path.is_file():
            scored = path.with_name(path.name.removesuffix(SUFFIX))
            found.append(Meant(None, scored if scored.exists() else path))
    if not found:
        raise SnapshotError(f"--result-dir {result_dir}: no runs there; name run folders, or give another folder")
    return found


# ----- Their scores -----


def of_run(meant: Meant, config: RunConfig | None, which: str, by: Sequence[str]) -> list[ScoresPart]:
    """The scores of a run's snapshot."""
    from ganformer_cli.checkpoints.run_folder import LOG_FILE, METRICS_FILE
    from ganformer_cli.metrics.records import is_finite_number, read_records, with_seconds
    from ganformer_cli.metrics.tabulate import scores_of_run

    file = (meant.run or meant.path) / METRICS_FILE
    records = read_records(file, warn) if file.exists() else []
    if meant.snapshot is not None:
        records = [record for record in records if record.get("snapshot") == meant.snapshot]
    kimg, scores = scores_of_run(records, "best" if which == "best" else "newest", by)
    if not scores:
        return []
    said = next(iter(scores.values())).conditions.get("dataset")
    dataset = str(said or (config.train.dataset if config else "?"))
    what = next((identity(record) for record in reversed(records) if record.get("kimg") == kimg), "")
    course = with_seconds(records, (meant.run or meant.path) / LOG_FILE)
    numbers = [{key: value for key, value in each.items() if is_finite_number(value)} for each in course]
    return [ScoresPart(None, dataset, kimg, scores, what, course=numbers)]


def of_others(path: Path) -> list[ScoresPart]:
    """The scores of another snapshot or of images, or those in a file, against each data set."""
    from ganformer_cli.metrics.records import is_finite_number, newest_scores, read_records, scores_in

    if path.is_file() and path.suffix in _FILES:
        records = read_records(path, warn)
    else:
        kept = read_kept(path)
        records = kept.records
        for note in kept.notes:
            warn(note)
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for record in records:
        if scores_in(record):
            groups.setdefault((_name(record, path), _dataset(record), identity(record)), []).append(record)
    parts = []
    for (name, dataset, what), some in groups.items():
        kimg = some[-1].get("kimg")
        parts.append(
            ScoresPart(
                name,
                dataset or "?",
                kimg if is_finite_number(kimg) else None,
                newest_scores(some),
                what,
                shares_row=_setting(some[-1]) is not None,
                course=_course(some[-1]),
            )
        )
    return parts


def _course(record: Mapping[str, Any]) -> list[dict[str, float]]:
    """The course of a sweep's run."""
    sweep = record.get("sweep")
    course = sweep.get("course") if isinstance(sweep, Mapping) else None
    points = [each for each in course if isinstance(each, Mapping)] if isinstance(course, list) else []
    return [{key: value for key, value in each.items() if isinstance(value, (int, float))} for each in points]


def _setting(record: Mapping[str, Any]) -> str | None:
    """The setting of a sweep that a record is of, if it is of one."""
    sweep = record.get("sweep")
    setting = sweep.get("setting") if isinstance(sweep, Mapping) else None
    return setting if isinstance(setting, str) else None


def _dataset(record: Mapping[str, Any]) -> str:
    provenance = record.get("provenance")
    return str(provenance.get("dataset") or "") if isinstance(provenance, Mapping) else ""


def _name(record: Mapping[str, Any], path: Path) -> str:
    """The row of what is no run: a sweep's setting, the snapshot's file name without its ending, or the images'."""
    if setting := _setting(record):
        return setting
    if isinstance(said := record.get("snapshot"), str) and said:
        return Path(said).stem
    if isinstance(said := record.get("images"), str) and said:
        return Path(said).name
    return path.name.removesuffix(SUFFIX)


def _told_apart(found: Sequence[tuple[ScoredRun, ScoresPart]]) -> list[ScoredRun]:
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


# ----- The paper's table -----


def reported_rows(datasets: Iterable[str]) -> dict[str, list[ModelRow]]:
    """The rows of the paper's table, by data set; what the user's own entry of the catalogue reports counts, too."""
    from ganformer_cli.data.catalogue import find_entry
    from ganformer_cli.metrics.tabulate import Cell, ModelRow

    rows = {}
    for name in datasets:
        try:
            entry = find_entry(name, Path("datasets"))
        except DataError as error:
            warn(str(error))
            continue
        if entry is None or entry.reported is None:
            continue
        said = entry.reported
        source = f"{said.source}; FID of {said.images} images, longer side {said.resolution}"
        rows[name] = [
            ModelRow(f"{model} (paper)", (), {"fid": Cell(value, None, 0)}, source) for model, value in said.fid.items()
        ]
    return rows


# ----- Names of rows -----


def read_settings(run: Path) -> RunConfig | None:
    """How a run was made; None, and a warning, where its configuration is of another version or damaged."""
    from ganformer_cli.checkpoints.run_folder import read_run_config

    try:
        return read_run_config(run)
    except ConfigError as error:
        warn(f"{error}. Its scores are shown under the run's name")
        return None


def row_names(runs: Sequence[tuple[str | None, Path, RunConfig | None]]) -> list[str]:
    """The row that each run belongs to.

    Runs that differ in nothing but their seed share one, named by the kind of network; where runs of one kind differ in
    more, or nobody knows, the run's name without its number tells them apart.
    """
    kinds = [label or (model_kind(config.model) if config else run_name(path)) for label, path, config in runs]
    ways: dict[str, set[str]] = {}
    for kind, (label, _, config) in zip(kinds, runs, strict=True):
        if label is None:
            ways.setdefault(kind, set()).add(way_of(config))
    return [
        kind if label or len(ways[kind]) == 1 or config is None else f"{kind} ({run_name(path)})"
        for kind, (label, path, config) in zip(kinds, runs, strict=True)
    ]


def way_of(config: RunConfig | None) -> str:
    """All settings that runs of one row share, as text."""
    from ganformer_cli.checkpoints.run_folder import MAY_CHANGE

    if config is None:
        return ""
    train = {name: value for name, value in config.train.to_dict().items() if name not in MAY_CHANGE | {"seed"}}
    return json.dumps([config.model.to_dict(), train], sort_keys=True)


def run_name(path: Path) -> str:
    """The name of a run without its number and without a seed at its end: ``duplex-seed1-000`` is ``duplex``."""
    return re.sub(r"([-_.]seed[-_.]?\d+)?-\d{3,}$", "", path.resolve().name) or path.resolve().name


def model_kind(config: ModelConfig) -> str:
    """The baseline that a network is, or its kind of attention."""
    if config.has_attention:
        return config.attention
    for name, values in BASELINES.items():
        # Where SAGAN attends follows from the size of the pictures.
        same = {"kgan": False, **values, "g_img2img": config.g_img2img if "g_img2img" in values else 0}
        if all(getattr(config, field) == value for field, value in same.items()) and (
            config.g_img2img > 0 or "g_img2img" not in values
        ):
            return name
    return config.attention
