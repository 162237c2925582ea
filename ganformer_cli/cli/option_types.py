"""What a word of the command line may be, and types beyond click's: functions that read a text, or raise ValueError."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

import click

from ganformer_cli.text import printable

MAX_SEEDS = 10_000_000
MAX_SEED = 2**63 - 1  # the limit of torch's generators
MAX_DIGITS = 40
MAX_FLOAT = 3.4e38  # of single precision
_WHOLE = re.compile(r"[+-]?\d+", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def check_word(word: object, kind: click.ParamType, ctx: click.Context, parameter: click.Parameter) -> None:
    """Refuse an empty text, and what Python reads as a number but people do not: ``nan``, ``1_000``, other scripts.

    Raises:
        click.BadParameter: ``word`` is no valid value of type ``kind``.
    """
    if not isinstance(word, str):
        return
    shown = printable(word, limit=40)

    def refuse(why: str) -> NoReturn:
        raise click.BadParameter(why, ctx=ctx, param=parameter)

    if isinstance(kind, (type(click.INT), type(click.FLOAT))):
        whole = isinstance(kind, type(click.INT))
        if word.strip().lower().lstrip("+-") in ("nan", "inf", "infinity") and not whole:
            refuse(f"{shown} is not a finite number; write, for example, 0.5")
        if not (_WHOLE if whole else _NUMBER).fullmatch(word):
            refuse(f"{shown!r} is not a valid {'integer' if whole else 'float'}.")
        if len(word) > MAX_DIGITS or not abs(float(word)) <= (MAX_SEED if whole else MAX_FLOAT):
            refuse(f"{shown} is too large")
    elif isinstance(kind, (type(click.STRING), click.Path)):
        if not word.strip():
            refuse("is empty; give a value, or leave it out")
        if "\0" in word:
            refuse(f"{shown!r} holds a null character")
        try:
            os.fsencode(word)
        except UnicodeEncodeError:
            refuse(f"{shown} cannot be encoded on this system")


class ReadType(click.ParamType):
    """The type of values that ``read`` makes of a text; its ValueError is the message."""

    def __init__(self, name: str, read: Callable[[str], Any]) -> None:
        self.name = name
        self.read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self.read(value) if isinstance(value, str) else value
        except ValueError as error:
            self.fail(str(error), param, ctx)


def read_seeds(text: str) -> tuple[int, ...]:
    """``0-31,40`` as ints: in the order given, each seed once."""
    seeds: dict[int, None] = {}
    for part in text.split(","):
        first, dash, last = (piece.strip(" ") for piece in part.partition("-"))
        if not _is_number(first) or (dash and not _is_number(last)):
            shown = printable(part.strip(), limit=80)
            raise ValueError(f"{shown!r} is neither a seed nor a range; write, for example, 0-31,40")
        if len(first) > MAX_DIGITS or len(last) > MAX_DIGITS:
            raise ValueError(f"{part[:MAX_DIGITS]}… is too large; seeds end at {MAX_SEED}")
        low, high = int(first), int(last or first)
        if high < low:
            raise ValueError(f"{part.strip()!r} ends before it begins; write {high}-{low}")
        if high > MAX_SEED:
            raise ValueError(f"{high} is too large; seeds end at {MAX_SEED}")
        if len(seeds) + high - low >= MAX_SEEDS:
            raise ValueError(f"more than {MAX_SEEDS} seeds; ask for fewer at a time")
        seeds.update(dict.fromkeys(range(low, high + 1)))
    return tuple(seeds)


def read_gpus(text: str) -> tuple[int, ...]:
    """``0`` or ``0,1`` as ints; ``none`` as an empty tuple."""
    if text.strip().lower() in {"none", "cpu", ""}:
        return ()
    numbers = [part.strip() for part in text.split(",")]
    if not all(_is_number(n) and len(n) <= 4 for n in numbers) or len({*map(int, numbers)}) != len(numbers):
        shown = printable(text, limit=80)
        raise ValueError(f"{shown!r}: write a GPU's number such as 0, several such as 0,1, or none for the CPU")
    return tuple(map(int, numbers))


def _is_number(text: str) -> bool:
    # isdigit alone takes "²" too, which int() refuses.
    return text.isascii() and text.isdigit()


def read_numbers(text: str, most: float = MAX_FLOAT) -> tuple[float, ...]:
    """``1,0.5,0`` as finite floats, from ``-most`` to ``most``."""
    numbers = []
    for part in (piece.strip(" ") for piece in text.split(",")):
        shown = printable(part, limit=40)
        if part.lower().lstrip("+-") in ("nan", "inf", "infinity"):
            raise ValueError(f"{shown} is not a finite number; write for instance 1,0.5,0")
        if not _NUMBER.fullmatch(part):
            raise ValueError(f"{shown!r} is not a number; write for instance 1,0.5,0")
        if len(part) > MAX_DIGITS or not abs(float(part)) <= most:
            raise ValueError(f"{shown} is too large; numbers go from {-most:g} to {most:g}")
        numbers.append(float(part))
    return tuple(numbers)


def read_class(text: str) -> int | str:
    """A class: its number as an int, or its name as a str."""
    text = text.strip()
    if text.removeprefix("-").isdecimal():
        if text.startswith("-") or len(text) > 9:
            raise ValueError(f"{text} is not a class number; classes are numbered from 0")
        return int(text)
    if not text:
        raise ValueError("is empty; give the number or name of a class")
    return text


SEEDS = ReadType("seeds", read_seeds)
NUMBERS = ReadType("numbers", read_numbers)


def numbers_to(most: float) -> ReadType:
    """The type of :func:`read_numbers` with this limit."""
    return ReadType("numbers", partial(read_numbers, most=most))
