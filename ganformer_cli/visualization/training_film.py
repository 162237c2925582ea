"""A film of a training: the same latents, drawn by one snapshot after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ganformer_cli.errors import ConfigError
from ganformer_cli.sampling import Generator, sample_latents, sample_seeds
from ganformer_cli.sampling.image_files import Images
from ganformer_cli.sampling.image_writer import ImageJob
from ganformer_cli.visualization.grids import grid_columns, image_grid
from ganformer_cli.visualization.interpolation import FilmSettings, SheetFilm
from ganformer_cli.visualization.sheets import fit_to_cell, image_table

#: A frame shows no more images, the sheet no more snapshots.
MAX_IMAGES, MAX_COLUMNS = 64, 12


class TrainingFilm(SheetFilm):
    """The film ``training`` and its sheet, which shows the first images at some of the snapshots.

    Args:
        job: whose images; the first ``MAX_IMAGES`` of them with the first psi.
        snapshots: of the run, oldest first, each with what the sheet calls it.
        load: opens a snapshot.
        size: height and width of an image, cropped.

    Raises:
        ConfigError: fewer than two snapshots, or a film that cannot be made.
    """

    def __init__(
        self,
        job: ImageJob,
        settings: FilmSettings,
        snapshots: Sequence[tuple[Path, str]],
        load: Callable[[Path], Generator],
        size: tuple[int, int],
    ) -> None:
        if len(snapshots) < 2:
            raise ConfigError(
                f"--training-film: needs two snapshots of a run, and there is {len(snapshots) or 'none'}; give the run "
                "with --model or --expname; training keeps more of them with a larger --last-snapshots"
            )
        plan = job.plan
        self.snapshots, self.load = snapshots, load
        self.numbers = [int(number) for number in plan.numbers[:MAX_IMAGES]]
        self.columns = grid_columns(len(self.numbers), *size)
        rows = -(-len(self.numbers) // self.columns)
        metadata = plan.metadata(figure="training-film", snapshots=[path.name for path, _ in snapshots])
        whole = (size[0] * rows, size[1] * self.columns)
        super().__init__(job, settings, "training", len(snapshots), whole, metadata)

    def draw(self, update: Callable[[int], None]) -> None:
        """See ``SheetFilm``."""
        count = min(len(self.snapshots), MAX_COLUMNS)
        shown = sorted({round(k * (len(self.snapshots) - 1) / (count - 1)) for k in range(count)})
        columns: list[list[Images]] = []

        def frames() -> Iterator[Images]:
            for index, (path, _) in enumerate(self.snapshots):
                images = [self.job.cropped(image) for image in self._images(self.load(path))]
                if index in shown:
                    columns.append([fit_to_cell(image) for image in images[: self.settings.rich_num]])
                yield image_grid(np.stack(images), self.columns)
                update(index + 1)

        def sheet() -> Images:
            rows = [list(row) for row in zip(*columns, strict=True)]
            names = [f"{self.plan.kind} {number}" for number in self.numbers]
            captions = [self.snapshots[index][1] for index in shown]
            return image_table(rows, columns=captions, rows=names[: len(rows)])

        self._save(frames(), sheet)

    def _images(self, generator: Generator) -> Iterator[Images]:
        job, plan = self.job, self.plan
        options: dict[str, Any] = {"noise_mode": job.noise_mode, "batch_size": job.batch_size, "labels": job.label}
        options["truncation_psi"] = plan.psis[0]
        if plan.latents is None:
            samples = sample_seeds(generator, self.numbers, **options)
        else:
            options |= {"rows": self.numbers, "space": plan.settings["space"]}
            samples = sample_latents(generator, plan.latents, **options)
        return (sample.image for sample in samples)
