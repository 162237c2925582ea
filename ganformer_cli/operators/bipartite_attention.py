"""Bipartite attention in one pass over the image (GANsformer, section 3; ``2·h·m·d`` multiply-adds a position).

Native it reads x once and writes the result once, and keeps nothing for the backward pass but x and m-sized tensors.
Its schema, which the CUDA library implements too, stands in ``ops/bipartite_attention.cpp``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ganformer_cli.errors import GanformerError
from ganformer_cli.operators import native
from ganformer_cli.operators.attention_reference import (
    Integration,
    Keys,
    Normalization,
    Over,
    attend,
    checked,
    checked_keys,
    dense,
    drop_cells,
    integrate,
    is_channels_last,
    probabilities_of,
)


def bipartite_attention(
    x: Tensor,
    keys: Keys,
    values: Tensor,
    value_bias: Tensor,
    *,
    integration: Integration = "mul",
    normalization: Normalization = "layer",
    dropout: float = 0.0,
    seed: Tensor | None = None,
) -> Tensor:
    """Every position gathers from the components and is changed by what it finds; differentiable to any order.

    ``S = x·content + positions·place + bias``; ``A = softmax over m``; cells of A are dropped and the others divided
    by ``1 − dropout``; ``g = value_bias + Σ_hm A·values``; then ``mul``: ω(x)·g, ``add``: ω(x) + g, ``both``:
    ω(x)·g₁ + g₂. The specification's ``1 + g`` is a ``value_bias`` that holds the 1.

    Args:
        x: ``[B, d, n]``, floating, n = the image's positions. Contiguous, or the view of a channels-last image;
            anything else is copied.
        keys: see ``Keys``. All tensors but x are taken to float32 (float64 if x is float64).
        values: ``[B or 1, h, m, d']``, d' = 2d for ``both`` (g₁, then g₂), else d.
        value_bias: ``[B or 1, d']``.
        integration: ``mul``, ``add`` or ``both``.
        normalization: ω over the channels (``layer``) or not at all (``none``). ``add`` subtracts the mean only,
            ``mul`` divides by the root mean square only, ``both`` does one after the other. What normalises over
            the positions is a factor and a bias of the channels: fold it into values and value_bias.
        dropout: rate in [0, 1).
        seed: int64, one number, on x's device; decides which cells are dropped. See ``draw_seed``.

    Returns:
        ``[B, d, n]`` of x's dtype and memory format.

    Raises:
        GanformerError: an argument's shape, dtype or device does not fit; the message names it.
    """
    name = "bipartite_attention"
    keys = checked_keys(name, x, keys)
    if integration not in ("mul", "add", "both"):
        raise GanformerError(f"{name}: integration must be mul, add or both, not {integration!r}")
    if normalization not in ("layer", "none"):
        raise GanformerError(f"{name}: normalization must be layer or none, not {normalization!r}")
    if not 0 <= dropout < 1:
        raise GanformerError(f"{name}: dropout must be at least 0 and below 1, not {dropout}")
    if dropout == 0:
        seed = None
    elif seed is None or seed.dtype != torch.int64 or seed.numel() != 1 or seed.device != x.device:
        raise GanformerError(f"{name}: seed must be one int64 number on {x.device} where there is dropout")
    channels = x.shape[1] * (2 if integration == "both" else 1)
    wanted = {
        "values": (values, "[B or 1, h, m, d']", (len(x), *keys.bias.shape[1:], channels)),
        "value_bias": (value_bias, "[B or 1, d']", (len(x), channels)),
    }
    values, value_bias = checked(name, x, wanted)
    if not native.serves(x):
        return bipartite_attention_reference(x, keys, values, value_bias, integration, normalization, dropout, seed)
    result: Tensor = native.call(
        torch.ops.ganformer.bipartite_attention,
        dense(x),
        *contiguous(*keys, values, value_bias),
        integration,
        normalization,
        dropout,
        seed,
    )
    return result


def bipartite_attention_reference(
    x: Tensor,
    keys: Keys,
    values: Tensor,
    value_bias: Tensor,
    integration: Integration,
    normalization: Normalization,
    dropout: float,
    seed: Tensor | None,
) -> Tensor:
    """``bipartite_attention`` in plain torch."""
    weights = probabilities_of(x, keys, "components")
    if seed is not None:
        weights = drop_cells(weights, dropout, seed)
    g = attend(weights, values, value_bias, channels_last=is_channels_last(x))
    return integrate(x, g, integration, normalization)


def attention_probabilities(x: Tensor, keys: Keys, *, over: Over = "components") -> Tensor:
    """Who attends to whom, ``[B, h, m, n]``, before dropout; in plain torch, for maps and for what needs the whole.

    Args:
        x: ``[B, d, n]``.
        keys: see ``Keys``.
        over: the axis that sums to 1, ``components`` or ``positions``.

    Returns:
        float32, or float64 if x is float64.

    Raises:
        GanformerError: an argument's shape, dtype or device does not fit; the message names it.
    """
    return probabilities_of(x, checked_keys("attention_probabilities", x, keys), over)


def contiguous(*tensors: Tensor | None) -> list[Tensor | None]:
    """As the native operators take the m-sized tensors."""
    return [None if tensor is None else tensor.contiguous() for tensor in tensors]


def by_composition(outputs: Any, inputs: list[Tensor | None], gradients: list[Tensor | None]) -> list[Tensor | None]:
    """Gradients that can be differentiated again, through the plain-torch form.

    Args:
        outputs: a function from inputs to a list of outputs.
        inputs: what the operator was given.
        gradients: of the outputs.

    Returns:
        For each input its gradient, or None.
    """
    with torch.enable_grad():
        # Views, so that one tensor that is given twice gets each of its two gradients once.
        views = [None if tensor is None else tensor.view_as(tensor) for tensor in inputs]
        needed = {i: view for i, view in enumerate(views) if view is not None and view.requires_grad}
        pairs = [
            (output, gradient)
            for output, gradient in zip(outputs(views), gradients, strict=True)
            if gradient is not None and output.requires_grad
        ]
        found = torch.autograd.grad(
            [output for output, _ in pairs],
            list(needed.values()),
            [gradient for _, gradient in pairs],
            create_graph=True,
            allow_unused=True,
        )
    by_place = dict(zip(needed, found, strict=True))
    return [by_place.get(i) for i in range(len(inputs))]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.integration, ctx.normalization, ctx.dropout, seed = inputs
    ctx.save_for_backward(*tensors, seed)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    *tensors, seed = ctx.saved_tensors
    settings = ctx.integration, ctx.normalization, ctx.dropout, seed
    if torch.is_grad_enabled():

        def form(given: list[Any]) -> list[Tensor]:
            x, content, bias, positions, place, values, value_bias = given
            keys = Keys(content, bias, positions, place)
            return [bipartite_attention_reference(x, keys, values, value_bias, *settings)]

        return (*by_composition(form, tensors, [gradient]), None, None, None, None)
    found = native.call(
        torch.ops.ganformer.bipartite_attention_backward, dense(gradient), *tensors, *settings, ctx.needs_input_grad[3]
    )
    present = (
        value if tensor is not None and needed else None
        for value, tensor, needed in zip(found, tensors, ctx.needs_input_grad, strict=False)
    )
    return (*present, None, None, None, None)


@native.when_loaded
def _register() -> None:
    torch.library.register_autograd("ganformer::bipartite_attention", _backward, setup_context=_setup_context)

    @torch.library.register_fake("ganformer::bipartite_attention")
    def forward(x: Tensor, *rest: Any) -> Tensor:
        return torch.empty_like(x)

    @torch.library.register_fake("ganformer::bipartite_attention_backward")
    def backward(gradient: Tensor, x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        # Of an input that is not there, or whose gradient nobody needs, an empty tensor.
        *tensors, _, _, _, _, need_positions = rest
        found = [x.new_empty(0) if tensor is None else torch.empty_like(tensor) for tensor in tensors]
        if not need_positions:
            found[2] = found[0].new_empty(0)
        return (torch.empty_like(x), *found)
