"""From latents to images, in groups of one size: see the package for why."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ganformer_cli.config import ModelConfig
from ganformer_cli.errors import ConfigError, GanformerError
from ganformer_cli.memory import is_out_of_memory
from ganformer_cli.models import AttentionMap, Generator, NoiseMode
from ganformer_cli.sampling.latents import (
    Space,
    as_float32,
    check_latents,
    expand_labels,
    labels_from_seeds,
    latents_from_seeds,
    with_layers,
)
from ganformer_cli.sampling.threads import map_single_threaded

DEFAULT_BATCH = 16
#: Images in a group. On a CPU larger groups are no faster; with large images they are slower than one by one.
GROUP_SIZE = 4
_LARGE_ON_CPU = 64 * 64
#: A single image larger than this uses a GPU fully.
_LARGE_ON_GPU = 512 * 512
#: Memory to draw an image, in feature maps as large as the largest one: measured (a process's high water), 7 to 9.
_FEATURE_MAPS = 9
#: Attention maps are kept up to this size, longer side: a power of two. Larger ones are averaged down as they are made.
MAP_SIZE = 256
_NOISE = 0x4E6F697365

_Found = TypeVar("_Found")


class Sample(NamedTuple):
    """One image with its attention."""

    seed: int  # of given latents: their row
    image: npt.NDArray[Any]  # [3, H, W], uint8; raw: float32, nominally in [-1, 1]
    maps: list[AttentionMap]  # one a layer, on the CPU, B = 1; empty for a model without attention


class _Job(NamedTuple):
    """What images are drawn from, and how: image i has the latents of its seed, or row ``seeds[i]``; all else is its
    seed's."""

    generator: Generator
    seeds: Sequence[int]
    truncation_psi: float
    noise_mode: NoiseMode
    labels: npt.ArrayLike | None
    attention: bool
    raw: bool
    latents: npt.NDArray[Any] | None = None  # float, [N, m+1, w]; in space w also [N, m+1, L, w]
    space: Space = "z"
    dropped: npt.NDArray[np.bool_] | None = None  # [N, m], components to leave out
    noise_seed: int | None = None  # of the random noise of all images; None: each its own seed's

    def describe(self, seed: int) -> str:
        """The image of ``seed``, for a message."""
        return f"seed {seed}" if self.latents is None else f"row {seed} of the latents"


def sample_seeds(
    generator: Generator,
    seeds: Sequence[int],
    *,
    truncation_psi: float = 1.0,
    noise_mode: NoiseMode = "const",
    batch_size: int = DEFAULT_BATCH,
    labels: npt.ArrayLike | None = None,
    attention: bool = False,
    raw: bool = False,
) -> Iterator[Sample]:
    """Draw images one after the other, in the order of ``seeds``.

    Args:
        generator: the model, on any device; it draws in evaluation mode.
        seeds: 0 to 2**63 - 1.
        truncation_psi: 1 leaves the latents alone, 0 gives the mean image.
        noise_mode: ``const`` (the model's stored noise), ``none``, or ``random`` (another one for each seed).
        batch_size: how many are computed before they are fetched from the device; halved when memory runs out; never
            changes an image.
        labels: float ``[c_dim]`` for all or ``[N, c_dim]``; None draws one for each seed (``labels_from_seeds``).
        attention: also give the maps of every layer, each at its own resolution up to ``MAP_SIZE``.
        raw: give the images as they leave the network, float32.

    Raises:
        ConfigError: a seed out of range, or labels that do not fit the model.
        GanformerError: the model gives numbers that are not finite.
    """
    return _draw(_Job(generator, seeds, truncation_psi, noise_mode, labels, attention, raw), batch_size)


def sample_latents(
    generator: Generator,
    latents: Tensor | npt.ArrayLike,
    *,
    space: Space = "z",
    truncation_psi: float = 1.0,
    noise_mode: NoiseMode = "const",
    batch_size: int = DEFAULT_BATCH,
    labels: npt.ArrayLike | None = None,
    dropped: npt.ArrayLike | None = None,
    noise_seed: int | None = None,
    rows: Sequence[int] | None = None,
    attention: bool = False,
    raw: bool = False,
) -> Iterator[Sample]:
    """As ``sample_seeds``, of given latents: the k-th image's random noise and label are those of seed k.

    Args:
        latents: float ``[N, m+1, w]``; in space w, where they are taken as they are, also ``[N, m+1, L, w]``. k-GAN has
            m latents instead of m + 1. An array that is mapped from a file is read piece by piece.
        truncation_psi, noise_mode, batch_size, labels, attention, raw: as for ``sample_seeds``; space w takes neither
            truncation nor labels, which act in the mapping network.
        dropped: bool ``[N, m]``, True where nothing attends to a component; None drops none.
        noise_seed: with random noise: all images have that of this seed, as the frames of a film should.
        rows: draw only these rows; labels are those of the images drawn.

    Raises:
        ConfigError: latents or ``dropped`` that do not fit the model, or truncation or labels with space w.
        GanformerError: the model gives numbers that are not finite.
    """
    given = latents.detach().cpu().numpy() if isinstance(latents, Tensor) else np.asarray(latents)
    check_latents(generator, given, space, "latents")
    if space == "w" and truncation_psi != 1:
        raise ConfigError(f"truncation psi {truncation_psi:g} with latents of space w, which are not truncated; give 1")
    if space == "w" and labels is not None:
        raise ConfigError("labels with latents of space w: they have passed the mapping network; leave out the labels")
    left_out = None if dropped is None else np.asarray(dropped, np.bool_)
    components = generator.config.components_num
    if left_out is not None and (left_out.shape != (len(given), components) or not generator.config.has_attention):
        has = f"attends to {components} components" if generator.config.has_attention else "has no attention"
        raise ConfigError(
            f"components to drop of shape {list(left_out.shape)} for {len(given)} images: this model {has}"
        )
    numbers = range(len(given)) if rows is None else rows
    job = _Job(
        generator, numbers, truncation_psi, noise_mode, labels, attention, raw, given, space, left_out, noise_seed
    )
    return _draw(job, batch_size)


def map_latents(
    generator: Generator, z: Tensor, *, labels: npt.ArrayLike | None = None, truncation_psi: float = 1.0
) -> Tensor:
    """From space z to space w: float32 ``[N, m+1, w]`` to ``[N, m+1, L, w]`` on the CPU, each row by itself.

    Args:
        z: standard normal latents.
        labels: float ``[c_dim]`` for all or ``[N, c_dim]``; None gives row k the label of seed k.
        truncation_psi: as for ``sample_seeds``.
    """
    device = next(generator.parameters()).device
    given = expand_labels(generator, range(len(z)), labels)
    c = labels_from_seeds(generator, range(len(z))) if given is None else given
    with evaluating(generator), _reproducible(device, None):
        rows = [
            generator.mapping(z[i : i + 1].to(device), c[i : i + 1].to(device), truncation_psi).cpu()
            for i in range(len(z))
        ]
    return torch.cat(rows)


def reconstruct_images(
    generator: Generator, images: npt.NDArray[np.uint8], *, batch_size: int = DEFAULT_BATCH
) -> npt.NDArray[np.uint8]:
    """Images through a generator that can reconstruct, such as a VQGAN, in groups of one size as all images.

    Args:
        generator: the model, on any device; ``can_reconstruct``.
        images: uint8 ``[N, 3, H, W]``.
        batch_size: how many are computed before they are fetched from the device; halved when memory runs out.

    Returns:
        uint8 ``[N, 3, H, W]``.

    Raises:
        GanformerError: memory runs out with a single group.
    """
    device = next(generator.parameters()).device

    def compute(group: Tensor) -> Tensor:
        filled = torch.zeros(GROUP_SIZE, *group.shape[1:], dtype=torch.uint8)
        filled[: len(group)] = group
        with _reproducible(device, None):
            return to_uint8(generator.reconstruct(from_uint8(filled.to(device)))[: len(group)])

    groups = torch.from_numpy(images).split(GROUP_SIZE)

    def reconstruct(batch: range) -> list[Tensor]:
        some = groups[batch.start : batch.stop]
        with evaluating(generator):
            found = map_single_threaded(compute, some) if device.type == "cpu" else [compute(group) for group in some]
        return [each.cpu() for each in found]

    batches = _halving_batches(
        len(groups), max(1, batch_size // GROUP_SIZE), reconstruct, lambda _: f"reconstructing {GROUP_SIZE} images"
    )
    return torch.cat([each for _, found in batches for each in found]).numpy()


def image_mib(config: ModelConfig) -> float:
    """About how much memory it takes to draw one image, in MiB, beside the model itself."""
    largest = max(config.channels(each) * math.prod(config.grid(each)) for each in config.block_resolutions)
    return _FEATURE_MAPS * largest * 4 / 2**20


def to_uint8(image: Tensor) -> Tensor:
    """[-1, 1] to 0 .. 255: ``round((x + 1) * 127.5)``, clamped; any shape."""
    return ((image + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def from_uint8(image: Tensor) -> Tensor:
    """0 .. 255 to float32 in [-1, 1]; any shape."""
    return image.float() / 127.5 - 1


def _draw(job: _Job, batch_size: int) -> Iterator[Sample]:
    if batch_size < 1:
        raise ConfigError(f"batch size {batch_size}: at least 1 is needed")
    generator, seeds = job.generator, job.seeds
    on_cpu = next(generator.parameters()).device.type == "cpu"
    # Random noise comes from torch's one global stream: such images are drawn alone and in turn.
    one_at_a_time = job.noise_mode == "random"
    large = math.prod(generator.config.image_size) > (_LARGE_ON_CPU if on_cpu else _LARGE_ON_GPU)
    slots = 1 if one_at_a_time or large else GROUP_SIZE
    labels = expand_labels(generator, seeds, job.labels)

    def compute(group: range) -> _Computed:
        own = [int(seeds[i]) for i in group]
        return _forward(job, own, labels_from_seeds(generator, own) if labels is None else labels[list(group)], slots)

    def draw(batch: range) -> tuple[npt.NDArray[Any], list[list[AttentionMap]]]:
        groups = list(_groups(batch, seeds, slots))
        with evaluating(generator):
            if on_cpu:
                done = map_single_threaded(compute, groups, together=not one_at_a_time)
            else:
                done = [compute(group) for group in groups]
        images = torch.cat([each.images for each in done]).cpu().numpy()
        return images, [each for computed in done for each in computed.maps]

    def alone(first: int) -> str:
        return f"drawing the image of {job.describe(int(seeds[first]))} alone"

    for batch, (images, maps) in _halving_batches(len(seeds), batch_size, draw, alone):
        for place, i in enumerate(batch):
            yield Sample(int(seeds[i]), images[place], maps[place])


def _halving_batches(
    count: int, size: int, compute: Callable[[range], _Found], task: Callable[[int], str]
) -> Iterator[tuple[range, _Found]]:
    """Batches of ``count`` items, and what ``compute`` finds of each, on the CPU.

    They have ``size`` items, and half of that from then on whenever memory runs out. ``task`` says what failed where it
    does with the one item of that number.

    Raises:
        GanformerError: memory runs out with a single item.
    """
    start = 0
    while start < count:
        batch = range(start, min(start + size, count))
        try:
            found = compute(batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if size == 1:
                raise GanformerError(
                    f"memory ran out while {task(start)}; close other programs, or use another device (--gpus)"
                ) from error
            size = min(size, len(batch)) // 2 or 1
            continue  # out of the handler, whose traceback holds on to tensors
        yield batch, found
        start = batch.stop


class _Computed(NamedTuple):
    """One group."""

    images: Tensor  # [N, 3, H, W], uint8 or raw, on the device
    maps: list[list[AttentionMap]]  # of each image, on the CPU


def _groups(batch: range, seeds: Sequence[int], slots: int) -> Iterator[range]:
    """Consecutive runs of the batch in which no two seeds take the same slot."""
    start, taken = batch.start, set[int]()
    for i in batch:
        slot = seeds[i] % slots
        if slot in taken:
            yield range(start, i)
            start, taken = i, set()
        taken.add(slot)
    yield range(start, batch.stop)


def _forward(job: _Job, seeds: Sequence[int], labels: Tensor, slots: int) -> _Computed:
    """The images of one group, of which no two take the same slot."""
    generator = job.generator
    device = next(generator.parameters()).device
    used_slots = [seed % slots for seed in seeds]

    def in_slots(rows: Tensor) -> Tensor:
        """A row for each slot on the device, zeros where there is no image."""
        filled = rows.new_zeros(slots, *rows.shape[1:])
        filled[used_slots] = rows
        return filled.to(device)

    given = job.latents
    latents = in_slots(
        latents_from_seeds(generator, seeds) if given is None else torch.from_numpy(as_float32(given[seeds]))
    )
    mask = None if job.dropped is None else in_slots(torch.from_numpy(job.dropped[seeds]))
    found: list[AttentionMap] = []

    def keep(made: AttentionMap) -> None:
        found.append(made._replace(probabilities=_limit_size(made.probabilities[used_slots]).cpu()))

    noise_seed = seeds[0] if job.noise_seed is None else job.noise_seed
    with _reproducible(device, noise_seed if job.noise_mode == "random" else None):
        if job.space == "z":
            ws = generator.mapping(latents, in_slots(labels) if generator.config.c_dim else None, job.truncation_psi)
        else:
            ws = with_layers(generator, latents)
        on_attention = keep if job.attention else None
        image = generator.synthesis(ws, job.noise_mode, component_mask=mask, on_attention=on_attention)
        image = image[used_slots]
        finite = image.isfinite().flatten(1).all(1).tolist()
        images = image.float() if job.raw else to_uint8(image)
    for seed, is_finite in zip(seeds, finite, strict=True):
        if not is_finite:
            other = "" if given is None else ", or these latents are not for it"
            raise GanformerError(
                f"the image of {job.describe(seed)} has values that are not finite: this model has diverged or is "
                f"damaged{other}; use an earlier snapshot"
            )
    maps = [
        [each._replace(probabilities=each.probabilities[k : k + 1]) for each in found] for k in range(len(used_slots))
    ]
    return _Computed(images, maps)


def _limit_size(probabilities: Tensor) -> Tensor:
    """A map ``[B, heads, m, h, w]``, averaged down to ``MAP_SIZE`` if it is larger; grids are 2^k times the first."""
    factor = max(probabilities.shape[3:]) // MAP_SIZE
    if factor <= 1:
        return probabilities
    return F.avg_pool2d(probabilities.flatten(1, 2), factor).unflatten(1, probabilities.shape[1:3])


@contextlib.contextmanager
def evaluating(generator: Generator) -> Iterator[None]:
    """Evaluation mode within the block."""
    was_training = generator.training
    generator.eval()
    try:
        yield
    finally:
        generator.train(was_training)


@contextlib.contextmanager
def _reproducible(device: torch.device, seed: int | None) -> Iterator[None]:
    """No gradients, deterministic algorithms; ``seed`` starts the global random streams, which are restored
    afterwards."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        if device.type == "cuda":
            same = torch.backends.cudnn.allow_tf32  # as the caller has it; flags() would set it
            stack.enter_context(
                torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=same)
            )
        if seed is not None:
            stack.enter_context(torch.random.fork_rng(devices=[device] if device.type == "cuda" else []))
            # Moved on from the stream that the latents come from, or noise and latents would be the same numbers.
            torch.manual_seed((seed + _NOISE) % 2**63)
        yield
