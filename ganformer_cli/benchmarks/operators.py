"""Calls of the operators and of the attention layer as the networks make them; building and loading the operators."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ganformer_cli.benchmarks.measuring import (
    Case,
    Conditions,
    Contender,
    Contenders,
    in_fresh_process,
    own_and_plain,
    seconds_of,
)
from ganformer_cli.config import Integration
from ganformer_cli.memory import kept_bytes
from ganformer_cli.models.attention import ATTENTION_LAYERS, AttentionOptions, AttentionSizes
from ganformer_cli.models.positions import sinusoidal_positions
from ganformer_cli.models.precision import HALF
from ganformer_cli.operators import native
from ganformer_cli.operators.attention import Keys, attention_means, bipartite_attention
from ganformer_cli.operators.bias_act import bias_act
from ganformer_cli.operators.upfirdn2d import binomial_filter, upfirdn2d


@dataclass(frozen=True)
class LayerInputs:
    """Random tensors that operators and layers are called with: by default those of a generator's 128 × 128 block."""

    conditions: Conditions
    images: int = 4
    side: int = 128  # n = side²
    channels: int = 128  # of bias_act and upfirdn2d
    features: int = 256  # d, of attention
    components: int = 16  # m
    component: int = 32  # w and p
    backward: bool = False  # gradients are wanted

    def random(self, *size: int) -> Tensor:
        """Normal numbers."""
        return torch.randn(size, device=self.conditions.device, requires_grad=self.backward)

    def image(
        self, channels: int, layout: torch.memory_format = torch.channels_last, dtype: torch.dtype | None = None
    ) -> Tensor:
        """``[B, C, H, W]``, by default in the dtype of the precision."""
        x = self.random(self.images, channels, self.side, self.side)
        return x.to(dtype or HALF.get(self.conditions.precision, torch.float32), memory_format=layout)

    def attended(self) -> tuple[Tensor, Keys]:
        """Features ``[B, d, n]`` and keys of attention with one head."""
        one_head = partial(self.random, self.images, 1, self.components)
        content, place = one_head(self.features), one_head(self.component)
        positions = self.random(self.side**2, self.component).detach()
        keys = Keys(content * self.features**-0.5, one_head(), positions, place * self.component**-0.5)
        return self.image(self.features).flatten(2), keys


def with_gradients(call: Callable[[], Tensor], inputs: Sequence[Tensor]) -> Callable[[], Any]:
    """``call``, and the gradients by the ``inputs`` that require one, of a random weighting of its result."""
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    if not wanted:
        return torch.no_grad()(call)
    gradient = torch.randn_like(call())
    return lambda: torch.autograd.grad(call(), wanted, gradient, allow_unused=True)


def contenders_for(
    call: Callable[[], Tensor], inputs: Sequence[Tensor], against: Sequence[Contender] = ()
) -> list[Contender]:
    """A call that reads ``inputs``, first the image features; the plain operators; ``against``, or copies of these."""
    x = inputs[0].detach()
    kept = kept_bytes(call, inputs) / (x.numel() * x.element_size()) if inputs[0].requires_grad else None
    target = torch.empty_like(x)
    copies = [Contender(name="copy", call=lambda: target.copy_(x)), Contender(name="clone", call=x.clone)]
    return [*own_and_plain(with_gradients(call, inputs), kept=kept), *(against or copies)]


# ----- The operators -----


def build_bias_act(given: LayerInputs) -> Contenders:
    """Bias, noise, activation and gain, as in a synthesis layer."""
    x = given.image(given.channels)
    bias, strength, noise = given.random(x.shape[1]).to(x.dtype), given.random().to(x.dtype), torch.randn_like(x[:, :1])
    call = partial(bias_act, x, bias, noise=noise, strength=strength, activation="lrelu")
    yield contenders_for(call, (x, bias, strength, noise))


def build_upfirdn2d(
    given: LayerInputs,
    up: int = 1,
    down: int = 1,
    padding: tuple[int, int] = (2, 2),
    layout: torch.memory_format = torch.channels_last,
) -> Contenders:
    """Resampling with the networks' filter of four taps; up also by stored zeros and a convolution, the plain way."""
    x, kernel = given.image(given.channels, layout), binomial_filter().to(given.conditions.device)
    call = partial(upfirdn2d, x, kernel, up=up, down=down, padding=padding)
    target = torch.empty_like(call()).detach()
    weight = torch.outer(kernel, kernel).to(x.dtype).expand(x.shape[1], 1, -1, -1).contiguous()

    def zeros_and_convolution() -> Tensor:
        spread = x.new_zeros(*x.shape[:2], x.shape[2] * up, x.shape[3] * up)
        spread[:, :, ::up, ::up] = x
        return F.conv2d(F.pad(spread, padding * 2), weight, groups=len(weight))

    against = [Contender(name="fill", call=lambda: target.fill_(1))]
    if up > 1:
        against.append(Contender(name="zeros + conv2d", call=with_gradients(zeros_and_convolution, [x])))
    yield contenders_for(call, [x, kernel], against)


def build_attention(given: LayerInputs) -> Contenders:
    """The layer's pass over the image, without what is done to the components before."""
    x, keys = given.attended()
    values, bias = given.random(1, 1, given.components, given.features), given.random(1, given.features)
    values = values.expand(given.images, -1, -1, -1)
    call = partial(bipartite_attention, x, keys, values, bias)
    yield contenders_for(call, [x, values, bias, *filter(torch.is_tensor, keys)])


def build_means(given: LayerInputs, over: Literal["components", "positions"]) -> Contenders:
    """Centroids of k-means (over components), what duplex gathers (over positions)."""
    x, keys = given.attended()
    yield contenders_for(lambda: attention_means(x, keys, over=over).content, [x, *filter(torch.is_tensor, keys)])


# ----- The attention layer -----


def build_layer(given: LayerInputs, kind: str, **options: Any) -> Contenders:
    """A layer against copies of its features and its definition."""
    definition = with_gradients(*layer_call(given, kind, per_pixel=True, **options))
    per_pixel = Contender(name="per pixel", call=native.use("reference")(definition))
    yield [*contenders_for(*layer_call(given, kind, **options)), per_pixel]


def layer_call(
    given: LayerInputs, kind: str, *, integration: Integration = "mul", per_pixel: bool = False, **image: Any
) -> tuple[Callable[[], Tensor], list[Tensor]]:
    """A call of a layer with random weights that gives new features ``[B, d, n]``, and all that it reads.

    ``kind`` is of ``ATTENTION_LAYERS``, ``image`` as in ``LayerInputs.image``; weights and components are float32. The
    definition (``per_pixel``) gets no dropout, whose hash of every cell is slow in plain torch.
    """
    torch.manual_seed(0)  # every form has the same numbers
    size, device = given.component, given.conditions.device
    x = given.image(given.features, **image).flatten(2)
    y, own_positions = given.random(given.images, given.components, size), given.random(given.components, size)
    positions = sinusoidal_positions(given.side, given.side, size).flatten(0, 1).to(device)
    options = AttentionOptions(integration=integration)
    options = replace(options, dropout=0.0) if per_pixel else options
    widths = AttentionSizes(given.features, size, size, size, given.components)
    layer = ATTENTION_LAYERS[kind](widths, options).to(device)
    layer.per_pixel = per_pixel
    # Dropout, too, belongs to what training costs.
    layer.train(given.backward).requires_grad_(given.backward)
    return lambda: layer(x, y, positions, own_positions).x, [x, y, positions, own_positions, *layer.parameters()]


#: What is measured, forward and then forward and backward.
Calls = Mapping[str, Callable[[LayerInputs], Contenders]]
OPERATORS: Calls = {
    "bias_act lrelu with noise": build_bias_act,
    # As the networks call it, before a convolution of stride 2 and instead of one.
    "upfirdn2d 2x up": partial(build_upfirdn2d, up=2, padding=(2, 1)),
    "upfirdn2d 2x down": partial(build_upfirdn2d, down=2, padding=(1, 1)),
    "upfirdn2d filter": build_upfirdn2d,
    "upfirdn2d 2x up, contiguous": partial(build_upfirdn2d, up=2, padding=(2, 1), layout=torch.contiguous_format),
    "bipartite_attention mul": build_attention,
    "attention_means over components": partial(build_means, over="components"),
    "attention_means over positions": partial(build_means, over="positions"),
}
LAYERS: Calls = {
    "simplex mul": partial(build_layer, kind="simplex"),
    "kmeans mul": partial(build_layer, kind="kmeans"),
    "duplex-equation both": partial(build_layer, kind="duplex-equation", integration="both"),
    "duplex-equation mul": partial(build_layer, kind="duplex-equation"),
    "simplex mul, contiguous": partial(build_layer, kind="simplex", layout=torch.contiguous_format),
    "simplex mul, bfloat16": partial(build_layer, kind="simplex", dtype=torch.bfloat16),
}


def call_cases(calls: Calls, given: LayerInputs) -> list[Case]:
    """Every row of a table, forward and with gradients."""
    return [
        Case(what=f"{what}, {passes}", images=given.images, build=partial(build, replace(given, backward=backward)))
        for passes, backward in (("forward", False), ("forward + backward", True))
        for what, build in calls.items()
    ]


# ----- Building and loading the operators -----


def build_cases() -> list[Case]:
    """Loading the native operators of the CPU in a new process, against building them."""

    def build() -> Contenders:
        with tempfile.TemporaryDirectory(prefix="ganformer-bench-") as full:

            def seconds(cache: str = "") -> float:
                return in_fresh_process(partial(seconds_to_load, Path(cache or tempfile.mkdtemp(dir=full))))

            seconds(full)
            loading = Contender(call=partial(seconds, full), clocks_itself=True)
            yield [loading, Contender(name="building them", call=seconds, clocks_itself=True)]

    return [Case(what="load the native operators", images=0, build=build)]


def seconds_to_load(cache: Path) -> float:
    """Seconds until this process, a new one, can call the operators of the CPU; built first if ``cache`` has none."""
    os.environ["GANFORMER_CACHE"] = str(cache)
    os.environ.pop("GANFORMER_OPS_FOLDER", None)
    with native.use("native"), contextlib.redirect_stderr(io.StringIO()):
        return seconds_of(lambda: native.serves(torch.zeros(1)))
