"""Perceptual path lengths; ``metrics.path_length`` has their definition."""

from __future__ import annotations

from typing import Literal

from ganformer_cli.metrics.metric import Circumstances, Inputs, Metric, Score, add_metric


def _caution(now: Circumstances) -> str | None:
    model = now.generator
    if model is None or not model.config.c_dim or model.label_distribution is not None:
        return None
    return (
        f"this model does not say how frequent its labels are: for path lengths each of {model.config.c_dim} classes "
        "is taken to be equally likely"
    )


def _metric(space: Literal["z", "w"], *, end: bool, order: int) -> Metric:
    name = f"ppl_{space}{'end' if end else 'full'}"

    def compute(inputs: Inputs) -> dict[str, float]:
        from ganformer_cli.metrics.path_length import perceptual_path_length

        mean, deviation = perceptual_path_length(
            inputs.fakes,
            inputs.distance,
            space=space,
            end=end,
            pairs=inputs.count,
            seed=inputs.seed,
            group=inputs.group,
            progress=inputs.progress,
        )
        return {name: mean, f"{name}_std": deviation}

    return Metric(
        name=name,
        title=f"perceptual path length, {space}, {'ends' if end else 'full'}",
        version="ppl-1",
        needs="model",
        network="lpips",
        uses_reals=False,
        max_images=50_000,
        scores=(Score(name, f"PPL {space}{' end' * end}", "lower"),),
        compute=compute,
        caution=_caution,
        aliases=("ppl",),
        order=order,
    )


add_metric(_metric("z", end=False, order=70))
add_metric(_metric("w", end=False, order=71))
add_metric(_metric("z", end=True, order=72))
add_metric(_metric("w", end=True, order=73))
