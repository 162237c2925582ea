"""The options of ``ganformer generate`` for what is drawn of the images: figures and films."""

from __future__ import annotations

import re

import click

from ganformer_cli.cli.model_choice import data_dir_option, dataset_option
from ganformer_cli.cli.option_types import MAX_SEED, MAX_SEEDS, ReadType, numbers_to
from ganformer_cli.cli.options import MAX_PSI, choice_option, collected, option, section, switch
from ganformer_cli.text import printable

#: What ``--mix`` does with a component.
MIXTURES = ("take", "swap", "remove", "mean")


def read_mixtures(text: str) -> tuple[str, ...]:
    """``take,remove`` or ``all`` as ``MIXTURES``, each once."""
    names = tuple(dict.fromkeys(name.strip().lower() for name in text.split(",")))
    if "all" in names:
        return MIXTURES
    for name in names:
        if name not in MIXTURES:
            raise ValueError(f"{name!r} is not a mixture; there are {', '.join(MIXTURES)}, or all")
    return names


def read_film_grid(text: str) -> tuple[int, int]:
    """``3x2`` as columns and rows."""
    match = re.fullmatch(r"([1-9]\d?)[xX×]([1-9]\d?)", text.strip())
    if match is None:
        raise ValueError(f"{printable(text, limit=40)!r}: write columns x rows, for instance 3x2 (at most 99)")
    return int(match[1]), int(match[2])


figure_options = collected(
    "figures",
    section("Components"),
    switch(
        "--maps",
        "--vis-maps",
        help="Also save seed…-maps.png: the image, the regions of the last layer's attention over it (one colour per "
        "component), and the attention to each component.",
    ),
    switch(
        "--layer-maps",
        "--vis-layer-maps",
        help="Also save seed…-layer-maps.png: the image, and the regions of the attention of every layer and head.",
    ),
    choice_option(
        "--maps-format",
        of=["png", "npy"],
        help="Format of --maps and --layer-maps: PNG, or arrays: seed…-maps.npy, float32 [m, h, w] of the last layer; "
        "seed…-mask.npy, uint16 [H, W], the component of each pixel; seed…-layer-maps.npz, float32 [heads, m, h, w] "
        "of each layer.",
    ),
    choice_option(
        "--map-style",
        of=["hard", "soft"],
        help="Colours of these maps: of the component that a pixel attends to most (hard), or of all components, "
        "mixed by attention (soft).",
    ),
    option(
        "--blending-alpha",
        type=click.FloatRange(0, 1),
        default=0.3,
        rare=True,
        help="Weight of the image where regions lie over it; 0 shows plain colours.",
    ),
    option(
        "--mix",
        type=ReadType("mixtures", read_mixtures),
        default=(),
        show_default=False,
        metavar="take,swap,remove,mean|all",
        help="Also save seed…-mix-….png: the image with a component taken from another image, swapped with it, "
        "removed, or moved to its mean, and a heat map of the difference. One row per component, or only --component.",
    ),
    option(
        "--mix-from",
        type=click.IntRange(0, MAX_SEED),
        metavar="SEED",
        help="Seed of the other image of --mix take and swap.  [default: the next image; for the last one, the first]",
    ),
    option(
        "--component-psi",
        type=numbers_to(MAX_PSI),
        default=(),
        show_default=False,
        metavar="1,0.5,0",
        help="Also save seed…-component-psi.png: one component truncated with each psi, in columns.",
    ),
    switch(
        "--style-mix",
        "--vis-style-mix",
        help="Also save style-mix-….png: tables of images that take the latents of coarse, middle or fine layers from "
        "others.",
    ),
    switch(
        "--noise-variation",
        "--vis-noise-var",
        help="Also save noise-variation.png: where the noise changes the image, and how much.",
    ),
    switch(
        "--disentanglement",
        help="Also save disentanglement.json and .png: how closely components correspond to objects, measured on all "
        "images (at most 1024).",
    ),
)
shared_options = collected(
    "shared",
    section("Components"),
    option(
        "--component",
        type=click.IntRange(0, 65_536),
        metavar="K",
        help="Interpolate, mix or truncate only this component.  [default: all]",
    ),
    option(
        "--rich-num",
        "--vis-rich-num",
        type=click.IntRange(1, MAX_SEEDS),
        default=5,
        help="Number of images that interpolations, mixtures and the like are made of, the first ones.",
    ),
)
film_options = collected(
    "film",
    section("Films"),
    switch(
        "--interpolate",
        "--vis-interpolations",
        help="Also save a film that moves from each of the first images (--rich-num) to the next, and "
        "interpolation.png.",
    ),
    switch(
        "--training-film",
        help="Also save a film of the training: the first 64 images, made with each snapshot of the run; and "
        "training.png.",
    ),
    option(
        "--interpolation-density",
        type=click.IntRange(1, 10_000),
        default=8,
        help="Number of frames from one image to the next.",
    ),
    choice_option(
        "--interpolate-in",
        of=["w", "z"],
        help="Space of the interpolation: w (straight lines, after the mapping network), or z (great circles).",
    ),
    switch("--loop", help="Continue from the last image back to the first."),
    choice_option(
        "--film",
        of=["gif", "webp", "mp4", "frames"],
        help="Format of films: GIF (256 colours per frame); lossless WebP; MP4 (needs ffmpeg, or the extra film); or "
        "frames, a folder of PNG files.",
    ),
    option("--fps", type=click.FloatRange(0.1, 100), default=12, help="Frames per second."),
    option(
        "--scale",
        type=click.IntRange(1, 64),
        default=1,
        help="Enlarge the frames: each pixel becomes a square of N x N.",
    ),
    option(
        "--film-grid",
        type=ReadType("grid", read_film_grid),
        default=(1, 1),
        show_default=False,
        metavar="COLUMNSxROWS",
        help="Show several interpolations side by side, each of --rich-num images of its own.  [default: 1x1]",
    ),
)
rank_options = collected(
    "rank",
    section("Ranking"),
    option(
        "--rank",
        type=click.Choice(["realism"]),
        help="Also rank the images, and save best.png, worst.png and ranking.json in --sheets-dir. realism "
        "(Kynkäänniemi et al. 2019) compares them with real images, by features of VGG16 if it is downloaded "
        "(ganformer eval --fetch --metrics pr), else by their colours.",
    ),
    option(
        "--keep", type=click.IntRange(1, 1024), help="Number of images in best.png and in worst.png.  [default: 16]"
    ),
    dataset_option(
        "Real images of --rank: scenes, or a prepared data set by name or path.  [default: the training data of the "
        "model]"
    ),
    data_dir_option,
)
