"""``ganformer sweep``: a table of settings × seeds, trained and scored run by run."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path

import click

from ganformer_cli.cli.options import GroupedCommand, folder_option, json_option, option, section
from ganformer_cli.cli.output import echo, echo_json
from ganformer_cli.errors import ConfigError, GanformerError


@click.command("sweep", cls=GroupedCommand)
@click.argument("table", type=click.Path(path_type=Path), metavar="TABLE.toml")
@section("Sweep")
@folder_option(
    "--output-dir", required=True, metavar="FOLDER", help="Folder of the files of scores; runs and logs are below it."
)
@option("--at-once", type=click.IntRange(1, 1024), default=2, help="Runs that train at a time.")
@option("--threads", type=click.IntRange(1, 1024), default=1, help="CPU threads of each run.")
@json_option
def command(table: Path, output_dir: Path, at_once: int, threads: int, as_json: bool) -> None:
    """Train a table of settings and seeds, and write the scores of each run to a JSON file.

    The table contains options of ganformer train, without the dashes: those of all runs in [common], those of each
    setting in [settings.NAME]. The same command again resumes the sweep, and retries failed runs. It continues when the
    terminal is closed; Ctrl-C lets the runs save, and ends.

    \b
      seeds = [0, 1, 2]
      [common]
      total-kimg = 20
      [settings.simplex]
      attention = "simplex"
      [settings.duplex]
      attention = "duplex"

    \b
      ganformer sweep table.toml --output-dir sweep
      ganformer compare sweep/*.json --plot scores.png
    """
    from filelock import FileLock, Timeout

    from ganformer_cli.benchmarks.sweep import read_sweep, run_sweep, unfinished
    from ganformer_cli.cli.train import command as train
    from ganformer_cli.files import ensure_writable_folder

    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the terminal is closed: the runs inherit it, too
    runs = read_sweep(table)
    for run in runs:
        try:
            train.make_context("train", run.arguments(output_dir))
        except click.UsageError as error:
            raise ConfigError(f"{table}, settings.{run.setting}: {error.format_message()}") from error
    left = unfinished(runs, output_dir)
    say(f"{len(runs)} runs, {len(runs) - len(left)} of them done")
    ensure_writable_folder(output_dir, "--output-dir")
    try:
        with FileLock(output_dir / ".sweep.lock", timeout=0):
            failed = run_sweep(runs, output_dir, at_once=at_once, threads=threads, message=say)
    except Timeout as error:
        raise ConfigError(f"--output-dir {output_dir}: another sweep works there; wait for it, or end it") from error
    if as_json:
        done = [str(output_dir / f"{run.name}.json") for run in runs if run.name not in failed]
        echo_json({"done": done, "failed": failed})
    if failed:
        name, reason = next(iter(failed.items()))
        raise GanformerError(
            f"{len(failed)} of {len(runs)} runs failed; the first, {name}: {reason}. Their logs are in "
            f"{output_dir / 'logs'}; the same command tries them again"
        )


def say(text: str) -> None:
    """Print a line, unless the terminal is gone."""
    with contextlib.suppress(OSError):
        echo(text, err=True)
