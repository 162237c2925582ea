"""Images that occur more than once in a data set, to the pixel or nearly so, found without comparing all with all."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from ganformer_cli.data.manifest import image_name

Hashes = npt.NDArray[np.uint64]
NamedDigests = Callable[[], Iterator[tuple[str, str]]]  # iterates over (name in the source, sha256 of the pixels)

GROUPS_SHOWN = 10  # in the manifest
MAX_LISTED = 50_000  # images in the list of all duplicates
_NAMES_SHOWN = 10  # of a group in the manifest
NEAR = 4  # bits of 64 in which the hashes of near duplicates may differ
# Hashes that differ in 4 bits agree in at least 2 of 6 bands: whoever shares no pair of bands need not be compared.
_BANDS = (11, 11, 11, 11, 10, 10)
_AGREEING = 2
_COMPARED = 200  # hashes that share a pair of bands are compared with at most this many neighbours


@dataclass(frozen=True)
class Duplicates:
    """Groups of images that are the same (``exact``) or look alike (``near``): how many, and the first of them."""

    exact: int
    near: int | None  # None if they were not looked for
    exact_groups: list[list[int]]
    near_groups: list[list[int]]
    names: dict[int, str]  # in the source

    def __bool__(self) -> bool:
        return bool(self.exact or self.near)

    def file(self) -> dict[str, Any]:
        """What ``duplicates.json`` says."""

        def listed(groups: list[list[int]]) -> list[list[dict[str, str]]]:
            return [[{"picture": image_name(i), "file": self.names[i]} for i in group] for group in groups]

        return {
            "exact": listed(self.exact_groups),
            "near": None if self.near is None else listed(self.near_groups),
            "groups_left_out": self.exact + (self.near or 0) - len(self.exact_groups) - len(self.near_groups),
        }

    def summary(self) -> dict[str, Any]:
        """What the manifest says: how many groups, and the names in the source of the first ones."""

        def first(groups: list[list[int]]) -> list[list[str]]:
            return [[self.names[i] for i in group[:_NAMES_SHOWN]] for group in groups[:GROUPS_SHOWN]]

        return {
            "exact": self.exact,
            "near": self.near,
            "first": first(self.exact_groups),
            "first_near": first(self.near_groups),
        }


def find_duplicates(digests: array[int], hashes: array[int] | None, images: NamedDigests) -> Duplicates:
    """Groups of images that are the same to the pixel or, given ``hashes``, look alike; an image is in one of them.

    Args:
        digests: the first 64 bits of each image's sha256.
        hashes: 64 bits of each, most of which images that look alike share.
        images: all of them, for those that the digests do not tell apart.
    """
    suspects = set(find_repeated(np.asarray(digests, np.uint64)).tolist())
    by_pixels: dict[str, list[int]] = {}
    for number, (_, pixels) in enumerate(images()) if suspects else ():
        if number in suspects:
            by_pixels.setdefault(pixels, []).append(number)
    exact = [group for group in by_pixels.values() if len(group) > 1]
    near: list[list[int]] | None = None
    if hashes is not None:
        single = np.delete(np.arange(len(digests)), [number for group in exact for number in group[1:]])
        near = [single[group].tolist() for group in find_near(np.asarray(hashes, np.uint64)[single])]
    listed = [_first_groups(exact), _first_groups(near or [])]
    names = dict.fromkeys((number for groups in listed for group in groups for number in group), "")
    for number, (name, _) in enumerate(images()) if names else ():
        if number in names:
            names[number] = name
    return Duplicates(len(exact), None if near is None else len(near), listed[0], listed[1], names)


def find_repeated(words: Hashes) -> npt.NDArray[np.int64]:
    """Indices of the ``words`` [n] that occur more than once, ascending."""
    _, which, count = np.unique(words, return_inverse=True, return_counts=True)
    return np.flatnonzero(count[which] > 1)


def find_near(hashes: Hashes) -> list[list[int]]:
    """Groups of images whose hashes [n] differ in at most :data:`NEAR` bits from that of the group's first.

    Each image is in one group at most, with the earliest image that it is near to; so chains of ever so slightly
    different images make no giant group. Work and memory grow with n, not with its square.
    """
    different, inverse = np.unique(hashes, return_inverse=True)
    order = np.argsort(inverse, kind="stable")  # images by hash, then by number
    starts = np.searchsorted(inverse[order], np.arange(len(different)))
    first = order[starts]  # the earliest image of each hash
    leader = np.full(len(different), -1, np.int64)  # of each hash: the hash that leads its group
    pairs = _near_pairs(different)
    if len(pairs):
        early = np.where(first[pairs[:, 0]] < first[pairs[:, 1]], pairs[:, 0], pairs[:, 1])
        late = pairs.sum(axis=1) - early
        for at in np.lexsort((first[late], first[early])):
            a, b = early[at], late[at]
            if leader[b] == -1 and leader[a] in (-1, a):
                leader[a], leader[b] = a, a
    leader = np.where(leader == -1, np.arange(len(different)), leader)
    by_leader = leader[inverse]
    groups: dict[int, list[int]] = {}
    for number in find_repeated(by_leader.astype(np.uint64)).tolist():
        groups.setdefault(int(by_leader[number]), []).append(number)
    return list(groups.values())  # in the order of their first images, because the numbers ascend


def _near_pairs(hashes: Hashes) -> npt.NDArray[np.int64]:
    """Pairs [m, 2] of places in ``hashes``, all different, whose values differ in at most NEAR bits; each once."""
    shifts = np.cumsum((0, *_BANDS[:-1]))
    bands = [
        (hashes >> np.uint64(shift)) & np.uint64((1 << width) - 1) for shift, width in zip(shifts, _BANDS, strict=True)
    ]
    found: list[npt.NDArray[np.int64]] = []
    for one, other in combinations(range(len(_BANDS)), _AGREEING):
        keys = (bands[one] << np.uint64(_BANDS[other])) | bands[other]
        order = np.argsort(keys, kind="stable")
        keys, ordered = keys[order], hashes[order]
        for apart in range(1, _COMPARED + 1):
            together = np.flatnonzero(keys[apart:] == keys[:-apart])
            if not len(together):
                break
            close = together[np.bitwise_count(ordered[together] ^ ordered[together + apart]) <= NEAR]
            found.append(np.sort(np.stack([order[close], order[close + apart]], axis=1), axis=1))
    if not found:
        return np.empty((0, 2), np.int64)
    return np.unique(np.concatenate(found), axis=0)


def _first_groups(groups: list[list[int]]) -> list[list[int]]:
    """The groups that are listed: a source of nothing but duplicates must not fill the memory."""
    listed, room = [], MAX_LISTED
    for group in groups:
        room -= len(group)
        if room < 0:
            break
        listed.append(group)
    return listed
