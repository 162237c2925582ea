"""``ganformer compare``: the scores that runs have kept, as one table. Nothing is trained, nothing is scored."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ganformer_cli.cli.eval_report import table
from ganformer_cli.cli.options import GroupedCommand, boolean_option, given_options, json_option, option, warn
from ganformer_cli.cli.output import echo
from ganformer_cli.config import BASELINES, ModelConfig, RunConfig
from ganformer_cli.errors import ConfigError, DataError, SnapshotError
from ganformer_cli.outputs import check_output, write_output

if TYPE_CHECKING:
    from ganformer_cli.metrics.tabulate import Run, Table

#: Models in the order of the paper's table; others follow.
ORDER = ("GAN", "kGAN", "SAGAN", "StyleGAN2", "simplex", "duplex", "kmeans")


@click.command("compare", cls=GroupedCommand)
@click.argument("runs", nargs=-1, metavar="[[NAME=]RUN]...")
@option(
    "--result-dir",
    type=click.Path(path_type=Path),
    default="results",
    group="Runs",
    help="Where no run is named: the folder of the runs, all of which are taken.",
)
@option(
    "--snapshot",
    type=click.Choice(["newest", "best"]),
    default="newest",
    group="Runs",
    help="Which snapshot of a run speaks for it: the newest that has scores, or the best in the first column.",
)
@option(
    "--metrics",
    default=None,
    metavar="NAMES",
    group="Table",
    help="The columns, as ganformer eval names them.  [default: all that there are]",
)
@option(
    "--format",
    "form",
    type=click.Choice(["text", "markdown", "csv", "json"]),
    default="text",
    group="Table",
    help="How the table is written.",
)
@option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    group="Table",
    help="Write the table here instead of printing it. A file that is there is replaced with --overwrite only.",
)
@option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.png",
    group="Table",
    help="Also draw it: bars, and whiskers for the deviation between runs.",
)
@boolean_option("--overwrite", default=False, group="Table", help="Replace the files of --output and --plot.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    runs: tuple[str, ...],
    result_dir: Path,
    snapshot: str,
    metrics: str | None,
    form: str,
    output: Path | None,
    plot: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Tabulate the scores that runs have kept: models by scores, as in the paper, a table for each data set.

    Runs of one model whose settings differ in the seed alone become one row, mean ± standard deviation. NAME=RUN says
    which row a run belongs to. Scores come from metrics.jsonl, where training and ganformer eval write them; where they
    do not compare, a warning says why.

    \b
      ganformer compare                                 all runs in results
      ganformer compare --metrics fid,is,pr --format markdown
      ganformer compare mine=results/a-000 mine=results/a-001 theirs=results/b-000 --plot scores.png
    """
    from ganformer_cli.metrics import tabulate
    from ganformer_cli.metrics.registry import parse_metrics, scores_of

    if as_json and form != "json":
        if "form" in given_options(ctx):
            raise click.UsageError(f"--json and --format {form} each say how the table is written; give one of them")
        form = "json"
    if plot is not None and plot.suffix.lower() != ".png":
        raise click.UsageError(f"--plot {plot}: a PNG is drawn; give a name that ends in .png")
    for path, name in ((output, "--output"), (plot, "--plot")):
        if path is not None:
            check_output(path, name, overwrite=overwrite)
    columns = None if metrics is None else [s.name for name in parse_metrics(metrics) for s in scores_of(name)]
    found = read_runs(runs, result_dir, snapshot, columns)
    tables = tabulate.tabulate(found, columns, ORDER)
    if not any(each.scores for each in tables):
        raise DataError(
            f"--metrics {metrics}: no run has such scores; score them with ganformer eval --metrics {metrics}"
        )
    for warning in tabulate.warnings(tables):
        warn(warning)
    written = {
        "text": lambda: as_text(tables),
        "markdown": lambda: tabulate.as_markdown(tables),
        "csv": lambda: tabulate.as_csv(tables),
        "json": lambda: tabulate.as_json(tables),
    }[form]()
    if output is None:
        echo(written, lines=True)
    else:
        write_output(output, (written + "\n").encode("utf-8", "backslashreplace"), "--output", overwrite=overwrite)
    if plot is not None:
        draw(tables, plot, overwrite=overwrite)


def read_runs(names: Sequence[str], result_dir: Path, snapshot: str, columns: Sequence[str] | None) -> list[Run]:
    """The runs that are meant, each with its scores and the name of its row.

    Raises:
        SnapshotError: there is no such run, or none at all.
        DataError: none has scores.
    """
    from ganformer_cli.metrics.records import read_records
    from ganformer_cli.metrics.registry import SCORES
    from ganformer_cli.metrics.tabulate import Run, scores_of_run
    from ganformer_cli.training.run_folder import CONFIG_FILE, METRICS_FILE

    meant: list[tuple[str | None, Path]] = []
    for text in names:
        label, equals, folder = text.partition("=")
        meant.append((label, Path(folder)) if equals and not Path(text).exists() else (None, Path(text)))
        if not (meant[-1][1] / CONFIG_FILE).is_file():
            raise SnapshotError(f"{meant[-1][1]}: no run folder; give one, for example results/NAME-000")
    if not names:
        folders = sorted(result_dir.iterdir()) if result_dir.is_dir() else []
        meant = [(None, path) for path in folders if (path / CONFIG_FILE).is_file()]
        if not meant:
            raise SnapshotError(f"--result-dir {result_dir}: no runs there; name run folders, or give another folder")
    settings = [read_settings(path) for _, path in meant]
    labels = row_names([(label, path, config) for (label, path), config in zip(meant, settings, strict=True)])
    runs = []
    for (_, path), label, config in zip(meant, labels, settings, strict=True):
        records = read_records(path / METRICS_FILE) if (path / METRICS_FILE).is_file() else []
        kimg, scores = scores_of_run(records, "best" if snapshot == "best" else "newest", columns or list(SCORES))
        if not scores:
            warn(f"{path}: no scores yet; score it with ganformer eval --model {path}")
            continue
        said = next(iter(scores.values())).conditions.get("dataset")
        dataset = str(said or (config.train.dataset if config else "?"))
        runs.append(Run(path.as_posix(), label, dataset, kimg, scores))
    if not runs:
        raise DataError("none of these runs has scores; score them with ganformer eval")
    return runs


def read_settings(run: Path) -> RunConfig | None:
    """How a run was made; None where its configuration is of another version."""
    from ganformer_cli.training.run_folder import read_run_config

    with contextlib.suppress(ConfigError):
        return read_run_config(run)
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
    from ganformer_cli.training.run_folder import MAY_CHANGE

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


# ----- Showing -----


def as_text(tables: Sequence[Table]) -> str:
    """The tables for people."""
    from ganformer_cli.metrics.tabulate import as_rows

    parts = []
    for each in tables:
        heads, rows = as_rows(each)
        widths = [max(map(len, column)) + 2 for column in zip(heads, *rows, strict=True)]
        plain = [] if sys.stdout.isatty() else [tuple(heads)]
        text = table(tuple(heads), [*plain, *map(tuple, rows)], each.dataset, widths=widths)
        parts.append(text.rstrip("\n"))
    return "\n\n".join(parts)


def draw(tables: Sequence[Table], path: Path, *, overwrite: bool) -> None:
    """A panel for each data set and score."""
    from ganformer_cli.metrics.registry import SCORES
    from ganformer_cli.visualization.charts import Bar, Bars, bar_charts
    from ganformer_cli.visualization.encoding import encode

    panels = []
    for each in tables:
        for name in each.scores:
            bars = []
            for row in each.rows:
                cell = row.cells.get(name)
                bars.append(Bar(row.model, None) if cell is None else Bar(row.model, cell.mean, cell.deviation))
            panels.append(Bars(f"{SCORES[name].title}, {each.dataset}", bars))
    write_output(path, encode(bar_charts(panels), "png"), "--plot", overwrite=overwrite)
