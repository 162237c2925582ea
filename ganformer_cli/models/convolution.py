"""Convolutions that keep little for the backward pass.

``F.conv2d`` keeps its input even where the weight is not trained, as the discriminator's is not while the generator
learns; and a modulated convolution made of it keeps the modulated input beside the input. These are as large as the
image features, which is nearly all the memory that training takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class ConvShape(NamedTuple):
    """How a convolution moves over the image."""

    stride: int = 1
    padding: int = 0
    transposed: bool = False  # the adjoint of a convolution with this stride and padding


def conv2d(x: Tensor, weight: Tensor, *, stride: int = 1, padding: int = 0, transposed: bool = False) -> Tensor:
    """Convolution (correlation order), differentiable to any order.

    Args:
        x: ``[B, I, H, W]``.
        weight: ``[O, I, k, k]``, or ``[B, O, I, k, k]``, another one for each sample; transposed, I comes before O.
        stride: of both axes.
        padding: of all four sides.
        transposed: the adjoint of a convolution with this stride and padding.

    Returns:
        ``[B, O, H', W']``.
    """
    shape = ConvShape(stride, padding, transposed)
    if weight.ndim == 4:
        return _apply(x, weight, shape)
    if len(x) == 0:
        return _apply(x, weight.sum(0), shape)
    # split, not slices: the gradient of a slice is a whole batch of zeros.
    return torch.cat([_apply(*one, shape) for one in zip(x.split(1), weight.unbind(), strict=True)])


def _apply(x: Tensor, weight: Tensor, shape: ConvShape) -> Tensor:
    result: Tensor = _Convolution.apply(x, weight, shape)
    return result


class _Convolution(torch.autograd.Function):
    """A convolution that keeps its input only where the weight is trained."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, shape: ConvShape) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        ctx.shape, ctx.size = shape, x.shape[2:]
        return _convolution(x, weight, shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        # All of this is differentiable itself, for R1 and path lengths.
        x, weight = ctx.saved_tensors
        by_x, by_weight, _ = ctx.needs_input_grad
        if not by_weight:
            return _adjoint(gradients[0], weight, ctx.shape, ctx.size) if by_x else None, None, None
        stride, padding = [ctx.shape.stride] * 2, [ctx.shape.padding] * 2
        found = torch.ops.aten.convolution_backward(
            gradients[0], x, weight, None, stride, padding, [1, 1], ctx.shape.transposed, [0, 0], 1, [by_x, True, False]
        )
        return found[0] if by_x else None, found[1], None


def _convolution(x: Tensor, weight: Tensor, shape: ConvShape, output_padding: Sequence[int] = (0, 0)) -> Tensor:
    stride, padding = [shape.stride] * 2, [shape.padding] * 2
    result: Tensor = torch.ops.aten.convolution(
        x, weight, None, stride, padding, [1, 1], shape.transposed, output_padding, 1
    )
    return result


def _adjoint(gradient: Tensor, weight: Tensor, shape: ConvShape, size: Sequence[int]) -> Tensor:
    """Gradient by an input of height and width ``size``, from the weight alone."""
    if shape.stride == 1:
        # The same as a plain convolution, which oneDNN computes faster than a transposed one.
        flipped = ConvShape(padding=weight.shape[-1] - 1 - shape.padding)
        return _convolution(gradient, weight.transpose(0, 1).flip((2, 3)), flipped)
    if shape.transposed:
        return _convolution(gradient, weight, shape._replace(transposed=False))
    # Rows and columns that the last step of the stride did not reach.
    reached = ((n - 1) * shape.stride - 2 * shape.padding + weight.shape[-1] for n in gradient.shape[2:])
    rest = [n - covered for n, covered in zip(size, reached, strict=True)]
    return _convolution(gradient, weight, shape._replace(transposed=True), rest)
