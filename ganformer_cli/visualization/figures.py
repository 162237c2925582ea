"""The figures of ``ganformer generate``: what is drawn of the images of a plan, beside films.

:func:`image_sheets` draws what belongs to one image, from the attention that came with it; :func:`overviews` the sheets
of all images; :func:`list_figures` the rest, from latents of space w.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ganformer_cli.config import ModelConfig
from ganformer_cli.errors import ConfigError
from ganformer_cli.files import write_json
from ganformer_cli.sampling import AttentionMap, Generator, labels_from_seeds, latents_from_seeds, map_latents
from ganformer_cli.sampling.components import layer_groups
from ganformer_cli.sampling.image_files import Images, save_png
from ganformer_cli.sampling.image_folder import ImagePlan, OutputFolders
from ganformer_cli.sampling.image_writer import ImageSheets
from ganformer_cli.sampling.latents import with_layers
from ganformer_cli.visualization import mixing
from ganformer_cli.visualization.attention import MapStyle, component_regions, component_sheet, layer_sheet
from ganformer_cli.visualization.disentanglement import disentanglement, disentanglement_sheet
from ganformer_cli.visualization.grids import image_grid
from ganformer_cli.visualization.noise import noise_sheet, noise_variation
from ganformer_cli.visualization.sheets import fit_to_cell, image_table

GRID_FILE = "grid.png"
TRUNCATION_FILE = "truncation.png"
#: No sheet shows more images or pixels than this.
MAX_IN_GRID = 1024
MAX_SHEET_PIXELS = 1 << 26
#: Disentanglement is measured on so many images at most: more would move it by less than it is worth.
MAX_MEASURED = 1024
#: Mixtures that need another image.
_TAKING = ("take", "swap")

Update = Callable[[str, int, int], None]


@dataclass(frozen=True)
class FigureSettings:
    """Which figures are drawn, and how."""

    maps: bool  # a sheet of the last layer's attention for each image
    layer_maps: bool  # and of the attention of every layer
    maps_format: Literal["png", "npy"]  # of these: sheets to look at, or arrays
    map_style: MapStyle
    blending_alpha: float  # the image's share where regions lie over it
    style_mix: bool  # tables of images with the latents of some layers from others
    mix: tuple[str, ...]  # what is done with components: take, swap, remove, mean
    mix_from: int | None  # seed of the image that components are taken from; None takes the next image
    component_psi: tuple[float, ...]  # truncation of one component, a column for each psi
    noise_variation: bool  # what the noise changes
    disentanglement: bool  # the measures of ``disentanglement``
    component: int | None  # only this component; None for all
    rich_num: int  # of the first so many images

    def check(self, config: ModelConfig, images: int) -> None:
        """Complain about what such a model, or so many ``images``, cannot show.

        Raises:
            ConfigError: which option, and why.
        """
        maps = {"--maps": self.maps, "--layer-maps": self.layer_maps, "--disentanglement": self.disentanglement}
        for name, asked in maps.items():
            if asked and not config.has_maps:
                why = f"--merge-type {config.merge_type}" if config.kgan else "--attention none"
                if config.has_attention:
                    why = f"--g-start-res {config.g_start_res} lies above its resolution"
                raise ConfigError(f"{name}: this model has no attention ({why}), so it has no maps; leave it out")
        mix = "--mix " + ",".join(self.mix)
        for name, asked in {mix: bool(self.mix), "--component-psi": bool(self.component_psi)}.items():
            if asked and not config.has_components:
                raise ConfigError(f"{name}: this model has no components (--attention none); leave it out")
        if self.component is not None:
            if not config.has_components:
                raise ConfigError(f"--component {self.component}: this model has no components; leave it out")
            if self.component >= config.components_num:
                last = config.components_num - 1
                raise ConfigError(f"--component {self.component}: this model has components 0 to {last}")
        if "remove" in self.mix and not config.has_attention:
            raise ConfigError(
                f"{mix}: components of k-GAN cannot be removed, each makes a part of the image; leave it out"
            )
        taking = [kind for kind in _TAKING if kind in self.mix]
        if self.mix_from is not None and not taking:
            raise ConfigError(
                f"--mix-from {self.mix_from} says where --mix take and swap take components from; give one of these too"
            )
        if taking and self.mix_from is None and images < 2:
            raise ConfigError(f"--mix {taking[0]} needs another image; give --mix-from SEED, or ask for more images")
        if self.style_mix and images < 2:
            raise ConfigError("--style-mix mixes images with one another; ask for at least 2")
        if self.disentanglement and images < 2:
            raise ConfigError("--disentanglement exchanges components between images; ask for at least 2")
        if self.noise_variation and not config.local_noise:
            raise ConfigError("--noise-variation: this model has no noise (--local-noise False); leave it out")


# ----- Of each image -----


def image_sheets(settings: FigureSettings) -> ImageSheets:
    """The sheets, or arrays, of each image that ``maps`` and ``layer_maps`` ask for."""
    style, alpha = settings.map_style, settings.blending_alpha
    draw: dict[str, Callable[[Images, Sequence[AttentionMap]], Images | bytes]] = {}
    metadata: dict[str, Any] = {"map_style": style, "blending_alpha": alpha}
    if settings.maps_format == "npy":
        metadata = {"format": "npy"}
        if settings.maps:
            draw["maps.npy"] = lambda image, maps: npy_bytes(maps[-1].probabilities[0].float().mean(0).numpy())
            draw["mask.npy"] = lambda image, maps: npy_bytes(
                component_regions(maps[-1], image.shape[1:]).astype(np.uint16)
            )
        if settings.layer_maps:
            draw["layer-maps.npz"] = lambda image, maps: npz_bytes(
                {layer: probabilities[0].float().numpy() for layer, probabilities in maps}
            )
    else:
        if settings.maps:
            draw["maps.png"] = lambda image, maps: component_sheet(image, maps[-1], alpha, style)
        if settings.layer_maps:
            draw["layer-maps.png"] = lambda image, maps: layer_sheet(image, maps, alpha, style)
    return ImageSheets(
        {name: {"figure": name.partition(".")[0], **metadata} for name in draw},
        lambda image, maps: {name: sheet(image, maps) for name, sheet in draw.items()},
    )


def npy_bytes(array: npt.NDArray[Any]) -> bytes:
    """The content of a ``.npy`` file."""
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def npz_bytes(arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """The content of a ``.npz`` file."""
    stream = io.BytesIO()
    np.savez(stream, **arrays)  # type: ignore[arg-type]
    return stream.getvalue()


# ----- Of all images -----


class Overview(NamedTuple):
    """A sheet of many images."""

    path: Path
    metadata: dict[str, Any]
    images: range | list[int]  # by index; what it is drawn of
    draw: Callable[[Mapping[int, Images]], Images]

    def save(self, images: Mapping[int, Images], folders: OutputFolders) -> None:
        """Draw and write it, of ``images`` by their index."""
        folders.announce({self.path: self.metadata})
        save_png(self.path, self.draw(images), self.metadata)
        folders.add({self.path: self.metadata})


def overviews(plan: ImagePlan, size: tuple[int, int], *, grid: bool) -> dict[str, Overview]:
    """``grid``, if it is asked for, and ``truncation``, if there are several psi; ``size``: height and width."""
    most = max(1, min(MAX_IN_GRID, MAX_SHEET_PIXELS // (size[0] * size[1])))
    sheets: dict[str, Overview] = {}
    if grid:
        shown = range(min(len(plan), most))
        sheets["grid"] = Overview(
            plan.sheets / GRID_FILE,
            plan.metadata(figure="grid"),
            shown,
            lambda images: image_grid(np.stack([images[index] for index in shown])),
        )
    if len(plan.psis) > 1:
        count = len(plan.numbers)
        rows = range(max(1, min(count, most // len(plan.psis))))
        indexes = [[turn * count + row for turn in range(len(plan.psis))] for row in rows]
        names = [f"{'seed' if plan.latents is None else 'row'} {plan.numbers[row]}" for row in rows]
        sheets["truncation"] = Overview(
            plan.sheets / TRUNCATION_FILE,
            plan.metadata(figure="truncation"),
            [index for row in indexes for index in row],
            lambda images: image_table(
                [[fit_to_cell(images[index]) for index in row] for row in indexes],
                columns=[f"psi {psi:g}" for psi in plan.psis],
                rows=names,
            ),
        )
    return sheets


# ----- Of latents -----


class FigureSource(NamedTuple):
    """What figures are drawn from."""

    generator: Generator
    header: Mapping[str, Any]  # of the model's file
    plan: ImagePlan  # figures have its first psi
    label: list[float] | None  # of all images; None draws each seed's own

    def ws(self, count: int) -> list[Tensor]:
        """The latents ``[m+1, L, w]`` of the first ``count`` images."""
        numbers, given = self.plan.numbers[:count], self.plan.latents
        if given is None:
            return self.mapped(latents_from_seeds(self.generator, numbers), numbers)
        latents = torch.from_numpy(np.array(given[:count], np.float32))
        if self.plan.settings["space"] == "z":
            return self.mapped(latents, numbers)
        return list(with_layers(self.generator, latents))

    def mapped(self, z: Tensor, seeds: Sequence[int]) -> list[Tensor]:
        """Latents of space z, brought to space w with the labels of ``seeds``."""
        labels = labels_from_seeds(self.generator, seeds) if self.label is None else self.label
        return list(map_latents(self.generator, z, labels=labels, truncation_psi=self.plan.psis[0]))

    def name(self, index: int) -> str:
        """Of an image, for captions."""
        return f"{self.plan.kind} {self.plan.numbers[index]}"


class Drawn(NamedTuple):
    """A figure: its sheet, and what ``--json`` says of it beside the file."""

    sheet: Images
    record: dict[str, Any]


class Figure(NamedTuple):
    """A figure that is to be drawn."""

    option: str  # that asks for it
    title: str  # for the progress
    path: Path
    metadata: dict[str, Any]
    draw: Callable[[], Drawn]


def list_figures(settings: FigureSettings, source: FigureSource, update: Update) -> Iterator[Figure]:
    """The figures that the settings ask for; nothing is drawn before a figure's ``draw``.

    ``update`` is called with a title, how many parts are done, and how many there are, where a figure has parts.
    """
    plan, generator = source.plan, source.generator
    count = min(settings.rich_num, len(plan.numbers))
    stems = [plan.image(index).stem for index in range(count)]
    names = [source.name(index) for index in range(count)]
    component = settings.component
    components = range(generator.config.components_num) if component is None else [component]
    ws = functools.cache(source.ws)

    def figure(option: str, title: str, name: str, draw: Callable[[], Drawn], **metadata: Any) -> Figure:
        said = plan.metadata(figure=name, **metadata)
        return Figure(option, title, plan.sheets / f"{name}.png", said, draw)

    of_component = {} if component is None else {"component": component}
    if settings.style_mix:
        for group, layers in layer_groups(generator).items():

            def draw_styles(layers: range = layers) -> Drawn:
                return Drawn(mixing.style_table(generator, ws(count), names, layers), {})

            yield figure("style_mix", "mixing styles", f"style-mix-{group}", draw_styles, rich_num=count)
    for index, stem in enumerate(stems):
        for kind in settings.mix:
            other = {} if settings.mix_from is None or kind not in _TAKING else {"mix_from": settings.mix_from}

            def draw_mixture(index: int = index, kind: str = kind) -> Drawn:
                return _draw_mixture(settings, source, ws(min(count + 1, len(plan.numbers))), index, kind, components)

            yield figure("mix", "mixing components", f"{stem}-mix-{kind}", draw_mixture, **of_component, **other)
    for index, stem in enumerate(stems if settings.component_psi else ()):

        def draw_truncation(index: int = index) -> Drawn:
            (before,) = mixing.draw(generator, [ws(count)[index]], attention=True)
            mixtures = mixing.truncate_each(generator, ws(count)[index], components, settings.component_psi)
            captions = [f"psi {psi:g}" for psi in settings.component_psi]
            return Drawn(mixing.mixture_sheet(before, mixtures, captions, names[index]), {})

        psis = {"component_psi": list(settings.component_psi)}
        name = f"{stem}-component-psi"
        yield figure("component_psi", "truncating components", name, draw_truncation, **of_component, **psis)
    if settings.noise_variation:

        def draw_noise() -> Drawn:
            return Drawn(noise_sheet([noise_variation(generator, latents) for latents in ws(count)], names), {})

        yield figure("noise_variation", "varying noise", "noise-variation", draw_noise, rich_num=count)
    if settings.disentanglement:

        def draw_measures() -> Drawn:
            measured = ws(min(len(plan.numbers), MAX_MEASURED))
            return _draw_disentanglement(settings, source, measured, names, update)

        metadata = {"rich_num": count, "blending_alpha": settings.blending_alpha}
        yield figure("disentanglement", "measuring components", "disentanglement", draw_measures, **metadata)


def draw_figures(figures: Sequence[Figure], folders: OutputFolders, update: Update) -> dict[str, Any]:
    """Draw and write the figures that are not there.

    Args:
        figures: of ``list_figures``, for all of which ``folders.holds`` has been asked.
        folders: what is kept.
        update: called with a figure's title, how many of that title are done, and how many there are.

    Returns:
        By the option that asked for them, what ``--json`` says of the figures.
    """
    found: dict[str, list[Any]] = {}
    folders.announce({each.path: each.metadata for each in figures})
    for each in figures:
        files = {each.path: each.metadata}
        record = folders.result(each.path) if folders.holds(files) else None
        if record is None:
            sheet, record = each.draw()
            save_png(each.path, sheet, each.metadata)
            folders.add({each.path: {**each.metadata, "result": record}})
        found.setdefault(each.option, []).append((each.path, record))
        if each.option == "disentanglement":
            write_json(each.path.with_suffix(".json"), record)
        else:
            update(each.title, len(found[each.option]), sum(other.option == each.option for other in figures))
    return {option: _RECORDS[option](drawn) for option, drawn in found.items()}


#: What ``--json`` says of the figures of an option, from their files and records.
_RECORDS: dict[str, Callable[[list[tuple[Path, dict[str, Any]]]], Any]] = {
    "style_mix": lambda drawn: {path.stem.removeprefix("style-mix-"): str(path) for path, _ in drawn},
    "mix": lambda drawn: [{**record, "file": str(path)} for path, record in drawn],
    "component_psi": lambda drawn: [str(path) for path, _ in drawn],
    "noise_variation": lambda drawn: str(drawn[0][0]),
    "disentanglement": lambda drawn: {
        "file": str(drawn[0][0].with_suffix(".json")),
        "sheet": str(drawn[0][0]),
        **drawn[0][1],
    },
}


def _draw_mixture(
    settings: FigureSettings,
    source: FigureSource,
    all_ws: Sequence[Tensor],
    index: int,
    kind: str,
    components: Sequence[int],
) -> Drawn:
    generator, ws = source.generator, all_ws[index]
    record: dict[str, Any] = {source.plan.kind: int(source.plan.numbers[index]), "kind": kind}
    (before,) = mixing.draw(generator, [ws], attention=True)
    if kind == "remove":
        mixtures, caption = mixing.remove_each(generator, ws, components), "removed"
    elif kind == "mean":
        mixtures, caption = mixing.truncate_each(generator, ws, components, [0.0]), "at its mean"
    else:
        if settings.mix_from is None:
            other = (index + 1) % len(all_ws)
            other_ws, other_name = all_ws[other], source.name(other)
        else:
            seeds = [settings.mix_from]
            (other_ws,) = source.mapped(latents_from_seeds(generator, seeds), seeds)
            other_name = f"seed {settings.mix_from}"
        record["from"] = other_name
        mixtures, caption = mixing.take_each(generator, ws, other_ws, components), f"of {other_name}"
    if kind == "swap":
        (back,) = mixing.draw(generator, [other_ws])
        away = mixing.take_each(generator, other_ws, ws, components)
        sheet = mixing.swap_sheet((before, back), (mixtures, away), (source.name(index), other_name))
    else:
        sheet = mixing.mixture_sheet(before, mixtures, [caption], source.name(index))
    record["mean_difference"] = {str(each.component): float(each.difference.mean()) for each in mixtures}
    return Drawn(sheet, record)


def _draw_disentanglement(
    settings: FigureSettings, source: FigureSource, ws: Sequence[Tensor], names: Sequence[str], update: Update
) -> Drawn:
    trained_on = source.header.get("dataset")
    found = disentanglement(
        source.generator,
        ws,
        scenes=isinstance(trained_on, Mapping) and trained_on.get("name") == "scenes",
        shown=len(names),
        progress=lambda done, total: update("measuring components", done, total),
    )
    sheet = disentanglement_sheet(found.images, names[: len(found.images)], settings.blending_alpha)
    return Drawn(sheet, {"truncation_psi": source.plan.psis[0], **found.measures})
