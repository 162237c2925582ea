"""The generator, and whole training steps with optimisers and moving average."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch

from ganformer_cli.benchmarks.bare_convolutions import bare_convolutions
from ganformer_cli.benchmarks.measuring import Case, Conditions, Contenders, own_and_plain
from ganformer_cli.config import ModelConfig, RunConfig
from ganformer_cli.models.generator import Generator
from ganformer_cli.models.precision import HALF, use_half
from ganformer_cli.training.gan import GANTrainer
from ganformer_cli.training.network_trainer import RunningMeans

#: Weight of path length regularisation where the configuration has none: that of StyleGAN2.
PL_WEIGHT = 2.0


def generator_cases(conditions: Conditions, config: ModelConfig, images: int) -> list[Case]:
    """The generator as it makes images, in evaluation mode."""
    what = f"{config.attention}, {config.resolution} px, forward"
    return [Case(what=what, images=images, build=partial(build_generating, conditions, config, images))]


@contextmanager
def build_generating(conditions: Conditions, config: ModelConfig, images: int) -> Contenders:
    """A generator with random weights against its bare convolutions."""
    generator = Generator(config).to(conditions.device).eval()
    if conditions.precision in HALF:
        use_half(generator, HALF[conditions.precision])
    z = torch.randn(images, *config.z_shape, device=conditions.device)
    run = torch.inference_mode()(partial(generator, z))
    yield [*own_and_plain(run), bare_convolutions(run, images, conditions)]


def training_cases(conditions: Conditions, config: RunConfig) -> list[Case]:
    """Steps without and with each regularisation."""
    given = config.train
    kinds = {
        "training step": replace(given, gamma=0.0, pl_weight=0.0),
        "with R1": replace(given, gamma=given.gamma or 1.0, pl_weight=0.0),
        "with path length": replace(given, gamma=0.0, pl_weight=given.pl_weight or PL_WEIGHT),
    }
    prefix = f"{config.model.attention}, {config.model.resolution} px"
    return [
        Case(
            what=f"{prefix}, {kind}",
            images=given.batch_size,
            build=partial(build_training, conditions, replace(config, train=train)),
        )
        for kind, train in kinds.items()
    ]


@contextmanager
def build_training(conditions: Conditions, config: RunConfig) -> Contenders:
    """An update of both networks from random images, with the regularisation of ``config``."""
    gan, count = GANTrainer(config, torch.device(conditions.device)), config.train.batch_size
    images = torch.randint(0, 256, (count, 3, *config.model.image_size), dtype=torch.uint8)
    labels = torch.zeros(count, config.model.c_dim)

    def step() -> None:
        gan.step((images, labels), 0, RunningMeans())  # step 0 is one of those that regularise
        gan.average(count)

    yield [*own_and_plain(step), bare_convolutions(step, config.train.micro_batch, conditions)]
