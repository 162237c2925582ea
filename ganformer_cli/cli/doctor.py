"""``ganformer doctor``: what this machine has for the work, and what to do about what it lacks."""

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
from ganformer_cli.cli.output import Rendered, cell, echo, echo_json

#: How a row is marked, and coloured on a terminal.
MARKS = {"good": ("ok", "green"), "note": ("--", "yellow"), "bad": ("!!", "red")}
INSTALL_TORCH = "install it again, as https://pytorch.org/get-started/locally/ says for this machine"


@click.command("doctor", cls=GroupedCommand)
@json_option
def command(as_json: bool) -> None:
    """Look at what this machine has for the work: torch, graphics cards, compilers, and the operators.

    The operators are built if they are not there yet, tried, and compared with plain torch. Rows marked !! say what to
    do; the work goes on without what they lack, only slower. The status is 1 only if training cannot run at all.
    """
    rows = list(_rows())
    blocked = any(row["blocks"] for row in rows)
    if as_json:
        echo_json({"version": __version__, "can_train": not blocked, "checks": rows})
    else:
        echo(_table(rows), nl=False, lines=True)
    if blocked:
        raise click.exceptions.Exit(1)


def _rows() -> Iterator[dict[str, Any]]:
    """The rows of the table as JSON values; without torch there are two."""
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


def _table(rows: list[dict[str, Any]]) -> str:
    """The rows as text, a remedy below its row; a coloured table where it is read on a terminal."""
    if not sys.stdout.isatty():
        width = max(len(row["name"]) for row in rows)
        lines = []
        for row in rows:
            lines.append(f"{MARKS[row['state']][0]}  {row['name']:<{width}}  {cell(row['found'])}")
            if row["remedy"]:
                lines.append(f"    {'':<{width}}  -> {cell(row['remedy'])}")
        return "\n".join(lines) + "\n"
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("", "", "found", title=f"ganformer {__version__}", title_justify="left", box=box.SIMPLE_HEAD)
    table.columns[1].no_wrap = True
    for row in rows:
        mark, colour = MARKS[row["state"]]
        found = Text(cell(row["found"]))  # a Text, because paths may hold square brackets
        if row["remedy"]:
            found.append(f"\n-> {cell(row['remedy'])}", style="bold")
        table.add_row(Text(mark, style=colour), Text(row["name"]), found)
    console = Console(file=sys.stdout)
    with console.capture() as capture:
        console.print(table)
    return Rendered(capture.get())
