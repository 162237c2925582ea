"""Kills a training on Windows at random moments and resumes it: ``python tests/stress_windows.py --kills 20``.

A run that was killed and resumed must come to the weights of one that was left alone. Runs on Windows and under Wine
(``python .ci/wine-testbed.py tests/stress_windows.py``). Wine deletes files that are mapped into memory, which Windows
refuses; there this refuses it, too. Not part of pytest.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINE = (
    "train --dataset scenes --train-images-num 64 --resolution 32 --components-num 2 --latent-size 16 "
    "--channel-base 128 --channel-max 8 --mapping-num-layers 2 --batch-size 4 --batch-gpu 4 --total-kimg 0.16 "
    "--tick-kimg 0.02 --snapshot-kimg 0.02 --vis-num 2 --metrics none --precision fp32 --threads 1 --seed 7"
)
SECONDS_AT_MOST = 900.0  # for a run from beginning to end, on a busy machine

_unlink = os.unlink


def unlink_unless_mapped(path: os.PathLike[str] | str, *args: object, **options: object) -> None:
    """``os.unlink`` with Windows' rule: a file that is mapped into memory stays."""
    name = os.fspath(path)
    if name.endswith(".safetensors") and os.path.isfile(name):
        try:
            with open(name, "r+b") as stream:
                stream.truncate(max(os.path.getsize(name) - 1, 0))  # Windows and Wine refuse it for a mapped file
        except OSError as error:
            print(f"mapped, and to be deleted: {name}", file=sys.stderr, flush=True)
            raise PermissionError(13, "Access is denied", name, 5) from error
    _unlink(path, *args, **options)  # type: ignore[arg-type]


def as_ganformer(words: list[str]) -> None:
    """``ganformer`` under that rule."""
    os.unlink = os.remove = unlink_unless_mapped  # type: ignore[assignment]
    sys.path.insert(0, str(ROOT))
    from ganformer_cli.cli.main import main

    sys.argv = ["ganformer", *words]
    main()


def start(folder: Path, name: str, log: Path) -> subprocess.Popen[bytes]:
    words = [sys.executable, __file__, "--as-ganformer", *LINE.split(), "--result-dir", str(folder), "--expname", name]
    with log.open("ab") as stream:
        return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT)


def weights(folder: Path, name: str) -> bytes:
    """All tensors of the run's last state, by name; times and the like are left out."""
    sys.path.insert(0, str(ROOT))
    from ganformer_cli.checkpoints import training_state

    tensors = training_state.read_state(training_state.states_of(folder / f"{name}-000")[-1]).tensors
    return b"".join(key.encode() + tensors[key].contiguous().numpy().tobytes() for key in sorted(tensors))


def main() -> int:
    if sys.argv[1:2] == ["--as-ganformer"]:
        as_ganformer(sys.argv[2:])
        return 0
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    moments = random.Random(options.seed)
    folder = Path(tempfile.mkdtemp(prefix="ganformer-kills-"))
    began = time.monotonic()
    if start(folder, "alone", folder / "alone.log").wait(SECONDS_AT_MOST):
        print((folder / "alone.log").read_text("utf-8", errors="replace"))
        return 1
    whole = time.monotonic() - began
    expected = weights(folder, "alone")
    print(f"left alone: {whole:.0f} s", flush=True)
    kills = good = run = 0
    while kills < options.kills:
        name, log, of_run = f"killed{run}", folder / f"killed{run}.log", 0
        while True:
            process = start(folder, name, log)
            delay = moments.uniform(0.3, 1.0) * whole if kills < options.kills else SECONDS_AT_MOST
            try:
                status = process.wait(delay)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills, of_run = kills + 1, of_run + 1
                print(f"kill {kills} after {delay:.1f} s", flush=True)
                continue
            break
        same = status == 0 and weights(folder, name) == expected
        good += of_run if same else 0
        print(
            f"run {run}: status {status}, {of_run} kills, {'the same weights' if same else 'OTHER WEIGHTS'}", flush=True
        )
        if not same:
            print(log.read_text("utf-8", errors="replace")[-3000:])
        run += 1
    print(f"{good} of {kills} kills and resumes came to the same weights; {folder}")
    return 0 if good == kills else 1


if __name__ == "__main__":
    sys.exit(main())
