"""Sliced Wasserstein distance of image patches; ``metrics.sliced_wasserstein`` has its definition."""

from __future__ import annotations

from typing import Any

from ganformer_cli.metrics.metric import Inputs, Metric, Score, Subject, add_metric


def _metric(name: str, title: str, of: Subject, order: int) -> Metric:
    def compute(inputs: Inputs) -> dict[str, Any]:
        from ganformer_cli.metrics.sliced_wasserstein import sliced_wasserstein

        levels = sliced_wasserstein(inputs.reals, inputs.fakes, seed=inputs.seed)
        return {name: levels.pop("mean"), f"{name}_levels": levels}

    return Metric(
        name=name,
        title=title,
        version="swd-1",
        needs="pixels",
        of=of,
        scores=(Score(name, title, "lower"),),
        compute=compute,
        equal_numbers=True,
        max_images=8192,  # descriptors take 75 kB of memory an image
        has_floor=of == "samples",  # images that are reconstructed without loss have distance 0
        order=order,
    )


add_metric(_metric("swd", "SWD", "samples", 90))
add_metric(_metric("rswd", "reconstruction SWD", "reconstructions", 92))
