"""What the noise changes: the same latents with other noise (StyleGAN, section 3.2 and figure 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ganformer_cli.sampling import Generator, NoiseMode, sample_latents
from ganformer_cli.sampling.image_files import Images
from ganformer_cli.visualization.palette import heat_colours
from ganformer_cli.visualization.sheets import fit_to_cell, image_table

#: Images of one latent from which the variation is taken.
REPEATS = 16
_SHOWN = 3


class NoiseVariation(NamedTuple):
    """One latent with different noise."""

    without: Images  # no noise, uint8 [3, H, W]
    images: list[Images]  # each with noise of its own
    variation: npt.NDArray[np.float64]  # [H, W], see ``noise_variation``


def noise_variation(generator: Generator, ws: Tensor, repeats: int = REPEATS) -> NoiseVariation:
    """Draw latents ``ws [m+1, L, w]`` without noise, and with ``repeats`` kinds of it.

    The variation is the standard deviation over these, root mean square over the colours, in 8-bit levels.
    """

    def draw(count: int, noise: NoiseMode) -> list[Images]:
        rows = ws.expand(count, *ws.shape)
        return [sample.image for sample in sample_latents(generator, rows, space="w", noise_mode=noise)]

    images = draw(repeats, "random")
    variance = np.stack(images).astype(np.float64).var(0).mean(0)
    return NoiseVariation(draw(1, "none")[0], images, np.sqrt(variance))


def noise_sheet(variations: Sequence[NoiseVariation], names: Sequence[str]) -> Images:
    """A row an image: without noise, with some, and where it varies, on one scale: uint8 ``[3, height, width]``."""
    most = max(float(each.variation.max()) for each in variations)
    rows = []
    for each in variations:
        shown = [each.without, *each.images[:_SHOWN], heat_colours(each.variation, most)]
        rows.append([fit_to_cell(image) for image in shown])
    captions = ["no noise", *(f"noise {k}" for k in range(len(rows[0]) - 2)), f"variation 0-{most:.1f}"]
    return image_table(rows, columns=captions, rows=names)
