"""How real single images look: the realism score, in features of VGG16 or of the images' pixels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ganformer_cli.errors import DataError

NEIGHBOURS = 3
#: Of an image that is a real one the score has no bound; scores end here.
MAX_REALISM = 1e6
#: Side of the images whose pixels are features.
PIXEL_SIDE = 16
_BLOCK = 1024


def realism(reals: Tensor, fakes: Tensor, *, k: int = NEIGHBOURS) -> npt.NDArray[np.float64]:
    """The realism of each fake (Kynkäänniemi et al. 2019, equation 3): 1 or more lies within a ball of the reals.

    A ball lies around each real and reaches to its k-th nearest neighbour. The score is the largest ratio of a ball's
    radius to the fake's distance from its centre; of the balls, the larger half does not count, as it covers what is
    rare among the reals.

    Args:
        reals, fakes: features, floating ``[N, D]`` and ``[M, D]``; N is larger than k.
        k: which neighbour bounds a ball.

    Returns:
        ``[M]``, at most ``MAX_REALISM``.

    Raises:
        DataError: too few reals.
    """
    if len(reals) <= k:
        raise DataError(f"realism needs more than {k} real images, and there are {len(reals)}")
    centre = reals.double().mean(0)
    real, fake = reals.double() - centre, fakes.double() - centre
    # A real is its own nearest neighbour.
    radii = torch.cat([torch.cdist(block, real).kthvalue(k + 1).values for block in real.split(_BLOCK)])
    small = radii <= radii.median()
    scores = [
        (radii[small] / torch.cdist(block, real[small])).nan_to_num(nan=0).amax(1) for block in fake.split(_BLOCK)
    ]
    found: npt.NDArray[np.float64] = torch.cat(scores).clamp(max=MAX_REALISM).numpy()
    return found


def pixel_features(images: Tensor) -> Tensor:
    """The colours of images, averaged to 16x16: uint8 ``[B, 3, H, W]`` to float32 ``[B, 768]``, 0 to 1."""
    return F.adaptive_avg_pool2d(images.float() / 255, PIXEL_SIDE).flatten(1)
