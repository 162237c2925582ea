"""Inception Score: its bounds, and what it sees."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from ganformer_cli.errors import DataError
from ganformer_cli.metrics.inception_score import inception_score

Rows = npt.NDArray[np.float64]


def certain(classes: npt.NDArray[np.int64], count: int = 10) -> Rows:
    """Logits that leave no doubt about the class."""
    return np.eye(count)[classes] * 1000


def test_every_picture_sure_and_all_classes_alike_is_the_number_of_classes() -> None:
    logits = certain(np.tile(np.arange(10), 30))
    mean, deviation = inception_score(logits, splits=10, seed=None)
    assert mean == pytest.approx(10, rel=1e-12)
    assert deviation == pytest.approx(0, abs=1e-12)


def test_one_class_only_and_no_opinion_at_all_are_1() -> None:
    assert inception_score(certain(np.zeros(100, np.int64)))[0] == pytest.approx(1, rel=1e-12)
    assert inception_score(np.zeros((100, 10)))[0] == pytest.approx(1, rel=1e-12)


def test_it_is_the_divergence_of_two_opinions() -> None:
    """p = (3/4, 1/4) and its mirror image: KL from (1/2, 1/2) is ln 2 - H(1/4)."""
    logits = np.log(np.array([[3.0, 1.0], [1.0, 3.0]] * 10))
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert inception_score(logits, splits=1)[0] == pytest.approx(2 / np.exp(entropy), rel=1e-12)


def test_a_number_added_to_all_logits_changes_nothing() -> None:
    logits = np.random.RandomState(0).randn(60, 12) * 3
    mean, _ = inception_score(logits, splits=2)
    assert inception_score(logits + np.arange(60)[:, None] * 1000, splits=2)[0] == pytest.approx(mean, rel=1e-9)


def test_the_order_is_drawn_by_seed_or_left_alone() -> None:
    classes = np.repeat(np.arange(10), 30)
    # In this order each split has one class; mixed, every split has nearly all.
    assert inception_score(certain(classes), seed=None)[0] == pytest.approx(1)
    assert inception_score(certain(classes), seed=0)[0] > 7
    assert inception_score(certain(classes), seed=0) == inception_score(certain(classes), seed=0)
    assert inception_score(certain(classes), seed=0) != inception_score(certain(classes), seed=1)


def test_number_of_old() -> None:
    logits = np.random.RandomState(0).randn(203, 40) * 2
    assert inception_score(logits, splits=7, seed=5) == pytest.approx(GOLDEN, rel=1e-9)


GOLDEN = (3.7248530692258854, 0.3771193619854704)


def test_what_has_no_score() -> None:
    with pytest.raises(DataError, match="of 10 splits needs at least 10 images, not 9"):
        inception_score(np.zeros((9, 4)))
    with pytest.raises(DataError, match="image 1 are not finite"):
        inception_score(np.array([[0.0, 1.0], [np.nan, 1.0]]), splits=1)
