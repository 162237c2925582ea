"""Every option explains itself, and docs/cli.md says what the commands say."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from ganformer_cli.cli.main import COMMANDS, program
from ganformer_cli.cli.options import GroupedCommand, join_booleans
from ganformer_cli.cli.reference import PAGE, reference

TOP = click.Context(program, info_name="ganformer")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_help(name: str) -> None:
    command = program.get_command(TOP, name)
    assert isinstance(command, GroupedCommand)
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{parameter.opts[0]} has no help"


@pytest.mark.parametrize("name", COMMANDS)
def test_no_option_is_offered_twice(name: str) -> None:
    command = program.get_command(TOP, name)
    assert command is not None
    names = [name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)]
    assert len(names) == len(set(names))


def test_page_is_fresh() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "write it anew: python -m ganformer_cli.cli.reference"


def command_lines(text: str) -> Iterator[str]:
    """The ``ganformer`` command lines of a page: lines of its code blocks and whole code spans."""
    blocks = re.findall(r"^( *)```[^\n]*\n(.*?)^\1```", text, re.M | re.S)
    for _, block in blocks:
        for line in block.replace("\\\n", " ").splitlines():
            yield from (part.strip().lstrip("$ ") for part in re.split(r"&&|\|", line))
    prose = re.sub(r"^( *)```.*?^\1```", "", text, flags=re.M | re.S)
    yield from (" ".join(span.split()) for span in re.findall(r"`(ganformer [^`]+)`", prose))


def lines_of_pages(folder: Path) -> list[tuple[str, str]]:
    pages = [*sorted(folder.glob("*.md")), *sorted((folder / "docs").rglob("*.md"))]
    pages = [page for page in pages if page != PAGE and page.name != "CHANGELOG.md"]
    return [
        (page.name, line)
        for page in pages
        for line in command_lines(page.read_text(encoding="utf-8"))
        if re.match(r"(ganformer|python -m ganformer_cli) [a-z-]", line)
    ]


def test_command_lines_of_readme_and_docs_are_valid(checkout: Path) -> None:
    lines = lines_of_pages(checkout)
    assert len(lines) > 100
    wrong = [f"{page}: {line}: {why}" for page, line in lines if (why := complaint(line))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("ganformer train --kimg 5", "--kimg"),
        ("ganformer trian", "trian"),
        ("ganformer train --attention triplex", "triplex"),
        ("ganformer train --seed", "--seed"),
    ],
)
def test_a_wrong_line_is_noticed(line: str, why: str) -> None:
    assert why in complaint(line)


def complaint(line: str) -> str:
    """What is wrong with a command line as a page shows it; empty if nothing is."""
    words = shlex.split(re.sub(r"^python -m ganformer_cli", "ganformer", line), comments=True)[1:]
    if words[0].startswith("--"):
        return "" if words[0] in {"--help", "--version"} else f"no option {words[0]}"
    command = program.get_command(TOP, words[0]) if words[0].islower() else None
    if words[0] == "COMMAND":
        return ""
    if command is None:
        return f"no command {words[0]}"
    context = click.Context(command, info_name=words[0], parent=TOP)
    try:
        values, _, order = command.make_parser(context).parse_args(join_booleans(words[1:], command.params))
        for parameter in set(order):
            value = values.get(parameter.name)
            if isinstance(parameter.type, click.Choice) and isinstance(value, str) and not value.isupper():
                parameter.type_cast_value(context, value)
    except click.UsageError as error:
        return error.format_message()
    return ""
