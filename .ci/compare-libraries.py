"""Compares two builds of the CPU operators: ``python .ci/compare-libraries.py FOLDER BASELINE-FOLDER``.

Each folder holds a build, as ``GANFORMER_OPS_FOLDER`` names it. A process can load one library, so there are two, which
take turns: every operator forward, and forward and backward, of one and of the other, in many short rounds. For each it
prints the milliseconds and the median ratio of the rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def serve() -> None:
    """In a process with one library: answer the number of a case with its seconds."""
    import torch

    sys.path.insert(0, str(ROOT))
    from ganformer_cli.benchmarks.measuring import Conditions, contenders_of
    from ganformer_cli.benchmarks.operators import OPERATORS, LayerSizes, call_cases
    from ganformer_cli.operators import native

    torch.set_num_threads(1)
    cases = call_cases(OPERATORS, Conditions(), LayerSizes(side=64))
    with contextlib.ExitStack() as stack, native.use("native"):
        calls = [stack.enter_context(contenders_of(case, "native"))[0].call for case in cases]
        for call in calls:
            call()
        build = native.status("cpu").build
        print(build.compiler if build else "", *(case.what for case in cases), sep="\t", flush=True)
        for line in sys.stdin:
            begin = time.perf_counter()
            calls[int(line)]()
            print(time.perf_counter() - begin, flush=True)


class Worker:
    """A process with the library of a folder."""

    def __init__(self, folder: Path, cache: str) -> None:
        # Its own empty cache: nothing is built or taken from elsewhere.
        environment = {**os.environ, "GANFORMER_OPS_FOLDER": str(folder.resolve()), "GANFORMER_CACHE": cache}
        environment |= {"OMP_NUM_THREADS": "1", "CXX": "no-compiler"}
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.compiler, *self.cases = self.line().split("\t")

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def seconds(self, case: int) -> float:
        assert self.process.stdin is not None
        print(case, file=self.process.stdin, flush=True)
        return float(self.line())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs=2, type=Path, metavar="FOLDER")
    parser.add_argument("--rounds", type=int, default=31)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        one, other = (Worker(folder, cache) for folder in options.folders)
        print(f"{'':58}  {one.compiler:>16}  {other.compiler:>16}  ratio")
        for number, name in enumerate(one.cases):
            rounds = [(one.seconds(number), other.seconds(number)) for _ in range(options.rounds)]
            ratio = statistics.median(first / second for first, second in rounds)
            first, second = (1e3 * statistics.median(times) for times in zip(*rounds, strict=True))
            print(f"{name:58}  {first:13.2f} ms  {second:13.2f} ms  {ratio:5.2f}")
        for worker in (one, other):
            worker.process.kill()


if __name__ == "__main__":
    serve() if sys.argv[1:] == ["--serve"] else main()
