"""Seeds to latents to pictures. A seed always gives the same picture: on every run, in every order, in every batch.

That holds by construction, not by luck. Each seed has random numbers of its own. And since the libraries underneath
choose another algorithm, hence another rounding, for another batch width or number of threads, both are fixed: pictures
are computed in groups of one width for a model, a seed always in the same place of its group, empty places filled up;
and on a CPU each group in one thread, several groups at once. That costs nothing: a group is as wide as pays there.

Two kinds of processor, or two releases of torch, may still differ in a last bit.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ganformer_cli.checkpoints import load_generator
from ganformer_cli.errors import ConfigError, GanformerError
from ganformer_cli.models import AttentionMap, Generator, NoiseMode

__all__ = [
    "AttentionMap",
    "Generator",
    "NoiseMode",
    "Sample",
    "labels_from_seeds",
    "latents_from_seeds",
    "load_generator",
    "sample",
    "sample_attention",
    "sample_images",
    "to_uint8",
]

DEFAULT_BATCH = 16
#: Pictures in a group. On a CPU wider ones are no faster; those of large pictures are slower than one by one.
LANES = 4
_LARGE_ON_CPU = 64 * 64
_NOISE = 0x4E6F697365


class Sample(NamedTuple):
    """One picture with its attention."""

    seed: int
    image: npt.NDArray[np.uint8]  # [3, H, W]
    maps: list[AttentionMap]  # one a layer, on the CPU, B = 1; empty for a model without attention


def sample(
    generator: Generator,
    seeds: Sequence[int],
    *,
    truncation_psi: float = 1.0,
    noise_mode: NoiseMode = "const",
    labels: npt.ArrayLike | None = None,
) -> Tensor:
    """The pictures of ``seeds`` as one uint8 tensor ``[N, 3, H, W]`` on the CPU; arguments as for ``sample_images``."""
    height, width = generator.config.image_size
    pictures = torch.empty(len(seeds), 3, height, width, dtype=torch.uint8)
    drawn = sample_images(generator, seeds, truncation_psi=truncation_psi, noise_mode=noise_mode, labels=labels)
    for place, (_, picture) in zip(pictures, drawn, strict=True):
        place.copy_(torch.from_numpy(picture))
    return pictures


def sample_images(
    generator: Generator,
    seeds: Sequence[int],
    *,
    truncation_psi: float = 1.0,
    noise_mode: NoiseMode = "const",
    batch_size: int = DEFAULT_BATCH,
    labels: npt.ArrayLike | None = None,
) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    """Draw pictures one after the other, in the order of ``seeds``.

    Args:
        generator: the model, on any device; it draws in evaluation mode.
        seeds: 0 to 2**63 - 1.
        truncation_psi: 1 leaves the latents alone, 0 gives the mean picture.
        noise_mode: ``const`` (the model's stored noise), ``none``, or ``random`` (another one for each seed).
        batch_size: how many are computed before they are fetched from the device; never changes a picture.
        labels: float ``[c_dim]`` for all or ``[N, c_dim]``; None draws a class for each seed (``labels_from_seeds``).

    Yields:
        The seed and its picture, uint8 ``[3, H, W]``.

    Raises:
        ConfigError: a seed out of range, or labels that do not fit the model.
        GanformerError: the model gives numbers that are not finite.
    """
    for drawn in _draw(generator, seeds, truncation_psi, noise_mode, batch_size, labels, False):
        yield drawn.seed, drawn.image


def sample_attention(
    generator: Generator,
    seeds: Sequence[int],
    *,
    truncation_psi: float = 1.0,
    noise_mode: NoiseMode = "const",
    batch_size: int = LANES,
    labels: npt.ArrayLike | None = None,
) -> Iterator[Sample]:
    """As ``sample_images``, with the attention maps of every layer, each at its own resolution."""
    return _draw(generator, seeds, truncation_psi, noise_mode, batch_size, labels, True)


def latents_from_seeds(generator: Generator, seeds: Sequence[int]) -> Tensor:
    """Standard normal latents, float32 ``[N, m+1, w]`` on the CPU: row i depends on seed i alone."""
    z = torch.empty(len(seeds), *generator.z_shape)
    for latents, seed in zip(z, seeds, strict=True):
        latents.copy_(torch.randn(generator.z_shape, generator=_random(seed)))
    return z


def labels_from_seeds(generator: Generator, seeds: Sequence[int]) -> Tensor:
    """One-hot labels, float32 ``[N, c_dim]`` on the CPU: a class for each seed, all equally likely."""
    classes = generator.config.c_dim
    if classes == 0:
        return torch.zeros(len(seeds), 0)
    # The seed's own stream gives the latents first: they are the same with and without labels.
    labels = torch.zeros(len(seeds), classes)
    for label, seed in zip(labels, seeds, strict=True):
        random = _random(seed)
        torch.randn(generator.z_shape, generator=random)
        label[torch.randint(classes, (), generator=random)] = 1
    return labels


def to_uint8(image: Tensor) -> Tensor:
    """[-1, 1] to 0 .. 255: ``round((x + 1) * 127.5)``, clamped; any shape."""
    return ((image + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def _random(seed: int) -> torch.Generator:
    # Latents are drawn on the CPU whatever the device, so that they are the same on all.
    if not 0 <= seed < 2**63:
        raise ConfigError(f"seed {seed} is out of range; seeds go from 0 to {2**63 - 1}")
    return torch.Generator().manual_seed(int(seed))


def _draw(
    generator: Generator,
    seeds: Sequence[int],
    truncation_psi: float,
    noise_mode: NoiseMode,
    batch_size: int,
    labels: npt.ArrayLike | None,
    attention: bool,
) -> Iterator[Sample]:
    if batch_size < 1:
        raise ConfigError(f"batch size {batch_size}: at least 1 is needed")
    on_cpu = next(generator.parameters()).device.type == "cpu"
    # Random noise comes from torch's one global stream: such pictures are drawn alone and in turn.
    alone = noise_mode == "random"
    large = math.prod(generator.config.image_size) > _LARGE_ON_CPU
    lanes = 1 if alone or (on_cpu and large) else LANES
    given = _given_labels(generator, seeds, labels)

    def compute(group: range) -> tuple[Tensor, list[list[AttentionMap]]]:
        some = [int(seeds[i]) for i in group]
        c = labels_from_seeds(generator, some) if given is None else given[list(group)]
        return _forward(
            generator, some, c, lanes, truncation_psi=truncation_psi, noise_mode=noise_mode, attention=attention
        )

    for start in range(0, len(seeds), batch_size):
        batch = range(start, min(start + batch_size, len(seeds)))
        groups = list(_groups(batch, seeds, lanes))
        with _evaluating(generator):
            done = _one_thread_each(compute, groups, together=not alone) if on_cpu else [compute(g) for g in groups]
        pictures = torch.cat([images for images, _ in done]).cpu().numpy()
        maps = [each for _, found in done for each in found]
        for place, i in enumerate(batch):
            yield Sample(int(seeds[i]), pictures[place], maps[place])


def _one_thread_each(
    compute: Callable[[range], tuple[Tensor, list[list[AttentionMap]]]], groups: Sequence[range], *, together: bool
) -> list[tuple[Tensor, list[list[AttentionMap]]]]:
    """``compute`` of each group, each within a single thread; as many ``together`` as torch uses threads."""
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads if together else 1, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(compute, groups))
    finally:
        # Some of the libraries under torch keep one number for the whole process.
        torch.set_num_threads(threads)


def _groups(batch: range, seeds: Sequence[int], lanes: int) -> Iterator[range]:
    """Consecutive runs of the batch in which no two seeds want the same lane."""
    start, taken = batch.start, set[int]()
    for i in batch:
        lane = seeds[i] % lanes
        if lane in taken:
            yield range(start, i)
            start, taken = i, set()
        taken.add(lane)
    yield range(start, batch.stop)


def _forward(
    generator: Generator,
    seeds: Sequence[int],
    labels: Tensor,
    lanes: int,
    *,
    truncation_psi: float,
    noise_mode: NoiseMode,
    attention: bool,
) -> tuple[Tensor, list[list[AttentionMap]]]:
    """One group: uint8 pictures ``[N, 3, H, W]`` on the device, and the maps of each, on the CPU."""
    device = next(generator.parameters()).device
    places = [seed % lanes for seed in seeds]
    z = torch.zeros(lanes, *generator.z_shape)
    z[places] = latents_from_seeds(generator, seeds)
    c = None
    if generator.config.c_dim:
        c = torch.zeros(lanes, generator.config.c_dim)
        c[places] = labels
        c = c.to(device)
    with _reproducible(device, seeds[0] if noise_mode == "random" else None):
        if attention:
            image, found = generator(
                z.to(device), c, truncation_psi=truncation_psi, noise_mode=noise_mode, return_attention=True
            )
        else:
            image, found = generator(z.to(device), c, truncation_psi=truncation_psi, noise_mode=noise_mode), []
        image = image[places]
        finite = image.isfinite().flatten(1).all(1).tolist()
        pictures = to_uint8(image)
    for seed, fine in zip(seeds, finite, strict=True):
        if not fine:
            raise GanformerError(
                f"the picture of seed {seed} has values that are not finite: this model has diverged or is damaged; "
                "use an earlier snapshot"
            )
    maps = [[each._replace(probabilities=each.probabilities[k : k + 1].cpu()) for each in found] for k in places]
    return pictures, maps


@contextlib.contextmanager
def _evaluating(generator: Generator) -> Iterator[None]:
    """Evaluation mode; as it was afterwards."""
    was_training = generator.training
    generator.eval()
    try:
        yield
    finally:
        generator.train(was_training)


@contextlib.contextmanager
def _reproducible(device: torch.device, seed: int | None) -> Iterator[None]:
    """No gradients, deterministic algorithms; ``seed`` starts the global random streams, which go on afterwards as if
    nothing had happened."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        if device.type == "cuda":
            stack.enter_context(torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True))
        if seed is not None:
            stack.enter_context(torch.random.fork_rng(devices=[device] if device.type == "cuda" else []))
            # Moved on from the stream that the latents come from, or noise and latents would be the same numbers.
            torch.manual_seed((seed + _NOISE) % 2**63)
        yield


def _given_labels(generator: Generator, seeds: Sequence[int], labels: npt.ArrayLike | None) -> Tensor | None:
    """Labels ``[N, c_dim]``, or None where each seed draws its own."""
    if labels is None:
        return None
    classes = generator.config.c_dim
    given = torch.as_tensor(np.asarray(labels, np.float32))
    if given.ndim not in (1, 2) or given.shape[-1] != classes or (given.ndim == 2 and len(given) != len(seeds)):
        raise ConfigError(
            f"labels of shape {list(given.shape)} do not fit: this model takes [{classes}], or "
            f"[{len(seeds)}, {classes}] for {len(seeds)} pictures"
        )
    return given.expand(len(seeds), classes)
