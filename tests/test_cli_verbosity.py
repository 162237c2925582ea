"""``--quiet`` and ``--log-file``."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result

from ganformer_cli.cli.output import VERBOSITY, echo
from ganformer_cli.cli.progress import ProgressBar

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def reset() -> Iterator[None]:
    yield
    VERBOSITY.reset()


def logged() -> list[str]:
    """The lines of the log, whose times look like times."""
    lines = Path("log.txt").read_text(encoding="utf-8").splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ", line) for line in lines)
    return [line[21:] for line in lines]


def test_quiet_shows_results_only(ganformer: Run, tiny_run: Path) -> None:
    line = ("generate", "--seeds", "0", "--output-dir", "images")
    assert "drawing" in ganformer(*line).stderr
    quiet = ganformer(*line, "--overwrite", "--quiet")
    assert (quiet.exit_code, quiet.stderr) == (0, "")
    assert "results/exp-000" in quiet.stdout.replace("\\", "/")
    assert "error: --model nowhere" in ganformer("generate", "--quiet", "--model", "nowhere").stderr


def test_a_log_file_has_all_lines(ganformer: Run, tiny_run: Path) -> None:
    done = ganformer("generate", "--seeds", "0", "--log-file", "log.txt")
    assert done.exit_code == 0
    assert logged() == [*done.stderr.splitlines(), *done.stdout.splitlines()]
    ganformer("generate", "--seeds", "x", "--log-file", "log.txt")
    assert "is neither a seed nor a range" in logged()[-1]
    before = logged()
    ganformer("generate", "--seeds", "0")  # another command, without a log
    assert logged() == before


@pytest.mark.parametrize("quiet", [False, True])
def test_a_log_has_the_progress_of_a_terminal(monkeypatch: pytest.MonkeyPatch, quiet: bool) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = io.StringIO()
    stream.isatty = lambda: True  # type: ignore[method-assign]
    VERBOSITY.quiet, VERBOSITY.log_file = quiet, Path("log.txt")
    with ProgressBar(stream, seconds_between_lines=0) as progress:
        progress.start(2, "images", "drawing")
        progress.update(1)
        progress.message("half of them")
        progress.update(2)
    assert logged() == ["drawing 1/2 images", "half of them", "drawing 2/2 images"]
    assert ("drawing" in stream.getvalue()) != quiet
    assert "half of them" in stream.getvalue()


def test_a_log_that_cannot_be_written(ganformer: Run, capsys: pytest.CaptureFixture[str]) -> None:
    Path("folder").mkdir()
    for path, why in (("folder", "is a folder"), ("nowhere/log.txt", "nowhere is not a folder")):
        refused = ganformer("train", "--log-file", path)
        assert refused.exit_code == 2
        assert "--log-file" in refused.stderr
        assert why in refused.stderr
    VERBOSITY.log_file = Path("folder")
    echo("one")
    echo("two")
    said = capsys.readouterr()
    assert said.out == "one\ntwo\n"
    assert said.err.startswith("warning: --log-file folder: ")
    assert said.err.count("\n") == 1
