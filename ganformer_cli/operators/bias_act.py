"""Noise, bias, activation, gain and clamp in one pass over the image.

Gradients are native and need the result alone: the activation keeps the sign of its input, and a clamped number is
recognised by the limit. The second derivative by the input, which R1 takes, is the same kind of pass again.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ganformer_cli.errors import GanformerError
from ganformer_cli.operators import native

Activation = Literal["linear", "lrelu"]

#: Output gain that keeps the variance of a unit normal input (StyleGAN2, appendix B).
ACTIVATION_GAIN: dict[str, float] = {"linear": 1.0, "lrelu": 2.0**0.5}
LRELU_SLOPE = 0.2

#: Numbers of the activations in the native operators.
NATIVE_ACTIVATIONS: dict[str, int] = {"linear": 0, "lrelu": 1}


def bias_act(
    x: Tensor,
    bias: Tensor | None = None,
    *,
    noise: Tensor | None = None,
    strength: Tensor | None = None,
    activation: Activation = "linear",
    gain: float = 1.0,
    clamp: float | None = None,
) -> Tensor:
    """``clip(act(x + strength · noise + bias) · activation gain · gain)``, differentiable to any order.

    Args:
        x: ``[B, C, ...]``, floating; without bias and noise any shape.
        bias: ``[C]`` or None. Bias, noise and strength may be of another floating dtype than ``x``.
        noise: one number a position, ``[B, 1, ...]`` or, the same for all samples, ``[1, 1, ...]``; or None. It gets
            no gradient.
        strength: scalar ``[]``, given with ``noise``.
        activation: ``linear``, or ``lrelu`` with slope 0.2.
        gain: positive, multiplies on top of the activation's own gain (√2 for ``lrelu``).
        clamp: limit of the absolute value of the result, or None.

    Returns:
        A tensor like ``x``, in dtype and memory layout too.

    Raises:
        GanformerError: an argument does not fit; the message names it.
    """
    _check_arguments(x, bias, noise, strength, activation, gain, clamp)
    total = ACTIVATION_GAIN[activation] * gain
    if bias is None and noise is None and clamp is None and activation == "linear" and total == 1:
        return x
    if not native.serves(x):
        return bias_act_reference(
            x, bias, noise=noise, strength=strength, activation=activation, gain=gain, clamp=clamp
        )
    math = _math_dtype(x)
    out: Tensor = native.call(
        torch.ops.ganformer.bias_act,
        x,
        None if bias is None else bias.to(math),
        None if noise is None else noise.to(x.dtype),
        None if strength is None else strength.to(math),
        NATIVE_ACTIVATIONS[activation],
        total,
        -1.0 if clamp is None else clamp,
    )
    return out


def bias_act_reference(
    x: Tensor,
    bias: Tensor | None = None,
    *,
    noise: Tensor | None = None,
    strength: Tensor | None = None,
    activation: Activation = "linear",
    gain: float = 1.0,
    clamp: float | None = None,
) -> Tensor:
    """:func:`bias_act` in plain torch."""
    total = ACTIVATION_GAIN[activation] * gain
    # Both activations let a positive factor through: multiplied beforehand, it costs no pass of its own.
    if bias is not None:
        x = torch.add((bias * total).to(x.dtype).reshape([-1] + [1] * (x.ndim - 2)), x, alpha=total)
    elif total != 1:
        x = x * total
    if noise is not None and strength is not None:
        x = x + (noise * (strength * total)).to(x.dtype)
    if activation == "lrelu":
        x = F.leaky_relu(x, LRELU_SLOPE)
    if clamp is not None:
        x = torch.clamp(x, -clamp, clamp)
    return x


def _check_arguments(
    x: Tensor,
    bias: Tensor | None,
    noise: Tensor | None,
    strength: Tensor | None,
    activation: str,
    gain: float,
    clamp: float | None,
) -> None:
    """Raise an error that names the first argument that does not fit."""
    if not x.is_floating_point():
        raise GanformerError(f"bias_act: x is {x.dtype}; it must be floating")
    if activation not in ACTIVATION_GAIN:
        raise GanformerError(f"bias_act: activation is {activation!r}; choose {' or '.join(ACTIVATION_GAIN)}")
    if not gain > 0:
        raise GanformerError(f"bias_act: gain is {gain}; it must be positive")
    if clamp is not None and not clamp >= 0:
        raise GanformerError(f"bias_act: clamp is {clamp}; it must not be negative")
    if bias is not None:
        if x.ndim < 2 or bias.shape != x.shape[1:2]:
            raise GanformerError(f"bias_act: bias is {_shape(bias)}; for x {_shape(x)} it must be [C], C = axis 1 of x")
        _check_kind("bias", bias, x)
    if noise is None and strength is None:
        return
    if noise is None or strength is None:
        raise GanformerError("bias_act: noise and strength must be given together")
    if noise.ndim != x.ndim or noise.shape[1:] != (1, *x.shape[2:]) or noise.shape[0] not in (1, x.shape[0]):
        raise GanformerError(f"bias_act: noise is {_shape(noise)}; for x {_shape(x)} it must be [B or 1, 1, ...]")
    if noise.requires_grad:
        raise GanformerError("bias_act: noise requires a gradient, and gets none; detach it")
    if strength.ndim != 0:
        raise GanformerError(f"bias_act: strength is {_shape(strength)}; it must be a scalar, []")
    _check_kind("noise", noise, x)
    _check_kind("strength", strength, x)


def _check_kind(name: str, tensor: Tensor, x: Tensor) -> None:
    if not tensor.is_floating_point():
        raise GanformerError(f"bias_act: {name} is {tensor.dtype}; it must be floating")
    if tensor.device != x.device:
        raise GanformerError(f"bias_act: {name} is on {tensor.device}, and x on {x.device}")


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))


def _math_dtype(x: Tensor) -> torch.dtype:
    """What the native operators compute in."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


# The native operators' derivatives. A backward pass is linear in the gradient, and does not depend on the result but
# where the activation has a corner; so its own backward pass is the same operator once more.


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, _, noise, strength, activation, gain, clamp = inputs
    ctx.rule = (activation, gain, clamp)
    ctx.gated = activation != NATIVE_ACTIVATIONS["linear"] or clamp >= 0
    by_strength = ctx.needs_input_grad[3]
    ctx.save_for_backward(
        output if ctx.gated else None, noise if by_strength else None, strength if by_strength else None
    )


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    out, noise, strength = ctx.saved_tensors
    by_x, by_bias, _, by_strength = ctx.needs_input_grad[:4]
    if ctx.gated:
        dx, dbias, dstrength = native.call(
            torch.ops.ganformer.bias_act_backward, grad, out, noise, strength, by_bias, *ctx.rule
        )
    else:
        _, gain, _ = ctx.rule
        dx = grad if gain == 1 else grad * gain
        math = _math_dtype(grad)
        dbias = dx.sum([axis for axis in range(dx.ndim) if axis != 1], dtype=math) if by_bias else None
        dstrength = (dx * noise).sum(dtype=math) if by_strength else None
    return dx if by_x else None, dbias if by_bias else None, None, dstrength if by_strength else None, None, None, None


def _keep_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, out, noise, _, ctx.need_bias, *rule = inputs
    ctx.rule = tuple(rule)
    ctx.save_for_backward(out, noise)
    ctx.set_materialize_grads(False)


def _backward_backward(
    ctx: Any, by_dx: Tensor | None, by_dbias: Tensor | None, by_dstrength: Tensor | None
) -> tuple[Tensor | None, ...]:
    out, noise = ctx.saved_tensors
    total = by_dx
    if by_dbias is not None and ctx.need_bias:
        bias = by_dbias.to(out.dtype).reshape([-1] + [1] * (out.ndim - 2))
        total = bias if total is None else total + bias
    if by_dstrength is not None and noise is not None:
        added = noise * by_dstrength.to(out.dtype)
        total = added if total is None else total + added
    if total is not None:
        total = native.call(
            torch.ops.ganformer.bias_act_backward, total.expand_as(out), out, None, None, False, *ctx.rule
        )[0]
    return total, None, None, None, None, None, None, None


@native.when_loaded
def _register() -> None:
    @torch.library.register_fake("ganformer::bias_act")
    def fake(x: Tensor, *_: Any) -> Tensor:
        return torch.empty_like(x)

    @torch.library.register_fake("ganformer::bias_act_backward")
    def fake_backward(
        grad: Tensor, out: Tensor, noise: Tensor | None, strength: Tensor | None, need_bias: bool, *_: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        math = _math_dtype(out)
        dbias = out.new_empty([out.shape[1] if need_bias else 0], dtype=math)
        dstrength = out.new_empty([0] if noise is None or strength is None else strength.shape, dtype=math)
        return torch.empty_like(out), dbias, dstrength

    torch.library.register_autograd("ganformer::bias_act", _backward, setup_context=_keep)
    torch.library.register_autograd("ganformer::bias_act_backward", _backward_backward, setup_context=_keep_backward)
