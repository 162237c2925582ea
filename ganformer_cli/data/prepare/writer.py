"""Writes a data set: shards, and a journal from which it goes on after any interruption."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from PIL import Image

from ganformer_cli.data.loading.stores import ShardStore
from ganformer_cli.data.manifest import DUPLICATES, MANIFEST, PREVIEW, SKIPPED, checksum, shard_name
from ganformer_cli.data.prepare.conversion import ConversionResult
from ganformer_cli.data.prepare.shards import Journal, ShardWriter
from ganformer_cli.data.prepare.statistics import DatasetPlan, DatasetStatistics
from ganformer_cli.data.sources.base import spread
from ganformer_cli.files import json_text, remove

SET, JOURNAL = "set", "journal.jsonl"
COMMIT_IMAGES = 256
COMMIT_SECONDS = 2.0
_PREVIEW_SIDE = 8  # images, in each direction
_PREVIEW_PIXELS = 128  # longer side of each
_PREVIEW_GAP = 2


class DatasetWriter:
    """Writes a data set to ``folder / "set"`` from the results of the conversion, in the order of the source."""

    def __init__(self, folder: Path, plan: DatasetPlan) -> None:
        self._folder = folder
        self._plan = plan
        self._journal = Journal(folder / JOURNAL)
        self._begin()

    def _begin(self) -> None:
        self.statistics = DatasetStatistics(self._plan)
        self.committed = 0  # images of the source
        self._shards: list[dict[str, Any]] = []  # the finished ones, as the manifest has them
        self._writer: ShardWriter | None = None  # None behind the last shard
        self._next_shard()
        self._pending: list[ConversionResult] = []
        self._committed_at = time.monotonic()

    def start(self) -> None:
        """Resume what lies in the folder if it was begun with the same plan; else start over."""
        end = 0
        try:
            for line, behind in self._journal.lines():
                self._replay(line)
                end = behind
            if self._writer is not None:
                self._writer.open()
            for shard in self._shards:
                if (self._folder / SET / shard["file"]).stat().st_size != shard["bytes"]:
                    raise EOFError
        except (_OtherIdentityError, FileNotFoundError, EOFError):  # or something was removed from the folder
            end = 0
        if end:
            self._journal.open(end)
            return
        self.close()
        remove(self._folder / SET)
        (self._folder / SET).mkdir()
        self._begin()
        if self._writer is not None:
            self._writer.open()
        self._journal.open(0)
        self._journal.append(self._plan.identity)

    def add(self, result: ConversionResult, png: bytes) -> None:
        """Write the next image of the source; without a PNG if it is skipped."""
        self._advance_to(self._shard_of(self.statistics.considered))
        self.statistics.add(result)
        self._pending.append(result)
        if not result.reason and self._writer is not None:
            self._writer.add(png, result.crc)
        if len(self._pending) >= COMMIT_IMAGES or time.monotonic() - self._committed_at > COMMIT_SECONDS:
            self._commit()

    def finish(self, head: dict[str, Any], near_duplicates: bool) -> dict[str, Any]:
        """Finish the shards and write what lies beside them; the manifest, which begins with ``head``."""
        self._advance_to(self._plan.shards)
        folder = self._folder / SET
        for name in (SKIPPED, DUPLICATES):  # of an interruption
            remove(folder / name)
        if self.statistics.skipped_count > len(self.statistics.skipped):
            skipped = ({"file": each.name, "reason": each.reason} for each in self._results() if each.reason)
            _write_text(folder / SKIPPED, map(json_text, skipped))
        duplicates = self.statistics.duplicates(self._results, near_duplicates)
        if duplicates:
            _write_text(folder / DUPLICATES, [json_text(duplicates.file(), indent=2)])
        self._draw_preview(folder)
        manifest = {
            **head, **self.statistics.manifest(), "shards": self._shards, "duplicates": duplicates.summary(),
        }  # fmt: skip
        manifest = json.loads(json_text(manifest))  # as it can be written: names of files may be no text
        manifest["checksum"] = checksum(manifest)
        _write_text(folder / MANIFEST, [json_text(manifest, indent=2)])
        return manifest

    def close(self) -> None:
        """Close the files as they are."""
        if self._writer is not None:
            self._writer.close()
        self._journal.close()

    # ---- Shards and journal ----

    def _shard_of(self, number: int) -> int:
        """The shard of image ``number`` of the source."""
        return min(self._plan.shards - 1, number * self._plan.shards // self._plan.images)

    def _next_shard(self) -> None:
        number = len(self._shards)
        self._writer = None
        if number < self._plan.shards:
            path = self._folder / SET / shard_name(number, self._plan.shards)
            self._writer = ShardWriter(path, sum(shard["count"] for shard in self._shards))

    def _advance_to(self, shard: int) -> None:
        """Finish all shards before ``shard``."""
        while len(self._shards) < shard and self._writer is not None:
            self._commit()
            first, count = self.statistics.kept - self._writer.count, self._writer.count
            finished = self._writer.finish(self.statistics.labels_json(first, count))
            self._journal.append({"finished": finished})
            self._shards.append(finished)
            self._next_shard()
            if self._writer is not None:
                self._writer.open()

    def _commit(self) -> None:
        """Write the images since the last commit to the disk, then a line of the journal that says so."""
        if self._pending:
            if self._writer is not None:
                self._writer.sync()
            self._journal.append({"taken": self._pending})
            self.committed += len(self._pending)
            self._pending = []
        self._committed_at = time.monotonic()

    def _replay(self, line: dict[str, Any]) -> None:
        """Apply a line of the journal, without writing images."""
        if "finished" in line:
            if self._writer is not None:
                self.statistics.labels_json(0, self._writer.count)  # forgets the labels of that shard
            self._shards.append(line["finished"])
            self._next_shard()
        elif "taken" in line:
            for result in map(_result, line["taken"]):
                self.statistics.add(result)
                if not result.reason and self._writer is not None:
                    self._writer.count_existing(result.bytes, result.crc)
            self.committed = self.statistics.considered
        elif line != self._plan.identity:
            raise _OtherIdentityError

    def _results(self) -> Iterator[ConversionResult]:
        """All results that were committed, from the journal."""
        for line, _ in self._journal.lines():
            yield from map(_result, line.get("taken", ()))

    # ---- Preview ----

    def _draw_preview(self, folder: Path) -> None:
        """A sheet of images spread over the set."""
        count = self.statistics.kept
        side = min(_PREVIEW_SIDE, next(side for side in range(1, count + 1) if side * side >= count))
        numbers = spread(count, side * side)
        height, width = self._plan.height, self._plan.width
        scale = min(1.0, _PREVIEW_PIXELS / max(height, width))
        tall, wide = max(1, round(height * scale)), max(1, round(width * scale))
        across, down = wide + _PREVIEW_GAP, tall + _PREVIEW_GAP
        rows = -(-len(numbers) // side)
        sheet = Image.new("RGB", (side * across - _PREVIEW_GAP, rows * down - _PREVIEW_GAP), "white")
        with contextlib.closing(ShardStore(folder, self._shards)) as store:
            for place, number in enumerate(numbers):
                image = Image.fromarray(store.image(number).transpose(1, 2, 0))
                if image.size != (wide, tall):
                    image = image.resize((wide, tall), Image.Resampling.LANCZOS)
                sheet.paste(image, (place % side * across, place // side * down))
        with (folder / PREVIEW).open("wb") as stream:
            sheet.save(stream, "PNG")
            _to_disk(stream)


class _OtherIdentityError(Exception):
    """The journal belongs to another source or other settings."""


def _result(values: list[Any]) -> ConversionResult:
    result = ConversionResult(*values)
    width, height = result.size  # a list, in JSON
    return result._replace(size=(width, height))


def _write_text(path: Path, parts: Iterable[str]) -> None:
    """Write each part and a line break, and bring them to the disk."""
    # Not atomic by itself: the folder takes its place as a whole.
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        stream.writelines(f"{part}\n" for part in parts)
        _to_disk(stream)


def _to_disk(stream: IO[Any]) -> None:
    stream.flush()
    os.fsync(stream.fileno())
