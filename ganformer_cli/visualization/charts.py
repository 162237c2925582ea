"""Charts of scores, drawn by matplotlib (extra ``plots``): curves with their spread, and bars with deviations."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ganformer_cli.errors import ConfigError
from ganformer_cli.visualization.palette import PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ChartFormat = Literal["png", "svg"]
INSTALL = 'charts need matplotlib; install it with: pip install "matplotlib>=3.8"'
_PANEL_WIDTH, _PANEL_HEIGHT, _BAR_HEIGHT = 4.2, 3.0, 0.26  # inches
_COLUMNS = 3
_DPI = 150


@dataclass(frozen=True)
class Line:
    """A curve, and a band of ``spread`` (a standard deviation) about it."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    spread: Sequence[float] | None = None


@dataclass(frozen=True)
class LinePanel:
    """One axis system with curves; ``floor`` is a dashed line at the value that can be reached."""

    title: str
    lines: Sequence[Line]
    floor: float | None = None
    x_label: str = ""
    y_label: str = ""
    logarithmic: bool = False  # both axes


@dataclass(frozen=True)
class Bar:
    """A bar from 0, with a whisker of one deviation; None has no bar."""

    label: str
    value: float | None
    deviation: float | None = None


@dataclass(frozen=True)
class BarPanel:
    """One axis system with bars."""

    title: str
    bars: Sequence[Bar]
    x_label: str = ""


def chart_format(path: Path, option: str) -> ChartFormat:
    """``png`` or ``svg``, by a file's name; to be called before any work is done.

    Raises:
        ConfigError: another suffix, or matplotlib is not installed; the message names ``option``.
    """
    formats: dict[str, ChartFormat] = {".png": "png", ".svg": "svg"}
    if format := formats.get(path.suffix.lower()):
        require_matplotlib(f"{option} {path}")
        return format
    raise ConfigError(f"{option} {path}: charts are PNG or SVG; give a name that ends in .png or .svg")


def require_matplotlib(what: str) -> None:
    """Raise ConfigError, which begins with ``what``, unless matplotlib is installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"{what}: {INSTALL}") from error


def draw_chart(panels: Sequence[LinePanel | BarPanel], format: ChartFormat = "png") -> bytes:
    """Panels side by side, as the content of a file.

    Args:
        panels: at least one.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    require_matplotlib("chart")
    import matplotlib
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    bars = [len(panel.bars) for panel in panels if isinstance(panel, BarPanel)]
    heights = [_PANEL_HEIGHT] * (len(bars) < len(panels)) + [0.9 + _BAR_HEIGHT * count for count in bars]
    figure = Figure(figsize=(columns * _PANEL_WIDTH, rows * max(heights)), dpi=_DPI, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, axes in zip_longest(panels, grid):
        if panel is None:
            axes.set_visible(False)
        elif isinstance(panel, LinePanel):
            _draw_lines(axes, panel)
        else:
            _draw_bars(axes, panel)
    stream = io.BytesIO()
    # The same numbers give the same file.
    metadata = {"Date": None} if format == "svg" else {"Software": None}
    with matplotlib.rc_context({"svg.hashsalt": "ganformer"}):
        figure.savefig(stream, format=format, metadata=metadata)
    return stream.getvalue()


def _draw_lines(axes: Axes, panel: LinePanel) -> None:
    for index, line in enumerate(panel.lines):
        colour = _colour(index)
        axes.plot(line.x, line.y, color=colour, label=line.label, marker="o", markersize=3)
        if line.spread is not None:
            low = [y - spread for y, spread in zip(line.y, line.spread, strict=True)]
            high = [y + spread for y, spread in zip(line.y, line.spread, strict=True)]
            axes.fill_between(line.x, low, high, color=colour, alpha=0.2, linewidth=0)
    if panel.floor is not None:
        axes.axhline(panel.floor, color="black", linestyle="--", linewidth=1, label="floor")
    if panel.logarithmic:
        axes.set_xscale("log")
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    axes.set_title(panel.title)
    axes.grid(alpha=0.3)
    if any(line.label for line in panel.lines) or panel.floor is not None:
        axes.legend(fontsize="small")


def _draw_bars(axes: Axes, panel: BarPanel) -> None:
    for row, bar in enumerate(panel.bars):
        if bar.value is None:
            axes.text(0, row, " –", va="center")
            continue
        axes.barh(row, bar.value, color=_colour(row), xerr=bar.deviation, capsize=3)
        end = max(bar.value, 0) + (bar.deviation or 0)
        axes.annotate(f"{bar.value:.4g}", (end, row), (4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(range(len(panel.bars)), [bar.label for bar in panel.bars])
    axes.set_ylim(len(panel.bars) - 0.5, -0.5)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.margins(x=0.2)  # room for the numbers
    axes.set_xlabel(panel.x_label)
    axes.set_title(panel.title)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)


def _colour(index: int) -> tuple[float, ...]:
    return tuple(PALETTE[index % len(PALETTE)] / 255)
