"""How nearly a component is one object: measures that need no training, on generated images.

A component's *region* is where pixels attend to it most (maps brought to the image's size, heads averaged).

- ``adjusted_rand_index`` (Hubert & Arabie 1985): regions against objects, as pairs of pixels that are together in both
  or in neither, corrected for chance: 1 is the same partition, 0 what chance gives. ``..._objects``: only pixels of
  objects, in images of two or more; it does not see how the ground is cut up.
- ``entropy`` of the attention of a pixel, over its largest possible value: 0 attends to one component, 1 to all alike.
- ``components_used``: the exponential of the entropy of the regions' sizes in an image: 1 where one component owns the
  whole image, m where all own as much.
- ``change_inside``: a component is taken from another image; the share of the change (root mean square over the
  colours, summed over pixels, components and images) within its region, before or after. ``change_expected`` is what
  that would be if the change were spread evenly over the image: the regions' share of it.
- ``change_of_components``, ``change_of_global``: how much an image changes, in 8-bit levels, when all components are
  another image's, and when the global latent is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ganformer_cli.errors import ConfigError
from ganformer_cli.sampling import Generator, Sample
from ganformer_cli.sampling.image_files import Images
from ganformer_cli.visualization.attention import BLENDING_ALPHA, blend, region_colours, upsample
from ganformer_cli.visualization.grids import GREY, Floats
from ganformer_cli.visualization.mixing import difference, draw, take_component
from ganformer_cli.visualization.palette import PALETTE, component_colour, heat_colours
from ganformer_cli.visualization.segmentation import SEGMENTATION_VERSION, segment_scene
from ganformer_cli.visualization.sheets import fit_to_cell, image_table

MEASURES_VERSION = "disentanglement-1"
#: Images in which every component is resampled; the other measures take all.
RESAMPLED = 8

Regions = npt.NDArray[np.integer[Any]]


# ----- Measures -----


def adjusted_rand_index(one: Regions, other: Regions) -> float:
    """Agreement of two partitions of the same pixels, arrays of one shape; 1 where both are the same.

    Two partitions without any pair to tell apart, for instance both a single part, are the same.
    """
    _, a = np.unique(one, return_inverse=True)
    _, b = np.unique(other, return_inverse=True)
    together = np.zeros((int(a.max()) + 1, int(b.max()) + 1))
    np.add.at(together, (a.ravel(), b.ravel()), 1)

    def pairs(counts: npt.NDArray[Any]) -> float:
        return float((counts * (counts - 1) / 2).sum())

    both, in_one, in_other = pairs(together), pairs(together.sum(1)), pairs(together.sum(0))
    expected = in_one * in_other / max(pairs(np.array([one.size])), 1.0)
    largest = (in_one + in_other) / 2
    return 1.0 if largest == expected else (both - expected) / (largest - expected)


def map_entropy(shares: npt.NDArray[Any]) -> Floats:
    """Entropy of each pixel's attention ``[m, H, W]``, from 0 to 1: ``[H, W]``; 0 for a single component."""
    p = np.asarray(shares, np.float64)
    if len(p) < 2:
        return np.zeros(p.shape[1:])
    found: Floats = -(p * np.log(np.maximum(p, 1e-300))).sum(0) / math.log(len(p))
    return found


def components_used(regions: Regions) -> float:
    """The exponential of the entropy of the regions' sizes: as many components of equal size would give the same."""
    _, counts = np.unique(regions, return_counts=True)
    p = counts / regions.size
    return float(np.exp(-(p * np.log(p)).sum()))


class Change(NamedTuple):
    """What a component changed, summed over pixels."""

    total: float
    inside: float  # within its region
    expected: float  # the same, were it spread evenly


def measure_change(component: int, before: Regions, after: Regions, changed: Floats) -> Change:
    """Where a change lies.

    Args:
        component: that was exchanged.
        before, after: regions ``[H, W]``.
        changed: how much, ``[H, W]``.
    """
    region = (before == component) | (after == component)
    total = float(changed.sum())
    return Change(total, float(changed[region].sum()), total * float(region.mean()))


# ----- Of a model -----


class MeasuredImage(NamedTuple):
    """One image's part, for the sheet."""

    sample: Sample
    objects: Regions | None
    strongest: int | None  # the component that changes most, if they were resampled
    changed: Floats | None  # what it changes


class Disentanglement(NamedTuple):
    """All measures, and what the sheet shows."""

    measures: dict[str, Any]
    images: list[MeasuredImage]


def disentanglement(
    generator: Generator,
    ws: Sequence[Tensor],
    *,
    scenes: bool,
    shown: int = 5,
    progress: Callable[[int, int], None] | None = None,
) -> Disentanglement:
    """Measure on the images of ``ws``; see the module's text.

    Args:
        generator: a model with attention maps.
        ws: latents ``[m+1, L, w]`` of each image, at least two.
        scenes: the images are like the built-in ``scenes``, so that their objects can be found: without it there is
            no adjusted Rand index.
        shown: keep so many images for the sheet.
        progress: called with how many parts are done and how many there are.

    Raises:
        ConfigError: fewer than two images, or a model without maps.
    """
    if len(ws) < 2:
        raise ConfigError("disentanglement exchanges components between images; give at least 2 of them")
    if not generator.config.has_maps:
        raise ConfigError("disentanglement looks at attention maps, and this model has none")
    report = progress or (lambda done, total: None)
    resampled = min(RESAMPLED, len(ws))
    parts = len(ws) + resampled
    layers: dict[str, _Layer] = {}
    changes: list[Change] = []
    wholes: list[tuple[float, float | None]] = []
    looked: list[MeasuredImage] = []
    for i, latents in enumerate(ws):
        (sample,) = draw(generator, [latents], attention=True)
        objects = segment_scene(sample.image) if scenes else None
        for each in sample.maps:
            shares = upsample(each.probabilities[0], *_size(sample.image)).numpy()
            layers.setdefault(each.layer, _Layer()).add(shares, objects)
        strongest = changed = None
        if i < resampled:
            other = ws[(i + 1) % len(ws)]
            found = _resampled(generator, latents, other, sample)
            wholes.append(_exchanged(generator, latents, other, sample.image))
            changes += [change for change, _ in found]
            strongest = int(np.argmax([change.total for change, _ in found]))
            changed = found[strongest][1]
        if i < shown:
            looked.append(MeasuredImage(sample, objects, strongest, changed))
        report(i + 1 + min(i + 1, resampled), parts)
    by_layer = {name: layer.means() for name, layer in layers.items()}
    last = list(by_layer)[-1]
    total = sum(change.total for change in changes)
    measures: dict[str, Any] = {
        "version": MEASURES_VERSION,
        "pictures": len(ws),
        "layer": last,
        **by_layer[last],
        "change_inside": sum(change.inside for change in changes) / total if total > 0 else None,
        "change_expected": sum(change.expected for change in changes) / total if total > 0 else None,
        "change_of_components": _mean([components for components, _ in wholes]),
        "change_of_global": _mean([whole for _, whole in wholes if whole is not None]),
        "resampled_pictures": resampled,
        "segmentation": SEGMENTATION_VERSION if scenes else None,
        "layers": by_layer,
    }
    return Disentanglement(measures, looked)


def component_regions(sample: Sample) -> Regions:
    """The component that each pixel attends to most in the last layer, ``[H, W]``."""
    return upsample(sample.maps[-1].probabilities[0], *_size(sample.image)).argmax(0).numpy()


def _resampled(generator: Generator, ws: Tensor, other: Tensor, before: Sample) -> list[tuple[Change, Floats]]:
    """The change that each component of ``other`` makes."""
    components = range(generator.config.components_num)
    own = component_regions(before)
    found = []
    drawn = draw(generator, [take_component(ws, other, k) for k in components], attention=True)
    for k, after in zip(components, drawn, strict=True):
        changed = difference(before.image, after.image)
        found.append((measure_change(k, own, component_regions(after), changed), changed))
    return found


def _exchanged(generator: Generator, ws: Tensor, other: Tensor, before: Images) -> tuple[float, float | None]:
    """The change that all components of ``other`` make, and that its global latent makes, if there is one."""
    count = generator.config.components_num
    changes = [torch.cat([other[:count], ws[count:]])]
    if len(ws) > count:
        changes.append(torch.cat([ws[:count], other[count:]]))
    found = [float(difference(before, after.image).mean()) for after in draw(generator, changes)]
    return found[0], found[1] if len(found) > 1 else None


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


class _Layer:
    """Measures of one layer's maps, collected over images."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {
            "adjusted_rand_index": [],
            "adjusted_rand_index_objects": [],
            "entropy": [],
            "components_used": [],
        }

    def add(self, shares: npt.NDArray[Any], objects: Regions | None) -> None:
        regions = shares.argmax(0)
        self.values["entropy"].append(float(map_entropy(shares).mean()))
        self.values["components_used"].append(components_used(regions))
        if objects is None or objects.max() == 0:
            return
        self.values["adjusted_rand_index"].append(adjusted_rand_index(regions, objects))
        if objects.max() > 1:
            inside = objects > 0
            self.values["adjusted_rand_index_objects"].append(adjusted_rand_index(regions[inside], objects[inside]))

    def means(self) -> dict[str, float | None]:
        return {name: _mean(values) for name, values in self.values.items()}


def _size(image: Images) -> tuple[int, int]:
    return image.shape[1], image.shape[2]


# ----- The sheet -----


def disentanglement_sheet(
    images: Sequence[MeasuredImage], names: Sequence[str], alpha: float = BLENDING_ALPHA
) -> Images:
    """A row an image: itself, its objects if they were looked for, regions, entropy, and the component that changes
    most: what it changes, and its region in its colour. uint8 ``[3, height, width]``."""
    objects = any(each.objects is not None for each in images)
    changes = all(each.changed is not None for each in images)
    most = max((float(each.changed.max()) for each in images if each.changed is not None), default=0.0)
    rows = []
    for each in images:
        image = each.sample.image
        probabilities = each.sample.maps[-1].probabilities[0]
        cells = [fit_to_cell(image)]
        height, width = _size(cells[0])
        if each.objects is not None:
            colours = np.concatenate([GREY[None], PALETTE])
            numbers = np.where(each.objects > 0, (each.objects - 1) % len(PALETTE) + 1, 0)
            cells.append(blend(cells[0], fit_to_cell(colours[numbers].transpose(2, 0, 1)), alpha))
        cells.append(blend(cells[0], region_colours(probabilities, height, width), alpha))
        cells.append(fit_to_cell(heat_colours(map_entropy(upsample(probabilities, *_size(image)).numpy()), 1.0)))
        if each.changed is not None and each.strongest is not None:
            region = component_regions(each.sample) == each.strongest
            colours = np.where(region, component_colour(each.strongest)[:, None, None], GREY[:, None, None])
            cells += [fit_to_cell(heat_colours(each.changed, most)), blend(cells[0], fit_to_cell(colours), alpha)]
        rows.append(cells)
    columns = ["picture", *(["objects"] if objects else []), "regions", "entropy 0-1"]
    columns += [f"change 0-{most:.0f}", "its region"] if changes else []
    frames = [None if each.strongest is None else component_colour(each.strongest) for each in images]
    return image_table(rows, columns=columns, rows=names, colours=frames)
