"""Scores of several runs as one table, models by scores; runs of one model that differ in their seed are averaged.

Standard library only.
"""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from ganformer_cli.metrics.records import ScoreValue, differences, newest_scores, scored_snapshots
from ganformer_cli.metrics.registry import SCORES, is_better
from ganformer_cli.text import printable

#: Where the values are the best ones.
Which = Literal["newest", "best"]
#: Seeds differ between runs of one model; that is what they are averaged over.
_MAY_DIFFER = frozenset({"seed"})


@dataclass(frozen=True)
class ScoredRun:
    """The scores of one snapshot of a run."""

    path: str
    model: str  # runs of one name are one row
    dataset: str
    kimg: float | None
    scores: Mapping[str, ScoreValue]
    course: Sequence[Mapping[str, float]] = ()  # scores of all snapshots by name, with their kimg and seconds


@dataclass(frozen=True)
class Cell:
    """A score of one model: its mean over runs, and their standard deviation where there are several."""

    mean: float
    deviation: float | None
    runs: int


@dataclass(frozen=True)
class ModelRow:
    """A model."""

    model: str
    runs: tuple[ScoredRun, ...]
    cells: Mapping[str, Cell]  # by the score's name; without those that no run has
    source: str | None = None  # of values that somebody else has reported; such a row has no runs


@dataclass(frozen=True)
class ScoreTable:
    """The models of one data set."""

    dataset: str
    scores: tuple[str, ...]
    rows: tuple[ModelRow, ...]

    def best(self, score: str) -> float | None:
        """The best mean of a score among those that were measured."""
        found: float | None = None
        for row in self.rows:
            if score not in row.cells or row.source is not None:
                continue
            if found is None or is_better(score, row.cells[score].mean, found):
                found = row.cells[score].mean
        return found


def scores_of_run(
    records: Iterable[Mapping[str, Any]], which: Which, by: Sequence[str]
) -> tuple[float | None, dict[str, ScoreValue]]:
    """The scores of a run's snapshot, and how many kimg that has seen.

    Args:
        records: of the run, oldest first.
        which: the newest snapshot that has scores, or the best one.
        by: what the best one is the best in: the first of these scores that there is.
    """
    found = {name: (lines[-1].get("kimg"), newest_scores(lines)) for name, lines in scored_snapshots(records).items()}
    known = [(kimg, scores) for kimg, scores in found.values() if scores]
    if not known:
        return None, {}
    kimg, scores = known[-1]
    if which == "best":
        score = next((name for name in by if any(name in each for _, each in known)), None)
        for other_kimg, others in known:
            better = score in others and (
                score not in scores or is_better(score, others[score].value, scores[score].value)
            )
            if better:
                kimg, scores = other_kimg, others
    return kimg, scores


def tabulate(
    runs: Sequence[ScoredRun],
    scores: Sequence[str] | None,
    order: Sequence[str] = (),
    reported: Mapping[str, Sequence[ModelRow]] = MappingProxyType({}),
) -> list[ScoreTable]:
    """A table for each data set.

    Args:
        scores: the columns; None: every score that there is.
        order: models that come first.
        reported: rows of values that were reported elsewhere, by data set; they come last, where a column has any.
    """
    tables = []
    for dataset in dict.fromkeys(run.dataset for run in runs):
        here = [run for run in runs if run.dataset == dataset]
        asked = SCORES if scores is None else scores
        columns = tuple(name for name in asked if any(name in run.scores for run in here))
        names = list(dict.fromkeys(run.model for run in here))
        names.sort(key=lambda name: order.index(name) if name in order else len(order))
        rows = []
        for name in names:
            own = tuple(run for run in here if run.model == name)
            rows.append(ModelRow(name, own, {score: _cell(score, own) for score in columns if _values(score, own)}))
        rows += [row for row in reported.get(dataset, ()) if any(score in columns for score in row.cells)]
        tables.append(ScoreTable(dataset, columns, tuple(rows)))
    return tables


def _values(score: str, runs: Sequence[ScoredRun]) -> list[float]:
    return [run.scores[score].value for run in runs if score in run.scores]


def _cell(score: str, runs: Sequence[ScoredRun]) -> Cell:
    values = _values(score, runs)
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Cell(statistics.fmean(values), deviation, len(values))


class CoursePoint(NamedTuple):
    """A score of one model at one moment of training: its mean over runs and their standard deviation."""

    kimg: float
    seconds: float | None  # of training until then, the mean over runs
    mean: float
    deviation: float


def course_of(row: ModelRow, score: str) -> list[CoursePoint]:
    """How a score has changed in training, at the moments at which all runs of the row have one."""
    by_run = [{p["kimg"]: p for p in run.course if score in p and "kimg" in p} for run in row.runs]
    found = []
    for kimg in sorted(set.intersection(*map(set, by_run))) if by_run else []:
        points = [each[kimg] for each in by_run]
        values = [point[score] for point in points]
        seconds = [point["seconds"] for point in points if "seconds" in point]
        found.append(
            CoursePoint(
                kimg,
                statistics.fmean(seconds) if len(seconds) == len(points) else None,
                statistics.fmean(values),
                statistics.stdev(values) if len(values) > 1 else 0.0,
            )
        )
    return found


def warnings(tables: Sequence[ScoreTable]) -> list[str]:
    """What keeps numbers of one column from being comparable, each said once."""
    messages: dict[str, list[str]] = {}
    for table in tables:
        for score in table.scores:
            runs = [run for row in table.rows for run in row.runs if score in run.scores]
            for run in runs[1:]:
                for difference in differences(runs[0].scores[score], run.scores[score], leave_out=_MAY_DIFFER):
                    text = f"{runs[0].path} and {run.path} are not comparable, different {difference}"
                    messages.setdefault(text, []).append(score)
        for row in table.rows:
            lengths = sorted({f"{run.kimg:g}" for run in row.runs if run.kimg is not None}, key=float)
            if len(lengths) > 1:
                messages[f"the runs of {row.model} on {table.dataset} are averaged at {', '.join(lengths)} kimg"] = []
    return [f"{', '.join(scores)}: {text}" if scores else text for text, scores in messages.items()]


# ----- As text -----


def table_cells(table: ScoreTable, *, mark: str = "") -> tuple[list[str], list[list[str]]]:
    """Headings and cells; the best mean of each column stands between two ``mark``."""
    heads = ["model", *(SCORES[name].directed_heading for name in table.scores), "runs"]
    rows = []
    for row in table.rows:
        cells = [row.model]
        for name in table.scores:
            cell, score = row.cells.get(name), SCORES[name]
            text = "-" if cell is None else score.number(cell.mean)
            if cell is not None and cell.deviation is not None:
                text += f" ± {score.number(cell.deviation)}"
            is_best = cell is not None and row.source is None and cell.mean == table.best(name)
            cells.append(f"{mark}{text}{mark}" if is_best else text)
        rows.append([*cells, str(len(row.runs)) if row.source is None else "-"])
    return heads, rows


def sources_of(table: ScoreTable) -> list[str]:
    """Where the values come from that were not measured here, each once."""
    return list(dict.fromkeys(row.source for row in table.rows if row.source is not None))


def as_markdown(tables: Sequence[ScoreTable]) -> str:
    """Tables with the best mean of each column in bold."""
    lines = []
    for table in tables:
        heads, rows = table_cells(table, mark="**")
        lines += [f"### {printable(table.dataset)}", "", "| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
        lines += ["| " + " | ".join(printable(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
        lines += [line for source in sources_of(table) for line in ("", f"Reported, not measured: {source}")]
        lines.append("")
    return "\n".join(lines).rstrip("\n")


def as_csv(tables: Sequence[ScoreTable]) -> str:
    """One line a model and data set, numbers in full, deviations in columns of their own."""
    scores = list(dict.fromkeys(name for table in tables for name in table.scores))
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["dataset", "model", "runs", *(column for name in scores for column in (name, f"{name}_std"))])
    for table in tables:
        for row in table.rows:
            cells = [row.cells.get(name) for name in scores]
            numbers = [value for cell in cells for value in ((cell.mean, cell.deviation) if cell else (None, None))]
            writer.writerow([table.dataset, row.model, len(row.runs), *("" if n is None else repr(n) for n in numbers)])
    return stream.getvalue().rstrip("\n")


def as_json(tables: Sequence[ScoreTable]) -> str:
    """Everything, with the runs that went into each row."""
    value = [
        {
            "dataset": table.dataset,
            "models": [
                {
                    "model": row.model,
                    **({} if row.source is None else {"source": row.source}),
                    "runs": [
                        {"run": run.path, "kimg": run.kimg, **{name: run.scores[name].value for name in run.scores}}
                        for run in row.runs
                    ],
                    "scores": {
                        name: {"mean": cell.mean, "std": cell.deviation, "runs": cell.runs}
                        for name, cell in row.cells.items()
                    },
                }
                for row in table.rows
            ],
        }
        for table in tables
    ]
    return json.dumps(value, indent=2)
