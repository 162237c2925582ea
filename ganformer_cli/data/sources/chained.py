"""Several sources as one, as the zips of a prepared data set are."""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Iterator
from itertools import accumulate, groupby
from pathlib import Path

from ganformer_cli.data.file_kinds import UnreadFiles
from ganformer_cli.data.sources.base import Item, Labels, Source, spread

_NOTES = 4  # of the parts, that are kept


class ChainedSource(Source):
    """The images of one source after those of the other. They are closed with it.

    Each must be able to go on after it was closed, as a zip is: few files are open at a time.
    """

    def __init__(self, path: Path, parts: list[Source]) -> None:
        self.path = path
        self.format = parts[0].format
        self._parts = parts
        self._ends = list(accumulate(part.count() for part in parts))
        labelled = [part.labels for part in parts if part.labels.kind is not None]
        self.labels = Labels(labelled[0].kind, width=max(each.width for each in labelled)) if labelled else Labels()
        alike = [part.labels for part in parts if part.labels.kind == self.labels.kind]  # without images, no labels
        self.labels.notes = [note for each in alike for note in each.notes][:_NOTES]
        self.labels.faults = [fault for each in alike for fault in each.faults][:_NOTES]

    def count(self) -> int:
        return self._ends[-1]

    def others(self) -> int:
        return sum(part.others() for part in self._parts)

    def unread_files(self) -> UnreadFiles:
        return UnreadFiles.sum(part.unread_files() for part in self._parts)

    def items(self, start: int = 0) -> Iterator[Item]:
        for part, end in zip(self._parts, self._ends, strict=True):
            if start < end:
                yield from part.items(max(0, start - end + part.count()))
                part.close()

    def samples(self, most: int) -> Iterator[Item]:
        places = (bisect.bisect_right(self._ends, number) for number in spread(self.count(), most))
        for place, numbers in groupby(places):
            yield from self._parts[place].samples(len(list(numbers)))
            self._parts[place].close()

    def fingerprint(self) -> str:
        return hashlib.sha256(" ".join(part.fingerprint() for part in self._parts).encode()).hexdigest()

    def close(self) -> None:
        for part in self._parts:
            part.close()
