"""Labels of pictures: a class each, or a vector of numbers each; from files, by name or by number, or from folders."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ganformer_cli.data.sources.base import BROKEN, DATASET_JSON, Label, Labels, reason
from ganformer_cli.errors import DataError
from ganformer_cli.files import check_regular

MOST_CLASSES = 1 << 20  # a larger class number is no class
_DIGEST = 16  # bytes kept of each name: two names share them once in 10**25 data sets of 3 million pictures
_WANTED = f"a class (a whole number from 0, below {MOST_CLASSES}) or a vector of finite numbers"


class NumberedLabels:
    """One label a picture, in the order of the pictures."""

    class_names: list[str] | None = None

    def __init__(self, values: npt.NDArray[Any], where: str) -> None:
        """
        Args:
            values: whole numbers [N] or [N, 1], which are classes, or numbers [N, K], which are vectors.
            where: how messages name them.

        Raises:
            DataError: they are something else.
        """
        if values.ndim == 2 and values.shape[1] == 1 and values.dtype.kind in "iu":
            values = values[:, 0]
        if values.ndim == 1 and values.dtype.kind in "iu":
            self.kind = "classes"
            wrong = np.flatnonzero((values < 0) | (values >= MOST_CLASSES))
        elif values.ndim == 2 and values.shape[1] and values.dtype.kind in "iuf":
            self.kind = "vectors"
            wrong = np.flatnonzero(~np.isfinite(values).all(axis=1))
        else:
            raise DataError(
                f"{where}: labels of {values.dtype} {list(values.shape)}; save classes as whole numbers [N], "
                f"vectors as numbers [N, K]"
            )
        if len(wrong):
            raise DataError(f"{where}: label {int(wrong[0])} is {values[wrong[0]]}, not {_WANTED}; mend it")
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def of(self, number: int, name: str) -> Label | None:
        if number >= len(self._values):
            return None
        value = self._values[number]
        return int(value) if self.kind == "classes" else tuple(float(x) for x in value)

    def fingerprint(self) -> str:
        return hashlib.sha256(np.ascontiguousarray(self._values).data).hexdigest()


class NamedLabels:
    """Labels by picture name, in a few bytes each: what is kept of a name is a digest."""

    class_names: list[str] | None = None

    def __init__(self, rows: Iterable[tuple[int, str, Any]], where: str, unit: str) -> None:
        """
        Args:
            rows: place, name and label of each picture; a label is a number, or a list of numbers.
            where: how messages name the file.
            unit: what a place counts: "line" or "label".

        Raises:
            DataError: a label is neither a class nor a vector, they are mixed, or a name has two.
        """
        digests, values, places = bytearray(), array("d"), array("q")
        width = -1  # of a vector; 0 for classes
        for place, name, label in rows:
            at = f"{where}, {unit} {place}"
            numbers = label if isinstance(label, list) else [label]
            if not numbers or not all(type(x) in (int, float) and math.isfinite(x) for x in numbers):
                raise DataError(f"{at}: the label of {name} is {label!r}, not {_WANTED}; mend it")
            is_class = type(label) is int
            if is_class and not 0 <= numbers[0] < MOST_CLASSES:
                raise DataError(f"{at}: the label of {name} is {label!r}, not {_WANTED}; mend it")
            length = 0 if is_class else len(numbers)
            if width not in (-1, length):
                kinds = [f"a vector of {n}" if n else "a class" for n in (length, width)]
                raise DataError(f"{at}: the label of {name} is {kinds[0]} where those before are {kinds[1]}; mend it")
            width = length
            digests += _digest(name)
            values.extend(float(x) for x in numbers)
            places.append(place)
        if not places:
            raise DataError(f"{where} holds no labels; fill it, or choose --labels none")
        self.kind = "vectors" if width else "classes"
        keys: npt.NDArray[np.bytes_] = np.frombuffer(bytes(digests), f"S{_DIGEST}")
        order = np.argsort(keys, kind="stable")
        self._keys = keys[order]
        self._values = np.frombuffer(values, np.float64).reshape(len(places), max(1, width))[order]
        twice = np.flatnonzero(
            (self._keys[1:] == self._keys[:-1]) & (self._values[1:] != self._values[:-1]).any(axis=1)
        )
        if len(twice):
            lines = sorted(places[int(order[twice[0] + i])] for i in (0, 1))
            raise DataError(f"{where}, {unit} {lines[1]}: another label for the picture of {unit} {lines[0]}; mend it")

    def of(self, number: int, name: str) -> Label | None:
        key = np.bytes_(_digest(name))
        at = int(np.searchsorted(self._keys, key))
        if at == len(self._keys) or self._keys[at] != key:
            return None
        value = self._values[at]
        return int(value[0]) if self.kind == "classes" else tuple(float(x) for x in value)

    def fingerprint(self) -> str:
        digest = hashlib.sha256(self._keys.tobytes())
        digest.update(self._values.tobytes())
        return digest.hexdigest()


class FolderLabels:
    """A picture's class is the first folder of its name. Folders around all the pictures do not count."""

    kind = "classes"

    def __init__(self, names: Iterable[str], source: Path) -> None:
        """
        Args:
            names: of all pictures.

        Raises:
            DataError: no picture lies in a folder.
        """
        folders = {tuple(_plain(name).split("/")[:-1]) for name in names}
        around = len(os.path.commonprefix(list(folders)))
        self._depth = max(0, min(around, min(map(len, folders), default=0) - 1))
        self.class_names: list[str] | None = sorted({folder[self._depth] for folder in folders if folder})
        if not self.class_names:
            raise DataError(f"--labels folders: no picture of {source} lies in a folder; leave the option out")
        self._numbers = {name: i for i, name in enumerate(self.class_names)}

    def of(self, number: int, name: str) -> Label | None:
        parts = _plain(name).split("/")[:-1]
        return self._numbers[parts[self._depth]] if parts else None

    def fingerprint(self) -> str:
        return "folders"


def choose_labels(
    option: str | None,
    source: Path,
    *,
    own: Callable[[], Labels | None] | None = None,
    names: Callable[[], Iterable[str]] | None = None,
    count: Callable[[], int],
) -> Labels | None:
    """The labels that ``--labels option`` asks for.

    Args:
        own: the labels that lie in the source, if any.
        names: of all pictures; None where pictures have no folders.
        count: how many pictures there are.

    Raises:
        DataError: they are not to be had, or damaged.
    """
    if option is None:
        return own() if own is not None else None
    if option == "none":
        return None
    if option == "folders":
        if names is None:
            raise DataError(f"--labels folders: the pictures of {source} lie in no folders; leave the option out")
        return FolderLabels(names(), source)
    labels = read_labels(Path(option))
    if isinstance(labels, NumberedLabels) and len(labels) != count():
        raise DataError(
            f"--labels {option}: {len(labels)} labels for the {count()} pictures of {source}; "
            f"one each is needed, in the order of the pictures"
        )
    return labels


def array_labels(read: Callable[[], npt.NDArray[Any]], where: str, count: int) -> NumberedLabels:
    """The labels in an array that lies beside that of the pictures.

    Raises:
        DataError: it cannot be read, or has not one label for each of ``count`` pictures.
    """
    try:
        labels = NumberedLabels(read(), where)
    except (*BROKEN, TypeError, KeyError) as error:
        raise DataError(f"{where} cannot be read ({reason(error)}); mend it, or choose --labels none") from error
    if len(labels) != count:
        raise DataError(f"{where}: {len(labels)} labels for {count} pictures; mend it, or --labels none")
    return labels


def read_labels(path: Path) -> Labels:
    """The labels of a ``.npy``, ``.csv`` or ``.json`` file.

    Raises:
        DataError: it is missing, damaged or something else.
    """
    where = f"--labels {path}"
    suffix = path.suffix.lower()
    if suffix not in {".npy", ".csv", ".json"}:
        raise DataError(f'{where}: neither "folders" nor "none" nor a .npy, .csv or .json file; choose one of these')
    try:
        check_regular(path)
        if suffix == ".npy":
            return NumberedLabels(np.load(path, mmap_mode="r", allow_pickle=False), where)
        if suffix == ".csv":
            with path.open(encoding="utf-8-sig", newline="") as stream:
                return NamedLabels(_csv_rows(stream, where), where, "line")
        labels = json_labels(path.read_bytes(), where)
    except (*BROKEN, csv.Error) as error:
        raise DataError(f"{where} cannot be read ({reason(error)}); give another file") from error
    if labels is None:
        raise DataError(f"{where} holds no labels; fill it, or choose --labels none")
    return labels


def json_labels(data: bytes, where: str) -> Labels | None:
    """Labels in StyleGAN's form, ``{"labels": [[name, label], ...]}`` or ``{"labels": null}``, or ``{name: label}``.

    Raises:
        DataError: it is something else.
    """
    wanted = '{"labels": [[name, label], ...]}'
    try:
        content = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not {wanted} ({reason(error)}); mend it, or choose --labels none") from error
    if not isinstance(content, dict):
        raise DataError(f"{where} is not {wanted}; mend it, or choose --labels none")
    pairs = content.get("labels") if "labels" in content else content
    if not pairs:
        return None
    if isinstance(pairs, dict):
        pairs = list(pairs.items())
    if not isinstance(pairs, list):
        raise DataError(f"{where} is not {wanted}; mend it, or choose --labels none")
    rows = []
    for place, pair in enumerate(pairs):
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise DataError(f"{where}, label {place} is not [name, label]; mend it, or choose --labels none")
        rows.append((place, str(pair[0]), pair[1]))
    return NamedLabels(rows, where, "label")


def dataset_json(data: bytes | None, source: Path) -> Labels | None:
    """The labels of a ``dataset.json`` that lies at the top of ``source``, if it does."""
    return None if data is None else json_labels(data, f"{source}: {DATASET_JSON}")


def _csv_rows(stream: Iterable[str], where: str) -> Iterator[tuple[int, str, Any]]:
    reader = csv.reader(stream)
    header = True  # may still come
    for row in reader:
        if not row:
            continue
        line = reader.line_num
        if len(row) < 2:
            raise DataError(f"{where}, line {line}: not name,label; mend it")
        try:
            numbers = [float(x) for x in row[1:]]
        except ValueError:
            if not header:
                given = ",".join(row[1:])
                raise DataError(f"{where}, line {line}: the label of {row[0]} is {given!r}, not {_WANTED}") from None
            header = False
            continue
        header = False
        try:
            yield line, row[0], int(row[1]) if len(row) == 2 else numbers
        except ValueError:
            yield line, row[0], numbers


def _plain(name: str) -> str:
    name = name.replace("\\", "/")
    while name.startswith("./"):
        name = name[2:]
    return name


def _digest(name: str) -> bytes:
    digest = hashlib.blake2b(_plain(name).encode("utf-8", "surrogatepass"), digest_size=_DIGEST).digest()
    # numpy takes zero bytes at the end of a text for padding: there must be none.
    return digest[:-1] + bytes([digest[-1] | 1])
