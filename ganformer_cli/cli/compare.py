"""``ganformer compare``: the scores that runs have kept, as one table. Nothing is trained, nothing is scored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ganformer_cli.cli.compare_found import read_runs
from ganformer_cli.cli.compare_rows import reported_rows
from ganformer_cli.cli.completion import complete_models
from ganformer_cli.cli.options import (
    GroupedCommand,
    boolean_option,
    choice_option,
    file_option,
    given_options,
    json_option,
    option,
    path_option,
    section,
    switch,
    warn,
)
from ganformer_cli.cli.output import echo, echo_table, table_text
from ganformer_cli.errors import DataError
from ganformer_cli.outputs import check_output, write_output

if TYPE_CHECKING:
    from ganformer_cli.metrics.tabulate import ScoreTable
    from ganformer_cli.visualization.charts import BarPanel, LinePanel

#: Models in the order of the paper's table; others follow.
ORDER = ("GAN", "kGAN", "SAGAN", "StyleGAN2", "simplex", "duplex-equation", "duplex")


@click.command("compare", cls=GroupedCommand)
@click.argument("runs", nargs=-1, metavar="[[NAME=]RUN|FILE|FOLDER]...", shell_complete=complete_models)
@section("Runs")
@path_option("--result-dir", default="results", help="Folder of the runs to compare if none is named.")
@choice_option(
    "--snapshot",
    of=["newest", "best"],
    help="Snapshot that represents a run: the newest with scores, or the best in the first column.",
)
@section("Table")
@boolean_option("--paper", default=True, help="Also show the results of the paper on the same data set.")
@option("--metrics", metavar="NAMES", help="Metrics to show, as in ganformer eval.  [default: all]")
@choice_option("--format", "table_format", of=["text", "markdown", "csv", "json"], help="Format of the table.")
@file_option("--output", metavar="FILE", help="Write the table to a file instead of printing it.")
@file_option(
    "--plot",
    metavar="FILE.png|FILE.svg",
    help="Also plot it: bars with the deviation between runs, and each score over kimg and over time, with mean and "
    "spread of the seeds. Needs matplotlib (extra plots).",
)
@switch("--overwrite", help="Replace existing files of --output and --plot.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    runs: tuple[str, ...],
    result_dir: Path,
    snapshot: str,
    metrics: str | None,
    table_format: str,
    output: Path | None,
    plot: Path | None,
    overwrite: bool,
    as_json: bool,
    paper: bool,
) -> None:
    """Compare the metrics of runs in a table for each data set, as in the paper.

    Runs whose settings differ only in the seed form one row, mean ± standard deviation; NAME=RUN chooses the row of a
    run. Scores are read from metrics.jsonl, where training and ganformer eval write them. A warning says why scores do
    not compare.

    FILE may also be a snapshot (gdrive:NAME, too) and FOLDER a folder of images, scored by ganformer eval before; or
    FILE contains scores (eval --output, eval --json). Results of the paper on the same data set come last.

    \b
      ganformer compare                                 all runs in results
      ganformer compare --metrics fid,is,pr --format markdown
      ganformer compare mine=results/a-000 mine=results/a-001 theirs=results/b-000 --plot scores.png
      ganformer compare results/clevr-000 gdrive:clevr-snapshot.pkl samples-of-another-model
    """
    from ganformer_cli.metrics import tabulate
    from ganformer_cli.metrics.registry import METRICS, parse_metrics
    from ganformer_cli.visualization.charts import chart_format, draw_chart

    if as_json and table_format != "json":
        if "table_format" in given_options(ctx):
            raise click.UsageError(f"--json and --format {table_format} both choose the format; give one of them")
        table_format = "json"
    if plot is not None:
        chart_format(plot, "--plot")
    for path, name in ((output, "--output"), (plot, "--plot")):
        if path is not None:
            check_output(path, name, overwrite=overwrite)
    columns = None if metrics is None else [s.name for name in parse_metrics(metrics) for s in METRICS[name].scores]
    found = read_runs(runs, result_dir, snapshot, columns)
    reported = reported_rows({run.dataset for run in found}) if paper else {}
    tables = tabulate.tabulate(found, columns, ORDER, reported)
    if not any(each.scores for each in tables):
        raise DataError(
            f"--metrics {metrics}: no run has such scores; score them with ganformer eval --metrics {metrics}"
        )
    for warning in tabulate.warnings(tables):
        warn(warning)
    if table_format == "text" and output is None:
        print_tables(tables)
    else:
        formats = {
            "text": as_text,
            "markdown": tabulate.as_markdown,
            "csv": tabulate.as_csv,
            "json": tabulate.as_json,
        }
        written = formats[table_format](tables)
        if output is None:
            echo(written, lines=True)
        else:
            write_output(output, (written + "\n").encode("utf-8", "backslashreplace"), "--output", overwrite=overwrite)
    if plot is not None:
        content = draw_chart(plot_panels(tables), chart_format(plot, "--plot"))
        write_output(plot, content, "--plot", overwrite=overwrite)


# ----- Showing -----


def print_tables(tables: Sequence[ScoreTable]) -> None:
    """Print the tables for people."""
    from ganformer_cli.metrics.tabulate import sources_of, table_cells

    for number, table in enumerate(tables):
        if number:
            echo()
        heads, rows = table_cells(table)
        echo_table(heads, rows, title=table.dataset, right=heads[1:])
        for source in sources_of(table):
            echo(f"(paper): {source}")


def as_text(tables: Sequence[ScoreTable]) -> str:
    """The tables for people, for a file."""
    from ganformer_cli.metrics.tabulate import sources_of, table_cells

    parts = []
    for table in tables:
        heads, rows = table_cells(table)
        text = table_text(heads, rows, title=table.dataset, right=heads[1:])
        parts.append("\n".join([text, *(f"(paper): {source}" for source in sources_of(table))]))
    return "\n\n".join(parts)


def plot_panels(tables: Sequence[ScoreTable]) -> list[LinePanel | BarPanel]:
    """For each data set and score bars; and its course in training, over kimg and over time, where runs have one."""
    from ganformer_cli.metrics.registry import SCORES
    from ganformer_cli.metrics.tabulate import course_of
    from ganformer_cli.visualization.charts import Bar, BarPanel, Line, LinePanel

    panels: list[LinePanel | BarPanel] = []
    for table in tables:
        for name in table.scores:
            score, bars, over_kimg, over_time = SCORES[name], [], [], []
            title, label = f"{score.heading}, {table.dataset}", score.directed_heading
            for row in table.rows:
                cell = row.cells.get(name)
                mean, deviation = (None, None) if cell is None else (cell.mean, cell.deviation)
                shown = [None if value is None else score.shown(value) for value in (mean, deviation)]
                bars.append(Bar(row.model, *shown))
                points = course_of(row, name)
                if len(points) < 2:
                    continue
                y, spread = ([score.shown(p.mean) for p in points], [score.shown(p.deviation) for p in points])
                band = spread if any(spread) else None
                over_kimg.append(Line(row.model, [point.kimg for point in points], y, band))
                minutes = [point.seconds / 60 for point in points if point.seconds is not None]
                if len(minutes) == len(points):
                    over_time.append(Line(row.model, minutes, y, band))
            panels.append(BarPanel(title, bars, label))
            for lines, x_label in ((over_kimg, "kimg"), (over_time, "minutes of training")):
                panels += [LinePanel(title, lines, x_label=x_label, y_label=label)] if lines else []
    return panels
