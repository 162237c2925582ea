"""Typed configuration: the one place where a default lives, and where contradictions are refused.

``ModelConfig`` describes both networks and travels in every snapshot; ``TrainConfig`` holds everything else that a run
needs. Both are frozen, go to JSON and back, and check themselves when they are built.
"""

from ganformer_cli.config.base import option_name, require
from ganformer_cli.config.model import (
    ARCHITECTURES,
    ATTENTION_KINDS,
    INTEGRATIONS,
    MAX_LABELS,
    MAX_RESOLUTION,
    MERGES,
    NORMALIZATIONS,
    POSITION_INITS,
    POSITIONS,
    ModelConfig,
    image_size,
    start_grid,
)
from ganformer_cli.config.presets import (
    BASELINES,
    DATA_SETTINGS,
    GANFORMER_DEFAULT,
    MODEL_FIELDS,
    TRAIN_FIELDS,
    resolve_run,
    size_preset,
)
from ganformer_cli.config.train import AUGMENTATIONS, D_LOSSES, G_LOSSES, PRECISIONS, RunConfig, TrainConfig

__all__ = [
    "ARCHITECTURES",
    "ATTENTION_KINDS",
    "AUGMENTATIONS",
    "BASELINES",
    "DATA_SETTINGS",
    "D_LOSSES",
    "GANFORMER_DEFAULT",
    "G_LOSSES",
    "INTEGRATIONS",
    "MAX_LABELS",
    "MAX_RESOLUTION",
    "MERGES",
    "MODEL_FIELDS",
    "NORMALIZATIONS",
    "POSITIONS",
    "POSITION_INITS",
    "PRECISIONS",
    "TRAIN_FIELDS",
    "ModelConfig",
    "RunConfig",
    "TrainConfig",
    "image_size",
    "option_name",
    "require",
    "resolve_run",
    "size_preset",
    "start_grid",
]
