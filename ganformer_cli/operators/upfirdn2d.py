"""Up-sample, filter, down-sample: the resampling of StyleGAN2's convolutions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def binomial_filter(taps: tuple[int, ...] = (1, 3, 3, 1)) -> Tensor:
    """The separable filter ``taps ⊗ taps``, normalised to sum 1: float32 ``[len(taps), len(taps)]``."""
    line = torch.tensor(taps, dtype=torch.float32)
    kernel = torch.outer(line, line)
    return kernel / kernel.sum()


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
        kernel: ``[kh, kw]``, the FIR filter (true convolution: it is flipped).
        up: up-sampling factor of both axes.
        down: down-sampling factor of both axes.
        padding: zeros before and after, on both axes; negative numbers crop.
        gain: multiplies the result.

    Returns:
        ``[B, C, H', W']`` with ``H' = (H·up + before + after − kh) // down + 1``, likewise ``W'``.
    """
    batch, channels, height, width = x.shape
    before, after = padding
    if up > 1:
        x = x.reshape(batch, channels, height, 1, width, 1)
        x = F.pad(x, (0, up - 1, 0, 0, 0, up - 1))
        x = x.reshape(batch, channels, height * up, width * up)
    weight = (kernel * gain).flip((0, 1)).to(dtype=x.dtype)
    weight = weight.expand(channels, 1, *weight.shape)
    if before == after and before >= 0:
        return F.conv2d(x, weight, stride=down, padding=before, groups=channels)
    x = F.pad(x, (before, after, before, after))
    return F.conv2d(x, weight, stride=down, groups=channels)
