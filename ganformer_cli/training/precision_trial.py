"""Which blocks of the networks bf16 makes faster on this CPU: tried, because few CPUs have fast bf16 products.

The outcome is kept with the machine, so that two runs of one command compute alike, and with the run, so that it goes
on in the precision that it began in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ganformer_cli.cpus import thread_seconds
from ganformer_cli.errors import ConfigError
from ganformer_cli.files import read_json, write_json
from ganformer_cli.models.discriminator import DiscriminatorBlock
from ganformer_cli.models.precision import HALF, blocks_of
from ganformer_cli.training.gan import GANTrainer
from ganformer_cli.training.kept_trials import keep_trial, kept_trial, key_of
from ganformer_cli.training.network_trainer import NetworkTrainer, trial_labels

#: In the run folder.
PRECISION_FILE = "precision.json"
#: bf16 is taken where it needs at most this share of float32's time.
MIN_GAIN = 0.9
#: Positions of the images of one trial: more images would only repeat the same work. Small images are as many as those
#: of a usual step, since their weights are then as much work as their features.
POSITIONS, MAX_IMAGES = 8 * 32**2, 16
#: Each form runs at least twice, and further until it has had this many seconds, at most eight times.
SECONDS, MAX_RUNS = 0.08, 8


def precision_of_run(
    gan: NetworkTrainer, folder: Path, *, before: str | None, message: Callable[[str], None]
) -> dict[str, str]:
    """The blocks that a run on a CPU computes in bf16 with ``--precision auto``; empty with any other, and on GPUs.

    Args:
        gan: the networks; they are left in the precision that they had.
        folder: of the run, which keeps the answer.
        before: the precision that the run has had so far; None: it begins.
        message: told what was chosen, and where ``--precision bf16`` is slower than float32.

    Raises:
        ConfigError: the folder's answer cannot be read.
    """
    precision = gan.config.train.precision
    if gan.device.type != "cpu" or precision not in ("auto", "bf16"):
        return {}
    if precision == "bf16":
        if before is None and not kept_precision(gan):
            message("warning: --precision bf16 is no faster than fp32 on this CPU, as a trial shows")
        return {}
    path = folder / PRECISION_FILE
    if path.is_file():
        return read_precision(path)
    if before in (None, "auto"):
        blocks = kept_precision(gan)
        message(f"precision: {described(blocks)}")
    else:
        blocks = {}  # a run of an earlier version goes on in float32
    write_json(path, {"blocks": blocks})
    return blocks


def read_precision(path: Path) -> dict[str, str]:
    """The blocks that a run's file names.

    Raises:
        ConfigError: it is damaged.
    """
    values = read_json(path, max_bytes=1 << 16)
    blocks = _blocks(values.get("blocks") if isinstance(values, dict) else None)
    if blocks is None:
        raise ConfigError(f"{path}: does not say which blocks compute in bf16; delete it to run the trial again")
    return blocks


def _blocks(value: Any) -> dict[str, str] | None:
    """A JSON value as blocks and their precision; None where it is something else."""
    sound = isinstance(value, dict) and all(form == "bf16" for form in value.values())
    return dict(value) if sound else None


def described(blocks: Mapping[str, str]) -> str:
    """In words, for the reader."""
    if not blocks:
        return "fp32 (a trial found bf16 no faster on this CPU)"
    networks: dict[str, list[str]] = {}
    for name in blocks:
        network, _, block = name.partition(".")
        networks.setdefault(network, []).append(block[1:])
    listed = " and ".join(f"{network} at {', '.join(sizes)}" for network, sizes in networks.items())
    return f"bf16 in the {listed}, else fp32 (fastest in a trial)"


def kept_precision(gan: NetworkTrainer) -> dict[str, str]:
    """``fastest_precision``, tried once for this machine and these networks; the networks keep their precision."""
    key = key_of(trial="precision", model=asdict(gan.config.model))
    blocks = _blocks(kept_trial(key))
    if blocks is None:
        blocks = fastest_precision(gan) if isinstance(gan, GANTrainer) else {}  # others have no such blocks
        keep_trial(key, blocks)
    return blocks


def fastest_precision(gan: GANTrainer) -> dict[str, str]:
    """The blocks that forward and backward pass are faster in with bf16, such as ``{"discriminator.b32": "bf16"}``.

    Each block of the discriminator is tried by itself. The generator's blocks of the same resolutions follow it if
    the whole synthesis is faster with them. Networks, settings and random numbers are left as they were.

    Returns:
        Empty on a GPU, and where float32 is as fast.
    """
    if gan.device.type != "cpu":
        return {}
    before = gan.precision
    with torch.random.fork_rng(devices=[]), gan.training_discriminator():
        faster = [
            name
            for name, block in blocks_of(gan.discriminator).items()
            if isinstance(block, DiscriminatorBlock) and _is_faster(_block_run(gan, name, block), gan, [name])
        ]
    chosen = {f"discriminator.{name}": "bf16" for name in faster}
    if faster:
        with torch.random.fork_rng(devices=[]), gan.training_generator():
            if _is_faster(_synthesis_run(gan), gan, faster):
                chosen |= {f"generator.{name}": "bf16" for name in faster}
    gan.use_precision(before)
    gan.g_weights.clear_gradients()
    gan.d_weights.clear_gradients()
    return chosen


def _is_faster(run: Callable[[], None], gan: GANTrainer, names: list[str]) -> bool:
    """Whether ``run`` is faster with these blocks of both networks in bf16; the forms take turns."""
    # What other programs take away does not count where there is one thread to look at.
    clock = thread_seconds if torch.get_num_threads() == 1 else time.perf_counter
    best = {"fp32": float("inf"), "bf16": float("inf")}
    spent = 0.0
    for i in range(MAX_RUNS):
        for form in best:
            gan.use_precision(
                {f"{network}.{name}": form for network in ("generator", "discriminator") for name in names}
                if form in HALF
                else {}
            )
            for weights in (gan.g_weights, gan.d_weights):
                weights.refresh()
            start = clock()
            run()
            seconds = clock() - start
            best[form], spent = min(best[form], seconds), spent + seconds
        if i > 0 and spent > 2 * SECONDS:
            break
    return best["bf16"] < MIN_GAIN * best["fp32"]


def _images(positions: int) -> int:
    return min(max(1, POSITIONS // positions), MAX_IMAGES)


def _block_run(gan: GANTrainer, name: str, block: DiscriminatorBlock) -> Callable[[], None]:
    """Forward and backward pass of one block of the discriminator on random features."""
    model = gan.config.model
    height, width = model.grid(int(name[1:]))
    images = _images(height * width)
    features = torch.randn(images, model.channels(int(name[1:])), height, width)
    features = features.contiguous(memory_format=torch.channels_last).requires_grad_()
    image = torch.randn(images, 3, height, width).contiguous(memory_format=torch.channels_last)

    def run() -> None:
        x, _ = block(features.to(block.dtype or torch.float32), image)
        x.sum().backward()

    return run


def _synthesis_run(gan: GANTrainer) -> Callable[[], None]:
    """Forward and backward pass of the synthesis network on random latents."""
    height, width = gan.config.model.image_size
    z = torch.randn(_images(height * width), *gan.config.model.z_shape)
    c = trial_labels(gan, len(z))

    def run() -> None:
        gan.generator(z, c).sum().backward()

    return run
