"""Noise, bias, activation, gain and clamp in one pass over the image.

Gradients are native and need only the result: the activation keeps the sign of its input, and a clamped number equals
the limit. The second derivative by the input, which R1 takes, is the same kind of pass again.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ganformer_cli.errors import GanformerError
from ganformer_cli.operators import native
from ganformer_cli.operators.self_tests import OperatorResults, self_test

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
    arguments = x, bias, noise, strength, activation, gain, clamp
    math, serves = native.math_dtype(x.dtype), native.serves(x)
    fits = serves and native.fits(x, math, bias, strength) and native.fits(x, x.dtype, noise)
    fits = fits and (noise is None or not noise.requires_grad) and (strength is None or strength.ndim == 0)
    # Other shapes the native operator checks by itself, at less cost.
    if not fits or activation not in ACTIVATION_GAIN or not gain > 0 or (clamp is not None and not clamp >= 0):
        _check_arguments(*arguments)
    total = ACTIVATION_GAIN[activation] * gain
    if bias is None and noise is None and strength is None and clamp is None and activation == "linear" and total == 1:
        return x
    if not serves:
        return bias_act_reference(
            x, bias, noise=noise, strength=strength, activation=activation, gain=gain, clamp=clamp
        )
    if not fits:
        bias, strength = (None if tensor is None else tensor.to(math) for tensor in (bias, strength))
        noise = None if noise is None else noise.to(x.dtype)
    try:
        rule = NATIVE_ACTIVATIONS[activation], total, -1.0 if clamp is None else clamp
        return _bias_act(x, bias, noise, strength, *rule)
    except GanformerError:
        _check_arguments(*arguments)  # names the argument as it was given
        raise


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
    """Raise an error that names the first argument that does not fit. The native operators check too, at less cost."""
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


# The native operators' derivatives. A backward pass is linear in the gradient, and depends on the result only where the
# activation has a corner; so its own backward pass is the same operator again.


def _bias_act(x: Tensor, bias: Any, noise: Any, strength: Any, *rule: float) -> Tensor:
    recorded = native.needs_gradient(x, bias, strength)
    run = _BiasAct.apply if recorded else partial(native.call, torch.ops.ganformer.bias_act)
    out: Tensor = run(x, bias, noise, strength, *rule)
    return out


def _gradients(grad: Tensor, out: Tensor, noise: Any, strength: Any, need_bias: bool, *rule: Any) -> Any:
    """By x, by the bias and by the strength."""
    recorded = native.needs_gradient(grad)
    run = _BiasActBackward.apply if recorded else partial(native.call, torch.ops.ganformer.bias_act_backward)
    return run(grad, out, noise, strength, need_bias, *rule)


class _BiasAct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Any, noise: Any, strength: Any, *rule: Any) -> Tensor:
        out: Tensor = native.call(torch.ops.ganformer.bias_act, x, bias, noise, strength, *rule)
        activation, _, clamp = ctx.rule = rule
        ctx.gated = activation != NATIVE_ACTIVATIONS["linear"] or clamp >= 0
        by_strength = ctx.needs_input_grad[3]
        ctx.save_for_backward(
            out if ctx.gated else None, noise if by_strength else None, strength if by_strength else None
        )
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        out, noise, strength = ctx.saved_tensors
        by_x, by_bias, _, by_strength = ctx.needs_input_grad[:4]
        if ctx.gated:
            dx, dbias, dstrength = _gradients(grad, out, noise, strength, by_bias, *ctx.rule)
        else:
            gain, math = ctx.rule[1], native.math_dtype(grad.dtype)
            dx = grad if gain == 1 else grad * gain
            dbias = dx.sum([axis for axis in range(dx.ndim) if axis != 1], dtype=math) if by_bias else None
            dstrength = (dx * noise).sum(dtype=math) if by_strength else None
        dbias, dstrength = dbias if by_bias else None, dstrength if by_strength else None
        return dx if by_x else None, dbias, None, dstrength, None, None, None


class _BiasActBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grad: Tensor, out: Tensor, noise: Any, strength: Any, need_bias: bool, *rule: Any) -> Any:
        ctx.need_bias, ctx.rule = need_bias, rule
        ctx.save_for_backward(out, noise)
        ctx.set_materialize_grads(False)
        return tuple(native.call(torch.ops.ganformer.bias_act_backward, grad, out, noise, strength, need_bias, *rule))

    @staticmethod
    def backward(ctx: Any, by_dx: Tensor | None, by_dbias: Tensor | None, by_dstrength: Tensor | None) -> Any:
        out, noise = ctx.saved_tensors
        total = by_dx
        if by_dbias is not None and ctx.need_bias:
            bias = by_dbias.to(out.dtype).reshape([-1] + [1] * (out.ndim - 2))
            total = bias if total is None else total + bias
        if by_dstrength is not None and noise is not None:
            added = noise * by_dstrength.to(out.dtype)
            total = added if total is None else total + added
        if total is not None:
            total = _gradients(total.expand_as(out), out, None, None, False, *ctx.rule)[0]
        return total, None, None, None, None, None, None, None


@self_test("bias_act", (2, 5, 7, 5), (5,), (2, 1, 7, 5), ())
def _self_test(x: Tensor, bias: Tensor, noise: Tensor, strength: Tensor) -> OperatorResults:
    noise = noise.detach()
    return [
        bias_act(x, bias, noise=noise, strength=strength, activation="lrelu", clamp=0.9),
        bias_act(x.mT, bias, activation="linear", gain=0.7),
    ]


@native.when_loaded
def _register() -> None:
    @native.register("bias_act")
    def fake(x: Tensor, *_: Any) -> Tensor:
        return torch.empty_like(x)

    @native.register("bias_act_backward")
    def fake_backward(
        grad: Tensor, out: Tensor, noise: Tensor | None, strength: Tensor | None, need_bias: bool, *_: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        math = native.math_dtype(out.dtype)
        dbias = out.new_empty([out.shape[1] if need_bias else 0], dtype=math)
        dstrength = out.new_empty([0] if noise is None or strength is None else strength.shape, dtype=math)
        return torch.empty_like(out), dbias, dstrength
