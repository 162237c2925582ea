"""Which networks a configuration describes."""

from __future__ import annotations

from torch import nn

from ganformer_cli.config import ModelConfig
from ganformer_cli.models.discriminator import Discriminator
from ganformer_cli.models.generator import Generator
from ganformer_cli.models.vqgan import VQGAN, PatchDiscriminator


def build_generator(config: ModelConfig) -> Generator:
    """The generator: what images are drawn from."""
    return VQGAN(config) if config.vqgan else Generator(config)


def build_discriminator(config: ModelConfig) -> nn.Module:
    """Its adversary."""
    return PatchDiscriminator(config) if config.vqgan else Discriminator(config)
