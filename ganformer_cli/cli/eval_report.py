"""What ``ganformer eval`` prints: scores, their course over a run, and two sets of scores side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganformer_cli.cli.model_choice import run_of
from ganformer_cli.cli.options import warn
from ganformer_cli.cli.output import echo, echo_json, echo_table
from ganformer_cli.errors import ConfigError, DataError, OutputError
from ganformer_cli.files import write_bytes

if TYPE_CHECKING:
    from ganformer_cli.metrics.metric import Score
    from ganformer_cli.metrics.records import ScoreValue

CURVE = "metrics.png"

_DIRECTIONS = {"lower": "lower is better", "higher": "higher is better", "one": "1 is best"}


def echo_scores(scored: str, record: Mapping[str, Any]) -> None:
    """Print the scores of one model, or of images, called ``scored``."""
    from ganformer_cli.metrics.registry import SCORES

    provenance = record["provenance"]
    rows = []
    for name, score in SCORES.items():
        if name not in record:
            continue
        text = (score.explanation or _DIRECTIONS[score.better]) + _floor_text(record, score)
        if f"{name}_std" in record:
            text += f"; ± {score.text(record[f'{name}_std'])}"
        if provenance["metrics"].get(score.metric, {}).get("resize") == "clean":
            text += "; clean resize"
        rows.append((name, score.text(record[name]), text))
        rows += [(f"  {level}", score.number(value), "") for level, value in record.get(f"{name}_levels", {}).items()]
    reals, fakes = provenance["num_reals"], provenance["num_fakes"]
    numbers = f"{fakes} images of each" if reals == fakes else f"{fakes} images and {reals} real ones"
    psi, only = provenance.get("truncation_psi"), provenance["class"]
    title = (
        f"{scored} against {provenance['dataset']}: {numbers}{'' if psi is None else f', truncation psi {psi:g}'}, "
        f"seed {provenance['seed']}{'' if only is None else f', class {only}'}"
    )
    echo_table(("score", "value", ""), rows, title=title, right=("value",))


def _floor_text(record: Mapping[str, Any], score: Score) -> str:
    floor = record.get(f"{score.name}_floor")
    if floor is None:
        return ""
    images = record.get(f"{score.name}_floor_images")
    same = images == record["provenance"]["metrics"][score.metric]["num_reals"]
    return f"; two sets of reals: {score.number(floor)}{'' if same else f' ({images} images)'}"


def echo_curve(records: Sequence[Mapping[str, Any]], curve: Path | None) -> None:
    """Print the scores of all snapshots of a run, and where their ``curve`` is drawn."""
    from ganformer_cli.metrics.registry import SCORES

    names = [name for name in SCORES if any(name in record for record in records)]
    rows = [
        (
            "?" if record["kimg"] is None else f"{record['kimg']:g}",
            *(SCORES[name].number(record[name]) if name in record else "-" for name in names),
        )
        for record in records
    ]
    provenance = records[0]["provenance"]
    columns = ("kimg", *(f"{name} %" if SCORES[name].percent else name for name in names))
    title = f"{len(records)} snapshots against {provenance['dataset']}: {provenance['num_fakes']} images"
    echo_table(columns, rows, title=title, right=columns)
    if curve is not None:
        echo(f"curve {curve}")


def draw_curve(run: Path, records: Sequence[Mapping[str, Any]]) -> Path | None:
    """The course of the scores as a chart in the run folder; None, with a warning, where it cannot be drawn."""
    from ganformer_cli.metrics.registry import SCORES
    from ganformer_cli.visualization.charts import Line, LinePanel, draw_chart

    panels = []
    for name, score in SCORES.items():
        known = [record for record in records if name in record and record["kimg"] is not None]
        if len(known) > 1:
            places, values = [record["kimg"] for record in known], [score.shown(record[name]) for record in known]
            floor = known[-1].get(f"{name}_floor")
            lines = [Line(name, places, values)]
            panels.append(LinePanel(score.heading, lines, floor, x_label="kimg", y_label=score.directed_heading))
    if not panels:
        return None
    try:
        write_bytes(run / CURVE, draw_chart(panels))
    except (OutputError, ConfigError) as error:
        warn(f"the curve was not drawn: {error}")
        return None
    return run / CURVE


def echo_comparison(one: Path, other: Path, *, as_json: bool) -> None:
    """Print the scores of two runs, snapshots or files of scores, and warn of what keeps them from being comparable.

    Raises:
        DataError: one holds no scores, or they have none in common.
    """
    from ganformer_cli.metrics.records import differences
    from ganformer_cli.metrics.registry import SCORES

    a, b = scores_at(one), scores_at(other)
    shared = [name for name in SCORES if name in a and name in b]
    if not shared:
        found = " and ".join(", ".join(scores) for scores in (a, b))
        raise DataError(f"--compare {one} {other}: no score in common ({found}); score both with the same --metrics")
    different = {name: differences(a[name], b[name]) for name in shared}
    for text in dict.fromkeys(text for texts in different.values() for text in texts):
        names = ", ".join(name for name in shared if text in different[name])
        warn(f"{names}: not comparable, different {text}")
    if as_json:
        values = {name: {"a": a[name].value, "b": b[name].value} for name in shared}
        echo_json({"a": str(one), "b": str(other), "scores": values, "differences": different})
        return
    rows = []
    for name in shared:
        score, first, second = SCORES[name], a[name].value, b[name].value
        rows.append((name, score.text(first), score.text(second), score.text(second - first, "+")))
    echo(f"A {one}")
    echo(f"B {other}")
    echo_table(("score", "A", "B", "B - A"), rows, right=("A", "B", "B - A"))


def scores_at(path: Path) -> dict[str, ScoreValue]:
    """The newest scores of a run's newest scored snapshot, of a snapshot, or in a file of scores.

    Raises:
        DataError: there are none.
    """
    from ganformer_cli.checkpoints.run_folder import METRICS_FILE
    from ganformer_cli.metrics.kept import file_beside, read_kept
    from ganformer_cli.metrics.records import newest_scores, read_records, scored_snapshots

    beside = file_beside(path)
    if beside.is_file() and run_of(path) is None:
        kept = read_kept(path)
        if found := newest_scores(kept.records):
            return found
        raise DataError(f"--compare {'; '.join(kept.warnings) or f'{path}: no scores in {beside}'}; score it again")
    run = path if path.is_dir() else run_of(path) if path.suffix == ".safetensors" else None
    file = path if run is None else run / METRICS_FILE
    if not file.is_file():
        raise DataError(f"--compare {path}: no scores there ({file.name} is missing); score it with ganformer eval")
    snapshots = scored_snapshots(read_records(file, warn))
    wanted = path.name if run is not None and not path.is_dir() else next(reversed(snapshots), "")
    scores = newest_scores(snapshots.get(wanted, []))
    if not scores:
        raise DataError(
            f"--compare {path}: no scores of {wanted or 'anything'} in {file}; score it with ganformer eval"
        )
    return scores
