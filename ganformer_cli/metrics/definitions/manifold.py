"""Precision and recall, density and coverage; ``metrics.manifold`` has their definitions."""

from __future__ import annotations

from collections.abc import Callable

from ganformer_cli.metrics.definitions import FEW_IMAGES
from ganformer_cli.metrics.metric import Circumstances, Inputs, Metric, Score, add_metric


def _precision_recall(inputs: Inputs) -> dict[str, float]:
    from ganformer_cli.metrics.manifold import precision_recall

    precision, recall = precision_recall(inputs.reals, inputs.fakes, device=inputs.device or "cpu")
    return {"precision": precision, "recall": recall}


def _density_coverage(inputs: Inputs) -> dict[str, float]:
    from ganformer_cli.metrics.manifold import density_coverage

    density, coverage = density_coverage(inputs.reals, inputs.fakes, device=inputs.device or "cpu")
    return {"density": density, "coverage": coverage}


def _caution(name: str) -> Callable[[Circumstances], str | None]:
    def caution(now: Circumstances) -> str | None:
        fewest = min(now.reals, now.fakes)
        if fewest >= FEW_IMAGES:
            return None
        return f"{name} of {fewest} images of either kind depends on their number; compare equal ones only"

    return caution


add_metric(
    Metric(
        name="pr",
        title="precision and recall",
        version="pr-1",
        needs="rows",
        network="vgg16",
        output="fc2",
        equal_numbers=True,
        scores=(
            Score("precision", "precision", "higher", percent=True),
            Score("recall", "recall", "higher", percent=True),
        ),
        compute=_precision_recall,
        caution=_caution("pr"),
        aliases=("prc",),
        order=40,
    )
)
add_metric(
    Metric(
        name="dc",
        title="density and coverage",
        version="dc-1",
        needs="rows",
        network="vgg16",
        output="fc2",
        equal_numbers=True,
        scores=(Score("density", "density", "higher", 3), Score("coverage", "coverage", "higher", 3)),
        compute=_density_coverage,
        caution=_caution("dc"),
        order=50,
    )
)
