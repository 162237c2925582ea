"""``ganformer doctor``: checks this machine, and says what to do about what is missing."""

from __future__ import annotations

import importlib
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import click

from ganformer_cli import __version__
from ganformer_cli.cli.options import GroupedCommand, json_option
from ganformer_cli.cli.output import echo_json, echo_table

MARKS = {"good": "ok", "note": "--", "bad": "!!"}
COLOURS = {"ok": "green", "--": "yellow", "!!": "red"}
INSTALL_TORCH = "install it again as described at https://pytorch.org/get-started/locally/"


@click.command("doctor", cls=GroupedCommand)
@json_option
def command(as_json: bool) -> None:
    """Check this machine: torch, GPUs, compilers and the native operators.

    Operators that have not been built yet are built, and all are compared with plain torch. Rows marked !! say what to
    do; without it, everything still works, only slower. The status is 1 only if training cannot run at all.
    """
    rows = list(_rows())
    blocked = any(row["blocks"] for row in rows)
    if as_json:
        echo_json({"version": __version__, "can_train": not blocked, "checks": rows})
    else:
        remedies = [("-> " + row["remedy"],) if row["remedy"] else () for row in rows]
        table = [(MARKS[r["state"]], r["name"], (r["found"], *more)) for r, more in zip(rows, remedies, strict=True)]
        echo_table(("", "", ""), table, colours=COLOURS)
    if blocked:
        raise click.exceptions.Exit(1)


def _rows() -> Iterator[dict[str, Any]]:
    """The rows as JSON values; only two without torch."""
    found = f"{platform.python_version()} ({sys.executable}), {platform.system()} {platform.machine()}"
    yield _row("Python", "good", found, details={"version": platform.python_version(), "path": sys.executable})
    try:
        importlib.import_module("torch")
    except Exception as error:  # a damaged installation raises anything: OSError for a library, AttributeError
        said = " ".join(str(error).split()) or type(error).__name__
        yield _row("torch", "bad", f"cannot be imported: {said}", INSTALL_TORCH, blocks=True)
        return
    from ganformer_cli.operators.checks import all_checks

    yield from map(asdict, all_checks())


def _row(name: str, state: str, found: str, remedy: str = "", **more: Any) -> dict[str, Any]:
    return {"name": name, "state": state, "found": found, "remedy": remedy, "blocks": False, "details": {}, **more}
