"""Images with their sheets, figures, films and ranking in a folder: what is asked for, what is there, and the rest."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from ganformer_cli.errors import OutputError
from ganformer_cli.files import Warn, ensure_writable_folder
from ganformer_cli.sampling import Generator
from ganformer_cli.sampling.image_folder import ImagePlan, OutputFolders
from ganformer_cli.sampling.image_writer import ImageJob
from ganformer_cli.visualization.figures import (
    FigureSettings,
    FigureSource,
    draw_figures,
    image_sheets,
    list_figures,
    overviews,
)
from ganformer_cli.visualization.interpolation import FilmSettings, InterpolationFilm, SheetFilm
from ganformer_cli.visualization.ranking import Ranking
from ganformer_cli.visualization.training_film import TrainingFilm


class ShownProgress(Protocol):
    """What is told how far the work is."""

    def start(self, total: float, unit: str, description: str, *, done: float = 0.0) -> None:
        """A task begins."""

    def update(self, done: float) -> None:
        """So much of it is done."""

    def show(self, description: str, done: float, total: float, unit: str) -> None:
        """So much is done of a task that may have begun with this call."""


@dataclass(frozen=True)
class GenerationSettings:
    """What is made, wherever that is.

    Args:
        generator: the model.
        header: of its file.
        plan: the images.
        drawing: ``label``, ``noise_mode``, ``ratio`` and ``batch_size`` of :class:`ImageJob`.
        size: height and width of the images in films.
        figures: what is drawn of the images.
        grid: also an overview of all.
        film: how films move; one of interpolations is made with ``interpolates``.
        training_film: of these snapshots with their captions; None makes none.
        load: opens a snapshot.
        open_ranking: prepares the ranking; None ranks nothing.
        save_latents: also the latents.
        overwrite: replace other files of these names, also in a folder of others.
    """

    generator: Generator
    header: Mapping[str, Any]
    plan: ImagePlan
    drawing: Mapping[str, Any]
    size: tuple[int, int]
    figures: FigureSettings
    grid: bool
    film: FilmSettings
    interpolates: bool
    training_film: Sequence[tuple[Path, str]] | None
    load: Callable[[Path], Generator]
    open_ranking: Callable[[ImageJob], Ranking] | None
    save_latents: bool
    overwrite: bool


class Generation:
    """What is to be made in a folder, and what of it is there already.

    Args:
        settings: what is made; the folder is that of its plan.
        progress: told how far it is.
        warn: told what should be known.

    Raises:
        OutputError: something else is in the way.
    """

    def __init__(self, settings: GenerationSettings, progress: ShownProgress, warn: Warn) -> None:
        self.settings, self.progress, self.plan = settings, progress, settings.plan
        plan, sheets = self.plan, image_sheets(settings.figures)
        self.folders = OutputFolders(overwrite=settings.overwrite, warn=warn)
        self.job = ImageJob(settings.generator, plan, self.folders, **settings.drawing, sheets=sheets)
        self.overviews = overviews(plan, settings.generator.output_size, grid=settings.grid)
        source = FigureSource(settings.generator, settings.header, plan, settings.drawing["label"])
        self.figures = list(list_figures(settings.figures, source, self._show_part))
        self.films: dict[str, SheetFilm] = {}  # by their name in --json
        if settings.interpolates:
            self.films["interpolation"] = InterpolationFilm(self.job, settings.film, settings.size)
        if settings.training_film is not None:
            self.films["training_film"] = TrainingFilm(
                self.job, settings.film, settings.training_film, settings.load, settings.size
            )
        self.ranking = None if settings.open_ranking is None else settings.open_ranking(self.job)
        self.has_sheets = bool(sheets.metadata or self.overviews or self.figures or self.films or self.ranking)
        self._look()

    def _look(self) -> None:
        """Find what is there."""
        plan, folders = self.plan, self.folders
        if plan.in_subfolders:
            self.progress.start(len(plan), "images", "looking for what is there")
        if not self.settings.overwrite:
            folders.refuse_strangers(plan.folder, "--output-dir")
            if self.has_sheets:
                folders.refuse_strangers(plan.sheets, "--sheets-dir")
        self.kept = self.job.find_kept(self.progress.update if plan.in_subfolders else None)
        self._missing = [each for each in self.overviews.values() if not folders.holds({each.path: each.metadata})]
        folders.holds({each.path: each.metadata for each in self.figures})
        self._latents_kept = self.settings.save_latents and self.job.keeps_latents()
        self._ranking_kept = self.ranking is not None and folders.holds(self.ranking.files)
        self._films_kept = {name for name, each in self.films.items() if folders.holds(each.files)}

    def make(self) -> dict[str, Any]:
        """Make what is not there; returns what ``--json`` says of the figures.

        Raises:
            OutputError: a folder cannot be written to.
        """
        settings, progress, plan = self.settings, self.progress, self.plan
        ensure_writable_folder(plan.folder, "--output-dir")
        if self.has_sheets:
            ensure_writable_folder(plan.sheets, "--sheets-dir")
        if not all(self.kept) or self._missing:
            progress.start(len(plan), "images", "drawing", done=sum(self.kept))
            shown = {index for sheet in self._missing for index in sheet.images}
            images = self.job.draw(self.kept, shown, progress.update)
            for sheet in self._missing:
                sheet.save(images, self.folders)
        for name, each in self.films.items():
            if name not in self._films_kept:
                progress.start(each.film.frames, "frames", "filming")
                each.draw(progress.update)
        records = draw_figures(self.figures, self.folders, self._show_part)
        if self.ranking is not None and not self._ranking_kept:
            self.ranking.draw(lambda total, title: progress.start(total, "images", title), progress.update)
        if settings.save_latents and not self._latents_kept:
            self.job.save_latents()
        return records

    def _show_part(self, title: str, done: int, total: int) -> None:
        self.progress.show(title, done, total, "parts")


def plan_generation(settings: GenerationSettings, progress: ShownProgress, warn: Warn, *, search: bool) -> Generation:
    """What is to be made in the plan's folder, or, with ``search``, in the first free one of its numbered neighbours.

    Raises:
        OutputError: something else is in the way.
    """
    folder = settings.plan.folder
    try:
        return Generation(settings, progress, warn)
    except OutputError:
        if not search:
            raise
    number = 0
    while True:
        number += 1
        other = folder.with_name(f"{folder.name}-{number:03d}")
        with contextlib.suppress(OutputError):
            found = Generation(replace(settings, plan=replace(settings.plan, folder=other)), progress, warn)
            warn(f"{folder} holds other files, so these go to {other}; say --output-dir to choose")
            return found
