"""The networks of the GANsformer."""

from ganformer_cli.models.discriminator import Discriminator, parameter_count
from ganformer_cli.models.generator import AttentionMap, Generator, NoiseMode
from ganformer_cli.models.labels import LabelDistribution

__all__ = ["AttentionMap", "Discriminator", "Generator", "LabelDistribution", "NoiseMode", "parameter_count"]
