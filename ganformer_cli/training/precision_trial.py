"""Which blocks of the networks bf16 makes faster on this CPU: tried, because few CPUs have fast bf16 products."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from ganformer_cli.models import Generator
from ganformer_cli.models.discriminator import DiscriminatorBlock
from ganformer_cli.models.precision import HALF, blocks_of
from ganformer_cli.training.gan import GANTrainer

#: bf16 is taken where it needs at most this share of float32's time.
MIN_GAIN = 0.95
#: Positions of the images of one trial: more images would only repeat the same work.
POSITIONS = 8 * 32**2
#: Each form runs at least twice, and further until it has had this many seconds, at most eight times.
SECONDS, MAX_RUNS = 0.08, 8


def fastest_precision(gan: GANTrainer) -> dict[str, str]:
    """The blocks that forward and backward pass are faster in with bf16, such as ``{"discriminator.b32": "bf16"}``.

    Each block of the discriminator is tried by itself. The generator's blocks of the same resolutions follow it if
    the whole synthesis is faster with them. Networks, settings and random numbers are left as they were.

    Returns:
        Empty on a GPU, and where float32 is as fast.
    """
    if gan.device.type != "cpu":
        return {}
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
    gan.use_precision({})
    gan.g_weights.clear_gradients()
    gan.d_weights.clear_gradients()
    return chosen


def _is_faster(run: Callable[[], None], gan: GANTrainer, names: list[str]) -> bool:
    """Whether ``run`` is faster with these blocks of both networks in bf16; the forms take turns."""
    # What other programs take away does not count where there is one thread to look at.
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
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


def _images(gan: GANTrainer, positions: int) -> int:
    return max(1, min(gan.micro_batch, POSITIONS // positions))


def _block_run(gan: GANTrainer, name: str, block: DiscriminatorBlock) -> Callable[[], None]:
    """Forward and backward pass of one block of the discriminator on random features."""
    model = gan.config.model
    height, width = model.grid(int(name[1:]))
    images = _images(gan, height * width)
    features = torch.randn(images, model.channels(int(name[1:])), height, width)
    features = features.contiguous(memory_format=torch.channels_last).requires_grad_()
    image = torch.randn(images, 3, height, width).contiguous(memory_format=torch.channels_last)

    def run() -> None:
        x, _ = block(features.to(block.dtype or torch.float32), image)
        x.sum().backward()

    return run


def _synthesis_run(gan: GANTrainer) -> Callable[[], None]:
    """Forward and backward pass of the synthesis network on random latents."""
    generator: Generator = gan.generator
    height, width = gan.config.model.image_size
    z = torch.randn(_images(gan, height * width), *gan.config.model.z_shape)

    def run() -> None:
        generator(z).sum().backward()

    return run
