"""Every option of every command with values that nobody means: a value within bounds, or one line that names it."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import Result

from ganformer_cli.cli.main import COMMANDS
from ganformer_cli.config import MODEL_FIELDS, TRAIN_FIELDS, ModelConfig, TrainConfig
from ganformer_cli.errors import ConfigError, GanformerError

LARGEST = 2**63 - 1
#: Written as no person writes a number.
NO_NUMBERS = (
    "nan", "NaN", "inf", "-inf", "Infinity", "1e999", "-1e39", "1e39", "1" + "0" * 400, "9" * 5000, "1." + "0" * 5000,
    "0x10", "1_000", "١٢", "½", "²", "１２", "1 000", "", " ", "--", "None", "true", "{}", "%s", "\x1b[31m1",
    "1\n", "\ud800", "1\0",
)  # fmt: skip
NUMBERS = (
    "0", "-0", "-0.0", "-1", "0.5", "1e-320", "1e3", "99999999999", "-99999999999", "9223372036854775807",
    "9223372036854775808", "-9223372036854775809", "0-99999999999999", "5-3", "1,,2", ",", "1-", "-",
)  # fmt: skip
TEXTS = (
    "",
    "  ",
    "\0",
    "a\0b",
    "a" * 100_000,
    "\x1b]0;owned\x07",
    "a\nb",
    "\u202e",
    "\udcff",
    "é",
    "..",
    "~",
    "con",
    "%n{}",
)


@pytest.fixture(params=COMMANDS)
def options(request: pytest.FixtureRequest) -> list[tuple[click.Context, click.Option]]:
    """Every option of a command that takes a value, and what click parses it in."""
    name = request.param
    command = importlib.import_module(f"ganformer_cli.cli.{name.replace('-', '_')}").command
    context = click.Context(command, info_name=name)
    return [(context, option) for option in command.params if isinstance(option, click.Option) and not option.is_flag]


def numbers_in(value: Any) -> list[float]:
    if isinstance(value, (tuple, list)):
        return [number for item in value for number in numbers_in(item)]
    return [value] if isinstance(value, (int, float)) and not isinstance(value, bool) else []


def test_every_value_is_taken_within_bounds_or_refused(options: list[tuple[click.Context, click.Option]]) -> None:
    for (context, option), word in itertools.product(options, (*NO_NUMBERS, *NUMBERS, *TEXTS)):
        is_number = isinstance(option.type, (type(click.INT), type(click.FLOAT)))
        try:
            with click.core.augment_usage_errors(context, param=option):
                found = option.process_value(context, (word,) * option.nargs if option.nargs > 1 else word)
        except (click.UsageError, GanformerError) as error:
            message = error.format_message() if isinstance(error, click.UsageError) else str(error)
            assert any(name in message for name in option.opts), f"{option.name}: {message}"
            continue
        became = f"{option.name}: {word!r} became {found!r}"
        if is_number or option.type.name in ("numbers", "seeds", "gpus"):
            assert word not in NO_NUMBERS or option.type.name == "gpus", became
            assert all(math.isfinite(number) and abs(number) <= 2**63 for number in numbers_in(found)), became
        elif isinstance(option.type, (click.Path, type(click.STRING))):
            assert word.strip(), became
            assert "\0" not in word, became


def test_every_number_has_bounds(options: list[tuple[click.Context, click.Option]]) -> None:
    for context, option in options:
        kind = option.type
        if isinstance(kind, (click.IntRange, click.FloatRange)):
            assert kind.min is not None, option.name
            assert kind.max is not None, option.name
        elif isinstance(kind, (type(click.INT), type(click.FLOAT))):
            # Those of the configuration are in its fields; prepare's are those of the data set.
            known = {"resolution", "ratio"} if context.info_name == "prepare" else MODEL_FIELDS | TRAIN_FIELDS
            known |= {"mapping_layersnum", "g_reg_weight"}  # the authors' names of some
            if option.name in known:
                continue
            with pytest.raises((click.UsageError, GanformerError)):  # nor does one that another replaces take a number
                option.process_value(context, "12345")


FIELDS = [
    pytest.param(config, field.name, str(field.type), id=field.name)
    for config in (ModelConfig, TrainConfig)
    for field in dataclasses.fields(config)
    if str(field.type).partition(" ")[0] in ("int", "float")
]


@pytest.mark.parametrize(("config", "name", "kind"), FIELDS)
def test_every_field_of_the_configuration_has_bounds(config: Any, name: str, kind: str) -> None:
    whole = (10**40, -(10**40), 10**4000, 2**31, 2**63, -1, -(2**63))
    for value in whole if kind.startswith("int") else (math.nan, math.inf, -math.inf, 1e39, 1e300, -1e39, *whole):
        try:
            made = config.from_dict({name: value}, "config.json")
        except ConfigError as error:
            assert len(str(error)) < 500  # noqa: PT017  # it may be within bounds
            continue
        assert math.isfinite(getattr(made, name))
        assert abs(getattr(made, name)) <= LARGEST


@pytest.mark.parametrize(
    "words",
    [
        ("generate", "--fps", "nan"),
        ("generate", "--truncation-psi", "1e39"),
        ("generate", "--truncation-psi", "-0.0", "--fps", "1e-320"),
        ("generate", "--seeds", "0-99999999999999"),
        ("generate", "--seeds", "9" * 5000),
        ("generate", "--seeds", "9" * 400 + "-5"),
        ("generate", "--class", "9" * 5000),
        ("generate", "--component-psi", "1e39,1"),
        ("prepare", "images", "--workers", "99999999999"),
        ("prepare", "images", "--max-images", "9" * 400),
        ("prepare", "images", "--ratio", "1e-320"),
        ("prepare", "images", "--resolution", "9223372036854775807"),
        ("prepare", ""),
        ("prepare", "--images-dir", "--"),
        ("train", "--dry-run", "--seed", "9" * 40),
        ("train", "--dry-run", "--batch-size", "9" * 19),
        ("train", "--dry-run", "--train-images-num", "9" * 19),
        ("train", "--dry-run", "--gamma", "nan"),
        ("train", "--dry-run", "--ratio", "1e-30"),
        ("train", "--dry-run", "--expname", ""),
        ("train", "--dry-run", "--processes", "99999"),
        ("eval", "--batch-size", "99999999999"),
        ("eval", "--truncation-psi", "inf"),
        ("bench", "--repeats", "99999999999"),
        ("convert", "", "a.safetensors"),
        ("info", ""),
        ("info", "a\0b"),
        ("build-ops", "--cuda-arch", "9" * 5000),
        ("build-ops", "--output-dir", ""),
        ("compare", "--output", " "),
    ],
    ids=lambda words: " ".join(words)[:50].replace("\0", "NUL"),
)
def test_commands_answer_in_one_line(
    ganformer: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    Path("images").mkdir()
    done = ganformer(*words)
    assert done.exit_code in (1, 2), done.output
    assert isinstance(done.exception, SystemExit), done.exception
    lines = done.stderr.splitlines()
    assert len([line for line in lines if ": error: " in line]) == 1, done.stderr
    assert len(done.stderr) < 2500
