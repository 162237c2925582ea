"""What a command loads before it works: no module that it does not need."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ganformer_cli.sampling.image_files import encode_image


def loaded(line: str) -> set[str]:
    """The modules that a process has loaded when the command is done."""
    ask = (
        "import sys; from ganformer_cli.cli.main import program; program(sys.argv[1:], standalone_mode=False); "
        "sys.stderr.write('|'.join(['', *sys.modules]))"
    )
    words = [sys.executable, "-X", "utf8", "-c", ask, *line.split()]  # the console's is prepared by the entry point
    done = subprocess.run(words, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return set(done.stderr.rpartition("\n")[2].split("|"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    ["info", "info --json", "info --list", "info --datasets", "info image.png", "compare", "cache", "prepare --list"],
)
def test_what_computes_nothing_needs_no_torch(tiny_run: Path, line: str) -> None:
    score = {"snapshot": "network-snapshot-000002.safetensors", "kimg": 2, "swd": 9.0, "provenance": {}}
    Path(tiny_run, "metrics.jsonl").write_text(json.dumps(score) + "\n", encoding="utf-8")
    Path("image.png").write_bytes(encode_image(np.zeros((3, 4, 4), np.uint8), "png", {"seed": 0}))
    assert not {"torch", "scipy"} & loaded(line)


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
        "generate --seeds 0",
        "eval --eval-images-num 4 --metrics swd,diversity",
        "convert results/exp-000 model.safetensors",
        "train --components-num 2 --latent-size 16 --channel-max 8 --batch-size 4 --gpus none --processes 1 "
        "--total-kimg 0.02 --metrics none --expname new",
    ],
)
def test_torch_loads_no_compiler(tiny_run: Path, line: str) -> None:
    unused = {"torch._dynamo", "torch._inductor", "sympy"} | (set() if line.startswith("eval") else {"scipy"})
    assert not unused & loaded(line)


@pytest.mark.slow
def test_a_dry_run_loads_no_compiler_and_a_second_one_none_either(own_folder: Path) -> None:
    """The second takes what the first has measured from the cache."""
    line = "train --dry-run --components-num 2 --latent-size 16 --channel-max 8 --batch-size 4 --gpus none"
    for _ in range(2):
        assert not {"torch._dynamo", "torch._inductor", "sympy", "scipy"} & loaded(line)
