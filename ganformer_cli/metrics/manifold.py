"""Precision and recall, density and coverage: two sets of features as unions of balls.

A ball lies around each row of a set and reaches to the row's k-th nearest neighbour within the set.

- *Precision* (Kynkäänniemi et al. 2019, equation 2): the share of fakes that lie in a ball of the reals. *Recall*: the
  share of reals that lie in a ball of the fakes. k = 3; a row on the edge of a ball lies inside.
- *Density* (Naeem et al. 2020, equation 4): in how many balls of the reals a fake lies on average, over k. *Coverage*
  (equation 5): the share of reals in whose ball there is a fake. k = 5; a row on the edge lies outside, so that
  identical sets without repetition have density and coverage 1.

Distances are computed in float64 block by block: memory does not grow with the number of rows, time does with its
square. _Rows so near that float64 cannot tell their distance from 0 count as equal; distances that differ by less than
a part in 10⁹ do, too. So nothing hangs on the order in which products are summed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ganformer_cli.errors import DataError
from ganformer_cli.metrics.blocks import BlockSize
from ganformer_cli.metrics.statistics import Features, as_rows, check_finite, check_same_width

NEIGHBOURS_PRECISION = 3
NEIGHBOURS_DENSITY = 5

_BLOCK_BYTES = 64 << 20
_MOST_ROWS = 2048
#: Squared distances below this share of the squared lengths are rounding.
_NOTHING = 1e-13
_EDGE = 1e-9

_Rows = npt.NDArray[Any]


def precision_recall(
    reals: Features, fakes: Features, *, k: int = NEIGHBOURS_PRECISION, device: str | torch.device = "cpu"
) -> tuple[float, float]:
    """Precision and recall.

    Args:
        reals, fakes: ``[N, D]`` and ``[M, D]``, floating; arrays that are mapped from a file are read block by block.
        k: which neighbour bounds a ball; N and M must be larger.
        device: where to compute distances.

    Raises:
        DataError: no such arrays, too few rows, or values that are not finite.
    """
    return _in_blocks(lambda size: _precision_recall(_Sets(reals, fakes, k, device, size), k), reals)


def _precision_recall(sets: _Sets, k: int) -> tuple[float, float]:
    real_radii, fake_radii = (sets.radii(rows, k) * (1 + _EDGE) for rows in (sets.reals, sets.fakes))
    precise = torch.zeros(len(sets.fakes), dtype=torch.bool, device=sets.device)
    recalled = torch.zeros(len(sets.reals), dtype=torch.bool, device=sets.device)
    for of_fakes, of_reals, squares in sets.pairs(sets.fakes, sets.reals):
        precise[of_fakes] |= (squares <= real_radii[of_reals]).any(1)
        recalled[of_reals] |= (squares <= fake_radii[of_fakes, None]).any(0)
    return float(precise.double().mean()), float(recalled.double().mean())


def density_coverage(
    reals: Features, fakes: Features, *, k: int = NEIGHBOURS_DENSITY, device: str | torch.device = "cpu"
) -> tuple[float, float]:
    """Density and coverage; arguments and errors as for ``precision_recall``, but that any number of fakes will do."""
    return _in_blocks(lambda size: _density_coverage(_Sets(reals, fakes, k, device, size, both=False), k), reals)


def _in_blocks(compute: Callable[[int], tuple[float, float]], features: Features) -> tuple[float, float]:
    """``compute`` with as many rows in a block as fit."""
    width = features.shape[1] if features.ndim == 2 else 1
    rows = max(1, min(_MOST_ROWS, _BLOCK_BYTES // (8 * max(1, width))))
    return BlockSize(rows, "measuring distances of features").run(compute)


def _density_coverage(sets: _Sets, k: int) -> tuple[float, float]:
    radii = sets.radii(sets.reals, k) * (1 - _EDGE)
    balls = 0
    covered = torch.zeros(len(sets.reals), dtype=torch.bool, device=sets.device)
    for _, of_reals, squares in sets.pairs(sets.fakes, sets.reals):
        inside = squares < radii[of_reals]
        balls += int(inside.sum())
        covered[of_reals] |= inside.any(0)
    return balls / (k * len(sets.fakes)), float(covered.double().mean())


class _Sets:
    """Both sets of features, block by block on a device, moved to where their numbers are small."""

    def __init__(
        self,
        reals: Features,
        fakes: Features,
        k: int,
        device: str | torch.device,
        size: int,
        *,
        both: bool = True,
    ) -> None:
        """
        Args:
            size: rows in a block.
            both: whether balls around the fakes are wanted, too.
        """
        self.reals, self.fakes, self.device = as_rows(reals), as_rows(fakes), torch.device(device)
        check_same_width(self.reals, self.fakes)
        for name, rows, least in (("reals", self.reals, k + 1), ("fakes", self.fakes, k + 1 if both else 1)):
            if len(rows) < least:
                raise DataError(f"{k} nearest neighbours need at least {least} {name}, not {len(rows)}")
        width = self.reals.shape[1]
        self.size = size
        # Distances do not change if all is moved, and around 0 less is lost to rounding.
        self.centre = torch.zeros(width, dtype=torch.float64, device=self.device)
        total = torch.zeros_like(self.centre)
        for _, block in self.blocks(self.reals):
            total += block.sum(0)
        self.centre = total / len(self.reals)

    def blocks(self, rows: _Rows, first: int = 0) -> Iterator[tuple[slice, Tensor]]:
        """Parts of a set from row ``first`` on, float64 on the device, each with its place."""
        for start in range(first, len(rows), self.size):
            part = np.array(rows[start : start + self.size], np.float64)
            check_finite(part, start)
            yield slice(start, start + len(part)), torch.from_numpy(part).to(self.device).sub_(self.centre)

    def pairs(self, rows: _Rows, others: _Rows, *, once: bool = False) -> Iterator[tuple[slice, slice, Tensor]]:
        """Squared distances of parts of two sets, each with its places; ``once``: of one set, each pair once."""
        for place, block in self.blocks(rows):
            for other, around in self.blocks(others, place.start if once else 0):
                yield place, other, _squares(block, around)

    def radii(self, rows: _Rows, k: int) -> Tensor:
        """The squared distance of each row to its k-th nearest neighbour in the same set, ``[N]`` on the device."""
        # A row itself is among its nearest, at distance 0.
        nearest = torch.full((len(rows), k + 1), torch.inf, dtype=torch.float64, device=self.device)
        for place, other, squares in self.pairs(rows, rows, once=True):
            for own, found in ((place, squares), (other, squares.T))[: 1 if place == other else 2]:
                nearest[own] = torch.cat([nearest[own], found], 1).topk(k + 1, largest=False, sorted=True).values
        return nearest[:, k]


def _squares(rows: Tensor, others: Tensor) -> Tensor:
    """Squared distances ``[N, M]``."""
    lengths = rows.square().sum(1)[:, None] + others.square().sum(1)
    found = torch.addmm(lengths, rows, others.T, alpha=-2)
    return torch.where(found > _NOTHING * lengths, found, 0.0)
