"""The networks of the GANsformer."""

from ganformer_cli.models.discriminator import Discriminator, parameter_count
from ganformer_cli.models.generator import AttentionMap, Generator, NoiseMode

__all__ = ["AttentionMap", "Discriminator", "Generator", "NoiseMode", "parameter_count"]
