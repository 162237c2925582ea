"""What an evaluation looks at: which pictures, how many, and whether they fit together at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ganformer_cli.data.loading.datasets import ImageDataset
from ganformer_cli.errors import ConfigError, DataError
from ganformer_cli.metrics import kernel_distance, path_length
from ganformer_cli.metrics.collecting import FeatureKey
from ganformer_cli.metrics.opening import FeatureNetworks
from ganformer_cli.metrics.registry import METRICS, Metric, networks_of
from ganformer_cli.sampling import Generator
from ganformer_cli.text import printable

DEFAULT_IMAGES = 2048
#: Descriptors of the sliced Wasserstein distance take 75 kB of memory a picture.
_SWD_IMAGES = 8192
#: Distances of all pairs take time that grows with the square; so many pictures fix their mean to about a percent.
_DIVERSITY_IMAGES = 1024
#: Below so many pictures a Fréchet distance is so biased that it should not be quoted.
_FEW = 10_000

Notice = Callable[[str], None]
Indices = npt.NDArray[np.int64]


def default_num_images(dataset: ImageDataset) -> int:
    """2048, or as many as the data set has."""
    return min(DEFAULT_IMAGES, len(dataset))


@dataclass(frozen=True, kw_only=True)
class EvaluationPlan:
    """What is looked at."""

    metrics: tuple[Metric, ...]
    reals: int  # whose features are compared
    fakes: int
    swd: int  # pictures of either kind
    diversity: int
    halves: int  # of reals on either side of the floor; 0: none is measured

    def wanted(self, needs: str, *, real: bool) -> list[FeatureKey]:
        """The features that the metrics need, each once."""
        chosen = (m for m in self.metrics if m.needs == needs and (m.reals or not real))
        return list(dict.fromkeys((m.network, m.output) for m in chosen if m.network))

    @property
    def pairs(self) -> int:
        """Of latents, for path lengths."""
        return min(self.fakes, path_length.PAIRS)

    @property
    def real_pixels(self) -> int:
        return max(self.swd, self.diversity, 2 * self.halves)

    @property
    def fake_pixels(self) -> int:
        return max(self.swd, self.diversity)


def chosen_metrics(
    names: Sequence[str], fakes: Generator | ImageDataset, networks: FeatureNetworks, class_index: int | None
) -> tuple[Metric, ...]:
    """The metrics of these names.

    Raises:
        ConfigError: one is unknown, needs a network that is not there, or a model where there is none.
    """
    if unknown := [name for name in names if name not in METRICS]:
        raise ConfigError(f"--metrics {','.join(unknown)}: unknown; there are {', '.join(METRICS)}")
    if not names:
        raise ConfigError("--metrics: none is named; give for instance --metrics swd,diversity")
    if missing := [name for name in networks_of(names) if name not in networks]:
        raise ConfigError(f"--metrics {','.join(names)}: the feature networks {', '.join(missing)} are not loaded")
    chosen = tuple(METRICS[name] for name in names)
    of_model = ",".join(metric.name for metric in chosen if metric.needs == "model")
    if of_model and not isinstance(fakes, Generator):
        raise ConfigError(f"--metrics {of_model}: needs a model whose latents it can move, not pictures; leave it out")
    if of_model and class_index is not None:
        raise ConfigError(
            f"--metrics {of_model} with --class {class_index}: it takes latents of all classes; leave it out"
        )
    return chosen


def check_comparable(
    fakes: Generator | ImageDataset,
    dataset: ImageDataset,
    metrics: Sequence[Metric] = (),
    notice: Notice = lambda text: None,
) -> None:
    """Raise ``DataError`` unless the data set's pictures and labels are such as the model makes and takes.

    Of given pictures, those of another size can only be compared by their features, and ``notice`` is told.
    """
    sizes = f"--dataset {dataset.name} has pictures of {dataset.width}x{dataset.height}"
    if isinstance(fakes, Generator):
        height, width = fakes.config.image_size
        if (dataset.height, dataset.width) != (height, width):
            raise DataError(
                f"{sizes}, this model makes {width}x{height}; prepare the data set at that --resolution and --ratio"
            )
        _check_labels(fakes, dataset, notice)
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
    notice(
        f"{sizes}, {others}: another {other}, which changes the features; "
        "compare the scores with none of pictures of one size"
    )


def _check_labels(generator: Generator, dataset: ImageDataset, notice: Notice) -> None:
    """Raise ``DataError`` unless the model can be given the labels of the data set, or has kept some of its own."""
    size, kept = generator.config.c_dim, generator.label_distribution
    if size == 0:
        return
    if dataset.label_dim == 0 and kept is not None:
        notice(
            f"--dataset {dataset.name} has no labels; those of the generated pictures are drawn from the labels that "
            "the model was trained on"
        )
        return
    whose = "give the data set that it was trained on"
    if dataset.label_dim != size:
        raise DataError(
            f"--dataset {dataset.name} has labels of {dataset.label_dim} numbers, this model takes {size}; {whose}"
        )
    if kept is not None and kept.kind != dataset.label_kind:
        raise DataError(
            f"--dataset {dataset.name} has {dataset.label_kind} for labels, this model takes {kept.kind}; {whose}"
        )
    names = None if kept is None else kept.names
    if names is not None and dataset.class_names is not None and list(names) != dataset.class_names:
        one, other = next((a, b) for a, b in zip(names, dataset.class_names, strict=False) if a != b)
        raise DataError(
            f"--dataset {dataset.name} calls a class {printable(other)} that is {printable(one)} to this model; {whose}"
        )


def shuffled_indices(dataset: ImageDataset, seed: int, class_index: int | None, option: str) -> Indices:
    """The pictures that may be used, in the order in which they are taken.

    Raises:
        DataError: there are fewer than two.
    """
    chosen = np.arange(len(dataset))
    if class_index is not None:
        if dataset.label_dim == 0:
            raise DataError(f"--class {class_index}: {option} {dataset.name} has no labels; leave the option out")
        if dataset.label_kind == "vectors":
            raise DataError(
                f"--class {class_index}: {option} {dataset.name} has no classes, its labels are vectors of "
                f"{dataset.label_dim} numbers; leave the option out"
            )
        if class_index >= dataset.label_dim:
            raise DataError(
                f"--class {class_index}: {option} {dataset.name} has the classes 0 to {dataset.label_dim - 1}"
            )
        chosen = np.array([i for i in chosen if int(dataset.label(int(i)).argmax()) == class_index], np.int64)
    if len(chosen) < 2:
        of_class = "" if class_index is None else f" of --class {class_index}"
        raise DataError(
            f"{option} {dataset.name} has {len(chosen)} pictures{of_class}; scores compare sets and need at least 2"
        )
    return chosen[np.random.default_rng(seed).permutation(len(chosen))]


def make_plan(
    metrics: tuple[Metric, ...],
    asked: int | None,
    dataset: ImageDataset,
    reals: Indices,
    fakes: Indices | None,
    floor: bool,
) -> EvaluationPlan:
    """How many pictures each metric looks at.

    Args:
        metrics: the metrics.
        asked: how many generated pictures the user asked for, if they did.
        dataset: the reals.
        reals: those of them that may be used.
        fakes: the given pictures that may be used; None: a model makes them.
        floor: whether the distance of two sets of reals is measured, too.

    Raises:
        ConfigError: fewer than two pictures are asked for.
    """
    if asked is not None and asked < 2:
        raise ConfigError(f"--eval-images-num {asked}: scores compare sets and need at least 2 pictures of either kind")
    if fakes is None:
        of_fakes = min(default_num_images(dataset), len(reals)) if asked is None else asked
        of_reals = min(of_fakes, len(reals))
    else:
        of_fakes, of_reals = (len(s) if asked is None else min(asked, len(s)) for s in (fakes, reals))
    names = {metric.name for metric in metrics}
    both = min(of_fakes, of_reals)
    swd = min(both, _SWD_IMAGES) if "swd" in names else 0
    return EvaluationPlan(
        metrics=metrics,
        reals=of_reals,
        fakes=of_fakes,
        swd=swd,
        diversity=min(both, _DIVERSITY_IMAGES) if "diversity" in names else 0,
        halves=min(swd, len(reals) // 2) if floor else 0,
    )


def warn_of_bias(plan: EvaluationPlan, networks: FeatureNetworks, notice: Notice) -> None:
    """Tell what few pictures do to the scores."""
    least = min(plan.reals, plan.fakes)
    for metric in plan.metrics:
        if metric.needs == "moments" and metric.network:
            width = networks.features[metric.network].outputs[metric.output]
            if least <= width:
                notice(
                    f"{metric.name} of {plan.reals} real and {plan.fakes} generated pictures: fewer than the "
                    f"{width} numbers of a picture's features, so that their covariance is singular; the score is far "
                    "too high and compares with nothing but scores of the very same numbers"
                )
            elif least < _FEW:
                notice(
                    f"{metric.name} of {plan.reals} real and {plan.fakes} generated pictures is biased upwards; quote "
                    "only those of --eval-images-num 50000, and compare scores of the same numbers only"
                )
        elif metric.name == "kid" and least < kernel_distance.SUBSET_SIZE:
            notice(f"kid of {least} pictures: its subsets are smaller than {kernel_distance.SUBSET_SIZE}, and noisier")
        elif metric.name in ("pr", "dc") and least < _FEW:
            notice(f"{metric.name} of {least} pictures of either kind depends on their number; compare equal ones only")
        elif metric.name == "is" and plan.fakes < _FEW:
            notice(f"is of {plan.fakes} pictures is biased downwards; compare scores of the same number only")


def images_of(metric: Metric, plan: EvaluationPlan) -> tuple[int, int]:
    """How many reals and fakes a metric compares."""
    if metric.name == "swd":
        return plan.swd, plan.swd
    if metric.name == "diversity":
        return plan.diversity, plan.diversity
    if metric.name in ("pr", "dc"):
        return (min(plan.reals, plan.fakes),) * 2
    if metric.needs == "model":
        return 0, plan.pairs
    return plan.reals if metric.reals else 0, plan.fakes
