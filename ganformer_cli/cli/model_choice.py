"""What ``generate`` and ``eval`` share: which model they mean, and how it draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ganformer_cli.cli.options import option
from ganformer_cli.errors import SnapshotError

F = TypeVar("F", bound=Callable[..., Any])


def model_options(function: F) -> F:
    """``--model``, ``--expname`` and ``--result-dir``, as parameters ``model``, ``expname``, ``result_dir``."""
    model = option(
        "--model",
        "--pretrained-pkl",
        "model",
        metavar="RUN|FILE",
        group="Model",
        help="A run folder, whose newest snapshot is taken, or a snapshot file. Left out: see --expname.",
    )
    expname = option(
        "--expname",
        default=None,
        metavar="NAME",
        group="Model",
        help="Without --model: the name of the run. Left out: the run that saved last.",
    )
    result_dir = option(
        "--result-dir",
        type=click.Path(path_type=Path),
        default="results",
        group="Model",
        help="Without --model: the folder of the runs.",
    )
    return model(expname(result_dir(function)))


def psi_option(*, default: float, group: str, help: str) -> Callable[[F], F]:
    """``--truncation-psi``, a finite number."""

    def finite(ctx: click.Context, parameter: click.Parameter, value: float) -> float:
        if not math.isfinite(value):
            raise click.BadParameter(f"{value} is not a finite number; give one such as 0.7")
        return value

    return option("--truncation-psi", type=float, default=default, group=group, callback=finite, help=help)


def batch_size_option(*, help: str) -> Callable[[F], F]:
    """``--batch-size``."""
    return option("--batch-size", type=click.IntRange(min=1), default=16, group="Device", help=help)


def find_model(model: str | None, expname: str | None, result_dir: Path) -> Path:
    """The snapshot file that the options mean.

    Raises:
        SnapshotError: there is none.
        NotYetError: a file of the authors'.
    """
    from ganformer_cli.checkpoints import resolve_model, snapshots_of
    from ganformer_cli.training.run_folder import runs_of

    if model is not None:
        return resolve_model(model)
    if expname is None:
        runs = [path for path in result_dir.iterdir() if path.is_dir()] if result_dir.is_dir() else []
    else:
        runs = [*runs_of(result_dir, expname), result_dir / expname]
    # A run that has just begun has nothing to show yet.
    ready = [snapshots[-1] for snapshots in map(snapshots_of, runs) if snapshots]
    if not ready:
        what = f"--expname {expname}: no run of that name" if expname else f"--result-dir {result_dir}: no run"
        raise SnapshotError(
            f"{what} with a snapshot in {result_dir}; train one with ganformer train, or give --expname or --model"
        )
    return ready[-1] if expname else max(ready, key=lambda snapshot: snapshot.stat().st_mtime)


def run_of(snapshot: Path) -> Path | None:
    """The run folder that a snapshot file lies in, or None."""
    from ganformer_cli.checkpoints import SNAPSHOT_FOLDER
    from ganformer_cli.training.run_folder import CONFIG_FILE

    run = snapshot.resolve().parent.parent
    return run if snapshot.resolve().parent.name == SNAPSHOT_FOLDER and (run / CONFIG_FILE).is_file() else None
