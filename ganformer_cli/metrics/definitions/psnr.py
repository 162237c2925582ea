"""Peak signal-to-noise ratio of reconstructions."""

from __future__ import annotations

from ganformer_cli.metrics.metric import Inputs, Metric, Score, add_metric


def _compute(inputs: Inputs) -> dict[str, float]:
    from ganformer_cli.metrics.signal_noise import peak_signal_noise_ratio

    return {"psnr": peak_signal_noise_ratio(inputs.reals, inputs.fakes)}


add_metric(
    Metric(
        name="psnr",
        title="peak signal-to-noise ratio",
        version="psnr-1",
        needs="pixels",
        of="reconstructions",
        scores=(Score("psnr", "PSNR", "higher", explanation="dB of the reconstructions; higher is better"),),
        compute=_compute,
        equal_numbers=True,
        order=94,
    )
)
