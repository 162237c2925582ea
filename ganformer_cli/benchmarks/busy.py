"""The default training run beside another program that keeps one core busy.

The run is a real ``ganformer train`` in processes of its own, as many as it chooses. The competitor is one Python
process that computes without a pause; it is started for each sample and ended after it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from ganformer_cli.benchmarks.measuring import Case, Conditions, Contender, Contenders
from ganformer_cli.checkpoints.run_folder import LOG_FILE
from ganformer_cli.checkpoints.run_lock import LAUNCHER
from ganformer_cli.errors import TrainingError

UNDISTURBED = "undisturbed"
#: Ends when its standard input does, so that it does not outlive this process.
COMPETITOR = """
import os, threading
threading.Thread(target=lambda: (os.read(0, 1), os._exit(0)), daemon=True).start()
while True:
    pass
"""
#: Images of a tick, of which each is one line in the log, and ticks of a sample.
TICK_IMAGES, TICKS = 40, 4
QUICK_OPTIONS = ("--channel-base", "128", "--channel-max", "8", "--components-num", "2", "--latent-size", "16")
#: Seconds until the first line of the log, between lines, and for the run to end.
START_SECONDS, TICK_SECONDS, END_SECONDS = 300.0, 300.0, 60.0
_POLL = 0.02


def busy_cases(conditions: Conditions, *, quick: bool) -> list[Case]:
    """One case: the run beside a competitor, against the same run undisturbed. On a GPU, none."""
    if conditions.on_cuda:
        return []
    images = TICK_IMAGES * (1 if quick else TICKS)
    what = "the default run beside a program that keeps one core busy"
    return [Case(what=what, images=images, build=partial(build_busy, QUICK_OPTIONS if quick else (), images))]


def build_busy(options: Sequence[str], images: int) -> Contenders:
    """A run with these options, of which a sample is so many images."""
    with _training(options) as training:

        def beside() -> float:
            with _competitor():
                return training.seconds(images)

        undisturbed = Contender(name=UNDISTURBED, call=lambda: training.seconds(images), clocks_itself=True)
        yield [Contender(call=beside, clocks_itself=True), undisturbed]


class _Training:
    """A run that trains until it is ended, and its log."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, output: Path) -> None:
        self.process, self.log, self.output = process, log, output

    def images(self) -> int:
        """Images shown, as the last whole line of the log says."""
        try:
            lines = self.log.read_bytes().split(b"\n")[:-1]
        except OSError:  # not yet there
            return 0
        return round(json.loads(lines[-1])["kimg"] * 1000) if lines else 0

    def wait_for_tick(self, seconds: float) -> int:
        """Wait until the log has a new line; the images shown then.

        Raises:
            TrainingError: the run has ended, or nothing came.
        """
        before, deadline = self.images(), time.monotonic() + seconds
        while (now := self.images()) == before:
            if self.process.poll() is not None or time.monotonic() > deadline:
                said = self.output.read_text(encoding="utf-8", errors="replace").strip().splitlines()
                raise TrainingError(f"the training run to measure does not continue: {said[-1] if said else ''}")
            time.sleep(_POLL)
        return now

    def seconds(self, images: int) -> float:
        """Wall-clock seconds in which it shows so many images, from one line of its log to another."""
        begun = self.wait_for_tick(TICK_SECONDS)
        start = time.perf_counter()
        while (now := self.wait_for_tick(TICK_SECONDS)) < begun + images:
            pass
        return (time.perf_counter() - start) * images / (now - begun)


@contextlib.contextmanager
def _training(options: Sequence[str]) -> Iterator[_Training]:
    """The default run, in a folder that is removed afterwards; past its first steps."""
    with tempfile.TemporaryDirectory(prefix="ganformer-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        words = ["--result-dir", str(folder), "--expname", "busy", "--total-kimg", "10000", "--metrics", "none"]
        words += ["--tick-kimg", str(TICK_IMAGES / 1000), "--snapshot-kimg", "10000", "--vis-num", "1", *options]
        output = folder / "output.txt"
        with output.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "ganformer_cli", "train", *words],
                stdin=subprocess.PIPE,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**os.environ, LAUNCHER: str(os.getpid())},
            )
            try:
                training = _Training(process, folder / "busy-000" / LOG_FILE, output)
                training.wait_for_tick(START_SECONDS)
                training.wait_for_tick(TICK_SECONDS)
                yield training
            finally:
                process.stdin.close()  # type: ignore[union-attr]  # it is a pipe
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(END_SECONDS)
                process.kill()
                process.wait()


@contextlib.contextmanager
def _competitor() -> Iterator[None]:
    """Within the block another program computes."""
    process = subprocess.Popen([sys.executable, "-c", COMPETITOR], stdin=subprocess.PIPE)
    try:
        yield
    finally:
        process.kill()
        process.wait()
        process.stdin.close()  # type: ignore[union-attr]  # it is a pipe
