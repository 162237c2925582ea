"""Every option explains itself, and docs/cli.md says what the commands say."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from ganformer_cli.cli.main import COMMANDS, program
from ganformer_cli.cli.options import GroupedCommand
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


def test_readme_and_docs_name_only_commands_that_exist(checkout: Path) -> None:
    for page in [checkout / "README.md", *sorted((checkout / "docs").glob("*.md"))]:
        for line in page.read_text(encoding="utf-8").splitlines():
            words = line.strip().lstrip("$ ").split()
            if len(words) > 1 and words[0] == "ganformer" and words[1].isalpha() and words[1].islower():
                assert words[1] in COMMANDS, f"{page.name}: {line}"
