"""Progress on stderr: a bar on a terminal, elsewhere a line every few seconds."""

from __future__ import annotations

import sys
import time
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from ganformer_cli.cli.output import MAX_LINE_LENGTH, VERBOSITY, cell, echo
from ganformer_cli.files import MIB
from ganformer_cli.text import printable

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

SECONDS_BETWEEN_LINES = 10.0
SECONDS_OF_RATE = 30.0  # the window of the speed that is shown
MIN_SECONDS_OF_RATE = 0.5  # no speed is shown of a shorter time


class ProgressBar:
    """Shows progress: ``start``, any number of ``update``, ``close``; also a context manager.

    Args:
        stream: where to write; stderr if left out.
        seconds_between_lines: interval of plain lines if ``stream`` is no terminal.
    """

    def __init__(self, stream: TextIO | None = None, *, seconds_between_lines: float = SECONDS_BETWEEN_LINES) -> None:
        self._stream = stream or sys.stderr
        self._seconds_between_lines = seconds_between_lines
        self._bar: Bar | None = None
        self._task: Any = None
        self._history: deque[tuple[float, float]] = deque()
        self._total = self._written_at = 0.0
        self._unit = self._description = self._shown = self._rate_unit = self._line = self._written = ""
        self._rate_scale = 1.0

    def start(
        self, total: float, unit: str, description: str, *, done: float = 0.0, rate: tuple[str, float] | None = None
    ) -> None:
        """Begin a task of ``total`` ``unit``s, of which ``done`` are done.

        ``rate`` is the unit of the speed and the factor to it: ``("images/s", 1000)`` for kimg.
        """
        self.close()
        self._total, self._unit, self._description, self._shown = total, unit, cell(description), ""
        self._rate_unit, self._rate_scale = rate or (f"{unit}/s", 1.0)
        self._history = deque([(time.monotonic(), done)])
        self._written_at, self._written = -self._seconds_between_lines, ""
        self._bar = self._make_bar()
        if self._bar is not None:
            self._task = self._bar.add_task(self._description, total=total, details="")
            self._bar.update(self._task, completed=done)
            self._bar.start()

    def update(self, done: float, **fields: object) -> None:
        """Show that ``done`` units are done, and ``fields`` by name, such as losses."""
        now = time.monotonic()
        self._history.append((now, done))
        while len(self._history) > 2 and now - self._history[1][0] > SECONDS_OF_RATE:
            self._history.popleft()
        details = self._details(done, fields)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, details=details)
        self._line = f"{self._description} {details}"
        if now - self._written_at >= self._seconds_between_lines:
            self._write_line()
            self._written_at = now

    def show(
        self, description: str, done: float, total: float, unit: str, *, begun: float = 0.0, **fields: object
    ) -> None:
        """``update``; where ``description`` is another than before, after ``start`` with ``begun`` units."""
        if description != self._shown:
            self.start(total, unit, description, done=begun)
            self._shown = description
        self.update(done, **fields)

    def show_bytes(self, description: str, done: int, total: int | None) -> None:
        """``show`` for a download: what was there before says nothing of the speed."""
        self.show(description, done / MIB, (total or done) / MIB, "MiB", begun=done / MIB)

    def message(self, text: str) -> None:
        """Print a line, above the bar if there is one."""
        if self._bar is not None:
            self._bar.console.print(printable(text, limit=MAX_LINE_LENGTH), markup=False, highlight=False)
            VERBOSITY.log(printable(text, limit=MAX_LINE_LENGTH))
        else:
            echo(text, file=self._stream)

    def close(self) -> None:
        """End the task; its last state stays on the screen."""
        if self._line:
            self._write_line()
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        self._line = ""

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write_line(self) -> None:
        if self._line == self._written:
            return
        if self._bar is not None or VERBOSITY.quiet:
            VERBOSITY.log(self._line)
        else:
            echo(self._line, file=self._stream)
        self._written = self._line

    def _make_bar(self) -> Bar | None:
        # rich takes a tenth of a second to import, so only for terminals.
        if VERBOSITY.quiet or not self._stream.isatty():
            return None
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        console = Console(file=self._stream)
        if not console.is_terminal or console.is_dumb_terminal:
            return None
        # No markup, because descriptions may contain square brackets.
        columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=24))
        details = TextColumn("{task.fields[details]}", markup=False)
        # By default, rich would redirect stdout, which may be a pipe, to stderr.
        return Bar(*columns, details, console=console, redirect_stdout=False)

    def _details(self, done: float, fields: dict[str, object]) -> str:
        (since, before), (now, _) = self._history[0], self._history[-1]
        rate = (done - before) / (now - since) if now - since >= MIN_SECONDS_OF_RATE else 0.0
        parts = [f"{_short(done)}/{_short(self._total)} {self._unit}"]
        if rate > 0:
            parts.append(f"{_short(rate * self._rate_scale)} {self._rate_unit}")
        parts += [f"{name} {cell(_short(value))}" for name, value in fields.items()]
        if rate > 0 and done < self._total:
            parts.append(f"{duration((self._total - done) / rate)} left")
        return "  ".join(parts)


def _short(value: object) -> str:
    """Whole numbers in full, others with three significant digits."""
    if not isinstance(value, float):
        return str(value)
    if value.is_integer() and abs(value) < 1e9:
        return str(int(value))
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """``75`` as ``1:15``, ``3661`` as ``1:01:01``."""
    whole = max(0, round(seconds))
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
