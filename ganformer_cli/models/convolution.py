"""Convolutions that keep little for the backward pass, and compute in the features' precision.

``F.conv2d`` keeps its input even where the weight is not trained, as the discriminator's is not while the generator
learns; and a modulated convolution made of it keeps the modulated input beside the input. These are as large as the
image features, which is nearly all the memory that training takes.

A weight may be float32 beside features in half precision: it is cast for the convolution, and its gradient cast back.
``cast`` is that weight in the features' precision where somebody has it already.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ganformer_cli.operators import winograd
from ganformer_cli.operators.bf16 import are_products_widened


class ConvShape(NamedTuple):
    """How a convolution moves over the image."""

    stride: int = 1
    padding: int = 0
    transposed: bool = False  # the adjoint of a convolution with this stride and padding


POINTWISE = ConvShape()
#: What Winograd's filtering computes.
PADDED = ConvShape(1, 1)

#: Whether torch makes all convolutions and their gradients, also where our own ways are quicker: for measurements.
TORCH_ALONE = False
#: Where torch has AVX2 alone, the gradient by the weight of a convolution that resamples is made strip by strip, from
#: as many positions on: both gradients take a third of the time (AMD EPYC, 128 to 512 channels), and as long at 16×16.
MIN_STRIP_POSITIONS = 32**2
#: Numbers in the columns of a strip of an image: 4 MiB.
STRIP_NUMBERS = 2**20
#: On a CPU the gradient by the weight is a product of matrices where there are no more positions than this in an image:
#: torch's way is slow where weights are larger than features. Four times as many where a convolution is transposed,
#: since the same columns serve for both gradients. Measured with 32 to 512 channels (Intel Xeon with AMX): 0.8 to 1 of
#: the time in float32 at 8×8, 0.3 to 0.55 in bf16, and 0.13 to 0.5 at 4×4.
MAX_PRODUCT_POSITIONS = 64
#: Features in bf16 whose products are computed in float32 are widened image by image where one has as many numbers.
MAX_WIDENED_NUMBERS = 2**20


def conv2d(
    x: Tensor,
    weight: Tensor,
    *,
    stride: int = 1,
    padding: int = 0,
    transposed: bool = False,
    cast: Tensor | None = None,
) -> Tensor:
    """Convolution (correlation order), differentiable to any order.

    Args:
        x: ``[B, I, H, W]``.
        weight: ``[O, I, k, k]``, or ``[B, O, I, k, k]``, another one for each sample; transposed, I comes before O.
        stride: of both axes.
        padding: of all four sides.
        transposed: the adjoint of a convolution with this stride and padding.
        cast: ``weight [O, I, k, k]`` in x's dtype, or None.

    Returns:
        ``[B, O, H', W']`` in x's dtype.
    """
    shape = ConvShape(stride, padding, transposed)
    if weight.ndim == 4:
        pointwise = weight.shape[2:] == (1, 1) and shape == POINTWISE and not are_products_widened(x)
        if pointwise and x.is_contiguous(memory_format=torch.channels_last):
            # A product of matrices: torch's convolution is slow at 1×1 with few images. Widened, it would keep float32
            # features for the backward pass.
            return F.linear(x.permute(0, 2, 3, 1), weight[:, :, 0, 0].to(x.dtype)).permute(0, 3, 1, 2)
        return _apply(x, weight, shape, cast)
    if len(x) == 0:
        return _apply(x, weight.sum(0), shape)
    # split, not slices: the gradient of a slice is a whole batch of zeros.
    return torch.cat([_apply(*one, shape) for one in zip(x.split(1), weight.unbind(), strict=True)])


def _apply(x: Tensor, weight: Tensor, shape: ConvShape, cast: Tensor | None = None) -> Tensor:
    result: Tensor = _Convolution.apply(x, weight, shape, cast)
    return result


def modulated_conv2d(
    x: Tensor, weight: Tensor, style: Tensor, shape: ConvShape, *, demodulate: bool, cast: Tensor | None = None
) -> Tensor:
    """Convolution of ``style · x``, demodulated (StyleGAN2, equations 1 and 3); differentiable to any order.

    Args:
        x: ``[B, I, H, W]``.
        weight: ``[O, I, k, k]``; transposed, I comes before O.
        style: ``[B, I]``, in the weight's dtype.
        shape: of the convolution.
        demodulate: whether output channel o is divided by ``√(Σ (style · weight_o)² + 1e-8)``.
        cast: ``weight`` in x's dtype, or None.

    Returns:
        ``[B, O, H', W']`` in x's dtype.
    """
    result: Tensor = _ModulatedConvolution.apply(x, weight, style, shape, demodulate, cast)
    return result


class _Convolution(torch.autograd.Function):
    """A convolution that keeps its input only where the weight is trained."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, shape: ConvShape, cast: Tensor | None) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight, cast)
        ctx.shape, ctx.size = shape, x.shape[2:]
        return _convolution(x, weight.to(x.dtype) if cast is None else cast, shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        # All of this is differentiable itself, for R1 and path lengths.
        x, weight, cast = ctx.saved_tensors
        (gradient,), (by_x, by_weight, *_) = gradients, ctx.needs_input_grad
        used = weight.to(gradient.dtype) if cast is None or torch.is_grad_enabled() else cast
        if not by_weight:
            return _adjoint(gradient, used, ctx.shape, ctx.size) if by_x else None, None, None, None
        x_gradient, weight_gradient = _gradients(gradient, x, used, ctx.shape, (by_x, True))
        return x_gradient, weight_gradient.to(weight.dtype), None, None


class _ModulatedConvolution(torch.autograd.Function):
    """A modulated convolution that keeps the features before and behind it, and none that is scaled in between."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, style: Tensor, shape: ConvShape, demodulate: bool, cast: Tensor | None
    ) -> Tensor:
        y = _convolution(x * _factor_of(style, x), weight.to(x.dtype) if cast is None else cast, shape)
        factor = None
        if demodulate:
            factor = demodulation(weight, style, transposed=shape.transposed)
            y.mul_(_factor_of(factor, x))
        ctx.save_for_backward(x, weight, style, factor, y if demodulate else None, cast)
        ctx.shape, ctx.demodulate = shape, demodulate
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, style, factor, y, cast = ctx.saved_tensors
        shape, (gradient,) = ctx.shape, gradients
        if torch.is_grad_enabled():  # differentiable again: the same function of steps that are
            views = [tensor.view_as(tensor) for tensor in (x, weight, style)]
            result = _apply(views[0] * _factor_of(views[2], x), views[1], shape)
            if ctx.demodulate:
                result = result * _factor_of(demodulation(views[1], views[2], transposed=shape.transposed), x)
            needed = [view for view, needs in zip(views, ctx.needs_input_grad, strict=False) if needs]
            found = iter(torch.autograd.grad(result, needed, gradient, create_graph=True))
            return *(next(found) if needs else None for needs in ctx.needs_input_grad[:3]), None, None, None
        scale = _factor_of(style, x)
        inner = gradient if factor is None else gradient * _factor_of(factor, x)
        used = weight.to(x.dtype) if cast is None else cast
        wanted = (True, ctx.needs_input_grad[1])
        scaled_gradient, weight_gradient = _gradients(inner, x * scale, used, shape, wanted)
        if weight_gradient is not None:
            weight_gradient = weight_gradient.to(weight.dtype)
        style_gradient = (scaled_gradient * x).sum((2, 3)).to(style.dtype)
        if factor is not None:
            # The factor is a^(-1/2) with a = style² · energy + ε, its gradient Σ gradient · y / factor.
            a_gradient = (gradient * y).sum((2, 3)).to(style.dtype) * (factor.square() * -0.5)
            energy = _energy(weight, transposed=shape.transposed)
            style_gradient.addcmul_(style, a_gradient @ energy, value=2)
            if weight_gradient is not None:
                energy_gradient = a_gradient.t() @ style.square()
                if shape.transposed:
                    energy_gradient = energy_gradient.t()
                weight_gradient.addcmul_(weight, energy_gradient[:, :, None, None], value=2)
        return scaled_gradient.mul_(scale), weight_gradient, style_gradient, None, None, None


def _factor_of(channels: Tensor, x: Tensor) -> Tensor:
    """``[B, C]`` as a factor of the features ``x [B, C, H, W]``."""
    return channels.to(x.dtype).view(*channels.shape, 1, 1)


def demodulation(weight: Tensor, style: Tensor, *, transposed: bool = False) -> Tensor:
    """What brings each output channel to unit variance, ``[B, O]``: see ``modulated_conv2d``."""
    return (style.square() @ _energy(weight, transposed=transposed).t() + 1e-8).rsqrt()


def _energy(weight: Tensor, *, transposed: bool) -> Tensor:
    """Sum of squares over the kernel, ``[O, I]``."""
    energy = weight.square().sum((2, 3))
    return energy.t() if transposed else energy


def _convolution(x: Tensor, weight: Tensor, shape: ConvShape) -> Tensor:
    if are_products_widened(x):
        weight = weight.float()
        return _joined([_convolution(some.float(), weight, shape).to(x.dtype) for (some,) in _to_widen(x)])
    if _is_winograd(x, weight, shape):
        return winograd.winograd_conv2d(x, weight)
    stride, padding = [shape.stride] * 2, [shape.padding] * 2
    result: Tensor = torch.ops.aten.convolution.default(
        x, weight, None, stride, padding, [1, 1], shape.transposed, [0, 0], 1
    )
    return result


def _is_winograd(x: Tensor, weight: Tensor, shape: ConvShape) -> bool:
    """Whether Winograd's filtering computes a convolution or its gradients; ``x`` is their input."""
    fits = shape == PADDED and weight.shape[2:] == (3, 3)
    return fits and not TORCH_ALONE and winograd.is_winograd_quicker(x, weight)


def _gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, shape: ConvShape, wanted: tuple[bool, bool]
) -> tuple[Any, Any]:
    """Gradients by the input and by the weight; None where not wanted."""
    if are_products_widened(gradient):
        return _widened_gradients(gradient, x, weight.float(), shape, wanted)
    if _is_winograd(gradient, weight, shape):
        by_x = winograd.winograd_input_gradient(gradient, weight) if wanted[0] else None
        return by_x, winograd.winograd_weight_gradient(x, gradient) if wanted[1] else None
    if wanted[1] and not TORCH_ALONE and not torch.is_grad_enabled():
        if _is_product_quicker(gradient, x, shape):
            return gradients_by_products(gradient, x, weight, shape, wanted)
        if _are_strips_quicker(gradient, x, weight, shape):
            by_x = _gradients(gradient, x, weight, shape, (True, False))[0] if wanted[0] else None
            return by_x, weight_gradient_by_strips(gradient, x, weight, shape)
    stride, padding = [shape.stride] * 2, [shape.padding] * 2
    by_x, by_weight, _ = torch.ops.aten.convolution_backward.default(
        gradient, x, weight, None, stride, padding, [1, 1], shape.transposed, [0, 0], 1, [*wanted, False]
    )
    return by_x if wanted[0] else None, by_weight if wanted[1] else None


def _widened_gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, shape: ConvShape, wanted: tuple[bool, bool]
) -> tuple[Any, Any]:
    """``_gradients`` in float32, rounded; ``weight`` is float32."""
    inputs: list[Tensor] = []
    total: Tensor | None = None
    for behind, some in _to_widen(gradient, x):
        some = some.float() if wanted[1] else torch.empty_like(some, dtype=torch.float32)
        by_x, by_weight = _gradients(behind.float(), some, weight, shape, wanted)
        inputs += [by_x.to(x.dtype)] if wanted[0] else []
        total = by_weight if total is None else total + by_weight
    return _joined(inputs) if inputs else None, None if total is None else total.to(x.dtype)


def _to_widen(*features: Tensor) -> list[tuple[Tensor, ...]]:
    """Features of the same images, in parts to widen one after the other: see ``MAX_WIDENED_NUMBERS``."""
    if torch.is_grad_enabled() or max(one[:1].numel() for one in features) < MAX_WIDENED_NUMBERS:
        return [features]
    return list(zip(*(one.split(1) for one in features), strict=True))


def _joined(parts: list[Tensor]) -> Tensor:
    """The parts of a batch as one, without a copy of a single one."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _is_product_quicker(gradient: Tensor, x: Tensor, shape: ConvShape) -> bool:
    """Whether to take a weight's gradient as a product of matrices; see ``MAX_PRODUCT_POSITIONS``."""
    positions = (x if shape.transposed else gradient).shape[2:].numel()
    return x.device.type == "cpu" and positions <= MAX_PRODUCT_POSITIONS * (4 if shape.transposed else 1)


def _are_strips_quicker(gradient: Tensor, x: Tensor, weight: Tensor, shape: ConvShape) -> bool:
    """Whether to take a weight's gradient strip by strip; see ``MIN_STRIP_POSITIONS``."""
    positions = (x if shape.transposed else gradient).shape[2:].numel()
    large = positions >= MIN_STRIP_POSITIONS and min(weight.shape[:2]) >= winograd.MIN_CHANNELS
    usual = x.device.type == "cpu" and x.dtype is torch.float32 and weight.dtype is torch.float32
    return shape.stride > 1 and large and usual and torch.backends.cpu.get_cpu_capability() == "AVX2"


def weight_gradient_by_strips(gradient: Tensor, x: Tensor, weight: Tensor, shape: ConvShape) -> Tensor:
    """Gradient by the weight as the sum of products of matrices, each of some rows of an image.

    Args:
        gradient: by the result, ``[B, O, H', W']``.
        x: ``[B, I, H, W]``.
        weight: ``[O, I, k, k]``; transposed, I comes before O.
        shape: of the convolution.

    Returns:
        One like the weight.
    """
    small, large = (x, gradient) if shape.transposed else (gradient, x)
    large = F.pad(large, [shape.padding] * 4)
    size, inputs = weight.shape[2], large.shape[1]
    height, width = small.shape[2:]
    step = max(1, STRIP_NUMBERS // (width * size * size * inputs))
    total = large.new_zeros(len(weight), size * size * inputs)
    for some, whole in zip(small.split(1), large.split(1), strict=True):
        for first in range(0, height, step):
            strip = some[:, :, first : first + step]
            columns = _columns(whole[:, :, first * shape.stride :], size, ConvShape(shape.stride), strip.shape[2:])
            total.addmm_(strip.permute(0, 2, 3, 1).flatten(0, 2).t(), columns)
    return total.view(len(weight), size, size, inputs).permute(0, 3, 1, 2)


def gradients_by_products(
    gradient: Tensor, x: Tensor, weight: Tensor, shape: ConvShape, wanted: tuple[bool, bool]
) -> tuple[Any, Any]:
    """Gradients of a convolution by its input and weight, those by the weight as a product of matrices.

    Args:
        gradient: by the result, ``[B, O, H', W']``.
        x: ``[B, I, H, W]``.
        weight: ``[O, I, k, k]``; transposed, I comes before O.
        shape: of the convolution.
        wanted: whether by the input, and by the weight, which is not optional here.

    Returns:
        ``[B, I, H, W]`` or None, and one like the weight.
    """
    # A transposed convolution takes both gradients from the same columns.
    small, large = (x, gradient) if shape.transposed else (gradient, x)
    size = weight.shape[2]
    columns = _columns(large, size, shape, small.shape[2:])
    rows = small.permute(0, 2, 3, 1).flatten(0, 2)
    by_weight = (rows.t() @ columns).view(len(weight), size, size, weight.shape[1]).permute(0, 3, 1, 2)
    if not wanted[0]:
        return None, by_weight
    if not shape.transposed:
        return _adjoint(gradient, weight, shape, x.shape[2:]), by_weight
    by_x = columns @ weight.permute(0, 2, 3, 1).flatten(1).t()
    return by_x.view(len(x), *x.shape[2:], x.shape[1]).permute(0, 3, 1, 2), by_weight


def _columns(x: Tensor, size: int, shape: ConvShape, positions: Sequence[int]) -> Tensor:
    """What the kernel sees at each position, ``[B·H'·W', k·k·C]``; x is ``[B, C, H, W]``."""
    x = F.pad(x, [shape.padding] * 4).permute(0, 2, 3, 1)
    sample, row, column, channel = x.stride()
    strides = sample, row * shape.stride, column * shape.stride, row, column, channel
    return (
        x.as_strided((len(x), *positions, size, size, x.shape[3]), strides, x.storage_offset()).flatten(3).flatten(0, 2)
    )


def _adjoint(gradient: Tensor, weight: Tensor, shape: ConvShape, size: Sequence[int]) -> Tensor:
    """Gradient by an input of height and width ``size``, from the weight alone."""
    channels_last = gradient.is_contiguous(memory_format=torch.channels_last)
    x = torch.empty(  # nobody reads or writes its numbers
        [len(gradient), weight.shape[0 if shape.transposed else 1], *size],
        dtype=gradient.dtype,
        device=gradient.device,
        memory_format=torch.channels_last if channels_last else torch.contiguous_format,
    )
    by_x: Tensor = _gradients(gradient, x, weight, shape, (True, False))[0]
    return by_x
