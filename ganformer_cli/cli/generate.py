"""``ganformer generate``: images by seed or from given latents, and what the components attend to."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ganformer_cli.cli.devices import check_precision, pick_device
from ganformer_cli.cli.generate_codes import choose_codes
from ganformer_cli.cli.generate_options import DEFAULT_COUNT, check_options, generate_options
from ganformer_cli.cli.generate_ranking import open_ranking
from ganformer_cli.cli.label_choice import chosen_label, label_records
from ganformer_cli.cli.model_choice import ModelChoice, model_metadata, run_of
from ganformer_cli.cli.options import GroupedCommand, given_options, warn
from ganformer_cli.cli.output import echo, echo_json
from ganformer_cli.cli.progress import ProgressBar

if TYPE_CHECKING:
    from ganformer_cli.sampling.image_folder import ImagePlan
    from ganformer_cli.sampling.image_writer import ImageJob


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
    from ganformer_cli.sampling.image_folder import ImagePlan
    from ganformer_cli.sampling.image_writer import fitting_batch_size
    from ganformer_cli.visualization.figures import FigureSettings
    from ganformer_cli.visualization.generation import GenerationSettings, plan_generation
    from ganformer_cli.visualization.interpolation import FilmSettings

    device = pick_device(gpus)
    check_precision(precision, [device])
    loaded = load_model(file, device, precision)
    generator, header = loaded
    code_settings = choose_codes(generator, codes, given, file)
    if space == "w" or code_settings:
        psis = (1.0,)
    elif "psis" not in given and loaded.own_psi is not None:
        psis = (loaded.own_psi,)
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
    metadata = {**model_metadata(file), "noise": noise, **chosen.metadata, "ratio": ratio, **code_settings}
    if precision != "fp32":
        metadata["precision"] = precision
    if array is not None:
        metadata["space"] = space
    batch = batch_size or fitting_batch_size(generator)
    interpolates, films_training = film.pop("interpolate"), film.pop("training_film")
    ranks = rank.pop("rank") is not None
    settings = GenerationSettings(
        generator,
        header,
        ImagePlan(output_dir, image_format, numbers, psis, metadata, array, sheets_dir),
        {"label": chosen.numbers, "noise_mode": noise, "ratio": ratio, "batch_size": batch},
        size,
        figure_settings,
        grid=grid,
        film=FilmSettings(**film, **shared),
        interpolates=interpolates,
        training_film=_named_snapshots(file) if films_training else None,
        load=lambda path: load_model(path, device, precision).generator,
        open_ranking=partial(open_ranking, header=header, **rank) if ranks else None,
        save_latents=save_latents,
        overwrite=overwrite,
    )
    with ProgressBar() as progress:
        work = plan_generation(settings, progress, warn, search="output_dir" not in given)
        figure_records = work.make()
    plan = work.plan
    written: dict[str, Any] = {"kept": sum(work.kept)}
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
        record = {"model": str(file), "model_sha256": metadata["model"], "truncation_psi": psi, "noise": noise}
        if latents is not None:
            record |= {"given_latents": str(latents), "space": space}
        echo_json({**record, **written})
    else:
        echo(_summary(file, plan, written))


def _named_snapshots(file: Path) -> list[tuple[Path, str]]:
    """The snapshots of the run that a snapshot lies in, oldest first, each with its kimg."""
    from ganformer_cli.checkpoints.run_folder import images_in_name, snapshots_of

    run = run_of(file)
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
