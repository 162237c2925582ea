"""What a command loads before it works: no module that it does not need."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ganformer_cli.checkpoints.snapshots import save_snapshot
from ganformer_cli.config import ModelConfig
from ganformer_cli.models.families import build_generator
from ganformer_cli.sampling.image_files import encode_image
from tests.small_generators import SMALL_VQGAN

#: Runs command lines in one process, and writes after each what is loaded. What one has loaded stays for the next.
ASK = """
import json, sys
from ganformer_cli.cli.main import program
for line in sys.argv[1:]:
    program(line.split(), standalone_mode=False)
    sys.stderr.write("\\n" + json.dumps([line, *sys.modules]) + "\\n")
"""


def loaded(*lines: str) -> list[set[str]]:
    """The modules that a process has loaded after each of these lines."""
    words = [sys.executable, "-X", "utf8", "-c", ASK, *lines]  # the console's is prepared by the entry point
    done = subprocess.run(words, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    answers = [json.loads(answer) for answer in done.stderr.splitlines() if answer.startswith('["')]
    assert [line for line, *_ in answers] == list(lines)
    return [set(modules) for _, *modules in answers]


@pytest.mark.slow
def test_what_computes_nothing_needs_no_torch(tiny_run: Path) -> None:
    score = {"snapshot": "network-snapshot-000002.safetensors", "kimg": 2, "swd": 9.0, "provenance": {}}
    Path(tiny_run, "metrics.jsonl").write_text(json.dumps(score) + "\n", encoding="utf-8")
    Path("image.png").write_bytes(encode_image(np.zeros((3, 4, 4), np.uint8), "png", {"seed": 0}))
    lines = (
        "info",
        "info --json",
        "info --list",
        "info --datasets",
        "info image.png",
        "compare",
        "cache",
        "prepare --list",
    )
    for line, modules in zip(lines, loaded(*lines), strict=True):
        assert not {"torch", "scipy"} & modules, line


@pytest.mark.slow
def test_torch_loads_no_compiler(tiny_run: Path) -> None:
    """Nor does a dry run, and a second one, which takes what the first has measured from the cache."""
    codes = build_generator(ModelConfig(resolution=16, channel_base=64, **SMALL_VQGAN))
    codes.get_buffer("transformer_steps").fill_(1)
    about: dict[str, Any] = {"generator": None, "discriminator": None, "kimg": 1.0, "provenance": {}}
    save_snapshot(Path("codes.safetensors"), config=codes.config, ema=codes, **about)
    networks = "--components-num 2 --latent-size 16 --channel-max 8 --batch-size 4 --gpus none"
    transformer = "--baseline VQGAN --resolution 32 --transformer-layers 1 --transformer-width 8 --transformer-heads 2"
    transformer += " --channel-base 128 --channel-max 8 --codebook-size 8 --code-dim 4 --batch-size 4 --gpus none"
    short = "--processes 1 --total-kimg 0.02 --metrics none"
    Path("fake.png").write_bytes(encode_image(np.zeros((3, 32, 32), np.uint8), "png", {"seed": 0}))
    lines = (
        "convert results/exp-000 model.safetensors",
        "generate --seeds 0",
        "generate --seeds 0 --model codes.safetensors --output-dir codes",
        f"train --dry-run {networks}",
        f"train --dry-run {networks}",
        f"train {networks} {short} --expname new",
        f"train {transformer} {short} --vq-kimg 0.01 --expname codes",
        "project fake.png --model results/exp-000 --steps 2 --output-dir projected",
        "eval --model results/exp-000 --eval-images-num 4 --metrics swd,diversity",
    )
    for line, modules in zip(lines, loaded(*lines), strict=True):
        unused = {"torch._dynamo", "torch._inductor", "sympy"} | (set() if line.startswith("eval") else {"scipy"})
        assert not unused & modules, line
