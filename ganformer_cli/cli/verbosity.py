"""``--quiet`` and ``--log-file``."""

from __future__ import annotations

import os
from pathlib import Path

import click

from ganformer_cli.cli.options import combined, path_option, switch
from ganformer_cli.cli.output import VERBOSITY
from ganformer_cli.files import error_reason
from ganformer_cli.text import printable


def _set_quiet(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    VERBOSITY.quiet = bool(value)


def _set_log_file(ctx: click.Context, parameter: click.Parameter, path: Path | None) -> None:
    if path is None or ctx.resilient_parsing:
        return
    try:
        why = "is a folder; give a file" if path.is_dir() else ""
        why = why or ("" if path.parent.is_dir() else f"{path.parent} is not a folder; create it")
    except OSError as error:  # such as a name that is too long
        why = error_reason(error)
    if why:
        raise click.BadParameter(f"{printable(path)}: {why}", ctx=ctx, param=parameter)
    if os.environ.get("RANK", "0") == "0":  # one of several processes writes
        VERBOSITY.log_file = path


#: ``--quiet`` and ``--log-file``, which ``output`` and ``progress`` obey.
verbosity_options = combined(
    switch("--quiet", group="Output", is_eager=True, expose_value=False, callback=_set_quiet, help="Show no progress."),
    path_option(
        "--log-file",
        group="Output",
        is_eager=True,
        expose_value=False,
        callback=_set_log_file,
        metavar="FILE",
        rare=True,
        help="Append everything that is printed, and the progress, to a file, with the time.",
    ),
)
