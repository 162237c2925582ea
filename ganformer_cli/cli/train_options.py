"""The options of ``ganformer train`` that are made from the configuration's fields."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from ganformer_cli import config as settings
from ganformer_cli.cli.completion import complete_datasets, complete_models
from ganformer_cli.cli.options import F, boolean_option, combined, option
from ganformer_cli.config import ModelConfig, Setting, TrainConfig, settings_of, size_preset

#: What size_preset distinguishes.
_SIZES = (32, 64, 128, 256, 1024)
_COMPLETIONS = {"dataset": complete_datasets, "pretrained_pkl": complete_models, "init_from": complete_models}


def setting_options(section: str) -> Callable[[F], F]:
    """The options of all fields of ``section``, the usual ones first; their value is None unless given."""
    fields = [field for config in (TrainConfig, ModelConfig) for field in settings_of(config).values()]
    chosen = [field for field in fields if field.description.section == section]
    return combined(*map(_setting_option, sorted(chosen, key=lambda field: not field.description.usual)))


def _setting_option(field: Setting) -> Callable[[F], F]:
    about, shown = field.description, default_text(field)

    def check(ctx: click.Context, parameter: click.Parameter, value: Any) -> Any:
        if value is not None:
            field.check(value)
        return value

    attributes: dict[str, Any] = {
        "group": about.section, "rare": not about.usual, "default": None, "callback": check,
    }  # fmt: skip
    if field.kind is bool:
        usually_no = shown == "False"
        text = about.help if usually_no else f"{about.help}  [default: {shown}]"
        return boolean_option(field.option, usually_no=usually_no, help=text, **attributes)
    text = f"{about.help}  [default: {shown}]" if shown else about.help
    kind = click.Choice(field.choices) if field.choices else field.kind
    attributes |= {"metavar": about.metavar, "shell_complete": _COMPLETIONS.get(field.name), "help": text}
    return option(field.option, field.name, type=kind, **attributes)


def default_text(field: Setting) -> str:
    """The defaults that act: on a GPU and on a CPU, by size, by data set; empty where there is none."""
    if field.description.default_text:
        return field.description.default_text
    gpu, cpu = (_by_size(field, on_cpu=on_cpu) for on_cpu in (False, True))
    by_data = field.name in settings.DATA_SETTINGS
    if not gpu and not by_data:
        return ""
    # On a CPU, the preset of the size wins over that of the data set.
    by_cpu = field.name in size_preset(_SIZES[0], True)
    text = f"{gpu or 'none'}{', or by data set' * by_data}"
    return f"{text}; on a CPU {cpu}" if cpu != gpu or (by_data and by_cpu) else text


def _by_size(field: Setting, *, on_cpu: bool) -> str:
    """The default in words, such as ``16 or 30 by size``."""
    values = dict.fromkeys(size_preset(size, on_cpu).get(field.name, field.default) for size in _SIZES)
    said = [f"{value:g}" if isinstance(value, float) else str(value) for value in values if value is not None]
    if len(said) > 2:
        return f"{said[0]} to {said[-1]} by size"
    return f"{' or '.join(said)} by size" if len(said) == 2 else "".join(said)
