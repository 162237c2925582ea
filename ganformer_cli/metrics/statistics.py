"""Mean and covariance of features that come piece by piece, in float64, and what all arithmetic asks of features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ganformer_cli.errors import DataError

#: Rows that are taken into the sums together: the same ones however they come.
_ROWS = 256

Features = Tensor | npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]


class GaussianStatistics:
    """Count, mean and covariance of rows, in memory that does not grow with their number.

    Rows are summed in blocks of 256, so that the sums do not depend, not even in the last bit, on how many come at a
    time. Blocks and whole statistics are put together by the update of Chan, Golub & LeVeque (1979), which is exact in
    real numbers and loses no digits to a large mean.
    """

    def __init__(self) -> None:
        self._begin(0)

    def _begin(self, width: int) -> None:
        #: Count, mean, and the sum of the outer products of what differs from the mean.
        self._sums: _Sums = 0, np.zeros(width), np.zeros((width, width))
        self._waiting: Doubles = np.empty((_ROWS, width))
        self._filled = 0

    def add(self, features: Features) -> None:
        """Take more rows, ``[N, D]`` of any floating type.

        Raises:
            DataError: not such an array, another D than before, or values that are not finite.
        """
        rows = as_doubles(features)
        self._check_width(rows.shape[1])
        while len(rows):
            taken = rows[: _ROWS - self._filled]
            self._waiting[self._filled : self._filled + len(taken)] = taken
            self._filled += len(taken)
            rows = rows[len(taken) :]
            if self._filled == _ROWS:
                self._sums, self._filled = self._settled(), 0

    def merge(self, other: GaussianStatistics) -> None:
        """Take all that ``other`` has seen; it is as if its rows had been added here, up to float64's rounding.

        Raises:
            DataError: it is of another width.
        """
        if other.count:
            self._check_width(other.width)
            self._sums, self._filled = _combined(self._settled(), other._settled()), 0

    @property
    def count(self) -> int:
        """Rows seen."""
        return self._sums[0] + self._filled

    @property
    def width(self) -> int:
        """D, or 0 before the first row."""
        return self._waiting.shape[1]

    @property
    def mean(self) -> Doubles:
        """``[D]``.

        Raises:
            DataError: no row has been seen.
        """
        self._require(1)
        return self._settled()[1]

    @property
    def covariance(self) -> Doubles:
        """``[D, D]``, divided by the number of rows less one.

        Raises:
            DataError: fewer than two rows have been seen.
        """
        self._require(2)
        count, _, scatter = self._settled()
        return scatter / (count - 1)

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What ``from_arrays`` takes: ``count`` [1] int64, ``mean`` [D], ``scatter`` [D, D] float64."""
        count, mean, scatter = self._settled()
        return {"count": np.array([count], np.int64), "mean": mean, "scatter": scatter}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> GaussianStatistics:
        """Statistics that ``to_arrays`` has written.

        Raises:
            DataError: they are none.
        """
        made = cls()
        try:
            count, mean, scatter = int(arrays["count"].item()), arrays["mean"], arrays["scatter"]
        except (KeyError, AttributeError, ValueError, TypeError) as error:
            raise DataError("not statistics of features: count, mean and scatter are needed") from error
        fitting = count >= 0 and mean.ndim == 1 and scatter.shape == (len(mean), len(mean))
        if not fitting or not np.isfinite(mean).all() or not np.isfinite(scatter).all():
            raise DataError(f"statistics of features are damaged: {count} rows, {mean.shape} and {scatter.shape}")
        made._begin(len(mean))
        made._sums = count, mean.astype(np.float64), scatter.astype(np.float64)
        return made

    def _settled(self) -> _Sums:
        """Count, mean and scatter with the waiting rows, which go on waiting."""
        if self._filled == 0:
            return self._sums
        rows = self._waiting[: self._filled]
        mean = rows.mean(0)
        rest = rows - mean
        return _combined(self._sums, (len(rows), mean, rest.T @ rest))

    def _check_width(self, width: int) -> None:
        """The first rows choose it."""
        if self.count == 0 and width != self.width:
            self._begin(width)
        if width != self.width:
            raise DataError(f"features of {width} numbers cannot be added to features of {self.width}")

    def _require(self, rows: int) -> None:
        if self.count < rows:
            raise DataError(f"statistics need the features of at least {rows} images, not of {self.count}")


_Sums = tuple[int, Doubles, Doubles]


def _combined(one: _Sums, other: _Sums) -> _Sums:
    """Count, mean and scatter of both (Chan, Golub & LeVeque 1979, equation 2.1)."""
    count, total = other[0], one[0] + other[0]
    apart = other[1] - one[1]
    scatter = one[2] + other[2]
    scatter += np.outer(apart, apart * (one[0] * count / total))
    return total, one[1] + apart * (count / total), scatter


def as_doubles(features: Features) -> Doubles:
    """Features ``[N, D]`` as float64 on the CPU.

    Raises:
        DataError: another number of axes, no floating type, or values that are not finite.
    """
    rows = as_rows(features).astype(np.float64)
    check_finite(rows)
    return rows


def as_rows(features: Features) -> npt.NDArray[Any]:
    """Features ``[N, D]`` as an array, without a copy where they are on the CPU already.

    Raises:
        DataError: another number of axes, or no floating type.
    """
    rows = features.detach().cpu().numpy() if isinstance(features, Tensor) else features
    if rows.ndim != 2 or rows.dtype.kind != "f":
        raise DataError(f"features must be floating-point [N, D], not {rows.dtype} {list(rows.shape)}")
    return rows


def check_finite(rows: npt.NDArray[Any], first: int = 0) -> None:
    """Raise ``DataError`` if one of ``rows``, of which the first has the number ``first``, is not finite."""
    finite = np.isfinite(rows).all(1)
    if not finite.all():
        raise DataError(
            f"the features of image {first + int(finite.argmin())} are not finite: the image or the feature "
            "network's weights are damaged"
        )


def check_same_width(reals: npt.NDArray[Any], fakes: npt.NDArray[Any]) -> None:
    """Raise ``DataError`` unless both sets of features have the same number of columns."""
    if reals.shape[1] != fakes.shape[1]:
        raise DataError(
            f"features of {reals.shape[1]} and of {fakes.shape[1]} numbers cannot be compared: they come from "
            "different networks"
        )
