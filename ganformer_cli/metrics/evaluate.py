"""Scores of a generator against a data set, with everything that one needs to know before comparing them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ganformer_cli import __version__
from ganformer_cli.data.datasets import ImageDataset
from ganformer_cli.errors import ConfigError, DataError
from ganformer_cli.metrics import diversity, sliced_wasserstein
from ganformer_cli.sampling import DEFAULT_BATCH, Generator, NoiseMode, sample_images

METRICS = ("swd", "diversity")
MOST_IMAGES = 2048
#: Distances of all pairs take time that grows with the square; so many pictures fix their mean to about a percent.
_DIVERSITY_IMAGES = 1024
#: Seeds of one evaluation are consecutive; evaluations of different ``seed`` share none.
_SEEDS_APART = 2**32

Images = npt.NDArray[np.uint8]
Progress = Callable[[str, int, int], None]


def default_num_images(dataset: ImageDataset) -> int:
    """2048, or as many as the data set has."""
    return min(MOST_IMAGES, len(dataset))


def evaluate(
    generator: Generator,
    dataset: ImageDataset,
    *,
    num_images: int | None = None,
    seed: int = 0,
    truncation_psi: float = 1.0,
    noise_mode: NoiseMode = "const",
    batch_size: int = DEFAULT_BATCH,
    metrics: Sequence[str] = METRICS,
    floor: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Compare as many generated pictures as real ones.

    The same arguments give the same scores, bit for bit, whatever ``batch_size`` is.

    Args:
        generator: the model; its pictures must have the data set's size.
        dataset: the reals; a random choice of them is used.
        num_images: generated pictures, and as many reals; at most the data set's number. None: ``default_num_images``.
        seed: chooses the reals and the generated pictures: seed 0 scores the pictures of seeds 0, 1, 2, ...
        truncation_psi: of the generated pictures; anything but 1 trades their diversity for quality.
        noise_mode: of the generated pictures.
        batch_size: pictures fetched from the device at a time.
        metrics: of ``METRICS``.
        floor: also measure the sliced Wasserstein distance between two sets of reals, which a perfect model would
            reach; it takes as long again.
        progress: called with a stage's name, how many of its parts are done, and how many there are.

    Returns:
        ``swd`` (mean over levels, times 1000), ``swd_levels`` (per level, finest first), with ``floor`` also
        ``swd_floor`` and ``swd_floor_images`` (of how many reals on either side: fewer than ``num_images`` where the
        data set is small, and then too high); ``diversity``; and ``provenance``: what two scores must share to be
        comparable.

    Raises:
        ConfigError: an unknown metric, or an impossible number of pictures.
        DataError: the data set does not fit the model.
    """
    report = progress or (lambda stage, done, total: None)
    if unknown := [name for name in metrics if name not in METRICS]:
        raise ConfigError(f"--metrics {','.join(unknown)}: unknown; there are {', '.join(METRICS)}")
    check_fit(generator, dataset)
    asked = default_num_images(dataset) if num_images is None else num_images
    count = min(asked, len(dataset))
    if count < 2:
        raise ConfigError(f"--eval-images-num {asked}: scores compare sets and need at least 2 pictures of either kind")

    order = np.random.default_rng(seed).permutation(len(dataset))
    halves = min(count, len(dataset) // 2) if floor and "swd" in metrics else 0
    reals = _reals(dataset, order[: max(count, 2 * halves)], report)
    fakes = np.empty_like(reals[:count])
    labels = np.stack([dataset.label(int(i)) for i in order[:count]]) if generator.config.c_dim else None
    seeds = range(seed * _SEEDS_APART, seed * _SEEDS_APART + count)
    drawn = sample_images(
        generator, seeds, truncation_psi=truncation_psi, noise_mode=noise_mode, batch_size=batch_size, labels=labels
    )
    report("drawing samples", 0, count)
    for done, (_, image) in enumerate(drawn):
        fakes[done] = image
        report("drawing samples", done + 1, count)

    scores: dict[str, Any] = {}
    steps = ("swd" in metrics) + (halves > 0) + ("diversity" in metrics)
    report("comparing", 0, steps)
    done = 0
    if "swd" in metrics:
        levels = sliced_wasserstein.sliced_wasserstein(reals[:count], fakes, seed=seed)
        scores["swd"] = levels.pop("mean")
        scores["swd_levels"] = levels
        report("comparing", done := done + 1, steps)
    if halves:
        pair = reals[:halves], reals[halves : 2 * halves]
        scores["swd_floor"] = sliced_wasserstein.sliced_wasserstein(*pair, seed=seed)["mean"]
        scores["swd_floor_images"] = halves
        report("comparing", done := done + 1, steps)
    if "diversity" in metrics:
        some = min(count, _DIVERSITY_IMAGES)
        scores["diversity"] = diversity.diversity_ratio(fakes[:some], reals[:some])
        report("comparing", done + 1, steps)
    versions = {"swd": sliced_wasserstein.VERSION, "diversity": diversity.VERSION}
    scores["provenance"] = {
        "metrics": [versions[name] for name in metrics],
        "num_reals": count,
        "num_fakes": count,
        "seed": seed,
        "truncation_psi": truncation_psi,
        "noise_mode": noise_mode,
        "dataset": dataset.name,
        "dataset_fingerprint": dataset.fingerprint,
        "image_size": [dataset.height, dataset.width],
        "device": next(generator.parameters()).device.type,
        "precision": "float32",
        "torch": torch.__version__,
        "ganformer": __version__,
    }
    return scores


def check_fit(generator: Generator, dataset: ImageDataset) -> None:
    """Raise ``DataError`` unless the data set's pictures and labels are such as the model makes and takes."""
    height, width = generator.config.image_size
    if (dataset.height, dataset.width) != (height, width):
        raise DataError(
            f"--dataset {dataset.name} has pictures of {dataset.width}x{dataset.height}, this model makes "
            f"{width}x{height}; prepare the data set at that --resolution and --ratio"
        )
    if generator.config.c_dim not in (0, dataset.label_dim):
        raise DataError(
            f"--dataset {dataset.name} has labels of {dataset.label_dim} numbers, this model takes "
            f"{generator.config.c_dim}; give the data set that it was trained on"
        )


def _reals(dataset: ImageDataset, indices: npt.NDArray[np.int64], report: Progress) -> Images:
    images = np.empty((len(indices), 3, dataset.height, dataset.width), np.uint8)
    report("reading reals", 0, len(indices))
    for done, index in enumerate(indices):
        images[done] = dataset.image(int(index))
        report("reading reals", done + 1, len(indices))
    return images
