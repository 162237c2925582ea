"""``ganformer runs``: the runs of a result folder as a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ganformer_cli.cli.options import GroupedCommand, json_option
from ganformer_cli.cli.output import echo, echo_json, echo_table
from ganformer_cli.errors import ConfigError


@click.command("runs", cls=GroupedCommand)
@click.argument("folder", metavar="[DIR]", default="results", type=click.Path(path_type=Path))
@json_option
def command(folder: Path, as_json: bool) -> None:
    """List the runs in DIR, by default results: their state, speed, time left, scores and samples."""
    from ganformer_cli.web.runs import RunReader, find_runs

    rows = [RunReader(run).summarize() for run in find_runs(existing_folder(folder))]
    if as_json:
        echo_json(rows)
    elif not rows:
        echo(f"{folder}: no runs; ganformer train begins one")
    else:
        columns = ("run", "state", "kimg", "of", "images/s", "left", "scores (best)", "samples")
        echo_table(columns, [_row(run) for run in rows], right={"kimg", "of", "images/s", "left", "samples"})


def existing_folder(folder: Path) -> Path:
    """The folder that DIR names.

    Raises:
        ConfigError: it is none.
    """
    if not folder.is_dir():
        raise ConfigError(f"DIR {folder}: no such folder; give a result folder, or a run in it")
    return folder.resolve()


def _row(run: dict[str, Any]) -> tuple[str, ...]:
    scores = ", ".join(f"{name} {value['last']:.4g} ({value['best']:.4g})" for name, value in run["scores"].items())
    left = run["seconds_left"]
    return (
        run["name"],
        run["state"],
        _number(run["kimg"]),
        _number(run["total_kimg"]),
        _number(run["images_per_second"]),
        "" if left is None else f"{int(left) // 3600}:{int(left) // 60 % 60:02}:{int(left) % 60:02}",
        scores,
        str(run["samples"]),
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
