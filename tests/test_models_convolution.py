"""Convolutions that keep little: the same function and the same derivatives as torch's, and less kept."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ganformer_cli.memory import kept_bytes
from ganformer_cli.models import convolution
from ganformer_cli.models.convolution import conv2d
from ganformer_cli.models.layers import ModulatedConv2d
from ganformer_cli.operators import bf16
from ganformer_cli.operators.upfirdn2d import binomial_filter, upfirdn2d_reference

SHAPES = [
    pytest.param({"stride": 1, "padding": 1, "transposed": False}, 3, id="same"),
    pytest.param({"stride": 1, "padding": 0, "transposed": False}, 1, id="pointwise"),
    pytest.param({"stride": 2, "padding": 0, "transposed": False}, 3, id="down"),
    pytest.param({"stride": 2, "padding": 0, "transposed": True}, 3, id="up"),
]


def plain(x: Tensor, weight: Tensor, *, stride: int, padding: int, transposed: bool) -> Tensor:
    convolve = F.conv_transpose2d if transposed else F.conv2d
    return convolve(x, weight, stride=stride, padding=padding)


def operands(size: int, transposed: bool, batch: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(batch, 2, 4, 5, generator=generator, dtype=torch.float64)
    rows = (2, 3) if transposed else (3, 2)
    weight = torch.randn(*rows, size, size, generator=generator, dtype=torch.float64)
    weights = torch.randn(batch, *rows, size, size, generator=generator, dtype=torch.float64)
    return x.requires_grad_(), weight.requires_grad_(), weights.requires_grad_()


@pytest.mark.parametrize(("shape", "size"), SHAPES)
def test_one_weight_for_all_is_torchs_convolution(shape: dict, size: int) -> None:
    x, weight, _ = operands(size, shape["transposed"])
    torch.testing.assert_close(conv2d(x, weight, **shape), plain(x, weight, **shape))


@pytest.mark.parametrize(("shape", "size"), SHAPES)
def test_a_weight_for_each_sample_convolves_each_with_its_own(shape: dict, size: int) -> None:
    x, _, weights = operands(size, shape["transposed"])
    found = conv2d(x, weights, **shape)
    for i in range(len(x)):
        torch.testing.assert_close(found[i], plain(x[i : i + 1], weights[i], **shape)[0])


@pytest.mark.slow
@pytest.mark.parametrize("trained", ["both", "x", "weight"])
@pytest.mark.parametrize(("shape", "size"), SHAPES)
def test_first_and_second_derivatives(shape: dict, size: int, trained: str) -> None:
    x, weight, weights = operands(size, shape["transposed"], batch=2)
    for w in (weight, weights):
        given = (x.detach().requires_grad_(trained != "weight"), w.detach().requires_grad_(trained != "x"))
        assert torch.autograd.gradcheck(lambda a, b: conv2d(a, b, **shape), given)
        assert torch.autograd.gradgradcheck(lambda a, b: conv2d(a, b, **shape), given, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("shape", "size"), SHAPES)
def test_gradients_of_small_images_by_products_are_torchs(
    shape: dict, size: int, memory_format: torch.memory_format, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In any layout and at any place in memory, as a part of a larger tensor is."""
    x, weight, _ = operands(size, shape["transposed"])
    kept = x.detach().to(dtype).contiguous(memory_format=memory_format)[1:].requires_grad_()
    used = weight.detach().to(dtype).contiguous(memory_format=memory_format).requires_grad_()
    found = []
    for limit in (64, 0):
        monkeypatch.setattr(convolution, "MAX_PRODUCT_POSITIONS", limit)
        y = conv2d(kept, used, **shape)
        found.append(torch.autograd.grad(y, [kept, used], y.detach().cos()))
    rtol, atol = (1e-9, 1e-11) if dtype == torch.float64 else (0.02, 0.05)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol)


@pytest.mark.parametrize("numbers", [1, 300, 2**20])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("shape", "size"), SHAPES)
def test_gradients_by_strips_are_torchs(
    shape: dict, size: int, memory_format: torch.memory_format, numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one row, of some, and of whole images."""
    monkeypatch.setattr(convolution, "STRIP_NUMBERS", numbers)
    x, weight, _ = operands(size, shape["transposed"])
    x = x.detach().contiguous(memory_format=memory_format)
    y = plain(x, weight, **shape)
    gradient = y.detach().cos().contiguous(memory_format=memory_format)
    (exact,) = torch.autograd.grad(y, weight, gradient)
    found = convolution.weight_gradient_by_strips(gradient, x, weight.detach(), convolution.ConvShape(**shape))
    torch.testing.assert_close(found, exact)


def test_a_network_takes_strips_where_they_are_quicker(monkeypatch: pytest.MonkeyPatch) -> None:
    """And both ways agree to rounding."""
    torch.manual_seed(5)
    x = torch.randn(2, 32, 65, 65).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(40, 32, 3, 3).contiguous(memory_format=torch.channels_last).requires_grad_()
    found = []
    for used in (True, False):
        monkeypatch.setattr(convolution, "TORCH_ALONE", not used)
        y = conv2d(x, weight, stride=2)
        found.append(torch.autograd.grad(y, [x, weight], y.detach().cos()))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=0.02)
    if torch.backends.cpu.get_cpu_capability() == "AVX2":
        assert not torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize(("shape", "size"), SHAPES)
def test_an_empty_batch_gives_an_empty_batch(shape: dict, size: int) -> None:
    x, weight, weights = operands(size, shape["transposed"])
    for w in (weight, weights[:0]):
        y = conv2d(x[:0], w, **shape)
        assert y.shape == plain(x, weight, **shape)[:0].shape
        by_x, by_weight = torch.autograd.grad(y.sum(), [x, weight if w is weight else weights])
        assert not by_x.any()
        assert not by_weight.any()


@pytest.mark.parametrize("at_once", ["batch", "image"])
@pytest.mark.parametrize(("shape", "size"), SHAPES)
def test_bf16_without_instructions_for_it_is_rounded_float32(
    shape: dict, size: int, at_once: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features, both gradients and the second derivative; a weight's gradient is added up in float32, too."""
    monkeypatch.setattr(bf16, "bf16_instructions", tuple)
    if at_once == "image":
        monkeypatch.setattr(convolution, "MAX_WIDENED_NUMBERS", 1)
    x, weight, _ = operands(size, shape["transposed"])
    found = []
    for dtype in (torch.bfloat16, torch.float32):
        given = [tensor.detach().bfloat16().to(dtype).requires_grad_() for tensor in (x, weight)]
        y = conv2d(*given, **shape)
        behind = y.detach().bfloat16().cos().to(dtype)
        gradients = torch.autograd.grad(y, given, behind, retain_graph=True)
        (again,) = torch.autograd.grad(y, given[0], behind, create_graph=True)
        (twice,) = torch.autograd.grad(again, given[1], again.detach().bfloat16().to(dtype))
        found.append([tensor.bfloat16() for tensor in (y, *gradients, again, twice)])
    rounding = 0 if at_once == "batch" else 2**-8  # float32's sums in another order, rounded the other way
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=rounding, atol=0)


@pytest.mark.parametrize(("up", "down"), [(2, 1), (1, 2), (1, 1)])
def test_the_plain_filter_of_bf16_is_rounded_float32(up: int, down: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bf16, "bf16_instructions", tuple)
    x = torch.randn(2, 3, 8, 10, generator=torch.Generator().manual_seed(1)).bfloat16()
    apply = partial(upfirdn2d_reference, kernel=binomial_filter(), up=up, down=down, padding=(2, 1), gain=up * up)
    assert torch.equal(apply(x), apply(x.float()).bfloat16())


@pytest.mark.parametrize(
    ("found", "machine", "expected"),
    [
        ((True, True), "x86_64", ("AVX512_BF16", "AMX")),
        ((False, False), "AMD64", ()),
        ((True, False), "aarch64", ("BF16",)),
        ((False, False), "aarch64", ()),
    ],
)
def test_the_instructions_for_bf16(
    found: tuple[bool, bool], machine: str, expected: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    for check, answer in zip(("_is_avx512_bf16_supported", "_is_amx_tile_supported"), found, strict=True):
        monkeypatch.setattr(torch.cpu, check, lambda answer=answer: answer)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: found[0])
    assert bf16.bf16_instructions.__wrapped__() == expected


def test_the_input_is_kept_only_where_the_weight_is_trained() -> None:
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    trained = torch.randn(3, 4, 3, 3, requires_grad=True)
    assert kept_bytes(lambda: conv2d(x, trained, padding=1), [trained]) == x.untyped_storage().nbytes()
    assert kept_bytes(lambda: conv2d(x, trained.detach(), padding=1), [trained]) == 0


@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("demodulate", [True, False])
def test_both_forms_of_modulation_are_one_function(up: int, demodulate: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    layer = ModulatedConv2d(6, 5, 3, style_size=4, up=up, demodulate=demodulate).double()
    x = torch.randn(3, 6, 8, 8, dtype=torch.float64, requires_grad=True)
    w = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    results = []
    for by_weights in (True, False):
        monkeypatch.setattr(layer, "modulates_weights", lambda x, by_weights=by_weights: by_weights)
        y = layer(x, w)
        gradients = torch.autograd.grad(y.sin().sum(), [x, w, *layer.parameters()])
        results.append([y, *gradients])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)
