"""What an evaluation looks at: which images, how many, and whether they can be compared at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ganformer_cli.data.loading.datasets import ImageDataset
from ganformer_cli.errors import ConfigError, DataError
from ganformer_cli.files import Warn
from ganformer_cli.metrics.collecting import FeatureKey
from ganformer_cli.metrics.metric import Circumstances, Metric, Subject
from ganformer_cli.metrics.opening import FeatureNetworks
from ganformer_cli.metrics.registry import METRICS, networks_of
from ganformer_cli.sampling import Generator
from ganformer_cli.text import printable

DEFAULT_NUM_IMAGES = 2048

Indices = npt.NDArray[np.int64]


def default_num_images(dataset: ImageDataset) -> int:
    """2048, or as many as the data set has."""
    return min(DEFAULT_NUM_IMAGES, len(dataset))


@dataclass(frozen=True, kw_only=True)
class EvaluationPlan:
    """How many images are looked at."""

    metrics: tuple[Metric, ...]
    reals: int  # images whose features are compared
    fakes: int
    floor_images: int = 0  # reals on either side of a floor; 0: no floor is measured

    def counts(self, metric: Metric) -> tuple[int, int]:
        """How many reals and fakes a metric looks at."""
        return metric.counts(self.reals, self.fakes)

    def features(self, needs: str, of: Subject | Literal["reals"]) -> list[FeatureKey]:
        """The features of these images that the metrics need, each once."""
        return list(dict.fromkeys(metric.features for metric in self._looking_at(of) if metric.needs == needs))

    def pixels(self, of: Subject | Literal["reals"]) -> int:
        """How many of these images are wanted as they are."""
        return max((self.counts(metric)[1] for metric in self._looking_at(of) if metric.needs == "pixels"), default=0)

    def _looking_at(self, of: Subject | Literal["reals"]) -> list[Metric]:
        return [metric for metric in self.metrics if (metric.uses_reals if of == "reals" else metric.of == of)]


#: Why there are no images of a kind.
_IMPOSSIBLE: dict[Subject, str] = {
    "samples": (
        "this VQGAN is in stage 1: its transformer has not been trained, and there are no samples to score. Score its "
        "reconstructions (--metrics rswd,psnr), continue its training, or give a later snapshot"
    ),
    "reconstructions": "scores reconstructions, which only a VQGAN makes; leave it out",
}


def subjects_of(fakes: Generator | ImageDataset) -> tuple[Subject, ...]:
    """The kinds of images that there are to score: those of a VQGAN in stage 1 are reconstructions only."""
    found: list[Subject] = []
    if not isinstance(fakes, Generator) or fakes.can_sample:
        found.append("samples")
    if isinstance(fakes, Generator) and fakes.can_reconstruct:
        found.append("reconstructions")
    return tuple(found)


def usable_metrics(names: Sequence[str], fakes: Generator | ImageDataset) -> tuple[str, ...]:
    """Those of the metrics that look at images which there are."""
    return tuple(name for name in names if METRICS[name].of in subjects_of(fakes))


def default_metrics(fakes: Generator | ImageDataset) -> tuple[str, ...]:
    """What is computed where nobody has chosen metrics: what needs no feature network."""
    return usable_metrics(("swd", "diversity", "rswd", "psnr"), fakes)


def chosen_metrics(
    names: Sequence[str], fakes: Generator | ImageDataset, networks: FeatureNetworks, class_index: int | None
) -> tuple[Metric, ...]:
    """The metrics of these names.

    Raises:
        ConfigError: one is unknown, its feature network is not loaded, it needs a model and there are only images, or
            it looks at images that this model does not make.
    """
    if unknown := [name for name in names if name not in METRICS]:
        raise ConfigError(f"--metrics {','.join(unknown)}: unknown; there are {', '.join(METRICS)}")
    if not names:
        raise ConfigError("--metrics: none is named; give for instance --metrics swd,diversity")
    if missing := [name for name in networks_of(names) if name not in networks]:
        raise ConfigError(f"--metrics {','.join(names)}: the feature networks {', '.join(missing)} are not loaded")
    chosen = tuple(METRICS[name] for name in names)
    subjects = subjects_of(fakes)
    for of, why in _IMPOSSIBLE.items():
        if of not in subjects and (names := [metric.name for metric in chosen if metric.of == of]):
            raise ConfigError(f"--metrics {','.join(names)}: {why}")
    of_model = ",".join(metric.name for metric in chosen if metric.needs == "model")
    if of_model and not isinstance(fakes, Generator):
        raise ConfigError(f"--metrics {of_model}: needs a model whose latents it can move, not images; leave it out")
    if of_model and isinstance(fakes, Generator) and fakes.config.vqgan:
        raise ConfigError(
            f"--metrics {of_model}: moves latents a little, and those of a VQGAN are codes, which jump; leave it out"
        )
    if of_model and class_index is not None:
        raise ConfigError(
            f"--metrics {of_model} with --class {class_index}: it takes latents of all classes; leave it out"
        )
    return chosen


def check_comparable(
    fakes: Generator | ImageDataset, dataset: ImageDataset, metrics: Sequence[Metric], warn: Warn
) -> None:
    """Raise ``DataError`` unless the data set has images of the model's size, and labels that it takes.

    Given images of another size can be compared by their features only; ``warn`` is called then.
    """
    sizes = f"--dataset {dataset.name} has images of {dataset.width}x{dataset.height}"
    if isinstance(fakes, Generator):
        height, width = fakes.config.image_size
        if (dataset.height, dataset.width) != (height, width):
            raise DataError(
                f"{sizes}, this model makes {width}x{height}; prepare the data set at that --resolution and --ratio"
            )
        _check_labels(fakes, dataset, warn)
        return
    if (dataset.height, dataset.width) == (fakes.height, fakes.width):
        return
    others = f"--images {fakes.name} of {fakes.width}x{fakes.height}"
    if pixels := [metric.name for metric in metrics if metric.needs == "pixels"]:
        raise DataError(
            f"{sizes}, {others}: {' and '.join(pixels)} compare pixels; "
            "prepare both at one --resolution and --ratio, or choose other --metrics"
        )
    other = "ratio" if abs(dataset.height / dataset.width - fakes.height / fakes.width) > 0.01 else "resolution"
    warn(
        f"{sizes}, {others}: another {other}, which changes the features; do not compare these scores with scores of "
        "images of one size"
    )


def _check_labels(generator: Generator, dataset: ImageDataset, warn: Warn) -> None:
    """Raise ``DataError`` unless the model takes the data set's labels, or holds a distribution of labels itself."""
    size, kept = generator.config.c_dim, generator.label_distribution
    if size == 0:
        return
    if dataset.label_dim == 0 and kept is not None:
        warn(
            f"--dataset {dataset.name} has no labels; the labels of the generated images are drawn from those that the "
            "model was trained on"
        )
        return
    remedy = "give the data set that it was trained on"
    if dataset.label_dim != size:
        raise DataError(
            f"--dataset {dataset.name} has labels of {dataset.label_dim} numbers, this model takes {size}; {remedy}"
        )
    if kept is not None and kept.kind != dataset.label_kind:
        raise DataError(
            f"--dataset {dataset.name} has {dataset.label_kind} for labels, this model takes {kept.kind}; {remedy}"
        )
    names = None if kept is None else kept.names
    if names is not None and dataset.class_names is not None and list(names) != dataset.class_names:
        one, other = next((a, b) for a, b in zip(names, dataset.class_names, strict=False) if a != b)
        raise DataError(
            f"--dataset {dataset.name} calls a class {printable(other)} that is {printable(one)} to this model; "
            f"{remedy}"
        )


def shuffled_indices(dataset: ImageDataset, seed: int, class_index: int | None, option: str) -> Indices:
    """The images that may be used, in the order in which they are taken.

    Raises:
        DataError: there are fewer than two.
    """
    chosen = np.arange(len(dataset))
    if class_index is not None:
        refused = f"--class {class_index}: {option} {dataset.name}"
        if dataset.label_dim == 0:
            raise DataError(f"{refused} has no labels; leave the option out")
        if dataset.label_kind == "vectors":
            raise DataError(
                f"{refused} has no classes, its labels are vectors of {dataset.label_dim} numbers; leave the option out"
            )
        if class_index >= dataset.label_dim:
            raise DataError(f"{refused} has the classes 0 to {dataset.label_dim - 1}")
        chosen = np.array([i for i in chosen if int(dataset.label(int(i)).argmax()) == class_index], np.int64)
    if len(chosen) < 2:
        of_class = "" if class_index is None else f" of --class {class_index}"
        raise DataError(
            f"{option} {dataset.name} has {len(chosen)} images{of_class}; scores compare sets and need at least 2"
        )
    return chosen[np.random.default_rng(seed).permutation(len(chosen))]


def make_plan(
    metrics: tuple[Metric, ...],
    num_images: int | None,
    dataset: ImageDataset,
    reals: Indices,
    fakes: Indices | None,
    floor: bool,
) -> EvaluationPlan:
    """How many images each metric looks at.

    Args:
        num_images: how many generated images the user asked for; None: the default.
        reals: those of them that may be used.
        fakes: the given images that may be used; None: a model makes them.
        floor: whether the distance of two sets of reals is measured, too.

    Raises:
        ConfigError: fewer than two images are asked for.
    """
    if num_images is not None and num_images < 2:
        raise ConfigError(
            f"--eval-images-num {num_images}: scores compare sets and need at least 2 images of either kind"
        )
    if fakes is None:
        num_fakes = min(default_num_images(dataset), len(reals)) if num_images is None else num_images
        num_reals = min(num_fakes, len(reals))
    else:
        num_fakes, num_reals = (len(s) if num_images is None else min(num_images, len(s)) for s in (fakes, reals))
    with_floor = [metric.counts(num_reals, num_fakes)[0] for metric in metrics if metric.has_floor and floor]
    return EvaluationPlan(
        metrics=metrics,
        reals=num_reals,
        fakes=num_fakes,
        floor_images=min(max(with_floor), len(reals) // 2) if with_floor else 0,
    )


def give_cautions(plan: EvaluationPlan, networks: FeatureNetworks, fakes: Generator | ImageDataset, warn: Warn) -> None:
    """Call ``warn`` with what makes scores mean less than they seem, each once."""
    found: dict[str, None] = {}
    for metric in plan.metrics:
        network = networks.features.get(metric.network or "")
        text = metric.caution(
            Circumstances(
                reals=plan.reals,
                fakes=plan.fakes,
                width=network.outputs[metric.output] if network else 0,
                generator=fakes if isinstance(fakes, Generator) else None,
            )
        )
        if text is not None:
            found[text] = None
    for text in found:
        warn(text)
