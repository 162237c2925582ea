"""Writes ``docs/cli.md``, the reference of all commands and options, from the commands.

In a checkout: ``python -m ganformer_cli.cli.reference``. A test fails if the page is stale.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import click

from ganformer_cli import __version__
from ganformer_cli.cli.main import COMMANDS, program
from ganformer_cli.cli.options import GroupedCommand
from ganformer_cli.cli.output import echo
from ganformer_cli.files import write_bytes

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cli.md"

_INTRODUCTION = """\
# The command line

Generated from the commands by `python -m ganformer_cli.cli.reference`; do not edit it by hand.

`ganformer COMMAND --help` shows the usual options, `--help-all` also the rarely used ones, marked *rare* here. Boolean
options have four forms: `--style`, `--style True`, `--style False`, `--no-style`. Messages and progress go to stderr.
The exit status is 0 for success, 1 for an error, 2 for an invalid command line, 130 if interrupted.

`--config run.toml` reads options from a TOML file: `gamma = 5` stands for `--gamma 5`. A table such as `[train]` is for
that command alone; the command line wins. `ganformer train --dry-run --write-config run.toml` writes such a file.

Commands, options, runs, models and data sets are completed by the shell after one of these lines, in `~/.bashrc`,
`~/.zshrc` or `~/.config/fish/config.fish`:

```text
eval "$(_GANFORMER_COMPLETE=bash_source ganformer)"
eval "$(_GANFORMER_COMPLETE=zsh_source ganformer)"
_GANFORMER_COMPLETE=fish_source ganformer | source
```
"""


def reference() -> str:
    """The whole page, as Markdown."""
    top = click.Context(program, info_name="ganformer")
    parts = [
        _INTRODUCTION,
        *(f"- [`ganformer {name}`](#ganformer-{name}): {text}" for name, text in COMMANDS.items()),
        "",
    ]
    for name in COMMANDS:
        command = program.get_command(top, name)
        if not isinstance(command, GroupedCommand):
            raise TypeError(f"the command {name} is not a GroupedCommand")
        ctx = click.Context(command, info_name=name, parent=top, **command.context_settings)
        parts += _command(command, ctx)
    return "\n".join(parts).rstrip() + "\n"


def _command(command: GroupedCommand, ctx: click.Context) -> Iterator[str]:
    yield f"## ganformer {ctx.info_name}"
    yield ""
    pieces = " ".join(command.collect_usage_pieces(ctx))
    yield from ("```text", f"{ctx.command_path} {pieces}", "```", "")
    yield from _paragraphs(command.help or "")
    usual = {names for _, records in command.help_sections(ctx, rare=False) for names, _ in records}
    for title, records in command.help_sections(ctx, rare=True):
        yield from (f"### {title}", "")
        for names, text in records:
            mark = "" if names in usual else " *(rare)*"
            yield f"- `{names}`{mark}: {_escaped(text)}"
        yield ""
    if command.epilog:
        yield from _paragraphs(command.epilog)


def _paragraphs(text: str) -> Iterator[str]:
    """Paragraphs of a help text; those that begin with click's mark for "leave the lines alone" as code."""
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        if paragraph.startswith("\b\n"):
            yield from ("```text", inspect.cleandoc(paragraph[2:]), "```", "")
        else:
            yield from (_escaped(paragraph), "")


def _escaped(text: str) -> str:
    """``<`` outside of backquotes, which Markdown would take for a tag, made plain."""
    pieces = text.split("`")
    return "`".join(piece if index % 2 else piece.replace("<", "\\<") for index, piece in enumerate(pieces))


def write_page() -> None:
    write_bytes(PAGE, reference().encode("utf-8"))
    echo(f"wrote {PAGE} for version {__version__}")


if __name__ == "__main__":
    write_page()
