"""Which label belongs to which image, where both have names that need not be spelled alike.

Names are compared as they are first. What is left over is compared by ever looser rules: another form of Unicode,
folders before the name on one side, another extension, upper and lower case. A rule that fits two ways is an error.
"""

from __future__ import annotations

import contextlib
import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ganformer_cli.data.image_formats import readable_suffixes
from ganformer_cli.errors import DataError

#: Suffixes of images that this program may be unable to read, but that labels may name.
_OTHER_SUFFIXES = frozenset({".heic", ".heif", ".avif", ".jxl", ".npy", ".raw", ".dng"})
_FOLDERS = "other folders before the name"


@dataclass
class Matches:
    """What was found for the images that have no label of their very name."""

    rows: dict[str, int] = field(default_factory=dict)  # by image name: the row of its label
    rules: dict[str, tuple[int, str, str]] = field(default_factory=dict)  # how many, and an image and a label


def match_loosely(
    images: Iterable[str], labels: Iterable[tuple[int, str]], value: Callable[[int], Any], where: str, base: str = ""
) -> Matches:
    """Labels for ``images`` among ``labels``, rows and names that belong to no image yet.

    Args:
        value: of a row; rows of one value are alike.
        where: how messages name the labels.
        base: the folder that the labels' file lies in, with a slash behind it: names may begin there.

    Raises:
        DataError: a label fits two images, or an image two labels.
    """
    found = Matches()
    images_left = dict.fromkeys(map(plain, images))
    labels_left = {plain(name): row for row, name in labels}
    for key, said in _RULES:
        for with_folders in (False, True):
            if not images_left or not labels_left:
                return found
            if key is plain and not with_folders:
                continue  # these were looked for before
            pairs = _pairs(images_left, labels_left, key, with_folders, base)
            rule = " and ".join(part for part in (said, _FOLDERS if with_folders else "") if part)
            _refuse_ambiguous(pairs, labels_left, value, where, rule)
            for image, label in pairs:
                if image in found.rows:
                    continue
                found.rows[image] = labels_left[label]
                count, *example = found.rules.get(rule, (0, image, label))
                found.rules[rule] = (count + 1, *example)  # type: ignore[assignment]
            for image, label in pairs:
                images_left.pop(image, None)
                labels_left.pop(label, None)
    return found


def plain(name: str) -> str:
    """A name with forward slashes and without ``./`` before it."""
    name = name.replace("\\", "/")
    while name.startswith(("./", "/")):
        name = name[2:] if name[0] == "." else name[1:]
    return name


def _composed(name: str) -> str:
    """In Unicode's composed form; names that a zip without marks of UTF-8 has turned into other letters, too."""
    if not name.isascii():
        with contextlib.suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return unicodedata.normalize("NFC", name)


def _without_suffix(name: str) -> str:
    name = _composed(name)
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in readable_suffixes() | _OTHER_SUFFIXES else name


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", _composed(name).casefold())


def _stem_folded(name: str) -> str:
    return unicodedata.normalize("NFC", _without_suffix(name).casefold())


_RULES: tuple[tuple[Callable[[str], str], str], ...] = (
    (plain, ""),
    (_composed, "another form of Unicode"),
    (_without_suffix, "another extension"),
    (_folded, "upper and lower case"),
    (_stem_folded, "another extension and case"),
)


def _pairs(
    images: Iterable[str], labels: Iterable[str], key: Callable[[str], str], with_folders: bool, base: str
) -> list[tuple[str, str]]:
    """Images and labels that fit, in the order of the images."""
    by_key: dict[str, list[str]] = {}
    for label in labels:
        by_key.setdefault(key(label), []).append(label)
    # Names begin where the labels' file lies, or at the top.
    begun = [
        (image, key(name))
        for image in images
        for name in ((image, image[len(base) :]) if base and image.startswith(base) else (image,))
    ]
    if not with_folders:
        return [(image, label) for image, text in begun for label in by_key.get(text, ())]
    pairs = [(image, label) for image, text in begun for tail in _tails(text) for label in by_key.get(tail, ())]
    images_by_key: dict[str, list[str]] = {}
    for image, text in begun:
        images_by_key.setdefault(text, []).append(image)
    for text, some in by_key.items():
        for tail in _tails(text):
            pairs += [(image, label) for image in images_by_key.get(tail, ()) for label in some]
    return pairs


def _tails(name: str) -> Iterator[str]:
    """The name without its first folder, without its first two, ..."""
    while "/" in name:
        name = name.partition("/")[2]
        yield name


def _refuse_ambiguous(
    pairs: list[tuple[str, str]], rows: dict[str, int], value: Callable[[int], Any], where: str, rule: str
) -> None:
    images: dict[str, str] = {}
    labels: dict[str, str] = {}
    for image, label in pairs:
        other = images.setdefault(image, label)
        if other != label and value(rows[other]) != value(rows[label]):
            raise DataError(
                f"{where}: {other} and {label} both fit the image {image} ({rule}) and have different labels; "
                "write the image's own name"
            )
        twin = labels.setdefault(label, image)
        if twin != image:
            raise DataError(
                f"{where}: {label} fits both images {twin} and {image} ({rule}); write the images' own names"
            )
