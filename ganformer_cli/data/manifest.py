"""The manifest of a prepared data set: what is in it, how it was made, and a checksum that shows whether it was edited.

Beside it lie the images, in one or several zips ("shards"), and reports on them.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ganformer_cli.config import MAX_LABELS, MAX_RESOLUTION
from ganformer_cli.data.images import Decoding
from ganformer_cli.errors import DataError
from ganformer_cli.files import read_json
from ganformer_cli.text import printable

MANIFEST = "manifest.json"
MANIFEST_FORMAT = "ganformer-dataset/2"
ARCHIVE = "images.zip"
DATASET_JSON = "dataset.json"  # in each zip, as StyleGAN has it: {"labels": null}, or [[name, class or vector], ...]
PREVIEW = "preview.png"
DUPLICATES = "duplicates.json"
SKIPPED = "skipped.jsonl"

_SHARD = re.compile(r"images-\d{5,}-of-\d{5,}\.zip")
_KINDS: dict[str, Any] = {
    "count": int, "height": int, "width": int, "ratio": (int, float), "fingerprint": str, "shards": list,
    "source": dict, "skipped": dict, "checksum": str,
}  # fmt: skip


def shard_name(number: int, of: int) -> str:
    """The file name of zip ``number``."""
    return ARCHIVE if of == 1 else f"images-{number:05d}-of-{of:05d}.zip"


def image_name(number: int) -> str:
    """What image ``number`` of a data set is called in its zip, as in StyleGAN's."""
    return f"{f'{number:08d}'[:5]}/img{number:08d}.png"


def belongs(name: str) -> bool:
    """Whether a file of this name is part of a prepared data set."""
    return name in {MANIFEST, ARCHIVE, PREVIEW, DUPLICATES, SKIPPED} or _SHARD.fullmatch(name) is not None


def checksum(manifest: dict[str, Any]) -> str:
    """sha256, hexadecimal, of everything in a manifest but its own ``checksum``."""
    rest = {key: value for key, value in manifest.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a prepared data set, or None where there is none.

    Raises:
        DataError: there is one, but it is damaged, was edited, or is of another version.
    """
    path = folder / MANIFEST
    if not path.exists():
        return None
    manifest = read_json(path, remedy="prepare it again")
    if not isinstance(manifest, dict) or not isinstance(format := manifest.get("format"), str):
        raise DataError(f"{path} is not the manifest of a prepared data set (it has no format); prepare it again")
    if format != MANIFEST_FORMAT:
        found = printable(format, limit=80)
        raise DataError(f"{path} has format {found!r}, this version reads {MANIFEST_FORMAT!r}; prepare it again")
    wrong = [key for key, kind in _KINDS.items() if not isinstance(manifest.get(key), kind)]
    if not wrong and not (manifest["shards"] and all(_is_shard(shard) for shard in manifest["shards"])):
        wrong = ["shards"]
    if wrong:
        raise DataError(f"{path} is damaged ({', '.join(wrong)}); prepare it again")
    if checksum(manifest) != manifest["checksum"]:
        raise DataError(f"{path} was edited: its checksum does not match; prepare it again")
    if fault := _content_fault(manifest):
        raise DataError(f"{path} is damaged: {fault}; prepare it again")
    return dict(manifest)


def decoding_of(manifest: dict[str, Any]) -> Decoding:
    """How the images of a prepared data set were decoded."""
    digits, value_range = manifest.get("background"), manifest.get("value_range")
    known: dict[str, Any] = {}
    if isinstance(digits, str) and re.fullmatch(r"#[0-9a-f]{6}", digits):
        known["background"] = tuple(bytes.fromhex(digits[1:]))
    if isinstance(value_range, list) and len(value_range) == 2:
        known["value_range"] = (float(value_range[0]), float(value_range[1]))
    return Decoding(**known)


def _is_shard(shard: Any) -> bool:
    """Whether this is an entry of ``shards``. Its file must be a plain name: it cannot point elsewhere."""
    kinds = {"file": str, "count": int, "bytes": int, "sha256": str}
    if not isinstance(shard, dict) or any(not isinstance(shard.get(key), kind) for key, kind in kinds.items()):
        return False
    return shard["file"] == ARCHIVE or _SHARD.fullmatch(shard["file"]) is not None


# ---- Whether what it says can be: its checksum may be right and its content not --------------------------------------

_MISSING = object()
_OPTIONAL = ("value_range", "label_notes")
_MAX_COUNT = 1 << 48  # of what is counted; a larger number is damage

Test = Callable[[Any], bool]


def _count(low: int, high: int = _MAX_COUNT) -> Test:
    return lambda value: type(value) is int and low <= value <= high


def _each(test: Test) -> Test:
    return lambda value: isinstance(value, list) and all(map(test, value))


def _maybe(test: Test) -> Test:
    return lambda value: value is None or test(value)


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _counts(value: Any) -> bool:
    return isinstance(value, dict) and all(_count(0)(number) for number in value.values())


def _ratio(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and 0 < value < 1e6


def _range(value: Any) -> bool:
    numbers = isinstance(value, list) and len(value) == 2
    return numbers and all(type(each) in (int, float) and abs(each) < 1e30 for each in value)


def _skipped(value: Any) -> bool:
    return isinstance(value, dict) and _text(value.get("file")) and _text(value.get("reason"))


def _size(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_count(1), value))


#: What stands where, and in words.
_CONTENT: tuple[tuple[str, Test, str], ...] = (
    ("name", _text, "a text"),
    ("count", _count(1), "a whole number from 1"),
    ("height", _count(1, MAX_RESOLUTION), f"a whole number from 1 to {MAX_RESOLUTION}"),
    ("width", _count(1, MAX_RESOLUTION), f"a whole number from 1 to {MAX_RESOLUTION}"),
    ("ratio", _ratio, "a positive number"),
    ("value_range", _maybe(_range), "two finite numbers"),
    ("label_notes", _maybe(_each(_text)), "a list of texts"),
    ("source.pictures", _count(0), "a whole number from 0"),
    ("source.considered", _count(0), "a whole number from 0"),
    ("source.fingerprint", _text, "a text"),
    ("skipped.count", _count(0), "a whole number from 0"),
    ("skipped.reasons", _counts, "counts"),
    ("skipped.first", _each(_skipped), "a list of files and reasons"),
    ("sources.modes", _counts, "counts"),
    ("sources.smallest", _maybe(_size), "a width and a height"),
    ("sources.largest", _maybe(_size), "a width and a height"),
    ("duplicates.exact", _count(0), "a whole number from 0"),
    ("duplicates.near", _maybe(_count(0)), "a whole number from 0"),
    ("duplicates.first", _each(_each(_text)), "lists of names"),
    ("duplicates.first_near", _each(_each(_text)), "lists of names"),
)
_SHARD_CONTENT: tuple[tuple[str, Test, str], ...] = (
    ("count", _count(0), "a whole number from 0"),
    ("bytes", _count(0, 1 << 62), "a whole number from 0"),
)


def _content_fault(manifest: dict[str, Any]) -> str | None:
    """What in a manifest cannot be, in words; None if all of it can."""
    for place, test, wanted in _CONTENT:
        value: Any = manifest
        for key in place.split("."):
            value = value.get(key, _MISSING) if isinstance(value, dict) else _MISSING
        if value is _MISSING and place not in _OPTIONAL:
            return f"{place} is missing"
        if value is not _MISSING and not test(value):
            return _wrong(place, value, wanted)
    for number, shard in enumerate(manifest["shards"]):
        for key, test, wanted in _SHARD_CONTENT:
            if not test(shard[key]):
                return _wrong(f"shards {number}.{key}", shard[key], wanted)
    if "labels" not in manifest:
        return "labels is missing"
    return None if manifest["labels"] is None else _labels_fault(manifest["labels"], manifest["count"])


def _labels_fault(labels: Any, count: int) -> str | None:
    if not isinstance(labels, dict) or labels.get("kind") not in ("classes", "vectors"):
        return _wrong("labels", labels, "classes or vectors")
    size: Any = labels.get("size")
    if not _count(1, MAX_LABELS)(size):
        return _wrong("labels.size", size, f"a whole number from 1 to {MAX_LABELS}")
    if labels["kind"] == "vectors":
        return None
    images: Any = labels.get("pictures")
    names: Any = labels.get("names")
    if not _counts(images) or not all(key.isdecimal() and int(key) < size for key in images):
        return _wrong("labels.pictures", images, f"counts of classes below {size}")
    if sum(images.values()) != count:
        return f"labels.pictures are {sum(images.values())} images, and count is {count}"
    if names is not None and not (_each(_text)(names) and len(names) == size):
        return _wrong("labels.names", names, f"{size} names")
    return None


def _wrong(place: str, value: Any, wanted: str) -> str:
    return f"{place} is {printable(value, limit=60)}, not {wanted}"
