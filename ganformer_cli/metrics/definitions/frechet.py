"""Fréchet distances of features: FID on Inception's, and the same on DINOv2's; ``metrics.frechet`` has the formula."""

from __future__ import annotations

from ganformer_cli.metrics.definitions import FEW_IMAGES
from ganformer_cli.metrics.metric import Circumstances, Inputs, Metric, Score, Subject, add_metric


def _metric(
    name: str, title: str, heading: str, network: str, output: str, order: int, of: Subject = "samples"
) -> Metric:
    def compute(inputs: Inputs) -> dict[str, float]:
        from ganformer_cli.metrics.frechet import frechet_distance

        return {name: frechet_distance(inputs.reals, inputs.fakes)}

    def caution(now: Circumstances) -> str | None:
        fewest, numbers = min(now.reals, now.fakes), f"{name} of {now.reals} real and {now.fakes} generated images"
        if fewest <= now.width:
            return (
                f"{numbers}: fewer than the {now.width} numbers of a feature, so that their covariance is "
                "singular; the score is far too high and compares only with scores of the same numbers of images"
            )
        if fewest < FEW_IMAGES:
            return (
                f"{numbers} is biased upwards; quote only those of --eval-images-num 50000, and compare scores of the "
                "same numbers only"
            )
        return None

    return Metric(
        name=name,
        title=title,
        version="fid-1",
        needs="moments",
        network=network,
        output=output,
        of=of,
        scores=(Score(name, heading, "lower"),),
        compute=compute,
        caution=caution,
        order=order,
    )


add_metric(_metric("fid", "Fréchet Inception distance", "FID", "inception", "pool", 10))
add_metric(_metric("rfid", "FID of reconstructions", "rFID", "inception", "pool", 93, "reconstructions"))
add_metric(_metric("fd_dinov2", "Fréchet distance of DINOv2", "FD-DINOv2", "dinov2", "cls", 60))
