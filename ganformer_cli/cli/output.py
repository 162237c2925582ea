"""The one way to stdout and stderr: what commands say holds other people's text, and a terminal obeys what it is sent.

Everything is printed with :func:`echo` or :func:`echo_json`, which spell out what is no visible character.
"""

from __future__ import annotations

import json
from typing import IO, Any

import click

from ganformer_cli.files import visible_json
from ganformer_cli.text import printable

LONGEST_LINE = 10_000


class Rendered(str):
    """Text for a terminal, colours included, drawn by rich from cells that went through :func:`cell`."""


def echo(
    text: str = "", *, err: bool = False, nl: bool = True, lines: bool = False, file: IO[Any] | None = None
) -> None:
    """Print a line; or several, if ``lines``: then foreign text in it must have gone through :func:`cell`."""
    if not isinstance(text, Rendered):
        text = printable(text, limit=None if lines else LONGEST_LINE, lines=lines)
    click.echo(text, file=file, err=err, nl=nl)


def echo_json(value: Any, *, indent: int | None = 2, ascii: bool = True) -> None:
    """Print a value as JSON, for programs; on a terminal it is as harmless."""
    click.echo(visible_json(json.dumps(value, indent=indent, ensure_ascii=ascii)))


def cell(text: object) -> str:
    """Text as it may stand in a table."""
    return printable(text, limit=1000)
