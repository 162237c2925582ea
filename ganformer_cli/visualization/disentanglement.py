"""How nearly a component is one object: measures that need no training, on generated images.

A component's *region* is where pixels attend to it most (maps brought to the image's size, heads averaged). All layers
are measured; the measures at the top are those of the layer that *decides*: the one with the largest ``information``.

- ``information``: how much a pixel's place says of the component that it attends to, see ``map_information``.
- ``adjusted_rand_index`` (Hubert & Arabie 1985): regions against objects, as pairs of pixels that are together in both
  or in neither, corrected for chance: 1 is the same partition, 0 what chance gives. ``..._objects``: only pixels of
  objects, in images of two or more; it does not see how the ground is cut up.
- ``object_iou``: intersection over union of each object with the component assigned to it, see ``object_iou``.
- ``ground_rate``: in how many images one component, always the same (``ground_component``), owns more of the ground
  than any other; ``ground_share``: how much of the ground it owns.
- ``connected_regions``: into how many pieces a component's region falls.
- ``entropy`` of the attention of a pixel, over its largest possible value: 0 attends to one component, 1 to all alike.
- ``components_used``: the exponential of the entropy of the regions' sizes in an image: 1 where one component owns the
  whole image, m where all own as much.
- ``change_inside``: a component is taken from another image; the share of the change (root mean square over the
  colours, summed over pixels, components and images) within its region, before or after. ``change_expected`` is what
  that would be if the change were spread evenly over the image: the regions' share of it. ``change_ratio`` is the one
  over the other, at most 1 / ``change_expected``; ``change_localised`` is (inside - expected) / (1 - expected), whose
  chance level is 0 and whose ceiling is 1, however large the regions are.
- ``change_of_components``, ``change_of_global``: how much an image changes, in 8-bit levels, when all components are
  another image's, and when the global latent is; ``change_share``: the first over the sum of both. The last two are
  None where nothing reads a global latent.

``..._chance`` is what regions give that have nothing to do with the image: those of the next image (``object_iou``),
the same numbers of pixels at random (``connected_regions``), a component at random in each image (``ground_rate``), a
region of the same size anywhere (``ground_share``). ``..._ceiling`` is what the objects themselves give, in maps of the
layer's size and with as many components (``connected_regions``: the objects as they are).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ganformer_cli.errors import ConfigError
from ganformer_cli.sampling import Generator, Sample
from ganformer_cli.sampling.components import take_component
from ganformer_cli.sampling.image_files import Images
from ganformer_cli.visualization.attention import BLENDING_ALPHA, blend, component_regions, region_colours, upsample
from ganformer_cli.visualization.grids import GREY, Floats
from ganformer_cli.visualization.mixing import difference, draw
from ganformer_cli.visualization.palette import PALETTE, component_colour, heat_colours
from ganformer_cli.visualization.region_measures import (
    Change,
    Regions,
    adjusted_rand_index,
    ceiling_regions,
    components_used,
    connected_regions,
    map_entropy,
    map_information,
    measure_change,
    object_iou,
)
from ganformer_cli.visualization.segmentation import SEGMENTATION_VERSION, segment_scene
from ganformer_cli.visualization.sheets import fit_to_cell, image_table

MEASURES_VERSION = "disentanglement-2"
#: Images in which every component is resampled; the other measures take all.
MAX_RESAMPLED = 64


class MeasuredImage(NamedTuple):
    """One image's part, for the sheet."""

    sample: Sample
    layer: int  # that decides
    objects: Regions | None
    strongest: int  # the component that changes most
    changed: Floats  # what it changes


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
        generator: a model with attention maps and two components or more.
        ws: latents ``[m+1, L, w]`` of each image, at least two.
        scenes: the images are like the built-in ``scenes``, so that their objects can be found: without it, what
            compares regions with objects is None.
        shown: keep so many images for the sheet, at most ``MAX_RESAMPLED``.
        progress: called with how many parts are done and how many there are.

    Raises:
        ConfigError: fewer than two images, or a model without maps, or with one component.
    """
    config = generator.config
    if len(ws) < 2:
        raise ConfigError("disentanglement exchanges components between images; give at least 2 of them")
    if not config.has_maps:
        raise ConfigError("disentanglement looks at attention maps, and this model has none")
    if config.components_num < 2:
        raise ConfigError("disentanglement tells components apart, and this model has only one")
    report = progress or (lambda done, total: None)
    resampled = min(MAX_RESAMPLED, len(ws))
    parts = len(ws) + resampled
    layers: dict[str, _LayerMeasures] = {}
    for i, latents in enumerate(ws):
        (sample,) = draw(generator, [latents], attention=True)
        objects = segment_scene(sample.image) if scenes else None
        for each in sample.maps:
            layers.setdefault(each.layer, _LayerMeasures(config.components_num)).add(
                each.probabilities[0], sample, objects
            )
        report(i + 1, parts)
    by_layer = {name: each.means() for name, each in layers.items()}
    information = [each["information"] for each in by_layer.values()]
    decides = information.index(max(information))
    name = list(by_layer)[decides]
    changes: list[Change] = []
    wholes: list[tuple[float, float | None]] = []
    images: list[MeasuredImage] = []
    for i in range(resampled):
        (sample,) = draw(generator, [ws[i]], attention=True)
        other = ws[(i + 1) % len(ws)]
        found = _resample(generator, ws[i], other, sample, decides)
        wholes.append(_exchange(generator, ws[i], other, sample.image))
        changes += [change for change, _ in found]
        if i < shown:
            strongest = int(np.argmax([change.total for change, _ in found]))
            objects = segment_scene(sample.image) if scenes else None
            images.append(MeasuredImage(sample, decides, objects, strongest, found[strongest][1]))
        report(len(ws) + i + 1, parts)
    measures: dict[str, Any] = {
        "version": MEASURES_VERSION,
        "pictures": len(ws),
        "components": config.components_num,
        "layer": name,
        "layer_chosen_by": "information",
        **by_layer[name],
        **_change_measures(changes, wholes),
        "resampled_pictures": resampled,
        "segmentation": SEGMENTATION_VERSION if scenes else None,
        "layers": by_layer,
    }
    return Disentanglement(measures, images)


def _change_measures(
    changes: Sequence[Change], wholes: Sequence[tuple[float, float | None]]
) -> dict[str, float | None]:
    total = sum(change.total for change in changes)
    components = _mean([part for part, _ in wholes])
    whole = _mean([part for _, part in wholes if part is not None])
    measures: dict[str, float | None] = dict.fromkeys(
        ("change_inside", "change_expected", "change_ratio", "change_ratio_ceiling", "change_localised")
    )
    if total > 0:
        inside = sum(change.inside for change in changes) / total
        expected = sum(change.expected for change in changes) / total
        measures |= {"change_inside": inside, "change_expected": expected}
        if 0 < expected < 1:
            measures |= {
                "change_ratio": inside / expected,
                "change_ratio_ceiling": 1 / expected,
                "change_localised": (inside - expected) / (1 - expected),
            }
    share = None
    if components is not None and whole is not None and components + whole > 0:
        share = components / (components + whole)
    return {**measures, "change_of_components": components, "change_of_global": whole, "change_share": share}


def _resample(
    generator: Generator, ws: Tensor, other: Tensor, before: Sample, layer: int
) -> list[tuple[Change, Floats]]:
    """The change that each component of ``other`` makes."""
    components = range(generator.config.components_num)
    size = before.image.shape[1:]
    own = component_regions(before.maps[layer], size)
    found = []
    drawn = draw(generator, [take_component(ws, other, k) for k in components], attention=True)
    for k, after in zip(components, drawn, strict=True):
        changed = difference(before.image, after.image)
        found.append((measure_change(k, own, component_regions(after.maps[layer], size), changed), changed))
    return found


def _exchange(generator: Generator, ws: Tensor, other: Tensor, before: Images) -> tuple[float, float | None]:
    """The change that all components of ``other`` make, and that its global latent makes, if anything reads one."""
    count = generator.config.components_num
    changes = [torch.cat([other[:count], ws[count:]])]
    if generator.config.reads_global_latent and len(ws) > count:
        changes.append(torch.cat([ws[:count], other[count:]]))
    found = [float(difference(before, after.image).mean()) for after in draw(generator, changes)]
    return found[0], found[1] if len(found) > 1 else None


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None


_AGREEMENT = ("adjusted_rand_index", "adjusted_rand_index_objects", "object_iou")


class _LayerMeasures:
    """Measures of one layer's maps, collected over images."""

    def __init__(self, components: int) -> None:
        self.components = components
        names = [
            *_AGREEMENT,
            *(f"{name}_ceiling" for name in _AGREEMENT),
            "object_iou_chance",
            "entropy",
            "information",
        ]
        names += ["components_used", *(f"connected_regions{end}" for end in ("", "_chance", "_ceiling"))]
        self.values: dict[str, list[float]] = {name: [] for name in names}
        self.ground: list[npt.NDArray[np.float64]] = []  # of each image, each component's share of the ground
        self.sizes: list[npt.NDArray[np.float64]] = []  # and of the whole image
        self.earlier: Regions | None = None  # objects of the image before
        self.random = np.random.default_rng(0)

    def add(self, probabilities: Tensor, sample: Sample, objects: Regions | None) -> None:
        """Measure one image: its map ``[heads, m, h, w]``, and its objects if they are known."""
        shares = upsample(probabilities, *sample.image.shape[1:]).numpy()
        regions: Regions = shares.argmax(0)
        shuffled = self.random.permutation(regions.ravel()).reshape(regions.shape)
        self._note("entropy", float(map_entropy(shares).mean()))
        self._note("information", map_information(shares))
        self._note("components_used", components_used(regions))
        self._note("connected_regions", connected_regions(regions))
        self._note("connected_regions_chance", connected_regions(shuffled))
        if objects is None or objects.max() == 0:
            return
        grid = (probabilities.shape[2], probabilities.shape[3])
        ceilings = [self._agreement(perfect, objects) for perfect in ceiling_regions(objects, grid, self.components)]
        for name, value in self._agreement(regions, objects).items():
            self._note(name, value)
            self._note(f"{name}_ceiling", max(ceiling[name] for ceiling in ceilings))
        self._note("connected_regions_ceiling", connected_regions(objects))
        if self.earlier is not None:
            self._note("object_iou_chance", object_iou(regions, self.earlier))
        self.earlier = objects
        if (objects == 0).any():
            self.ground.append(self._shares(regions[objects == 0]))
            self.sizes.append(self._shares(regions))

    @staticmethod
    def _agreement(regions: Regions, objects: Regions) -> dict[str, float]:
        """How regions agree with objects, of which there is one at least."""
        measures = {"adjusted_rand_index": adjusted_rand_index(regions, objects)}
        measures["object_iou"] = object_iou(regions, objects) or 0.0
        if objects.max() > 1:
            inside = objects > 0
            measures["adjusted_rand_index_objects"] = adjusted_rand_index(regions[inside], objects[inside])
        return measures

    def means(self) -> dict[str, Any]:
        """The mean of each measure; None where there was nothing to measure."""
        return {name: _mean(values) for name, values in self.values.items()} | self._ground()

    def _ground(self) -> dict[str, Any]:
        names = ("component", "rate", "rate_chance", "share", "share_chance")
        if not self.ground:
            return {f"ground_{name}": None for name in names}
        owners = np.argmax(self.ground, axis=1)
        component = int(np.bincount(owners).argmax())
        # Some component is the most frequent by chance, too.
        random = np.random.default_rng(0)
        counts = random.multinomial(len(owners), np.full(self.components, 1 / self.components), 1000)
        rate_chance = float(counts.max(1).mean() / len(owners))
        share, size = (float(np.mean(values, axis=0)[component]) for values in (self.ground, self.sizes))
        values = (component, float((owners == component).mean()), rate_chance, share, size)
        return {f"ground_{name}": value for name, value in zip(names, values, strict=True)}

    def _shares(self, regions: Regions) -> npt.NDArray[np.float64]:
        return np.bincount(regions.ravel(), minlength=self.components) / regions.size

    def _note(self, name: str, value: float | None) -> None:
        if value is not None:
            self.values[name].append(value)


# ----- The sheet -----


def disentanglement_sheet(
    images: Sequence[MeasuredImage], names: Sequence[str], alpha: float = BLENDING_ALPHA
) -> Images:
    """A row an image: itself, its objects if they were looked for, regions, entropy, and the component that changes
    most: what it changes, and its region in its colour. uint8 ``[3, height, width]``."""
    objects = any(each.objects is not None for each in images)
    most = max(float(each.changed.max()) for each in images)
    rows = []
    for each in images:
        image = each.sample.image
        probabilities = each.sample.maps[each.layer].probabilities[0]
        cells = [fit_to_cell(image)]
        height, width = cells[0].shape[1:]
        if each.objects is not None:
            colours = np.concatenate([GREY[None], PALETTE])
            numbers = np.where(each.objects > 0, (each.objects - 1) % len(PALETTE) + 1, 0)
            cells.append(blend(cells[0], fit_to_cell(colours[numbers].transpose(2, 0, 1)), alpha))
        cells.append(blend(cells[0], region_colours(probabilities, height, width), alpha))
        cells.append(fit_to_cell(heat_colours(map_entropy(upsample(probabilities, *image.shape[1:]).numpy()), 1.0)))
        region = component_regions(each.sample.maps[each.layer], image.shape[1:]) == each.strongest
        colours = np.where(region, component_colour(each.strongest)[:, None, None], GREY[:, None, None])
        cells += [fit_to_cell(heat_colours(each.changed, most)), blend(cells[0], fit_to_cell(colours), alpha)]
        rows.append(cells)
    columns = [
        "image",
        *(["objects"] if objects else []),
        "regions",
        "entropy 0-1",
        f"change 0-{most:.0f}",
        "its region",
    ]
    frames = [component_colour(each.strongest) for each in images]
    return image_table(rows, columns=columns, rows=names, colours=frames)
