"""Calls of the operators as the networks make them, and how long it takes to build and to load them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ganformer_cli.benchmarks.measuring import (
    Case,
    Conditions,
    Contender,
    Memory,
    Workload,
    copies_of,
    temporary_folder,
)
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
class LayerSizes:
    """Sizes of what operators and layers are called with: by default those of a generator's 128 × 128 block."""

    images: int = 4
    side: int = 128  # n = side²
    channels: int = 128  # of bias_act and upfirdn2d
    features: int = 256  # d, of attention
    components: int = 16  # m
    component: int = 32  # w and p


@dataclass(frozen=True, kw_only=True)
class OperatorInputs:
    """Random tensors of these sizes, whose gradients are wanted if ``backward``."""

    conditions: Conditions
    sizes: LayerSizes
    backward: bool

    def random(self, *size: int, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> Tensor:
        """Normal numbers."""
        values = (torch.randn(size, device=self.conditions.device) * scale).to(dtype)
        return values.requires_grad_(self.backward)

    def image(self, channels: int, layout: torch.memory_format = torch.channels_last) -> Tensor:
        """``[B, C, H, W]``."""
        torch.manual_seed(0)
        side = self.sizes.side
        x = torch.randn(self.sizes.images, channels, side, side, device=self.conditions.device)
        return x.to(self.conditions.dtype).contiguous(memory_format=layout).requires_grad_(self.backward)

    def attended(self) -> tuple[Tensor, Keys]:
        """Features ``[B, d, n]`` and keys of attention with one head."""
        sizes = self.sizes
        x = self.image(sizes.features).detach().flatten(2).requires_grad_(self.backward)
        one_head = partial(self.random, sizes.images, 1, sizes.components)
        content = one_head(sizes.features, scale=sizes.features**-0.5)
        place = one_head(sizes.component, scale=sizes.component**-0.5)
        positions = torch.randn(sizes.side**2, sizes.component, device=x.device)
        return x, Keys(content, one_head(), positions, place)

    def workload(
        self,
        call: Callable[[], Tensor],
        inputs: Sequence[Tensor | None],
        baselines: Iterable[tuple[str, Contender]] | None = None,
    ) -> Workload:
        """``call``, with gradients by ``inputs`` if they are wanted, against copies of the first input."""
        x = inputs[0]
        assert x is not None
        run = Contender(call=with_gradients(call, inputs, self.backward), with_memory=True)
        return Workload(run=run, baselines=copies_of(x) if baselines is None else baselines)


def operator_cases(conditions: Conditions, sizes: LayerSizes) -> list[Case]:
    """The operators by themselves, as the networks call them."""
    builds: dict[str, Callable[[], Workload]] = {}
    for backward, passes in ((False, "forward"), (True, "forward + backward")):
        given = OperatorInputs(conditions=conditions, sizes=sizes, backward=backward)
        builds[f"bias_act lrelu with noise, {passes}"] = partial(build_bias_act, given)
        for name in ("2x up",) if backward else RESAMPLINGS:
            builds[f"upfirdn2d {name}, {passes}"] = partial(build_upfirdn2d, given, name)
        contiguous = partial(build_upfirdn2d, given, "2x up", torch.contiguous_format)
        builds[f"upfirdn2d 2x up, contiguous, {passes}"] = contiguous
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


def build_upfirdn2d(given: OperatorInputs, name: str, layout: torch.memory_format = torch.channels_last) -> Workload:
    """Resampling with the networks' filter of four taps; also by inserted zeros and a convolution, the plain way."""
    up, down, padding = RESAMPLINGS[name]
    x = given.image(given.sizes.channels, layout)
    kernel = binomial_filter().to(x.device)

    def call() -> Tensor:
        return upfirdn2d(x, kernel, up=up, down=down, padding=padding)

    def baselines() -> Iterator[tuple[str, Contender]]:
        with torch.no_grad():
            target = torch.empty_like(call())
        yield "fill", Contender(call=lambda: target.fill_(1))
        line = torch.tensor((1.0, 3.0, 3.0, 1.0), device=x.device, dtype=x.dtype) / 8
        weight = torch.outer(line, line).expand(x.shape[1], 1, -1, -1).contiguous()
        plain = partial(zeros_and_convolution, x, weight, up, down, padding)
        yield "zeros + conv2d", Contender(call=with_gradients(plain, (x,), given.backward))

    return given.workload(call, (x,), baselines())


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
    x, keys = given.attended()
    values = given.random(1, given.sizes.components, given.sizes.features)[None].expand(given.sizes.images, -1, -1, -1)
    value_bias = given.random(1, given.sizes.features)
    inputs = (x, keys.content, keys.bias, keys.place, values, value_bias)
    return given.workload(lambda: bipartite_attention(x, keys, values, value_bias), inputs)


def build_means(given: OperatorInputs, over: Literal["components", "positions"]) -> Workload:
    """Centroids of k-means (over components), what duplex gathers (over positions)."""
    x, keys = given.attended()
    inputs = (x, keys.content, keys.bias, keys.place)
    return given.workload(lambda: attention_means(x, keys, over=over).content, inputs)


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
    resources, folder = temporary_folder()

    def loading() -> tuple[float, Memory | None]:
        return seconds_to_load(folder), None

    def building() -> tuple[float, Memory | None]:
        return seconds_to_load(Path(tempfile.mkdtemp(dir=folder))), None

    loading()
    baselines = [("building them", Contender(measure=building, max_rounds=2))]
    return Workload(run=Contender(measure=loading), baselines=baselines, has_operators=False, resources=resources)


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
