"""3×3 convolutions by Winograd's filtering: torch's function and derivatives, and where a network uses them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ganformer_cli.errors import GanformerError
from ganformer_cli.models import convolution
from ganformer_cli.models.convolution import conv2d
from ganformer_cli.operators import native
from ganformer_cli.operators.winograd import (
    is_winograd_quicker,
    winograd_conv2d,
    winograd_input_gradient,
    winograd_weight_gradient,
)

#: Batch, channels of input and output, height and width: odd ones, one pixel, more tiles than are in work at once.
SIZES = [(2, 5, 7, 9, 6), (1, 17, 40, 1, 1), (3, 33, 130, 7, 8), (1, 64, 64, 16, 16), (2, 48, 50, 33, 50)]


def operands(size: tuple[int, ...], memory_format: torch.memory_format) -> tuple[Tensor, Tensor, Tensor]:
    """Image, weight and gradient by the result, float32."""
    batch, inputs, outputs, height, width = size
    generator = torch.Generator().manual_seed(sum(size))
    shapes = (batch, inputs, height, width), (outputs, inputs, 3, 3), (batch, outputs, height, width)
    x, weight, gradient = (
        torch.randn(shape, generator=generator).contiguous(memory_format=memory_format) for shape in shapes
    )
    return x, weight, gradient


def torchs(x: Tensor, weight: Tensor, gradient: Tensor) -> list[Tensor]:
    """Convolution and gradients by torch."""
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    y = F.conv2d(x, weight, padding=1)
    return [y.detach(), *torch.autograd.grad(y, [x, weight], gradient)]


def ours(x: Tensor, weight: Tensor, gradient: Tensor) -> list[Tensor]:
    return [
        winograd_conv2d(x, weight),
        winograd_input_gradient(gradient, weight),
        winograd_weight_gradient(x, gradient),
    ]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", SIZES)
def test_as_exact_as_torch(backend: str, size: tuple[int, ...], memory_format: torch.memory_format) -> None:
    """Against float64 the error is at most three times that of torch's float32: the transforms add up more numbers."""
    given = operands(size, memory_format)
    truth = torchs(*(tensor.double() for tensor in given))
    for found, exact, rough in zip(ours(*given), truth, torchs(*given), strict=True):
        assert found.shape == exact.shape
        error, usual = (found - exact).norm(), (rough - exact).norm()
        assert error <= 3 * usual + 1e-7 * exact.norm()


def test_neither_threads_nor_the_other_images_change_a_bit(native_backend: None) -> None:
    x, weight, gradient = operands((3, 40, 35, 18, 18), torch.channels_last)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(ours(x, weight, gradient))
    finally:
        torch.set_num_threads(before)
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
    assert torch.equal(found[0][0][1:2], winograd_conv2d(x[1:2], weight))


def second_derivatives(convolve: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor) -> list[Tensor]:
    """Gradients of what R1 takes: the size of the gradient by the image."""
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    y = convolve(convolve(x, weight).tanh(), weight)
    (by_x,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    found = torch.autograd.grad(by_x.square().sum() + y.sum(), [x, weight], create_graph=True)
    (third,) = torch.autograd.grad(found[1].square().sum(), x)
    return [*found, third]


@pytest.mark.parametrize("convolve", [winograd_conv2d, lambda x, weight: conv2d(x, weight, padding=1)])
def test_derivatives_to_the_third(
    native_backend: None, convolve: Callable[[Tensor, Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the operator, and of a network's convolution, which uses it at this size."""
    x, weight, _ = operands((2, 32, 32, 8, 8), torch.channels_last)
    weight = weight * 32**-0.5
    used = is_winograd_quicker(x, weight)
    truth = second_derivatives(lambda a, b: F.conv2d(a, b, padding=1), x.double(), weight.double())
    for found, exact in zip(second_derivatives(convolve, x, weight), truth, strict=True):
        torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-4 * exact.abs().max().item())
    if used:
        monkeypatch.setattr(convolution, "TORCH_ALONE", True)
        assert not torch.equal(conv2d(x, weight, padding=1), winograd_conv2d(x, weight))
        monkeypatch.undo()
        assert torch.equal(conv2d(x, weight, padding=1), winograd_conv2d(x, weight))


def test_where_a_network_leaves_convolutions_to_torch(native_backend: None) -> None:
    """Few channels, few positions, other dtypes, no native operators: there, torch is as fast or alone."""
    x, weight = torch.randn(4, 64, 8, 8), torch.randn(64, 64, 3, 3)
    usual = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    assert is_winograd_quicker(x, weight) == usual
    assert not is_winograd_quicker(x, torch.randn(3, 64, 3, 3))
    assert not is_winograd_quicker(x[:1, :, :4, :4], weight)
    assert not is_winograd_quicker(x.double(), weight.double())
    assert not is_winograd_quicker(x.bfloat16(), weight.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_winograd_quicker(x, weight)
    with native.use("reference"):
        assert not is_winograd_quicker(x, weight)


def test_float64_and_an_empty_batch_are_torchs_too(native_backend: None) -> None:
    x, weight, gradient = (tensor.double() for tensor in operands((2, 3, 4, 5, 5), torch.channels_last))
    for found, exact in zip(ours(x, weight, gradient), torchs(x, weight, gradient), strict=True):
        torch.testing.assert_close(found, exact)
    empty = ours(x[:0].float(), weight.float(), gradient[:0].float())
    assert [tuple(tensor.shape) for tensor in empty] == [(0, 4, 5, 5), (0, 3, 5, 5), (4, 3, 3, 3)]
    assert not empty[2].any()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda x, w: winograd_conv2d(x, w[:, :3]), "input channels as x has, 4"),
        (lambda x, w: winograd_input_gradient(x, w), "output channels as x has, 4"),
        (lambda x, w: winograd_conv2d(x, w[..., :2]), r"weight must be \[O, I, 3, 3\]"),
        (lambda x, w: winograd_conv2d(x[0], w), r"x must be \[B, C, H, W\]"),
        (lambda x, w: winograd_weight_gradient(x, x[:1]), "same batch, height and width"),
    ],
)
def test_an_argument_that_does_not_fit_is_named(
    native_backend: None, call: Callable[[Tensor, Tensor], Tensor], text: str
) -> None:
    with pytest.raises(GanformerError, match=text):
        call(torch.randn(2, 4, 6, 6), torch.randn(5, 4, 3, 3))


def test_torch_knows_the_shapes(native_backend: None) -> None:
    x, weight, gradient = operands((2, 5, 7, 9, 6), torch.channels_last)
    for operator, arguments in (
        (torch.ops.ganformer.winograd_conv, (x, weight, False)),
        (torch.ops.ganformer.winograd_conv, (gradient, weight, True)),
        (torch.ops.ganformer.winograd_weight_gradient, (x, gradient)),
    ):
        torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))
