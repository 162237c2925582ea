"""Tries to make ``ganformer`` lose, hang, overwrite or execute something: ``python tests/stress.py --minutes 60``.

Campaigns, each repeatable with its seed: signals at random moments and at system calls; the faults that once were;
damaged small files of runs and data sets; hostile pickles; hostile sources of images; servers that lie; hostile values
of every option. It prints how many cases each had and how many of them lost something, ran foreign code, wrote outside
their folder, hung, left processes behind, showed a traceback or a raw terminal escape, or took memory without measure;
the status is 0 if all of that is nought. Linux only; not part of pytest (``test_stress.py`` runs a few cases of it).
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path

# Run as a script; whatever else is installed under the name `tests` is not meant.
_package = types.ModuleType("tests")
_package.__path__ = [str(Path(__file__).resolve().parent)]
sys.modules["tests"] = _package

from tests import stress_harness as harness  # noqa: E402
from tests import stress_inputs, stress_options, stress_servers, stress_signals  # noqa: E402
from tests.stress_harness import Report  # noqa: E402

#: Cases that a whole campaign has at least.
LEAST = {"signals": 300, "files": 1000, "pickles": 300, "sources": 100, "servers": 50, "options": 2000}


def campaigns(root: Path, seed: int, report: Report) -> dict[str, Callable[[], object]]:
    """One more case of each campaign, by name."""

    def source(name: str) -> random.Random:
        return random.Random(f"{seed} {name}")

    signals = stress_signals.Signals(root, source("signals"), report)
    return {
        "signals": signals.case,
        "files": stress_inputs.Files(root, source("files"), report).case,
        "pickles": stress_inputs.Pickles(root, source("pickles"), report).case,
        "sources": stress_inputs.Sources(root, source("sources"), report).case,
        "servers": stress_servers.Servers(root, source("servers"), report).case,
        "options": stress_options.Options(root, source("options"), report).case,
    }


def turns(names: list[str], report: Report, least: dict[str, int]) -> Iterator[str]:
    """Which campaign is next: the one that has the smallest part of its cases behind it."""
    while True:
        yield min(names, key=lambda name: report.cases[name] / least[name])


def main() -> int:
    """Run the campaigns until the time is up, or until each has its cases, and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60.0, help="stop after this time")
    parser.add_argument("--only", default="", help=f"of serious, {', '.join(LEAST)}; separated by commas")
    parser.add_argument("--share", type=float, default=1.0, help="of the number of cases of a whole campaign")
    parser.add_argument("--json", action="store_true", help="print the counts as one JSON object")
    parser.add_argument("--verbose", action="store_true", help="print each fault when it is found")
    parser.add_argument("--folder", type=Path, help="of the sandboxes; left out: a temporary one")
    options = parser.parse_args()
    only = [name for name in options.only.split(",") if name] or ["serious", *LEAST]
    if unknown := set(only) - {"serious", *LEAST, *stress_signals.SERIOUS}:
        parser.error(f"--only {', '.join(sorted(unknown))}: choose of serious, {', '.join(LEAST)}")
    report = Report(verbose=options.verbose)
    begin = time.monotonic()
    least = {name: max(1, round(count * options.share)) for name, count in LEAST.items()}
    with tempfile.TemporaryDirectory(prefix="stress-", dir=options.folder) as folder:
        root = Path(folder)
        harness.warm_up()
        stress_signals.Trained.make(root)
        for name, scenario in stress_signals.SERIOUS.items():
            if "serious" in only or name in only:
                before = sum(report.faults.values())
                scenario(root, random.Random(f"{options.seed} {name}"), report)
                print(f"{name}: {sum(report.faults.values()) - before} faults", file=sys.stderr, flush=True)
        todo = campaigns(root, options.seed, report)
        names = [name for name in LEAST if name in only]
        for name in turns(names, report, least) if names else ():
            if time.monotonic() - begin > 60 * options.minutes:
                break
            if all(report.cases[other] >= least[other] for other in names):
                break
            todo[name]()
    minutes = (time.monotonic() - begin) / 60
    if options.json:
        counts = {"seed": options.seed, "minutes": round(minutes, 1), "cases": report.cases, "faults": report.faults}
        print(json.dumps({**counts, "examples": report.examples}, indent=2))
    else:
        print(f"seed {options.seed}, {minutes:.1f} minutes\n{report.summary()}")
        for line in report.examples[:60]:
            print(line)
    return int(bool(sum(report.faults.values())))


if __name__ == "__main__":
    sys.exit(main())
