"""Options from a file, ``--config run.toml``, and the file of a run, ``ganformer train --write-config``.

A key is the long name of an option, without its dashes. A table named like a command belongs to that command alone.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ganformer_cli.config import NOT_OF_VQGAN, RunConfig, settings_of
from ganformer_cli.errors import ConfigError, GanformerError
from ganformer_cli.files import read_regular, read_toml
from ganformer_cli.text import printable

#: In the context's ``meta``: the context of the command, and by option where the file sets it.
_PLACES = "ganformer_cli.config_file"


def place_of_fault(ctx: click.Context, message: str) -> str:
    """``--config FILE, line N: `` if a message begins with an option whose value came from there, else empty."""
    command, places = ctx.meta.get(_PLACES, (None, {}))
    option = re.match(r"--[\w-]+", message)
    name, place = places.get(option[0] if option else "", ("", ""))
    from_file = command is not None and command.get_parameter_source(name) is ParameterSource.DEFAULT_MAP
    return f"{place}: " if from_file else ""


def read_config_file(ctx: click.Context, parameter: click.Parameter, path: Path | None) -> None:
    """Take the values of a file as defaults of the command's options, so that the command line wins.

    Raises:
        ConfigError: the file cannot be read, or a line names no option or has a wrong value for it.
    """
    if path is None or ctx.resilient_parsing:
        return
    where = f"{parameter.opts[0]} {path}"
    try:
        values = read_toml(path, kind=ConfigError)
    except ConfigError as error:
        raise ConfigError(f"{parameter.opts[0]} {error}") from error
    lines = list(_keys(read_regular(path).decode("utf-8-sig", "replace")))
    known = [option for option in ctx.command.params if isinstance(option, click.Option) and option is not parameter]
    options = {name[2:]: option for option in known for name in option.opts if name.startswith("--")}
    command = ctx.command.name or ""
    ctx.default_map = {}
    places: dict[str, tuple[str, str]] = {}
    ctx.meta[_PLACES] = ctx, places
    for table, key, value in _flat(values):
        if table not in ("", command):
            if table not in _commands():
                raise ConfigError(f"{where}: table [{printable(table)}] is not named like a command; remove it")
            continue
        number = next((n for n, *found in lines if found == [table, key]), 1)
        option = options.get(key.replace("_", "-"))
        if option is None or option.name in (None, "help_all"):
            near = difflib.get_close_matches(key.replace("_", "-"), options, n=1)
            advice = f"did you mean {near[0]}?" if near else "remove the line"
            said = f"{printable(key)!r} is not an option of ganformer {command}"
            raise ConfigError(f"{where}, line {number}: {said}; {advice}")
        given = _as_given(value, option)
        try:
            if given is None:
                raise click.BadParameter("must be a text, a number, true or false")
            option.process_value(ctx, given)
        except (click.UsageError, GanformerError) as error:
            text = f"{key}: {error.message}" if isinstance(error, click.UsageError) else str(error)
            raise ConfigError(f"{where}, line {number}: {text}") from error
        ctx.default_map[str(option.name)] = given
        places.update({spelling: (str(option.name), f"{where}, line {number}") for spelling in option.opts})


def _commands() -> Mapping[str, str]:
    from ganformer_cli.cli.main import COMMANDS

    return COMMANDS


def _flat(values: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Each value with its table, which is empty at the top level, and its key."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from ((key, name, inner) for name, inner in value.items())
        else:
            yield "", key, value


def _keys(text: str) -> Iterator[tuple[int, str, str]]:
    """The lines of a TOML file that set a value: number, table and key."""
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[\s*[\"']?([\w-]+)[\"']?\s*\]", line):
            table = header[1]
        elif key := re.match(r"\s*[\"']?([\w-]+)[\"']?\s*=", line):
            yield number, table, key[1]


def _as_given(value: Any, option: click.Option) -> str | tuple[str, ...] | None:
    """A value as it would stand on the command line; None if it could not."""
    if isinstance(value, (str, bool, int, float)):
        return (str(value),) if option.multiple else str(value)
    if isinstance(value, list) and all(isinstance(item, (str, int, float)) for item in value):
        return tuple(map(str, value)) if option.multiple or option.nargs != 1 else ",".join(map(str, value))
    return None


def config_text(config: RunConfig) -> str:
    """The settings of a run as a file for ``ganformer train --config``."""
    sections: dict[str, list[str]] = {}
    for part in (config.train, config.model):
        for name, field in settings_of(type(part)).items():
            value = getattr(part, name)
            unread = name in NOT_OF_VQGAN if config.model.vqgan else field.description.section == "VQGAN"
            if field.description.section and value is not None and not unread:
                line = f"{field.option[2:]} = {json.dumps(value, ensure_ascii=False)}"
                sections.setdefault(field.description.section, []).append(line)
    if config.model.kgan:
        sections["Model"].append('baseline = "kGAN"')
    if config.model.vqgan:
        sections["Model"].append('baseline = "VQGAN"')
    parts = [f"# {section}\n" + "\n".join(lines) for section, lines in sections.items()]
    return "# Settings of a run, for ganformer train --config\n\n" + "\n\n".join(parts) + "\n"
