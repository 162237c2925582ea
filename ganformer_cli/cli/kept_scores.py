"""Where ``ganformer eval`` keeps scores: a run's in its ``metrics.jsonl``, others in a file beside what was scored."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganformer_cli.cli.model_choice import run_of
from ganformer_cli.cli.options import warn
from ganformer_cli.errors import ConfigError, GanformerError, OutputError
from ganformer_cli.files import MAX_LINE, error_reason, open_regular, parse_json, why_no_file

if TYPE_CHECKING:
    from ganformer_cli.metrics.records import ScoreValue


def scores_file(snapshot: Path) -> Path:
    """Where the scores of a snapshot are kept: in its run, if it lies in one, else beside it."""
    from ganformer_cli.checkpoints.run_folder import METRICS_FILE
    from ganformer_cli.metrics.kept import file_beside

    run = run_of(snapshot)
    return file_beside(snapshot) if run is None else run / METRICS_FILE


def snapshot_scores(snapshot: Path, digest: str) -> dict[str, ScoreValue]:
    """The newest score of each metric that is kept for a snapshot, by name; ``NAME_floor``: of two sets of real images.

    Args:
        snapshot: the file.
        digest: its sha256; scores of another file of this name are left out.
    """
    from ganformer_cli.metrics.records import is_finite_number, provenance_of, read_records, scores_in

    kept, of_run = scores_file(snapshot), run_of(snapshot) is not None
    found: dict[str, ScoreValue] = {}
    for record in read_records(kept, warn) if kept.is_file() else ():
        provenance = provenance_of(record)
        if (of_run and record.get("snapshot") != snapshot.name) or provenance.get("snapshot_sha256", digest) != digest:
            continue
        for name, score in scores_in(record).items():
            found[name] = score
            if is_finite_number(floor := record.get(f"{name}_floor")):
                found[f"{name}_floor"] = replace(score, name=f"{name}_floor", value=floor, deviation=None)
    return found


def add_record(file: Path, record: Mapping[str, Any]) -> None:
    """One more line in a file of scores.

    Raises:
        OutputError: it cannot be written to.
    """
    from ganformer_cli.checkpoints.run_folder import append_record

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{file.parent}: cannot be made ({error_reason(error)})") from error
    append_record(file, dict(record))


def check_scores_file(file: Path) -> None:
    """Raise ConfigError unless ``file``, to which scores will be added, is free or holds scores already."""
    if not os.path.lexists(file):
        return
    if why := why_no_file(file):
        raise ConfigError(f"--output {file}: {why}; name a file of scores, or a new one")
    try:
        with open_regular(file) as stream:
            first = stream.readline(MAX_LINE)
    except OSError as error:
        raise ConfigError(
            f"--output {file}: cannot be read ({error_reason(error)}); name another file, or a new one"
        ) from error
    if first and not _is_record(first):
        raise ConfigError(
            f"--output {file}: exists and does not hold scores, a JSON object a line; name another file, or a new one"
        )


def _is_record(line: bytes) -> bool:
    try:
        found = parse_json(line, "", finite=False)
    except GanformerError:
        return False
    return isinstance(found, dict) and "provenance" in found
