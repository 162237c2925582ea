"""Calls of the operators as the networks make them, and how long it takes to build and to load them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ganformer_cli.benchmarks.measuring import Case, Conditions, Contender, Memory, Workload, copies_of
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
from ganformer_cli.operators.jobs import SECONDS_TO_BUILD

#: How the networks call upfirdn2d, before a convolution of stride 2 and instead of one: up, down, padding.
RESAMPLINGS = {"2x up": (2, 1, (2, 1)), "2x down": (1, 2, (1, 1)), "filter": (1, 1, (2, 2))}


@dataclass(frozen=True, kw_only=True)
class OperatorSizes:
    """Of the images that the operators are called with: by default those of a generator's 128 × 128 block."""

    images: int = 4
    side: int = 128
    channels: int = 128  # of bias_act and upfirdn2d
    features: int = 256  # d, of attention
    components: int = 16  # m
    position: int = 32  # p


@dataclass(frozen=True, kw_only=True)
class OperatorInputs:
    """Random tensors of these sizes, whose gradients are wanted if ``backward``."""

    conditions: Conditions
    sizes: OperatorSizes
    backward: bool

    def random(self, *size: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> Tensor:
        """Normal numbers; channels-last if they are an image's."""
        values = (torch.randn(size, device=self.conditions.device) * scale).to(dtype)
        values = values.contiguous(memory_format=torch.channels_last) if len(size) == 4 else values
        return values.requires_grad_(self.backward)

    def image(self, channels: int) -> Tensor:
        """``[B, C, H, W]``."""
        torch.manual_seed(0)
        return self.random(self.sizes.images, channels, self.sizes.side, self.sizes.side, dtype=self.conditions.dtype)

    def workload(
        self,
        call: Callable[[], Tensor],
        inputs: Sequence[Tensor | None],
        baselines: Callable[[], dict[str, Contender]] | None = None,
    ) -> Workload:
        """``call``, with gradients by ``inputs`` if they are wanted, against copies of the first input."""
        x = inputs[0]
        assert x is not None
        run = Contender(call=with_gradients(call, inputs, self.backward), with_memory=True)
        return Workload(run=run, baselines=baselines or (lambda: copies_of(x)))


def operator_cases(conditions: Conditions, sizes: OperatorSizes) -> list[Case]:
    """The operators by themselves, as the networks call them."""
    builds: dict[str, Callable[[], Workload]] = {}
    for backward, passes in ((False, "forward"), (True, "forward + backward")):
        given = OperatorInputs(conditions=conditions, sizes=sizes, backward=backward)
        builds[f"bias_act lrelu with noise, {passes}"] = partial(build_bias_act, given)
        for name in ("2x up",) if backward else RESAMPLINGS:
            builds[f"upfirdn2d {name}, {passes}"] = partial(build_upfirdn2d, given, name)
        builds[f"upfirdn2d 2x up, contiguous, {passes}"] = partial(build_upfirdn2d, given, "2x up", contiguous=True)
        builds[f"bipartite_attention mul, {passes}"] = partial(build_attention, given)
        for over in ("components", "positions"):
            builds[f"attention_means over {over}, {passes}"] = partial(build_means, given, over)
    return [
        Case(group="operators", what=what, images=sizes.images, build=build, weight=3) for what, build in builds.items()
    ]


def build_bias_act(given: OperatorInputs) -> Workload:
    """Bias, noise, activation and gain, as in a synthesis layer."""
    x = given.image(given.sizes.channels)
    bias = given.random(given.sizes.channels, dtype=x.dtype)
    noise = torch.randn(given.sizes.images, 1, *x.shape[2:], device=x.device, dtype=x.dtype)
    strength = torch.ones([], device=x.device, dtype=x.dtype, requires_grad=given.backward)
    return given.workload(
        lambda: bias_act(x, bias, noise=noise, strength=strength, activation="lrelu"), (x, bias, strength)
    )


def build_upfirdn2d(given: OperatorInputs, name: str, *, contiguous: bool = False) -> Workload:
    """Resampling with the networks' filter of four taps; also by inserted zeros and a convolution, the plain way."""
    up, down, padding = RESAMPLINGS[name]
    x = given.image(given.sizes.channels)
    if contiguous:
        x = x.detach().contiguous().requires_grad_(given.backward)
    kernel = binomial_filter().to(x.device)

    def call() -> Tensor:
        return upfirdn2d(x, kernel, up=up, down=down, padding=padding)

    def baselines() -> dict[str, Contender]:
        line = torch.tensor((1.0, 3.0, 3.0, 1.0), device=x.device, dtype=x.dtype) / 8
        weight = torch.outer(line, line).expand(x.shape[1], 1, -1, -1).contiguous()
        plain = with_gradients(lambda: zeros_and_convolution(x, weight, up, down, padding), (x,), given.backward)
        with torch.no_grad():
            target = torch.empty_like(call())
        return {"fill": Contender(call=lambda: target.fill_(1)), "zeros + conv2d": Contender(call=plain)}

    return given.workload(call, (x,), baselines)


def zeros_and_convolution(x: Tensor, weight: Tensor, up: int, down: int, padding: tuple[int, int]) -> Tensor:
    """``upfirdn2d`` of ``x [B, C, H, W]`` with zeros that are stored; ``weight [C, 1, k, k]`` is a symmetric filter."""
    if up > 1:
        batch, channels, height, width = x.shape
        spread = x.new_zeros(batch, channels, height * up, width * up)
        spread[:, :, ::up, ::up] = x
        x = spread
    return F.conv2d(F.pad(x, padding * 2), weight, stride=down, groups=len(weight))


def build_attention(given: OperatorInputs) -> Workload:
    """The layer's pass over the image, without what is done to the components before."""
    x, keys = attended(given)
    values = given.random(1, given.sizes.components, given.sizes.features)[None].expand(given.sizes.images, -1, -1, -1)
    value_bias = given.random(1, given.sizes.features)
    inputs = (x, keys.content, keys.bias, keys.place, values, value_bias)
    return given.workload(lambda: bipartite_attention(x, keys, values, value_bias), inputs)


def build_means(given: OperatorInputs, over: Literal["components", "positions"]) -> Workload:
    """Centroids of k-means (over components), what duplex gathers (over positions)."""
    x, keys = attended(given)
    inputs = (x, keys.content, keys.bias, keys.place)
    return given.workload(lambda: attention_means(x, keys, over=over).content, inputs)


def attended(given: OperatorInputs) -> tuple[Tensor, Keys]:
    """Features ``[B, d, n]`` and keys of attention with one head."""
    sizes = given.sizes
    x = given.image(sizes.features).detach().flatten(2).requires_grad_(given.backward)

    def keys(*size: int, scale: float = 1.0) -> Tensor:
        values = torch.randn(sizes.images, 1, *size, device=x.device) * scale
        return values.requires_grad_(given.backward)

    content = keys(sizes.components, sizes.features, scale=sizes.features**-0.5)
    place = keys(sizes.components, sizes.position, scale=sizes.position**-0.5)
    positions = torch.randn(sizes.side**2, sizes.position, device=x.device)
    return x, Keys(content, keys(sizes.components), positions, place)


def with_gradients(call: Callable[[], Tensor], inputs: Sequence[Tensor | None], backward: bool) -> Callable[[], Tensor]:
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


# ----- Building and loading them -----

_LOAD = """
import sys, time
import torch
start = time.perf_counter()
from ganformer_cli.operators import native
native.serves(torch.zeros(1))
sys.stdout.write(str(time.perf_counter() - start))
"""


def build_cases() -> list[Case]:
    """Loading the native operators of the CPU in a new process, on top of importing torch, against building them."""
    return [Case(group="build", what="load the native operators", images=0, build=build_load, weight=60)]


def build_load() -> Workload:
    """Loads them from a cache that they were built into before; builds them into an empty one."""
    resources = contextlib.ExitStack()
    folder = resources.enter_context(tempfile.TemporaryDirectory(prefix="ganformer-bench-"))

    def measure(*, empty: bool) -> tuple[float, Memory | None]:
        return seconds_to_load(Path(tempfile.mkdtemp(dir=folder) if empty else folder)), None

    measure(empty=False)
    building = Contender(measure=partial(measure, empty=True), max_rounds=2)
    run = Contender(measure=partial(measure, empty=False))
    baselines = {"building them": building}
    return Workload(run=run, baselines=lambda: baselines, has_operators=False, resources=resources)


def seconds_to_load(cache: Path) -> float:
    """Seconds until the operators of the CPU can be called in a new process; built first if ``cache`` has none.

    Raises:
        GanformerError: they cannot be built here.
    """
    environment = {**os.environ, "GANFORMER_CACHE": str(cache), native.VARIABLE: "native"}
    environment.pop("GANFORMER_OPS_FOLDER", None)
    # This program may be run from a checkout that is not installed.
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-c", _LOAD],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        timeout=SECONDS_TO_BUILD,
    )
    if done.returncode != 0:
        raise GanformerError(next(reversed(done.stderr.strip().splitlines()), f"status {done.returncode}"))
    return float(done.stdout)
