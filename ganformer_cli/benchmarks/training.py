"""What ``ganformer bench`` measures of training: whole steps, optimisers and moving average included."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial

import torch
from torch import Tensor

from ganformer_cli.benchmarks.bare_convolutions import BareConvolutions, Clock, record
from ganformer_cli.benchmarks.networks import BARE_CONVOLUTIONS, Bound, Case, Conditions, Workload, pixels_of_usual
from ganformer_cli.config import RunConfig
from ganformer_cli.training.gan import GANTrainer, RunningMeans

#: Weight of path length regularisation where the configuration has none: that of StyleGAN2.
PL_WEIGHT = 2.0


class Bench:
    """The networks and random pictures, shared by the kinds of step.

    Args:
        conditions: under which it is measured.
        config: the networks and their training.
    """

    def __init__(self, conditions: Conditions, config: RunConfig) -> None:
        self.conditions, self.config = conditions, config
        self.clock = Clock(conditions)

    @cached_property
    def gan(self) -> GANTrainer:
        """Made when the first step is."""
        torch.manual_seed(self.config.train.seed)
        return GANTrainer(self.config, torch.device(self.conditions.device))

    @cached_property
    def batch(self) -> tuple[Tensor, Tensor]:
        """Random pictures, and no labels: presets have none."""
        images = self.config.train.batch_size
        pictures = torch.randint(0, 256, (images, 3, *self.config.model.image_size), dtype=torch.uint8)
        return pictures, torch.zeros(images, self.config.model.c_dim)

    def step(self, *, r1: bool, path_length: bool) -> None:
        """One update of both players, with the regularisation that is asked for."""
        given = self.config.train
        weight = (given.pl_weight or PL_WEIGHT) if path_length else 0.0
        train = replace(given, gamma=(given.gamma or 1.0) if r1 else 0.0, pl_weight=weight)
        self.gan.config = replace(self.config, train=train)
        self.gan.step(self.batch, 0, RunningMeans())  # step 0 is one of those that regularise
        self.gan.average(given.batch_size)

    def build(self, run: Callable[[], None]) -> Workload:
        """The workload of a kind of step."""

        def bounds() -> dict[str, Bound]:
            bare = BareConvolutions(record(run), self.config.train.micro_batch, self.clock)
            return {BARE_CONVOLUTIONS: bare}

        # The first step makes the optimisers' memory, which stays.
        return Workload(run=run, bounds=bounds, warm_calls=0 if "gan" in vars(self) else 1)


def training_cases(conditions: Conditions, config: RunConfig) -> list[Case]:
    """Steps without and with each regularisation."""
    bench = Bench(conditions, config)
    kinds = {"training step": (False, False), "with R1": (True, False), "with path length": (False, True)}
    return [
        Case(
            group="training",
            what=f"{config.model.attention}, {config.model.resolution} px, {what}",
            images=config.train.batch_size,
            build=partial(bench.build, partial(bench.step, r1=r1, path_length=path)),
            weight=550 * pixels_of_usual(config.model, config.train.batch_size),
        )
        for what, (r1, path) in kinds.items()
    ]
