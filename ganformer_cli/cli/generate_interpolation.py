"""``ganformer generate --interpolate``: from one picture to the next, as a film and a sheet."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ganformer_cli.cli.generate_output import Kept, Plan
from ganformer_cli.cli.options import boolean_option, option
from ganformer_cli.errors import ConfigError
from ganformer_cli.files import remove

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from ganformer_cli.sampling import Generator, NoiseMode, Space

F = TypeVar("F", bound=Callable[..., Any])

#: The sheet shows at most so many steps of each way, and so many ways.
MOST_COLUMNS, MOST_ROWS = 16, 64


@dataclasses.dataclass(frozen=True)
class Interpolation:
    """The options of ``interpolation_options``."""

    interpolate: bool
    interpolation_density: int
    interpolate_in: Any  # z or w
    loop: bool
    film: str
    fps: float


_OPTIONS = (
    boolean_option(
        "--interpolate",
        "--vis-interpolations",
        "interpolate",
        default=False,
        group="Interpolation",
        help="Also move from each of the first pictures (--rich-num) to the next: a film, and interpolation.png.",
    ),
    option(
        "--interpolation-density",
        type=click.IntRange(1, 10_000),
        default=8,
        group="Interpolation",
        help="Steps from one picture to the next.",
    ),
    option(
        "--interpolate-in",
        type=click.Choice(["w", "z"]),
        default="w",
        group="Interpolation",
        help="Where the way leads: straight through w, after the mapping network, or along great circles through z.",
    ),
    boolean_option("--loop", default=False, group="Interpolation", help="And from the last picture back to the first."),
    option(
        "--film",
        type=click.Choice(["gif", "webp", "mp4", "frames"]),
        default="gif",
        group="Interpolation",
        help="As what: GIF (256 colours a frame), lossless WebP, MP4 (needs ffmpeg), or a folder of PNG frames.",
    ),
    option(
        "--fps",
        type=click.FloatRange(0.1, 100),
        default=12,
        group="Interpolation",
        help="Frames a second of the film.",
    ),
)


def interpolation_options(function: F) -> F:
    """The options of ``Interpolation``, as one parameter ``interpolation`` of the command."""

    @functools.wraps(function)
    def command(**values: Any) -> Any:
        names = [field.name for field in dataclasses.fields(Interpolation)]
        return function(interpolation=Interpolation(**{name: values.pop(name) for name in names}), **values)

    decorated: Any = command
    for add in reversed(_OPTIONS):
        decorated = add(decorated)
    chosen: F = decorated
    return chosen


def check_line(given: Mapping[str, Any], interpolation: Interpolation) -> None:
    """Refuse options that contradict each other, or that nothing would read."""
    if not interpolation.interpolate:
        for name in ("interpolate_in", "loop", "film", "fps"):
            if given.get(name):
                said = "--" + name.replace("_", "-")
                raise click.UsageError(f"{said} says how to interpolate; add --interpolate, or leave out {said}")
    elif given.get("interpolate_in") == "z" and given.get("space") == "w":
        raise click.UsageError("--interpolate-in z with --space w: there is no way back to z; leave out one")


def check_interpolation(interpolation: Interpolation, generator: Generator, ends: int) -> None:
    """Complain about what cannot be shown, before anything is drawn; ``ends`` are the pictures to move between.

    Raises:
        ConfigError: too few pictures, or a film that cannot be made.
    """
    from ganformer_cli.visualization.animation import check_film
    from ganformer_cli.visualization.interpolation import way_length

    if not interpolation.interpolate:
        return
    if ends < 2:
        raise ConfigError(
            "--interpolate: moves from one picture to the next, and there is only one; ask for two or more (--seeds "
            "0-4, --rich-num 5)"
        )
    frames = way_length(ends, interpolation.interpolation_density, loop=interpolation.loop)
    check_film(interpolation.film, frames, *generator.config.image_size)


class Way:
    """The way through the first pictures of a plan.

    Args:
        interpolation: the options.
        plan: of which pictures.
        ends: how many of them.
        component: the only one that moves, or None.
    """

    def __init__(self, interpolation: Interpolation, plan: Plan, ends: int, component: int | None) -> None:
        self.options, self.component = interpolation, component
        self.numbers = [int(number) for number in plan.numbers[:ends]]
        self.latents, self.psi = plan.latents, plan.psis[0]
        self.given_space = plan.settings.get("space", "z")
        stem = "interpolation"
        if interpolation.interpolate_in == "z":
            stem += "-z"
        if component is not None:
            stem += f"-component{component}"
        self.sheet = plan.sheets / f"{stem}.png"
        self.frames = plan.sheets / stem if interpolation.film == "frames" else None
        self.film = self.frames or plan.sheets / f"{stem}.{interpolation.film}"
        self.about = plan.about_all(
            figure="interpolation",
            ends=ends,
            density=interpolation.interpolation_density,
            interpolated_in=interpolation.interpolate_in,
            component=component,
            loop=interpolation.loop,
        )
        self.film_about = {**self.about, "fps": interpolation.fps}

    def is_kept(self, kept: Kept) -> bool:
        """Whether film and sheet are there already.

        Raises:
            OutputError: others are in their way.
        """
        there = [kept.holds(self.sheet, self.about)]
        if self.frames is None:
            there.append(kept.holds(self.film, self.film_about))
        else:
            there += [kept.holds(self._frame(index), self._frame_about(index)) for index in range(self.length)]
        return all(there)

    @property
    def length(self) -> int:
        """Number of frames."""
        from ganformer_cli.visualization.interpolation import way_length

        return way_length(len(self.numbers), self.options.interpolation_density, loop=self.options.loop)

    @property
    def files(self) -> dict[str, Any]:
        """What is written."""
        return {"film": str(self.film), "sheet": str(self.sheet), "frames": self.length}

    def draw(
        self,
        generator: Generator,
        label: list[float] | None,
        *,
        noise: NoiseMode,
        ratio: float | None,
        batch_size: int,
        update: Callable[[int], None],
    ) -> None:
        """Draw and write film and sheet; ``label`` is that of all, or None for each seed's own."""
        from ganformer_cli.sampling.image_files import crop_to_ratio, save_png
        from ganformer_cli.visualization.animation import save_film
        from ganformer_cli.visualization.sheets import fitted, table

        density = self.options.interpolation_density
        shown = {round(step * density / min(density, MOST_COLUMNS)) for step in range(min(density, MOST_COLUMNS) + 1)}
        rows: list[list[npt.NDArray[np.uint8] | None]] = [[] for _ in range(min(self._ways, MOST_ROWS))]

        def frames() -> Iterator[npt.NDArray[np.uint8]]:
            for index, drawn in enumerate(self._samples(generator, label, noise_mode=noise, batch_size=batch_size)):
                image = drawn if ratio is None else crop_to_ratio(drawn, ratio)
                way, step = divmod(index, density)
                if step in shown and way < len(rows):
                    rows[way].append(fitted(image))
                if step == 0 and 0 < way <= len(rows):
                    rows[way - 1].append(fitted(image))
                yield image
                update(index + 1)
            if self.options.loop and len(rows) == self._ways:
                rows[-1].append(rows[0][0])

        if self.frames is None:
            save_film(self.film, frames(), per_second=self.options.fps, about=self.film_about)
        else:
            for index, image in enumerate(frames()):
                save_png(self._frame(index), image, self._frame_about(index))
            # Of a longer film that is to be replaced: players take every frame that they find.
            for surplus in set(self.frames.glob("frame*.png")) - {self._frame(index) for index in range(self.length)}:
                remove(surplus)
        numbers = [*self.numbers, self.numbers[0]]
        names = [f"{first} to {second}" for first, second in zip(numbers, numbers[1:], strict=False)]
        save_png(self.sheet, table(rows, rows=names[: len(rows)]), self.about)

    @property
    def _ways(self) -> int:
        return len(self.numbers) - (not self.options.loop)

    def _frame(self, index: int) -> Path:
        return self.film / f"frame{index:05d}.png"

    def _frame_about(self, index: int) -> dict[str, Any]:
        return {**self.about, "frame": index}

    def _samples(
        self, generator: Generator, label: list[float] | None, **options: Any
    ) -> Iterator[npt.NDArray[np.uint8]]:
        """The frames, drawn way by way: the latents of all together may be many."""
        from ganformer_cli.sampling import sample_latents
        from ganformer_cli.visualization.interpolation import ways

        space, ends, labels = self._ends(generator, label)
        how: dict[str, Any] = {"steps": self.options.interpolation_density, "loop": self.options.loop}
        of_labels = itertools.repeat(None) if labels is None else ways(labels, spherical=False, **how)
        of_latents = ways(ends, spherical=space == "z", component=self.component, **how)
        for latents, own in zip(of_latents, of_labels, strict=labels is not None):
            # One noise for all, or it would flicker.
            how_drawn = {"truncation_psi": self.psi if space == "z" else 1.0, "noise_seed": self.numbers[0], **options}
            for each in sample_latents(generator, latents, space=space, labels=own, **how_drawn):
                yield each.image

    def _ends(self, generator: Generator, label: list[float] | None) -> tuple[Space, Tensor, Tensor | None]:
        """Space, latents and labels of the pictures to move between; labels where they act on the frames."""
        import torch

        from ganformer_cli.sampling import labels_from_seeds, latents_from_seeds, map_latents

        if self.latents is None:
            ends = latents_from_seeds(generator, self.numbers)
        else:
            ends = torch.from_numpy(self.latents[self.numbers].astype("float32"))
        if self.given_space == "w":
            layers = (len(ends), -1, generator.config.num_ws, -1)
            return "w", ends if ends.ndim == 4 else ends[:, :, None].expand(layers), None
        own = labels_from_seeds(generator, self.numbers)
        labels = own if label is None else torch.tensor(label).expand(len(own), -1)
        if self.options.interpolate_in == "w":
            return "w", map_latents(generator, ends, labels=labels, truncation_psi=self.psi), None
        if self.component is not None:
            # One component alone cannot change the label: it stays that of the first picture.
            labels = labels[:1].expand(len(labels), -1)
        return "z", ends, labels if generator.config.c_dim else None
