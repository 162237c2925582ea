"""What becomes of an image when some of its latents are another image's, their mean, or not there.

The latents are those of ``sampling.components``: ``ws [m+1, L, w]`` of one image, for each of L layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ganformer_cli.sampling import GROUP_SIZE, Generator, Sample, sample_latents
from ganformer_cli.sampling.components import mix_layers, pull_component, take_component
from ganformer_cli.sampling.image_files import Images
from ganformer_cli.visualization.attention import component_lights
from ganformer_cli.visualization.grids import Floats
from ganformer_cli.visualization.palette import component_colour, heat_colours
from ganformer_cli.visualization.sheets import fit_to_cell, image_table

# ----- Images -----


class Mixture(NamedTuple):
    """One component's part in a change."""

    component: int
    changed: list[Images]  # the images afterwards, uint8 [3, H, W]
    difference: Floats  # [H, W], of the last of them, see ``difference``


def draw(
    generator: Generator,
    ws: Sequence[Tensor],
    dropped: Sequence[int | None] | None = None,
    *,
    attention: bool = False,
) -> Iterator[Sample]:
    """Draw the images of ``ws`` one by one, with ``attention`` if the model has any; of each a component may be
    dropped."""
    mask = None
    if dropped is not None:
        mask = np.zeros((len(ws), generator.config.components_num), np.bool_)
        for row, component in enumerate(dropped):
            if component is not None:
                mask[row, component] = True
    attention = attention and generator.config.has_maps
    options: dict[str, Any] = {"attention": True, "batch_size": GROUP_SIZE} if attention else {}
    return sample_latents(generator, torch.stack(list(ws)), space="w", dropped=mask, **options)


def difference(one: Images, other: Images) -> Floats:
    """How far two images are apart in each place: root mean square over the colours, in 8-bit levels, ``[H, W]``."""
    squares = np.square(one.astype(np.float64) - other.astype(np.float64))
    return np.sqrt(squares.mean(0))


def take_each(generator: Generator, ws: Tensor, other: Tensor, components: Sequence[int]) -> list[Mixture]:
    """Each component in turn from another image."""
    return _mixtures(generator, ws, components, [[take_component(ws, other, k)] for k in components])


def truncate_each(generator: Generator, ws: Tensor, components: Sequence[int], psis: Sequence[float]) -> list[Mixture]:
    """Each component in turn truncated with each psi; 0 moves it to its mean."""
    changes = [[pull_component(generator, ws, k, psi) for psi in psis] for k in components]
    return _mixtures(generator, ws, components, changes)


def remove_each(generator: Generator, ws: Tensor, components: Sequence[int]) -> list[Mixture]:
    """Each component in turn not there: no place attends to it."""
    drawn = draw(generator, [ws] * (len(components) + 1), [None, *components])
    before, *after = (sample.image for sample in drawn)
    return [Mixture(k, [image], difference(before, image)) for k, image in zip(components, after, strict=True)]


def _mixtures(
    generator: Generator, ws: Tensor, components: Sequence[int], changes: Sequence[Sequence[Tensor]]
) -> list[Mixture]:
    drawn = draw(generator, [ws, *(each for row in changes for each in row)])
    before = next(drawn).image
    found = []
    for component, row in zip(components, changes, strict=True):
        after = [next(drawn).image for _ in row]
        found.append(Mixture(component, after, difference(before, after[-1])))
    return found


# ----- Sheets -----


def mixture_sheet(before: Sample, mixtures: Sequence[Mixture], columns: Sequence[str], name: str) -> Images:
    """A row a component: the image before, afterwards, the difference, and what attends to the component.

    Args:
        before: the image, with its attention.
        columns: captions of the images afterwards.

    Returns:
        uint8 ``[3, height, width]``. All differences are on one scale; attention is as in ``component_sheet``.
    """
    image = fit_to_cell(before.image)
    most = max(float(each.difference.max()) for each in mixtures)
    lights = component_lights(image, before.maps[-1]) if before.maps else []
    rows = []
    for each in mixtures:
        row = [image, *map(fit_to_cell, each.changed), fit_to_cell(heat_colours(each.difference, most))]
        rows.append([*row, lights[each.component]] if lights else row)
    captions = [name, *columns, f"difference 0-{most:.0f}", *(["attention"] if lights else [])]
    return _component_table(rows, captions, mixtures)


def swap_sheet(
    before: tuple[Sample, Sample], mixtures: tuple[Sequence[Mixture], Sequence[Mixture]], names: tuple[str, str]
) -> Images:
    """A row a component that two images have exchanged: each image, what it has become, the difference.

    Args:
        mixtures: of the first with components of the second, and the other way round.
    """
    most = max(float(each.difference.max()) for side in mixtures for each in side)
    first, second = (fit_to_cell(sample.image) for sample in before)
    rows = []
    for one, other in zip(*mixtures, strict=True):
        cells = [first, one.changed[-1], heat_colours(one.difference, most)]
        cells += [second, other.changed[-1], heat_colours(other.difference, most)]
        rows.append([cell if cell is first or cell is second else fit_to_cell(cell) for cell in cells])
    captions = [names[0], f"of {names[1]}", f"difference 0-{most:.0f}"]
    captions += [names[1], f"of {names[0]}", f"difference 0-{most:.0f}"]
    return _component_table(rows, captions, mixtures[0])


def _component_table(cells: Sequence[Sequence[Images]], columns: Sequence[str], mixtures: Sequence[Mixture]) -> Images:
    """A table with a row for each component, framed in its colour."""
    components = [each.component for each in mixtures]
    return image_table(
        cells, columns=columns, rows=list(map(str, components)), colours=list(map(component_colour, components))
    )


def style_table(generator: Generator, ws: Sequence[Tensor], names: Sequence[str], layers: range) -> Images:
    """Pictures of ``ws`` above and at the left; each other place has the left one's latents, but ``layers`` from above.

    Returns:
        uint8 ``[3, height, width]``.
    """
    count = len(ws)
    mixed = [mix_layers(left, above, layers) for left in ws for above in ws]
    cells = [fit_to_cell(sample.image) for sample in draw(generator, [*ws, *mixed])]
    own, rest = cells[:count], cells[count:]
    rows: list[list[Images | None]] = [[None, *own]]
    rows += [[own[i], *rest[i * count : (i + 1) * count]] for i in range(count)]
    return image_table(rows, columns=["", *names], rows=["", *names])
