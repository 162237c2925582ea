"""The options of ``ganformer generate`` for what is drawn of the images: figures and films."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from ganformer_cli.cli.completion import complete_datasets
from ganformer_cli.cli.label_choice import Numbers
from ganformer_cli.cli.options import MAX_PSI, MAX_SEED, MAX_SEEDS, F, boolean_option, option
from ganformer_cli.text import printable

#: What ``--mix`` does with a component.
MIXTURES = ("take", "swap", "remove", "mean")


class Mixtures(click.ParamType):
    """``take,remove`` or ``all`` as a tuple of ``MIXTURES``, each once."""

    name = "mixtures"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if not isinstance(value, str):
            return tuple(value)
        names = tuple(dict.fromkeys(name.strip().lower() for name in value.split(",")))
        if "all" in names:
            return MIXTURES
        for name in names:
            if name not in MIXTURES:
                self.fail(f"{name!r} is not a mixture; there are {', '.join(MIXTURES)}, or all", param, ctx)
        return names


class FilmGrid(click.ParamType):
    """``3x2`` as a tuple of columns and rows."""

    name = "grid"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if not isinstance(value, str):
            columns, rows = value
            return columns, rows
        match = re.fullmatch(r"([1-9]\d?)[xX×]([1-9]\d?)", value.strip())
        if match is None:
            self.fail(
                f"{printable(value, limit=40)!r}: write columns x rows, for instance 3x2 (at most 99)", param, ctx
            )
        return int(match[1]), int(match[2])


FIGURE_OPTIONS = (
    boolean_option(
        "--maps",
        "--vis-maps",
        "maps",
        default=False,
        group="Components",
        help="Also save seed…-maps.png: the image, the regions of the last layer's attention over it (one colour per "
        "component), and the attention to each component.",
    ),
    boolean_option(
        "--layer-maps",
        "--vis-layer-maps",
        "layer_maps",
        default=False,
        group="Components",
        help="Also save seed…-layer-maps.png: the image, and the regions of the attention of every layer and head.",
    ),
    option(
        "--maps-format",
        type=click.Choice(["png", "npy"]),
        default="png",
        group="Components",
        help="Format of --maps and --layer-maps: PNG, or arrays: seed…-maps.npy, float32 [m, h, w] of the last "
        "layer; seed…-mask.npy, uint16 [H, W], the component of each pixel; seed…-layer-maps.npz, float32 [heads, m, "
        "h, w] of each layer.",
    ),
    option(
        "--map-style",
        type=click.Choice(["hard", "soft"]),
        default="hard",
        group="Components",
        help="Colours of these maps: of the component that a pixel attends to most (hard), or of all components, "
        "mixed by attention (soft).",
    ),
    option(
        "--blending-alpha",
        type=click.FloatRange(0, 1),
        default=0.3,
        group="Components",
        rare=True,
        help="Weight of the image where regions lie over it; 0 shows plain colours.",
    ),
    option(
        "--mix",
        type=Mixtures(),
        default=(),
        show_default=False,
        metavar="take,swap,remove,mean|all",
        group="Components",
        help="Also save seed…-mix-….png: the image with a component taken from another image, swapped with it, "
        "removed, or moved to its mean, and a heat map of the difference. One row per component, or only "
        "--component.",
    ),
    option(
        "--mix-from",
        type=click.IntRange(0, MAX_SEED),
        metavar="SEED",
        group="Components",
        help="Seed of the other image of --mix take and swap.  [default: the next image; for the last one, the first]",
    ),
    option(
        "--component-psi",
        type=Numbers(MAX_PSI),
        default=(),
        show_default=False,
        metavar="1,0.5,0",
        group="Components",
        help="Also save seed…-component-psi.png: one component truncated with each psi, in columns.",
    ),
    boolean_option(
        "--style-mix",
        "--vis-style-mix",
        "style_mix",
        default=False,
        group="Components",
        help="Also save style-mix-….png: tables of images that take the latents of coarse, middle or fine layers "
        "from others.",
    ),
    boolean_option(
        "--noise-variation",
        "--vis-noise-var",
        "noise_variation",
        default=False,
        group="Components",
        help="Also save noise-variation.png: where the noise changes the image, and how much.",
    ),
    boolean_option(
        "--disentanglement",
        default=False,
        group="Components",
        help="Also save disentanglement.json and .png: how closely components correspond to objects, measured on all "
        "images (at most 1024).",
    ),
)
SHARED_OPTIONS = (
    option(
        "--component",
        type=click.IntRange(0, 65_536),
        metavar="K",
        group="Components",
        help="Interpolate, mix or truncate only this component.  [default: all]",
    ),
    option(
        "--rich-num",
        "--vis-rich-num",
        "rich_num",
        type=click.IntRange(1, MAX_SEEDS),
        default=5,
        metavar="N",
        group="Components",
        help="Number of images that interpolations, mixtures and the like are made of, the first ones.",
    ),
)
FILM_OPTIONS = (
    boolean_option(
        "--interpolate",
        "--vis-interpolations",
        "interpolate",
        default=False,
        group="Films",
        help="Also save a film that moves from each of the first images (--rich-num) to the next, and "
        "interpolation.png.",
    ),
    boolean_option(
        "--training-film",
        default=False,
        group="Films",
        help="Also save a film of the training: the first 64 images, made with each snapshot of the run; and "
        "training.png.",
    ),
    option(
        "--interpolation-density",
        type=click.IntRange(1, 10_000),
        default=8,
        group="Films",
        help="Number of frames from one image to the next.",
    ),
    option(
        "--interpolate-in",
        type=click.Choice(["w", "z"]),
        default="w",
        group="Films",
        help="Space of the interpolation: w (straight lines, after the mapping network), or z (great circles).",
    ),
    boolean_option("--loop", default=False, group="Films", help="Continue from the last image back to the first."),
    option(
        "--film",
        type=click.Choice(["gif", "webp", "mp4", "frames"]),
        default="gif",
        group="Films",
        help="Format of films: GIF (256 colours per frame); lossless WebP; MP4 (needs ffmpeg, or the extra film); or "
        "frames, a folder of PNG files.",
    ),
    option(
        "--fps",
        type=click.FloatRange(0.1, 100),
        default=12,
        group="Films",
        help="Frames per second.",
    ),
    option(
        "--scale",
        type=click.IntRange(1, 64),
        default=1,
        group="Films",
        help="Enlarge the frames: each pixel becomes a square of N x N.",
    ),
    option(
        "--film-grid",
        type=FilmGrid(),
        default=(1, 1),
        show_default=False,
        metavar="COLUMNSxROWS",
        group="Films",
        help="Show several interpolations side by side, each of --rich-num images of its own.  [default: 1x1]",
    ),
)
RANK_OPTIONS = (
    option(
        "--rank",
        type=click.Choice(["realism"]),
        group="Ranking",
        help="Also rank the images, and save best.png, worst.png and ranking.json in --sheets-dir. realism "
        "(Kynkäänniemi et al. 2019) compares them with real images, by features of VGG16 if it is downloaded "
        "(ganformer eval --fetch --metrics pr), else by their colours.",
    ),
    option(
        "--keep",
        type=click.IntRange(1, 1024),
        metavar="N",
        group="Ranking",
        help="Number of images in best.png and in worst.png.  [default: 16]",
    ),
    option(
        "--dataset",
        shell_complete=complete_datasets,
        metavar="NAME|PATH",
        group="Ranking",
        help="Real images of --rank: scenes, or a prepared data set by name or path.  [default: the training data of "
        "the model]",
    ),
    option(
        "--data-dir",
        type=click.Path(path_type=Path, file_okay=False),
        default="datasets",
        group="Ranking",
        help="Folder of prepared data sets.",
    ),
)


def collected(name: str, options: Sequence[Callable[[Any], Any]]) -> Callable[[F], F]:
    """Give a command these options, as one parameter ``name``: a dictionary by the options' own parameter names."""

    def probe() -> None:
        """Collects the names."""

    for each in options:
        each(probe)
    names = [parameter.name for parameter in probe.__click_params__]  # type: ignore[attr-defined]

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def command(**values: Any) -> Any:
            return function(**{name: {each: values.pop(each) for each in names}}, **values)

        decorated: Any = command
        for each in reversed(options):
            decorated = each(decorated)
        chosen: F = decorated
        return chosen

    return decorate
