"""Images and attention maps in one call, with the defaults of ``ganformer generate``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from ganformer_cli.errors import ConfigError
from ganformer_cli.models import Generator, NoiseMode
from ganformer_cli.sampling.components import EditedLatents
from ganformer_cli.sampling.drawing import Sample, sample_latents, sample_seeds
from ganformer_cli.sampling.latents import Space, default_psi

Latents = Tensor | npt.NDArray[Any] | EditedLatents


def sample(
    generator: Generator,
    seeds: Sequence[int] | None = None,
    *,
    latents: Latents | None = None,
    space: Space = "z",
    truncation_psi: float | None = None,
    noise_mode: NoiseMode = "const",
    labels: npt.ArrayLike | None = None,
) -> Tensor:
    """The images of seeds, or of latents.

    Args:
        generator: the model, on any device.
        seeds: 0 to 2**63 - 1; a seed always gives the same image.
        latents: instead of seeds: float ``[N, m+1, w]``, in space w also ``[N, m+1, L, w]`` (k-GAN has m instead of
            m + 1); or what ``edit_components`` returns. Image k has the random noise and the label of seed k.
        space: of given latents, ``z`` (standard normal) or ``w``, which takes neither truncation nor labels.
        truncation_psi: 1 leaves the latents alone, 0 gives the mean image. None is 0.7, or what the model's file says.
        noise_mode: ``const`` (the model's stored noise), ``none``, or ``random`` (another one for each seed).
        labels: float ``[c_dim]`` for all or ``[N, c_dim]``; None draws one for each seed.

    Returns:
        uint8 ``[N, 3, H, W]`` on the CPU.

    Raises:
        ConfigError: a seed out of range, or latents or labels that do not fit the model.
        GanformerError: the model gives numbers that are not finite.
    """
    height, width = generator.config.image_size
    count, drawn = _draw(generator, seeds, latents, space, truncation_psi, noise_mode=noise_mode, labels=labels)
    images = torch.empty(count, 3, height, width, dtype=torch.uint8)
    for place, each in zip(images, drawn, strict=True):
        place.copy_(torch.from_numpy(each.image))
    return images


def attention_maps(
    generator: Generator,
    seeds: Sequence[int] | None = None,
    *,
    latents: Latents | None = None,
    space: Space = "z",
    truncation_psi: float | None = None,
    noise_mode: NoiseMode = "const",
    labels: npt.ArrayLike | None = None,
) -> dict[str, Tensor]:
    """What the components attend to in the images that ``sample`` gives; arguments as there.

    Returns:
        By the name of the layer (``b16.conv0``), coarse to fine: float32 ``[N, heads, m, h, w]`` on the CPU, which
        sums to 1 over the components (axis 2). Maps of more than 256 pixels a side are averaged down.

    Raises:
        ConfigError: the model has no maps; and as ``sample``.
    """
    if not generator.config.has_maps:
        raise ConfigError("no layer of this model attends, so it has no attention maps; choose another model")
    options: dict[str, Any] = {"noise_mode": noise_mode, "labels": labels, "attention": True}
    _, drawn = _draw(generator, seeds, latents, space, truncation_psi, **options)
    found: dict[str, list[Tensor]] = {}
    for each in drawn:
        for layer, probabilities in each.maps:
            found.setdefault(layer, []).append(probabilities.float())
    return {layer: torch.cat(maps) for layer, maps in found.items()}


def _draw(
    generator: Generator,
    seeds: Sequence[int] | None,
    latents: Latents | None,
    space: Space,
    truncation_psi: float | None,
    **options: Any,
) -> tuple[int, Iterator[Sample]]:
    """How many images, and each of them."""
    if (seeds is None) == (latents is None):
        raise ConfigError("give seeds or latents, and not both")
    if latents is None:
        assert seeds is not None
        psi = default_psi(generator) if truncation_psi is None else truncation_psi
        return len(seeds), sample_seeds(generator, seeds, truncation_psi=psi, **options)
    if isinstance(latents, EditedLatents):
        space, options["dropped"] = "w", latents.dropped
        latents = latents.latents
    if truncation_psi is None:
        truncation_psi = default_psi(generator) if space == "z" else 1.0
    return len(latents), sample_latents(generator, latents, space=space, truncation_psi=truncation_psi, **options)
