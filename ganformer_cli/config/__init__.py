"""Typed configuration: the one place of every default, help text and bound, and of what contradicts what.

``ModelConfig`` describes both networks and is part of every snapshot; ``TrainConfig`` holds everything else of a run.
Both are frozen, validate themselves when they are built, and go to JSON and back.
"""

from ganformer_cli.config.base import Setting, option_name, require, settings_of
from ganformer_cli.config.model import (
    ATTENTION_NAMES,
    MAX_LABELS,
    MAX_RESOLUTION,
    SCENES_RESOLUTION_CPU,
    SCENES_RESOLUTION_GPU,
    Architecture,
    Attention,
    Integration,
    MergeType,
    ModelConfig,
    Normalization,
    PositionInit,
    PositionType,
    image_size,
    start_grid,
)
from ganformer_cli.config.presets import (
    BASELINES,
    DATA_SETTINGS,
    GANFORMER_DEFAULT,
    MODEL_FIELDS,
    NOT_OF_VQGAN,
    TRAIN_FIELDS,
    resolve_run,
    size_preset,
)
from ganformer_cli.config.train import (
    PERCEPTUAL_LOSSES,
    REGION_WEIGHTS,
    AugmentMode,
    DiscriminatorLoss,
    GeneratorLoss,
    PerceptualLoss,
    Precision,
    RunConfig,
    TrainConfig,
)

__all__ = [
    "ATTENTION_NAMES",
    "BASELINES",
    "DATA_SETTINGS",
    "GANFORMER_DEFAULT",
    "MAX_LABELS",
    "MAX_RESOLUTION",
    "MODEL_FIELDS",
    "NOT_OF_VQGAN",
    "PERCEPTUAL_LOSSES",
    "REGION_WEIGHTS",
    "SCENES_RESOLUTION_CPU",
    "SCENES_RESOLUTION_GPU",
    "TRAIN_FIELDS",
    "Architecture",
    "Attention",
    "AugmentMode",
    "DiscriminatorLoss",
    "GeneratorLoss",
    "Integration",
    "MergeType",
    "ModelConfig",
    "Normalization",
    "PositionInit",
    "PositionType",
    "PerceptualLoss",
    "Precision",
    "RunConfig",
    "Setting",
    "TrainConfig",
    "image_size",
    "option_name",
    "require",
    "resolve_run",
    "settings_of",
    "size_preset",
    "start_grid",
]
