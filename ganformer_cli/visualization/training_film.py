"""A film of a training: the same latents, drawn by one snapshot after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ganformer_cli.errors import ConfigError
from ganformer_cli.sampling import Generator, NoiseMode, sample_latents, sample_seeds
from ganformer_cli.sampling.image_files import Images, crop_to_ratio, save_png
from ganformer_cli.sampling.image_folder import ImagePlan, OutputFolders
from ganformer_cli.visualization.animation import Film
from ganformer_cli.visualization.grids import grid_columns, image_grid
from ganformer_cli.visualization.interpolation import FilmSettings
from ganformer_cli.visualization.sheets import fit_to_cell, image_table

#: A frame shows no more images, the sheet no more snapshots.
MAX_IMAGES, MAX_COLUMNS = 64, 12


class TrainingFilm:
    """The film ``training`` and its sheet, which shows the first images at some of the snapshots.

    Args:
        plan: the images; the first ``MAX_IMAGES`` of them with the first psi.
        snapshots: of the run, oldest first, each with what the sheet calls it.
        size: height and width of an image, cropped.

    Raises:
        ConfigError: fewer than two snapshots, or a film that cannot be made.
    """

    def __init__(
        self, settings: FilmSettings, plan: ImagePlan, snapshots: Sequence[tuple[Path, str]], size: tuple[int, int]
    ) -> None:
        if len(snapshots) < 2:
            raise ConfigError(
                f"--training-film: needs two snapshots of a run, and there is {len(snapshots) or 'none'}; give the run "
                "with --model or --expname; training keeps more of them with a larger --last-snapshots"
            )
        self.settings, self.plan, self.snapshots = settings, plan, snapshots
        self.numbers = [int(number) for number in plan.numbers[:MAX_IMAGES]]
        self.columns = grid_columns(len(self.numbers), *size)
        rows = -(-len(self.numbers) // self.columns)
        metadata = plan.metadata(figure="training-film", snapshots=[path.name for path, _ in snapshots])
        self.film = Film(
            plan.sheets / "training",
            settings.film,
            len(snapshots),
            (size[0] * rows, size[1] * self.columns),
            fps=settings.fps,
            scale=settings.scale,
            metadata=metadata,
        )
        self.sheet = plan.sheets / "training.png"
        #: The files with their metadata.
        self.files = {self.sheet: metadata, **self.film.files}

    @property
    def record(self) -> dict[str, Any]:
        """What ``--json`` says."""
        return {"film": str(self.film.path), "sheet": str(self.sheet), "frames": self.film.frames}

    def draw(
        self,
        load: Callable[[Path], Generator],
        folders: OutputFolders,
        *,
        label: list[float] | None,
        noise_mode: NoiseMode,
        ratio: float | None,
        batch_size: int,
        update: Callable[[int], None],
    ) -> None:
        """Draw and write film and sheet; ``load`` opens a snapshot, the rest is as for ``InterpolationFilm.draw``."""
        count = min(len(self.snapshots), MAX_COLUMNS)
        shown = sorted({round(k * (len(self.snapshots) - 1) / (count - 1)) for k in range(count)})
        columns: list[list[Images]] = []

        def frames() -> Iterator[Images]:
            for index, (path, _) in enumerate(self.snapshots):
                images = list(self._images(load(path), label=label, noise_mode=noise_mode, batch_size=batch_size))
                if ratio is not None:
                    images = [crop_to_ratio(image, ratio) for image in images]
                if index in shown:
                    columns.append([fit_to_cell(image) for image in images[: self.settings.rich_num]])
                yield image_grid(np.stack(images), self.columns)
                update(index + 1)

        folders.announce(self.files)
        self.film.write(frames())
        rows = [list(row) for row in zip(*columns, strict=True)]
        names = [f"{self.plan.kind} {number}" for number in self.numbers]
        captions = [self.snapshots[index][1] for index in shown]
        save_png(self.sheet, image_table(rows, columns=captions, rows=names[: len(rows)]), self.files[self.sheet])
        folders.add(self.files)

    def _images(
        self, generator: Generator, *, label: list[float] | None, noise_mode: NoiseMode, batch_size: int
    ) -> Iterator[Images]:
        plan = self.plan
        options: dict[str, Any] = {"noise_mode": noise_mode, "batch_size": batch_size, "labels": label}
        options["truncation_psi"] = plan.psis[0]
        if plan.latents is None:
            samples = sample_seeds(generator, self.numbers, **options)
        else:
            options |= {"rows": self.numbers, "space": plan.settings["space"]}
            samples = sample_latents(generator, plan.latents, **options)
        return (sample.image for sample in samples)
