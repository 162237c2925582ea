"""Draws the figures that ``generate_figures`` asks for, and writes them.

:func:`draw_maps` draws what belongs to one picture, from the attention that came with it; :func:`draw_figures` the
rest, of latents that :func:`sources_of` has brought to space w.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ganformer_cli.cli.generate_figures import DISENTANGLEMENT, TAKING, Figures
from ganformer_cli.files import write_json

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

    from ganformer_cli.sampling import AttentionMap, Generator
    from ganformer_cli.sampling.image_files import Images

Update = Callable[[str, int, int], None]
Save = Callable[[str, "Images"], str]


def draw_maps(
    figures: Figures, image: Images, maps: Sequence[AttentionMap], folder: Path, stem: str, about: Mapping[str, Any]
) -> None:
    """Save what ``figures.of_each`` asks for as ``STEM-maps.png`` and ``STEM-layer-maps.png``.

    Args:
        figures: the options.
        image: uint8 ``[3, H, W]``, not cropped.
        maps: of all layers, B = 1.
        folder: where to.
        stem: for instance ``seed0007``.
        about: what the picture says of itself.
    """
    from ganformer_cli.sampling.image_files import save_png
    from ganformer_cli.visualization import component_sheet, layer_sheet

    style: Any = figures.map_style
    said = {name: {**about, **more} for name, more in figures.about_each().items()}
    if figures.maps:
        sheet = component_sheet(image, maps[-1], figures.blending_alpha, style)
        save_png(folder / f"{stem}-maps.png", sheet, said["maps"])
    if figures.layer_maps:
        sheet = layer_sheet(image, maps, figures.blending_alpha, style)
        save_png(folder / f"{stem}-layer-maps.png", sheet, said["layer-maps"])


class Sources(NamedTuple):
    """The pictures that figures are made of."""

    generator: Generator
    header: Mapping[str, Any]  # of the model file
    kind: str  # "seed" or "image": what the numbers are
    numbers: Sequence[int]
    ws: Sequence[Tensor]  # [m+1, L, w] of each
    truncation_psi: float
    labels: Sequence[float] | None

    def first(self, count: int) -> Sources:
        """The first ``count`` of them."""
        return self._replace(numbers=self.numbers[:count], ws=self.ws[:count])

    @property
    def names(self) -> list[str]:
        """For captions."""
        return [f"{self.kind} {number}" for number in self.numbers]

    def stem(self, index: int) -> str:
        """Of the files of one picture."""
        return f"{self.kind}{self.numbers[index]:04d}"


def sources_of(
    generator: Generator,
    header: Mapping[str, Any],
    *,
    seeds: Sequence[int],
    latents: npt.NDArray[Any] | None = None,
    space: str = "z",
    truncation_psi: float,
    labels: Sequence[float] | None,
) -> Sources:
    """Bring the pictures' latents to space w.

    Args:
        generator: the model.
        header: of the model file.
        seeds: of the pictures; of given latents their rows.
        latents: given ones, one for each of ``seeds``, or None.
        space: of given latents, ``z`` or ``w``.
        truncation_psi: of the pictures.
        labels: of all pictures, or None.
    """
    import numpy as np
    import torch

    from ganformer_cli.sampling import labels_from_seeds, latents_from_seeds, map_latents

    if latents is not None and space == "w":
        ws = torch.from_numpy(np.array(latents, np.float32))
        if ws.ndim == 3:
            ws = ws[:, :, None].expand(-1, -1, generator.config.num_ws, -1)
    else:
        z = latents_from_seeds(generator, seeds) if latents is None else torch.from_numpy(np.array(latents, np.float32))
        own = labels_from_seeds(generator, seeds) if labels is None else labels
        ws = map_latents(generator, z, labels=own, truncation_psi=truncation_psi)
    kind = "seed" if latents is None else "image"
    return Sources(generator, header, kind, list(seeds), list(ws), truncation_psi, labels)


def draw_figures(
    figures: Figures,
    sources: Sources,
    files: Mapping[Path, Mapping[str, Any]],
    *,
    rich_num: int,
    component: int | None,
    folder: Path,
    update: Update,
) -> dict[str, Any]:
    """Draw what ``figures.others`` asks for.

    Args:
        figures: the options.
        sources: all pictures.
        files: see ``figure_files``.
        rich_num: use the first so many; ``--disentanglement`` takes all sources.
        component: of ``--component``, or None for every component.
        folder: where to.
        update: called with a figure's name, how many of its parts are done, and how many there are.

    Returns:
        The files by the option's name, and the measures of disentanglement.
    """

    def save(name: str, sheet: Images) -> str:
        from ganformer_cli.sampling.image_files import save_png

        path = folder / f"{name}.png"
        save_png(path, sheet, files[path])
        return str(path)

    some = sources.first(rich_num)
    components = range(sources.generator.config.components_num) if component is None else [component]
    written: dict[str, Any] = {}
    if figures.style_mix:
        written["style_mix"] = _style_mix(some, save, update)
    if figures.mix:
        written["mix"] = _mix(figures, some, sources, components, save, update)
    if figures.component_psi:
        written["component_psi"] = _component_psi(figures.component_psi, some, components, save, update)
    if figures.noise_variation:
        written["noise_variation"] = _noise_variation(some, save, update)
    if figures.disentanglement:
        written["disentanglement"] = _disentanglement(
            figures, sources, rich_num, folder / f"{DISENTANGLEMENT}.json", save, update
        )
    return written


def _style_mix(sources: Sources, save: Save, update: Update) -> dict[str, str]:
    from ganformer_cli.visualization.mixing import layer_groups, style_table

    groups = layer_groups(sources.generator)
    files = {}
    for done, (group, layers) in enumerate(groups.items(), 1):
        sheet = style_table(sources.generator, sources.ws, sources.names, layers)
        files[group] = save(f"style-mix-{group}", sheet)
        update("mixing styles", done, len(groups))
    return files


def _mix(
    figures: Figures, some: Sources, sources: Sources, components: Sequence[int], save: Save, update: Update
) -> list[dict[str, Any]]:
    from ganformer_cli.visualization import mixing

    generator, count = some.generator, len(some.ws)
    others: list[Tensor]
    if figures.mix_from is None:
        rotated = [(i + 1) % len(sources.ws) for i in range(count)]
        others = [sources.ws[i] for i in rotated]
        other_names = [sources.names[i] for i in rotated]
    else:
        other = sources_of(
            generator,
            sources.header,
            seeds=[figures.mix_from],
            truncation_psi=sources.truncation_psi,
            labels=sources.labels,
        )
        others, other_names = list(other.ws) * count, other.names * count
    written = []
    for i, (ws, other_ws) in enumerate(zip(some.ws, others, strict=True)):
        (before,) = mixing.draw(generator, [ws], attention=True)
        for kind in figures.mix:
            if kind == "remove":
                mixtures, caption = mixing.removed(generator, ws, components), "removed"
            elif kind == "mean":
                mixtures, caption = mixing.truncated(generator, ws, components, [0.0]), "at its mean"
            else:
                mixtures, caption = mixing.taken(generator, ws, other_ws, components), f"of {other_names[i]}"
            if kind == "swap":
                (back,) = mixing.draw(generator, [other_ws])
                away = mixing.taken(generator, other_ws, ws, components)
                sheet = mixing.swap_sheet((before, back), (mixtures, away), (some.names[i], other_names[i]))
            else:
                sheet = mixing.mixture_sheet(before, mixtures, [caption], some.names[i])
            record = {some.kind: some.numbers[i], "kind": kind}
            if kind in TAKING:
                record["from"] = other_names[i]
            record["file"] = save(f"{some.stem(i)}-mix-{kind}", sheet)
            record["mean_difference"] = {str(each.component): float(each.difference.mean()) for each in mixtures}
            written.append(record)
            update("mixing components", len(written), count * len(figures.mix))
    return written


def _component_psi(
    psis: Sequence[float], sources: Sources, components: Sequence[int], save: Save, update: Update
) -> list[str]:
    from ganformer_cli.visualization import mixing

    files = []
    for i, ws in enumerate(sources.ws):
        (before,) = mixing.draw(sources.generator, [ws], attention=True)
        mixtures = mixing.truncated(sources.generator, ws, components, psis)
        sheet = mixing.mixture_sheet(before, mixtures, [f"psi {psi:g}" for psi in psis], sources.names[i])
        files.append(save(f"{sources.stem(i)}-component-psi", sheet))
        update("truncating components", i + 1, len(sources.ws))
    return files


def _noise_variation(sources: Sources, save: Save, update: Update) -> str:
    from ganformer_cli.visualization.noise import noise_sheet, noise_variation

    found = []
    for ws in sources.ws:
        found.append(noise_variation(sources.generator, ws))
        update("varying noise", len(found), len(sources.ws))
    return save("noise-variation", noise_sheet(found, sources.names))


def _disentanglement(
    figures: Figures, sources: Sources, shown: int, file: Path, save: Save, update: Update
) -> dict[str, Any]:
    from ganformer_cli.visualization.disentanglement import disentanglement, disentanglement_sheet

    trained_on = sources.header.get("dataset")
    found = disentanglement(
        sources.generator,
        sources.ws,
        scenes=isinstance(trained_on, Mapping) and trained_on.get("name") == "scenes",
        shown=shown,
        progress=lambda done, total: update("measuring components", done, total),
    )
    sheet = disentanglement_sheet(found.pictures, sources.names[:shown], figures.blending_alpha)
    measures = {"truncation_psi": sources.truncation_psi, **found.measures}
    write_json(file, measures)
    return {"file": str(file), "sheet": save(DISENTANGLEMENT, sheet), **measures}
