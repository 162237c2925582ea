"""Inception score; ``metrics.inception_score`` has its definition."""

from __future__ import annotations

from ganformer_cli.metrics.definitions import FEW_IMAGES
from ganformer_cli.metrics.metric import Circumstances, Inputs, Metric, Score, add_metric


def _compute(inputs: Inputs) -> dict[str, float]:
    from ganformer_cli.metrics.inception_score import inception_score

    mean, deviation = inception_score(inputs.fakes, seed=inputs.seed)
    return {"is": mean, "is_std": deviation}


def _caution(now: Circumstances) -> str | None:
    if now.fakes >= FEW_IMAGES:
        return None
    return f"is of {now.fakes} images is biased downwards; compare scores of the same number only"


add_metric(
    Metric(
        name="is",
        title="Inception score",
        version="is-1",
        needs="rows",
        network="inception",
        output="logits",
        uses_reals=False,
        scores=(Score("is", "IS", "higher"),),
        compute=_compute,
        caution=_caution,
        aliases=("isc",),
        order=30,
    )
)
