"""Records of scores: lines of ``metrics.jsonl`` and answers of ``ganformer eval --json``, and when two of them compare.

A record holds the scores by name and, under ``provenance``, what they depend on: what all of them share, and under
``metrics`` what is each metric's own (version, feature network, numbers of images). Standard library only.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from ganformer_cli.errors import DataError, GanformerError
from ganformer_cli.files import read_json, read_json_lines, read_regular
from ganformer_cli.metrics.registry import SCORES
from ganformer_cli.text import printable

#: What two scores must share to be comparable, and how a difference is named.
CONDITIONS = {
    "version": "version of the metric",
    "network": "feature network",
    "weights_sha256": "weights of the feature network",
    "resize": "resize before the network",
    "num_reals": "number of real images",
    "num_fakes": "number of generated images",
    "dataset": "data set",
    "dataset_fingerprint": "images and preprocessing of the data set",
    "image_size": "size of the images",
    "fakes_size": "size of the generated images",
    "class": "class",
    "truncation_psi": "truncation psi",
    "noise_mode": "noise",
    "seed": "seed",
    "precision": "precision",
    "device": "kind of device",
    "torch": "version of torch",
    "ganformer": "version of ganformer",
}


@dataclass(frozen=True)
class ScoreValue:
    """One score and everything that it depends on."""

    name: str
    value: float
    deviation: float | None = None  # where the metric itself tells one
    conditions: Mapping[str, Any] = field(default_factory=dict)  # of CONDITIONS, those that are known


def read_records(path: Path, notice: Callable[[str], None] | None = None) -> list[dict[str, Any]]:
    """The records in a ``metrics.jsonl`` or in a file that ``eval --json`` was written to, oldest first.

    The last line of a run that was killed may be half written, and is left out.

    Args:
        notice: called with a warning about each other damaged line, which is left out; None: they are errors.

    Raises:
        DataError: the file cannot be read.
    """
    if path.suffix != ".jsonl":
        try:
            whole = read_json(path, finite=False)
        except DataError:
            # Several answers, one behind the other? If not, what is wrong with the whole is what counts.
            with contextlib.suppress(DataError):
                return [record for _, record in read_json_lines(path, finite=False)]
            raise
        return [record for record in (whole if isinstance(whole, list) else [whole]) if isinstance(record, dict)]
    damaged: list[GanformerError] = []
    records = [record for _, record in read_json_lines(path, damaged=damaged.append, finite=False)]
    if damaged:
        lines = read_regular(path).split(b"\n")
        half = f"{path}, line {len(lines)}: " if lines[-1] else None
        for error in damaged:
            if half is None or not str(error).startswith(half):
                if notice is None:
                    raise error
                notice(f"{error}; the line is left out")
    return records


def scores_in(record: Mapping[str, Any]) -> dict[str, ScoreValue]:
    """The scores of a record that are numbers, by name."""
    provenance = provenance_of(record)
    own = _object(provenance.get("metrics"))
    found = {}
    for name, score in SCORES.items():
        value = record.get(name)
        if not is_finite_number(value):
            continue
        conditions = {**provenance, **_object(own.get(score.metric))}
        found[name] = ScoreValue(
            name,
            float(value),
            finite_or_none(record.get(f"{name}_std")),
            {key: conditions[key] for key in CONDITIONS if conditions.get(key) is not None},
        )
    return found


def provenance_of(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the scores of a record depend on; empty where it does not say."""
    return _object(record.get("provenance"))


def scored_snapshots(records: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """The records of each snapshot, by its name; the one that was trained longest comes last.

    What was scored without a model, or without saying how long that was trained, keeps its place among the others.
    """
    found: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        found.setdefault(str(record.get("snapshot", "")), []).append(record)

    def trained(item: tuple[str, list[Mapping[str, Any]]]) -> float:
        return finite_or_none(item[1][-1].get("kimg")) or 0.0

    return dict(sorted(found.items(), key=trained))


def newest_scores(records: Iterable[Mapping[str, Any]]) -> dict[str, ScoreValue]:
    """Of each score the last one in ``records``."""
    found: dict[str, ScoreValue] = {}
    for record in records:
        found.update(scores_in(record))
    return found


def with_seconds(records: Iterable[Mapping[str, Any]], log: Path) -> list[dict[str, Any]]:
    """Records of a run's snapshots, with the ``seconds`` of training behind each.

    Args:
        records: of one run.
        log: the run's ``log.jsonl``, whose ticks have ``kimg`` and ``seconds``; in between it is interpolated.
    """
    known = [(0.0, 0.0)]
    if log.is_file():
        for _, tick in read_json_lines(log, damaged=lambda error: None):
            if is_finite_number(tick.get("kimg")) and is_finite_number(tick.get("seconds")):
                known.append((tick["kimg"], tick["seconds"]))
    found = []
    for record in records:
        kimg = record.get("kimg")
        if len(known) > 1 and is_finite_number(kimg):
            (x0, y0), (x1, y1) = next(
                (pair for pair in zip(known, known[1:], strict=False) if kimg <= pair[1][0]), known[-2:]
            )
            fraction = min(1.0, (kimg - x0) / (x1 - x0)) if x1 > x0 else 1.0
            record = {**record, "seconds": round(y0 + fraction * (y1 - y0), 3)}
        found.append(dict(record))
    return found


def differences(one: ScoreValue, other: ScoreValue, *, leave_out: frozenset[str] = frozenset()) -> list[str]:
    """What the two depend on that is not the same, each said in words; what only one of them says counts, too.

    Args:
        leave_out: of ``CONDITIONS``, those that may differ.
    """
    return [
        f"{words} ({_shown(key, one.conditions.get(key))} and {_shown(key, other.conditions.get(key))})"
        for key, words in CONDITIONS.items()
        if key not in leave_out and one.conditions.get(key) != other.conditions.get(key)
    ]


def is_finite_number(value: Any) -> TypeGuard[float]:
    """Whether this is a finite number, and no truth value."""
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) < 2**1000  # the largest that become a float
    return isinstance(value, float) and math.isfinite(value)


def finite_or_none(value: Any) -> float | None:
    """``value`` as a float if it is a finite number, else None."""
    return float(value) if is_finite_number(value) else None


def finite_numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """What in a record is a finite number, by name."""
    return {name: value for name, value in record.items() if is_finite_number(value)}


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _shown(key: str, value: Any) -> str:
    if value is None:
        return "not said"
    if key in ("weights_sha256", "dataset_fingerprint"):
        return printable(value)[:8]
    if isinstance(value, list):
        return printable("x".join(map(str, reversed(value))), limit=100)  # sizes are written height first
    return f"{value:g}" if isinstance(value, float) else printable(value, limit=100)
