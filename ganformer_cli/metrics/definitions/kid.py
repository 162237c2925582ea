"""Kernel Inception distance; ``metrics.kernel_distance`` has its definition."""

from __future__ import annotations

from ganformer_cli.metrics.metric import Circumstances, Inputs, Metric, Score, add_metric

_SUBSET_SIZE = 1000


def _compute(inputs: Inputs) -> dict[str, float]:
    from ganformer_cli.metrics.kernel_distance import kernel_distance

    value, deviation = kernel_distance(inputs.reals, inputs.fakes, subset_size=_SUBSET_SIZE, seed=inputs.seed)
    return {"kid": value} if deviation is None else {"kid": value, "kid_std": deviation}


def _caution(now: Circumstances) -> str | None:
    fewest = min(now.reals, now.fakes)
    if fewest >= _SUBSET_SIZE:
        return None
    return f"kid of {fewest} images: its subsets are smaller than {_SUBSET_SIZE}, and noisier"


add_metric(
    Metric(
        name="kid",
        title="kernel Inception distance",
        version="kid-1",
        needs="rows",
        network="inception",
        output="pool",
        scores=(Score("kid", "KID", "lower", 5),),
        compute=_compute,
        caution=_caution,
        order=20,
    )
)
