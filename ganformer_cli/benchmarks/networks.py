"""The attention layer, the generator, and whole training steps with optimisers and moving average."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from torch import Tensor

from ganformer_cli.benchmarks.bare_convolutions import bare_convolutions
from ganformer_cli.benchmarks.measuring import Case, Conditions, Contender, Workload, copies_of, kept_bytes
from ganformer_cli.benchmarks.operators import LayerSizes
from ganformer_cli.config import Integration, ModelConfig, RunConfig
from ganformer_cli.models.attention import ATTENTION_LAYERS, AttentionOptions, AttentionSizes
from ganformer_cli.models.generator import Generator
from ganformer_cli.models.positions import sinusoidal_positions
from ganformer_cli.training.gan import GANTrainer
from ganformer_cli.training.network_trainer import RunningMeans

#: The per-pixel form takes so long, and so steadily, that more samples would only keep the reader waiting.
PER_PIXEL_ROUNDS = 3
#: Weight of path length regularisation where the configuration has none: that of StyleGAN2.
PL_WEIGHT = 2.0


# ----- The attention layer -----


@dataclass(frozen=True, kw_only=True)
class LayerCase:
    """One way to call the layer."""

    kind: str  # of ATTENTION_LAYERS
    integration: Integration = "mul"
    dtype: torch.dtype = torch.float32  # of the image features; weights and components are float32
    channels_last: bool = True
    backward: bool = False
    per_pixel: bool = False  # is measured against that form
    usual: bool = True  # False: is measured against the same in channels-last float32

    @property
    def name(self) -> str:
        """For example ``simplex mul, contiguous, forward + backward``."""
        parts = [f"{self.kind} {self.integration}"]
        parts += ["contiguous"] * (not self.channels_last) + ["bfloat16"] * (self.dtype is torch.bfloat16)
        return ", ".join([*parts, "forward + backward" if self.backward else "forward"])


def layer_cases(conditions: Conditions, sizes: LayerSizes) -> list[Case]:
    """The kinds of layer as they are used, other integrations, and one kind in other layouts and precisions."""
    dtype = conditions.dtype
    cases = []
    for backward in (False, True):
        usual: list[tuple[str, Integration]] = [("simplex", "mul"), ("kmeans", "mul"), ("duplex-equation", "both")]
        for kind, integration in usual:
            case = LayerCase(kind=kind, integration=integration, dtype=dtype, backward=backward, per_pixel=True)
            cases.append(case)
        simplex = LayerCase(kind="simplex", dtype=dtype, backward=backward, usual=False)
        cases += [replace(simplex, channels_last=False)]
        cases += [replace(simplex, dtype=torch.bfloat16)] if dtype is torch.float32 else []
    cases += [
        LayerCase(kind="simplex", integration="both", dtype=dtype),
        LayerCase(kind="duplex-equation", dtype=dtype),
    ]
    return [
        Case(
            group="layer",
            what=case.name,
            images=sizes.images,
            build=partial(build_layer, case, sizes, conditions),
            weight=(12 if case.per_pixel else 3) * (2 if case.backward else 1),
        )
        for case in cases
    ]


def build_layer(case: LayerCase, sizes: LayerSizes, conditions: Conditions) -> Workload:
    """A layer with random weights and features, and what it is measured against."""
    given = LayerInputs(case, sizes, conditions.device)

    def baselines() -> Iterator[tuple[str, Contender]]:
        yield from copies_of(given.x)
        if case.per_pixel:
            run = partial(LayerInputs(case, sizes, conditions.device, per_pixel=True).run, conditions)
            yield "per pixel", Contender(call=run, backend="reference", max_rounds=PER_PIXEL_ROUNDS)
        if not case.usual:
            usual = LayerInputs(replace(case, dtype=torch.float32, channels_last=True), sizes, conditions.device)
            yield "channels-last float32", Contender(call=usual.run)

    run = Contender(call=given.run, with_memory=True)
    return Workload(run=run, baselines=baselines(), kept=given.kept if case.backward else None)


class LayerInputs:
    """A layer and its arguments.

    Args:
        case: which layer.
        sizes: of the layer and its arguments.
        device: where they are.
        per_pixel: compute the definition. It gets no dropout, whose hash of every cell is slow in plain torch.
    """

    def __init__(self, case: LayerCase, sizes: LayerSizes, device: str, *, per_pixel: bool = False) -> None:
        torch.manual_seed(0)
        images, size, backward = sizes.images, sizes.component, case.backward
        widths = AttentionSizes(sizes.features, size, size, size, sizes.components)
        options = AttentionOptions(integration=case.integration)
        self.layer = ATTENTION_LAYERS[case.kind](widths, replace(options, dropout=0.0) if per_pixel else options)
        self.layer.to(device).per_pixel = per_pixel
        # Dropout, too, belongs to what training costs.
        self.layer.train(backward).requires_grad_(backward)
        layout = torch.channels_last if case.channels_last else torch.contiguous_format
        x = torch.randn(images, sizes.features, sizes.side, sizes.side, device=device).to(case.dtype)
        self.x = x.contiguous(memory_format=layout).flatten(2).requires_grad_(backward)
        self.y = torch.randn(images, sizes.components, size, device=device, requires_grad=backward)
        self.positions = sinusoidal_positions(sizes.side, sizes.side, size).flatten(0, 1).to(device)
        self.own_positions = torch.randn(sizes.components, size, device=device, requires_grad=backward)
        self.gradient = torch.randn_like(self.x) if backward else None

    def run(self, conditions: Conditions | None = None) -> Tensor:
        """The layer, and if it is trained the gradients of all that it reads; in the autocast of ``conditions``."""
        with torch.set_grad_enabled(self.gradient is not None), conditions.autocast() if conditions else nullcontext():
            x = self.forward()
        if self.gradient is not None:
            trained = [self.x, self.y, self.own_positions, *self.layer.parameters()]
            torch.autograd.grad(x, trained, self.gradient.to(x.dtype), allow_unused=True)
        return x

    def forward(self) -> Tensor:
        """The new features."""
        new: Tensor = self.layer(self.x, self.y, self.positions, self.own_positions).x
        return new

    def kept(self) -> float:
        """What is kept for the backward pass beside what is given, as a share of the features' bytes."""
        given = [self.x, self.y, self.positions, self.own_positions, *self.layer.parameters()]
        return kept_bytes(self.forward, given) / (self.x.numel() * self.x.element_size())


# ----- The networks -----


def pixels_of_usual(config: ModelConfig, images: int) -> float:
    """How many pixels a batch has, as a share of four images of 256 × 256."""
    return images * config.resolution**2 / (4 * 256**2)


def generator_cases(conditions: Conditions, config: ModelConfig, images: int) -> list[Case]:
    """The generator as it makes images, in evaluation mode."""
    what = f"{config.attention}, {config.resolution} px, forward"
    build = partial(random_generator, conditions, config, images)
    weight = 40 * pixels_of_usual(config, images)
    return [Case(group="generator", what=what, images=images, build=build, weight=weight)]


def random_generator(conditions: Conditions, config: ModelConfig, images: int) -> Workload:
    """A generator with random weights against its bare convolutions."""
    torch.manual_seed(0)
    generator = Generator(config).to(conditions.device).eval()
    z = torch.randn(images, *config.z_shape, device=conditions.device)
    c = torch.nn.functional.one_hot(torch.arange(images) % config.c_dim, config.c_dim).to(z) if config.c_dim else None

    def run() -> Tensor:
        with torch.inference_mode(), conditions.autocast():
            return generator(z, c)

    return Workload(run=Contender(call=run, with_memory=True), baselines=bare_convolutions(run, images, conditions))


class TrainingSteps:
    """The networks and random images, shared by the kinds of step.

    Args:
        conditions: under which it is measured.
        config: the networks and their training.
    """

    def __init__(self, conditions: Conditions, config: RunConfig) -> None:
        self.conditions, self.config = conditions, config

    @cached_property
    def gan(self) -> GANTrainer:
        """Made when the first step is."""
        torch.manual_seed(self.config.train.seed)
        return GANTrainer(self.config, torch.device(self.conditions.device))

    @cached_property
    def batch(self) -> tuple[Tensor, Tensor]:
        """Random images, and no labels: presets have none."""
        count = self.config.train.batch_size
        images = torch.randint(0, 256, (count, 3, *self.config.model.image_size), dtype=torch.uint8)
        return images, torch.zeros(count, self.config.model.c_dim)

    def step(self, *, r1: bool, path_length: bool) -> None:
        """One update of both networks, with the regularisation that is asked for."""
        given = self.config.train
        weight = (given.pl_weight or PL_WEIGHT) if path_length else 0.0
        train = replace(given, gamma=(given.gamma or 1.0) if r1 else 0.0, pl_weight=weight)
        self.gan.config = replace(self.config, train=train)
        self.gan.step(self.batch, 0, RunningMeans())  # step 0 is one of those that regularise
        self.gan.average(given.batch_size)

    def build(self, run: Callable[[], None]) -> Workload:
        """The workload of a kind of step."""
        return Workload(
            run=Contender(call=run, with_memory=True),
            baselines=bare_convolutions(run, self.config.train.micro_batch, self.conditions),
            # The first step makes the optimisers' memory, which stays.
            warm_calls=0 if "gan" in vars(self) else 1,
        )


def training_cases(conditions: Conditions, config: RunConfig) -> list[Case]:
    """Steps without and with each regularisation."""
    steps = TrainingSteps(conditions, config)
    kinds = {"training step": (False, False), "with R1": (True, False), "with path length": (False, True)}
    return [
        Case(
            group="training",
            what=f"{config.model.attention}, {config.model.resolution} px, {what}",
            images=config.train.batch_size,
            build=partial(steps.build, partial(steps.step, r1=r1, path_length=path)),
            weight=550 * pixels_of_usual(config.model, config.train.batch_size),
        )
        for what, (r1, path) in kinds.items()
    ]
