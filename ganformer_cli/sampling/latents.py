"""The latents and labels of images: of seeds, or given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ganformer_cli.errors import ConfigError
from ganformer_cli.models import Generator
from ganformer_cli.npy_header import check_npy

#: Rows of given latents that are looked at together.
_ROWS = 1024

#: What latents are: ``z``, standard normal, or ``w``, what the mapping network makes of them.
Space = Literal["z", "w"]


#: Truncation psi unless the user or the model's file says another, as the authors' programs have it.
DEFAULT_PSI = 0.7


def default_psi(generator: Generator) -> float:
    """The truncation psi of ``ganformer generate``: 0.7, or what the model's file says; a VQGAN knows none, so 1."""
    if generator.config.vqgan:
        return 1.0
    return DEFAULT_PSI if generator.truncation_psi is None else generator.truncation_psi


def read_latents(path: Path, generator: Generator, space: Space = "z") -> npt.NDArray[Any]:
    """The latents in a ``.npy`` file, mapped into memory: as for ``sample_latents``, at least one row.

    Raises:
        ConfigError: the file is none, or its latents do not fit the model; the message names the file.
    """
    where = f"--latents {path}"
    try:
        check_npy(path)
        latents = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, OverflowError, BadZipFile) as error:
        raise ConfigError(f"{where}: not a readable .npy file ({error}); write one with numpy.save") from error
    if not isinstance(latents, np.ndarray):
        latents.close()
        raise ConfigError(f"{where}: an archive of arrays; write the one array with numpy.save")
    check_latents(generator, latents, space, where)
    if len(latents) == 0:
        raise ConfigError(f"{where}: its shape is {list(latents.shape)}, it holds no latents; give at least one row")
    return latents


def check_latents(generator: Generator, latents: npt.NDArray[Any], space: Space, where: str) -> None:
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
        some = as_float32(latents[start : start + _ROWS])
        finite = np.isfinite(some).all(axis=tuple(range(1, some.ndim)))
        if not finite.all():
            row = start + int(finite.argmin())
            raise ConfigError(f"{where}: row {row} has values that are not finite float32 numbers; leave it out")


def as_float32(latents: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """A copy; what is too large for float32 becomes infinite."""
    with np.errstate(over="ignore"):
        return np.array(latents, np.float32, order="C")


def with_layers(generator: Generator, latents: Tensor) -> Tensor:
    """Latents of space w as ``[N, m+1, L, w]``: those that are ``[N, m+1, w]`` are seen the same by every layer."""
    return latents if latents.ndim == 4 else latents[:, :, None].expand(-1, -1, generator.config.num_ws, -1)


def latents_from_seeds(generator: Generator, seeds: Sequence[int]) -> Tensor:
    """Standard normal latents, float32 ``[N, m+1, w]`` on the CPU: row i depends on seed i alone."""
    z = torch.empty(len(seeds), *generator.z_shape)
    for latents, seed in zip(z, seeds, strict=True):
        latents.copy_(torch.randn(generator.z_shape, generator=seeded_generator(seed)))
    return z


def labels_from_seeds(generator: Generator, seeds: Sequence[int]) -> Tensor:
    """Labels, float32 ``[N, c_dim]`` on the CPU: row i depends on seed i alone.

    Each is a label of the data that the model was trained on, as likely as it is frequent there. Of a model that has
    not kept them it is a one-hot class, all equally likely.
    """
    classes, kept = generator.config.c_dim, generator.label_distribution
    if classes == 0 or len(seeds) == 0:
        return torch.zeros(len(seeds), classes)
    # The seed's own stream gives the latents first: they are the same with and without labels.
    drawn: list[float] = []
    for seed in seeds:
        random = seeded_generator(seed)
        torch.randn(generator.z_shape, generator=random)
        if kept is None:
            drawn.append(float(torch.randint(classes, (), generator=random)))
        else:
            drawn.append(float(torch.rand((), dtype=torch.float64, generator=random)))
    if kept is not None:
        return kept.draw(drawn)
    return torch.nn.functional.one_hot(torch.tensor(drawn).long(), classes).float()


def seeded_generator(seed: int) -> torch.Generator:
    # Latents are drawn on the CPU whatever the device, so that they are the same on all.
    if not 0 <= seed < 2**63:
        raise ConfigError(f"seed {seed} is out of range; seeds go from 0 to {2**63 - 1}")
    return torch.Generator().manual_seed(int(seed))


def expand_labels(generator: Generator, seeds: Sequence[int], labels: npt.ArrayLike | None) -> Tensor | None:
    """Labels ``[N, c_dim]``, or None where each seed draws its own."""
    if labels is None:
        return None
    classes = generator.config.c_dim
    given = torch.as_tensor(np.asarray(labels, np.float32))
    if given.ndim not in (1, 2) or given.shape[-1] != classes or (given.ndim == 2 and len(given) != len(seeds)):
        raise ConfigError(
            f"labels of shape {list(given.shape)} do not fit: this model takes [{classes}], or "
            f"[{len(seeds)}, {classes}] for {len(seeds)} images"
        )
    return given.expand(len(seeds), classes)


def slerp(first: Tensor, second: Tensor, t: Tensor) -> Tensor:
    """Spherical linear interpolation of vectors ``[..., w]``, each along its own arc (Shoemake 1985).

    Normally distributed vectors have nearly one length; on a straight way between them they would become shorter than
    any that a network has seen. Vectors on one line have no arc: they go straight.
    """
    cosine = torch.nn.functional.cosine_similarity(first.double(), second.double(), dim=-1)[..., None].clamp(-1, 1)
    angle = cosine.arccos()
    sine = angle.sin()
    straight = (sine < 1e-6) | (first.norm(dim=-1) * second.norm(dim=-1) == 0)[..., None]
    safe = torch.where(straight, torch.ones_like(sine), sine)
    share = torch.where(straight, 1 - t.double(), ((1 - t) * angle).sin() / safe)
    other = torch.where(straight, t.double(), (t * angle).sin() / safe)
    return (share * first + other * second).to(first.dtype)
