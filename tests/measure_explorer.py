"""How long ``ganformer explore`` takes, in headless Chromium: ``python tests/measure_explorer.py MODEL [RE-ROLLS]``.

Prints seconds until the page can be opened, milliseconds to the first image, and from the click on "Re-roll" and on
"Undo" until the new image and its maps are on the screen.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path

# Run as a script; whatever else is installed under the name `tests` is not meant.
_package = types.ModuleType("tests")
_package.__path__ = [str(Path(__file__).resolve().parent)]
sys.modules["tests"] = _package

from tests.chromium import Page, chromium  # noqa: E402

IDLE = "!busy && !waiting.length && document.body.dataset.ready"
CHANGES = "performance.getEntriesByName('change').map(entry => entry.duration)"


def click(page: Page, button: str, times: int) -> list[float]:
    """Milliseconds of each click on a button, one after the other."""
    before = len(page.evaluate(CHANGES))
    for number in range(before + 1, before + times + 1):
        page.evaluate(f"$('{button}').click()")
        page.wait_for(f"{IDLE} && {CHANGES}.length === {number}")
    durations: list[float] = page.evaluate(CHANGES)[before:]
    return durations


def measure(model: str, times: int) -> str:
    """A line with all figures."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["explore", "--model", model, "--no-open", "--json", "--output-dir", f"{folder}/saved"]
        started = time.perf_counter()
        program = [sys.executable, "-m", "ganformer_cli", *words]
        with subprocess.Popen(program, stdout=subprocess.PIPE, text=True, encoding="utf-8") as process:
            try:
                assert process.stdout is not None
                address = json.loads(process.stdout.readline())["address"]
                ready = time.perf_counter() - started
                with chromium(Path(folder) / "profile") as page:
                    page.open(address)
                    page.wait_for(IDLE)
                    first = page.evaluate("performance.getEntriesByName('first')[0].duration")
                    page.evaluate("clearTimeout(neighbourTimer); laterNeighbours = () => {}")  # drawn when idle
                    time.sleep(1)  # what was begun ends
                    rolls, undone = click(page, "reroll", times), click(page, "undo", times)
            finally:
                process.kill()
    return (
        f"ready after {ready:.2f} s, first image {first:.0f} ms; re-roll median {statistics.median(rolls):.0f} ms "
        f"({min(rolls):.0f} to {max(rolls):.0f}), undo {statistics.median(undone):.0f} ms"
    )


if __name__ == "__main__":
    sys.stdout.write(measure(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 10) + "\n")
