"""Charts of scores show what they are given, as PNG and SVG."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from ganformer_cli.errors import ConfigError
from ganformer_cli.visualization.charts import (
    Bar,
    BarPanel,
    Line,
    LinePanel,
    chart_format,
    draw_chart,
)
from ganformer_cli.visualization.palette import PALETTE


def pixels(png: bytes) -> np.ndarray:
    with PIL.Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"))


def width(image: np.ndarray, colour: int) -> int:
    """The most pixels that a row has of one colour of the palette."""
    return int((image == PALETTE[colour]).all(2).sum(1).max())


@pytest.mark.slow
def test_bars_are_as_long_as_their_values() -> None:
    chart = pixels(draw_chart([BarPanel("FID", [Bar("one", 10.0), Bar("two", 5.0), Bar("three", None)])]))
    assert width(chart, 1) / width(chart, 0) == pytest.approx(0.5, abs=0.02)
    assert width(chart, 2) == 0
    below = pixels(draw_chart([BarPanel("KID", [Bar("one", -5.0), Bar("two", 5.0)])]))
    assert width(below, 0) == pytest.approx(width(below, 1), abs=2)


@pytest.mark.slow
def test_a_curve_goes_through_its_points() -> None:
    falling = pixels(draw_chart([LinePanel("FID", [Line("", [0, 1, 2], [10.0, 5.0, 0.0])])]))
    line = np.argwhere((falling == PALETTE[0]).all(2))  # [pixels, (y, x)]
    assert np.asarray(np.corrcoef(line.T)).min() > 0.99  # further right is further down
    single = pixels(draw_chart([LinePanel("FID", [Line("", [3], [5.0])])]))
    assert (single == PALETTE[0]).all(2).any()


@pytest.mark.slow
def test_an_svg_has_axes_legend_and_spread_and_is_the_same_each_time() -> None:
    lines = [Line("duplex", [1, 2], [3.0, 2.0], [0.5, 0.4]), Line("simplex", [1, 2], [4.0, 3.0])]
    panels = [LinePanel("SWD", lines, floor=1.0, x_label="kimg", y_label="SWD, lower is better")] * 4
    chart = draw_chart(panels, "svg")
    assert chart == draw_chart(panels, "svg")
    comments = set(re.findall(r"<!-- (.*?) -->", chart.decode()))
    assert {"SWD", "kimg", "SWD, lower is better", "duplex", "simplex", "floor"} <= comments
    assert b"FillBetweenPolyCollection" in chart or b"PolyCollection" in chart


def test_the_suffix_is_the_format() -> None:
    assert (chart_format(Path("a.PNG"), "--plot"), chart_format(Path("a.svg"), "--plot")) == ("png", "svg")
    with pytest.raises(ConfigError, match=r"--plot a.pdf: charts are PNG or SVG"):
        chart_format(Path("a.pdf"), "--plot")


def test_without_matplotlib_a_line_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for call in (
        lambda: chart_format(Path("a.png"), "--plot"),
        lambda: draw_chart([LinePanel("FID", [Line("a", [1], [1.0])])]),
    ):
        with pytest.raises(ConfigError, match="pip install"):
            call()
