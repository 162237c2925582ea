"""Labels of images: a class each, or a vector of numbers each; from files, by name or by number, or from folders."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from ganformer_cli.data.found_files import FoundFiles
from ganformer_cli.data.limits import MAX_LABELS_BYTES
from ganformer_cli.data.manifest import DATASET_JSON
from ganformer_cli.data.sources.base import READ_ERRORS, Label, Labels, has_image_suffix, reason, shown
from ganformer_cli.data.sources.label_names import match_loosely, plain
from ganformer_cli.data.sources.label_values import (
    MAX_CLASSES,
    MAX_VALUE,
    ONE_HOT,
    WANTED,
    LabelValues,
    ValueReader,
    meaning_of,
)
from ganformer_cli.errors import DataError
from ganformer_cli.files import check_regular, parse_json
from ganformer_cli.npy_header import check_npy, check_npy_stream

_DIGEST = 16  # bytes kept of each name: two names share them once in 10**25 data sets of 3 million images
_BOMS = ((b"\xff\xfe\0\0", "utf-32"), (b"\0\0\xfe\xff", "utf-32"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_JSON_MEMORY = 2 << 30  # bytes; three million labels take a third of that
_JSON_FORM = '{"labels": [[name, label], ...]}'
#: What the first column of a table of labels is called, where it has a header.
_NAME_HEADERS = {
    "name", "names", "file", "files", "filename", "file_name", "filenames", "file_names", "path", "filepath", "image",
    "images", "image_id", "image_name", "image_path", "img", "img_name", "id", "key", "picture", "",
}  # fmt: skip

Rows = Callable[[], Iterable[tuple[int, str, Any]]]


class _ReadLabels(Labels):
    """Labels that were read from ``where``."""

    def __init__(self, found: LabelValues, where: str) -> None:
        notes = [f"{where}: {found.note}"] if found.note else []
        super().__init__(
            found.kind, found.class_names, class_count=found.class_count, width=found.width, notes=notes
        )  # fmt: skip
        self.where = where  # how messages name it
        self._values = found.values


class NumberedLabels(_ReadLabels):
    """One label an image, in the order of the images."""

    def __init__(self, values: npt.NDArray[Any], where: str) -> None:
        """
        Args:
            values: of each of N images a whole number or a text, which are classes, or several numbers: [N], [N, 1]
                or [N, K].
            where: how messages name them.

        Raises:
            DataError: they are something else.
        """
        super().__init__(_meaning_of_array(values, where), where)

    def __len__(self) -> int:
        return len(self._values)

    def of(self, number: int, name: str) -> Label | None:
        return _label(self._values[number]) if number < len(self._values) else None

    def fingerprint(self) -> str:
        return hashlib.sha256(np.ascontiguousarray(self._values).data).hexdigest()


class NamedLabels(_ReadLabels):
    """Labels by image name, in a few bytes each: what is kept of a name is a digest."""

    def __init__(self, rows: Rows, where: str, unit: str, *, base: str = "") -> None:
        """
        Args:
            rows: place, name and label of each image, from the first on at every call; a label is as written.
            where: how messages name the file.
            unit: what a place counts: "line" or "label".
            base: the folder that the file lies in, with a slash behind it: names may begin there.

        Raises:
            DataError: a label is neither a class nor a vector, they are mixed, or a name has two.
        """
        digests, places, reader, example = bytearray(), array("q"), ValueReader(), ""
        for place, name, label in rows():
            reader.add(f"{where}, {unit} {place}", shown(name), label)
            example = example or shown(name)
            digests += _digest(name)
            places.append(place)
        if not places:
            raise DataError(f"{where} holds no labels; fill it, or choose --labels none")
        found = reader.finish()
        super().__init__(found, where)
        self.example, self._rows, self._base = example, rows, base
        keys = np.frombuffer(bytes(digests), f"S{_DIGEST}")
        order = np.argsort(keys, kind="stable")
        keys, values = keys[order], found.values[order]
        same = keys[1:] == keys[:-1]
        differs = values[1:] != values[:-1]
        twice = np.flatnonzero(same & (differs if values.ndim == 1 else differs.any(axis=1)))
        if len(twice):
            lines = sorted(places[int(order[twice[0] + i])] for i in (0, 1))
            raise DataError(f"{where}, {unit} {lines[1]}: another label for the image of {unit} {lines[0]}; repair it")
        first = np.concatenate(([True], ~same))
        self._keys, self._values = keys[first], values[first]
        self._numbers: npt.NDArray[np.int64] = order[first]  # of the rows

    def of(self, number: int, name: str) -> Label | None:
        row = self._places([name])[0]
        return None if row < 0 else _label(self._values[row])

    def fingerprint(self) -> str:
        return hashlib.sha256(self._keys.tobytes() + self._values.tobytes()).hexdigest()

    def match(self, images: Callable[[], Iterable[str]], source: Path) -> None:
        """Find the labels of images whose names are spelt otherwise, and note what is left over.

        Args:
            images: their names, at every call.
            source: how messages name what they lie in.

        Raises:
            DataError: no image has a label, or the match is ambiguous.
        """
        used = np.zeros(len(self._keys), np.bool_)
        unmatched: list[str] = []
        count = 0
        for names in _blocks(images()):
            count += len(names)
            rows = self._places(names)
            used[rows[rows >= 0]] = True
            unmatched += [names[i] for i in np.flatnonzero(rows < 0)]
        if not count or (not unmatched and used.all()):
            return
        numbers = np.full(int(self._numbers.max()) + 1, -1, np.int64)
        numbers[self._numbers[~used]] = np.flatnonzero(~used)
        left = [
            (int(numbers[i]), name)
            for i, (_, name, _) in enumerate(self._rows())
            if i < len(numbers) and numbers[i] >= 0
        ]
        if unmatched and left:
            found = match_loosely(unmatched, left, lambda row: _label(self._values[row]), self.where, self._base)
            if not found.rows and not used.any():
                raise DataError(
                    f"{self.where}: none of its {len(used)} labels is of one of the {count} images of {source}: "
                    f"it names for example {shown(left[0][1])}, and there is {shown(unmatched[0])}; correct the names, "
                    "or choose --labels none"
                )
            self._adopt(found.rows)
            used[list(found.rows.values())] = True
            unmatched = [name for name in unmatched if plain(name) not in found.rows]
            left = [(row, name) for row, name in left if not used[row]]
            for rule, (number, image, label) in found.rules.items():
                self.notes.append(
                    f"{_counted(number, 'label')} matched by {rule}: {shown(label)} in {self.where} is {shown(image)}"
                )
        if unmatched:
            named = f", which names for example {shown(left[0][1]) if left else self.example}"
            self.notes.append(
                f"{_counted(len(unmatched), 'image')} without a label in {self.where}{named}: "
                f"{shown(unmatched[0])}{' and others' if len(unmatched) > 1 else ''}"
            )
        if left:
            self.faults.append(
                f"{_counted(len(left), 'label')} of no image in {self.where}: "
                f"{shown(left[0][1])}{' and others' if len(left) > 1 else ''}"
            )

    def values_of(self, names: list[str]) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
        """Labels of images of these names, and the places of those that have none, whose labels mean nothing."""
        rows = self._places(names)
        return self._values[rows], np.flatnonzero(rows < 0)

    def _places(self, names: list[str]) -> npt.NDArray[np.int64]:
        """The row of each name, -1 where there is none."""
        rows = self._find(names)
        if self._base:
            below = self._find([plain(name).removeprefix(self._base) for name in names])
            rows = np.where(below >= 0, below, rows)
        return rows

    def _find(self, names: list[str]) -> npt.NDArray[np.int64]:
        keys = _digests(names)
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[at] == keys, at, -1).astype(np.int64)

    def _adopt(self, rows: dict[str, int]) -> None:
        """Let these images have the labels of these rows."""
        keys = np.concatenate((self._keys, _digests(rows)))
        values = np.concatenate((self._values, self._values[list(rows.values())]))
        order = np.argsort(keys, kind="stable")
        self._keys, self._values = keys[order], values[order]


class FolderLabels(Labels):
    """An image's class is the first folder of its name. Folders around all the images do not count."""

    def __init__(self, names: Iterable[str], source: Path) -> None:
        """
        Args:
            names: of all images.

        Raises:
            DataError: no image lies in a folder.
        """
        folders = {tuple(plain(name).split("/")[:-1]) for name in names}
        around = len(os.path.commonprefix(list(folders)))
        self._depth = max(0, min(around, min(map(len, folders), default=0) - 1))
        classes = sorted({folder[self._depth] for folder in folders if folder})
        if not classes:
            raise DataError(f"--labels folders: no image of {source} lies in a folder; leave the option out")
        super().__init__("classes", classes, class_count=len(classes), width=len(classes))
        self._numbers = {name: i for i, name in enumerate(classes)}

    def of(self, number: int, name: str) -> Label | None:
        parts = plain(name).split("/")[:-1]
        return self._numbers[parts[self._depth]] if parts else None

    def fingerprint(self) -> str:
        return "folders"


def choose_labels(
    option: str | None,
    source: Path,
    *,
    own: Callable[[], Labels | None] = lambda: None,
    names: Callable[[], Iterable[str]] | None = None,
    count: Callable[[], int],
) -> Labels:
    """The labels that ``--labels option`` asks for.

    Args:
        own: the labels that lie in the source, if any.
        names: of all images; None where images have no folders.
        count: how many images there are.

    Raises:
        DataError: they are missing or damaged.
    """
    if option == "none":
        return Labels()
    if option == "folders":
        if names is None:
            raise DataError(f"--labels folders: the images of {source} lie in no folders; leave the option out")
        return FolderLabels(names(), source)
    if option is None:
        labels = own()
    else:
        labels = read_labels(Path(option))
        if isinstance(labels, NumberedLabels) and len(labels) != count():
            raise DataError(
                f"--labels {option}: {len(labels)} labels for the {count()} images of {source}; "
                f"one each is needed, in the order of the images"
            )
    if isinstance(labels, NamedLabels) and names is not None:
        labels.match(names, source)
    return Labels() if labels is None else labels


def array_labels(
    read: Callable[[], npt.NDArray[Any]], where: str, count: int, shape: tuple[int, ...] | None = None
) -> NumberedLabels:
    """The labels in an array that lies beside that of the images.

    Args:
        shape: that of the array, where it is known before it is read.

    Raises:
        DataError: it cannot be read, or has not one label for each of ``count`` images.
    """
    if shape and shape[0] != count:  # else as much would be read as it claims
        raise DataError(f"{where}: {shape[0]} labels for {count} images; repair it, or --labels none")
    try:
        labels = NumberedLabels(read(), where)
    except (*READ_ERRORS, TypeError, KeyError) as error:
        raise DataError(f"{where} cannot be read ({reason(error)}); repair it, or choose --labels none") from error
    if len(labels) != count:
        raise DataError(f"{where}: {len(labels)} labels for {count} images; repair it, or --labels none")
    return labels


def read_npy(stream: IO[bytes]) -> npt.NDArray[Any]:
    """An array in numpy's format, in an archive.

    Raises:
        ValueError: it is damaged, is none of numbers, or has more than :data:`MAX_LABELS_BYTES`.
    """
    data = stream.read(MAX_LABELS_BYTES + 1)
    if len(data) > MAX_LABELS_BYTES:
        raise ValueError(f"more than {MAX_LABELS_BYTES >> 20} MiB")
    check_npy_stream(io.BytesIO(data), len(data))
    values: npt.NDArray[Any] = np.load(io.BytesIO(data), allow_pickle=False)
    return values


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
            check_npy(path)
            return NumberedLabels(np.load(path, mmap_mode="r", allow_pickle=False), where)
        if suffix == ".csv":
            return _csv_labels(path, where)
        labels = json_labels(path.read_bytes(), where)
    except (*READ_ERRORS, csv.Error) as error:
        raise DataError(f"{where} cannot be read ({reason(error)}); give another file") from error
    if labels.kind is None:
        raise DataError(f"{where} holds no labels; fill it, or choose --labels none")
    return labels


def json_labels(data: bytes, where: str, *, base: str = "") -> Labels:
    """Labels in StyleGAN's form, ``{"labels": [[name, label], ...]}`` or ``{"labels": null}``, or ``{name: label}``.

    Args:
        base: the folder that the file lies in; see :class:`NamedLabels`.

    Raises:
        DataError: it is something else.
    """
    encoding, note = _encoding_of(data[:4])
    try:
        text = data.decode(encoding)
        content = parse_json(text, "", max_memory=_JSON_MEMORY, finite=False)
        if isinstance(content, dict) and not isinstance(content.get("labels"), list):
            json.loads(text, object_pairs_hook=_unique)
    except (DataError, ValueError, MemoryError) as error:
        why = reason(error).lstrip(":, ")
        raise DataError(f"{where} is not {_JSON_FORM} ({why}); repair it, or choose --labels none") from error
    pairs = content.get("labels", content) if isinstance(content, dict) else content
    if isinstance(pairs, dict):
        pairs = list(pairs.items())
    if not isinstance(content, dict) or not isinstance(pairs, (list, type(None))):
        raise DataError(f"{where} is not {_JSON_FORM}; repair it, or choose --labels none")
    if not pairs:
        said = 'says "labels": null' if pairs is None else "lists no labels"
        return Labels(notes=[f"{where} {said}; taken as without labels"])
    for place, pair in enumerate(pairs):
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not isinstance(pair[0], str):
            raise DataError(f"{where}, label {place} is not [name, label]; repair it, or choose --labels none")
    labels = NamedLabels(
        lambda: ((place, name, label) for place, (name, label) in enumerate(pairs)), where, "label", base=base
    )
    if note:
        labels.notes.insert(0, f"{where} {note}")
    return labels


def dataset_json(found: FoundFiles, source: Path, read: Callable[[str], bytes | None]) -> Labels | None:
    """The labels in the ``dataset.json`` among the files ``found`` in ``source``; None without one.

    Args:
        source: a folder or an archive, all of whose files are known.
        read: gives the contents of a file of the source by its name; None: it was not kept.

    Raises:
        DataError: there are several, or it holds no labels.
    """
    name = found.find_labels(source)
    if (note := found.note()) is not None:
        return Labels(notes=[f"{source}: {note}"])
    data = None if name is None else read(name)
    if name is None or data is None:
        return None
    return json_labels(data, f"{source}: {name}", base=plain(name).removesuffix(DATASET_JSON))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, in which no name may stand twice with different values."""
    found = dict(pairs)
    if len(found) < len(pairs):
        for name, value in pairs:
            if found[name] != value:
                raise ValueError(f"{name!r} stands there twice")
    return found


def _encoding_of(start: bytes) -> tuple[str, str]:
    """How a text file is encoded, by its first four bytes, and what to say of that."""
    for mark, encoding in _BOMS:
        if start.startswith(mark):
            return encoding, f"is {encoding.upper()}, and read as that; UTF-8 is usual"
    return "utf-8-sig", ""


def _csv_labels(path: Path, where: str) -> NamedLabels:
    with path.open("rb") as stream:
        encoding, note = _encoding_of(stream.read(4))
    header: list[str] = []

    def rows() -> Iterator[tuple[int, str, Any]]:
        with path.open(encoding=encoding, newline="") as text:
            yield from _csv_rows(text, where, header)

    labels = NamedLabels(rows, where, "line")
    names = [name.strip() for name in header[1:]]
    one_hot = any(note.endswith(ONE_HOT) for note in labels.notes)
    if one_hot and len(names) == labels.class_count == len(set(names)) and all(names):
        labels.class_names = names
    if note:
        labels.notes.insert(0, f"{where} {note}")
    return labels


def _csv_rows(stream: IO[str], where: str, header: list[str]) -> Iterator[tuple[int, str, Any]]:
    """Line, name and label of each row; a header goes to ``header``."""
    reader = csv.reader(stream)
    rows = ((reader.line_num, row) for row in reader if row)
    first = list(islice(rows, 2))
    if first and _is_header(*(row for _, row in first)):
        header[:] = first.pop(0)[1]
    for line, row in chain(first, rows):
        yield line, row[0], _csv_label(row, where, line)


def _csv_label(row: list[str], where: str, line: int) -> Any:
    if len(row) < 2:
        other = next((f"; it seems to be separated by {sign!r}" for sign in ";\t|" if sign in row[0]), "")
        raise DataError(f"{where}, line {line}: not name,label{other}; repair it")
    if len(row) == 2:
        return row[1]
    try:
        return [float(x) for x in row[1:]]
    except ValueError:
        given = ",".join(row[1:])
        raise DataError(f"{where}, line {line}: the label of {row[0]} is {given!r}, not {WANTED}") from None


def _is_header(first: list[str], second: Sequence[str] = ()) -> bool:
    """Whether the first row names the columns."""
    if len(first) < 2 or has_image_suffix(first[0]):
        return False
    if first[0].strip().lower() in _NAME_HEADERS or (second and has_image_suffix(second[0])):
        return True
    return _are_numbers(second[1:]) and not _are_numbers(first[1:])


def _are_numbers(cells: Sequence[str]) -> bool:
    with contextlib.suppress(ValueError):
        return bool([float(cell.strip("[] ")) for cell in cells])
    return False


def _meaning_of_array(values: npt.NDArray[Any], where: str) -> LabelValues:
    """Classes or vectors, as an array [N], [N, 1] or [N, K] holds them."""
    if not isinstance(values, np.ndarray):
        raise DataError(f"{where}: an archive of arrays; save the one array of labels with numpy.save")
    if values.ndim == 1:
        values = values[:, None]
    if values.ndim == 2 and values.shape[1] == 1 and values.dtype.kind in "OSU" and len(values):
        return _names_in_array(values[:, 0], where)
    if values.dtype.kind == "b":
        values = values.astype(np.uint8)
    if values.ndim != 2 or not values.shape[1] or values.dtype.kind not in "iuf":
        raise DataError(
            f"{where}: labels of {values.dtype} {list(values.shape)}; save classes as whole numbers [N], "
            f"vectors as numbers [N, K]"
        )
    with np.errstate(invalid="ignore"):
        wrong = np.flatnonzero(~(np.abs(values.astype(np.float64)) <= MAX_VALUE).all(axis=1))
    if not len(wrong) and values.shape[1] == 1:
        whole = values.dtype.kind != "f" or bool((values == np.floor(values)).all())
        wrong = np.flatnonzero(((values < 0) | (values >= MAX_CLASSES))[:, 0]) if whole else wrong
    if len(wrong):
        value = values[wrong[0]]
        said = value[0] if len(value) == 1 else value
        raise DataError(f"{where}: label {int(wrong[0])} is {said}, not {WANTED}; repair it")
    return meaning_of(values)


def _names_in_array(values: npt.NDArray[Any], where: str) -> LabelValues:
    reader = ValueReader()
    for number, value in enumerate(values.tolist()):
        if isinstance(value, bytes):
            try:
                value = value.decode("utf-8")
            except UnicodeDecodeError as error:
                raise DataError(f"{where}: label {number} is {value!r}, no text in UTF-8; repair it") from error
        reader.add(where, f"image {number}", value)
    return reader.finish()


def _label(value: Any) -> Label:
    return tuple(float(x) for x in value) if np.ndim(value) else int(value)


def _blocks(names: Iterable[str], size: int = 4096) -> Iterator[list[str]]:
    rest = iter(names)
    return iter(lambda: list(islice(rest, size)), [])


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _digests(names: Iterable[str]) -> npt.NDArray[np.bytes_]:
    return np.frombuffer(b"".join(map(_digest, names)), f"S{_DIGEST}")


def _digest(name: str) -> bytes:
    digest = hashlib.blake2b(plain(name).encode("utf-8", "surrogatepass"), digest_size=_DIGEST).digest()
    # numpy takes zero bytes at the end of a text for padding: there must be none.
    return digest[:-1] + bytes([digest[-1] | 1])
