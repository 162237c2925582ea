"""Attention-weighted means of the image, one for each component: the centroids of k-means, what duplex gathers.

``h·m·d`` multiply-adds for the scores and as many for the means; natively x is read once and the probabilities are
never stored. The schema, which the CUDA library implements too, stands in ``ops/bipartite_attention.cpp``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ganformer_cli.errors import GanformerError
from ganformer_cli.operators import native
from ganformer_cli.operators.attention_reference import Keys, Over, checked_keys, dense, probabilities_of
from ganformer_cli.operators.bipartite_attention import by_composition, contiguous


class AttentionMeans(NamedTuple):
    """Sums over the positions, weighted with the probabilities."""

    content: Tensor  # Σₙ A x, [B, h, m, d]
    place: Tensor | None  # Σₙ A positions, [B, h, m, p]
    total: Tensor  # Σₙ A, [B, h, m]; 1 where the softmax runs over the positions


def attention_means(x: Tensor, keys: Keys, *, over: Over) -> AttentionMeans:
    """Sums of features and positions, weighted with attention; differentiable to any order.

    ``S = x·content + positions·place + bias``, A its softmax over the components or over the positions.

    Args:
        x: ``[B, d, n]``, floating. Contiguous, or the view of a channels-last image; anything else is copied.
        keys: see ``Keys``; taken to float32 (float64 if x is float64). Where the softmax runs over the positions,
            the bias has no effect.
        over: ``components`` (k-means: every position divides itself among the components) or ``positions`` (duplex:
            every component divides itself among the positions).

    Returns:
        float32 sums, float64 if x is float64.

    Raises:
        GanformerError: an argument's shape, dtype or device does not fit; the message names it.
    """
    name = "attention_means"
    keys = checked_keys(name, x, keys)
    if over not in ("components", "positions"):
        raise GanformerError(f"{name}: over must be components or positions, not {over!r}")
    if over == "positions" and x.shape[2] == 0:
        raise GanformerError(f"{name}: x must have at least one position where the softmax runs over them")
    if not native.serves(x):
        return attention_means_reference(x, keys, over)
    content, place, total, _ = native.call(
        torch.ops.ganformer.attention_means, dense(x), *contiguous(*keys), int(over == "positions")
    )
    return AttentionMeans(content, None if keys.positions is None else place, total)


def attention_means_reference(x: Tensor, keys: Keys, over: Over) -> AttentionMeans:
    """``attention_means`` in plain torch."""
    weights = probabilities_of(x, keys, over)
    return weighted_sums(x, weights, keys.positions)


def weighted_sums(x: Tensor, weights: Tensor, positions: Tensor | None) -> AttentionMeans:
    """The sums for given ``weights [B, h, m, n]``, in plain torch."""
    flat = weights.flatten(1, 2)
    content = (flat @ x.to(flat.dtype).transpose(1, 2)).unflatten(1, weights.shape[1:3])
    place = None if positions is None else weights @ positions.to(flat.dtype)
    return AttentionMeans(content, place, weights.sum(3))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.over = inputs
    content, place, _, logsumexp = output
    ctx.mark_non_differentiable(logsumexp)
    ctx.save_for_backward(*tensors, content, place, logsumexp)


def _backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
    *tensors, content, place, logsumexp = ctx.saved_tensors
    if torch.is_grad_enabled():

        def form(given: list[Any]) -> list[Tensor]:
            found = attention_means_reference(given[0], Keys(*given[1:]), "positions" if ctx.over else "components")
            return [found.content, content if found.place is None else found.place, found.total]

        wanted: list[Tensor | None] = [gradients[0], gradients[1] if tensors[3] is not None else None, gradients[2]]
        return (*by_composition(form, tensors, wanted), None)
    found = native.call(
        torch.ops.ganformer.attention_means_backward,
        *(gradient.contiguous() for gradient in gradients[:3]),
        *tensors,
        content,
        place,
        logsumexp,
        ctx.over,
        ctx.needs_input_grad[3],
    )
    present = (
        value if tensor is not None and needed else None
        for value, tensor, needed in zip(found, tensors, ctx.needs_input_grad, strict=False)
    )
    return (*present, None)


@native.when_loaded
def _register() -> None:
    torch.library.register_autograd("ganformer::attention_means", _backward, setup_context=_setup_context)

    @torch.library.register_fake("ganformer::attention_means")
    def forward(
        x: Tensor, keys: Tensor, key_bias: Tensor, positions: Tensor | None, position_keys: Tensor | None, over: int
    ) -> tuple[Tensor, ...]:
        batch, (heads, components) = len(x), keys.shape[1:3]
        width = 0 if position_keys is None else position_keys.shape[3]
        return (
            keys.new_empty(batch, heads, components, x.shape[1]),
            keys.new_empty(batch, heads, components, width),
            keys.new_empty(batch, heads, components),
            # For the backward pass alone.
            keys.new_empty(
                (batch, heads, components) if over == 1 else (0,),
                dtype=torch.float64 if x.device.type == "cpu" else keys.dtype,
            ),
        )

    @torch.library.register_fake("ganformer::attention_means_backward")
    def backward(
        grad_content: Tensor, grad_place: Tensor, grad_total: Tensor, x: Tensor, *rest: Any
    ) -> tuple[Tensor, ...]:
        # Of an input that is not there, or whose gradient nobody needs, an empty tensor.
        tensors, need_positions = rest[:4], rest[-1]
        found = [x.new_empty(0) if tensor is None else torch.empty_like(tensor) for tensor in tensors]
        if not need_positions:
            found[2] = found[0].new_empty(0)
        return (torch.empty_like(x), *found)
