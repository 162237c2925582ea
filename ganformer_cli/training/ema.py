"""The averaged generator."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MovingAverage:
    """``average ← decay·average + (1 − decay)·source`` for parameters, in one call; buffers are copied.

    Args:
        average: the averaged network.
        source: a network of the same architecture.
    """

    def __init__(self, average: nn.Module, source: nn.Module) -> None:
        self.parameters: tuple[list[Tensor], list[Tensor]] = (
            [parameter.detach() for parameter in average.parameters()],
            [parameter.detach() for parameter in source.parameters()],
        )
        self.buffers = list(average.buffers()), list(source.buffers())

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """One step; a ``decay`` of 0 copies, 1 leaves the average as it is."""
        torch._foreach_lerp_(*self.parameters, 1 - decay)
        if self.buffers[0]:
            torch._foreach_copy_(*self.buffers)


def ema_decay(batch_size: int, half_life_kimg: float, images_seen: int, rampup: float | None) -> float:
    """Decay for one step of ``batch_size`` images.

    Args:
        batch_size: images a step.
        half_life_kimg: after so many thousand images a weight counts half.
        images_seen: images shown so far.
        rampup: early on the half-life is at most this share of the images seen; None: no ramp.
    """
    half_life = half_life_kimg * 1000
    if rampup is not None:
        half_life = min(half_life, images_seen * rampup)
    return 0.5 ** (batch_size / max(half_life, 1e-8))
