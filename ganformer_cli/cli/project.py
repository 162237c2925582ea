"""``ganformer project``: latents that reproduce images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ganformer_cli.cli.devices import batch_size_option, gpus_option, pick_device
from ganformer_cli.cli.main import INTERRUPTED
from ganformer_cli.cli.model_choice import ModelChoice, model_options
from ganformer_cli.cli.option_types import MAX_SEED
from ganformer_cli.cli.options import (
    GroupedCommand,
    choice_option,
    folder_option,
    json_option,
    option,
    section,
    switch,
    warn,
)
from ganformer_cli.cli.output import echo, echo_json, echo_table
from ganformer_cli.cli.progress import ProgressBar
from ganformer_cli.cli.verbosity import verbosity_options
from ganformer_cli.errors import ConfigError
from ganformer_cli.files import sha256_of
from ganformer_cli.stop_signals import stop_requested

DEFAULT_BATCH = 4
DEFAULT_FOLDER = "projected"


@click.command("project", cls=GroupedCommand)
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@model_options
@section("Projection")
@option("--steps", type=click.IntRange(1, 100_000), default=500, help="Steps of the optimisation.")
@option("--seed", type=click.IntRange(0, MAX_SEED), default=0, help="Seed of the random latents and of the noise.")
@choice_option(
    "--distance",
    "choice",
    of=["auto", "lpips", "pixels"],
    help="What is minimised: LPIPS, pixels and gradients at several scales, or (auto) LPIPS if its weights have been "
    "downloaded, otherwise pixels.",
)
@choice_option(
    "--noise",
    of=["optimized", "const"],
    help="Also optimise noise maps, regularised; or keep the model's noise, with which ganformer generate draws.",
)
@option(
    "--random-starts",
    type=click.IntRange(1, 10_000),
    default=64,
    help="Start from the mean, and from the nearest of N random latents; the better result is kept.",
)
@choice_option("--fit", of=["crop", "pad", "stretch"], help="How an image gets the model's ratio.")
@section("Output")
@folder_option(
    "--output-dir",
    default=DEFAULT_FOLDER,
    help="Folder of the results. The same command resumes where it was interrupted.",
)
@switch("--overwrite", help="Replace another projection in the folder.")
@switch("--maps", help="Also save what the components attend to.")
@option("--film", type=click.Choice(["gif", "webp", "mp4", "frames"]), help="Also save a film of each projection.")
@json_option
@verbosity_options
@gpus_option
@batch_size_option(f"Images that are projected together; they share memory.  [default: {DEFAULT_BATCH}]")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    images: tuple[Path, ...],
    model: ModelChoice,
    steps: int,
    seed: int,
    choice: Any,
    noise: str,
    random_starts: int,
    fit: Any,
    output_dir: Path,
    overwrite: bool,
    maps: bool,
    film: str | None,
    as_json: bool,
    gpus: tuple[int, ...] | None,
    batch_size: int | None,
) -> None:
    """Find latents with which a model reproduces images.

    IMAGE is an image of any kind, or a folder of them. Each component gets a latent of its own for each layer. They are
    written to projected.npy, for ganformer generate --latents --space w. A table shows how far each projection is from
    its image, and, to compare, the mean image and random images of the model.

    \b
      ganformer project photo.jpg                              into the newest run
      ganformer project faces/ --model results/faces-002 --steps 1000 --film webp
      ganformer generate --model results/faces-002 --latents projected/projected.npy --space w --maps
    """
    file = model.find()

    from ganformer_cli.original_snapshots.model_files import load_model
    from ganformer_cli.projection.batches import count_steps, project_images
    from ganformer_cli.projection.distance import open_image_distance
    from ganformer_cli.projection.folder import FRAMES, ProjectionFolder
    from ganformer_cli.projection.images import find_images, read_image
    from ganformer_cli.projection.optimization import ProjectionSettings, check_projectable
    from ganformer_cli.visualization.animation import check_film

    device = pick_device(gpus)
    generator, _ = load_model(file, device)
    check_projectable(generator)
    if maps and not generator.config.has_maps:
        raise ConfigError("--maps: no layer of this model attends, so it has no maps; leave it out")
    height, width = generator.config.image_size
    fitted = [read_image(path, height, width, fit) for path in find_images(images)]
    for image in fitted:
        if image.fitted:
            warn(f"{image.file}: {image.fitted}")
    if film is not None:
        check_film(film, FRAMES, height, 2 * width)
    batch = batch_size or DEFAULT_BATCH
    settings = ProjectionSettings(steps, seed, random_starts, optimize_noise=noise == "optimized")
    distance = open_image_distance(choice, device)
    folder = ProjectionFolder(
        output_dir,
        {
            "model": sha256_of(file),
            "images": [sha256_of(image.file) for image in fitted],
            **{"steps": steps, "seed": seed, "distance": distance.name, "noise": noise, "random_starts": random_starts},
            **{"fit": fit, "maps": maps, "film": film, "batch_size": batch},
        },
        overwrite=overwrite,
    )
    record = folder.is_finished()
    if record is None:
        if choice == "auto":
            why = "LPIPS" if distance.name == "lpips" else "pixels and gradients, since LPIPS has not been downloaded"
            echo(f"distance: {why}", err=True)
        frames = 0 if film is None else FRAMES
        with ProgressBar() as progress, stop_requested(_say_saving) as stopping:
            progress.start(count_steps(fitted, settings, batch), "steps", "projecting")
            found = project_images(
                generator, fitted, distance, settings, folder,
                batch_size=batch, frames=frames, should_stop=stopping,
                update=lambda step, value: progress.update(step, distance=value),
            )  # fmt: skip
        if found is None:
            echo(f"{ctx.command_path}: interrupted; the same command resumes", err=True)
            raise click.exceptions.Exit(INTERRUPTED)
        record = folder.write(generator, fitted, found, film, maps=maps)
    if as_json:
        echo_json({"model": str(file), "output_dir": str(output_dir), **record})
        return
    names = ("projection", "model_noise", "mean", "random")
    shown = names if noise == "optimized" and generator.noise_shapes() else ("projection", "mean", "random")
    columns = ("image", *(name.replace("_", " ") for name in shown))
    rows = [(Path(row["file"]).name, *(f"{row['distances'][name]:.4f}" for name in shown)) for row in record["images"]]
    echo_table(columns, rows, title=f"distance ({distance.name})", right=columns[1:])
    echo(f"{len(rows)} image{'s' * (len(rows) > 1)} projected into {file}: {record['latents']}, {record['sheet']}")


def _say_saving() -> None:
    """Answer the first request to stop."""
    echo("saving; press Ctrl-C again to end at once", err=True)
