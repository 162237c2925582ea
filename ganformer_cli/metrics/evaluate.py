"""Scores of a generator, or of pictures, against real ones, with everything that one must know to compare them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ganformer_cli import __version__
from ganformer_cli.data.loading.datasets import ImageDataset
from ganformer_cli.errors import ConfigError, GanformerError
from ganformer_cli.metrics import (
    diversity,
    frechet,
    inception_score,
    kernel_distance,
    manifold,
    path_length,
    sliced_wasserstein,
)
from ganformer_cli.metrics.blocks import out_of_memory
from ganformer_cli.metrics.cache import Cache
from ganformer_cli.metrics.collecting import Collected, collect
from ganformer_cli.metrics.opening import FeatureNetworks
from ganformer_cli.metrics.plan import (
    DEFAULT_IMAGES,
    EvaluationPlan,
    Indices,
    Notice,
    check_comparable,
    chosen_metrics,
    images_of,
    make_plan,
    shuffled_indices,
    warn_of_bias,
)
from ganformer_cli.metrics.processes import SINGLE_PROCESS, ProcessGroup, fail_together
from ganformer_cli.metrics.reals import collect_reals
from ganformer_cli.metrics.registry import METRICS, Metric, version_of
from ganformer_cli.metrics.sources import SEED_STRIDE, DatasetImages, GeneratedImages, ImageSource, block_ranges
from ganformer_cli.process_memory import is_out_of_memory
from ganformer_cli.sampling import DEFAULT_BATCH, Generator, NoiseMode

DEFAULT_METRICS = ("swd", "diversity")

#: Pairs of latents that a process takes at a time; a multiple of those that are drawn together.
_PAIRS_TOGETHER = 64

Progress = Callable[[str, int, int], None]


def evaluate(
    fakes: Generator | ImageDataset,
    dataset: ImageDataset,
    *,
    num_images: int | None = None,
    seed: int = 0,
    truncation_psi: float = 1.0,
    noise_mode: NoiseMode = "const",
    batch_size: int | None = None,
    metrics: Sequence[str] = DEFAULT_METRICS,
    class_index: int | None = None,
    networks: FeatureNetworks | None = None,
    floor: bool = False,
    group: ProcessGroup = SINGLE_PROCESS,
    cache: Cache | None = None,
    device: torch.device | None = None,
    progress: Progress | None = None,
    notice: Notice | None = None,
) -> dict[str, Any]:
    """Compare generated pictures with real ones.

    The same arguments give the same scores, bit for bit, on a CPU whatever ``batch_size`` is; on another number of
    processes they are the same to 1e-6.

    Args:
        fakes: a model, whose pictures must have the data set's size; or pictures that somebody else generated.
        dataset: the reals; a random choice of them is used.
        num_images: generated pictures, and as many reals, or all of a smaller data set. None: ``default_num_images``
            of a model; all pictures on both sides where they are given.
        seed: chooses the reals and the generated pictures: seed 0 scores the pictures of seeds 0, 1, 2, ...
        truncation_psi: of the generated pictures; anything but 1 trades their diversity for quality.
        noise_mode: of the generated pictures.
        batch_size: images generated at a time, and that pass through a feature network at a time, at most; fewer
            where memory runs out. None: 16 generated, and 64 through a network. On a GPU it changes features by
            rounding; on a CPU it changes no bit.
        metrics: of ``registry.METRICS``.
        class_index: generate pictures of this class only, and compare with reals of it.
        networks: those that the metrics need (``opening.open_networks``), on ``device``.
        floor: also measure the sliced Wasserstein distance between two sets of reals, which a perfect model would
            reach; it takes as long again.
        group: the processes that evaluate together, all with the same arguments.
        cache: where features of reals are kept.
        device: where the networks are. None: where the model is, or the CPU.
        progress: called with a stage's name, how many of its parts are done, and how many there are.
        notice: told what makes the scores less than they seem.

    Returns:
        The scores by name (``registry.SCORES``), those that have one with their deviation (``kid_std``, ``is_std``);
        ``swd_levels`` (per level, finest first), with ``floor`` also ``swd_floor`` and ``swd_floor_images`` (of how
        many reals on either side: fewer where the data set is small, and then too high); ``failed``, with the reason
        for each metric that could not be computed, where others could; and ``provenance``: what two scores must share
        to be comparable.

    Raises:
        ConfigError: an unknown metric, one whose network is missing, or an impossible number of pictures.
        DataError: the data set does not fit the model, or a picture is unreadable.
        GanformerError: none of the metrics could be computed.
    """
    report = progress or (lambda stage, done, total: None)
    tell = notice or (lambda text: None)
    networks = networks or FeatureNetworks()
    chosen = chosen_metrics(metrics, fakes, networks, class_index)
    check_comparable(fakes, dataset, chosen, tell)
    if (
        isinstance(fakes, Generator)
        and any(metric.needs == "model" for metric in chosen)
        and fakes.config.c_dim
        and fakes.label_distribution is None
    ):
        tell(
            f"this model does not say how frequent its labels are: for path lengths each of {fakes.config.c_dim} "
            "classes is taken to be equally likely"
        )
    real_order = shuffled_indices(dataset, seed, class_index, "--dataset")
    fake_order = None if isinstance(fakes, Generator) else shuffled_indices(fakes, seed, None, "--images")
    plan = make_plan(chosen, num_images, dataset, real_order, fake_order, floor)
    if device is None:
        device = next(fakes.parameters()).device if isinstance(fakes, Generator) else torch.device("cpu")
    warn_of_bias(plan, networks, tell)
    for network in networks.features.values():
        network.batch_size = batch_size

    source: ImageSource
    if isinstance(fakes, Generator):
        source = GeneratedImages(
            fakes,
            plan.fakes,
            first_seed=seed * SEED_STRIDE,
            truncation_psi=truncation_psi,
            noise_mode=noise_mode,
            batch_size=batch_size or DEFAULT_BATCH,
            label=_labels(fakes, dataset, real_order, class_index, tell),
        )
    else:
        assert fake_order is not None
        source = DatasetImages(fakes, fake_order)
    reals = collect_reals(
        DatasetImages(dataset, real_order),
        plan,
        networks.features,
        selection={"seed": seed, "class": class_index},
        cache=cache,
        device=device,
        group=group,
        report=lambda done, total: report("reading reals", done, total) if total else None,
    )
    fakes_stage = "drawing samples" if isinstance(fakes, Generator) else "reading pictures"
    found = collect(
        source,
        networks.features,
        count=plan.fakes,
        moments=plan.wanted("moments", real=False),
        rows=plan.wanted("rows", real=False),
        pixels=plan.fake_pixels,
        group=group,
        report=lambda done, total: report(fakes_stage, done, total) if total else None,
    )

    def compare() -> dict[str, Any]:
        return _compare(plan, reals, found, seed, device, report)

    scores = group.run_on_rank0(compare)
    failed = scores["failed"]
    for metric in chosen:
        if metric.needs == "model":
            assert isinstance(fakes, Generator)  # chosen_metrics has seen to it
            try:
                scores.update(_path_length(metric.name, plan, fakes, networks, seed, group, report))
            except GanformerError as error:
                failed[metric.name] = str(error)
    if len(failed) == len(chosen):
        raise GanformerError("; ".join(f"{name}: {reason}" for name, reason in failed.items()))
    for name, reason in failed.items():
        tell(f"no {name}: {reason}")
    if not failed:
        del scores["failed"]
    provenance = _provenance(plan, fakes, dataset, networks, device) | {"seed": seed, "class": class_index}
    if isinstance(fakes, Generator):
        provenance |= {"truncation_psi": truncation_psi, "noise_mode": noise_mode}
    return {**scores, "provenance": provenance}


def _labels(
    generator: Generator,
    dataset: ImageDataset,
    order: Indices,
    class_index: int | None,
    notice: Notice,
) -> Callable[[int], npt.NDArray[np.float32]] | None:
    """The label of the i-th generated picture: that of the i-th real one, so that both sets have the same mixture.

    None: the generator draws them, from those that it has kept of its own data.
    """
    classes = generator.config.c_dim
    if not classes:
        if class_index is not None:
            raise ConfigError(f"--class {class_index}: this model knows no classes; leave the option out")
        return None
    if dataset.label_dim == 0:
        return None
    if dataset.label_kind == "vectors":
        return lambda i: dataset.label(int(order[i % len(order)]))
    some = {int(dataset.label(int(i)).argmax()) for i in order[:DEFAULT_IMAGES]}
    if class_index is None and classes > 1 and len(some) == 1:
        notice(f"all pictures of --dataset {dataset.name} that are compared are of class {some.pop()}, of {classes}")
    return lambda i: dataset.label(int(order[i % len(order)]))


# ----- Comparing -----


def _compare(
    plan: EvaluationPlan, reals: Collected, fakes: Collected, seed: int, device: torch.device, report: Progress
) -> dict[str, Any]:
    """The scores of all metrics but those of the model itself; the reasons for those that failed under ``failed``."""
    scores: dict[str, Any] = {"failed": {}}
    some = [metric for metric in plan.metrics if metric.needs != "model"]
    if some:
        report("comparing", 0, len(some))
    for number, metric in enumerate(some):
        try:
            found = _score(metric, plan, reals, fakes, seed, device)
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
                scores["failed"][metric.name] = "it came out as no finite number"
        report("comparing", number + 1, len(some))
    return scores


def _score(
    metric: Metric, plan: EvaluationPlan, reals: Collected, fakes: Collected, seed: int, device: torch.device
) -> dict[str, Any]:
    """The scores of one metric."""
    name, features = metric.name, (metric.network or "", metric.output)
    if metric.needs == "pixels":
        assert reals.pixels is not None  # the plan asks for them
        assert fakes.pixels is not None
        if name == "diversity":
            ratio = diversity.diversity_ratio(fakes.pixels[: plan.diversity], reals.pixels[: plan.diversity])
            return {"diversity": ratio}
        return _sliced(plan, reals.pixels, fakes.pixels, seed)
    if metric.needs == "moments":
        return {name: frechet.frechet_distance(reals.moments[features], fakes.moments[features])}
    rows = fakes.rows[features]
    if name == "is":
        mean, deviation = inception_score.inception_score(rows, seed=seed)
        return {"is": mean, "is_std": deviation}
    if name == "kid":
        kid, spread = kernel_distance.kernel_distance(reals.rows[features], rows, seed=seed)
        return {"kid": kid} if spread is None else {"kid": kid, "kid_std": spread}
    both = min(plan.reals, plan.fakes)
    sets = reals.rows[features][:both], rows[:both]
    if name == "pr":
        precision, recall = manifold.precision_recall(*sets, device=device)
        return {"precision": precision, "recall": recall}
    density, coverage = manifold.density_coverage(*sets, device=device)
    return {"density": density, "coverage": coverage}


def _sliced(
    plan: EvaluationPlan, reals: npt.NDArray[np.uint8], fakes: npt.NDArray[np.uint8], seed: int
) -> dict[str, Any]:
    levels = sliced_wasserstein.sliced_wasserstein(reals[: plan.swd], fakes[: plan.swd], seed=seed)
    found: dict[str, Any] = {"swd": levels.pop("mean"), "swd_levels": levels}
    if plan.halves:
        pair = reals[: plan.halves], reals[plan.halves : 2 * plan.halves]
        found["swd_floor"] = sliced_wasserstein.sliced_wasserstein(*pair, seed=seed)["mean"]
        found["swd_floor_images"] = plan.halves
    return found


def _path_length(
    name: str,
    plan: EvaluationPlan,
    generator: Generator,
    networks: FeatureNetworks,
    seed: int,
    group: ProcessGroup,
    report: Progress,
) -> dict[str, Any]:
    """A perceptual path length; each process takes a share of the pairs."""
    assert networks.distance is not None  # chosen_metrics has seen to it
    shares = [
        [i for place in block_ranges(plan.pairs, _PAIRS_TOGETHER, rank, group.world_size) for i in place]
        for rank in range(group.world_size)
    ]
    measure = partial(
        path_length.path_lengths,
        generator,
        networks.distance,
        shares[group.rank],
        space="z" if "_z" in name else "w",
        end=name.endswith("end"),
        seed=seed,
        progress=lambda done, total: report(METRICS[name].title, done, total),
    )
    own = fail_together(group, measure)
    lengths = np.empty(plan.pairs)
    for share, found in zip(shares, group.gather(own), strict=True):
        lengths[share] = found
    mean, deviation = path_length.summary(lengths)
    return {name: mean, f"{name}_std": deviation}


# ----- Provenance -----


def _provenance(
    plan: EvaluationPlan,
    fakes: Generator | ImageDataset,
    dataset: ImageDataset,
    networks: FeatureNetworks,
    device: torch.device,
) -> dict[str, Any]:
    """What was compared, and with what."""
    reals, numbers = zip(*(images_of(metric, plan) for metric in plan.metrics), strict=True)
    of_model = isinstance(fakes, Generator)
    height, width = fakes.config.image_size if isinstance(fakes, Generator) else (fakes.height, fakes.width)
    given = {} if isinstance(fakes, Generator) else {"images": fakes.name, "images_fingerprint": fakes.fingerprint}
    return {
        "metrics": {metric.name: _own_provenance(metric, plan, networks) for metric in plan.metrics},
        "num_reals": max(reals),
        "num_fakes": max(numbers),
        "dataset": dataset.name,
        "dataset_fingerprint": dataset.fingerprint,
        "image_size": [dataset.height, dataset.width],
        "fakes_size": [height, width],
        **given,
        "device": device.type,
        "precision": _precision(device, of_model=of_model),
        "torch": torch.__version__,
        "ganformer": __version__,
    }


def _own_provenance(metric: Metric, plan: EvaluationPlan, networks: FeatureNetworks) -> dict[str, Any]:
    reals, fakes = images_of(metric, plan)
    own: dict[str, Any] = {"version": version_of(metric.name), "num_reals": reals, "num_fakes": fakes}
    if metric.needs == "model":
        assert networks.distance is not None  # chosen_metrics has seen to it
        own |= {"network": networks.distance.name, "weights_sha256": networks.distance.weights_sha256}
        own |= {"truncation_psi": 1.0}  # whatever the pictures of the other scores have
    elif metric.network:
        network = networks.features[metric.network]
        own |= {"network": network.name, "weights_sha256": network.weights_sha256, "resize": network.resize}
    return own


def _precision(device: torch.device, *, of_model: bool) -> str:
    """What features and pictures were computed in."""
    tensor_floats = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return "float32; the generator's convolutions in TF32" if of_model and tensor_floats else "float32"
