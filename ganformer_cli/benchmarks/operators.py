"""What ``ganformer bench`` measures of the operators: their calls, and how long it takes to have them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ganformer_cli.benchmarks.measuring import Case, Conditions, Work, Workload, copies_of
from ganformer_cli.errors import GanformerError
from ganformer_cli.operators import (
    Keys,
    attention_means,
    bias_act,
    binomial_filter,
    bipartite_attention,
    native,
    upfirdn2d,
)
from ganformer_cli.operators.attention import Over

SECONDS_TO_BUILD = 900.0

# ----- Calls -----


@dataclass(frozen=True, kw_only=True)
class OperatorSizes:
    """Of the images that the operators are called with: by default those of a generator's 128 × 128 block."""

    images: int = 4
    side: int = 128
    channels: int = 128  # of bias_act and upfirdn2d
    features: int = 256  # d, of attention
    components: int = 16  # m
    position: int = 32  # p


class Resampling(NamedTuple):
    """A way to call upfirdn2d."""

    up: int = 1
    down: int = 1
    padding: tuple[int, int] = (0, 0)


#: As the networks call it: before a convolution of stride 2, and instead of one.
RESAMPLINGS = {
    "2x up": Resampling(up=2, padding=(2, 1)),
    "2x down": Resampling(down=2, padding=(1, 1)),
    "filter": Resampling(padding=(2, 2)),
}


def operator_cases(conditions: Conditions, sizes: OperatorSizes) -> list[Case]:
    """The operators by themselves, as the networks call them."""
    around = sizes, conditions
    builds: dict[str, Callable[[], Workload]] = {}
    for backward, said in ((False, "forward"), (True, "forward + backward")):
        builds[f"bias_act lrelu with noise, {said}"] = partial(build_bias_act, *around, backward)
    for name, way in RESAMPLINGS.items():
        builds[f"upfirdn2d {name}, forward"] = partial(build_upfirdn2d, way, *around, True, False)
    builds["upfirdn2d 2x up, contiguous, forward"] = partial(
        build_upfirdn2d, RESAMPLINGS["2x up"], *around, False, False
    )
    builds["upfirdn2d 2x up, forward + backward"] = partial(build_upfirdn2d, RESAMPLINGS["2x up"], *around, True, True)
    for backward, said in ((False, "forward"), (True, "forward + backward")):
        builds[f"bipartite_attention mul, {said}"] = partial(build_attention, *around, backward)
        builds[f"attention_means over components, {said}"] = partial(build_means, "components", *around, backward)
        builds[f"attention_means over positions, {said}"] = partial(build_means, "positions", *around, backward)
    return [
        Case(group="operators", what=what, images=sizes.images, build=build, weight=3) for what, build in builds.items()
    ]


def build_bias_act(sizes: OperatorSizes, conditions: Conditions, backward: bool) -> Workload:
    """Bias, noise, activation and gain, as in a synthesis layer."""
    x = image(sizes, conditions, sizes.channels, backward)
    bias = torch.randn(sizes.channels, device=x.device, dtype=x.dtype, requires_grad=backward)
    noise = torch.randn(sizes.images, 1, *x.shape[2:], device=x.device, dtype=x.dtype)
    strength = torch.ones([], device=x.device, dtype=x.dtype, requires_grad=backward)

    def call() -> Tensor:
        return bias_act(x, bias, noise=noise, strength=strength, activation="lrelu")

    return Workload(run=with_gradients(call, (x, bias, strength), backward), rivals=lambda: copies_of(x))


def build_upfirdn2d(
    way: Resampling, sizes: OperatorSizes, conditions: Conditions, channels_last: bool, backward: bool
) -> Workload:
    """Resampling with the networks' filter of four taps."""
    x = image(sizes, conditions, sizes.channels, backward, channels_last=channels_last)
    kernel = binomial_filter().to(x.device)

    def call() -> Tensor:
        return upfirdn2d(x, kernel, up=way.up, down=way.down, padding=way.padding)

    def rivals() -> dict[str, Work]:
        line = torch.tensor((1.0, 3.0, 3.0, 1.0), device=x.device, dtype=x.dtype) / 8
        weight = torch.outer(line, line).expand(sizes.channels, 1, -1, -1).contiguous()
        plain = with_gradients(lambda: zeros_and_convolution(x, weight, way), (x,), backward)
        with torch.no_grad():
            target = torch.empty_like(call())
        return {"fill": Work(lambda: target.fill_(1), "reference"), "zeros + conv2d": Work(plain, "reference")}

    return Workload(run=with_gradients(call, (x,), backward), rivals=rivals)


def zeros_and_convolution(x: Tensor, weight: Tensor, way: Resampling) -> Tensor:
    """``upfirdn2d`` with a symmetric filter, the plain way: zeros that are stored and multiplied.

    Args:
        x: ``[B, C, H, W]``.
        weight: the filter for each channel, ``[C, 1, k, k]``.
        way: factors and padding.
    """
    if way.up > 1:
        batch, channels, height, width = x.shape
        spread = x.new_zeros(batch, channels, height * way.up, width * way.up)
        spread[:, :, :: way.up, :: way.up] = x
        x = spread
    return F.conv2d(F.pad(x, way.padding * 2), weight, stride=way.down, groups=len(weight))


def build_attention(sizes: OperatorSizes, conditions: Conditions, backward: bool) -> Workload:
    """The layer's pass over the image, without what is done to the components before."""
    x, keys = attended(sizes, conditions, backward)
    shape = (sizes.images, 1, sizes.components, sizes.features)
    values = torch.randn(shape, device=x.device, requires_grad=backward)
    value_bias = torch.ones(1, sizes.features, device=x.device, requires_grad=backward)

    def call() -> Tensor:
        return bipartite_attention(x, keys, values, value_bias)

    inputs = (x, keys.content, keys.bias, keys.place, values, value_bias)
    return Workload(run=with_gradients(call, inputs, backward), rivals=lambda: copies_of(x))


def build_means(over: Over, sizes: OperatorSizes, conditions: Conditions, backward: bool) -> Workload:
    """Centroids of k-means (over components), what duplex gathers (over positions)."""
    x, keys = attended(sizes, conditions, backward)

    def call() -> Tensor:
        return attention_means(x, keys, over=over).content

    inputs = (x, keys.content, keys.bias, keys.place)
    return Workload(run=with_gradients(call, inputs, backward), rivals=lambda: copies_of(x))


def attended(sizes: OperatorSizes, conditions: Conditions, backward: bool) -> tuple[Tensor, Keys]:
    """Features and keys of attention with one head."""
    x = image(sizes, conditions, sizes.features, backward).detach().flatten(2).requires_grad_(backward)
    shape = (sizes.images, 1, sizes.components)
    content = (torch.randn(*shape, sizes.features, device=x.device) / sizes.features**0.5).requires_grad_(backward)
    bias = torch.randn(shape, device=x.device, requires_grad=backward)
    positions = torch.randn(sizes.side**2, sizes.position, device=x.device)
    place = (torch.randn(*shape, sizes.position, device=x.device) / sizes.position**0.5).requires_grad_(backward)
    return x, Keys(content, bias, positions, place)


def image(
    sizes: OperatorSizes, conditions: Conditions, channels: int, backward: bool, *, channels_last: bool = True
) -> Tensor:
    """Random ``[B, C, H, W]``."""
    torch.manual_seed(0)
    shape = (sizes.images, channels, sizes.side, sizes.side)
    x = torch.randn(shape, device=conditions.device).to(conditions.dtype)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return x.contiguous(memory_format=layout).requires_grad_(backward)


def with_gradients(
    call: Callable[[], Tensor], inputs: tuple[Tensor | None, ...], backward: bool
) -> Callable[[], Tensor]:
    """``call`` without gradients; or with those by all of ``inputs`` of a random weighting of its result."""
    if not backward:
        return torch.no_grad()(call)
    wanted = [tensor for tensor in inputs if tensor is not None]
    gradient: Tensor | None = None

    def both() -> Tensor:
        nonlocal gradient
        result = call()
        if gradient is None:
            gradient = torch.randn_like(result)
        torch.autograd.grad(result, wanted, gradient, allow_unused=True)
        return result

    return both


# ----- Having them -----


class LoadTimes(NamedTuple):
    """Seconds until the native operators of the CPU can be called, on top of importing torch."""

    cold: float  # with an empty cache: they are built
    warm: float  # built before


_LOAD = """
import sys, time
import torch
start = time.perf_counter()
from ganformer_cli.operators import native
native.serves(torch.zeros(1))
sys.stdout.write(str(time.perf_counter() - start))
"""


def load_times() -> LoadTimes:
    """Build and load the operators in new processes and an empty cache.

    Raises:
        GanformerError: they cannot be built here.
    """
    with tempfile.TemporaryDirectory(prefix="ganformer-bench-") as folder:
        environment = {**os.environ, "GANFORMER_CACHE": folder, native.VARIABLE: "native"}
        environment.pop("GANFORMER_OPS_FOLDER", None)
        cold = _seconds_to_load(environment)
        return LoadTimes(cold, min(_seconds_to_load(environment) for _ in range(3)))


def _seconds_to_load(environment: Mapping[str, str]) -> float:
    # This program may be run from a checkout that is not installed.
    places = [path for path in sys.path if path]
    done = subprocess.run(
        [sys.executable, "-c", _LOAD],
        env={**environment, "PYTHONPATH": os.pathsep.join(places)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        timeout=SECONDS_TO_BUILD,
    )
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        raise GanformerError(said[-1] if said else f"status {done.returncode}")
    return float(done.stdout)
