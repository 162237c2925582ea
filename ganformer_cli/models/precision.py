"""Image features in half precision: block by block, where they are nearly all memory and time.

Parameters, styles, components, minibatch-std and the image stay float32; each convolution casts its weight to the
features' dtype. float16 reaches 65504 only: its activations are clamped, and styles are scaled to at most 1 where
demodulation takes their size out again (Karras et al. 2020, "Training Generative Adversarial Networks with Limited
Data", appendix D).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import nn

from ganformer_cli.models.discriminator import Discriminator, DiscriminatorBlock
from ganformer_cli.models.generator import Generator, SynthesisBlock, SynthesisLayer
from ganformer_cli.models.layers import Conv2d

#: Half precision by the name that options have for it.
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
#: Highest resolutions that compute in half precision where nothing else is said, and the lowest that may.
HALF_RESOLUTIONS = 4
MIN_HALF_RESOLUTION = 8
#: Limit of the activations in float16.
CLAMP = 256.0


def blocks_of(network: Generator | Discriminator) -> dict[str, SynthesisBlock | DiscriminatorBlock]:
    """The blocks that may compute in half precision, by name (``b32``), from coarse to fine."""
    if network.config.vqgan:
        return {}
    root = network.synthesis_network if isinstance(network, Generator) else network
    found = {}
    for resolution in network.config.block_resolutions:
        block = root.get_submodule(f"b{resolution}")
        if resolution >= MIN_HALF_RESOLUTION and isinstance(block, SynthesisBlock | DiscriminatorBlock):
            found[f"b{resolution}"] = block
    return found


def use_half(network: Generator | Discriminator, dtype: torch.dtype) -> None:
    """Let the blocks of the four highest resolutions (8 and above) compute in ``dtype``.

    Args:
        network: trained from now on in mixed precision; its parameters stay as they are.
        dtype: ``torch.bfloat16`` or ``torch.float16``.
    """
    highest = network.config.block_resolutions[-HALF_RESOLUTIONS:]
    blocks = blocks_of(network)
    use_precision(network, {name: dtype for name in blocks if int(name[1:]) in highest})


def use_precision(network: Generator | Discriminator, dtypes: Mapping[str, torch.dtype]) -> None:
    """Let the blocks that are named compute in the dtype given for them, and all others in float32."""
    for name, block in blocks_of(network).items():
        block.dtype = dtypes.get(name)
    for layer in network.modules() if torch.float16 in dtypes.values() else ():
        # In the blocks below, too: what they give flows up.
        if isinstance(layer, SynthesisLayer | Conv2d):
            layer.clamp = CLAMP


def half_layers(network: Generator | Discriminator) -> dict[nn.Module, torch.dtype]:
    """The layers of the blocks that compute in half precision, and in which."""
    return {
        layer: block.dtype
        for block in blocks_of(network).values()
        if block.dtype is not None
        for layer in block.modules()
    }


@contextlib.contextmanager
def full_precision(network: Generator | Discriminator) -> Iterator[None]:
    """Compute all features in float32 inside, as second derivatives want it."""
    blocks = list(blocks_of(network).values())
    dtypes = [block.dtype for block in blocks]
    try:
        for block in blocks:
            block.dtype = None
        yield
    finally:
        for block, dtype in zip(blocks, dtypes, strict=True):
            block.dtype = dtype
