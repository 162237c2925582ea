"""``ganformer generate``: pictures by seed or from given latents, and what the components attend to."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from ganformer_cli.cli.generate_drawing import MOST_IN_GRID, Drawing
from ganformer_cli.cli.generate_figures import Figures, Numbers, check_figures, figure_options
from ganformer_cli.cli.generate_interpolation import (
    Interpolation,
    Way,
    check_interpolation,
    interpolation_options,
)
from ganformer_cli.cli.generate_interpolation import check_line as check_interpolation_line
from ganformer_cli.cli.generate_output import (
    GRID_FILE,
    IMAGES_FILE,
    LATENTS_FILE,
    MOST_IN_FOLDER,
    SHEETS,
    TRUNCATION_FILE,
    Kept,
    Plan,
    refuse_strangers,
)
from ganformer_cli.cli.label_choice import chosen_label, class_option, label_option
from ganformer_cli.cli.model_choice import find_model, load_model, model_options, run_of
from ganformer_cli.cli.options import (
    MAX_BATCH_SIZE,
    MAX_PSI,
    MAX_SEEDS,
    SEEDS,
    GroupedCommand,
    boolean_option,
    given_options,
    gpus_option,
    ignored_option,
    json_option,
    option,
    pick_device,
    warn,
)
from ganformer_cli.cli.output import echo, echo_json
from ganformer_cli.cli.progress import ProgressBar
from ganformer_cli.errors import OutputError
from ganformer_cli.files import ensure_writable_folder, sha256_of

if TYPE_CHECKING:
    from ganformer_cli.sampling import Generator

DEFAULT_IMAGES = 32
DEFAULT_FOLDER = "images"
#: Pictures fetched from the device at a time, where memory allows; on a CPU at least enough for every core.
DEFAULT_BATCH = 16
#: Of the memory that is free, what drawing may take.
SHARE_OF_MEMORY = 0.5


@click.command("generate", cls=GroupedCommand)
@model_options
@option("--seeds", type=SEEDS, metavar="0-31,40", group="Pictures", help="A picture for each of these seeds.")
@option(
    "--images-num",
    "--vis-num",
    "images_num",
    type=click.IntRange(min=1, max=10_000_000),
    metavar="N",
    group="Pictures",
    help=f"Instead of --seeds: N pictures, of seeds 0 to N-1.  [default: {DEFAULT_IMAGES}]",
)
@option(
    "--latents",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE.npy",
    group="Pictures",
    help="Instead of --seeds: a picture from each row of this array of floats, [N, m+1, w] (k-GAN: [N, m, w]).",
)
@option(
    "--space",
    type=click.Choice(["z", "w"]),
    default="z",
    group="Pictures",
    help="What --latents are: z, standard normal, or w, after the mapping network and taken as they are, without "
    "truncation; these may also be [N, m+1, L, w], one for each layer.",
)
@option(
    "--truncation-psi",
    "psis",
    type=Numbers(MAX_PSI),
    default=(0.7,),
    show_default=False,
    metavar="PSI[,PSI…]",
    group="Pictures",
    help="Pull the latents towards their mean: 1 not at all (most varied), 0 entirely. 0.7 is the authors' choice. "
    f"Several, such as 0,0.5,1: every picture with each of them, and {TRUNCATION_FILE}, a column each.  [default: 0.7]",
)
@option(
    "--noise",
    type=click.Choice(["const", "random", "none"]),
    default="const",
    group="Pictures",
    help="The model's fixed noise, noise of each seed's own, or none. Row k of --latents counts as seed k.",
)
@class_option(
    group="Pictures",
    help="For a model trained on classes: draw this one. Left out: each seed draws one, as likely as it is frequent in "
    "the data that the model was trained on; row k of --latents has that of seed k.",
)
@label_option(
    group="Pictures",
    help="For a model trained on vectors (attributes): draw with this one, as many numbers as its labels have. Left "
    "out: each seed draws one of those of the data, as --class.",
)
@option(
    "--ratio",
    type=click.FloatRange(1 / 64, 64),
    metavar="R",
    group="Pictures",
    help="Crop the pictures to height / width = R, keeping the middle; attention sheets stay whole.",
)
@option(
    "--output-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_FOLDER,
    group="Output",
    help="Where to. Pictures that this command has made there before are kept, so that it goes on where it was cut "
    f"off. A folder that holds other files is left alone; without --output-dir, {DEFAULT_FOLDER}-001 and so on is "
    f"taken then. More than {MOST_IN_FOLDER} pictures go into numbered sub-folders.",
)
@option(
    "--sheets-dir",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    group="Output",
    help="Where what is drawn of the pictures goes: grids, maps, mixtures, films. It lies apart, so that --output-dir "
    f"holds the model's pictures and nothing else.  [default: OUTPUT_DIR{SHEETS}]",
)
@boolean_option(
    "--overwrite",
    default=False,
    group="Output",
    help="Write into a folder that holds other files, and replace those of the same names.",
)
@option(
    "--format",
    "image_format",
    type=click.Choice(["png", "jpg", "webp", "npy"]),
    default="png",
    group="Output",
    help=f"Of the pictures: PNG; JPEG of quality 95 in full colour (4:4:4); lossless WebP; or one file {IMAGES_FILE}, "
    "float32 [N, 3, H, W] as they leave the network, about -1 to 1. Sheets are PNG always.",
)
@boolean_option(
    "--save-latents",
    "--vis-latents",
    "save_latents",
    default=False,
    group="Output",
    help=f"Also save {LATENTS_FILE}, which --latents reads: float32 [N, m+1, w] in the order of the pictures; with "
    "--space w what was given.",
)
@boolean_option(
    "--grid",
    "--vis-grid",
    "grid",
    default=False,
    group="Output",
    help=f"Also save {GRID_FILE}, in --sheets-dir, with all pictures (the first {MOST_IN_GRID}; fewer of large ones).",
)
@figure_options
@option(
    "--component",
    type=click.IntRange(0, 65_536),
    metavar="K",
    group="Components",
    help="Interpolate, mix or truncate this component only.  [default: all]",
)
@option(
    "--rich-num",
    "--vis-rich-num",
    "rich_num",
    type=click.IntRange(1, MAX_SEEDS),
    default=5,
    metavar="N",
    group="Components",
    help="Interpolations, mixtures and the like are made of the first N pictures.",
)
@interpolation_options
@json_option
@gpus_option
@option(
    "--batch-size",
    type=click.IntRange(1, MAX_BATCH_SIZE),
    metavar="N",
    group="Device",
    help="Pictures fetched from the device at a time; halved when memory runs out. It never changes a picture. Left "
    "out: as many as memory allows.",
)
@ignored_option("--vis", why="making pictures is what this command does")
@ignored_option("--vis-images", why="pictures are always saved")
@option(
    "--dataset",
    metavar="NAME",
    group="Compatibility",
    rare=True,
    expose_value=False,
    help="Accepted: a model makes pictures without its data set.",
)
@option(
    "--vis-section-size",
    metavar="N",
    group="Compatibility",
    rare=True,
    expose_value=False,
    help="Accepted: pictures and maps are made one by one in any case.",
)
def command(
    model: str | None,
    expname: str | None,
    result_dir: Path,
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
    figures: Figures,
    component: int | None,
    rich_num: int,
    interpolation: Interpolation,
    as_json: bool,
    gpus: tuple[int, ...] | None,
    batch_size: int | None,
    offline: bool,
) -> None:
    """Make pictures with a trained model.

    A picture for each seed, named after it: `seed0007.png`; those of --latents are `image0000.png` and so on. The same
    model and seed give the same picture, on every run and with every --batch-size. Each says in its file which model,
    seed and settings made it: ganformer info PICTURE.

    \b
      ganformer generate                                 the run that saved last
      ganformer generate --model results/faces-002 --seeds 0-63 --grid
      ganformer generate --expname faces --maps --images-num 8
      ganformer generate --seeds 3,8,11 --interpolate --loop --film webp
      ganformer generate --images-num 4 --save-latents   and again, perhaps changed:
      ganformer generate --latents images/latents.npy --output-dir changed
    """
    given = given_options(click.get_current_context())
    _check_line(given, figures)
    check_interpolation_line(given, interpolation)
    file = find_model(model, expname, result_dir, offline=offline)

    import numpy as np

    from ganformer_cli.sampling import read_latents
    from ganformer_cli.sampling.image_files import crop_to_ratio

    generator, header = load_model(file, pick_device(gpus))
    if space == "w":
        psis = (1.0,)
    elif "psis" not in given and isinstance(header.get("truncation_psi"), float):
        psis = (header["truncation_psi"],)  # the model's own, as TensorFlow's networks have one
    psis = tuple(dict.fromkeys(psis))
    if image_format == "npy":
        generator.keep_whole()
    chosen = chosen_label(generator, class_index, label, drawn=space == "z")
    if ratio is not None:
        crop_to_ratio(np.empty((3, *generator.config.image_size), np.uint8), ratio)  # complains before anything is done
    array = None if latents is None else read_latents(latents, generator, space)
    numbers = seeds or range(len(array) if array is not None else images_num or DEFAULT_IMAGES)
    check_figures(figures, generator.config, pictures=len(numbers), component=component)
    ends = min(rich_num, len(numbers))
    check_interpolation(interpolation, generator, ends)
    run = run_of(file)
    names = {"file": file.name} if run is None else {"run": run.name, "file": file.name}
    settings: dict[str, Any] = {"model": sha256_of(file), **names, "noise": noise, **chosen.about, "ratio": ratio}
    if array is not None:
        settings["space"] = space
    batch = batch_size or _fitting_batch(generator)

    def look_at(folder: Path, progress: ProgressBar) -> Work:
        plan = Plan(folder, image_format, numbers, psis, settings, array, sheets_dir)
        drawing = Drawing(generator, plan, chosen.numbers, noise, ratio, batch, figures, overwrite)
        way = Way(interpolation, plan, ends, component) if interpolation.interpolate else None
        if plan.in_folders:
            progress.start(len(plan), "images", "looking for what is there")
        kept = Kept(plan, drawing.beside, overwrite=overwrite, update=progress.update if plan.in_folders else None)
        if drawing.draws_sheets(grid=grid, way=way is not None) and not overwrite:
            refuse_strangers(plan.sheets, "--sheets-dir")
        if figures.others:
            for path, about in drawing.other_files(rich_num, component).items():
                kept.holds(path, about)  # complains of others in their way
        return Work(
            plan,
            drawing,
            way,
            kept,
            sheets=drawing.missing_sheets(kept, grid=grid),
            array_kept=drawing.array_is_kept(),
            latents_kept=save_latents and drawing.check_latents_file(),
            way_kept=way is not None and way.is_kept(kept),
        )

    with ProgressBar() as progress:
        found = _first_free(output_dir, lambda folder: look_at(folder, progress), search="output_dir" not in given)
        plan, drawing, way, kept = found[:4]
        output_dir = plan.folder
        ensure_writable_folder(output_dir, "--output-dir")
        if drawing.draws_sheets(grid=grid, way=way is not None):
            ensure_writable_folder(plan.sheets, "--sheets-dir")
        if not found.array_kept or found.sheets or figures.of_each:
            drawing.draw(kept, found.sheets, progress)
        if way is not None and not found.way_kept:
            progress.start(way.length, "frames", "interpolating")
            way.draw(generator, chosen.numbers, noise=noise, ratio=ratio, batch_size=batch, update=progress.update)
        others = drawing.draw_others(rich_num, component, header, progress) if figures.others else {}
    if save_latents and not found.latents_kept:
        drawing.save_latents()
    written: dict[str, Any] = {"kept": len(plan) if found.array_kept else len(kept)}
    if plan.in_folders:
        written |= {"images_num": len(plan), "folders": [str(folder) for folder in plan.folders]}
    else:
        written["images"] = drawing.records()
    written |= {name: str(path) for name, path in drawing.sheets(grid=grid).items()}
    if save_latents:
        written["latents"] = str(output_dir / LATENTS_FILE)
    if way is not None:
        written["interpolation"] = way.files
    written |= others
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

    plan: Plan
    drawing: Drawing
    way: Way | None
    kept: Kept
    sheets: dict[str, Path]  # to be made
    array_kept: bool
    latents_kept: bool
    way_kept: bool


def _first_free(folder: Path, look_at: Callable[[Path], Work], *, search: bool) -> Work:
    """What is to be made in ``folder``, or, with ``search``, in the first of its numbered neighbours that is free.

    Raises:
        OutputError: something else is in the way.
    """
    try:
        return look_at(folder)
    except OutputError:
        if not search:
            raise
    number = 0
    while True:
        number += 1
        other = folder.with_name(f"{folder.name}-{number:03d}")
        with contextlib.suppress(OutputError):
            work = look_at(other)
            warn(f"{folder} holds other files, so these go to {other}; say --output-dir to choose")
            return work


def _summary(file: Path, plan: Plan, written: dict[str, Any]) -> str:
    """What was made, in a line."""
    where = plan.folder / IMAGES_FILE if plan.format == "npy" else plan.folder
    there = f", {written['kept']} of them there already" if written["kept"] else ""
    names = [written[name] for name in ("grid", "truncation", "latents") if name in written]
    if "interpolation" in written:
        names.append(written["interpolation"]["film"])
    extra = "".join(f", {name}" for name in names)
    return f"{len(plan)} picture{'s' * (len(plan) > 1)} of {file} in {where}{there}{extra}"


def _check_line(given: dict[str, Any], figures: Figures) -> None:
    """Refuse options that contradict each other, or that nothing would read."""
    sources = [name for name in ("seeds", "images_num", "latents") if given.get(name) is not None]
    if len(sources) > 1:
        said = " and ".join("--" + name.replace("_", "-") for name in sources)
        raise click.UsageError(f"{said} each say which pictures; give one of them")
    psis = given.get("psis", (1.0,))
    if given.get("space") == "w":
        if "latents" not in given:
            raise click.UsageError("--space w says what --latents are; give --latents FILE.npy, or leave out --space")
        if psis != (1.0,):
            raise click.UsageError(
                f"--truncation-psi {','.join(f'{psi:g}' for psi in psis)} with --space w: such latents are taken as "
                "they are; leave out one"
            )
        for said, name in (("--class", "class_index"), ("--label", "label")):
            if given.get(name) is not None:
                value = given[name] if name == "class_index" else ",".join(f"{number:g}" for number in given[name])
                raise click.UsageError(
                    f"{said} {value} with --space w: a label acts before, in the mapping network; leave out one"
                )
    if given.get("class_index") is not None and given.get("label") is not None:
        raise click.UsageError("--class and --label each say which label to draw with; give one of them")
    if given.get("image_format") == "npy" and given.get("ratio") is not None:
        raise click.UsageError(
            f"--ratio {given['ratio']:g} with --format npy: its pictures are as they leave the network, not cropped; "
            "leave out one"
        )
    if len(psis) > 1:
        asked = {
            "--format npy": given.get("image_format") == "npy",
            "--interpolate": given.get("interpolate"),
            "mixtures and the like": figures.others,
        }
        for said, there in asked.items():
            if there:
                raise click.UsageError(
                    f"--truncation-psi with several numbers does not go with {said}; give one number"
                )
    if given.get("component") is not None and not (given.get("interpolate") or figures.mix or figures.component_psi):
        raise click.UsageError(
            f"--component {given['component']} says which component to move; add --interpolate, --mix or "
            "--component-psi, or leave it out"
        )


def _fitting_batch(generator: Generator) -> int:
    """As many pictures as there is work for at once, if half of the free memory holds them."""
    import torch

    from ganformer_cli.memory import free_memory_mib
    from ganformer_cli.sampling import LANES, image_mib

    device = next(generator.parameters()).device
    wanted = max(DEFAULT_BATCH, LANES * torch.get_num_threads() if device.type == "cpu" else 0)
    free = free_memory_mib(device)
    if free is None:
        return wanted
    return max(1, min(wanted, int(SHARE_OF_MEMORY * free / image_mib(generator.config))))
