"""The averaged generator."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def update_ema(average: nn.Module, source: nn.Module, decay: float) -> None:
    """``average ← decay·average + (1 − decay)·source`` for parameters; buffers are copied.

    Args:
        average: the averaged network.
        source: a network of the same architecture.
        decay: 0 copies, 1 leaves ``average`` as it is.
    """
    targets: list[Tensor] = list(average.parameters())
    sources: list[Tensor] = [parameter.detach() for parameter in source.parameters()]
    torch._foreach_lerp_(targets, sources, 1 - decay)
    for target, value in zip(average.buffers(), source.buffers(), strict=True):
        target.copy_(value)


def ema_decay(batch_size: int, half_life_kimg: float, images_seen: int, rampup: float | None) -> float:
    """Decay for one step of ``batch_size`` pictures.

    Args:
        batch_size: pictures a step.
        half_life_kimg: after so many thousand pictures a weight counts half.
        images_seen: pictures shown so far.
        rampup: early on the half-life is at most this share of the pictures seen; None: no ramp.
    """
    half_life = half_life_kimg * 1000
    if rampup is not None:
        half_life = min(half_life, images_seen * rampup)
    return 0.5 ** (batch_size / max(half_life, 1e-8))
