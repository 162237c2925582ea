"""Latents of space w that reproduce images, by gradient descent (Karras et al. 2020, "Analyzing and Improving the Image
Quality of StyleGAN", appendix D).

Each component has a latent of its own for each layer. Two starts are optimised side by side and the better one is kept:
the mean of w, and for each image the nearest of some random latents. Latents are counted in standard deviations of
their component, so that one learning rate serves all models. The noise maps are optimised with them, and pulled back to
white noise: a penalty on the correlation of neighbours, at all scales, keeps the image out of them, and after each step
they are brought to mean 0 and variance 1.

All random numbers depend on the seed, the image's number and the step: a projection that is interrupted and resumed in
the same batches on the same machine gives the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ganformer_cli.errors import ConfigError, GanformerError, SnapshotError
from ganformer_cli.models import Generator
from ganformer_cli.models.uncompiled import uncompiled
from ganformer_cli.projection.distance import ImageDistance, PixelDistance
from ganformer_cli.sampling import from_uint8, labels_from_seeds, latents_from_seeds, to_uint8

DEFAULT_STEPS = 500
MAX_STEPS = 100_000
#: The starts that are optimised side by side.
STARTS = ("mean", "random")

_LEARNING_RATE = 0.1
_RAMP_UP, _RAMP_DOWN = 0.05, 0.25  # shares of the steps: linear from zero, and a cosine to zero
_EXPLORATION, _EXPLORING = 0.05, 0.75  # noise added to the latents, relative to ‖w − mean‖, and for which share
_NOISE_WEIGHT = 1e5
_NOISE_COARSEST = 8
_STATISTICS = 1000  # random latents that the mean and the deviations are taken of
_AT_ONCE = 8  # random images that are drawn together
_COMPARED = 8  # random latents whose mean distance is reported
_MIX = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


@dataclass(frozen=True)
class ProjectionSettings:
    """What decides a projection, beside model, images and distance."""

    steps: int = DEFAULT_STEPS
    seed: int = 0
    random_starts: int = 64  # random latents among which the nearest is a start
    optimize_noise: bool = True  # otherwise the model's stored noise stays

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= MAX_STEPS:
            raise ConfigError(f"steps {self.steps}: choose a number from 1 to {MAX_STEPS}")
        if self.random_starts < 1:
            raise ConfigError(f"random starts {self.random_starts}: at least 1 is needed")


class Projection(NamedTuple):
    """What a batch of images was projected to; all on the CPU."""

    latents: Tensor  # float32 [N, m+1, L, w]; k-GAN [N, m, L, w]
    noise: dict[str, Tensor]  # of each layer, float32 [N, 1, H, W]; empty: the model's own
    images: Tensor  # uint8 [N, 3, H, W], with that noise
    drawn: Tensor  # the same with the model's stored noise, as sample_latents draws them
    mean_image: Tensor  # uint8 [3, H, W], of the mean latent
    random_image: Tensor  # uint8 [3, H, W], of the first random latent
    starts: list[str]  # of each image, which start was better
    distances: list[dict[str, float]]  # of each image: projection, model_noise, mean, random
    frames: Tensor  # uint8 [F, N, 3, H, W]; F = 0 unless asked for


def check_projectable(generator: Generator) -> None:
    """Raise ConfigError for a model that has no space w."""
    if generator.config.vqgan:
        raise ConfigError(
            "a VQGAN draws codes, not latents of space w, so nothing can be projected into it; choose another model"
        )


class Projector:
    """Optimises the latents of a batch of images.

    Args:
        generator: the model, in evaluation mode.
        targets: float32 ``[N, 3, H, W]`` in [-1, 1], of the model's size.
        first: number of the first image among all of a command, which its random numbers depend on.
        frames: how many states are kept as images.
    """

    def __init__(
        self,
        generator: Generator,
        targets: Tensor,
        distance: ImageDistance,
        settings: ProjectionSettings,
        *,
        first: int = 0,
        frames: int = 0,
    ) -> None:
        check_projectable(generator)
        if targets.ndim != 4 or tuple(targets.shape[1:]) != (3, *generator.config.image_size):
            height, width = generator.config.image_size
            raise ConfigError(
                f"images of shape {list(targets.shape)}: this model makes [N, 3, {height}, {width}]; bring them to that"
            )
        if not (targets.isfinite().all() and targets.abs().max() <= 1):
            raise ConfigError("images with values outside -1 to 1; divide uint8 by 127.5 and subtract 1")
        self.generator, self.distance, self.settings, self.first = generator, distance, settings, first
        self.device = next(generator.parameters()).device
        self.targets = targets.to(self.device)
        self.step = 0
        count = min(frames, settings.steps)
        self.frame_steps = [round((k + 1) * settings.steps / count) for k in range(count)]
        self.frames = torch.zeros(0, len(targets), *targets.shape[1:], dtype=torch.uint8)
        with torch.no_grad():
            self.mean, self.deviation, self.length = self._statistics()
            self.random = self._random_latents(range(settings.random_starts))
            start = torch.cat([self.mean.expand(len(targets), *self.mean.shape), self.nearest()])
        self.latents = ((start - self.mean) / self.deviation).requires_grad_()
        self.noise = self._first_noise() if settings.optimize_noise else {}
        self.optimizer = uncompiled(torch.optim.Adam)([self.latents, *self.noise.values()], lr=_LEARNING_RATE)

    # ----- Starts -----

    def _random_latents(self, numbers: range) -> Tensor:
        """``[R, m+1, L, w]``."""
        seeds = [(self.settings.seed + number) % 2**63 for number in numbers]
        z, c = latents_from_seeds(self.generator, seeds), labels_from_seeds(self.generator, seeds)
        return self.generator.mapping(z.to(self.device), c.to(self.device))

    def _statistics(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of random latents: mean ``[m+1, L, w]``, deviation ``[m+1, 1, 1]`` of a number, length ``[m+1, 1, 1]``."""
        w = self._random_latents(range(_STATISTICS))[:, :, 0]
        mean = w.mean(0)
        variance = (w - mean).square().mean((0, 2))[:, None, None]
        deviation = variance.sqrt().clamp_min(1e-6)
        return mean[:, None].repeat(1, self.generator.config.num_ws, 1), deviation, deviation * w.shape[-1] ** 0.5

    def nearest(self) -> Tensor:
        """For each image the nearest of the random latents, ``[N, m+1, L, w]``; by pixels, whatever the distance."""
        pixels, found = PixelDistance(), []
        images = torch.cat([self._draw(some) for some in self.random.split(_AT_ONCE)])
        for target in self.targets:
            found.append(self.random[int(pixels(images, target.expand_as(images)).argmin())])
        return torch.stack(found)

    def _first_noise(self) -> dict[str, Tensor]:
        """Of each layer for each start and image, ``[2N, 1, H, W]``."""
        count = len(self.targets)
        maps: dict[str, Tensor] = {}
        for place, (name, size) in enumerate(self.generator.noise_shapes().items()):
            rows = [torch.randn(1, *size, generator=self._stream(k, -1 - place)) for k in range(count)]
            maps[name] = torch.stack(rows * len(STARTS)).to(self.device).requires_grad_()
        return maps

    def _stream(self, image: int, step: int) -> torch.Generator:
        numbers = (self.settings.seed, self.first + image, step)
        return torch.Generator().manual_seed(sum(a * b for a, b in zip(numbers, _MIX, strict=True)) % 2**63)

    # ----- Steps -----

    @property
    def is_done(self) -> bool:
        """Whether all steps are made."""
        return self.step >= self.settings.steps

    def advance(self) -> float:
        """One step; the mean over the images of the better start's distance."""
        progress = self.step / self.settings.steps
        for group in self.optimizer.param_groups:
            group["lr"] = _LEARNING_RATE * _ramp(progress, self.step, self.settings.steps)
        self.optimizer.zero_grad(set_to_none=True)
        strength = _EXPLORATION * max(0.0, 1 - progress / _EXPLORING) ** 2
        ws = self._ws(self.latents + self._exploration(strength))
        distances = self.distance(self._draw(ws, self.noise), self.targets.repeat(len(STARTS), 1, 1, 1))
        loss = distances.sum()
        if self.noise:
            loss = loss + _NOISE_WEIGHT * noise_correlation(self.noise.values())
        loss.backward()
        self.optimizer.step()
        self.step += 1
        with torch.no_grad():
            for noise in self.noise.values():
                noise -= noise.mean((2, 3), keepdim=True)
                noise *= (noise.square().mean((2, 3), keepdim=True) + 1e-8).rsqrt()
            found = distances.unflatten(0, (len(STARTS), -1))
            if not found.isfinite().all():
                raise GanformerError(
                    f"the projection has diverged at step {self.step}: NaN or infinite distances; the model may be "
                    "damaged: use an earlier snapshot"
                )
            if self.step in self.frame_steps:
                self._keep_frame(found.argmin(0))
            return float(found.amin(0).mean())

    def _keep_frame(self, best: Tensor) -> None:
        images = to_uint8(self._draw(self._of_start(self._ws(self.latents), best), self._noise_of_start(best))).cpu()
        self.frames = torch.cat([self.frames, images[None]])

    def _exploration(self, strength: float) -> Tensor | float:
        """Noise ``[2N, m+1, 1, w]`` in standard deviations, the same for all layers."""
        if strength == 0:
            return 0.0
        shape = (len(STARTS), self.latents.shape[1], 1, self.latents.shape[3])
        rows = [torch.randn(shape, generator=self._stream(k, self.step)) for k in range(len(self.targets))]
        noise = torch.stack(rows, dim=1).flatten(0, 1).to(self.device)
        return noise * (strength * self.length / self.deviation)

    def _ws(self, latents: Tensor) -> Tensor:
        return self.mean + latents * self.deviation

    def _draw(self, ws: Tensor, noise: Mapping[str, Tensor] | None = None) -> Tensor:
        """Images; without ``noise`` with the model's stored noise."""
        return self.generator.synthesis(ws, noise or "const")

    def _of_start(self, values: Tensor, best: Tensor) -> Tensor:
        """``[2N, ...]`` to that of each image's ``best`` start ``[N]``."""
        by_start = values.unflatten(0, (len(STARTS), -1))
        return by_start[best, torch.arange(len(best), device=values.device)]

    def _noise_of_start(self, best: Tensor) -> dict[str, Tensor]:
        return {name: self._of_start(each, best) for name, each in self.noise.items()}

    # ----- Result -----

    @torch.no_grad()
    def result(self) -> Projection:
        """The better start of each image as it is now."""
        ws = self._ws(self.latents.detach())
        count = len(self.targets)
        after = self.distance(self._draw(ws, self.noise), self.targets.repeat(len(STARTS), 1, 1, 1))
        best = after.unflatten(0, (len(STARTS), count)).argmin(0)
        chosen, noise = self._of_start(ws, best), {k: v.detach() for k, v in self._noise_of_start(best).items()}
        images, drawn = self._draw(chosen, noise), self._draw(chosen)
        mean_image, random = self._draw(self.mean[None]), self._draw(self.random[:_COMPARED])
        distances = []
        for k, target in enumerate(self.targets):
            random_distance = self.distance(random, target.expand_as(random)).mean()
            values = [self.distance(each, target[None]) for each in (images[k : k + 1], drawn[k : k + 1], mean_image)]
            names = ("projection", "model_noise", "mean", "random")
            distances.append({n: float(v) for n, v in zip(names, [*values, random_distance], strict=True)})
        return Projection(
            chosen.cpu(),
            {name: each.cpu() for name, each in noise.items()},
            to_uint8(images).cpu(),
            to_uint8(drawn).cpu(),
            to_uint8(mean_image[0]).cpu(),
            to_uint8(random[0]).cpu(),
            [STARTS[int(k)] for k in best],
            distances,
            self.frames,
        )

    # ----- State -----

    def state(self) -> dict[str, Tensor]:
        """Everything that :meth:`load_state` needs to go on as if nothing had happened."""
        tensors = {"step": torch.tensor(self.step), "frames": self.frames}
        for name, parameter in self._parameters().items():
            tensors[name] = parameter.detach()
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"{name}.{key}"] = value
        return tensors

    def load_state(self, tensors: Mapping[str, Tensor], where: str) -> None:
        """Go on from ``state()``.

        Raises:
            SnapshotError: it is not one of this batch; ``where`` names the file.
        """
        try:
            step = int(tensors["step"])
            with torch.no_grad():
                for name, parameter in self._parameters().items():
                    if tensors[name].shape != parameter.shape:
                        raise KeyError(name)
                    parameter.copy_(tensors[name])
                    if step:
                        # Adam keeps its count of steps on the CPU.
                        state = {"step": tensors[f"{name}.step"].clone()}
                        for key in ("exp_avg", "exp_avg_sq"):
                            state[key] = tensors[f"{name}.{key}"].to(parameter.device)
                        self.optimizer.state[parameter] = state
            self.step, self.frames = step, tensors["frames"]
        except (KeyError, ValueError, RuntimeError) as error:
            raise SnapshotError(
                f"{where}: not a state of this projection ({error}); delete it, or give --overwrite"
            ) from error

    def _parameters(self) -> dict[str, Tensor]:
        return {"latents": self.latents, **{f"noise.{name}": each for name, each in self.noise.items()}}


def noise_correlation(maps: Any) -> Tensor:
    """Squared correlation of neighbours, at all scales, summed over maps ``[B, 1, H, W]`` and images (appendix D)."""
    total: Tensor = torch.zeros(())
    for noise in maps:
        total = total.to(noise.device)
        while True:
            for axis in (2, 3):
                total = total + (noise * noise.roll(1, axis)).mean((1, 2, 3)).square().sum()
            if min(noise.shape[2:]) <= _NOISE_COARSEST:
                break
            noise = F.avg_pool2d(noise, 2) * 2  # averages of four have half the deviation
    return total


def _ramp(progress: float, step: int, steps: int) -> float:
    """Share of the learning rate: linear from zero, then 1, then a cosine to zero."""
    up = min(1.0, (step + 1) / max(1, _RAMP_UP * steps))
    down = min(1.0, (1 - progress) / _RAMP_DOWN)
    return up * (0.5 - 0.5 * math.cos(math.pi * down))


def project(
    generator: Generator,
    images: Tensor,
    *,
    steps: int = DEFAULT_STEPS,
    seed: int = 0,
    distance: ImageDistance | None = None,
    optimize_noise: bool = True,
    on_step: Callable[[int, float], None] | None = None,
) -> Projection:
    """Latents of space w that reproduce images, all in one batch.

    Args:
        generator: the model.
        images: uint8 ``[N, 3, H, W]`` of the model's size, or float32 in [-1, 1].
        steps: of the optimisation; the command's default.
        seed: of its random numbers.
        distance: see ``projection.distance``; None: LPIPS if its weights are on this machine, otherwise pixels.
        optimize_noise: whether noise maps are optimised, too.
        on_step: called with the number of steps made, and the mean distance.

    Returns:
        ``latents`` float32 ``[N, m+1, L, w]`` (k-GAN: m), for ``sample(generator, latents=…, space="w")``, and more.

    Raises:
        ConfigError: images or a number of steps that do not fit, or a model without space w.
    """
    from ganformer_cli.projection.distance import open_image_distance

    device = next(generator.parameters()).device
    targets = from_uint8(images) if images.dtype == torch.uint8 else images.float()
    settings = ProjectionSettings(steps, seed, optimize_noise=optimize_noise)
    projector = Projector(generator, targets, distance or open_image_distance("auto", device), settings)
    while not projector.is_done:
        value = projector.advance()
        if on_step is not None:
            on_step(projector.step, value)
    return projector.result()


def joined(parts: Sequence[Projection]) -> Projection:
    """The projections of several batches as one."""
    first = parts[0]
    return first._replace(
        latents=torch.cat([each.latents for each in parts]),
        noise={name: torch.cat([each.noise[name] for each in parts]) for name in first.noise},
        images=torch.cat([each.images for each in parts]),
        drawn=torch.cat([each.drawn for each in parts]),
        starts=[start for each in parts for start in each.starts],
        distances=[row for each in parts for row in each.distances],
        frames=torch.cat([each.frames for each in parts], dim=1),
    )
