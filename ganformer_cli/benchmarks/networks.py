"""What ``ganformer bench`` measures of the networks: the attention layer and the generator."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from ganformer_cli.benchmarks.bare_convolutions import BareConvolutions, Clock, record
from ganformer_cli.benchmarks.measuring import Bound, Case, Conditions, Work, Workload, copies_of, kept_bytes
from ganformer_cli.config import Integration, ModelConfig
from ganformer_cli.models.attention import ATTENTION_LAYERS, AttentionOptions, AttentionSizes
from ganformer_cli.models.generator import Generator
from ganformer_cli.models.positions import sinusoidal_positions

BARE_CONVOLUTIONS = "bare convolutions"
#: The per-pixel form takes so long, and so steadily, that more samples would only keep the reader waiting.
PER_PIXEL_SAMPLES = 3


# ----- The attention layer -----


@dataclass(frozen=True, kw_only=True)
class LayerSizes:
    """Of the layer that is measured: by default that of a generator's 128 × 128 block."""

    images: int = 4
    side: int = 128  # n = side²
    features: int = 256  # d
    components: int = 16  # m
    component: int = 32  # w and p


@dataclass(frozen=True, kw_only=True)
class LayerCase:
    """One way to call the layer."""

    kind: str  # of ATTENTION_LAYERS
    integration: Integration = "mul"
    dtype: torch.dtype = torch.float32  # of the image features; weights and components are float32
    channels_last: bool = True
    backward: bool = False
    per_pixel: bool = False  # compare with that form
    usual: bool = True  # False: compare with the same in channels-last float32

    @property
    def name(self) -> str:
        """For example ``simplex mul, contiguous, forward + backward``."""
        parts = [f"{self.kind} {self.integration}"]
        parts += ["contiguous"] * (not self.channels_last) + ["bfloat16"] * (self.dtype is torch.bfloat16)
        return ", ".join([*parts, "forward + backward" if self.backward else "forward"])


def layer_cases(conditions: Conditions, sizes: LayerSizes) -> list[Case]:
    """The kinds of layer as they are used, other integrations, and one kind in other layouts and precisions."""
    usual: list[tuple[str, Integration]] = [("simplex", "mul"), ("kmeans", "mul"), ("duplex", "both")]
    dtype = conditions.dtype
    cases = [
        LayerCase(kind=kind, integration=integration, dtype=dtype, backward=backward, per_pixel=True)
        for backward in (False, True)
        for kind, integration in usual
    ]
    cases += [LayerCase(kind="simplex", integration="both", dtype=dtype)]
    cases += [LayerCase(kind="duplex", integration="mul", dtype=dtype)]
    for backward in (False, True):
        case = LayerCase(kind="simplex", backward=backward, usual=False)
        cases += [replace(case, dtype=dtype, channels_last=False)]
        cases += [replace(case, dtype=torch.bfloat16)] if dtype is torch.float32 else []
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
    """A layer with random weights and features, and what it is compared with."""
    given = LayerInputs(case, sizes, conditions.device)

    def rivals() -> dict[str, Work]:
        found = {}
        if case.per_pixel:
            definition = LayerInputs(case, sizes, conditions.device, per_pixel=True)
            found["per pixel"] = Work(partial(definition.run, conditions), "reference", PER_PIXEL_SAMPLES)
        if not case.usual:
            usual = LayerInputs(replace(case, dtype=torch.float32, channels_last=True), sizes, conditions.device)
            found["channels-last float32"] = Work(usual.run)
        return {**found, **copies_of(given.x)}

    return Workload(run=given.run, rivals=rivals, kept=given.kept if case.backward else None)


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
        shape = (images, sizes.features, sizes.side, sizes.side)
        layout = torch.channels_last if case.channels_last else torch.contiguous_format
        x = torch.randn(shape, device=device).to(case.dtype).contiguous(memory_format=layout)
        self.x = x.flatten(2).requires_grad_(backward)
        self.y = torch.randn(images, sizes.components, size, device=device, requires_grad=backward)
        self.positions = sinusoidal_positions(sizes.side, sizes.side, size).flatten(0, 1).to(device)
        self.own_positions = torch.randn(sizes.components, size, device=device, requires_grad=backward)
        self.gradient = torch.randn_like(self.x) if backward else None
        self.trained = [self.x, self.y, self.own_positions, *self.layer.parameters()] if backward else []

    def run(self, conditions: Conditions | None = None) -> Tensor:
        """The layer, and if it is trained the gradients of all that it reads; in the autocast of ``conditions``."""
        with torch.set_grad_enabled(self.gradient is not None), conditions.autocast() if conditions else nullcontext():
            x = self.forward()
        if self.gradient is not None:
            torch.autograd.grad(x, self.trained, self.gradient.to(x.dtype), allow_unused=True)
        return x

    def forward(self) -> Tensor:
        """The new features."""
        new: Tensor = self.layer(self.x, self.y, self.positions, self.own_positions).x
        return new

    def kept(self) -> float:
        """What is kept for the backward pass beside what is given, as a share of the features' bytes."""
        given = [self.x, self.y, self.positions, self.own_positions, *self.layer.parameters()]
        return kept_bytes(self.forward, given) / (self.x.numel() * self.x.element_size())


# ----- The generator -----


def generator_cases(conditions: Conditions, config: ModelConfig, images: int) -> list[Case]:
    """The generator as it makes pictures, in evaluation mode."""
    return [
        Case(
            group="generator",
            what=f"{config.attention}, {config.resolution} px, forward",
            images=images,
            build=partial(build_generator, conditions, config, images),
            weight=40 * pixels_of_usual(config, images),
        )
    ]


def pixels_of_usual(config: ModelConfig, images: int) -> float:
    """How many pixels a batch has, as a share of four pictures of 256 × 256."""
    return images * config.resolution**2 / (4 * 256**2)


def build_generator(conditions: Conditions, config: ModelConfig, images: int) -> Workload:
    """A generator with random weights, and the time of its bare convolutions."""
    torch.manual_seed(0)
    generator = Generator(config).to(conditions.device).eval()
    z = torch.randn(images, *config.z_shape, device=conditions.device)
    c = torch.nn.functional.one_hot(torch.arange(images) % config.c_dim, config.c_dim).to(z) if config.c_dim else None

    def run() -> Tensor:
        with torch.inference_mode(), conditions.autocast():
            return generator(z, c)

    def bounds() -> dict[str, Bound]:
        return {BARE_CONVOLUTIONS: BareConvolutions(record(run), images, Clock(conditions))}

    return Workload(run=run, bounds=bounds)
