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
                self.fail(f"{name!r} is no mixture; there are {', '.join(MIXTURES)}, or all", param, ctx)
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
        help="Also save seed…-maps.png: the image, the regions of the last layer's attention (a colour a component) "
        "over it, and each component's share.",
    ),
    boolean_option(
        "--layer-maps",
        "--vis-layer-maps",
        "layer_maps",
        default=False,
        group="Components",
        help="Also save seed…-layer-maps.png: the image and the regions of the attention of every layer and head.",
    ),
    option(
        "--maps-format",
        type=click.Choice(["png", "npy"]),
        default="png",
        group="Components",
        help="Of --maps and --layer-maps: PNG to look at, or arrays. Those are seed…-maps.npy, float32 [m, h, w] of "
        "the last layer; seed…-mask.npy, uint16 [H, W], the component of each pixel; and seed…-layer-maps.npz, "
        "float32 [heads, m, h, w] for each layer.",
    ),
    option(
        "--map-style",
        type=click.Choice(["hard", "soft"]),
        default="hard",
        group="Components",
        help="In these: the colour of the component that a pixel attends to most, or all components' colours, mixed "
        "as it attends to them.",
    ),
    option(
        "--blending-alpha",
        type=click.FloatRange(0, 1),
        default=0.3,
        group="Components",
        rare=True,
        help="The image's share where regions lie over it; 0 shows plain colours.",
    ),
    option(
        "--mix",
        type=Mixtures(),
        default=(),
        show_default=False,
        metavar="take,swap,remove,mean|all",
        group="Components",
        help="Also save seed…-mix-….png: what becomes of the image when a component is taken from another image, "
        "exchanged with it, removed, or moved to its mean; with a heat map of the difference. One row a component, "
        "or that of --component.",
    ),
    option(
        "--mix-from",
        type=click.IntRange(0, MAX_SEED),
        metavar="SEED",
        group="Components",
        help="The other image of --mix take and swap.  [default: the next of the images, after the last the first]",
    ),
    option(
        "--component-psi",
        type=Numbers(MAX_PSI),
        default=(),
        show_default=False,
        metavar="1,0.5,0",
        group="Components",
        help="Also save seed…-component-psi.png: truncation of one component alone, one column for each of these psi.",
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
        help="Also save noise-variation.png: what the noise changes, and how much.",
    ),
    boolean_option(
        "--disentanglement",
        default=False,
        group="Components",
        help="Also save disentanglement.json and .png: how nearly a component is one object, measured on all images "
        "(the first 1024).",
    ),
)
SHARED_OPTIONS = (
    option(
        "--component",
        type=click.IntRange(0, 65_536),
        metavar="K",
        group="Components",
        help="Interpolate, mix or truncate this component only.  [default: all]",
    ),
    option(
        "--rich-num",
        "--vis-rich-num",
        "rich_num",
        type=click.IntRange(1, MAX_SEEDS),
        default=5,
        metavar="N",
        group="Components",
        help="Interpolations, mixtures and the like are made of the first N images.",
    ),
)
FILM_OPTIONS = (
    boolean_option(
        "--interpolate",
        "--vis-interpolations",
        "interpolate",
        default=False,
        group="Films",
        help="Also move from each of the first images (--rich-num) to the next: a film, and interpolation.png.",
    ),
    boolean_option(
        "--training-film",
        default=False,
        group="Films",
        help="Also draw the first 64 images with every snapshot of the run, from the first to the last: a film, and "
        "training.png.",
    ),
    option(
        "--interpolation-density",
        type=click.IntRange(1, 10_000),
        default=8,
        group="Films",
        help="Steps from one image to the next.",
    ),
    option(
        "--interpolate-in",
        type=click.Choice(["w", "z"]),
        default="w",
        group="Films",
        help="Where the way leads: straight through w, after the mapping network, or along great circles through z.",
    ),
    boolean_option("--loop", default=False, group="Films", help="And from the last image back to the first."),
    option(
        "--film",
        type=click.Choice(["gif", "webp", "mp4", "frames"]),
        default="gif",
        group="Films",
        help="As what: GIF (256 colours a frame), lossless WebP, MP4 (needs ffmpeg), or a folder of PNG frames.",
    ),
    option(
        "--fps",
        type=click.FloatRange(0.1, 100),
        default=12,
        group="Films",
        help="Frames a second of the film.",
    ),
    option(
        "--scale",
        type=click.IntRange(1, 64),
        default=1,
        group="Films",
        help="Enlarge the frames: each pixel becomes N across and down.",
    ),
    option(
        "--film-grid",
        type=FilmGrid(),
        default=(1, 1),
        show_default=False,
        metavar="COLUMNSxROWS",
        group="Films",
        help="Interpolate so many times at once, side by side, each through --rich-num images of its own.  "
        "[default: 1x1]",
    ),
)
RANK_OPTIONS = (
    option(
        "--rank",
        type=click.Choice(["realism"]),
        group="Ranking",
        help="Also order the images by how real they look, and save best.png, worst.png and ranking.json in "
        "--sheets-dir. realism (Kynkäänniemi et al. 2019) compares them with real images: by the network VGG16 if it "
        "has been downloaded (ganformer eval --fetch --metrics pr), else by their colours.",
    ),
    option(
        "--keep",
        type=click.IntRange(1, 1024),
        metavar="N",
        group="Ranking",
        help="Show so many of the best, and of the worst.  [default: 16]",
    ),
    option(
        "--dataset",
        shell_complete=complete_datasets,
        metavar="NAME|PATH",
        group="Ranking",
        help="Real images to rank by; without --rank a model needs none.  [default: the training data of the model]",
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
