"""Peak signal-to-noise ratio: how far reconstructions are from their originals, pixel by pixel."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

#: Of two images that are the same, in dB: as if one value of a 1024x1024 image differed by one.
MAX_RATIO = 113.1


def peak_signal_noise_ratio(originals: npt.NDArray[np.uint8], others: npt.NDArray[np.uint8]) -> float:
    """Mean over images of ``10 log10(255² / mean squared difference)`` in dB, of uint8 ``[N, 3, H, W]`` each."""
    ratios = []
    for one, other in zip(originals, others, strict=True):
        squared = np.square(one.astype(np.float64) - other).mean()
        ratios.append(MAX_RATIO if squared == 0 else min(MAX_RATIO, 10 * np.log10(255**2 / squared)))
    return float(np.mean(ratios))
