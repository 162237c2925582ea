"""The options of ``ganformer generate`` for what is drawn of the pictures: attention, mixtures, noise, disentanglement.

:func:`figure_options` gives a command these options and hands them to it as one argument ``figures``;
:func:`check_figures` complains before anything is drawn; ``generate_sheets`` draws.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ganformer_cli.cli.options import MAX_DIGITS, MAX_FLOAT, MAX_PSI, MAX_SEED, NUMBER, boolean_option, option
from ganformer_cli.errors import ConfigError
from ganformer_cli.text import printable

if TYPE_CHECKING:
    from ganformer_cli.config import ModelConfig

F = TypeVar("F", bound=Callable[..., Any])

#: What ``--mix`` does with a component.
MIXTURES = ("take", "swap", "remove", "mean")
#: Of these, those that need another picture.
TAKING = ("take", "swap")
DISENTANGLEMENT = "disentanglement"
#: More pictures than this move its measures by less than they are worth.
MOST_MEASURED = 1024


@dataclasses.dataclass(frozen=True)
class Figures:
    """The options of ``figure_options``."""

    maps: bool
    layer_maps: bool
    map_style: str
    blending_alpha: float
    style_mix: bool
    mix: tuple[str, ...]
    mix_from: int | None
    component_psi: tuple[float, ...]
    noise_variation: bool
    disentanglement: bool

    @property
    def of_each(self) -> bool:
        """Whether something is drawn of every picture, from its attention: see ``draw_maps``."""
        return self.maps or self.layer_maps

    def about_each(self) -> dict[str, dict[str, Any]]:
        """What ``draw_maps`` draws of each picture, and what that says of itself beside what the picture says."""
        style = {"map_style": self.map_style, "blending_alpha": self.blending_alpha}
        wanted = {"maps": self.maps, "layer-maps": self.layer_maps}
        return {name: {"figure": name, **style} for name, there in wanted.items() if there}

    def sources_needed(self, pictures: int, rich_num: int) -> int:
        """How many of the first pictures ``draw_figures`` needs of so many."""
        # Each of the first is mixed with the one after it; only disentanglement is measured on more.
        return min(pictures, MOST_MEASURED if self.disentanglement else rich_num + 1)

    @property
    def others(self) -> bool:
        """Whether ``draw_figures`` has anything to do."""
        return bool(self.style_mix or self.mix or self.component_psi or self.noise_variation or self.disentanglement)


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


class Numbers(click.ParamType):
    """``1,0.5,0`` as a tuple of finite floats.

    Args:
        most: neither a number nor its negative may be larger.
    """

    name = "numbers"

    def __init__(self, most: float = MAX_FLOAT) -> None:
        self.most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        if not isinstance(value, str):
            return tuple(value)
        numbers = []
        for part in (piece.strip(" ") for piece in value.split(",")):
            shown = printable(part, limit=40)
            if part.lower().lstrip("+-") in ("nan", "inf", "infinity"):
                self.fail(f"{shown} is not a finite number; write for instance 1,0.5,0", param, ctx)
            if not NUMBER.fullmatch(part):
                self.fail(f"{shown!r} is no number; write for instance 1,0.5,0", param, ctx)
            if len(part) > MAX_DIGITS or not abs(float(part)) <= self.most:
                self.fail(f"{shown} is too large; numbers go from {-self.most:g} to {self.most:g}", param, ctx)
            numbers.append(float(part))
        return tuple(numbers)


_OPTIONS = (
    boolean_option(
        "--maps",
        "--vis-maps",
        "maps",
        default=False,
        group="Components",
        help="Also save seed…-maps.png: the picture, the regions of the last layer's attention (a colour a component) "
        "over it, and each component's share.",
    ),
    boolean_option(
        "--layer-maps",
        "--vis-layer-maps",
        "layer_maps",
        default=False,
        group="Components",
        help="Also save seed…-layer-maps.png: the picture and the regions of the attention of every layer and head.",
    ),
    option(
        "--map-style",
        type=click.Choice(["hard", "soft"]),
        default="hard",
        group="Components",
        help="In these: the colour of the component that a pixel attends to most, or all components' colours, mixed as "
        "it attends to them.",
    ),
    option(
        "--blending-alpha",
        type=click.FloatRange(0, 1),
        default=0.3,
        group="Components",
        rare=True,
        help="The picture's share where regions lie over it; 0 shows plain colours.",
    ),
    option(
        "--mix",
        type=Mixtures(),
        default=(),
        show_default=False,
        metavar="take,swap,remove,mean|all",
        group="Components",
        help="Also save seed…-mix-….png: what becomes of the picture when a component is taken from another picture, "
        "exchanged with it, removed, or moved to its mean; with a heat map of the difference. One row a component, or "
        "that of --component.",
    ),
    option(
        "--mix-from",
        type=click.IntRange(0, MAX_SEED),
        metavar="SEED",
        group="Components",
        help="The other picture of --mix take and swap.  [default: the next of the pictures, after the last the first]",
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
        help="Also save style-mix-….png: tables of pictures that take the latents of coarse, middle or fine layers "
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
        help=f"Also save {DISENTANGLEMENT}.json and .png: how nearly a component is one object, measured on all "
        f"pictures (the first {MOST_MEASURED}).",
    ),
)


def figure_options(function: F) -> F:
    """The options of ``Figures``, as one parameter ``figures`` of the command."""

    @functools.wraps(function)
    def command(**values: Any) -> Any:
        figures = Figures(**{field.name: values.pop(field.name) for field in dataclasses.fields(Figures)})
        return function(figures=figures, **values)

    decorated: Any = command
    for add in reversed(_OPTIONS):
        decorated = add(decorated)
    chosen: F = decorated
    return chosen


def check_component(component: int, config: ModelConfig) -> None:
    """Raise ConfigError unless the model has a component of that number (``--component``)."""
    if not config.has_components:
        raise ConfigError(f"--component {component}: this model has no components; leave it out")
    if not 0 <= component < config.components_num:
        raise ConfigError(f"--component {component}: this model has components 0 to {config.components_num - 1}")


def check_figures(figures: Figures, config: ModelConfig, *, pictures: int, component: int | None = None) -> None:
    """Complain about what such a model, or so many ``pictures``, cannot show; before anything is drawn.

    Raises:
        ConfigError: which option, and why.
    """
    maps = [("--maps", figures.maps), ("--layer-maps", figures.layer_maps)]
    for name, asked in (*maps, ("--disentanglement", figures.disentanglement)):
        if asked and not config.has_maps:
            why = f"--merge-type {config.merge_type}" if config.kgan else "--attention none"
            if config.has_attention:
                why = f"--g-start-res {config.g_start_res} lies above its resolution"
            raise ConfigError(f"{name}: this model has no attention ({why}), so it has no maps; leave it out")
    mix = "--mix " + ",".join(figures.mix)
    for name, asked in ((mix, bool(figures.mix)), ("--component-psi", bool(figures.component_psi))):
        if asked and not config.has_components:
            raise ConfigError(f"{name}: this model has no components (--attention none); leave it out")
    if component is not None:
        check_component(component, config)
    if "remove" in figures.mix and not config.has_attention:
        raise ConfigError(
            f"{mix}: components of k-GAN cannot be removed, each makes a part of the picture; leave it out"
        )
    taking = [kind for kind in TAKING if kind in figures.mix]
    if figures.mix_from is not None and not taking:
        raise ConfigError(
            f"--mix-from {figures.mix_from} says where --mix take and swap take components from; give one of these too"
        )
    if taking and figures.mix_from is None and pictures < 2:
        raise ConfigError(f"--mix {taking[0]} needs another picture; give --mix-from SEED, or ask for more pictures")
    if figures.style_mix and pictures < 2:
        raise ConfigError("--style-mix mixes pictures with one another; ask for at least 2")
    if figures.disentanglement and pictures < 2:
        raise ConfigError("--disentanglement exchanges components between pictures; ask for at least 2")
    if figures.noise_variation and not config.local_noise:
        raise ConfigError("--noise-variation: this model has no noise (--local-noise False); leave it out")


def figure_files(
    figures: Figures, stems: Sequence[str], component: int | None, folder: Path, about: Mapping[str, Any]
) -> dict[Path, dict[str, Any]]:
    """The pictures that ``draw_figures`` writes, and what each says of itself.

    Args:
        figures: the options.
        stems: of the pictures that have figures of their own, for instance ``seed0007``.
        component: of ``--component``, or None for every component.
        folder: where to.
        about: what all say.
    """
    from ganformer_cli.visualization.mixing import LAYER_GROUPS

    several = {"rich_num": len(stems)}
    of_component = {} if component is None else {"component": component}
    said: dict[str, dict[str, Any]] = {}
    if figures.style_mix:
        said |= {f"style-mix-{group}": several for group in LAYER_GROUPS}
    for kind in figures.mix:
        other = {} if figures.mix_from is None or kind not in TAKING else {"mix_from": figures.mix_from}
        said |= {f"{stem}-mix-{kind}": {**of_component, **other} for stem in stems}
    if figures.component_psi:
        psis = {"component_psi": list(figures.component_psi)}
        said |= {f"{stem}-component-psi": {**of_component, **psis} for stem in stems}
    if figures.noise_variation:
        said["noise-variation"] = several
    if figures.disentanglement:
        said[DISENTANGLEMENT] = {**several, "blending_alpha": figures.blending_alpha}
    return {folder / f"{name}.png": {**about, "figure": name, **more} for name, more in said.items()}
