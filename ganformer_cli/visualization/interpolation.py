"""From one image to the next: ways through latent space, as a film and a sheet."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ganformer_cli.errors import ConfigError
from ganformer_cli.sampling import (
    Space,
    labels_from_seeds,
    latents_from_seeds,
    map_latents,
    sample_latents,
    slerp,
)
from ganformer_cli.sampling.image_files import Images, save_png
from ganformer_cli.sampling.image_writer import ImageJob
from ganformer_cli.sampling.latents import with_layers
from ganformer_cli.visualization.animation import Film
from ganformer_cli.visualization.grids import image_grid
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
    """How a film moves from image to image."""

    interpolation_density: int  # steps from one image to the next
    interpolate_in: Literal["w", "z"]  # straight in w, along great circles in z
    loop: bool  # and back to the first image
    film: Literal["gif", "webp", "mp4", "frames"]  # frames: a folder of PNG files
    fps: float
    scale: int  # each pixel becomes so many across and down
    film_grid: tuple[int, int]  # columns and rows of walks that are shown side by side
    component: int | None  # only this one moves; None for all
    rich_num: int  # each walk leads through so many images


class SheetFilm:
    """A film of the images of a job, and a sheet with some of its frames."""

    def __init__(
        self,
        job: ImageJob,
        settings: FilmSettings,
        stem: str,
        frames: int,
        size: tuple[int, int],
        metadata: Mapping[str, Any],
    ) -> None:
        self.job, self.plan, self.settings = job, job.plan, settings
        place = job.plan.sheets / stem
        self.film = Film(place, settings.film, frames, size, fps=settings.fps, scale=settings.scale, metadata=metadata)
        self.sheet = place.with_name(f"{stem}.png")
        #: The files with their metadata.
        self.files = {self.sheet: dict(metadata), **self.film.files}

    @property
    def record(self) -> dict[str, Any]:
        """What ``--json`` says."""
        return {"film": str(self.film.path), "sheet": str(self.sheet), "frames": self.film.frames}

    def draw(self, update: Callable[[int], None]) -> None:
        """Draw and write film and sheet; ``update`` is called with how many frames are drawn."""
        raise NotImplementedError

    def _save(self, frames: Iterable[Images], sheet: Callable[[], Images]) -> None:
        """Write the film, and then the ``sheet`` that has come of its frames."""
        self.job.folders.announce(self.files)
        self.film.write(frames)
        save_png(self.sheet, sheet(), self.files[self.sheet])
        self.job.folders.add(self.files)


class InterpolationFilm(SheetFilm):
    """The film and the sheet of the first images of a plan.

    Args:
        job: whose images; with several walks, the first walk has the first of them, and so on.
        size: height and width of an image, cropped.

    Raises:
        ConfigError: too few images, or a film that cannot be made.
    """

    def __init__(self, job: ImageJob, settings: FilmSettings, size: tuple[int, int]) -> None:
        plan = job.plan
        columns, rows = settings.film_grid
        count = columns * rows
        ends = min(settings.rich_num, len(plan.numbers) // count)
        if ends < 2:
            wanted = "there is only one; ask for two or more (--seeds 0-4, --rich-num 5)"
            if count > 1:
                wanted = f"--film-grid {columns}x{rows} needs at least {2 * count}; ask for more (--images-num)"
                if settings.rich_num < 2:
                    wanted = "--rich-num 1 gives each walk only one; say --rich-num 2 or more"
            raise ConfigError(f"--interpolate: moves from one image to the next, and {wanted}")
        numbers = [int(number) for number in plan.numbers[: ends * count]]
        #: The images that each walk leads through: seeds, or rows of given latents.
        self.walks = [numbers[k * ends : (k + 1) * ends] for k in range(count)]
        stem = "interpolation"
        if settings.interpolate_in == "z":
            stem += "-z"
        if settings.component is not None:
            stem += f"-component{settings.component}"
        grid = {}
        if count > 1:
            stem += f"-{columns}x{rows}"
            grid = {"grid": [columns, rows]}
        metadata = plan.metadata(
            figure="interpolation",
            ends=ends,
            density=settings.interpolation_density,
            interpolated_in=settings.interpolate_in,
            component=settings.component,
            loop=settings.loop,
            **grid,
        )
        frames = count_frames(ends, settings.interpolation_density, loop=settings.loop)
        super().__init__(job, settings, stem, frames, (size[0] * rows, size[1] * columns), metadata)

    def draw(self, update: Callable[[int], None]) -> None:
        """Random noise is the same in all frames of a walk, or it would flicker."""
        rows: list[list[Images | None]] = []
        names: list[str] = []

        def frames() -> Iterator[Images]:
            walks = [
                self._collect(map(self.job.cropped, self._images(numbers)), numbers, rows, names)
                for numbers in self.walks
            ]
            for index, cells in enumerate(zip(*walks, strict=True)):
                yield cells[0] if len(cells) == 1 else image_grid(np.stack(cells), self.settings.film_grid[0])
                update(index + 1)

        self._save(frames(), lambda: image_table(rows, rows=names))

    def _collect(
        self, frames: Iterable[Images], numbers: Sequence[int], rows: list[list[Images | None]], names: list[str]
    ) -> Iterator[Images]:
        """Pass frames of a walk on, and put some of each way into a row of the sheet."""
        density, loop = self.settings.interpolation_density, self.settings.loop
        columns = min(density, MAX_COLUMNS)
        shown = {round(step * density / columns) for step in range(columns + 1)}
        ends = [*numbers, numbers[0]] if loop else numbers
        ways = min(len(ends) - 1, MAX_ROWS - len(rows))
        own: list[list[Images | None]] = [[] for _ in range(ways)]
        rows += own
        names += [f"{first} to {second}" for first, second in itertools.pairwise(ends)][:ways]
        for index, frame in enumerate(frames):
            way, step = divmod(index, density)
            if step in shown and way < ways:
                own[way].append(fit_to_cell(frame))
            if step == 0 and 0 < way <= ways:
                own[way - 1].append(fit_to_cell(frame))
            yield frame
        if loop and ways == len(ends) - 1:
            own[-1].append(own[0][0])

    def _images(self, numbers: Sequence[int]) -> Iterator[Images]:
        """The frames of a walk, drawn way by way: the latents of all together may be many."""
        settings, job = self.settings, self.job
        space, ends, labels = self._ends(numbers)
        steps: dict[str, Any] = {"steps": settings.interpolation_density, "loop": settings.loop}
        each_label = itertools.repeat(None) if labels is None else interpolate(labels, spherical=False, **steps)
        each_latents = interpolate(ends, spherical=space == "z", component=settings.component, **steps)
        for latents, own in zip(each_latents, each_label, strict=labels is not None):
            for sample in sample_latents(
                job.generator,
                latents,
                space=space,
                labels=own,
                truncation_psi=self.plan.psis[0] if space == "z" else 1.0,
                noise_mode=job.noise_mode,
                noise_seed=numbers[0],
                batch_size=job.batch_size,
            ):
                yield sample.image

    def _ends(self, numbers: Sequence[int]) -> tuple[Space, Tensor, Tensor | None]:
        """Space, latents and labels of the images to move between; labels where they act on the frames."""
        plan, generator, label = self.plan, self.job.generator, self.job.label
        if plan.latents is None:
            ends = latents_from_seeds(generator, numbers)
        else:
            ends = torch.from_numpy(plan.latents[numbers].astype("float32"))
        if plan.settings.get("space") == "w":
            return "w", with_layers(generator, ends), None
        own = labels_from_seeds(generator, numbers)
        labels = own if label is None else torch.tensor(label).expand(len(own), -1)
        if self.settings.interpolate_in == "w":
            return "w", map_latents(generator, ends, labels=labels, truncation_psi=plan.psis[0]), None
        if self.settings.component is not None:
            # One component alone cannot change the label: it stays that of the first image.
            labels = labels[:1].expand(len(labels), -1)
        return "z", ends, labels if generator.config.c_dim else None
