"""The only way to stdout and stderr: output holds other people's text, and a terminal obeys escape sequences.

Everything is printed with :func:`echo`, :func:`echo_json` or :func:`echo_table`, which escape invisible characters.
"""

from __future__ import annotations

import codecs
import datetime
import json
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import IO, Any

import click

from ganformer_cli.files import error_reason, visible_json
from ganformer_cli.text import printable

MAX_LINE_LENGTH = 10_000


class Verbosity:
    """What ``--quiet`` and ``--log-file`` ask for, in this process."""

    quiet = False  # show no progress
    log_file: Path | None = None  # gets a copy of all lines

    def reset(self) -> None:
        """Forget both, before another command."""
        self.quiet, self.log_file = False, None

    def log(self, text: str) -> None:
        """Append lines with the time to the log file, which is not kept open."""
        if self.log_file is None or not text.strip():
            return
        now = datetime.datetime.now().isoformat(sep=" ", timespec="seconds")
        try:
            with self.log_file.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.writelines(f"{now}  {line}\n" for line in text.strip("\n").splitlines())
        except OSError as error:
            path, self.log_file = self.log_file, None
            echo(f"warning: --log-file {path}: {error_reason(error)}; continuing without it", err=True)


VERBOSITY = Verbosity()


class Rendered(str):
    """Text for a terminal, colours included, drawn by rich from cells that went through :func:`cell`."""


def echo(
    text: str = "", *, err: bool = False, nl: bool = True, lines: bool = False, file: IO[Any] | None = None
) -> None:
    """Print a line; or several, if ``lines``: then foreign text in it must have gone through :func:`cell`."""
    if not isinstance(text, Rendered):
        text = printable(text, limit=None if lines else MAX_LINE_LENGTH, lines=lines)
    click.echo(text, file=file, err=err, nl=nl)
    VERBOSITY.log(text)


def echo_json(value: Any, *, indent: int | None = 2, ascii: bool = True) -> None:
    """Print a value as JSON, for programs, with invisible characters escaped.

    It is UTF-8 whatever the console or pipe: on another encoding, everything but ASCII is escaped.
    """
    ascii = ascii or not _is_utf8(getattr(sys.stdout, "encoding", None))
    click.echo(visible_json(json.dumps(value, indent=indent, ensure_ascii=ascii)))


def echo_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str | tuple[str, ...]]],
    *,
    title: str = "",
    right: Collection[str] = (),
    colours: Mapping[str, str] | None = None,
) -> None:
    """Print a table: drawn by rich on a terminal, elsewhere as aligned columns below the title.

    Args:
        columns: headings; if all are empty, there is no line of headings.
        rows: texts; a tuple is a cell of several lines.
        title: the first line.
        right: headings of the columns that are aligned on the right.
        colours: of cells on a terminal, by their text.
    """
    if sys.stdout.isatty():
        echo(_draw(columns, _cells(rows), title, right, colours or {}), nl=False)
    else:
        echo(table_text(columns, rows, title=title, right=right), lines=True)


def table_text(
    columns: Sequence[str],
    rows: Iterable[Sequence[str | tuple[str, ...]]],
    *,
    title: str = "",
    right: Collection[str] = (),
) -> str:
    """A table as aligned columns; arguments as for ``echo_table``."""
    lines = [tuple(columns)] if any(columns) else []
    lines += [line for row in _cells(rows) for line in zip_longest(*row, fillvalue="")]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [printable(title, limit=MAX_LINE_LENGTH)] if title else []
    for line in lines:
        aligned = (
            part.rjust(width) if name in right else part.ljust(width)
            for name, part, width in zip(columns, line, widths, strict=True)
        )
        text.append("  ".join(aligned).rstrip())
    return "\n".join(text)


def _cells(rows: Iterable[Sequence[str | tuple[str, ...]]]) -> list[list[list[str]]]:
    return [[[cell(line) for line in ((text,) if isinstance(text, str) else text)] for text in row] for row in rows]


def _draw(
    columns: Sequence[str],
    cells: Sequence[Sequence[Sequence[str]]],
    title: str,
    right: Collection[str],
    colours: Mapping[str, str],
) -> Rendered:
    # rich takes a tenth of a second to import, so only for terminals.
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(cell(title)) if title else None, title_justify="left", box=box.SIMPLE_HEAD)
    table.show_header = any(columns)
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left")
    for row in cells:
        # A Text, because names may hold square brackets, which are markup elsewhere.
        table.add_row(*(Text("\n".join(lines), style=colours.get(lines[0], "")) for lines in row))
    console = Console(file=sys.stdout)
    with console.capture() as capture:
        console.print(table)
    return Rendered(capture.get())


def _is_utf8(encoding: str | None) -> bool:
    try:
        return codecs.lookup(encoding or "ascii").name == "utf-8"
    except LookupError:
        return False


#: Replacements of the signs in our own messages where a console or pipe has no Unicode.
_PLAIN = {
    "↓": "v", "↑": "^", "→": "->", "←": "<-", "…": "...", "±": "+-", "×": "x", "·": "*", "²": "^2",
    "−": "-", "–": "-", "—": "-", "‘": "'", "’": "'", "“": '"', "”": '"', "≤": "<=", "≥": ">=", "≈": "~",
}  # fmt: skip
PLAIN_ERRORS = "ganformer-plain"


def _plain(error: UnicodeError) -> tuple[str, int]:
    """A codec's error handler: characters that the encoding lacks are replaced or, in names, escaped."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    said = (_PLAIN.get(letter) or letter.encode("ascii", "backslashreplace").decode("ascii") for letter in letters)
    return "".join(said), error.end


def replace_unencodable() -> None:
    """Let stdout and stderr of this process replace characters that their encoding lacks, instead of raising."""
    codecs.register_error(PLAIN_ERRORS, _plain)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=PLAIN_ERRORS)


def error_text(error: Exception) -> str:
    """What an error says; of the system's, the file and the reason."""
    if not isinstance(error, OSError):
        return str(error)
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error_reason(error)}"


def cell(text: object) -> str:
    """Text for a table: on one line, cut to 1000 characters."""
    return printable(text, limit=1000)
