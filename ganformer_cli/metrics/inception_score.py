"""Inception Score (Salimans et al. 2016, section 4): exp of the mean divergence KL(p(y|x) ‖ p(y)).

p(y|x) is the softmax of an image's logits, p(y) its mean over the images of a split; the score is the mean over
splits. It needs no reals, and cannot see whether images are like them.
"""

from __future__ import annotations

import numpy as np
from scipy.special import log_softmax

from ganformer_cli.errors import DataError
from ganformer_cli.metrics.statistics import Doubles, Features, as_rows, check_finite

SPLITS = 10
_ROWS = 4096


def inception_score(logits: Features, *, splits: int = SPLITS, seed: int | None = 0) -> tuple[float, float]:
    """Mean and standard deviation over splits.

    Args:
        logits: ``[N, classes]``, floating, N >= splits.
        splits: how many parts the images are divided into.
        seed: of the order in which they are divided; None leaves them as they come.

    Raises:
        DataError: no such array, too few rows, or values that are not finite.
    """
    rows = as_rows(logits)
    count = len(rows)
    if count < splits:
        raise DataError(f"an Inception Score of {splits} splits needs at least {splits} images, not {count}")
    for start in range(0, count, _ROWS):
        check_finite(rows[start : start + _ROWS], start)
    # numpy promises never to change this generator's numbers.
    order = np.arange(count) if seed is None else np.random.RandomState(seed).permutation(count)
    # One split at a time: all rows in float64, and what is made of them, would take gigabytes.
    parts = (order[i * count // splits : (i + 1) * count // splits] for i in range(splits))
    scores = np.array([_score(log_softmax(rows[part].astype(np.float64), axis=1)) for part in parts])
    return float(scores.mean()), float(scores.std())


def _score(log_p: Doubles) -> float:
    p = np.exp(log_p)
    # A class that no image has contributes nothing; its logarithm must not become infinite.
    log_q = np.log(np.maximum(p.mean(0), np.finfo(np.float64).tiny))
    return float(np.exp((p * (log_p - log_q)).sum(1).mean()))
