"""Images that occur more than once in a data set, to the pixel or nearly so, found without comparing all with all."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]

NEAR = 4  # bits of 64 in which the hashes of near duplicates may differ
# Hashes that differ in 4 bits agree in at least 2 of 6 bands: whoever shares no pair of bands need not be compared.
_BANDS = (11, 11, 11, 11, 10, 10)
_AGREEING = 2
_COMPARED = 200  # hashes that share a pair of bands are compared with so many of their neighbours, at most


def find_repeated(words: Hashes) -> npt.NDArray[np.int64]:
    """Which of ``words`` [n] are not the only one of their value, ascending."""
    order = np.argsort(words, kind="stable")
    ordered = words[order]
    same = ordered[1:] == ordered[:-1]
    found = np.zeros(len(words), np.bool_)
    found[order[1:][same]] = True
    found[order[:-1][same]] = True
    return np.flatnonzero(found)


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
    return sorted(groups.values())


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
