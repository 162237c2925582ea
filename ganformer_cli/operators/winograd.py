"""3×3 convolutions with fewer products: F(2×2, 3×3) of Lavin and Gray 2015, "Fast Algorithms for Convolutional Neural
Networks".

In float32 on CPUs with AVX2 or AVX-512, where 16 products replace 36. There is no operator for GPUs, whose libraries
have it, and none for half precision, which is used where its products cost little anyway.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

from ganformer_cli.operators import native
from ganformer_cli.operators.self_tests import OperatorResults, self_test

#: What the kernels are written for; as portable C++ they have not been measured against torch.
_CAPABILITIES = ("AVX2", "AVX512")
#: With fewer tiles of 2×2 results, transforming the weights takes longer than all else.
MIN_TILES = 16
#: With fewer channels, the transforms take as long as the products. Measured on an AMD EPYC with AVX2.
MIN_CHANNELS = 32


def is_winograd_quicker(x: Tensor, weight: Tensor) -> bool:
    """Whether a 3×3 convolution with stride 1 and padding 1 belongs here, and its gradients: a matter of sizes alone.

    Args:
        x: ``[B, C, H, W]``.
        weight: ``[O, I, 3, 3]``.
    """
    # The size of the batch comes last: a trace for export, which uses plain torch, must not ask for it.
    if min(weight.shape[:2]) < MIN_CHANNELS or not _is_served(x, weight):
        return False
    if torch.backends.cpu.get_cpu_capability() not in _CAPABILITIES or torch.is_autocast_enabled("cpu"):
        return False
    tiles: int = x.shape[0] * ((x.shape[2] + 1) // 2) * ((x.shape[3] + 1) // 2)
    return tiles >= MIN_TILES


def winograd_conv2d(x: Tensor, weight: Tensor) -> Tensor:
    """Convolution (correlation order) with stride 1 and padding 1, differentiable to any order.

    Args:
        x: float32 ``[B, I, H, W]``.
        weight: float32 ``[O, I, 3, 3]``. Both are read fastest in channels-last.

    Returns:
        ``[B, O, H, W]``, channels-last. It depends neither on the number of threads nor on the other images.

    Raises:
        GanformerError: an argument does not fit.
    """
    if not _is_served(x, weight):
        return F.conv2d(x, weight, padding=1)
    out: Tensor = _Convolution.apply(x, weight) if native.needs_gradient(x, weight) else _conv(x, weight)
    return out


def winograd_input_gradient(gradient: Tensor, weight: Tensor) -> Tensor:
    """Gradient of :func:`winograd_conv2d` by x, ``[B, I, H, W]``, from that by the result, ``[B, O, H, W]``."""
    if not _is_served(gradient, weight):
        return F.conv_transpose2d(gradient, weight, padding=1)
    recorded = native.needs_gradient(gradient, weight)
    out: Tensor = _InputGradient.apply(gradient, weight) if recorded else _conv(gradient, weight, adjoint=True)
    return out


def winograd_weight_gradient(x: Tensor, gradient: Tensor) -> Tensor:
    """Gradient of :func:`winograd_conv2d` by the weight, ``[O, I, 3, 3]``, from x and that by the result."""
    if not _is_served(x, gradient):
        return conv2d_weight(x, (gradient.shape[1], x.shape[1], 3, 3), gradient, padding=1)
    recorded = native.needs_gradient(x, gradient)
    out: Tensor = _WeightGradient.apply(x, gradient) if recorded else _weight_gradient(x, gradient)
    return out


def _is_served(x: Tensor, other: Tensor) -> bool:
    """Whether there is a native operator for these tensors."""
    return x.device.type == "cpu" and native.fits(x, torch.float32, x, other) and native.serves(x)


def _conv(x: Tensor, weight: Tensor, *, adjoint: bool = False) -> Tensor:
    out: Tensor = native.call(torch.ops.ganformer.winograd_conv, x, weight, adjoint)
    return out


def _weight_gradient(x: Tensor, gradient: Tensor) -> Tensor:
    out: Tensor = native.call(torch.ops.ganformer.winograd_weight_gradient, x, gradient)
    return out


# The three are linear in both arguments, and each one's gradients are the other two.


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _conv(x, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), (gradient,), (by_x, by_weight) = ctx.saved_tensors, gradients, ctx.needs_input_grad
        return (
            winograd_input_gradient(gradient, weight) if by_x else None,
            winograd_weight_gradient(x, gradient) if by_weight else None,
        )


class _InputGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _conv(x, weight, adjoint=True)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), (gradient,), (by_x, by_weight) = ctx.saved_tensors, gradients, ctx.needs_input_grad
        return (
            winograd_conv2d(gradient, weight) if by_x else None,
            winograd_weight_gradient(gradient, x) if by_weight else None,
        )


class _WeightGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, behind: Tensor) -> Tensor:
        ctx.save_for_backward(x, behind)
        return _weight_gradient(x, behind)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (x, behind), (gradient,), (by_x, by_behind) = ctx.saved_tensors, gradients, ctx.needs_input_grad
        return (
            winograd_input_gradient(behind, gradient) if by_x else None,
            winograd_conv2d(x, gradient) if by_behind else None,
        )


@self_test("winograd", (2, 5, 7, 6), (9, 5, 3, 3), devices=("cpu",))
def _self_test(x: Tensor, weight: Tensor) -> OperatorResults:
    return [winograd_conv2d(x, weight)]


@native.when_loaded
def _register() -> None:
    @native.register("winograd_conv")
    def fake_conv(x: Tensor, weight: Tensor, adjoint: bool) -> Tensor:
        out = x.new_empty(x.shape[0], weight.shape[1 if adjoint else 0], *x.shape[2:])
        return out.contiguous(memory_format=torch.channels_last)

    @native.register("winograd_weight_gradient")
    def fake_weight_gradient(x: Tensor, gradient: Tensor) -> Tensor:
        out = x.new_empty(gradient.shape[1], x.shape[1], 3, 3)
        return out.contiguous(memory_format=torch.channels_last)
