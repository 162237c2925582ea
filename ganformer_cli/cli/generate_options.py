"""The options of ``ganformer generate``, beside those of its figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ganformer_cli.cli.devices import batch_size_option, gpus_option, precision_option
from ganformer_cli.cli.generate_figures import figure_options, film_options, rank_options, shared_options
from ganformer_cli.cli.label_choice import class_option
from ganformer_cli.cli.model_choice import model_options
from ganformer_cli.cli.option_types import NUMBERS, SEEDS, numbers_to
from ganformer_cli.cli.options import (
    MAX_PSI,
    choice_option,
    collected,
    combined,
    folder_option,
    ignored_option,
    json_option,
    option,
    section,
    switch,
)
from ganformer_cli.cli.verbosity import verbosity_options
from ganformer_cli.config import option_name

DEFAULT_COUNT = 32
DEFAULT_FOLDER = "images"

#: All of them, in the order of the help.
generate_options = combined(
    model_options,
    section("Images"),
    option("--seeds", type=SEEDS, metavar="0-31,40", help="Seeds of the images, one image for each."),
    option(
        "--images-num",
        "--vis-num",
        type=click.IntRange(min=1, max=10_000_000),
        help=f"Instead of --seeds: N images, of seeds 0 to N-1.  [default: {DEFAULT_COUNT}]",
    ),
    option(
        "--latents",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        metavar="FILE.npy",
        help="Instead of --seeds: latents, one image for each row of this array of floats, [N, m+1, w] "
        "(k-GAN: [N, m, w]).",
    ),
    choice_option(
        "--space",
        of=["z", "w"],
        help="Space of --latents: z (standard normal), or w (outputs of the mapping network, used without "
        "truncation), also as [N, m+1, L, w] with one for each layer.",
    ),
    option(
        "--truncation-psi",
        "psis",
        type=numbers_to(MAX_PSI),
        default=(0.7,),
        show_default=False,
        metavar="PSI[,PSI…]",
        help="Truncation: pull the latents towards their mean, from 1 (not at all, most varied) to 0 (all the same). "
        "With several values, such as 0,0.5,1, every image is made with each, and truncation.png shows them in "
        "columns.  [default: 0.7, as the authors']",
    ),
    collected(
        "codes",
        option(
            "--temperature",
            type=click.FloatRange(0, 100, min_open=True),
            metavar="T",
            help="Of a VQGAN: divide the codes' logits by T; below 1 likely codes are more likely.  [default: 1]",
        ),
        option(
            "--top-k",
            type=click.IntRange(1, 65_536),
            metavar="K",
            help="Of a VQGAN: draw each code from the K most likely ones.  [default: all]",
        ),
        option(
            "--top-p",
            type=click.FloatRange(0, 1, min_open=True),
            metavar="P",
            help="Of a VQGAN: draw each code from the most likely ones, which together have probability P.  "
            "[default: 1]",
        ),
    ),
    choice_option(
        "--noise",
        of=["const", "random", "none"],
        help="Noise of the feature maps: the model's fixed noise, noise of each seed, or none. Row k of --latents "
        "counts as seed k.",
    ),
    class_option(
        "For a model trained on classes: the class. Row k of --latents counts as seed k.  [default: each seed draws "
        "one, by its frequency in the training data]"
    ),
    option(
        "--label",
        type=NUMBERS,
        metavar="NUMBER,NUMBER…",
        help="For a model trained on label vectors (attributes): the vector.  [default: each seed draws one of the "
        "training data]",
    ),
    option(
        "--ratio",
        type=click.FloatRange(1 / 64, 64),
        metavar="R",
        help="Crop the middle of the images to height / width = R; attention sheets stay whole.",
    ),
    section("Output"),
    folder_option(
        "--output-dir",
        default=DEFAULT_FOLDER,
        help="Folder of the images. Images that the same command made there before are kept, so that it resumes. A "
        f"folder with other files is left alone: without --output-dir, {DEFAULT_FOLDER}-001 and so on is used instead. "
        "More than 10000 images go into numbered sub-folders.",
    ),
    folder_option(
        "--sheets-dir",
        metavar="DIR",
        help="Folder of grids, maps, mixtures and films, so that --output-dir contains nothing but the model's "
        "images.  [default: OUTPUT_DIR-sheets]",
    ),
    switch("--overwrite", help="Write into a folder with other files, and replace those of the same names."),
    choice_option(
        "--format",
        "image_format",
        of=["png", "jpg", "webp", "npy"],
        help="Format of the images: PNG; JPEG (quality 95, 4:4:4); lossless WebP; or npy, one file images.npy with "
        "the output of the network, float32 [N, 3, H, W], about -1 to 1. Sheets are always PNG.",
    ),
    switch(
        "--save-latents",
        "--vis-latents",
        help="Also save latents.npy for --latents: float32 [N, m+1, w] in the order of the images; with --space w, "
        "what was given.",
    ),
    switch(
        "--grid",
        "--vis-grid",
        help="Also save grid.png in --sheets-dir with all images (at most 1024, fewer if they are large).",
    ),
    figure_options,
    shared_options,
    film_options,
    rank_options,
    json_option,
    verbosity_options,
    gpus_option,
    batch_size_option(
        "Images per batch; halved if memory runs out. It does not change the images.  [default: as many as fit into "
        "memory]"
    ),
    precision_option,
    ignored_option("--vis", why="making images is what this command does"),
    ignored_option("--vis-images", why="images are always saved"),
    section("Compatibility"),
    option(
        "--vis-section-size",
        metavar="N",
        rare=True,
        expose_value=False,
        help="Accepted: images and maps are made one by one in any case.",
    ),
)


def check_options(given: dict[str, Any], figures: dict[str, Any], film: dict[str, Any]) -> None:
    """Refuse options that contradict each other, or that nothing would read.

    Args:
        given: what the user gave, by parameter name.
        figures, film: all values of these groups.
    """
    others = any(figures[name] for name in ("style_mix", "mix", "component_psi", "noise_variation", "disentanglement"))
    sources = [name for name in ("seeds", "images_num", "latents") if given.get(name) is not None]
    if len(sources) > 1:
        raise click.UsageError(f"{' and '.join(map(option_name, sources))} each say which images; give one of them")
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
        "--rank": given.get("rank") is not None,
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
    if given.get("rank") is None and given.get("keep") is not None:
        raise click.UsageError(f"--keep {given['keep']} says how many ranked images to show; add --rank realism")
    if given.get("rank") is not None and given.get("ratio") is not None:
        raise click.UsageError("--rank with --ratio: the real images are not cropped; leave out one")
    if figures["maps_format"] == "npy" and not (figures["maps"] or figures["layer_maps"]):
        raise click.UsageError("--maps-format npy says how maps are saved; add --maps or --layer-maps")
    for name in ("interpolate_in", "loop", "film_grid", "film", "fps", "scale"):
        only_films = name in ("film", "fps", "scale")
        if given.get(name) and not (film["interpolate"] or (only_films and film["training_film"])):
            said = option_name(name)
            more = " or --training-film" if only_films else ""
            raise click.UsageError(f"{said} says how to interpolate; add --interpolate{more}, or leave out {said}")
    if given.get("interpolate_in") == "z" and given.get("space") == "w":
        raise click.UsageError("--interpolate-in z with --space w: there is no way back to z; leave out one")
