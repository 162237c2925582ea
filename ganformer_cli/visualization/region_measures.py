"""Measures of one partition of an image against another: regions of components against objects.

Regions and objects are arrays ``[H, W]`` of integers. Of objects 0 is the ground.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from ganformer_cli.visualization.attention import upsample
from ganformer_cli.visualization.grids import Floats

Regions = npt.NDArray[np.integer[Any]]


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


def object_iou(regions: Regions, objects: Regions) -> float | None:
    """The mean over objects of the intersection over union with the component that is assigned to it.

    Each object has one component, each component at most one object, so that the sum is the largest possible
    (Hungarian algorithm). An object without a component counts as 0. None where there are no objects.
    """
    from scipy.optimize import linear_sum_assignment  # takes long to load

    names, components = np.unique(objects[objects > 0]), np.unique(regions)
    if len(names) == 0:
        return None
    overlap = np.zeros((len(names), len(components)))
    for row, name in enumerate(names):
        inside = objects == name
        for column, component in enumerate(components):
            owned = regions == component
            overlap[row, column] = (inside & owned).sum() / (inside | owned).sum()
    return float(overlap[linear_sum_assignment(overlap, maximize=True)].sum() / len(names))


def connected_regions(regions: Regions) -> float:
    """Into how many connected pieces (4 neighbours) a component's region falls, in the mean over those that own any."""
    from scipy import ndimage  # takes long to load

    return float(np.mean([ndimage.label(regions == component)[1] for component in np.unique(regions)]))


def map_information(shares: npt.NDArray[Any]) -> float:
    """How much a pixel's place says of the component that it attends to, from 0 to 1.

    The mutual information of place and component over its largest possible value: the entropy of the mean attention,
    less the mean entropy. It is 0 where all pixels attend alike, be it to all components or to one.
    """
    p = np.asarray(shares, np.float64)
    return max(0.0, float(map_entropy(p.mean((1, 2), keepdims=True))[0, 0] - map_entropy(p).mean()))


def ceiling_regions(objects: Regions, grid: tuple[int, int], components: int) -> list[Regions]:
    """The regions of perfect maps: what so many components can show of the objects in a map of so few places.

    Args:
        objects: ``[H, W]``, the largest one has number 1.
        grid: height and width of the map.
        components: how many there are.

    Returns:
        One partition; of more objects than ``components - 1`` two, in which the smallest are ground, or one region.
    """
    height, width = objects.shape
    scale = max(height, width) / max(grid)
    rows, columns = (max(round(side * scale), own) for side, own in zip(grid, (height, width), strict=True))
    top, left = (rows - height) // 2, (columns - width) // 2
    whole = np.pad(objects, ((top, rows - height - top), (left, columns - width - left)), mode="edge")
    found: list[Regions] = []
    for labels in (np.where(whole < components, whole, 0), np.minimum(whole, components - 1)):
        one_hot = F.one_hot(torch.from_numpy(labels.astype(np.int64)), components).permute(2, 0, 1).float()
        found.append(upsample(F.adaptive_avg_pool2d(one_hot, grid)[None], height, width).argmax(0).numpy())
    return found if objects.max() >= components else found[:1]
