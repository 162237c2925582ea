"""Perceptual path length (Karras et al. 2019, "A Style-Based Generator Architecture", section 4.1).

How much images change along a path through latent space: two latents are drawn, a place t on the path between them, and

    LPIPS(G(path(t)), G(path(t + ε))) / ε²        with ε = 10⁻⁴

is averaged over pairs, the lowest and the highest percent of them left out. In space z the path is an arc for each
component, in space w it is straight; t is uniform from 0 to 1 (full), or 0 (end). Both images have the class of the
first latent, the model's stored noise, and no truncation; they are compared as float images, since rounding to 8 bits
would be larger than what changes, and averaged over squares of pixels until the shorter side is below 512. Faces are
not cropped out of images, which the authors of StyleGAN do for FFHQ.

Each pair depends on its number and the seed alone: any share of the pairs may be computed anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ganformer_cli.errors import ConfigError, DataError
from ganformer_cli.metrics.features import LearnedDistance, exactly
from ganformer_cli.metrics.processes import SINGLE_PROCESS, ProcessGroup, fail_together
from ganformer_cli.metrics.sources import SEED_STRIDE, block_ranges
from ganformer_cli.metrics.vgg import shrunk_to_lpips
from ganformer_cli.sampling import (
    Generator,
    Space,
    labels_from_seeds,
    latents_from_seeds,
    map_latents,
    sample_latents,
    slerp,
)

_STEP = 1e-4

#: Pairs that are drawn together. A pair has the same place among them in every share, and so the same image.
_TOGETHER = 16
#: Pairs that a process takes at a time; a multiple of those that are drawn together.
_PAIRS_TOGETHER = 64
_LEFT_OUT = 1  # percent, on either side


def perceptual_path_length(
    generator: Generator,
    distance: LearnedDistance,
    *,
    space: Space,
    end: bool = False,
    pairs: int = 50_000,
    seed: int = 0,
    group: ProcessGroup = SINGLE_PROCESS,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[float, float]:
    """Mean and standard deviation of the path lengths, without the lowest and the highest percent.

    The ``group`` computes a part of the ``pairs`` each; the other arguments are those of ``pair_lengths``.
    """
    parts = [
        [i for block in block_ranges(pairs, _PAIRS_TOGETHER, rank, group.world_size) for i in block]
        for rank in range(group.world_size)
    ]
    measure = partial(pair_lengths, generator, distance, parts[group.rank], space=space, end=end, seed=seed)
    own = fail_together(group, partial(measure, progress=progress))
    lengths = np.empty(pairs)
    for part, found in zip(parts, group.all_gather_object(own), strict=True):
        lengths[part] = found
    return summary(lengths)


def pair_lengths(
    generator: Generator,
    distance: LearnedDistance,
    pairs: Sequence[int],
    *,
    space: Space,
    end: bool = False,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> npt.NDArray[np.float64]:
    """Path lengths of the pairs with these numbers, float64 ``[len(pairs)]``.

    Args:
        pairs: their numbers, from 0 on; 16 consecutive ones are drawn together.
        space: in which the path lies, ``z`` or ``w``.
        end: measure at the beginning of each path, not along it.
        seed: of the latents, and of the places on the path.
        progress: called with how many are done, and how many there are.

    Raises:
        ConfigError: there is no such space.
        GanformerError: the model gives numbers that are not finite.
    """
    if space not in ("z", "w"):
        raise ConfigError(f"space {space!r}: there are z and w; choose one of them")
    groups: dict[int, list[int]] = {}  # places in the result, by the number of what is drawn together
    for place, number in enumerate(pairs):
        groups.setdefault(number // _TOGETHER, []).append(place)
    found = np.empty(len(pairs))
    done = 0
    for group, places in groups.items():
        lengths = _lengths(generator, distance, group * _TOGETHER, space, end, seed)
        found[places] = lengths[[pairs[place] % _TOGETHER for place in places]]
        done += len(places)
        if progress is not None:
            progress(done, len(pairs))
    return found


def summary(lengths: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Mean and standard deviation of all but the lowest and the highest percent.

    Raises:
        DataError: there are none, or one of them is not finite.
    """
    if len(lengths) == 0 or not np.isfinite(lengths).all():
        raise DataError(f"{len(lengths)} path lengths, some of them NaN or infinite, have no mean")
    low = np.percentile(lengths, _LEFT_OUT, method="lower")
    high = np.percentile(lengths, 100 - _LEFT_OUT, method="higher")
    kept = lengths[(low <= lengths) & (lengths <= high)]
    return float(kept.mean()), float(kept.std())


def _lengths(
    generator: Generator, distance: LearnedDistance, first: int, space: Space, end: bool, seed: int
) -> npt.NDArray[np.float64]:
    """Of 16 pairs from number ``first`` on."""
    numbers = range(first, first + _TOGETHER)
    seeds = [seed * SEED_STRIDE + 2 * number for number in numbers]
    starts, ends = latents_from_seeds(generator, seeds), latents_from_seeds(generator, [each + 1 for each in seeds])
    labels = labels_from_seeds(generator, seeds)
    # numpy promises never to change this generator's numbers.
    places = [0.0 if end else np.random.RandomState([seed, number]).random_sample() for number in numbers]
    with exactly(distance.device):
        if space == "w":
            starts = map_latents(generator, starts, labels=labels.numpy())
            ends = map_latents(generator, ends, labels=labels.numpy())
        pair = []
        for step in (0.0, _STEP):
            t = torch.tensor(places, dtype=torch.float64).add(step).view(-1, *[1] * (starts.ndim - 1))
            path = slerp(starts, ends, t) if space == "z" else _lerp(starts, ends, t)
            pair.append(_images(generator, path, space, labels))
        return distance(*pair).numpy() / _STEP**2


def _lerp(starts: Tensor, ends: Tensor, t: Tensor) -> Tensor:
    return torch.lerp(starts.double(), ends.double(), t).to(starts.dtype)


def _images(generator: Generator, latents: Tensor, space: Space, labels: Tensor) -> Tensor:
    """Float images ``[16, 3, H, W]``, nominally from 0 to 255, at the size at which they are compared."""
    given = labels.numpy() if space == "z" and generator.config.c_dim else None
    drawn = sample_latents(generator, latents, space=space, labels=given, batch_size=_TOGETHER, raw=True)
    return shrunk_to_lpips((torch.stack([torch.from_numpy(each.image) for each in drawn]) + 1) * 127.5)
