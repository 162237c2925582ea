"""Whether what a manifest says can be: its checksum may be right and its content not."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ganformer_cli.config import MAX_LABELS, MAX_RESOLUTION
from ganformer_cli.text import printable

_MISSING = object()
_OPTIONAL = ("value_range", "label_notes")
_MOST = 1 << 48  # of what is counted; a larger number is damage

Test = Callable[[Any], bool]


def _count(low: int, high: int = _MOST) -> Test:
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
_SHARD: tuple[tuple[str, Test, str], ...] = (
    ("count", _count(0), "a whole number from 0"),
    ("bytes", _count(0, 1 << 62), "a whole number from 0"),
)


def content_fault(manifest: dict[str, Any]) -> str | None:
    """What in a manifest cannot be, in words; None if all of it can."""
    for place, test, wanted in _CONTENT:
        value: Any = manifest
        for key in place.split("."):
            value = value.get(key, _MISSING) if isinstance(value, dict) else _MISSING
        if value is _MISSING and place not in _OPTIONAL:
            return f"{place} is missing"
        if value is not _MISSING and not test(value):
            return _said(place, value, wanted)
    for number, shard in enumerate(manifest["shards"]):
        for key, test, wanted in _SHARD:
            if not test(shard[key]):
                return _said(f"shards {number}.{key}", shard[key], wanted)
    if "labels" not in manifest:
        return "labels is missing"
    return None if manifest["labels"] is None else _labels_fault(manifest["labels"], manifest["count"])


def _labels_fault(labels: Any, count: int) -> str | None:
    if not isinstance(labels, dict) or labels.get("kind") not in ("classes", "vectors"):
        return _said("labels", labels, "classes or vectors")
    size: Any = labels.get("size")
    if not _count(1, MAX_LABELS)(size):
        return _said("labels.size", size, f"a whole number from 1 to {MAX_LABELS}")
    if labels["kind"] == "vectors":
        return None
    images: Any = labels.get("pictures")
    names: Any = labels.get("names")
    if not _counts(images) or not all(key.isdecimal() and int(key) < size for key in images):
        return _said("labels.pictures", images, f"counts of classes below {size}")
    if sum(images.values()) != count:
        return f"labels.pictures are {sum(images.values())} images, and count is {count}"
    if names is not None and not (_each(_text)(names) and len(names) == size):
        return _said("labels.names", names, f"{size} names")
    return None


def _said(place: str, value: Any, wanted: str) -> str:
    return f"{place} is {printable(value, limit=60)}, not {wanted}"
