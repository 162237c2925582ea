"""Untrained generators whose images say what was changed in them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from ganformer_cli.config import ModelConfig
from ganformer_cli.models import Generator

CONFIG = ModelConfig(resolution=32, components_num=4, latent_size=32, channel_base=256, channel_max=16)
#: What makes a small VQGAN of a small configuration.
SMALL_VQGAN: dict[str, Any] = {
    **{"attention": "none", "components_num": 0, "vqgan": True, "code_stride": 4, "codebook_size": 13, "code_dim": 5},
    **{"transformer_layers": 1, "transformer_width": 8, "transformer_heads": 2},
}


def small_generator(**changes: Any) -> Generator:
    """Untrained, but for noise that shows and a mean that is not zero; ``CONFIG`` with ``changes``."""
    torch.manual_seed(0)
    generator = Generator(replace(CONFIG, **changes)).eval()
    generator.mapping_network.w_avg.normal_()
    for name, parameter in generator.named_parameters():
        if name.endswith("noise_strength"):
            parameter.data.fill_(0.2)
    return generator
