"""Sliced Wasserstein distance on a Laplacian pyramid (Karras et al. 2018, "Progressive Growing of GANs", section 5).

Two sets of images are compared scale by scale, without any trained network:

1. *Pyramid.* Each image becomes a Laplacian pyramid (Burt & Adelson 1983). ``reduce`` blurs with the binomial filter
   [1, 4, 6, 4, 1]/16 along both axes (reflected at the borders, the border pixel not repeated) and keeps every other
   row and column, the first included; ``expand`` puts zeros between and applies the same filter with gain 4. The levels
   are the differences ``g - expand(reduce(g))``, finest first, and last the coarsest ``g`` itself: the one whose
   shorter side would fall below 16 if halved again. 32x32 gives 32x32 and 16x16; 64x96 gives 64x96, 32x48 and 16x24.
2. *Descriptors.* 128 patches of 7x7 pixels and 3 channels (147 numbers) per image and level, at positions drawn
   uniformly, with replacement, from those where the patch lies inside. Image i of either set has the same positions,
   so that two identical sets have distance 0 and a comparison carries less noise.
3. *Normalisation.* Per level and channel, each set's descriptors are shifted and scaled by that set's own mean and
   standard deviation, as in the paper. What a whole set shares, a tint or a contrast, is therefore divided out.
4. *Projections.* 512 directions, uniform on the unit sphere of R^147 and the same for both sets and all levels. Along
   each direction the one-dimensional Wasserstein-1 distance of the two sets is the mean absolute difference of the
   sorted projections; a level's distance is the mean over directions, times 1000. "mean" is the plain mean over the
   levels.

The value depends on the number of images: fewer images, larger distances, even between two samples of one
distribution. Compare values of equal numbers only, and read them against such a floor.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ganformer_cli.errors import DataError
from ganformer_cli.metrics.blocks import BlockSize
from ganformer_cli.metrics.collecting import scratch

COARSEST = 16
PATCH = 7
PATCHES_PER_IMAGE = 128
PROJECTIONS = 512

_BINOMIAL = np.array([1, 4, 6, 4, 1]) / 16
# Below this deviation (in 8-bit levels) a channel counts as constant: what remains is float32 rounding.
_CONSTANT = 1e-3
# Bounds the images turned into a pyramid at a time, and the projections that each thread sorts at a time.
_CHUNK_BYTES = 64 << 20
_MOST_THREADS = 8

_Floats = npt.NDArray[np.float32]
_Images = npt.NDArray[np.uint8]


def sliced_wasserstein(reals: _Images, fakes: _Images, *, seed: int = 0) -> dict[str, float]:
    """Distance of two sets of images, per pyramid level and on average; see the module's text for the definition.

    Args:
        reals, fakes: uint8 ``[N, 3, H, W]`` of the same H, W >= 16. If one set is larger, its first images are used.
        seed: draws the patches' positions and the directions; it changes the value by its sampling noise only.

    Returns:
        ``{"32x32": .., "16x16": .., "mean": ..}``: one entry a level named height x width, finest first, times 1000.
        Only one level's descriptors are held at a time: 75 kB an image and set.

    Raises:
        DataError: images of another type or shape, of different sizes, too small, or none at all.
    """
    sizes = pyramid_sizes(*_checked_size(reals, fakes))
    count = min(len(reals), len(fakes))
    directions = _directions(seed)
    result: dict[str, float] = {}
    for level, (height, width) in enumerate(sizes):
        ours = descriptors(reals[:count], level, seed=seed)
        theirs = descriptors(fakes[:count], level, seed=seed)
        for patches in (ours, theirs):
            mean, deviation = _statistics(patches)
            patches -= mean[:, None, None]
            patches /= deviation[:, None, None]
        result[f"{height}x{width}"] = 1000 * _mean_sorted_difference(_flat(ours), _flat(theirs), directions)
    result["mean"] = sum(result.values()) / len(result)
    return result


def pyramid_sizes(height: int, width: int) -> list[tuple[int, int]]:
    """The (height, width) of each pyramid level of an image, finest first; none if a side is below 16."""
    sizes = []
    while min(height, width) >= COARSEST:
        sizes.append((height, width))
        height, width = (height + 1) // 2, (width + 1) // 2
    return sizes


def laplacian_level(images: _Images, level: int) -> _Floats:
    """Level ``level`` (0 is the finest) of the Laplacian pyramid of uint8 ``[N, 3, H, W]``, in 8-bit units."""
    levels = len(pyramid_sizes(*images.shape[2:]))
    finer = images.astype(np.float32)
    for _ in range(level):
        finer = _reduce(finer)
    return finer if level == levels - 1 else finer - _expand(_reduce(finer), finer.shape[2], finer.shape[3])


def descriptors(images: _Images, level: int, *, seed: int) -> _Floats:
    """The patches of one level: float32 ``[N, 128, 3, 7, 7]``, not yet normalised.

    The positions of image i depend on (seed, level, i) only, not on the number of images.
    """
    height, width = pyramid_sizes(*images.shape[2:])[level]
    across = width - PATCH + 1
    positions = np.random.default_rng([seed, level]).integers(
        (height - PATCH + 1) * across, size=(len(images), PATCHES_PER_IMAGE)
    )
    shape = (len(images), PATCHES_PER_IMAGE, 3, PATCH, PATCH)
    try:
        patches: _Floats = np.empty(shape, np.float32)
    except MemoryError:
        patches = scratch(shape, np.float32)
    chunk = max(1, _CHUNK_BYTES // images[0].size // 4)
    for start in range(0, len(images), chunk):
        part = slice(start, start + chunk)
        windows = np.lib.stride_tricks.sliding_window_view(laplacian_level(images[part], level), (PATCH, PATCH), (2, 3))
        place = positions[part]
        patches[part] = windows[np.arange(len(place))[:, None], :, place // across, place % across]
    return patches


def _checked_size(reals: _Images, fakes: _Images) -> tuple[int, int]:
    for name, images in (("real", reals), ("generated", fakes)):
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise DataError(
                f"the {name} images must be uint8 [N, 3, height, width], not {images.dtype} {list(images.shape)}"
            )
        if not len(images):
            raise DataError(f"there are no {name} images to compare; give at least one")
    if reals.shape[2:] != fakes.shape[2:]:
        raise DataError(
            "real and generated images must have one size, not "
            f"{reals.shape[3]}x{reals.shape[2]} and {fakes.shape[3]}x{fakes.shape[2]} (width x height)"
        )
    height, width = reals.shape[2:]
    if min(height, width) < COARSEST:
        raise DataError(f"images of {width}x{height} are too small; each side needs at least {COARSEST} pixels")
    return height, width


def _directions(seed: int) -> _Floats:
    """Unit vectors, float32 ``[512, 147]``."""
    vectors = np.random.default_rng([seed, 0xD1]).standard_normal((PROJECTIONS, 3 * PATCH * PATCH))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def _statistics(patches: _Floats) -> tuple[_Floats, _Floats]:
    """Mean and deviation per channel; infinite where a channel is constant, which normalises it to 0."""
    # Pairwise over a few values, then in float64 over the images: exact enough for millions of patches.
    mean = patches.mean(axis=(1, 3, 4)).mean(axis=0, dtype=np.float64)
    square = np.zeros(3)
    for image in patches:
        centred = image - mean[:, None, None].astype(np.float32)
        square += np.einsum("ncyx,ncyx->c", centred, centred)
    deviation = np.sqrt(square * 3 / patches.size)
    deviation[deviation < _CONSTANT] = np.inf
    return mean.astype(np.float32), deviation.astype(np.float32)


def _flat(patches: _Floats) -> _Floats:
    return patches.reshape(-1, 3 * PATCH * PATCH)


def _mean_sorted_difference(first: _Floats, second: _Floats, directions: _Floats) -> float:
    """Mean over directions of the Wasserstein-1 distance between two equal numbers of projected points."""

    def distances(some: _Floats) -> npt.NDArray[np.float64]:
        ours, theirs = some @ first.T, some @ second.T
        ours.sort(axis=1)
        theirs.sort(axis=1)
        ours -= theirs
        return np.abs(ours, out=ours).mean(axis=1, dtype=np.float64)

    # Sorting is nearly all of the work and lets go of the interpreter lock. The chunks do not depend on the number of
    # threads, so neither does the result.
    chunk = max(1, _CHUNK_BYTES // len(first) // 8)
    chunks = [directions[start : start + chunk] for start in range(0, len(directions), chunk)]

    def mean(threads: int) -> float:
        with ThreadPoolExecutor(threads) as pool:
            return float(np.concatenate(list(pool.map(distances, chunks))).mean())

    threads = BlockSize(min(len(chunks), os.cpu_count() or 1, _MOST_THREADS), "sorting projections of patches")
    return threads.run(mean)


def _blur(images: _Floats, gain: float) -> _Floats:
    """The 5x5 binomial filter, separably; borders are reflected."""
    for axis in (2, 3):
        images = ndimage.correlate1d(images, _BINOMIAL * np.sqrt(gain), axis, mode="mirror")
    return images


def _reduce(images: _Floats) -> _Floats:
    return _blur(images, gain=1)[:, :, ::2, ::2]


def _expand(images: _Floats, height: int, width: int) -> _Floats:
    """Up to ``height`` x ``width``, of which ``images`` has every other row and column."""
    spread = np.zeros((*images.shape[:2], height, width), np.float32)
    spread[:, :, ::2, ::2] = images
    return _blur(spread, gain=4)
