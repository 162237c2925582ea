"""Sliced Wasserstein distance of image patches; ``metrics.sliced_wasserstein`` has its definition."""

from __future__ import annotations

from typing import Any

from ganformer_cli.metrics.metric import Inputs, Metric, Score, add_metric


def _compute(inputs: Inputs) -> dict[str, Any]:
    from ganformer_cli.metrics.sliced_wasserstein import sliced_wasserstein

    levels = sliced_wasserstein(inputs.reals, inputs.fakes, seed=inputs.seed)
    return {"swd": levels.pop("mean"), "swd_levels": levels}


add_metric(
    Metric(
        name="swd",
        title="sliced Wasserstein distance",
        version="swd-1",
        needs="pixels",
        scores=(Score("swd", "SWD", "lower"),),
        compute=_compute,
        equal_numbers=True,
        max_images=8192,  # descriptors take 75 kB of memory an image
        has_floor=True,
        order=90,
    )
)
