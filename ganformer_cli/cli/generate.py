"""``ganformer generate``: images by seed or from given latents, and what the components attend to."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from ganformer_cli.cli.devices import check_precision, pick_device
from ganformer_cli.cli.generate_codes import choose_codes
from ganformer_cli.cli.generate_options import DEFAULT_COUNT, check_options, generate_options
from ganformer_cli.cli.generate_ranking import open_ranking
from ganformer_cli.cli.label_choice import chosen_label, label_records
from ganformer_cli.cli.model_choice import ModelChoice, run_of
from ganformer_cli.cli.options import GroupedCommand, given_options, warn
from ganformer_cli.cli.output import echo, echo_json
from ganformer_cli.cli.progress import ProgressBar
from ganformer_cli.errors import OutputError
from ganformer_cli.files import ensure_writable_folder, sha256_of

if TYPE_CHECKING:
    from ganformer_cli.models import Generator
    from ganformer_cli.sampling.image_folder import ImagePlan, OutputFolders
    from ganformer_cli.sampling.image_writer import ImageJob
    from ganformer_cli.visualization.figures import Figure, Overview
    from ganformer_cli.visualization.interpolation import SheetFilm
    from ganformer_cli.visualization.ranking import Ranking


@click.command("generate", cls=GroupedCommand)
@generate_options
def command(
    model: ModelChoice,
    seeds: tuple[int, ...] | None,
    images_num: int | None,
    latents: Path | None,
    space: Any,
    psis: tuple[float, ...],
    noise: Any,
    class_index: int | str | None,
    label: tuple[float, ...] | None,
    ratio: float | None,
    output_dir: Path,
    sheets_dir: Path | None,
    overwrite: bool,
    image_format: str,
    save_latents: bool,
    grid: bool,
    codes: dict[str, Any],
    figures: dict[str, Any],
    shared: dict[str, Any],
    film: dict[str, Any],
    rank: dict[str, Any],
    as_json: bool,
    gpus: tuple[int, ...] | None,
    batch_size: int | None,
    precision: str,
) -> None:
    """Generate images with a trained model.

    Each seed gives one image, `seed0007.png` and so on; rows of --latents give `image0000.png` and so on. The same
    model and seed always give the same image, with every --batch-size. Each file contains the model, seed and settings
    that made it, which ganformer info IMAGE shows.

    \b
      ganformer generate                                 with the newest run
      ganformer generate --model results/faces-002 --seeds 0-63 --grid
      ganformer generate --expname faces --maps --images-num 8
      ganformer generate --seeds 3,8,11 --interpolate --loop --film webp
      ganformer generate --images-num 4 --save-latents   and again, perhaps changed:
      ganformer generate --latents images/latents.npy --output-dir changed
    """
    given = given_options(click.get_current_context())
    check_options(given, figures, film)
    file = model.find()

    import numpy as np

    from ganformer_cli.original_snapshots.model_files import load_model
    from ganformer_cli.sampling import read_latents
    from ganformer_cli.sampling.image_files import crop_to_ratio
    from ganformer_cli.sampling.image_folder import ImagePlan, OutputFolders
    from ganformer_cli.sampling.image_writer import ImageJob, fitting_batch_size
    from ganformer_cli.visualization.figures import (
        FigureSettings,
        FigureSource,
        draw_figures,
        image_sheets,
        list_figures,
        overviews,
    )
    from ganformer_cli.visualization.interpolation import FilmSettings, InterpolationFilm
    from ganformer_cli.visualization.training_film import TrainingFilm

    device = pick_device(gpus)
    check_precision(precision, [device])
    generator, header = load_model(file, device, precision)
    code_settings = choose_codes(generator, codes, given, file)
    if space == "w" or code_settings:
        psis = (1.0,)
    elif "psis" not in given and isinstance(header.get("truncation_psi"), float):
        psis = (header["truncation_psi"],)  # the model's own, as TensorFlow's networks have one
    psis = tuple(dict.fromkeys(psis))
    if image_format == "npy":
        generator.keep_whole()
    chosen = chosen_label(generator, class_index, label, drawn=space == "z")
    size = generator.config.image_size
    if ratio is not None:  # complains before anything is done
        size = crop_to_ratio(np.empty(size, np.uint8), ratio).shape[:2]
    array = None if latents is None else read_latents(latents, generator, space)
    numbers = seeds or range(len(array) if array is not None else images_num or DEFAULT_COUNT)
    figure_settings = FigureSettings(**figures, **shared)
    figure_settings.check(generator.config, len(numbers))
    run = run_of(file)
    names = {"file": file.name} if run is None else {"run": run.name, "file": file.name}
    settings: dict[str, Any] = {"model": sha256_of(file), **names, "noise": noise, **chosen.metadata, "ratio": ratio}
    settings |= code_settings
    if precision != "fp32":
        settings["precision"] = precision
    if array is not None:
        settings["space"] = space
    interpolates, films_training = film.pop("interpolate"), film.pop("training_film")
    film_settings = FilmSettings(**film, **shared)
    ranks = rank.pop("rank") is not None
    sheets = image_sheets(figure_settings)
    batch = batch_size or fitting_batch_size(generator)

    def plan_work(folder: Path) -> Work:
        plan = ImagePlan(folder, image_format, numbers, psis, settings, array, sheets_dir)
        folders = OutputFolders(overwrite=overwrite, warn=warn)
        job = ImageJob(generator, plan, folders, chosen.numbers, noise, ratio, batch, sheets)
        wanted = overviews(plan, generator.output_size, grid=grid)
        source = FigureSource(generator, header, plan, chosen.numbers)
        parts = list(list_figures(figure_settings, source, show_part))
        films: dict[str, SheetFilm] = {}
        if interpolates:
            films["interpolation"] = InterpolationFilm(job, film_settings, size)
        if films_training:
            films["training_film"] = TrainingFilm(job, film_settings, _named_snapshots(run), open_snapshot, size)
        ranking = open_ranking(job, header, **rank) if ranks else None
        has_sheets = bool(sheets.metadata or wanted or parts or films or ranking)
        if plan.in_subfolders:
            progress.start(len(plan), "images", "looking for what is there")
        if not overwrite:
            folders.refuse_strangers(plan.folder, "--output-dir")
            if has_sheets:
                folders.refuse_strangers(plan.sheets, "--sheets-dir")
        kept = job.find_kept(progress.update if plan.in_subfolders else None)
        missing = {name: each for name, each in wanted.items() if not folders.holds({each.path: each.metadata})}
        folders.holds({each.path: each.metadata for each in parts})
        return Work(
            plan, folders, job, kept, wanted, missing, parts, films, ranking, has_sheets,
            latents_kept=save_latents and job.keeps_latents(),
            ranking_kept=ranking is not None and folders.holds(ranking.files),
            films_kept={name for name, each in films.items() if folders.holds(each.files)},
        )  # fmt: skip

    def open_snapshot(path: Path) -> Generator:
        return load_model(path, device, precision).generator

    def show_part(title: str, done: int, total: int) -> None:
        progress.show(title, done, total, "parts")

    with ProgressBar() as progress:
        work = _first_free(output_dir, plan_work, search="output_dir" not in given)
        plan, folders, kept = work.plan, work.folders, work.kept
        ensure_writable_folder(plan.folder, "--output-dir")
        if work.has_sheets:
            ensure_writable_folder(plan.sheets, "--sheets-dir")
        if not all(kept) or work.missing:
            progress.start(len(plan), "images", "drawing", done=sum(kept))
            shown = {index for sheet in work.missing.values() for index in sheet.images}
            images = work.job.draw(kept, shown, progress.update)
            for sheet in work.missing.values():
                sheet.save(images, folders)
        for name, each in work.films.items():
            if name not in work.films_kept:
                progress.start(each.film.frames, "frames", "filming")
                each.draw(progress.update)
        figure_records = draw_figures(work.figures, folders, show_part)
        if work.ranking is not None and not work.ranking_kept:
            work.ranking.draw(lambda total, title: progress.start(total, "images", title), progress.update)
    if save_latents and not work.latents_kept:
        work.job.save_latents()
    written: dict[str, Any] = {"kept": sum(kept)}
    if plan.in_subfolders:
        written |= {"images_num": len(plan), "folders": [str(folder) for folder in plan.subfolders]}
    else:
        written["images"] = _image_records(work.job)
    written |= {name: str(sheet.path) for name, sheet in work.overviews.items()}
    if save_latents:
        written["latents"] = str(work.job.latents_file)
    written |= {name: each.record for name, each in work.films.items()}
    if work.ranking is not None:
        written["ranking"] = work.ranking.record()
    written |= figure_records
    if as_json:
        psi = psis[0] if len(psis) == 1 else list(psis)
        record = {"model": str(file), "model_sha256": settings["model"], "truncation_psi": psi, "noise": noise}
        if latents is not None:
            record |= {"given_latents": str(latents), "space": space}
        echo_json({**record, **written})
    else:
        echo(_summary(file, plan, written))


class Work(NamedTuple):
    """What is to be made in a folder, and what of it is there already."""

    plan: ImagePlan
    folders: OutputFolders
    job: ImageJob
    kept: bytearray
    overviews: dict[str, Overview]
    missing: dict[str, Overview]
    figures: list[Figure]
    films: dict[str, SheetFilm]  # by their name in --json
    ranking: Ranking | None
    has_sheets: bool
    latents_kept: bool
    ranking_kept: bool
    films_kept: set[str]


def _first_free(folder: Path, plan_work: Callable[[Path], Work], *, search: bool) -> Work:
    """What is to be made in ``folder``, or, with ``search``, in the first of its numbered neighbours that is free.

    Raises:
        OutputError: something else is in the way.
    """
    try:
        return plan_work(folder)
    except OutputError:
        if not search:
            raise
    number = 0
    while True:
        number += 1
        other = folder.with_name(f"{folder.name}-{number:03d}")
        with contextlib.suppress(OutputError):
            work = plan_work(other)
            warn(f"{folder} holds other files, so these go to {other}; say --output-dir to choose")
            return work


def _named_snapshots(run: Path | None) -> list[tuple[Path, str]]:
    """The snapshots of a run, oldest first, each with its kimg."""
    from ganformer_cli.checkpoints.run_folder import images_in_name, snapshots_of

    snapshots = [] if run is None else [(path, images_in_name(path)) for path in snapshots_of(run)]
    return [(path, f"{images / 1000:g} kimg") for path, images in snapshots if images is not None]


def _image_records(job: ImageJob) -> list[dict[str, Any]]:
    """What ``--json`` says of each image."""
    plan, records = job.plan, []
    labels = label_records(job.generator, job.label, plan.numbers) if plan.settings.get("space") != "w" else []
    for image in map(plan.image, range(len(plan))):
        record: dict[str, Any] = {"seed" if plan.latents is None else "row": image.number}
        if len(plan.psis) > 1:
            record["truncation_psi"] = image.psi
        if labels:
            record |= labels[image.place % len(labels)]
        record["file"] = str(image.file)
        for name in job.sheets.metadata:
            record[name.partition(".")[0].replace("-", "_")] = str(plan.sheet(image, name))
        records.append(record)
    return records


def _summary(file: Path, plan: ImagePlan, written: dict[str, Any]) -> str:
    """What was made, in a line."""
    where = plan.image(0).file if plan.format == "npy" else plan.folder
    there = f", {written['kept']} of them there already" if written["kept"] else ""
    names = [written[name] for name in ("grid", "truncation", "latents") if name in written]
    if "ranking" in written:
        names += [written["ranking"]["best"], written["ranking"]["worst"]]
    names += [written[name]["film"] for name in ("interpolation", "training_film") if name in written]
    extra = "".join(f", {name}" for name in names)
    return f"{len(plan)} image{'s' * (len(plan) > 1)} of {file} in {where}{there}{extra}"
