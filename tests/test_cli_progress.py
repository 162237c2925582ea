"""Progress: plain lines in a pipe, few of them; a bar on a terminal; the last state always."""

from __future__ import annotations

import io

import pytest

from ganformer_cli.cli import progress as progress_module
from ganformer_cli.cli.progress import ProgressBar, duration


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_pipe_gets_the_first_and_the_last_state_and_little_between() -> None:
    stream = io.StringIO()
    with ProgressBar(stream, seconds_between_lines=1e9) as progress:
        progress.start(100, "images", "drawing")
        for done in range(1, 101):
            progress.update(done)
    lines = stream.getvalue().splitlines()
    assert [line.split("  ")[0] for line in lines] == ["drawing 1/100 images", "drawing 100/100 images"]


def test_fields_speed_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.001, 10.0])
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: next(clock))
    stream = io.StringIO()
    with ProgressBar(stream, seconds_between_lines=0) as progress:
        progress.start(2.0, "kimg", "training", done=1.0, rate=("images/s", 1000))
        progress.update(1.004)
        progress.update(1.5, loss_G=0.693147, images="many")
    assert stream.getvalue().splitlines() == [
        "training 1/2 kimg",  # too soon to speak of a speed
        "training 1.5/2 kimg  50 images/s  loss_G 0.693  images many  0:10 left",
    ]


def test_last_state_is_not_said_twice() -> None:
    stream = io.StringIO()
    with ProgressBar(stream, seconds_between_lines=0) as progress:
        progress.start(1, "images", "drawing")
        progress.update(1)
    assert len(stream.getvalue().splitlines()) == 1


def test_last_state_is_said_when_the_work_fails() -> None:
    stream = io.StringIO()

    def work() -> None:
        with ProgressBar(stream, seconds_between_lines=1e9) as progress:
            progress.start(9, "images", "drawing")
            progress.update(1)
            progress.update(2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert stream.getvalue().splitlines()[-1].startswith("drawing 2/9 images")


def test_one_piece_of_work_after_another() -> None:
    stream = io.StringIO()
    with ProgressBar(stream, seconds_between_lines=1e9) as progress:
        for name in ("first", "second"):
            progress.start(1, "images", name)
            progress.update(1)
            progress.message(f"{name} is done")
    text = stream.getvalue()
    assert [word for word in text.split() if word in {"first", "second"}] == ["first", "first", "second", "second"]


def test_terminal_gets_a_bar_that_leaves_stdout_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with ProgressBar(stream) as progress:
        progress.start(10, "images", "drawing")
        progress.update(3, loss=1.25)
        print("an answer")
        progress.message("a [line] of its own")
        progress.update(10, loss=0.5)
    assert capsys.readouterr().out == "an answer\n"
    shown = stream.getvalue()
    assert "10/10 images" in shown
    assert "loss 0.5" in shown
    assert "a [line] of its own" in shown


def test_terminal_that_cannot_move_its_cursor_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    with ProgressBar(stream) as progress:
        progress.start(10, "images", "drawing")
        progress.update(3)
    assert stream.getvalue().startswith("drawing 3/10 images")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (9.6, "0:10"), (75, "1:15"), (3661, "1:01:01"), (360000, "100:00:00"), (-1, "0:00")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
