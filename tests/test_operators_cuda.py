"""The CUDA kernels: that they compile, and what they compute.

Where there is no GPU a C++ compiler builds them against ``cuda_on_cpu.h``, which runs every block with all its threads
on the CPU, behind the same bindings. The same tests run on a GPU where there is one.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from ganformer_cli.config import Integration, Normalization
from ganformer_cli.errors import GanformerError
from ganformer_cli.operators import native
from ganformer_cli.operators.attention import (
    Keys,
    Over,
    attention_means_reference,
    bipartite_attention_reference,
)
from ganformer_cli.operators.bias_act import ACTIVATION_GAIN, LRELU_SLOPE, Activation, bias_act_reference
from ganformer_cli.operators.upfirdn2d import upfirdn2d_reference

ROOT = Path(__file__).resolve().parent.parent
MEMORY = (227 * 1024, 228 * 1024)  # bytes of shared memory: of a block, of all blocks of a multiprocessor
HALVES = (torch.bfloat16, torch.float16)


def run_all(commands: list[list[str]], folder: Path) -> None:
    """Side by side; fails with what the first one that fails says."""

    def run(words: list[str]) -> None:
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stderr[:5000]}"

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, commands))


def kept_folder(config: pytest.Config, otherwise: Path) -> Path:
    """What is compiled here is kept there between runs, if pytest keeps anything."""
    cache = getattr(config, "cache", None)
    return Path(cache.mkdir("cuda_on_cpu")) if cache else otherwise


def digest_of(files: list[Path], *flags: str) -> str:
    return hashlib.sha256(
        b"".join([*(path.read_bytes() for path in sorted(files)), *map(str.encode, flags)])
    ).hexdigest()[:16]


def kernel_sources() -> list[Path]:
    """The longest first: they are compiled side by side."""
    return sorted((ROOT / "ops").glob("*.cu"), key=lambda path: -path.stat().st_size)


def schemas() -> list[str]:
    """What the CPU library defines, as its sources have it."""
    found = []
    for path in (ROOT / "ops").glob("*.cpp"):
        for text in re.findall(r'm\.def\(((?:\s*"[^"]*")+)\)', path.read_text(encoding="utf-8")):
            found.append("".join(re.findall(r'"([^"]*)"', text)))
    return found


# ----- Machines that the kernels run on -----


@dataclass(frozen=True)
class Machine:
    """A GPU, or a CPU that stands in for one."""

    device: str
    operators: Any  # torch.ops.…
    emulate: Callable[[int, int, int], None] | None  # shared memory of a block, of all; order of the threads

    def call(self, name: str, *arguments: Any) -> Any:
        """The operator's results on the CPU, for arguments on the CPU."""
        there = [argument.to(self.device) if isinstance(argument, Tensor) else argument for argument in arguments]
        found = native.call(getattr(self.operators, name), *there)
        return found.cpu() if isinstance(found, Tensor) else [tensor.cpu() for tensor in found]


@pytest.fixture(scope="session")
def emulated(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """The CPU as a GPU; its library is kept between runs."""
    compiler = shutil.which("g++")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs g++ on Linux to run the CUDA kernels on the CPU")
    work = tmp_path_factory.mktemp("cuda_on_cpu")
    folder = kept_folder(pytestconfig, work)
    includes = Path(torch.__path__[0]) / "include"
    flags = ["-x", "c++", "-std=c++17", "-O1", "-fPIC", "-w", "-U_FORTIFY_SOURCE", "-fsanitize=alignment"]
    flags += ["-DGANFORMER_CUDA_ON_CPU", "-DTORCH_TARGET_VERSION=0x020a000000000000"]
    sources = [*kernel_sources(), ROOT / "ops" / "cuda_bindings.cpp"]
    read = [*sources, *(ROOT / "ops").glob("cuda_*.h"), ROOT / "ops" / "errors.h", ROOT / "tests" / "cuda_on_cpu.h"]
    library = folder / f"{digest_of(read, *flags)}-{torch.__version__}.so"
    if not library.exists():
        words = [compiler, *flags, f"-I{ROOT / 'tests'}", "-isystem", str(includes), "-c"]
        run_all([[*words, str(source), "-o", f"{source.name}.o"] for source in sources], work)
        link = [compiler, "-shared", *(f"{source.name}.o" for source in sources), "-o", "made.so"]
        run_all([[*link, f"-L{includes.parent / 'lib'}", "-ltorch_cpu", "-lc10"]], work)
        for old in folder.glob("*-*.so"):
            old.unlink()
        if work != folder:  # perhaps on another file system
            shutil.copyfile(work / "made.so", folder / "made.so")
        (folder / "made.so").replace(library)
    operators = torch.library.Library("ganformer_cuda_on_cpu", "DEF")
    for schema in schemas():
        operators.define(schema)
    torch.ops.load_library(str(library))
    emulate = ctypes.CDLL(str(library)).ganformer_emulate
    emulate.argtypes = [ctypes.c_int64, ctypes.c_int64, ctypes.c_int]
    pytestconfig.stash[_DEFINED] = operators  # they live as long as this object
    return Machine("cpu", torch.ops.ganformer_cuda_on_cpu, emulate)


_DEFINED = pytest.StashKey[torch.library.Library]()


@pytest.fixture(scope="session")
def gpu() -> Machine:
    """The real one."""
    status = native.status("cuda")
    assert status.native, status.reason
    return Machine("cuda", torch.ops.ganformer, None)


# Compiling the kernels for the CPU takes half a minute.
@pytest.fixture(params=[pytest.param("emulated", marks=pytest.mark.slow), pytest.param("gpu", marks=pytest.mark.gpu)])
def machine(request: pytest.FixtureRequest) -> Machine:
    found: Machine = request.getfixturevalue(request.param)
    return found


@contextlib.contextmanager
def emulation(machine: Machine, a_block: int = MEMORY[0], together: int = MEMORY[1], order: int = 0) -> Iterator[None]:
    """Another GPU: bytes of shared memory, of a block and of all blocks of a multiprocessor; order of the threads."""
    assert machine.emulate
    machine.emulate(a_block, together, order)
    try:
        yield
    finally:
        machine.emulate(*MEMORY, 0)


# ----- Comparing -----


def assert_as_good(found: Tensor, plain: Tensor, truth: Tensor, what: str) -> None:
    """At most twice the error of plain torch in the same precision, both against float64; never NaN."""
    assert found.shape == truth.shape, what
    scale = truth.norm() + 1e-30
    ours, theirs = (found.double() - truth).norm() / scale, (plain.double() - truth).norm() / scale
    rounding = torch.finfo(found.dtype).eps
    assert ours <= 2 * theirs + 2 * rounding, f"{what}: {ours:.2e}, plain torch {theirs:.2e}"


def laid_out(x: Tensor, last: bool) -> Tensor:
    """``x [B, C, ...]`` contiguous or channels-last."""
    return x.movedim(1, -1).contiguous().movedim(-1, 1) if last else x.contiguous()


def evaluate(
    form: Callable[..., list[Tensor]], inputs: list[Tensor | None], ways: list[Tensor], dtype: torch.dtype | None = None
) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs of ``form`` and the gradients of ``Σ outputs · ways``, for the inputs that are there; in ``dtype``."""
    given = [None if tensor is None else tensor.detach().to(dtype or tensor.dtype) for tensor in inputs]
    leaves = [tensor.requires_grad_() for tensor in given if tensor is not None]
    outputs = form(*given)
    found = torch.autograd.grad(
        outputs, leaves, [way.to(output.dtype) for way, output in zip(ways, outputs, strict=True)]
    )
    return [output.detach() for output in outputs], list(found)


# ----- Bipartite attention -----


@dataclass(frozen=True)
class Sizes:
    """Of an attention layer, and how its tensors lie."""

    batch: int = 2
    channels: int = 20
    pixels: int = 37
    heads: int = 1
    components: int = 5
    width: int = 0  # of a position
    shared: bool = False  # keys and values are the same for all pictures
    dtype: torch.dtype = torch.float32
    last: bool = True


class Style(NamedTuple):
    """How the image is changed."""

    integration: Integration = "mul"
    normalization: Normalization = "layer"
    dropout: float = 0.0


def draw(sizes: Sizes, outputs: int) -> list[Tensor | None]:
    """x, keys, key_bias, positions, position_keys, values and value_bias."""
    torch.manual_seed(sizes.channels * 1000 + sizes.pixels)
    batch = 1 if sizes.shared else sizes.batch
    rows = (sizes.heads, sizes.components)
    x = laid_out(torch.randn(sizes.batch, sizes.channels, sizes.pixels) + 0.5, sizes.last).to(sizes.dtype)
    keys = torch.randn(batch, *rows, sizes.channels) / max(sizes.channels, 1) ** 0.5
    positions = torch.randn(sizes.pixels, sizes.width) if sizes.width else None
    position_keys = torch.randn(batch, *rows, sizes.width) / 3 if sizes.width else None
    values = torch.randn(sizes.batch, *rows, outputs)
    # A layer's bias is shared, and holds the 1 of "1 + g".
    return [x, keys, torch.randn(1, *rows), positions, position_keys, values, torch.randn(1, outputs) + 1]


SEED = torch.tensor(0x123456789ABCDEF)

STYLES = [
    *(Style(), Style(dropout=0.3), Style("mul", "none"), Style("add", "layer", 0.3), Style("add", "none")),
    *(Style("both", "layer"), Style("both", "layer", 0.3), Style("both", "none", 0.3)),
]

SIZES = [
    Sizes(),
    Sizes(last=False, width=3, shared=True),
    Sizes(batch=1, channels=3, pixels=1, components=1, last=False),
    Sizes(channels=72, pixels=70, heads=2, components=33, width=16),
    Sizes(channels=64, pixels=68, heads=3, components=4, last=False),
    Sizes(channels=16, pixels=130, dtype=torch.bfloat16),
    Sizes(channels=33, pixels=35, width=5, dtype=torch.float16, last=False),
    Sizes(batch=3, channels=8, pixels=64, dtype=torch.bfloat16, last=False, shared=True),
    Sizes(channels=136, pixels=40, width=4, dtype=torch.float16),
]


def name_of(sizes: Sizes) -> str:
    """What differs from the defaults."""
    changed = [(name, value) for name, value in vars(sizes).items() if value != getattr(Sizes(), name)]
    return " ".join(f"{name}={value}" for name, value in changed) or "defaults"


def attend(style: Style) -> Callable[..., list[Tensor]]:
    """The operator in plain torch."""

    def form(x: Tensor, *rest: Any) -> list[Tensor]:
        *keys, values, value_bias = rest
        seed = SEED if style.dropout else None
        return [bipartite_attention_reference(x, Keys(*keys), values, value_bias, *style, seed)]

    return form


def run_attention(machine: Machine, sizes: Sizes, style: Style) -> tuple[list[Tensor | None], Tensor, list[Tensor]]:
    """Inputs, result and gradients."""
    inputs = draw(sizes, sizes.channels * (2 if style.integration == "both" else 1))
    seed = SEED if style.dropout else None
    way = laid_out(torch.randn(sizes.batch, sizes.channels, sizes.pixels), sizes.last).to(sizes.dtype)
    out = machine.call("bipartite_attention", *inputs, *style, seed)
    found = machine.call("bipartite_attention_backward", way, *inputs, *style, seed, True)
    return inputs, out, [way, *found]


NAMES = ("x", "keys", "key_bias", "positions", "position_keys", "values", "value_bias")


@pytest.mark.parametrize("style", STYLES, ids=lambda style: "-".join(map(str, style)))
@pytest.mark.parametrize("sizes", SIZES, ids=name_of)
def test_attention(machine: Machine, sizes: Sizes, style: Style) -> None:
    inputs, out, (way, *found) = run_attention(machine, sizes, style)
    compare_attention(style, inputs, out, way, found)


def compare_attention(style: Style, inputs: list[Tensor | None], out: Tensor, way: Tensor, found: list[Tensor]) -> None:
    form = attend(style)
    plain, plain_gradients = evaluate(form, inputs, [way])
    truth, true_gradients = evaluate(form, inputs, [way], torch.float64)
    assert out.dtype == way.dtype
    assert out.stride() == way.stride()
    assert_as_good(out, plain[0], truth[0], "out")
    there = [(name, tensor) for name, given, tensor in zip(NAMES, inputs, found, strict=True) if given is not None]
    for (name, tensor), theirs, exact in zip(there, plain_gradients, true_gradients, strict=True):
        assert_as_good(tensor, theirs, exact, f"gradient of {name}")


# Memory of a block and of all; the second leaves room for a part of the channels, the third not even for the scores.
MEMORIES = [(60_000, 120_000), (14_000, 100_000), (4_500, 100_000)]


@pytest.mark.slow
@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("last", [True, False], ids=["channels-last", "contiguous"])
def test_attention_with_less_memory(emulated: Machine, memory: tuple[int, int], last: bool) -> None:
    sizes = Sizes(channels=200, pixels=70, heads=2, components=9, width=5, last=last)
    with emulation(emulated, *memory):
        for style in (Style("both", "layer", 0.3), Style("mul", "layer")):
            inputs, out, (way, *found) = run_attention(emulated, sizes, style)
            compare_attention(style, inputs, out, way, found)
        for over in OVER:
            compare_means(emulated, sizes, over)


# ----- Means -----

OVER: tuple[Over, ...] = ("components", "positions")


@pytest.mark.parametrize("over", OVER)
@pytest.mark.parametrize("sizes", SIZES, ids=name_of)
def test_means(machine: Machine, sizes: Sizes, over: Over) -> None:
    compare_means(machine, sizes, over)


def compare_means(machine: Machine, sizes: Sizes, over: Over) -> None:
    x, keys, bias, positions, place, *_ = inputs = draw(sizes, 1)[:5]
    number = OVER.index(over)
    content, placed, total, logsumexp = machine.call("attention_means", *inputs, number)
    outputs = [content, total, placed][: 2 + bool(sizes.width)]
    ways = [torch.randn_like(output) for output in outputs]
    way_placed = ways[2] if sizes.width else placed
    found = machine.call(
        "attention_means_backward", ways[0], way_placed, ways[1], *inputs, content, placed, logsumexp, number, True
    )

    def form(x: Tensor, keys: Tensor, bias: Tensor, positions: Any = None, place: Any = None) -> list[Tensor]:
        means = attention_means_reference(x, Keys(keys, bias, positions, place), over)
        return [means.content, means.total] if means.place is None else [means.content, means.total, means.place]

    plain, plain_gradients = evaluate(form, inputs, ways)
    truth, true_gradients = evaluate(form, inputs, ways, torch.float64)
    for name, output, theirs, exact in zip(("content", "total", "place"), outputs, plain, truth, strict=False):
        assert_as_good(output, theirs, exact, name)
    there = [(name, tensor) for name, given, tensor in zip(NAMES, inputs, found, strict=False) if given is not None]
    for (name, tensor), theirs, exact in zip(there, plain_gradients, true_gradients, strict=True):
        if exact.norm() < 1e-10:  # the softmax takes it away: what is left is rounding
            assert tensor.abs().max() < 1e-4, f"gradient of {name}"
        else:
            assert_as_good(tensor, theirs, exact, f"gradient of {name}")


# ----- Bias and activation -----


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
@pytest.mark.parametrize("last", [True, False], ids=["channels-last", "contiguous"])
@pytest.mark.parametrize(
    "shape", [(2, 24, 5, 7), (3, 4, 8, 8), (1, 1, 1, 1), (5, 33), (2, 3, 130), (1, 2, 96, 99), (2, 520, 3, 2)], ids=str
)
def test_bias_act(machine: Machine, shape: tuple[int, ...], last: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = laid_out(torch.randn(shape), last).to(dtype)
    way = laid_out(torch.randn(shape), last).to(dtype)
    bias = torch.randn(shape[1])
    for activation, gain, clamp, noise_batch in ((1, 2**0.5, -1.0, 0), (1, 1.0, 0.5, 1), (0, 0.5, 0.3, shape[0])):
        rule = (activation, gain, clamp)
        kind: Activation = "lrelu" if activation else "linear"
        noise = torch.randn(noise_batch, 1, *shape[2:]).to(dtype) if noise_batch else None
        strength = torch.tensor(0.7) if noise_batch else None
        out = machine.call("bias_act", x, bias, noise, strength, *rule)
        dx, dbias, dstrength = machine.call("bias_act_backward", way, out, noise, strength, True, *rule)
        assert out.stride() == dx.stride() == x.stride()
        settings: dict[str, Any] = {"activation": kind, "gain": gain / ACTIVATION_GAIN[kind]}
        settings["clamp"] = None if clamp < 0 else clamp
        plain, exact = (
            bias_act_reference(x.to(to), bias, noise=noise, strength=strength, **settings)
            for to in (dtype, torch.float64)
        )
        assert_as_good(out, plain, exact, "out")
        # The derivative of what came out: numbers at a corner of the activation may round to either side.
        slope = torch.where(out > 0, 1.0, LRELU_SLOPE if activation else 1.0).double() * gain
        limit = torch.tensor(clamp).to(dtype)
        slope = torch.where((clamp >= 0) & (out.abs() >= limit), 0, slope)
        truth = way.double() * slope
        assert_as_good(dx, truth.to(dtype), truth, "dx")
        axes = [axis for axis in range(x.ndim) if axis != 1]
        size = truth.square().sum(axes).sqrt() * 2e-6
        assert bool(((dbias - truth.sum(axes)).abs() <= size + 1e-6).all())
        if noise is not None:
            weighted = truth * noise.double()
            assert abs(dstrength - weighted.sum()) <= 2e-6 * weighted.norm() + 1e-6
        else:
            assert dstrength.shape == (0,)


# ----- Resampling -----


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
@pytest.mark.parametrize("last", [True, False], ids=["channels-last", "contiguous"])
@pytest.mark.parametrize("channels", [3, 40])
def test_upfirdn2d(machine: Machine, channels: int, last: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = laid_out(torch.randn(2, channels, 9, 13), last).to(dtype)
    for length, up, down, padding in (
        (1, 1, 1, (0, 0)), (2, 2, 1, (1, 0)), (3, 1, 2, (1, 1)), (4, 2, 1, (2, 1)), (4, 1, 2, (1, 1)),
        (4, 1, 1, (1, 2)), (5, 3, 2, (4, 4)), (6, 1, 1, (-1, -2)), (7, 2, 3, (3, -2)), (12, 2, 1, (6, 5)),
        (2, 5, 1, (0, 3)), (11, 1, 4, (7, 3)),
    ):  # fmt: skip
        for kernel in (torch.rand(length), torch.rand(length, length + 1)):
            compare_upfirdn2d(machine, x, kernel, up, down, padding)


def compare_upfirdn2d(machine: Machine, x: Tensor, taps: Tensor, up: int, down: int, padding: tuple[int, int]) -> None:
    kernel = taps / taps.sum()
    settings: dict[str, Any] = {"up": up, "down": down, "padding": padding, "gain": 2.0}
    truth = upfirdn2d_reference(x.double(), kernel.double(), **settings)
    before = padding[0]
    size = (up, down, before, before, *truth.shape[2:])
    out = machine.call("upfirdn2d", x, kernel, *size, False, 2.0)
    assert out.is_contiguous() == x.is_contiguous() or out.numel() == 0 or out.shape[1] == 1
    plain = upfirdn2d_reference(x.float(), kernel, **settings).to(x.dtype)
    assert_as_good(out, plain, truth, f"{kernel.shape} {settings}")
    flipped = machine.call("upfirdn2d", x, kernel.flip(*range(kernel.ndim)), *size, True, 2.0)
    assert torch.equal(flipped, out)


@pytest.mark.slow
def test_upfirdn2d_large(machine: Machine) -> None:
    """Several tiles along each axis; a filter that no tile can hold."""
    torch.manual_seed(0)
    for last in (True, False):
        x = laid_out(torch.randn(1, 34, 40, 70), last)
        compare_upfirdn2d(machine, x, torch.rand(4), 2, 1, (2, 1))
        compare_upfirdn2d(machine, x, torch.rand(4), 1, 2, (1, 1))
        compare_upfirdn2d(machine, laid_out(x[:, :17, :5, :5], last), torch.rand(120), 1, 12, (119, 119))


# ----- Threads, odd numbers, wrong arguments -----


@pytest.mark.slow
def test_no_result_depends_on_the_order_of_the_threads(emulated: Machine) -> None:
    """As it would if a barrier were missing."""

    def everything() -> list[Tensor]:
        found: list[Tensor] = []
        for last in (True, False):
            sizes = Sizes(channels=72, pixels=70, heads=2, components=9, width=5, last=last)
            for style in (Style("both", "layer", 0.3), Style("mul", "layer")):
                _, out, rest = run_attention(emulated, sizes, style)
                found += [out, *rest]
            x, *keys = draw(sizes, 1)[:5]
            for over in (0, 1):
                means = emulated.call("attention_means", x, *keys, over)
                content, place, total, logsumexp = means
                given = (content, place, total, x, *keys, content, place, logsumexp, over, True)
                found += [*means, *emulated.call("attention_means_backward", *given)]
            image = laid_out(torch.randn(2, 40, 9, 20), last)
            found.append(emulated.call("upfirdn2d", image, torch.rand(4), 2, 1, 2, 2, 18, 40, False, 1.0))
            noise, strength = torch.randn(2, 1, 9, 20), torch.tensor(1.0)
            found += emulated.call("bias_act_backward", image, image, noise, strength, True, 1, 1.0, -1.0)
        return found

    first = everything()
    for order in (1, 2):
        with emulation(emulated, order=order):
            for one, other in zip(first, everything(), strict=True):
                assert torch.equal(one, other)


def test_nan_stays_where_it_is(machine: Machine) -> None:
    """A picture's pixel that is NaN makes no other pixel NaN, and does not become a number."""
    x, *rest = draw(Sizes(), 20)
    assert x is not None
    x[1, 4, 7] = torch.nan
    out = machine.call("bipartite_attention", x, *rest, "mul", "layer", 0.0, None)
    assert out[1, :, 7].isnan().all()
    assert int(out.isnan().sum()) == out.shape[1]
    content = machine.call("attention_means", x, *rest[:4], 1)[0]
    assert content[1].isnan().all()
    assert not content[0].isnan().any()
    found = machine.call("bias_act", x, torch.zeros(20), None, None, 1, 1.0, 0.5)
    assert torch.equal(found.isnan(), x.isnan())


def test_nothing_gives_nothing(machine: Machine) -> None:
    """Batches of 0 and images without pixels: results that are empty, gradients that are 0."""
    for sizes in (Sizes(batch=0), Sizes(pixels=0, width=3), Sizes(batch=0, shared=True, width=3)):
        inputs = draw(sizes, sizes.channels)
        x = inputs[0]
        assert x is not None
        out = machine.call("bipartite_attention", *inputs, *Style(), None)
        assert out.shape == x.shape
        found = machine.call("bipartite_attention_backward", x, *inputs, *Style(), None, True)
        means = machine.call("attention_means", *inputs[:5], 0)
        content, place, total, logsumexp = means
        given = (content, place, total, *inputs[:5], content, place, logsumexp, 0, True)
        found += [*means, *machine.call("attention_means_backward", *given)]
        assert all(not tensor.any() for tensor in found)
    empty = torch.zeros(0, 3, 4, 4)
    assert machine.call("bias_act", empty, torch.ones(3), None, None, 1, 1.0, -1.0).shape == empty.shape
    _, dbias, _ = machine.call("bias_act_backward", empty, empty, None, None, True, 1, 1.0, -1.0)
    assert torch.equal(dbias, torch.zeros(3))
    assert machine.call("upfirdn2d", empty, torch.ones(1), 1, 1, 0, 0, 4, 4, False, 1.0).shape == empty.shape


KEYS = (torch.ones(2, 1, 3, 4), torch.ones(2, 1, 3), None, None)
VALUES = (torch.ones(2, 1, 3, 4), torch.ones(1, 4), "mul", "layer", 0.0, None)
FEATURES = torch.ones(2, 4, 6)
IMAGE = torch.ones(2, 4, 6, 6)


@pytest.mark.parametrize(
    ("operator", "arguments", "message"),
    [
        ("bias_act", (IMAGE.double(), None, None, None, 0, 1.0, -1.0), "x must be float32"),
        ("bias_act", (IMAGE, torch.ones(3), None, None, 0, 1.0, -1.0), "bias must have one number"),
        ("bias_act", (IMAGE, torch.ones(4).half(), None, None, 0, 1.0, -1.0), "bias must be Float"),
        ("bias_act", (IMAGE, None, IMAGE, torch.ones([]), 0, 1.0, -1.0), "noise must be"),
        ("bias_act", (IMAGE, None, IMAGE, None, 0, 1.0, -1.0), "noise and strength"),
        ("bias_act", (IMAGE, None, None, None, 2, 1.0, -1.0), "activation must be"),
        ("bias_act_backward", (FEATURES, IMAGE, None, None, True, 0, 1.0, -1.0), "grad must be"),
        ("upfirdn2d", (FEATURES, torch.ones(4), 1, 1, 0, 0, 3, 3, False, 1.0), "x must be"),
        ("upfirdn2d", (IMAGE, torch.ones(4, 0), 1, 1, 0, 0, 3, 3, False, 1.0), "taps must not be empty"),
        ("upfirdn2d", (IMAGE, torch.ones(4), 0, 1, 0, 0, 3, 3, False, 1.0), "up must be"),
        ("upfirdn2d", (IMAGE, torch.ones(4), 1, 9, 0, 0, 2**30, 3, False, 1.0), "height"),
        ("bipartite_attention", (IMAGE, *KEYS, *VALUES), "x must be"),
        ("bipartite_attention", (FEATURES[:, ::2], *KEYS, *VALUES), "x must be contiguous"),
        ("bipartite_attention", (FEATURES, KEYS[0], KEYS[1][..., :2], *KEYS[2:], *VALUES), "key_bias must be"),
        ("bipartite_attention", (FEATURES, KEYS[0].half(), *KEYS[1:], *VALUES), "keys must be Float"),
        ("bipartite_attention", (FEATURES, *KEYS[:2], torch.ones(6, 2), None, *VALUES), "positions and position_keys"),
        ("bipartite_attention", (FEATURES, *KEYS, VALUES[0][..., :2], *VALUES[1:]), "values must be"),
        ("bipartite_attention", (FEATURES, *KEYS, *VALUES[:2], "div", "layer", 0.0, None), "integration must be"),
        ("bipartite_attention", (FEATURES, *KEYS, *VALUES[:2], "mul", "layer", 0.5, None), "seed must be given"),
        ("attention_means", (FEATURES[..., :0], *KEYS, 1), "x must have a position"),
        ("attention_means", (FEATURES, *KEYS, 2), "over must be"),
    ],
)
def test_wrong_arguments_are_named(machine: Machine, operator: str, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(GanformerError, match=f"{operator}: {message}"):
        machine.call(operator, *arguments)


# ----- Compiling -----


#: Says that kernels are to be compiled for every card.
ALL_CARDS = "GANFORMER_TEST_ALL_CARDS"
_IF_ASKED = pytest.mark.skipif(not os.environ.get(ALL_CARDS), reason=f"{ALL_CARDS} is not set")
_OPTIMISED, _QUICKLY = ["-c", "-O3"], ["-Xcicc", "-O0", "-Xptxas", "-O0"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "flags"),
    [
        # The kernels have two branches: from this generation on, and the one before, whose host code is the same.
        ("sm_80", ["-c", *_QUICKLY]),
        ("sm_75", ["-cubin", *_QUICKLY]),
        *(pytest.param(f"sm_{name}", _OPTIMISED, marks=_IF_ASKED) for name in (75, 80, 86, 89, 90, 100, 103, 120)),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0] + value[-1],
)
def test_kernels_compile(architecture: str, flags: list[str], pytestconfig: pytest.Config, tmp_path: Path) -> None:
    """Without a warning; if asked, optimised for every generation of cards from Turing to Blackwell."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("needs nvcc on the path")
    sources = kernel_sources()
    digest = digest_of([*sources, *(ROOT / "ops").glob("cuda_*.h"), Path(nvcc)])
    known = kept_folder(pytestconfig, tmp_path) / f"{architecture}{''.join(flags)}.txt"
    if known.is_file() and known.read_text(encoding="utf-8") == digest:
        return
    words = [nvcc, "-std=c++17", *flags, f"-arch={architecture}", "--Werror", "all-warnings"]
    run_all([[*words, str(source), "-o", f"{source.stem}.o"] for source in sources], tmp_path)
    known.write_text(digest, encoding="utf-8")


@pytest.mark.slow
def test_bindings_compile(tmp_path: Path) -> None:
    """With torch's stable interface alone, and no header of CUDA's."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++")
    words = [compiler, "-fsyntax-only", "-std=c++17", "-Wall", "-Werror", "-DTORCH_TARGET_VERSION=0x020a000000000000"]
    include = Path(torch.__path__[0]) / "include"
    run_all([[*words, "-isystem", str(include), str(ROOT / "ops" / "cuda_bindings.cpp")]], tmp_path)
