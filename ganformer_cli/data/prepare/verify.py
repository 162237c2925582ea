"""Whether a prepared data set is still what it was when it was made."""

from __future__ import annotations

import contextlib
import io
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ganformer_cli.data.manifest import DATASET_JSON, MANIFEST, belongs, image_name, read_manifest
from ganformer_cli.data.set_labels import frequency_fault, shard_labels
from ganformer_cli.data.zips import DAMAGED_IN_ZIP, ZipIndex
from ganformer_cli.errors import DataError
from ganformer_cli.files import sha256_of

VerifyProgress = Callable[[int, int, int], None]  # images looked at, of how many, problems

_MAX_PROBLEMS = 100  # reported for one zip


def verify(folder: Path, *, progress: VerifyProgress = lambda done, total, problems: None) -> dict[str, Any]:
    """Check every file of the data set in ``folder``.

    The manifest has its checksum; each zip has its size, sha256 and images; each image has its name, bytes, size
    and mode. Only if a zip differs are its images decoded, to tell which of them are damaged.

    Returns:
        ``folder``, ``ok``, ``problems`` (each names the file), ``images`` and ``shards`` (how many were found).

    Raises:
        DataError: there is no prepared data set.
    """
    problems: list[str] = []
    images = shards = 0
    try:
        manifest = read_manifest(folder)
    except DataError as error:
        problems.append(str(error))
        manifest = {}
    if manifest is None:
        raise DataError(f"{folder} holds no prepared data set: there is no {MANIFEST} in it")
    if manifest:
        total = manifest["count"]
        progress(0, total, 0)
        first = 0
        labels: list[npt.NDArray[Any]] = []
        for shard in manifest["shards"]:
            path = folder / shard["file"]
            if not path.is_file():
                problems.append(f"{path} is missing")
            else:
                shards += 1
                check = _Shard(path, shard, manifest, first)
                for found in check.run():
                    images += found
                    progress(images, total, len(problems) + len(check.problems))
                problems += check.problems
                labels += check.labels
            first += shard["count"]
        if first != total:
            problems.append(f"{folder / MANIFEST} says {total} images, its shards hold {first}")
        elif (
            manifest["labels"] is not None
            and len(labels) == len(manifest["shards"])
            and (fault := frequency_fault(np.concatenate(labels), manifest["labels"]))
        ):
            problems.append(f"{folder / MANIFEST} {fault}")
        known = {shard["file"] for shard in manifest["shards"]}
        for path in sorted(folder.iterdir()):
            if not belongs(path.name) or (path.suffix == ".zip" and path.name not in known):
                problems.append(f"{path} does not belong to the data set")
    return {
        "folder": str(folder), "ok": not problems, "problems": problems, "pictures": images, "shards": shards,
    }  # fmt: skip


class _Shard:
    """The check of one zip, whose first image is number ``first``."""

    def __init__(self, path: Path, shard: dict[str, Any], manifest: dict[str, Any], first: int) -> None:
        self.problems: list[str] = []
        self.labels: list[npt.NDArray[Any]] = []  # those of the zip, if they are as they should be
        self._path, self._shard, self._manifest, self._first = path, shard, manifest, first

    def run(self) -> Iterator[int]:
        """Yields 1 for each image that was checked."""
        try:
            whole = self._is_whole()
            with contextlib.closing(ZipIndex(self._path)) as index:
                names, first, count = list(index.names()), self._first, self._shard["count"]
                if names != [*map(image_name, range(first, first + count)), DATASET_JSON]:
                    self._tell(f"{self._path} does not hold the {count} images from {first} on and {DATASET_JSON}")
                try:
                    self.labels = [shard_labels(self._path, first, count, self._manifest["labels"], index=index)]
                except DataError as error:
                    self._tell(str(error).rpartition("; ")[0])
                for number, name in enumerate(names):
                    if name != DATASET_JSON:
                        self._look_at(index, number, decode=not whole)
                        yield 1
        except (OSError, zipfile.BadZipFile) as error:
            self._tell(f"{self._path} cannot be read ({error})")

    def _is_whole(self) -> bool:
        size = self._path.stat().st_size
        if size != self._shard["bytes"]:
            self._tell(f"{self._path} has {size} bytes where {self._shard['bytes']} are expected")
            return False
        if sha256_of(self._path) != self._shard["sha256"]:
            self._tell(f"{self._path} was changed: its sha256 is not what {MANIFEST} says")
            return False
        return True

    def _look_at(self, index: ZipIndex, number: int, decode: bool) -> None:
        where = f"{self._path}: {index.name(number)}"
        width, height = self._manifest["width"], self._manifest["height"]
        try:
            with Image.open(io.BytesIO(index.read(number)), formats=("PNG",)) as image:
                if decode:
                    image.load()
                if image.size != (width, height) or image.mode != "RGB":
                    found = f"{image.mode} {image.width}x{image.height}"
                    self._tell(f"{where} is {found}, not RGB {width}x{height}")
        except Exception as error:  # a damaged file can break a decoder in any way
            self._tell(f"{where} is damaged ({str(error).removeprefix(DAMAGED_IN_ZIP).split(' <', 1)[0]})")

    def _tell(self, problem: str) -> None:
        if len(self.problems) < _MAX_PROBLEMS:
            self.problems.append(problem)
