"""Up-sample, filter, down-sample: the resampling of StyleGAN2's convolutions.

The native operator is polyphase: it neither stores nor multiplies inserted zeros or padding. It is its own gradient,
with the factors swapped and the filter turned around.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ganformer_cli.errors import GanformerError
from ganformer_cli.operators import native
from ganformer_cli.operators.bf16 import are_products_widened
from ganformer_cli.operators.self_tests import OperatorResults, self_test


def binomial_filter(taps: tuple[int, ...] = (1, 3, 3, 1)) -> Tensor:
    """``taps``, normalised to sum 1, for both axes of a separable filter: float32 ``[len(taps)]``."""
    return torch.tensor([tap / sum(taps) for tap in taps], dtype=torch.float32)


def upfirdn2d(
    x: Tensor,
    kernel: Tensor,
    *,
    up: int = 1,
    down: int = 1,
    padding: tuple[int, int] = (0, 0),
    gain: float = 1.0,
) -> Tensor:
    """Insert ``up - 1`` zeros after each sample, pad, convolve with ``kernel``, keep every ``down``-th sample.

    Args:
        x: ``[B, C, H, W]``, floating.
        kernel: the FIR filter (true convolution: it is flipped), floating; ``[kh, kw]``, or ``[k]`` for the separable
            filter ``kernel ⊗ kernel``, which costs less. It gets no gradient.
        up: up-sampling factor of both axes.
        down: down-sampling factor of both axes.
        padding: zeros before and after, on both axes; negative numbers crop.
        gain: multiplies the result.

    Returns:
        ``[B, C, H', W']`` with ``H' = (H·up + before + after − kh) // down + 1``, likewise ``W'``; in the dtype and
        memory layout of ``x``, differentiable to any order.

    Raises:
        GanformerError: an argument does not fit; the message names it.
    """
    height, width = _output_size(x, kernel, up, down, padding)
    if not native.serves(x):
        return upfirdn2d_reference(x, kernel, up=up, down=down, padding=padding, gain=gain)
    taps = kernel.to(native.math_dtype(x.dtype))
    return _upfirdn2d(x, taps, up, down, padding[0], padding[0], height, width, False, float(gain))


def upfirdn2d_reference(
    x: Tensor,
    kernel: Tensor,
    *,
    up: int = 1,
    down: int = 1,
    padding: tuple[int, int] = (0, 0),
    gain: float = 1.0,
) -> Tensor:
    """:func:`upfirdn2d` in plain torch."""
    if are_products_widened(x):
        return upfirdn2d_reference(x.float(), kernel, up=up, down=down, padding=padding, gain=gain).to(x.dtype)
    height, width = _output_size(x, kernel, up, down, padding)
    if x.numel() == 0:  # which convolutions refuse
        out = _pad(x, 0, height - x.shape[2], 0, width - x.shape[3])
        return out.contiguous(memory_format=_memory_format(x))
    if kernel.ndim == 1:
        kernel = torch.outer(kernel, kernel)
    channels, before = x.shape[1], padding[0]
    kh, kw = kernel.shape
    kernel = (kernel * gain).to(x.dtype)
    # As much padding behind as the last window needs; an empty result is cut out of one that is not.
    rows, columns = max(height, 1), max(width, 1)
    if up > 1:
        # A transposed convolution multiplies no zeros. It begins where the filter's last tap meets the first sample.
        out = F.conv_transpose2d(x, kernel.expand(channels, 1, kh, kw), stride=up, groups=channels)
        top, left = before - (kh - 1), before - (kw - 1)
        bottom = (rows - 1) * down + 1 - out.shape[2] - top
        right = (columns - 1) * down + 1 - out.shape[3] - left
        out = _pad(out, top, bottom, left, right)[:, :, ::down, ::down]
    else:
        bottom = (rows - 1) * down + kh - x.shape[2] - before
        right = (columns - 1) * down + kw - x.shape[3] - before
        weight = kernel.flip((0, 1)).expand(channels, 1, kh, kw)
        if before == bottom == right >= 0:
            out = F.conv2d(x, weight, stride=down, padding=before, groups=channels)
        else:
            out = F.conv2d(_pad(x, before, bottom, before, right), weight, stride=down, groups=channels)
    return out[:, :, :height, :width].contiguous(memory_format=_memory_format(x))


def _pad(x: Tensor, top: int, bottom: int, left: int, right: int) -> Tensor:
    """Zeros around the image; negative numbers crop, what was padded on the other side too."""
    zeros = [max(backend, 0) for backend in (left, right, top, bottom)]
    if any(zeros):
        x = F.pad(x, zeros)
    top, bottom, left, right = (max(-backend, 0) for backend in (top, bottom, left, right))
    return x[:, :, top : x.shape[2] - bottom, left : x.shape[3] - right]


def _memory_format(x: Tensor) -> torch.memory_format:
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def _output_size(x: Tensor, kernel: Tensor, up: int, down: int, padding: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the result; raises an error that names the first argument that does not fit."""
    if x.ndim != 4 or not x.is_floating_point():
        raise GanformerError(f"upfirdn2d: x is {list(x.shape)}, {x.dtype}; it must be [B, C, H, W], floating")
    if kernel.ndim not in (1, 2) or kernel.numel() == 0 or not kernel.is_floating_point():
        shape = list(kernel.shape)
        raise GanformerError(f"upfirdn2d: kernel is {shape}, {kernel.dtype}; it must be [k] or [kh, kw], floating")
    if kernel.requires_grad:
        raise GanformerError("upfirdn2d: kernel requires a gradient, and gets none; detach it")
    if kernel.device != x.device:
        raise GanformerError(f"upfirdn2d: kernel is on {kernel.device}, and x on {x.device}")
    if up < 1 or down < 1:
        raise GanformerError(f"upfirdn2d: up is {up} and down is {down}; both must be 1 or more")
    before, after = padding
    height = (x.shape[2] * up + before + after - kernel.shape[0]) // down + 1
    width = (x.shape[3] * up + before + after - kernel.shape[-1]) // down + 1
    if height < 0 or width < 0:
        raise GanformerError(
            f"upfirdn2d: padding {padding} leaves less of x {list(x.shape)} than kernel {list(kernel.shape)} covers"
        )
    return height, width


def _upfirdn2d(x: Tensor, taps: Tensor, *settings: Any) -> Tensor:
    """The native operator; it is its own derivative, to any order."""
    recorded = native.needs_gradient(x)
    run = _Upfirdn2d.apply if recorded else partial(native.call, torch.ops.ganformer.upfirdn2d)
    out: Tensor = run(x, taps, *settings)
    return out


class _Upfirdn2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, taps: Tensor, *settings: Any) -> Tensor:
        ctx.up, ctx.down, ctx.before_y, ctx.before_x, _, _, ctx.flip, ctx.gain = settings
        ctx.size = x.shape[2:]
        ctx.memory_format = _memory_format(x)
        ctx.save_for_backward(taps)
        out: Tensor = native.call(torch.ops.ganformer.upfirdn2d, x, taps, *settings)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (taps,) = ctx.saved_tensors
        before = taps.shape[0] - 1 - ctx.before_y, taps.shape[-1] - 1 - ctx.before_x
        # The gradient in the layout of x, which the operators before it are likely to want.
        grad = grad.contiguous(memory_format=ctx.memory_format)
        dx = _upfirdn2d(grad, taps, ctx.down, ctx.up, *before, *ctx.size, not ctx.flip, ctx.gain)
        return dx, *[None] * 9


@self_test("upfirdn2d", (2, 3, 7, 9), (4,), (3, 5))
def _self_test(x: Tensor, line: Tensor, plane: Tensor) -> OperatorResults:
    line, plane = line.detach(), plane.detach()
    return [
        upfirdn2d(x, line, up=2, padding=(2, 1), gain=4.0),
        upfirdn2d(x, line, down=2, padding=(1, 1)),
        upfirdn2d(x, plane, up=3, down=2, padding=(3, -1)),
    ]


@native.when_loaded
def _register() -> None:
    @native.register("upfirdn2d")
    def fake(
        x: Tensor, taps: Tensor, up: int, down: int, before_y: int, before_x: int, height: int, width: int, *_: Any
    ) -> Tensor:
        return x.new_empty([*x.shape[:2], height, width]).contiguous(memory_format=_memory_format(x))
