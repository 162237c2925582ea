"""Ways through latent space, from one picture's latents to the next one's."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ganformer_cli.sampling import slerp


def ways(
    ends: Tensor, steps: int, *, spherical: bool, loop: bool = False, component: int | None = None
) -> Iterator[Tensor]:
    """Latents from each end to the next.

    Args:
        ends: float ``[K, ...]``, at least two; the second dimension counts components if ``component`` is given.
        steps: from one end to the next; the first of them is the end itself, met exactly.
        spherical: along great circles (``slerp``), as normally distributed latents want it, else straight.
        loop: go back to the first end, and stop one step before it, so that a film can start over.
        component: only this component moves; the others stay where they are in ``ends[0]``.

    Yields:
        ``[steps, ...]``; unless ``loop``, the last one is ``[steps + 1, ...]`` and has the last end too.
    """
    between = slerp if spherical else torch.lerp
    moving = ends if component is None else ends[:, component]
    for index, first in enumerate(moving if loop else moving[:-1]):
        second = moving[(index + 1) % len(moving)]
        found = [between(first, second, torch.tensor(step / steps, dtype=ends.dtype)) for step in range(steps)]
        if index + 2 == len(moving) and not loop:
            found.append(second)
        if component is None:
            yield torch.stack(found)
        else:
            frames = ends[:1].repeat(len(found), *[1] * (ends.ndim - 1))
            frames[:, component] = torch.stack(found)
            yield frames


def way_length(ends: int, steps: int, *, loop: bool) -> int:
    """How many latents ``ways`` gives in all."""
    return ends * steps if loop else (ends - 1) * steps + 1
