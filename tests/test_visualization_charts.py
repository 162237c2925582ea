"""Plots of scores show what they are given."""

from __future__ import annotations

import numpy as np
import pytest

from ganformer_cli.visualization.charts import Bar, Bars, Curve, bar_charts, curves, ticks
from ganformer_cli.visualization.palette import PALETTE


def widths(picture: np.ndarray, colour: int) -> int:
    """The most pixels that a row has of one colour of the palette."""
    return int((picture == PALETTE[colour][:, None, None]).all(0).sum(1).max())


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (0, 269.6, [0, 100, 200]),
        (-1, 1, [-1, -0.5, 0, 0.5, 1]),
        (0, 0.003, [0, 0.001, 0.002, 0.003]),
        (5, 5, [5]),
    ],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


def test_bars_are_as_long_as_their_values() -> None:
    sheet = bar_charts([Bars("FID", [Bar("one", 10.0), Bar("two", 5.0), Bar("three", None)])])
    assert widths(sheet, 1) / widths(sheet, 0) == pytest.approx(0.5, abs=0.02)
    assert widths(sheet, 2) == 0
    below = bar_charts([Bars("KID", [Bar("one", -5.0), Bar("two", 5.0)])])
    assert widths(below, 0) == pytest.approx(widths(below, 1), abs=2)


def test_a_curve_goes_through_its_points() -> None:
    falling = curves([Curve("FID", [0, 1, 2], [10.0, 5.0, 0.0])], "kimg")
    line = np.argwhere((falling == PALETTE[0][:, None, None]).all(0))  # [pixels, (y, x)]
    assert np.asarray(np.corrcoef(line.T)).min() > 0.99  # further right is further down
    flat = curves([Curve("FID", [3], [5.0])], "kimg")  # one point is no mistake
    assert (flat == PALETTE[0][:, None, None]).all(0).any()


def test_panels_stand_side_by_side() -> None:
    panel = Curve("FID", [0, 1], [1.0, 2.0], floor=0.5)
    assert curves([panel] * 2, "kimg").shape == (3, 300, 840)
    assert curves([panel] * 4, "kimg").shape == (3, 600, 1260)
