"""Types of options beyond click's: a function reads the text, and says in a ValueError what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import click

from ganformer_cli.cli.options import MAX_DIGITS, MAX_FLOAT, MAX_SEED, MAX_SEEDS, NUMBER
from ganformer_cli.text import printable


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
        if not NUMBER.fullmatch(part):
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
