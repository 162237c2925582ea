"""Bias, activation, gain and clamp in one step."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Activation = Literal["linear", "lrelu"]

#: Output gain that keeps the variance of a unit normal input (StyleGAN2, appendix B).
ACTIVATION_GAIN: dict[str, float] = {"linear": 1.0, "lrelu": 2.0**0.5}
LRELU_SLOPE = 0.2


def bias_act(
    x: Tensor,
    bias: Tensor | None = None,
    *,
    activation: Activation = "linear",
    gain: float = 1.0,
    clamp: float | None = None,
) -> Tensor:
    """``clip(act(x + bias) * activation gain * gain)``, differentiable to any order.

    Args:
        x: ``[B, C, ...]``, any floating dtype.
        bias: ``[C]`` or None.
        activation: ``linear``, or ``lrelu`` with slope 0.2.
        gain: multiplies on top of the activation's own gain (√2 for ``lrelu``).
        clamp: limit of the absolute value of the result, or None.

    Returns:
        A tensor like ``x``.
    """
    if bias is not None:
        x = x + bias.reshape([1, -1] + [1] * (x.ndim - 2))
    if activation == "lrelu":
        x = F.leaky_relu(x, LRELU_SLOPE)
    total = ACTIVATION_GAIN[activation] * gain
    if total != 1:
        x = x * total
    if clamp is not None:
        x = torch.clamp(x, -clamp, clamp)
    return x
