"""Records of scores: lines of ``metrics.jsonl`` and answers of ``ganformer eval --json``, and when two of them compare.

A record holds the scores by name and, under ``provenance``, what they depend on: what all of them share, and under
``metrics`` what is each metric's own (version, feature network, numbers of pictures). Standard library only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from ganformer_cli.errors import DataError
from ganformer_cli.metrics.registry import SCORES

#: What two scores must share to be comparable, and how a difference is said.
CONDITIONS = {
    "version": "version of the metric",
    "network": "feature network",
    "weights_sha256": "weights of the feature network",
    "resize": "resize before the network",
    "num_reals": "number of real pictures",
    "num_fakes": "number of generated pictures",
    "dataset": "data set",
    "dataset_fingerprint": "pictures and preprocessing of the data set",
    "image_size": "size of the pictures",
    "fakes_size": "size of the generated pictures",
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
class Scored:
    """One score and everything that it depends on."""

    name: str
    value: float
    deviation: float | None = None  # where the metric itself tells one
    conditions: Mapping[str, Any] = field(default_factory=dict)  # of CONDITIONS, those that are known


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records in a ``metrics.jsonl`` or in a file that ``eval --json`` was written to, oldest first.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    found: list[Any] = []
    try:
        whole = json.loads(text)
        found = whole if isinstance(whole, list) else [whole]
    except ValueError:
        for line in text.splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue  # the last line of a killed run may be half written
    return [record for record in found if isinstance(record, dict)]


def scores_in(record: Mapping[str, Any]) -> dict[str, Scored]:
    """The scores of a record that are numbers, by name."""
    provenance = _object(record.get("provenance"))
    own = _object(provenance.get("metrics"))
    found = {}
    for name, score in SCORES.items():
        value = record.get(name)
        if not is_number(value):
            continue
        said = {**provenance, **_object(own.get(score.metric))}
        deviation = record.get(f"{name}_std")
        found[name] = Scored(
            name,
            float(value),
            float(deviation) if is_number(deviation) else None,
            {key: said[key] for key in CONDITIONS if said.get(key) is not None},
        )
    return found


def scored_snapshots(records: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """The records of each snapshot, by its name; the one that was trained longest comes last.

    What was scored without a model, or without saying how long that was trained, keeps its place among the others.
    """
    found: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        found.setdefault(str(record.get("snapshot", "")), []).append(record)

    def trained(item: tuple[str, list[Mapping[str, Any]]]) -> float:
        kimg = item[1][-1].get("kimg")
        return float(kimg) if is_number(kimg) else 0.0

    return dict(sorted(found.items(), key=trained))


def newest_scores(records: Iterable[Mapping[str, Any]]) -> dict[str, Scored]:
    """Of each score the last one in ``records``."""
    found: dict[str, Scored] = {}
    for record in records:
        found.update(scores_in(record))
    return found


def differences(one: Scored, other: Scored, *, leave_out: frozenset[str] = frozenset()) -> list[str]:
    """What the two depend on that is not the same, each said in words; what only one of them says counts, too.

    Args:
        one, other: the scores.
        leave_out: of ``CONDITIONS``, those that may differ.
    """
    return [
        f"{said} ({_shown(key, one.conditions.get(key))} and {_shown(key, other.conditions.get(key))})"
        for key, said in CONDITIONS.items()
        if key not in leave_out and one.conditions.get(key) != other.conditions.get(key)
    ]


def is_number(value: Any) -> TypeGuard[float]:
    """Whether this is a finite number, and no truth value."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _shown(key: str, value: Any) -> str:
    if value is None:
        return "not said"
    if key in ("weights_sha256", "dataset_fingerprint"):
        return str(value)[:8]
    if isinstance(value, list):
        return "x".join(map(str, reversed(value)))  # sizes are written height first
    return f"{value:g}" if isinstance(value, float) else str(value)
