"""What labels mean, from how they are written: classes by number, classes by name, or vectors of numbers.

The same rules hold for ``dataset.json``, CSV, JSON and arrays, and for all labels of a set together:

* whole numbers are classes, however they are written: ``2``, ``2.0``, ``"2"``, ``[2]``;
* text is classes, numbered in the order of the sorted names;
* vectors that all have a single 1 and otherwise 0 (one-hot) are classes, which is the same to the networks;
* other vectors, and single numbers with a fraction, are vectors.

A mixture of these is an error.
"""

from __future__ import annotations

import json
import re
from array import array
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ganformer_cli.errors import DataError

MAX_CLASSES = 1 << 20  # a larger class number is no class
WANTED = (
    f"a class (a whole number from 0, below {MAX_CLASSES}, or a name) or a vector of finite numbers of single precision"
)
MAX_VALUE = float(np.finfo(np.float32).max)  # labels are trained on as float32
ONE_HOT = "one-hot vectors are taken as classes"

_WHOLE = re.compile(r"[+-]?\d{1,19}")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?(inf|infinity|nan)", re.IGNORECASE)
_CLASS, _FRACTION, _LIST, _TEXT = "a class", "a number with a fraction", "a list", "a name"


@dataclass(frozen=True)
class LabelValues:
    """The labels of a set, one a row."""

    values: npt.NDArray[Any]  # int64 [N]: classes; float64 [N, K]: vectors
    class_count: int | None = None  # where it is known beyond the largest class number
    class_names: list[str] | None = None
    note: str = ""  # what was decided beyond what is written

    @property
    def kind(self) -> str:
        """``classes`` or ``vectors``."""
        return "classes" if self.values.ndim == 1 else "vectors"

    @property
    def width(self) -> int:
        """Classes, or numbers of a vector."""
        if self.values.ndim == 2:
            return int(self.values.shape[1])
        return self.class_count or (int(self.values.max()) + 1 if len(self.values) else 0)


class ValueReader:
    """Takes labels as they are written, one after the other, in a few bytes each."""

    def __init__(self) -> None:
        self._form = ""
        self._width = -1  # of vectors; 0 for single numbers and names
        self._fraction = False  # single numbers are no classes, because one of them has a fraction
        self._odd: DataError | None = None  # of the first number that is whole, but no class
        self._numbers = array("d")
        self._names: dict[str, int] = {}

    def add(self, at: str, name: str, label: Any) -> None:
        """The label of ``name``; ``at`` is where it stands, for messages.

        Raises:
            DataError: it is no label, or none of the same kind as those before.
        """
        written, label = label, _plain(label)

        def no_label() -> DataError:
            return DataError(f"{at}: the label of {name} is {_shown(written)}, not {WANTED}; correct it")

        numbers: list[Any] = label if isinstance(label, list) else [label]
        if isinstance(label, str):
            format, width = _TEXT, 0
            numbers = [self._names.setdefault(label, len(self._names))]
        elif not numbers or not all(map(is_number, numbers)):
            raise no_label()
        elif type(label) is int:
            format, width = _CLASS, 0
            if not 0 <= label < MAX_CLASSES:
                raise no_label()
        else:
            format, width = _LIST, len(numbers)
            if width == 1:
                number = float(numbers[0])
                self._fraction = self._fraction or not number.is_integer()
                if self._odd is None and number.is_integer() and not 0 <= number < MAX_CLASSES:
                    self._odd = no_label()
        self._same_kind(at, name, written, format, width)
        self._numbers.extend(map(float, numbers))

    def _same_kind(self, at: str, name: str, written: Any, format: str, width: int) -> None:
        if self._width in (-1, width) and self._form in ("", format):
            self._form, self._width = format, width
            return
        # 1 and 1.0 are the same class.
        whole = not self._fraction and not isinstance(written, list)
        if {self._form, format} == {_CLASS, _LIST} and {self._width, width} == {0, 1} and whole:
            if self._form == _CLASS:
                return
            self._form, self._width = format, 1
            return
        said, before = _kind(format, width), _kind(self._form, self._width)
        if _TEXT in (format, self._form):
            raise DataError(
                f"{at}: the label of {name} is {_shown(written)}, not {before} as those before are; "
                "write names for all of them, or numbers"
            )
        raise DataError(f"{at}: the label of {name} is {said} where those before are {before}; correct it")

    def finish(self) -> LabelValues:
        """All of them.

        Raises:
            DataError: a whole number among them is no class.
        """
        if self._form == _TEXT:
            names = sorted(self._names)
            places = np.empty(len(names), np.int64)
            places[[self._names[name] for name in names]] = np.arange(len(names))
            return LabelValues(places[np.asarray(self._numbers, np.int64)], len(names), names)
        values = np.array(self._numbers, np.float64)
        if self._width in (-1, 0):
            if self._odd is not None:
                raise self._odd
            return LabelValues(values.astype(np.int64))
        return meaning_of(values.reshape(-1, self._width), odd=self._odd)


def meaning_of(values: npt.NDArray[Any], *, odd: DataError | None = None) -> LabelValues:
    """What rows of finite numbers ``[N, K]`` are: classes or vectors.

    Args:
        odd: the error to raise if they are classes, because one of them is out of range.
    """
    if values.shape[1] == 1:
        if (values != np.floor(values)).any():
            return LabelValues(values.astype(np.float64))
        if odd is not None:
            raise odd
        return LabelValues(values[:, 0].astype(np.int64))
    if is_one_hot(values):
        return LabelValues(values.argmax(axis=1).astype(np.int64), int(values.shape[1]), note=ONE_HOT)
    return LabelValues(values.astype(np.float64))


def is_one_hot(values: npt.NDArray[Any]) -> bool:
    """Whether every row has a single 1 and otherwise 0."""
    return bool(len(values) and ((values == 0) | (values == 1)).all() and (values.sum(axis=1) == 1).all())


def is_number(value: Any) -> bool:
    """Whether this is a number that float32 can hold; True and False are none."""
    return type(value) in (int, float) and -MAX_VALUE <= value <= MAX_VALUE


def class_of(value: Any) -> int | None:
    """The class that a single number, as in JSON, is: 2, 2.0, [2] or "2"; None if it is none."""
    value = _plain(value)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if is_number(value) and 0 <= value < MAX_CLASSES and value == int(value):
        return int(value)
    return None


def is_name(text: str) -> bool:
    """Whether a text names a class: it is no number, and not empty."""
    return isinstance(_plain(text), str)


def _plain(label: Any) -> Any:
    """A label as an int, a list of numbers, or text; a float becomes a list of one."""
    if isinstance(label, list) and len(label) == 1 and isinstance(label[0], str):
        label = label[0]
    if isinstance(label, str):
        label = label.strip()
        if label.startswith("["):
            try:
                found = json.loads(label)
            except (ValueError, RecursionError):
                return label
            if isinstance(found, list) and len(found) == 1 and isinstance(found[0], str):
                return _plain(found[0])
            if isinstance(found, list) and not any(isinstance(x, (str, list)) for x in found):
                label = found
        elif _WHOLE.fullmatch(label):
            return int(label)
        elif _NUMBER.fullmatch(label):
            label = float(label)
        elif not label:
            return None
    return [label] if type(label) is float else label


def _kind(format: str, width: int) -> str:
    return f"a vector of {width}" if format == _LIST else format


def _shown(label: Any) -> str:
    text = label.strip() if isinstance(label, str) and _NUMBER.fullmatch(label.strip()) else repr(label)
    return text if len(text) <= 80 else f"{text[:60]}… ({len(label)} numbers)" if isinstance(label, list) else text[:80]
