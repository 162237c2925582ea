"""``ganformer generate``: pictures by seed, and what the components attend to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ganformer_cli.cli.model_choice import batch_size_option, find_model, model_options, psi_option
from ganformer_cli.cli.options import (
    SEEDS,
    GroupedCommand,
    boolean_option,
    gpus_option,
    ignored_option,
    json_option,
    not_yet_option,
    option,
    pick_device,
)
from ganformer_cli.cli.progress import Progress
from ganformer_cli.errors import ConfigError

if TYPE_CHECKING:
    from ganformer_cli.sampling import Generator

DEFAULT_IMAGES = 32
#: More than this many pictures in one grid are more than anyone looks at.
MOST_IN_GRID = 1024


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
@psi_option(
    default=0.7,
    group="Pictures",
    help="Pull the latents towards their mean: 1 not at all (most varied), 0 entirely. 0.7 is the authors' choice.",
)
@option(
    "--noise",
    type=click.Choice(["const", "random", "none"]),
    default="const",
    group="Pictures",
    help="The model's fixed noise, noise of each seed's own, or none.",
)
@option(
    "--class",
    "class_index",
    type=click.IntRange(min=0),
    metavar="N",
    group="Pictures",
    help="For a model trained with labels: draw class N. Left out: each seed draws one.",
)
@option(
    "--ratio",
    type=float,
    metavar="R",
    group="Pictures",
    help="Crop the pictures to height / width = R, keeping the middle; attention sheets stay whole.",
)
@option(
    "--output-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default="images",
    group="Output",
    help="Where to; pictures of the same seeds there are replaced.",
)
@boolean_option(
    "--grid",
    "--vis-grid",
    "grid",
    default=False,
    group="Output",
    help=f"Also save grid.png with all pictures (the first {MOST_IN_GRID}).",
)
@boolean_option(
    "--maps",
    "--vis-maps",
    "maps",
    default=False,
    group="Output",
    help="Also save seed…-maps.png: the picture, the regions of the last layer's attention (a colour a component) over "
    "it, and each component's share.",
)
@boolean_option(
    "--layer-maps",
    "--vis-layer-maps",
    "layer_maps",
    default=False,
    group="Output",
    help="Also save seed…-layer-maps.png: the picture and the regions of every layer's attention.",
)
@option(
    "--blending-alpha",
    type=click.FloatRange(0, 1),
    default=0.3,
    group="Output",
    rare=True,
    help="The picture's share where regions lie over it; 0 shows plain colours.",
)
@json_option
@gpus_option
@batch_size_option(help="Pictures fetched from the device at a time. It never changes a picture.")
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
@not_yet_option("--vis-latents", help="Save the latent vectors.", issue="Pictures")
@not_yet_option("--vis-interpolations", help="Move from one latent to another.", issue="Pictures")
@not_yet_option("--interpolation-density", help="Steps between two latents.", issue="Pictures", metavar="N")
@not_yet_option("--vis-noise-var", help="Show what the noise changes.", issue="Pictures")
@not_yet_option("--vis-style-mix", help="Mix the latents of two pictures.", issue="Pictures")
@not_yet_option("--vis-rich-num", help="Number of interpolations and mixtures.", issue="Pictures", metavar="N")
def command(
    model: str | None,
    expname: str | None,
    result_dir: Path,
    seeds: tuple[int, ...] | None,
    images_num: int | None,
    truncation_psi: float,
    noise: Any,
    class_index: int | None,
    ratio: float | None,
    output_dir: Path,
    grid: bool,
    maps: bool,
    layer_maps: bool,
    blending_alpha: float,
    as_json: bool,
    gpus: tuple[int, ...] | None,
    batch_size: int,
) -> None:
    """Make pictures with a trained model.

    A PNG for each seed, named after it: `seed0007.png`. The same model and seed give the same picture, on every run and
    with every --batch-size.

    \b
      ganformer generate                                 the run that saved last
      ganformer generate --model results/faces-002 --seeds 0-63 --grid
      ganformer generate --expname faces --maps --images-num 8
    """
    if seeds is not None and images_num is not None:
        raise click.UsageError("--seeds and --images-num say the same thing twice; give one of them")
    chosen = range(images_num or DEFAULT_IMAGES) if seeds is None else seeds
    file = find_model(model, expname, result_dir)

    import numpy as np

    from ganformer_cli.checkpoints import load_generator
    from ganformer_cli.files import ensure_writable_folder
    from ganformer_cli.visualization import crop_to_ratio

    generator = load_generator(file, pick_device(gpus))
    labels = _label(generator, class_index)
    if (maps or layer_maps) and not generator.config.has_maps:
        said = "--maps" if maps else "--layer-maps"
        raise ConfigError(f"{said}: this model has no attention (--attention none), so it has no maps; leave it out")
    if ratio is not None:
        crop_to_ratio(np.empty((3, *generator.config.image_size), np.uint8), ratio)  # complains before anything is done
    ensure_writable_folder(output_dir, "--output-dir")
    with Progress() as progress:
        progress.start(len(chosen), "images", "drawing")
        written = _write(
            generator,
            chosen,
            output_dir,
            {"truncation_psi": truncation_psi, "noise_mode": noise, "labels": labels},
            ratio=ratio,
            grid=grid,
            maps=maps,
            layer_maps=layer_maps,
            alpha=blending_alpha,
            batch_size=batch_size,
            progress=progress,
        )
    if as_json:
        click.echo(
            json.dumps({"model": str(file), "truncation_psi": truncation_psi, "noise": noise, **written}, indent=2)
        )
    else:
        extra = f", {written['grid']}" if grid else ""
        click.echo(f"{len(chosen)} picture{'s' * (len(chosen) > 1)} of {file} in {output_dir}{extra}")


def _write(
    generator: Generator,
    seeds: Sequence[int],
    folder: Path,
    options: dict[str, Any],
    *,
    ratio: float | None,
    grid: bool,
    maps: bool,
    layer_maps: bool,
    alpha: float,
    batch_size: int,
    progress: Progress,
) -> dict[str, Any]:
    """Draw and save; the names of what was written."""
    import numpy as np

    from ganformer_cli.sampling import sample_attention, sample_images
    from ganformer_cli.visualization import component_sheet, crop_to_ratio, image_grid, layer_sheet, save_png

    # Few at a time where each brings its maps along.
    drawn = (
        ((each.seed, each.image, each.maps) for each in sample_attention(generator, seeds, **options))
        if maps or layer_maps
        else ((seed, image, []) for seed, image in sample_images(generator, seeds, batch_size=batch_size, **options))
    )
    images, kept = [], []
    for done, (seed, image, attention) in enumerate(drawn):
        stem = f"seed{seed:04d}"
        record: dict[str, Any] = {"seed": seed, "file": str(folder / f"{stem}.png")}
        picture = image if ratio is None else crop_to_ratio(image, ratio)
        save_png(folder / f"{stem}.png", picture)
        if maps:
            record["maps"] = str(folder / f"{stem}-maps.png")
            save_png(folder / f"{stem}-maps.png", component_sheet(image, attention[-1], alpha))
        if layer_maps:
            record["layer_maps"] = str(folder / f"{stem}-layer-maps.png")
            save_png(folder / f"{stem}-layer-maps.png", layer_sheet(image, attention, alpha))
        images.append(record)
        if grid and done < MOST_IN_GRID:
            kept.append(picture)
        progress.update(done + 1)
    written: dict[str, Any] = {"images": images}
    if grid:
        written["grid"] = str(folder / "grid.png")
        save_png(folder / "grid.png", image_grid(np.stack(kept)))
    return written


def _label(generator: Generator, class_index: int | None) -> list[float] | None:
    """The one-hot label of ``--class``, or None."""
    if class_index is None:
        return None
    classes = generator.config.c_dim
    if class_index >= classes:
        has = f"its classes are 0 to {classes - 1}" if classes else "it was trained without labels"
        raise ConfigError(f"--class {class_index}: this model has no such class; {has}")
    return [float(index == class_index) for index in range(classes)]
