"""``--class`` and ``--label``: which label images are drawn with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from ganformer_cli.cli.generate_figures import Numbers
from ganformer_cli.cli.options import F, option, warn
from ganformer_cli.errors import ConfigError
from ganformer_cli.text import printable

if TYPE_CHECKING:
    from ganformer_cli.sampling import Generator

#: So many classes are named one by one.
_NAMED = 10
_FLOAT32 = 3.4028234663852886e38


class ClassChoice(click.ParamType):
    """A class by its number, an int, or by its name, a str."""

    name = "class"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if isinstance(value, int):
            return value
        text = str(value).strip()
        if text.removeprefix("-").isdecimal():
            if text.startswith("-") or len(text) > 9:
                self.fail(f"{text} is no class; classes are numbered from 0", param, ctx)
            return int(text)
        if not text:
            self.fail("is empty; give a class's number or name", param, ctx)
        return text


def class_option(*, group: str, help: str) -> Callable[[F], F]:
    """``--class``, as parameter ``class_index``: an int or a name, see :func:`class_number`."""
    return option("--class", "class_index", type=ClassChoice(), metavar="N|NAME", group=group, help=help)


def label_option(*, group: str, help: str) -> Callable[[F], F]:
    """``--label``, a tuple of finite numbers."""
    return option("--label", "label", type=Numbers(), metavar="NUMBER,NUMBER…", group=group, help=help)


class ChosenLabel(NamedTuple):
    """What images are drawn with."""

    numbers: list[float] | None  # of all; None draws each seed's own
    about: dict[str, Any]  # what an image says of it


def chosen_label(
    generator: Generator, class_index: int | str | None, numbers: Sequence[float] | None, *, drawn: bool = True
) -> ChosenLabel:
    """What ``--class`` or ``--label`` mean for this model; without them, whether labels are drawn is said if need be.

    Args:
        drawn: whether labels act on the images at all.

    Raises:
        ConfigError: the model has no such class or label.
    """
    size, kept = generator.config.c_dim, generator.label_distribution
    if numbers is not None:
        said = f"--label {','.join(f'{number:g}' for number in numbers[:4])}{',…' * (len(numbers) > 4)}"
        if size == 0:
            raise ConfigError(f"{said}: this model was trained without labels; leave it out")
        if kept is not None and kept.kind == "classes":
            raise ConfigError(f"{said}: this model has classes ({_listing(size, kept.names)}); give one with --class")
        if len(numbers) != size:
            raise ConfigError(f"{said}: {len(numbers)} numbers, and the labels of this model have {size}; give {size}")
        if any(abs(number) > _FLOAT32 for number in numbers):
            raise ConfigError(f"{said}: too large for single precision; give numbers like those of the data")
        return ChosenLabel(list(numbers), {"class": None, "label": list(numbers)})
    if class_index is not None:
        if kept is not None and kept.kind == "vectors":
            raise ConfigError(
                f"--class {class_index}: this model has no classes, its labels are vectors of {size} numbers; give one "
                "with --label, or leave it out to draw those of the data"
            )
        if size == 0:
            raise ConfigError(f"--class {class_index}: this model has no such class; it was trained without labels")
        index = class_number(class_index, size, None if kept is None else kept.names, "this model")
        if kept is not None and not kept.counts[index]:
            warn(f"--class {class_index}: no picture that this model was trained on had this class")
        return ChosenLabel([float(number == index) for number in range(size)], {"class": index})
    if drawn and size and kept is None:
        warn(
            f"this model does not say how frequent its labels are: each of {size} classes is taken to be equally likely"
        )
    return ChosenLabel(None, {"class": None})


def class_number(chosen: int | str, size: int, names: Sequence[str] | None, whose: str) -> int:
    """The number of a class that was chosen by number or by name.

    Raises:
        ConfigError: there is none; the message names ``whose`` classes they are.
    """
    if names is not None:
        found = [number for number, name in enumerate(names) if name == str(chosen)]
        if isinstance(chosen, str) and found:
            return found[0]
        if isinstance(chosen, int) and chosen < size and found not in ([], [chosen]):
            warn(
                f"--class {chosen}: taken as the number; that is the class called {printable(names[chosen])}, and the "
                f"one called {chosen} is number {found[0]}"
            )
    if isinstance(chosen, str) or chosen >= size:
        raise ConfigError(f"--class {chosen}: {whose} has no such class; its classes are {_listing(size, names)}")
    return chosen


def _listing(size: int, names: Sequence[str] | None) -> str:
    numbers = f"0 to {size - 1}"
    if not names:
        return numbers
    shown = ", ".join(printable(name) for name in names[:_NAMED])
    return f"{numbers}: {shown}{', …' * (len(names) > _NAMED)}"
