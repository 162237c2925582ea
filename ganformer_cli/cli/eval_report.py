"""What ``ganformer eval`` says: scores as text, their course over a run, and two sets of scores side by side."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganformer_cli.cli.kept_scores import file_beside, read_kept
from ganformer_cli.cli.options import warn
from ganformer_cli.cli.output import Rendered, cell
from ganformer_cli.errors import DataError, OutputError
from ganformer_cli.text import printable

if TYPE_CHECKING:
    from ganformer_cli.metrics.metric import Score
    from ganformer_cli.metrics.records import ScoreValue

CURVE = "metrics.png"

_DIRECTIONS = {"lower": "lower is better", "higher": "higher is better", "one": "1 is best"}
Row = tuple[str, ...]


def score_text(record: Mapping[str, Any]) -> str:
    """The scores of one model as text; a table where it is read on a terminal."""
    from ganformer_cli.metrics.registry import SCORES

    provenance = record["provenance"]
    rows: list[Row] = []
    for name, score in SCORES.items():
        if name not in record:
            continue
        note = (score.explanation or _DIRECTIONS[score.better]) + _floor_text(record, score)
        if f"{name}_std" in record:
            note += f"; ± {score.text(record[f'{name}_std'])}"
        own = provenance["metrics"].get(score.metric, {})
        if own.get("resize") == "clean":
            note += "; clean resize"
        rows.append((name, score.text(record[name]), note))
        rows += [(f"  {level}", score.number(value), "") for level, value in record.get(f"{name}_levels", {}).items()]
    reals, fakes = provenance["num_reals"], provenance["num_fakes"]
    numbers = f"{fakes} images of each" if reals == fakes else f"{fakes} images and {reals} real ones"
    psi, only = provenance.get("truncation_psi"), provenance["class"]
    title = (
        f"{record['title']} against {provenance['dataset']}: {numbers}"
        f"{'' if psi is None else f', truncation psi {psi:g}'}, seed {provenance['seed']}"
        f"{'' if only is None else f', class {only}'}"
    )
    return table(("score", "value", ""), rows, title, widths=(12, 8))


def _floor_text(record: Mapping[str, Any], score: Score) -> str:
    floor = record.get(f"{score.name}_floor")
    if floor is None:
        return ""
    images = record.get(f"{score.name}_floor_images")
    same = images == record["provenance"]["metrics"][score.metric]["num_reals"]
    return f"; two sets of reals: {score.number(floor)}{'' if same else f' ({images} images)'}"


def table(columns: Row, rows: Sequence[Row], title: str, *, widths: Sequence[int]) -> str:
    """Rows of text below a title: with a frame on a terminal, plain elsewhere. All but the first and last to the right.

    Args:
        columns: headings, for a terminal.
        rows: the cells.
        title: the first line.
        widths: of the columns that have one, where it is plain.
    """
    title = printable(title, limit=4000, lines=True)
    rows = [tuple(map(cell, row)) for row in rows]
    if not sys.stdout.isatty():
        lines = [title]
        for first, *others in rows:
            cells = [f"{first:<{widths[0]}}"]
            for number, text in enumerate(others, 1):
                cells.append(f"{text:>{widths[number]}}" if number < len(widths) else f"  {text}")
            lines.append("".join(cells).rstrip())
        return "\n".join(lines) + "\n"
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    made = Table(*columns, title=Text(title), title_justify="left", box=box.SIMPLE_HEAD)
    for column in made.columns[1 : len(widths)]:
        column.justify = "right"
    for row in rows:
        made.add_row(*map(Text, row))
    console = Console(file=sys.stdout)
    with console.capture() as capture:
        console.print(made)
    return Rendered(capture.get())


def curve_text(records: Sequence[Mapping[str, Any]], curve: Path | None) -> str:
    """The scores of all snapshots of a run, a line each."""
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
    title = f"{len(records)} snapshots against {provenance['dataset']}: {provenance['num_fakes']} images"
    heads = ("kimg", *(f"{name} %" if SCORES[name].percent else name for name in names))
    widths = [max(len(str(cell)) for cell in column) + 2 for column in zip(heads, *rows, strict=True)]
    plain = [] if sys.stdout.isatty() else [heads]
    text = table(heads, [*plain, *rows], title, widths=widths)
    return text if curve is None else type(text)(f"{text}curve {cell(curve)}\n")


def draw_curve(run: Path, records: Sequence[Mapping[str, Any]]) -> Path | None:
    """The course of the scores as a picture in the run folder; None where there is nothing to draw, or no place."""
    from ganformer_cli.metrics.registry import SCORES
    from ganformer_cli.sampling.image_files import save_png
    from ganformer_cli.visualization.charts import Curve, curves

    panels = []
    for name, score in SCORES.items():
        known = [record for record in records if name in record and record["kimg"] is not None]
        if len(known) > 1:
            places, values = [record["kimg"] for record in known], [score.shown(record[name]) for record in known]
            floor = known[-1].get(f"{name}_floor")
            panels.append(Curve(score.heading, places, values, floor))
    if not panels:
        return None
    try:
        save_png(run / CURVE, curves(panels, "kimg"))
    except OutputError as error:
        warn(f"the curve was not drawn: {error}")
        return None
    return run / CURVE


# ----- Comparing -----


def compare_records(one: Path, other: Path, *, as_json: bool) -> tuple[str, list[str]]:
    """The scores of two runs, snapshots or files of scores side by side, and what keeps them from being comparable.

    Raises:
        DataError: one holds no scores, or they have none in common.
    """
    from ganformer_cli.metrics.records import differences
    from ganformer_cli.metrics.registry import SCORES

    sides = [scores_at(path) for path in (one, other)]
    shared = [name for name in SCORES if all(name in side for side in sides)]
    if not shared:
        found = " and ".join(", ".join(side) for side in sides)
        raise DataError(f"--compare {one} {other}: no score in common ({found}); score both with the same --metrics")
    rows, warnings = [], dict[str, list[str]]()
    for name in shared:
        for difference in differences(sides[0][name], sides[1][name]):
            warnings.setdefault(difference, []).append(name)
        a, b, score = sides[0][name].value, sides[1][name].value, SCORES[name]
        rows.append((name, score.text(a), score.text(b), score.text(b - a, "+")))
    told = [f"{', '.join(names)}: not comparable, another {text}" for text, names in warnings.items()]
    if as_json:
        value = {
            "a": str(one),
            "b": str(other),
            "scores": {name: {"a": sides[0][name].value, "b": sides[1][name].value} for name in shared},
            "differences": {name: differences(sides[0][name], sides[1][name]) for name in shared},
        }
        return json.dumps(value, indent=2), told
    heads = ("score", "A", "B", "B - A")
    plain = [] if sys.stdout.isatty() else [heads]
    text = table(heads, [*plain, *rows], f"A {cell(one)}\nB {cell(other)}", widths=(12, 12, 12, 12))
    return type(text)(text.rstrip("\n")), told


def scores_at(path: Path) -> dict[str, ScoreValue]:
    """The newest scores of a run's newest scored snapshot, of a snapshot, or in a file of scores.

    Raises:
        DataError: there are none.
    """
    from ganformer_cli.checkpoints.run_folder import METRICS_FILE
    from ganformer_cli.cli.model_choice import run_of
    from ganformer_cli.metrics.records import newest_scores, read_records, scored_snapshots

    beside = file_beside(path)
    if beside.is_file() and run_of(path) is None:
        kept = read_kept(path)
        if found := newest_scores(kept.records):
            return found
        raise DataError(f"--compare {'; '.join(kept.notes) or f'{path}: no scores in {beside}'}; score it again")
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
