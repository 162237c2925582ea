"""The labels of a data set that is trained on: of the zips that ``prepare`` made, or of a folder or zip as it is."""

from __future__ import annotations

import zipfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ganformer_cli.data.limits import MAX_LABELS_BYTES
from ganformer_cli.data.manifest import DATASET_JSON, MANIFEST, image_name
from ganformer_cli.data.sources.files import FileSource
from ganformer_cli.data.sources.label_values import is_number
from ganformer_cli.data.sources.labels import NamedLabels
from ganformer_cli.data.zips import ZipIndex
from ganformer_cli.errors import DataError
from ganformer_cli.files import MAX_LABELS_MEMORY, parse_json
from ganformer_cli.text import printable

_AGAIN = "prepare it again"
_BROKEN = (OSError, ValueError, zipfile.BadZipFile)


@dataclass(frozen=True)
class SetLabels:
    """One label an image."""

    values: npt.NDArray[Any] | None = None  # int64 [N]: classes; float64 [N, width]: vectors; None without labels
    width: int = 0  # classes, or numbers of a vector
    class_names: list[str] | None = None
    notes: list[str] = field(default_factory=list)  # what the user should know of how they were read


def prepared_labels(folder: Path, manifest: dict[str, Any]) -> SetLabels:
    """Those of a prepared data set.

    Raises:
        DataError: a zip's labels are damaged, or not what the manifest says.
    """
    described = manifest["labels"]
    if described is None:
        return SetLabels()
    parts, first = [], 0
    for shard in manifest["shards"]:
        parts.append(shard_labels(folder / shard["file"], first, shard["count"], described))
        first += shard["count"]
    values = np.concatenate(parts)
    if fault := frequency_fault(values, described):
        raise DataError(f"{folder / MANIFEST} {fault}; {_AGAIN}")
    return SetLabels(values, described["size"], described.get("names"))


def shard_labels(
    file: Path, first: int, count: int, described: dict[str, Any] | None, *, index: ZipIndex | None = None
) -> npt.NDArray[Any]:
    """Those of one zip.

    Args:
        first: the number of its first image.
        count: of its images.
        described: what the manifest says of the labels; None: there are none.
        index: of the zip, where it is known.

    Returns:
        Classes, int64 [count], or vectors, float64 [count, size]; empty without labels.

    Raises:
        DataError: they are damaged, or not what the manifest says.
    """
    where = f"{file}: {DATASET_JSON}"
    try:
        index = index or ZipIndex(file)
        number = index.find(DATASET_JSON)
        if number is None:
            raise ValueError("it is missing")
        data = index.read(number, MAX_LABELS_BYTES)
        index.close()
    except _BROKEN as error:
        raise DataError(f"{where} cannot be read ({printable(error)}); {_AGAIN}") from error
    content = parse_json(data, where, remedy=_AGAIN, max_memory=MAX_LABELS_MEMORY, finite=False)
    if not isinstance(content, dict) or not isinstance(pairs := content.get("labels", 0), (list, type(None))):
        raise DataError(f'{where} is not {{"labels": [[name, label], ...]}}; {_AGAIN}')
    pairs = pairs or []
    if described is None:
        if pairs:
            raise DataError(f"{where} has labels, and {MANIFEST} says that there are none; {_AGAIN}")
        return np.empty(0, np.int64)
    if len(pairs) != count:
        raise DataError(f"{where} has {len(pairs)} labels for {count} images; {_AGAIN}")
    size, classes = described["size"], described["kind"] == "classes"
    for number, pair in enumerate(pairs, first):
        name = image_name(number)
        if not isinstance(pair, list) or len(pair) != 2 or pair[0] != name:
            raise DataError(f"{where} has {printable(pair, limit=80)} where the label of {name} should be; {_AGAIN}")
        label = pair[1]
        fine = type(label) is int and 0 <= label < size
        if not classes:
            fine = isinstance(label, list) and len(label) == size and all(map(is_number, label))
        if not fine:
            wanted = f"a class below {size}" if classes else f"a vector of {size} finite numbers"
            raise DataError(f"{where}: the label of {name} is {printable(label, limit=80)}, not {wanted}; {_AGAIN}")
    values = [label for _, label in pairs]
    return np.array(values, np.int64) if classes else np.array(values, np.float64).reshape(count, size)


def frequency_fault(values: npt.NDArray[Any], described: dict[str, Any]) -> str | None:
    """What is wrong with the manifest's count of each class; None if nothing is."""
    if described["kind"] != "classes":
        return None
    found = {str(label): number for label, number in sorted(Counter(values.tolist()).items())}
    said = {label: number for label, number in described["pictures"].items() if number}
    if found == said:
        return None
    label = next(label for label in sorted({*found, *said}, key=int) if found.get(label) != said.get(label))
    return f"says that {said.get(label, 0)} images are of class {label}, and {found.get(label, 0)} are"


def plain_labels(source: FileSource) -> SetLabels:
    """Those of a folder or zip as it is, from its ``dataset.json``, if it has one.

    Raises:
        DataError: an image has none.
    """
    labels = source.labels
    if not isinstance(labels, NamedLabels):
        return SetLabels(notes=labels.notes)
    names = list(source.names())
    values, missing = labels.values_of(names)
    if len(missing):
        raise DataError(
            f"{labels.where} has no label for {printable(names[int(missing[0])])} ({len(missing)} in all); it names "
            f"for example {printable(labels.example)}; add it, or make a data set of the others with: ganformer prepare"
        )
    width = labels.width
    if labels.kind == "classes" and labels.class_count is None:
        width = int(values.max()) + 1
    return SetLabels(values, width, labels.class_names, [*labels.notes, *labels.faults])
