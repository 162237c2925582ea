"""From one image to the next: ways through latent space, as a film and a sheet."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ganformer_cli.errors import ConfigError
from ganformer_cli.files import remove
from ganformer_cli.sampling import (
    Generator,
    NoiseMode,
    Space,
    labels_from_seeds,
    latents_from_seeds,
    map_latents,
    sample_latents,
    slerp,
)
from ganformer_cli.sampling.image_files import Images, crop_to_ratio, save_png
from ganformer_cli.sampling.image_folder import ImagePlan, OutputFolders
from ganformer_cli.visualization.animation import check_film, save_film
from ganformer_cli.visualization.sheets import fit_to_cell, image_table

#: The sheet shows at most so many steps from an image to the next, and so many rows.
MAX_COLUMNS, MAX_ROWS = 16, 64


def interpolate(
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


def count_frames(ends: int, steps: int, *, loop: bool) -> int:
    """How many latents ``interpolate`` gives in all."""
    return ends * steps if loop else (ends - 1) * steps + 1


@dataclass(frozen=True)
class FilmSettings:
    """How a film moves from image to image.

    Args:
        interpolation_density: steps from one image to the next.
        interpolate_in: space ``w``, straight, or ``z``, along great circles.
        loop: and back to the first image.
        film: ``gif``, ``webp``, ``mp4`` or ``frames``, a folder of PNG files.
        fps: frames a second.
        component: only this one moves; None for all.
        rich_num: between the first so many images.
    """

    interpolation_density: int
    interpolate_in: Literal["w", "z"]
    loop: bool
    film: Literal["gif", "webp", "mp4", "frames"]
    fps: float
    component: int | None
    rich_num: int


class InterpolationFilm:
    """The film and the sheet of the first images of a plan.

    Args:
        settings: of the film.
        plan: the images.

    Raises:
        ConfigError: too few images, or a film that cannot be made.
    """

    def __init__(self, settings: FilmSettings, plan: ImagePlan, size: tuple[int, int]) -> None:
        self.settings, self.plan = settings, plan
        self.numbers = [int(number) for number in plan.numbers[: settings.rich_num]]
        if len(self.numbers) < 2:
            raise ConfigError(
                "--interpolate: moves from one image to the next, and there is only one; ask for two or more (--seeds "
                "0-4, --rich-num 5)"
            )
        self.frames = count_frames(len(self.numbers), settings.interpolation_density, loop=settings.loop)
        check_film(settings.film, self.frames, *size)
        stem = "interpolation"
        if settings.interpolate_in == "z":
            stem += "-z"
        if settings.component is not None:
            stem += f"-component{settings.component}"
        in_frames = settings.film == "frames"
        self.sheet = plan.sheets / f"{stem}.png"
        self.film = plan.sheets / (stem if in_frames else f"{stem}.{settings.film}")
        metadata = plan.metadata(
            figure="interpolation",
            ends=len(self.numbers),
            density=settings.interpolation_density,
            interpolated_in=settings.interpolate_in,
            component=settings.component,
            loop=settings.loop,
        )
        #: The files with their metadata.
        self.files: dict[Path, dict[str, Any]] = {self.sheet: metadata}
        if in_frames:
            self.files |= {self._frame(index): {**metadata, "frame": index} for index in range(self.frames)}
        else:
            self.files[self.film] = {**metadata, "fps": settings.fps}

    @property
    def record(self) -> dict[str, Any]:
        """What ``--json`` says."""
        return {"film": str(self.film), "sheet": str(self.sheet), "frames": self.frames}

    def draw(
        self,
        generator: Generator,
        folders: OutputFolders,
        *,
        label: list[float] | None,
        noise_mode: NoiseMode,
        ratio: float | None,
        batch_size: int,
        update: Callable[[int], None],
    ) -> None:
        """Draw and write film and sheet.

        Args:
            generator: the model.
            folders: where the files are listed.
            label: of all images; None is each seed's own.
            noise_mode: as for ``sample_images``; random noise is the same in all frames, or it would flicker.
            ratio: crop the frames to height / width.
            batch_size: as for ``sample_images``.
            update: called with how many frames are drawn.
        """
        settings, density = self.settings, self.settings.interpolation_density
        columns = min(density, MAX_COLUMNS)
        shown = {round(step * density / columns) for step in range(columns + 1)}
        ways = len(self.numbers) - (not settings.loop)
        rows: list[list[Images | None]] = [[] for _ in range(min(ways, MAX_ROWS))]

        def frames() -> Iterator[Images]:
            drawn = self._images(generator, label, noise_mode=noise_mode, batch_size=batch_size)
            for index, image in enumerate(drawn):
                frame = image if ratio is None else crop_to_ratio(image, ratio)
                way, step = divmod(index, density)
                if step in shown and way < len(rows):
                    rows[way].append(fit_to_cell(frame))
                if step == 0 and 0 < way <= len(rows):
                    rows[way - 1].append(fit_to_cell(frame))
                yield frame
                update(index + 1)
            if settings.loop and len(rows) == ways:
                rows[-1].append(rows[0][0])

        folders.announce(self.files)
        if settings.film == "frames":
            for index, image in enumerate(frames()):
                save_png(self._frame(index), image, self.files[self._frame(index)])
            # Of a longer film that is replaced: players take every frame that they find.
            for surplus in set(self.film.glob("frame*.png")) - self.files.keys():
                remove(surplus)
        else:
            save_film(self.film, frames(), per_second=settings.fps, metadata=self.files[self.film])
        numbers = [*self.numbers, self.numbers[0]]
        names = [f"{first} to {second}" for first, second in itertools.pairwise(numbers)]
        save_png(self.sheet, image_table(rows, rows=names[: len(rows)]), self.files[self.sheet])
        folders.add(self.files)

    def _frame(self, index: int) -> Path:
        return self.film / f"frame{index:05d}.png"

    def _images(
        self, generator: Generator, label: list[float] | None, *, noise_mode: NoiseMode, batch_size: int
    ) -> Iterator[Images]:
        """The frames, drawn way by way: the latents of all together may be many."""
        settings = self.settings
        space, ends, labels = self._ends(generator, label)
        steps: dict[str, Any] = {"steps": settings.interpolation_density, "loop": settings.loop}
        each_label = itertools.repeat(None) if labels is None else interpolate(labels, spherical=False, **steps)
        each_latents = interpolate(ends, spherical=space == "z", component=settings.component, **steps)
        for latents, own in zip(each_latents, each_label, strict=labels is not None):
            for sample in sample_latents(
                generator,
                latents,
                space=space,
                labels=own,
                truncation_psi=self.plan.psis[0] if space == "z" else 1.0,
                noise_mode=noise_mode,
                noise_seed=self.numbers[0],
                batch_size=batch_size,
            ):
                yield sample.image

    def _ends(self, generator: Generator, label: list[float] | None) -> tuple[Space, Tensor, Tensor | None]:
        """Space, latents and labels of the images to move between; labels where they act on the frames."""
        plan = self.plan
        if plan.latents is None:
            ends = latents_from_seeds(generator, self.numbers)
        else:
            ends = torch.from_numpy(plan.latents[self.numbers].astype("float32"))
        if plan.settings.get("space") == "w":
            layers = (len(ends), -1, generator.config.num_ws, -1)
            return "w", ends if ends.ndim == 4 else ends[:, :, None].expand(layers), None
        own = labels_from_seeds(generator, self.numbers)
        labels = own if label is None else torch.tensor(label).expand(len(own), -1)
        if self.settings.interpolate_in == "w":
            return "w", map_latents(generator, ends, labels=labels, truncation_psi=plan.psis[0]), None
        if self.settings.component is not None:
            # One component alone cannot change the label: it stays that of the first image.
            labels = labels[:1].expand(len(labels), -1)
        return "z", ends, labels if generator.config.c_dim else None
