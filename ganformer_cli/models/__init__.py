"""The networks of the GANsformer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ganformer_cli.lazy import lazy_attributes

if TYPE_CHECKING:
    from ganformer_cli.models.discriminator import Discriminator, parameter_count
    from ganformer_cli.models.generator import AttentionMap, Generator, NoiseMode
    from ganformer_cli.models.labels import LabelDistribution

__all__ = ["AttentionMap", "Discriminator", "Generator", "LabelDistribution", "NoiseMode", "parameter_count"]

__getattr__ = lazy_attributes(
    __name__,
    {
        "models.generator": "AttentionMap Generator NoiseMode",
        "models.discriminator": "Discriminator parameter_count",
        "models.labels": "LabelDistribution",
    },
)
