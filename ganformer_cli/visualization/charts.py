"""Plots of scores: their course over training, and bars with deviations. Drawn with Pillow; panels side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from ganformer_cli.sampling.image_files import Images
from ganformer_cli.visualization.palette import PALETTE

_WIDTH, _HEIGHT = 420, 300  # of a panel
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 36, 44
_COLUMNS = 3
_SIZE = 13  # of letters
_BLACK, _GREY, _WHITE = (0, 0, 0), (215, 215, 215), (255, 255, 255)
_BAR = 26  # height of a bar's row

Colour = tuple[int, int, int]
Font = PIL.ImageFont.FreeTypeFont | PIL.ImageFont.ImageFont


@dataclass(frozen=True)
class Curve:
    """A panel with one line: values over places."""

    title: str
    places: Sequence[float]
    values: Sequence[float]
    floor: float | None = None  # a dashed line at the value that can be reached


@dataclass(frozen=True)
class Bar:
    """A row of a panel with bars."""

    label: str
    value: float | None
    deviation: float | None = None


@dataclass(frozen=True)
class Bars:
    """A panel with bars from 0."""

    title: str
    bars: Sequence[Bar]


def curves(panels: Sequence[Curve], place: str) -> Images:
    """Panels with lines as one picture, uint8 ``[3, H, W]``; ``place`` names the horizontal axis."""
    return _sheet(
        [lambda draw, at, panel=panel: _curve(draw, at, panel, place) for panel in panels],  # type: ignore[misc]
        _HEIGHT,
    )


def bar_charts(panels: Sequence[Bars]) -> Images:
    """Panels with bars, their deviations as whiskers, as one picture, uint8 ``[3, H, W]``."""
    height = _TOP + _BAR * max(len(panel.bars) for panel in panels) + _BOTTOM
    return _sheet([lambda draw, at, panel=panel: _bars(draw, at, panel) for panel in panels], height)  # type: ignore[misc]


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers from ``low`` to ``high``, at most ``most`` + 1 of them."""
    span = high - low
    if span <= 0:
        return [low]
    step = 10.0 ** math.floor(math.log10(span / most))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= most)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


class _Pen:
    """Draws in one panel whose upper left corner is at ``at``."""

    def __init__(self, draw: PIL.ImageDraw.ImageDraw, at: tuple[int, int]) -> None:
        self.draw, (self.x, self.y) = draw, at
        self.font: Font = PIL.ImageFont.load_default(_SIZE)

    def line(self, points: Sequence[tuple[float, float]], colour: Colour, width: int = 1) -> None:
        self.draw.line([(self.x + x, self.y + y) for x, y in points], fill=colour, width=width)

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        if right >= left and bottom >= top:
            self.draw.rectangle([self.x + left, self.y + top, self.x + right, self.y + bottom], fill=colour)

    def text(self, x: float, y: float, text: str, anchor: str) -> None:
        self.draw.text((self.x + x, self.y + y), text, fill=_BLACK, font=self.font, anchor=anchor)

    def width(self, text: str) -> float:
        return float(self.font.getlength(text))


def _sheet(panels: Sequence[Callable[[PIL.ImageDraw.ImageDraw, tuple[int, int]], None]], height: int) -> Images:
    columns = min(_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    sheet = PIL.Image.new("RGB", (columns * _WIDTH, rows * height), _WHITE)
    draw = PIL.ImageDraw.Draw(sheet)
    for number, panel in enumerate(panels):
        panel(draw, (number % columns * _WIDTH, number // columns * height))
    return np.ascontiguousarray(np.asarray(sheet).transpose(2, 0, 1))


def _curve(draw: PIL.ImageDraw.ImageDraw, at: tuple[int, int], panel: Curve, place: str) -> None:
    pen = _Pen(draw, at)
    values = [*panel.values, *([] if panel.floor is None else [panel.floor])]
    low, high = min(0.0, *values), max(values)
    high = high if high > low else low + 1
    first, last = min(panel.places), max(panel.places)
    last = last if last > first else first + 1

    def where(x: float, y: float) -> tuple[float, float]:
        across = (x - first) / (last - first) * (_WIDTH - _LEFT - _RIGHT)
        return _LEFT + across, _HEIGHT - _BOTTOM - (y - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    pen.text(_LEFT, 10, panel.title, "la")
    for value in ticks(low, high):
        pen.line([where(first, value), where(last, value)], _GREY)
        pen.text(_LEFT - 6, where(first, value)[1], f"{value:.4g}", "rm")
    for value in ticks(first, last):
        pen.text(where(value, low)[0], _HEIGHT - _BOTTOM + 6, f"{value:.4g}", "ma")
    pen.text(where((first + last) / 2, low)[0], _HEIGHT - 20, place, "ma")
    if panel.floor is not None:
        start, y = where(first, panel.floor)
        for dash in range(int(start), _WIDTH - _RIGHT, 8):
            pen.line([(dash, y), (dash + 4, y)], _BLACK)
    points = [where(x, y) for x, y in zip(panel.places, panel.values, strict=True)]
    colour = _colour(0)
    pen.line(points, colour, 2)
    for x, y in points:
        pen.box(x - 2, y - 2, x + 2, y + 2, colour)


def _bars(draw: PIL.ImageDraw.ImageDraw, at: tuple[int, int], panel: Bars) -> None:
    pen = _Pen(draw, at)
    known = [bar for bar in panel.bars if bar.value is not None]
    ends = [bar.value + sign * (bar.deviation or 0) for bar in known for sign in (-1, 1) if bar.value is not None]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    high = high if high > low else low + 1
    left = 12 + min(_WIDTH / 2, max([pen.width(bar.label) for bar in panel.bars], default=0.0))

    def across(value: float) -> float:
        return left + (value - low) / (high - low) * (_WIDTH - left - 60)

    pen.text(left, 10, panel.title, "la")
    bottom = _TOP + _BAR * len(panel.bars)
    for value in ticks(low, high, 4):
        pen.line([(across(value), _TOP), (across(value), bottom)], _GREY)
        pen.text(across(value), bottom + 6, f"{value:.4g}", "ma")
    for number, bar in enumerate(panel.bars):
        middle = _TOP + _BAR * number + _BAR / 2
        pen.text(left - 6, middle, bar.label, "rm")
        if bar.value is None:
            pen.text(across(0) + 6, middle, "–", "lm")
            continue
        ends_at = sorted((across(0), across(bar.value)))
        pen.box(ends_at[0], middle - 8, ends_at[1], middle + 8, _colour(number))
        right = ends_at[1]
        if bar.deviation is not None:
            one, other = across(bar.value - bar.deviation), across(bar.value + bar.deviation)
            pen.line([(one, middle), (other, middle)], _BLACK, 2)
            for x in (one, other):
                pen.line([(x, middle - 4), (x, middle + 4)], _BLACK, 2)
            right = max(right, other)
        pen.text(right + 5, middle, f"{bar.value:.4g}", "lm")


def _colour(number: int) -> Colour:
    red, green, blue = (int(value) for value in PALETTE[number % len(PALETTE)])
    return red, green, blue
