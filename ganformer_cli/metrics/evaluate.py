"""Scores of a generator, or of images, against real ones, with everything that one must know to compare them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ganformer_cli import __version__
from ganformer_cli.data.loading.datasets import ImageDataset
from ganformer_cli.errors import ConfigError, GanformerError
from ganformer_cli.files import Warn
from ganformer_cli.memory import is_out_of_memory
from ganformer_cli.metrics.blocks import out_of_memory
from ganformer_cli.metrics.cache import Cache
from ganformer_cli.metrics.collecting import Collected, collect
from ganformer_cli.metrics.metric import Inputs, Metric, Subject
from ganformer_cli.metrics.opening import FeatureNetworks
from ganformer_cli.metrics.plan import (
    DEFAULT_NUM_IMAGES,
    EvaluationPlan,
    Indices,
    check_comparable,
    chosen_metrics,
    default_metrics,
    give_cautions,
    make_plan,
    shuffled_indices,
)
from ganformer_cli.metrics.processes import SINGLE_PROCESS, ProcessGroup
from ganformer_cli.metrics.reals import collect_reals
from ganformer_cli.metrics.sources import SEED_STRIDE, DatasetImages, GeneratedImages, ImageSource, ReconstructedImages
from ganformer_cli.sampling import DEFAULT_BATCH, Generator, NoiseMode

#: Called with a stage, how many of its steps are done, and how many there are.
StageProgress = Callable[[str, int, int], None]


def evaluate(
    fakes: Generator | ImageDataset,
    dataset: ImageDataset,
    *,
    num_images: int | None = None,
    seed: int = 0,
    truncation_psi: float = 1.0,
    noise_mode: NoiseMode = "const",
    batch_size: int | None = None,
    metrics: Sequence[str] | None = None,
    class_index: int | None = None,
    networks: FeatureNetworks | None = None,
    floor: bool = False,
    group: ProcessGroup = SINGLE_PROCESS,
    cache: Cache | None = None,
    device: torch.device | None = None,
    progress: StageProgress = lambda stage, done, total: None,
    warn: Warn = lambda text: None,
) -> dict[str, Any]:
    """Compare generated images with real ones.

    The same arguments give the same scores, bit for bit, on a CPU whatever ``batch_size`` is; on another number of
    processes they are the same to 1e-6.

    Args:
        fakes: a model, whose images must have the data set's size; or images that somebody else generated.
        dataset: the reals; a random choice of them is used.
        num_images: generated images, and as many reals, or all of a smaller data set. None: ``default_num_images``
            of a model; all images on both sides where they are given.
        seed: chooses the reals and the generated images: seed 0 scores the images of seeds 0, 1, 2, ...
        truncation_psi: of the generated images; anything but 1 trades their diversity for quality.
        noise_mode: of the generated images.
        batch_size: images generated at a time, and that pass through a feature network at a time, at most; fewer
            where memory runs out. None: 16 generated, and 64 through a network. On a GPU it changes features by
            rounding; on a CPU it changes no bit.
        metrics: of ``registry.METRICS``; None: ``default_metrics``.
        class_index: generate images of this class only, and compare with reals of it.
        networks: those that the metrics need (``opening.open_networks``), on ``device``.
        floor: also compare two sets of reals, which a perfect model would reach; it takes as long again.
        group: the processes that evaluate together, all with the same arguments.
        cache: where features of reals are kept.
        device: where the networks are. None: where the model is, or the CPU.
        progress: of each stage.
        warn: called with what makes the scores less than they seem.

    Returns:
        The scores by name (``registry.SCORES``), and what a metric says besides (``Metric.compute``); with ``floor``
        also ``swd_floor`` and ``swd_floor_images`` (of how many reals on either side: fewer where the data set is
        small, and then too high); ``failed``, with the reason for each metric that could not be computed, where others
        could; and ``provenance``: what two scores must share to be comparable.

    Raises:
        ConfigError: an unknown metric, one whose network is missing, or an impossible number of images.
        DataError: the data set does not fit the model, or an image is unreadable.
        GanformerError: none of the metrics could be computed.
    """
    networks = networks or FeatureNetworks()
    chosen = chosen_metrics(default_metrics(fakes) if metrics is None else metrics, fakes, networks, class_index)
    if isinstance(fakes, Generator) and fakes.config.vqgan and truncation_psi != 1:
        raise ConfigError(f"--truncation-psi {truncation_psi:g}: a VQGAN has no mean image; leave it out")
    check_comparable(fakes, dataset, chosen, warn)
    real_indices = shuffled_indices(dataset, seed, class_index, "--dataset")
    fake_indices = None if isinstance(fakes, Generator) else shuffled_indices(fakes, seed, None, "--images")
    plan = make_plan(chosen, num_images, dataset, real_indices, fake_indices, floor)
    if device is None:
        device = next(fakes.parameters()).device if isinstance(fakes, Generator) else torch.device("cpu")
    give_cautions(plan, networks, fakes, warn)
    for network in networks.features.values():
        network.batch_size = batch_size

    source: ImageSource
    if isinstance(fakes, Generator):
        stage = "drawing samples"
        source = GeneratedImages(
            fakes,
            plan.fakes,
            first_seed=seed * SEED_STRIDE,
            truncation_psi=truncation_psi,
            noise_mode=noise_mode,
            batch_size=batch_size or DEFAULT_BATCH,
            label=_labels(fakes, dataset, real_indices, class_index, warn),
        )
    else:
        assert fake_indices is not None
        source, stage = DatasetImages(fakes, fake_indices), "reading images"
    collected_reals = collect_reals(
        DatasetImages(dataset, real_indices),
        plan,
        networks.features,
        selection={"seed": seed, "class": class_index},
        cache=cache,
        device=device,
        group=group,
        progress=partial(progress, "reading reals"),
    )

    def look_at(of: Subject, images: ImageSource, count: int, stage: str) -> Collected:
        return collect(
            images,
            networks.features,
            count=count,
            moments=plan.features("moments", of),
            rows=plan.features("rows", of),
            pixels=plan.pixels(of),
            group=group,
            progress=partial(progress, stage),
        )

    collected: dict[Subject, Collected] = {"samples": look_at("samples", source, plan.fakes, stage)}
    if isinstance(fakes, Generator) and fakes.can_reconstruct:
        originals = DatasetImages(dataset, real_indices)
        made = ReconstructedImages(fakes, originals, batch_size=batch_size or DEFAULT_BATCH)
        collected["reconstructions"] = look_at("reconstructions", made, plan.reals, "reconstructing reals")
    compare = partial(_compare, plan, collected_reals, collected, seed, device, progress)
    scores = group.run_on_rank0(compare)
    failed = scores["failed"]
    for metric in (metric for metric in chosen if metric.needs == "model"):
        inputs = Inputs(
            fakes=fakes,
            seed=seed,
            count=plan.counts(metric)[1],
            distance=networks.distance,
            group=group,
            progress=partial(progress, metric.title),
        )
        try:
            scores.update(metric.compute(inputs))
        except GanformerError as error:
            failed[metric.name] = str(error)
    if len(failed) == len(chosen):
        raise GanformerError("; ".join(f"{name}: {reason}" for name, reason in failed.items()))
    for name, reason in failed.items():
        warn(f"no {name}: {reason}")
    if not failed:
        del scores["failed"]
    provenance = _provenance(plan, fakes, dataset, networks, device) | {"seed": seed, "class": class_index}
    if isinstance(fakes, Generator):
        provenance |= {"truncation_psi": truncation_psi, "noise_mode": noise_mode}
    return {**scores, "provenance": provenance}


def _labels(
    generator: Generator, dataset: ImageDataset, indices: Indices, class_index: int | None, warn: Warn
) -> Callable[[int], npt.NDArray[np.float32]] | None:
    """The label of the i-th generated image: that of the i-th real one, so that both sets have the same mixture.

    None: the generator draws them, from its own label distribution.
    """
    classes = generator.config.c_dim
    if not classes:
        if class_index is not None:
            raise ConfigError(f"--class {class_index}: this model knows no classes; leave the option out")
        return None
    if dataset.label_dim == 0:
        return None
    if dataset.label_kind != "vectors" and class_index is None and classes > 1:
        some = {int(dataset.label(int(i)).argmax()) for i in indices[:DEFAULT_NUM_IMAGES]}
        if len(some) == 1:
            warn(f"all images of --dataset {dataset.name} that are compared are of class {some.pop()}, of {classes}")
    return lambda i: dataset.label(int(indices[i % len(indices)]))


# ----- Comparing -----


def _compare(
    plan: EvaluationPlan,
    reals: Collected,
    fakes: Mapping[Subject, Collected],
    seed: int,
    device: torch.device,
    progress: StageProgress,
) -> dict[str, Any]:
    """The scores of all metrics that need no model; the reasons for those that failed under ``failed``."""
    scores: dict[str, Any] = {"failed": {}}
    metrics = [metric for metric in plan.metrics if metric.needs != "model"]
    for number, metric in enumerate(metrics):
        progress("comparing", number, len(metrics))
        try:
            found = _score(metric, plan, reals, fakes[metric.of], seed, device)
        except GanformerError as error:
            scores["failed"][metric.name] = str(error)
        except (RuntimeError, MemoryError, OSError) as error:
            if not is_out_of_memory(error):
                raise
            scores["failed"][metric.name] = out_of_memory("comparing features")
        else:
            if all(math.isfinite(value) for value in found.values() if isinstance(value, float)):
                scores.update(found)
            else:
                scores["failed"][metric.name] = "it is NaN or infinite"
    if metrics:
        progress("comparing", len(metrics), len(metrics))
    return scores


def _score(
    metric: Metric, plan: EvaluationPlan, reals: Collected, fakes: Collected, seed: int, device: torch.device
) -> dict[str, Any]:
    """The scores of one metric, and its floor if that is wanted."""
    num_reals, num_fakes = plan.counts(metric)
    inputs = Inputs(
        reals=reals.get(metric, num_reals) if metric.uses_reals else None,
        fakes=fakes.get(metric, num_fakes),
        seed=seed,
        device=device,
    )
    found = metric.compute(inputs)
    if metric.has_floor and plan.floor_images:
        half = plan.floor_images
        both = reals.get(metric, 2 * half)
        name = metric.scores[0].name
        floor = metric.compute(Inputs(reals=both[:half], fakes=both[half:], seed=seed, device=device))
        found |= {f"{name}_floor": floor[name], f"{name}_floor_images": half}
    return found


# ----- Provenance -----


def _provenance(
    plan: EvaluationPlan,
    fakes: Generator | ImageDataset,
    dataset: ImageDataset,
    networks: FeatureNetworks,
    device: torch.device,
) -> dict[str, Any]:
    """What was compared, and with what."""
    own = {metric.name: _metric_provenance(metric, plan, networks) for metric in plan.metrics}
    if isinstance(fakes, Generator):
        height, width = fakes.config.image_size
        given = {}
    else:
        height, width = fakes.height, fakes.width
        given = {"images": fakes.name, "images_fingerprint": fakes.fingerprint}
    half = fakes.half_dtypes if isinstance(fakes, Generator) else []
    features = f"; the generator's features in {', '.join(half)}" if half else ""
    tf32 = not given and device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return {
        "metrics": own,
        "num_reals": max(each["num_reals"] for each in own.values()),
        "num_fakes": max(each["num_fakes"] for each in own.values()),
        "dataset": dataset.name,
        "dataset_fingerprint": dataset.fingerprint,
        "image_size": [dataset.height, dataset.width],
        "fakes_size": [height, width],
        **given,
        "device": device.type,
        "precision": ("float32; the generator's convolutions in TF32" if tf32 else "float32") + features,
        "torch": torch.__version__,
        "ganformer": __version__,
    }


def _metric_provenance(metric: Metric, plan: EvaluationPlan, networks: FeatureNetworks) -> dict[str, Any]:
    reals, fakes = plan.counts(metric)
    own: dict[str, Any] = {"version": metric.version, "num_reals": reals, "num_fakes": fakes}
    if metric.needs == "model":
        # No truncation, whatever the images of the other scores have.
        own["truncation_psi"] = 1.0
    if metric.network is not None:
        network = networks[metric.network]
        own |= {"network": network.name, "weights_sha256": network.weights_sha256}
    if metric.network in networks.features:
        own["resize"] = networks.features[metric.network].resize
    return own
