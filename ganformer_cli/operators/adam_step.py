"""One step of Adam on all weights of a network, and the weights as they act, in one pass over memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from ganformer_cli.operators import native
from ganformer_cli.operators.self_tests import OperatorResults, self_test


class ActingWeight(NamedTuple):
    """A parameter, and what acts in its place: ``acting = parameter · gain``."""

    parameter: nn.Parameter  # dense
    gain: float = 1.0
    acting: Tensor | None = None  # like the parameter; None where the parameter itself acts
    cast: Tensor | None = None  # acting once more, in half precision; or None


def make_acting(weights: Sequence[ActingWeight]) -> None:
    """Make what acts of the parameters as they are now."""
    made = [(weight.acting, weight) for weight in weights if weight.acting is not None]
    acting = [tensor for tensor, _ in made]
    cast = [(weight.cast, tensor) for tensor, weight in made if weight.cast is not None]
    with torch.no_grad():
        if acting:
            torch._foreach_copy_(acting, [weight.parameter for _, weight in made])
            torch._foreach_mul_(acting, [weight.gain for _, weight in made])
        if cast:
            torch._foreach_copy_([tensor for tensor, _ in cast], [tensor for _, tensor in cast])


def adam_step(
    weights: Sequence[ActingWeight],
    gradients: Sequence[Tensor],
    memories: Sequence[dict[str, Tensor]],
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
) -> Tensor:
    """One step of Adam (Kingma and Ba 2014, algorithm 1) and ``make_acting``, at once; no gradient passes through it.

    ``g = gradient · gain``, ``m ← β₁m + (1 − β₁)g``, ``v ← β₂v + (1 − β₂)g²``,
    ``parameter ← parameter − lr/(1 − β₁ᵗ) · m / (√(v/(1 − β₂ᵗ)) + eps)``.

    Args:
        weights: see ``ActingWeight``.
        gradients: by what acts, each like its parameter.
        memories: of each weight, as ``torch.optim.Adam(fused=True)`` keeps it: ``exp_avg``, ``exp_avg_sq``, ``step``.
            With β₁ = 0 there is no ``exp_avg``: it is the gradient.
        lr: learning rate.
        betas: decay rates of the moments.
        eps: added to the root.

    Returns:
        The norm of all g, float32 [].

    Raises:
        GanformerError: a tensor does not fit its parameter; nothing has been changed.
    """
    parameters: list[Tensor] = [weight.parameter for weight in weights]
    firsts = [memory.get("exp_avg") for memory in memories]
    seconds, steps = ([memory[key] for memory in memories] for key in ("exp_avg_sq", "step"))
    acting, casts = [weight.acting for weight in weights], [weight.cast for weight in weights]
    gains = [weight.gain for weight in weights]
    if not _is_served(parameters, casts):
        norm = adam_step_reference(parameters, list(gradients), firsts, seconds, steps, gains, lr, *betas, eps)
        make_acting(weights)
        return norm
    norm = native.call(
        torch.ops.ganformer.adam_step,
        parameters,
        list(gradients),
        firsts,
        seconds,
        steps,
        acting,
        casts,
        gains,
        lr,
        *betas,
        eps,
    )
    changed = [tensor for tensor in (*parameters, *acting, *casts) if tensor is not None]
    torch.autograd.graph.increment_version(changed)
    return norm


def _is_served(parameters: Sequence[Tensor], casts: Sequence[Tensor | None]) -> bool:
    """Whether the native operator accepts these tensors; there is none for GPUs, where torch's Adam is one kernel."""
    if not parameters or parameters[0].device.type != "cpu" or not native.serves(*parameters, *casts):
        return False
    first = parameters[0]
    return native.fits(first, torch.float32, *parameters) and native.fits(first, torch.bfloat16, *casts)


@torch.no_grad()
def adam_step_reference(
    parameters: list[Tensor],
    gradients: list[Tensor],
    firsts: list[Tensor | None],
    seconds: list[Tensor],
    steps: list[Tensor],
    gains: list[float],
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
) -> Tensor:
    """:func:`adam_step` in plain torch, without ``make_acting``."""
    scaled = list(torch._foreach_mul(gradients, gains))
    adam(
        parameters,
        scaled,
        [g if first is None else first for first, g in zip(firsts, scaled, strict=True)],
        seconds,
        [],
        steps,
        fused=True,
        amsgrad=False,
        beta1=beta1,
        beta2=beta2,
        lr=lr,
        weight_decay=0.0,
        eps=eps,
        maximize=False,
    )
    return nn.utils.get_total_norm(scaled)


@self_test("adam_step", (5, 7, 3), (5, 7, 3), (5, 7, 3), devices=("cpu",))
def _self_test(parameter: Tensor, gradient: Tensor, second: Tensor) -> OperatorResults:
    trained = nn.Parameter(parameter.detach().clone())
    weight = ActingWeight(trained, 0.3, torch.empty_like(trained))
    memory = {"exp_avg": torch.zeros_like(trained), "exp_avg_sq": second.detach().square(), "step": torch.tensor(5.0)}
    norm = adam_step([weight], [gradient.detach()], [memory], lr=0.1, betas=(0.5, 0.9), eps=1e-8)
    return [norm, trained.detach(), weight.acting, memory["exp_avg"], memory["exp_avg_sq"]]


@native.when_loaded
def _register() -> None:
    @native.register("adam_step")
    def fake(parameters: list[Tensor], *_: Any) -> Tensor:
        return parameters[0].new_empty([])
