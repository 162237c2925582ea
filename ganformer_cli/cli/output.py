"""The one way to stdout and stderr: what commands say holds other people's text, and a terminal obeys what it is sent.

Everything is printed with :func:`echo` or :func:`echo_json`, which spell out what is no visible character.
"""

from __future__ import annotations

import codecs
import json
import sys
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
    """Print a value as JSON, for programs; on a terminal it is as harmless.

    It is UTF-8 whatever the console or pipe: what would be encoded otherwise is escaped.
    """
    ascii = ascii or not _is_utf8(getattr(sys.stdout, "encoding", None))
    click.echo(visible_json(json.dumps(value, indent=indent, ensure_ascii=ascii)))


def _is_utf8(encoding: str | None) -> bool:
    try:
        return codecs.lookup(encoding or "ascii").name == "utf-8"
    except LookupError:
        return False


#: How our own signs are spelled where a console or pipe has no Unicode.
_PLAIN = {
    "↓": "v", "↑": "^", "→": "->", "←": "<-", "…": "...", "±": "+-", "×": "x", "·": "*", "²": "^2",
    "−": "-", "–": "-", "—": "-", "‘": "'", "’": "'", "“": '"', "”": '"', "≤": "<=", "≥": ">=", "≈": "~",
}  # fmt: skip
PLAIN_ERRORS = "ganformer-plain"


def _plain(error: UnicodeError) -> tuple[str, int]:
    """A codec's error handler: letters that the encoding lacks, spelled plainly or, in names, by their number."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    said = (_PLAIN.get(letter) or letter.encode("ascii", "backslashreplace").decode("ascii") for letter in letters)
    return "".join(said), error.end


def spell_out_what_is_lacking() -> None:
    """Let stdout and stderr of this process spell what their encoding lacks: a message is no reason to crash."""
    codecs.register_error(PLAIN_ERRORS, _plain)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=PLAIN_ERRORS)


def cell(text: object) -> str:
    """Text as it may stand in a table."""
    return printable(text, limit=1000)
