"""The labels that a model was trained with: kept in its file, so that it draws labels that it has learnt.

Reading them needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

#: Most numbers of label vectors that a snapshot keeps: 4 MiB of float32.
MAX_NUMBERS = 1 << 20
_MIN_ROWS = 64
_SEED = 0x1ABE15  # of the random choice of the vectors that are kept
#: Names of the tensors in a snapshot, and of the entry in its header.
COUNTS, VECTORS, HEADER = "labels.counts", "labels.vectors", "labels"


@dataclass(frozen=True)
class LabelDistribution:
    """How often each label occurs in the data that a model was trained on.

    Args:
        counts: int64 ``[K]``: images of label k, some above 0.
        vectors: float32 ``[K, c_dim]``: label k; None where label k is class k of ``K = c_dim``.
        names: of the classes, where they have some.
        distinct: different vectors in the data; more than K where only a random choice of the images' is kept.
    """

    counts: npt.NDArray[np.int64]
    vectors: npt.NDArray[np.float32] | None = None
    names: tuple[str, ...] | None = None
    distinct: int = 0

    @classmethod
    def from_labels(cls, labels: npt.NDArray[Any], size: int, names: Sequence[str] | None = None) -> LabelDistribution:
        """The distribution of the labels of a data set.

        Args:
            labels: of its images: classes, int ``[N]``, or vectors, float ``[N, size]``.
            size: number of classes, or length of a vector.
            names: of the classes.
        """
        if labels.ndim == 1:
            counts = np.bincount(labels, minlength=size).astype(np.int64)
            return cls(counts, names=None if names is None else tuple(names))
        rows = labels.astype(np.float32) + 0.0  # -0 is 0
        vectors, counts = _distinct(rows)
        limit = max(_MIN_ROWS, MAX_NUMBERS // size)
        distinct = len(vectors)
        if distinct > limit:
            # A choice of images, not of vectors, keeps frequencies. numpy guarantees the raw bits across versions.
            order = np.argsort(np.random.PCG64(_SEED).random_raw(len(rows)), kind="stable")
            vectors, counts = _distinct(rows[np.sort(order[:limit])])
        return cls(counts, vectors, distinct=distinct)

    @property
    def kind(self) -> str:
        """``classes`` or ``vectors``."""
        return "classes" if self.vectors is None else "vectors"

    @property
    def is_whole(self) -> bool:
        """Whether every label of the data is kept."""
        return self.vectors is None or len(self.vectors) == self.distinct

    def draw(self, uniform: Sequence[float]) -> Tensor:
        """Labels, each as likely as it is frequent, float32 ``[N, c_dim]``.

        Args:
            uniform: random numbers from 0 to below 1, one for each.
        """
        import torch

        ends = self.counts.cumsum()
        places = [min(int(u * int(ends[-1])), int(ends[-1]) - 1) for u in uniform]
        rows = np.searchsorted(ends, np.array(places, np.int64), side="right")
        if self.vectors is not None:
            return torch.from_numpy(self.vectors[rows])
        return torch.nn.functional.one_hot(torch.from_numpy(rows), len(self.counts)).float()

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that a snapshot stores of it."""
        import torch

        arrays = {COUNTS: self.counts, **({} if self.vectors is None else {VECTORS: self.vectors})}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def header(self) -> dict[str, Any]:
        """The entry in a snapshot's header."""
        header: dict[str, Any] = {"kind": self.kind}
        if self.vectors is not None:
            header["distinct"] = self.distinct
        return header if self.names is None else {**header, "names": list(self.names)}

    @classmethod
    def from_file(cls, arrays: Mapping[str, npt.NDArray[Any]], header: Any, size: int) -> LabelDistribution:
        """From the arrays and the ``header`` of a snapshot whose labels have ``size`` numbers.

        Raises:
            ValueError: they do not fit; the message says how.
        """
        counts, vectors = arrays.get(COUNTS), arrays.get(VECTORS)
        if not isinstance(header, Mapping) or counts is None:
            raise ValueError("a part of them is missing")
        if counts.dtype != np.int64 or counts.ndim != 1 or not len(counts) or bool((counts < 0).any()):
            raise ValueError("their frequencies are not counts")
        # Python's integers do not overflow.
        if not 0 < sum(counts.tolist()) < 2**53:
            raise ValueError("the sum of their frequencies is out of range")
        names, distinct = header.get("names"), header.get("distinct", 0)
        if vectors is None and len(counts) != size:
            raise ValueError(f"{len(counts)} classes in a network for {size}")
        if vectors is not None:
            if vectors.dtype != np.float32 or vectors.shape != (len(counts), size):
                raise ValueError(f"vectors {list(vectors.shape)} in a network for labels of {size} numbers")
            if not np.isfinite(vectors).all():
                raise ValueError("a vector has numbers that are not finite")
            if type(distinct) is not int or distinct < len(vectors):
                raise ValueError("the number of vectors is wrong")
        if names is not None and not (
            vectors is None and isinstance(names, list) and len(names) == size and all(type(n) is str for n in names)
        ):
            raise ValueError("the names of the classes do not fit")
        return cls(counts, vectors, None if names is None else tuple(names), distinct)


def _distinct(rows: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """The different rows, and how often each is there."""
    rows = np.ascontiguousarray(rows)
    whole = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1])))[:, 0]
    _, first, counts = np.unique(whole, return_index=True, return_counts=True)
    order = np.argsort(first)
    return rows[first[order]], counts[order].astype(np.int64)
