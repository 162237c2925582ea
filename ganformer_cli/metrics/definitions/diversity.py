"""Diversity of the samples relative to that of the data; ``metrics.diversity`` has its definition."""

from __future__ import annotations

from ganformer_cli.metrics.metric import Inputs, Metric, Score, add_metric


def _compute(inputs: Inputs) -> dict[str, float]:
    from ganformer_cli.metrics.diversity import diversity_ratio

    return {"diversity": diversity_ratio(inputs.fakes, inputs.reals)}


add_metric(
    Metric(
        name="diversity",
        title="diversity",
        version="diversity-1",
        needs="pixels",
        scores=(Score("diversity", "diversity", "one", 3, explanation="1 is as varied as the data, 0 is one image"),),
        compute=_compute,
        equal_numbers=True,
        max_images=1024,  # time grows with the square; so many fix the mean to about a percent
        order=91,
    )
)
