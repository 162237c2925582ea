"""Image features in half precision: in the blocks of the highest resolutions, which are nearly all memory and time.

Parameters, styles, components and the picture stay float32, and so do the blocks below; each convolution brings its
weight to the features' dtype. float16 reaches 65504 only: its activations are clamped, and styles are scaled to at
most 1 where demodulation takes their size out again (Karras et al. 2020, "Training Generative Adversarial Networks with
Limited Data", appendix D).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from ganformer_cli.models.discriminator import Discriminator, DiscriminatorBlock
from ganformer_cli.models.generator import Generator, SynthesisBlock, SynthesisLayer
from ganformer_cli.models.layers import Conv2d

#: Resolutions in half precision, from the highest down, and the least of them.
HALF_RESOLUTIONS = 4
LEAST_HALF = 8
#: Limit of the activations in float16.
CLAMP = 256.0


def use_half(network: Generator | Discriminator, dtype: torch.dtype) -> None:
    """Let the blocks of the four highest resolutions (8 and above) compute in ``dtype``.

    Args:
        network: trained from now on in mixed precision; its parameters stay as they are.
        dtype: ``torch.bfloat16`` or ``torch.float16``.
    """
    root = network.synthesis_network if isinstance(network, Generator) else network
    for resolution in network.config.block_resolutions[-HALF_RESOLUTIONS:]:
        if resolution < LEAST_HALF:
            continue
        block = root.get_submodule(f"b{resolution}")
        assert isinstance(block, SynthesisBlock | DiscriminatorBlock)
        block.dtype = dtype
    for layer in network.modules() if dtype is torch.float16 else ():
        # In the blocks below, too: what they give flows up.
        if isinstance(layer, SynthesisLayer | Conv2d):
            layer.clamp = CLAMP


def half_layers(network: Generator | Discriminator) -> dict[nn.Module, torch.dtype]:
    """The layers of the blocks that compute in half precision, and in which."""
    return {
        layer: block.dtype
        for block in network.modules()
        if isinstance(block, SynthesisBlock | DiscriminatorBlock) and block.dtype is not None
        for layer in block.modules()
    }


@contextlib.contextmanager
def full_precision(network: Generator | Discriminator) -> Iterator[None]:
    """Compute all features in float32 inside, as second derivatives want it."""
    blocks = [module for module in network.modules() if isinstance(module, SynthesisBlock | DiscriminatorBlock)]
    dtypes = [block.dtype for block in blocks]
    try:
        for block in blocks:
            block.dtype = None
        yield
    finally:
        for block, dtype in zip(blocks, dtypes, strict=True):
            block.dtype = dtype
