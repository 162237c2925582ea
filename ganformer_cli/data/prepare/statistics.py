"""What is known of a data set while it is made, image by image: counts, digests, labels, duplicates.

The memory it takes is a few words an image. An interrupted preparation is taken up by telling the same tally the same
outcomes again, out of the journal: so its end does not depend on how often it was interrupted.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ganformer_cli.config import MAX_LABELS
from ganformer_cli.data.manifest import image_name
from ganformer_cli.data.prepare.conversion import ConversionResult, result_digest
from ganformer_cli.data.prepare.duplicates import Duplicates, find_duplicates
from ganformer_cli.data.sources.base import Labels
from ganformer_cli.errors import DataError

SKIPPED_SHOWN = 100  # in the manifest; all are in a file of their own if there are more

_AT_ONCE = 1000  # labels turned into text

Results = Callable[[], Iterator[ConversionResult]]


@dataclass(frozen=True)
class DatasetPlan:
    """What is going to be made."""

    height: int
    width: int
    images: int  # of the source that are going to be looked at, as far as is known beforehand
    shards: int
    labels: Labels
    identity: dict[str, Any]  # source and settings: work begun with others is not taken up


class UnusableSourceError(DataError):
    """The source cannot be prepared at all: work on it is not kept."""


def check_label_width(kind: str, width: int, where: str) -> None:
    """Raise UnusableSourceError if labels are wider than a network takes (classes, or numbers of a vector)."""
    if width <= MAX_LABELS:
        return
    said = f"class {width - 1} makes {width} classes" if kind == "classes" else f"its label has {width} numbers"
    raise UnusableSourceError(
        f"{where}: {said}, and a network takes at most {MAX_LABELS}; number the classes from 0 without gaps, or name "
        "them, in a file for --labels FILE, or prepare without labels: --labels none"
    )


class DatasetStatistics:
    """Accumulates the results of all images, in the order of the source."""

    def __init__(self, plan: DatasetPlan) -> None:
        self.considered = 0
        self.kept = 0
        self.skipped: list[dict[str, str]] = []  # the first ones
        self._reasons: Counter[str] = Counter()
        self._modes: Counter[str] = Counter()
        self._several_frames = 0
        self._values: dict[float, list[float]] = {}  # of more than 8 bits, by the highest there could be: see _measure
        self._sides: Counter[int] = Counter()  # shorter ones, by their number of bits
        self._smallest: tuple[int, int] | None = None
        self._largest: tuple[int, int] | None = None
        self._kind, self._names, self._class_count = plan.labels.kind, plan.labels.class_names, plan.labels.class_count
        self._classes: Counter[int] = Counter()
        self._vector = 0  # numbers in a label
        self._labels: array[int] | array[float] = array("q" if self._kind == "classes" else "d")  # of this shard
        self._digests = array("Q")  # the first 64 bits of each image's
        self._hashes = array("Q")
        self._content = hashlib.sha256(f"{plan.height}x{plan.width} {self._kind}\n".encode())
        self.source = hashlib.sha256()  # of what was considered of it; see source_fingerprint

    @property
    def skipped_count(self) -> int:
        return self._reasons.total()

    def add(self, result: ConversionResult) -> None:
        """Count the next image of the source.

        Raises:
            UnusableSourceError: its label has another length than the others', or is beyond what networks take.
        """
        self.considered += 1
        self.source.update(result_digest(result))
        if result.mode:
            self._measure(result)
        if result.reason:
            self._reasons[result.reason.partition(":")[0]] += 1
            if len(self.skipped) < SKIPPED_SHOWN:
                self.skipped.append({"file": result.name, "reason": result.reason})
            return
        self.kept += 1
        self._content.update(bytes.fromhex(result.pixels))
        self._digests.append(int(result.pixels[:16], 16))
        self._hashes.append(result.hash)
        if self._kind is not None:
            self._content.update(json.dumps(result.label).encode())
            self._take_label(result)

    def _measure(self, result: ConversionResult) -> None:
        width, height = size = result.size
        self._modes[result.mode] += 1
        self._several_frames += result.several_frames
        if result.values:
            low, high, full = result.values
            known = self._values.setdefault(full, [0, low, high])
            self._values[full] = [known[0] + 1, min(low, known[1]), max(high, known[2])]
        self._sides[min(size).bit_length()] += 1
        if self._smallest is None or width * height < self._smallest[0] * self._smallest[1]:
            self._smallest = size
        if self._largest is None or width * height > self._largest[0] * self._largest[1]:
            self._largest = size

    def _take_label(self, result: ConversionResult) -> None:
        if self._kind == "classes":
            check_label_width("classes", result.label + 1, result.name)
            self._classes[result.label] += 1
            self._labels.append(result.label)
            return
        self._vector = self._vector or len(result.label)
        check_label_width("vectors", self._vector, result.name)
        if len(result.label) != self._vector:
            raise UnusableSourceError(
                f"{result.name}: its label has {len(result.label)} numbers where others have {self._vector}; repair it"
            )
        self._labels.extend(result.label)

    def labels_json(self, first: int, count: int) -> bytes:
        """``dataset.json`` of the shard of the last ``count`` images, the first of which is number ``first``."""
        if self._kind is None:
            return b'{"labels": null}'
        width = 1 if self._kind == "classes" else self._vector
        pieces = []
        for start in range(0, count, _AT_ONCE):
            labels: list[Any] = self._labels[start * width : min(count, start + _AT_ONCE) * width].tolist()
            if self._kind == "vectors":
                labels = [labels[i : i + width] for i in range(0, len(labels), width)]
            pairs = [[image_name(first + start + i), label] for i, label in enumerate(labels)]
            pieces.append(json.dumps(pairs)[1:-1].encode())
        del self._labels[:]
        return b'{"labels": [' + b", ".join(pieces) + b"]}"

    def manifest(self) -> dict[str, Any]:
        """The manifest's entries, except for the source and the duplicates."""
        return {
            "count": self.kept,
            "fingerprint": self._content.hexdigest(),
            "labels": self._describe_labels(),
            "skipped": {
                "count": self.skipped_count,
                "reasons": dict(sorted(self._reasons.items())),
                "first": self.skipped,
            },
            "sources": {
                "several_frames": self._several_frames,
                "wide_values": [
                    {"count": int(count), "lowest": low, "highest": high, "of": full}
                    for full, (count, low, high) in sorted(self._values.items())
                ],
                "modes": dict(sorted(self._modes.items())),
                "smallest": self._smallest and list(self._smallest),
                "largest": self._largest and list(self._largest),
                "sides": {_between(bits): count for bits, count in sorted(self._sides.items())},
            },
        }

    def _describe_labels(self) -> dict[str, Any] | None:
        if self._kind is None:
            return None
        if self._kind == "vectors":
            return {"kind": "vectors", "size": self._vector}
        names = self._names
        size = max(self._class_count or 0, max(self._classes) + 1) if names is None else len(names)
        described: dict[str, Any] = {"kind": "classes", "size": size}
        described["pictures"] = {str(label): count for label, count in sorted(self._classes.items())}
        return described if names is None else {**described, "names": names}

    def duplicates(self, results: Results, near: bool) -> Duplicates:
        """Groups of images that are the same, or look alike, see :func:`find_duplicates`."""

        def kept() -> Iterator[tuple[str, str]]:
            return ((result.name, result.pixels) for result in results() if not result.reason)

        return find_duplicates(self._digests, self._hashes if near else None, kept)


def source_fingerprint(digest: Any, images: int) -> str:
    """sha256, hexadecimal, of a source: its number of images, and ``digest`` of those that were considered."""
    return hashlib.sha256(f"{images}\n".encode() + digest.digest()).hexdigest()


def _between(bits: int) -> str:
    """The range of numbers with this many bits, as in ``256-511``."""
    least = 1 << bits - 1
    return str(least) if bits == 1 else f"{least}-{2 * least - 1}"
