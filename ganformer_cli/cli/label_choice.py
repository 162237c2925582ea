"""``--class`` and ``--label``: the label that images are generated with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ganformer_cli.cli.option_types import ReadType, read_class
from ganformer_cli.cli.options import F, option, warn
from ganformer_cli.errors import ConfigError
from ganformer_cli.text import printable

if TYPE_CHECKING:
    from ganformer_cli.sampling import Generator

#: Number of classes that a message lists.
_NAMED = 10
_FLOAT32 = 3.4028234663852886e38


def class_option(help: str) -> Callable[[F], F]:
    """``--class``, as parameter ``class_index``: a number or a name, see :func:`class_number`."""
    return option("--class", "class_index", type=ReadType("class", read_class), metavar="N|NAME", help=help)


class ChosenLabel(NamedTuple):
    """The label that images are generated with."""

    numbers: list[float] | None  # of all images; None: each seed draws its own
    metadata: dict[str, Any]  # of an image


def chosen_label(
    generator: Generator, class_index: int | str | None, numbers: Sequence[float] | None, *, drawn: bool = True
) -> ChosenLabel:
    """The label that ``--class`` or ``--label`` mean for this model.

    Args:
        drawn: whether seeds draw labels without them; then a warning says if the model does not know their frequencies.

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
            raise ConfigError(f"{said}: the labels of this model have {size} numbers, not {len(numbers)}; give {size}")
        if any(abs(number) > _FLOAT32 for number in numbers):
            raise ConfigError(f"{said}: too large for float32; give numbers in the range of the training data")
        return ChosenLabel(list(numbers), {"class": None, "label": list(numbers)})
    if class_index is not None:
        if kept is not None and kept.kind == "vectors":
            raise ConfigError(
                f"--class {class_index}: this model has no classes, its labels are vectors of {size} numbers; give one "
                "with --label, or leave it out to draw labels of the training data"
            )
        if size == 0:
            raise ConfigError(f"--class {class_index}: this model has no such class; it was trained without labels")
        index = class_number(class_index, size, None if kept is None else kept.names, "this model")
        if kept is not None and not kept.counts[index]:
            warn(f"--class {class_index}: no training image of this model had this class")
        return ChosenLabel([float(number == index) for number in range(size)], {"class": index})
    if drawn and size and kept is None:
        warn(f"this model does not know the frequencies of its labels; all {size} classes are taken as equally likely")
    return ChosenLabel(None, {"class": None})


def label_records(generator: Generator, numbers: list[float] | None, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """What ``--json`` says of the label of each image: its class, or the vector; nothing of a model without labels."""
    from ganformer_cli.sampling import labels_from_seeds

    kept = generator.label_distribution
    if generator.config.c_dim == 0:
        return []
    rows = labels_from_seeds(generator, seeds).tolist() if numbers is None else [numbers] * len(seeds)
    one_hot = all(sum(row) == 1 and max(row) == 1 for row in rows)
    if (kept is not None and kept.kind == "vectors") or not one_hot:
        return [{"label": row} for row in rows]
    return [{"class": row.index(1)} for row in rows]


def class_number(chosen: int | str, size: int, names: Sequence[str] | None, whose: str) -> int:
    """The number of the class ``chosen`` by number or name.

    Args:
        whose: the owner of the classes, for messages.

    Raises:
        ConfigError: there is no such class.
    """
    if names is not None:
        found = [number for number, name in enumerate(names) if name == str(chosen)]
        if isinstance(chosen, str) and found:
            return found[0]
        if isinstance(chosen, int) and chosen < size and found not in ([], [chosen]):
            warn(
                f"--class {chosen}: read as a number, which means the class named {printable(names[chosen])}; the "
                f"class named {chosen} has the number {found[0]}"
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
