"""The options of ``ganformer generate``, beside those of its figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ganformer_cli.cli.generate_figures import FIGURE_OPTIONS, FILM_OPTIONS, SHARED_OPTIONS, collected
from ganformer_cli.cli.label_choice import Numbers, class_option, label_option
from ganformer_cli.cli.model_choice import model_options
from ganformer_cli.cli.options import (
    MAX_BATCH_SIZE,
    MAX_PSI,
    SEEDS,
    F,
    boolean_option,
    gpus_option,
    ignored_option,
    json_option,
    option,
    verbosity_options,
)

DEFAULT_COUNT = 32
DEFAULT_FOLDER = "images"

_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    model_options,
    option("--seeds", type=SEEDS, metavar="0-31,40", group="Images", help="An image for each of these seeds."),
    option(
        "--images-num",
        "--vis-num",
        "images_num",
        type=click.IntRange(min=1, max=10_000_000),
        metavar="N",
        group="Images",
        help=f"Instead of --seeds: N images, of seeds 0 to N-1.  [default: {DEFAULT_COUNT}]",
    ),
    option(
        "--latents",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        metavar="FILE.npy",
        group="Images",
        help="Instead of --seeds: an image from each row of this array of floats, [N, m+1, w] (k-GAN: [N, m, w]).",
    ),
    option(
        "--space",
        type=click.Choice(["z", "w"]),
        default="z",
        group="Images",
        help="What --latents are: z, standard normal, or w, after the mapping network and taken as they are, without "
        "truncation; these may also be [N, m+1, L, w], one for each layer.",
    ),
    option(
        "--truncation-psi",
        "psis",
        type=Numbers(MAX_PSI),
        default=(0.7,),
        show_default=False,
        metavar="PSI[,PSI…]",
        group="Images",
        help="Pull the latents towards their mean: 1 not at all (most varied), 0 entirely. 0.7 is the authors' "
        "choice. Several, such as 0,0.5,1: every image with each of them, and truncation.png, a column each.  "
        "[default: 0.7]",
    ),
    option(
        "--noise",
        type=click.Choice(["const", "random", "none"]),
        default="const",
        group="Images",
        help="The model's fixed noise, noise of each seed's own, or none. Row k of --latents counts as seed k.",
    ),
    class_option(
        group="Images",
        help="For a model trained on classes: draw this one. Left out: each seed draws one, as likely as it is "
        "frequent in the data that the model was trained on; row k of --latents has that of seed k.",
    ),
    label_option(
        group="Images",
        help="For a model trained on vectors (attributes): draw with this one, as many numbers as its labels have. "
        "Left out: each seed draws one of those of the data, as --class.",
    ),
    option(
        "--ratio",
        type=click.FloatRange(1 / 64, 64),
        metavar="R",
        group="Images",
        help="Crop the images to height / width = R, keeping the middle; attention sheets stay whole.",
    ),
    option(
        "--output-dir",
        type=click.Path(path_type=Path, file_okay=False),
        default=DEFAULT_FOLDER,
        group="Output",
        help="Where to. Images that this command has made there before are kept, so that it goes on where it was "
        f"cut off. A folder that holds other files is left alone; without --output-dir, {DEFAULT_FOLDER}-001 and so "
        "on is taken then. More than 10000 images go into numbered sub-folders.",
    ),
    option(
        "--sheets-dir",
        type=click.Path(path_type=Path, file_okay=False),
        metavar="DIR",
        group="Output",
        help="Where what is drawn of the images goes: grids, maps, mixtures, films. It lies apart, so that "
        "--output-dir holds the model's images and nothing else.  [default: OUTPUT_DIR-sheets]",
    ),
    boolean_option(
        "--overwrite",
        default=False,
        group="Output",
        help="Write into a folder that holds other files, and replace those of the same names.",
    ),
    option(
        "--format",
        "image_format",
        type=click.Choice(["png", "jpg", "webp", "npy"]),
        default="png",
        group="Output",
        help="Of the images: PNG; JPEG of quality 95 in full colour (4:4:4); lossless WebP; or one file images.npy, "
        "float32 [N, 3, H, W] as they leave the network, about -1 to 1. Sheets are PNG always.",
    ),
    boolean_option(
        "--save-latents",
        "--vis-latents",
        "save_latents",
        default=False,
        group="Output",
        help="Also save latents.npy, which --latents reads: float32 [N, m+1, w] in the order of the images; with "
        "--space w what was given.",
    ),
    boolean_option(
        "--grid",
        "--vis-grid",
        "grid",
        default=False,
        group="Output",
        help="Also save grid.png, in --sheets-dir, with all images (the first 1024; fewer of large ones).",
    ),
    collected("figures", FIGURE_OPTIONS),
    collected("shared", SHARED_OPTIONS),
    collected("film", FILM_OPTIONS),
    json_option,
    verbosity_options,
    gpus_option,
    option(
        "--batch-size",
        type=click.IntRange(1, MAX_BATCH_SIZE),
        metavar="N",
        group="Device",
        help="Images fetched from the device at a time; halved when memory runs out. It never changes an image. Left "
        "out: as many as memory allows.",
    ),
    ignored_option("--vis", why="making images is what this command does"),
    ignored_option("--vis-images", why="images are always saved"),
    option(
        "--dataset",
        metavar="NAME",
        group="Compatibility",
        rare=True,
        expose_value=False,
        help="Accepted: a model makes images without its data set.",
    ),
    option(
        "--vis-section-size",
        metavar="N",
        group="Compatibility",
        rare=True,
        expose_value=False,
        help="Accepted: images and maps are made one by one in any case.",
    ),
)


def generate_options(function: F) -> F:
    """The options, in the order of the help."""
    decorated: Any = function
    for add in reversed(_OPTIONS):
        decorated = add(decorated)
    chosen: F = decorated
    return chosen


def check_options(given: dict[str, Any], figures: dict[str, Any], film: dict[str, Any]) -> None:
    """Refuse options that contradict each other, or that nothing would read.

    Args:
        given: what the user gave, by parameter name.
        figures, film: all values of these groups.
    """
    others = any(figures[name] for name in ("style_mix", "mix", "component_psi", "noise_variation", "disentanglement"))
    sources = [name for name in ("seeds", "images_num", "latents") if given.get(name) is not None]
    if len(sources) > 1:
        said = " and ".join("--" + name.replace("_", "-") for name in sources)
        raise click.UsageError(f"{said} each say which images; give one of them")
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
            f"--ratio {given['ratio']:g} with --format npy: its images are as they leave the network, not cropped; "
            "leave out one"
        )
    conflicts = {
        "--format npy": given.get("image_format") == "npy",
        "--interpolate": film["interpolate"],
        "--training-film": film["training_film"],
        "mixtures and the like": others,
    }
    for said, there in conflicts.items():
        if there and len(psis) > 1:
            raise click.UsageError(f"--truncation-psi with several numbers does not go with {said}; give one number")
    if given.get("component") is not None and not (film["interpolate"] or figures["mix"] or figures["component_psi"]):
        raise click.UsageError(
            f"--component {given['component']} says which component to move; add --interpolate, --mix or "
            "--component-psi, or leave it out"
        )
    for name in ("interpolate_in", "loop", "film_grid", "film", "fps", "scale"):
        only_films = name in ("film", "fps", "scale")
        if given.get(name) and not (film["interpolate"] or (only_films and film["training_film"])):
            said = "--" + name.replace("_", "-")
            more = " or --training-film" if only_films else ""
            raise click.UsageError(f"{said} says how to interpolate; add --interpolate{more}, or leave out {said}")
    if given.get("interpolate_in") == "z" and given.get("space") == "w":
        raise click.UsageError("--interpolate-in z with --space w: there is no way back to z; leave out one")
