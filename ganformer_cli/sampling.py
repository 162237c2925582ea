"""Seeds to latents to pictures. A seed always gives the same picture: on every run, in every order, in every batch.

That holds by construction, not by luck. Each seed has random numbers of its own. And since the libraries underneath
choose another algorithm, hence another rounding, for another batch width or number of threads, both are fixed: pictures
are computed in groups of one width for a model, a seed always in the same place of its group, empty places filled up;
and on a CPU each group in one thread, several groups at once. That costs nothing: a group is as wide as pays there.

Latents may be given instead: picture k of them has the place, the random noise and the class of seed k.

Two kinds of processor, or two releases of torch, may still differ in a last bit.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple
from zipfile import BadZipFile

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
    "Space",
    "labels_from_seeds",
    "latents_from_seeds",
    "load_generator",
    "read_latents",
    "sample",
    "sample_attention",
    "sample_images",
    "sample_latents",
    "sample_seeds",
    "to_uint8",
]

DEFAULT_BATCH = 16
#: Pictures in a group. On a CPU wider ones are no faster; those of large pictures are slower than one by one.
LANES = 4
_LARGE_ON_CPU = 64 * 64
_NOISE = 0x4E6F697365
#: Rows of given latents that are looked at together.
_ROWS = 1024

#: What latents are: ``z``, standard normal, or ``w``, what the mapping network makes of them.
Space = Literal["z", "w"]


class Sample(NamedTuple):
    """One picture with its attention."""

    seed: int  # of given latents: their row
    image: npt.NDArray[Any]  # [3, H, W], uint8; raw: float32, nominally in [-1, 1]
    maps: list[AttentionMap]  # one a layer, on the CPU, B = 1; empty for a model without attention


class _Source(NamedTuple):
    """Where pictures come from: picture i has the latents of its seed, or ``latents[i]``; the rest is its seed's."""

    seeds: Sequence[int]
    latents: npt.NDArray[Any] | None = None  # float, [N, m+1, w]; in space w also [N, m+1, L, w]
    space: Space = "z"


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
    drawn = sample_seeds(
        generator, seeds, truncation_psi=truncation_psi, noise_mode=noise_mode, batch_size=batch_size, labels=labels
    )
    for each in drawn:
        yield each.seed, each.image


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
    return sample_seeds(
        generator,
        seeds,
        truncation_psi=truncation_psi,
        noise_mode=noise_mode,
        batch_size=batch_size,
        labels=labels,
        attention=True,
    )


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
    """As ``sample_images``; ``attention`` gives the maps too, ``raw`` float32 pictures as they leave the network."""
    return _draw(
        generator,
        _Source(seeds),
        truncation_psi=truncation_psi,
        noise_mode=noise_mode,
        batch_size=batch_size,
        labels=labels,
        attention=attention,
        raw=raw,
    )


def sample_latents(
    generator: Generator,
    latents: Tensor | npt.ArrayLike,
    *,
    space: Space = "z",
    truncation_psi: float = 1.0,
    noise_mode: NoiseMode = "const",
    batch_size: int = DEFAULT_BATCH,
    labels: npt.ArrayLike | None = None,
    attention: bool = False,
    raw: bool = False,
) -> Iterator[Sample]:
    """As ``sample_seeds``, of given latents: the k-th picture's random noise and class are those of seed k.

    Args:
        generator: the model.
        latents: float ``[N, m+1, w]``; in space w, where they are taken as they are, also ``[N, m+1, L, w]``. k-GAN has
            m latents instead of m + 1. An array that is mapped from a file is read piece by piece.
        space: ``z`` or ``w``.
        truncation_psi, noise_mode, batch_size, labels: as for ``sample_images``; space w takes neither truncation nor
            labels, which act in the mapping network.
        attention: also give the maps.
        raw: give the pictures as they leave the network, float32.

    Raises:
        ConfigError: latents that do not fit the model, or truncation or labels with space w.
        GanformerError: the model gives numbers that are not finite.
    """
    given = latents.detach().cpu().numpy() if isinstance(latents, Tensor) else np.asarray(latents)
    _check_latents(generator, given, space, "latents")
    if space == "w" and truncation_psi != 1:
        raise ConfigError(f"truncation psi {truncation_psi:g} with latents of space w, which are not truncated; give 1")
    if space == "w" and labels is not None:
        raise ConfigError("labels with latents of space w: they have passed the mapping network; leave out the labels")
    return _draw(
        generator,
        _Source(range(len(given)), given, space),
        truncation_psi=truncation_psi,
        noise_mode=noise_mode,
        batch_size=batch_size,
        labels=labels,
        attention=attention,
        raw=raw,
    )


def read_latents(path: Path, generator: Generator, space: Space = "z") -> npt.NDArray[Any]:
    """The latents in a ``.npy`` file, mapped into memory: as for ``sample_latents``, at least one row.

    Raises:
        ConfigError: the file is none, or its latents do not fit the model; the message names the file.
    """
    where = f"--latents {path}"
    try:
        latents = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, OverflowError, BadZipFile) as error:
        raise ConfigError(f"{where}: not a readable .npy file ({error}); write one with numpy.save") from error
    if not isinstance(latents, np.ndarray):
        latents.close()
        raise ConfigError(f"{where}: an archive of arrays; write the one array with numpy.save")
    _check_latents(generator, latents, space, where)
    if len(latents) == 0:
        raise ConfigError(f"{where}: its shape is {list(latents.shape)}, it holds no latents; give at least one row")
    return latents


def _check_latents(generator: Generator, latents: npt.NDArray[Any], space: Space, where: str) -> None:
    """Raise ConfigError, naming ``where``, unless these are latents for this model."""
    if space not in ("z", "w"):
        raise ConfigError(f"space {space!r}: there are z and w; choose one of them")
    count, size = generator.z_shape
    fitting = [(count, size)] + ([(count, generator.config.num_ws, size)] if space == "w" else [])
    if latents.shape[1:] not in fitting:
        wanted = " or ".join("[" + ", ".join(map(str, ("N", *shape))) + "]" for shape in fitting)
        raise ConfigError(
            f"{where}: its shape is {list(latents.shape)}, this model wants {wanted} in space {space}; "
            "give latents of this model"
        )
    if latents.dtype.kind != "f" or latents.dtype.itemsize not in (2, 4, 8):
        raise ConfigError(f"{where}: its numbers are {latents.dtype}; give float16, float32 or float64")
    for start in range(0, len(latents), _ROWS):
        some = _as_float32(latents[start : start + _ROWS])
        finite = np.isfinite(some).all(axis=tuple(range(1, some.ndim)))
        if not finite.all():
            row = start + int(finite.argmin())
            raise ConfigError(f"{where}: row {row} has values that are no finite float32 numbers; leave it out")


def _as_float32(latents: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """A copy; what is too large for float32 becomes infinite."""
    with np.errstate(over="ignore"):
        return np.array(latents, np.float32, order="C")


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
    source: _Source,
    *,
    truncation_psi: float,
    noise_mode: NoiseMode,
    batch_size: int,
    labels: npt.ArrayLike | None,
    attention: bool,
    raw: bool,
) -> Iterator[Sample]:
    if batch_size < 1:
        raise ConfigError(f"batch size {batch_size}: at least 1 is needed")
    seeds = source.seeds
    on_cpu = next(generator.parameters()).device.type == "cpu"
    # Random noise comes from torch's one global stream: such pictures are drawn alone and in turn.
    alone = noise_mode == "random"
    large = math.prod(generator.config.image_size) > _LARGE_ON_CPU
    lanes = 1 if alone or (on_cpu and large) else LANES
    given = _given_labels(generator, seeds, labels)

    def compute(group: range) -> _Computed:
        some = [int(seeds[i]) for i in group]
        c = labels_from_seeds(generator, some) if given is None else given[list(group)]
        return _forward(
            generator,
            source,
            group,
            c,
            lanes,
            truncation_psi=truncation_psi,
            noise_mode=noise_mode,
            attention=attention,
            raw=raw,
        )

    for start in range(0, len(seeds), batch_size):
        batch = range(start, min(start + batch_size, len(seeds)))
        groups = list(_groups(batch, seeds, lanes))
        with _evaluating(generator):
            done = _one_thread_each(compute, groups, together=not alone) if on_cpu else [compute(g) for g in groups]
        pictures = torch.cat([each.pictures for each in done]).cpu().numpy()
        maps = [each for computed in done for each in computed.maps]
        for place, i in enumerate(batch):
            yield Sample(int(seeds[i]), pictures[place], maps[place])


class _Computed(NamedTuple):
    """One group."""

    pictures: Tensor  # [N, 3, H, W], uint8 or raw, on the device
    maps: list[list[AttentionMap]]  # of each picture, on the CPU


def _one_thread_each(
    compute: Callable[[range], _Computed], groups: Sequence[range], *, together: bool
) -> list[_Computed]:
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
    source: _Source,
    group: range,
    labels: Tensor,
    lanes: int,
    *,
    truncation_psi: float,
    noise_mode: NoiseMode,
    attention: bool,
    raw: bool,
) -> _Computed:
    """The pictures of one group, a run of consecutive ones."""
    device = next(generator.parameters()).device
    seeds = [int(source.seeds[i]) for i in group]
    places = [seed % lanes for seed in seeds]
    if source.latents is None:
        own = latents_from_seeds(generator, seeds)
    else:
        own = torch.from_numpy(_as_float32(source.latents[group.start : group.stop]))
    latents = torch.zeros(lanes, *own.shape[1:])
    latents[places] = own
    latents = latents.to(device)
    c = None
    if generator.config.c_dim:
        c = torch.zeros(lanes, generator.config.c_dim)
        c[places] = labels
        c = c.to(device)
    found: list[AttentionMap] = []
    with _reproducible(device, seeds[0] if noise_mode == "random" else None):
        if source.space == "w":
            ws = latents if latents.ndim == 4 else latents[:, :, None].expand(-1, -1, generator.config.num_ws, -1)
            if attention:
                image, found = generator.synthesis(ws, noise_mode, return_attention=True)
            else:
                image = generator.synthesis(ws, noise_mode)
        elif attention:
            image, found = generator(
                latents, c, truncation_psi=truncation_psi, noise_mode=noise_mode, return_attention=True
            )
        else:
            image = generator(latents, c, truncation_psi=truncation_psi, noise_mode=noise_mode)
        image = image[places]
        finite = image.isfinite().flatten(1).all(1).tolist()
        pictures = image.float() if raw else to_uint8(image)
    for seed, fine in zip(seeds, finite, strict=True):
        if not fine:
            whose, other = f"seed {seed}", ""
            if source.latents is not None:
                whose, other = f"row {seed} of the latents", ", or these latents are not for it"
            raise GanformerError(
                f"the picture of {whose} has values that are not finite: this model has diverged or is damaged{other}; "
                "use an earlier snapshot"
            )
    maps = [[each._replace(probabilities=each.probabilities[k : k + 1].cpu()) for each in found] for k in places]
    return _Computed(pictures, maps)


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
