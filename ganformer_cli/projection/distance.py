"""How far a generated image is from the one to reproduce: LPIPS, or pixels and gradients at several scales."""

from __future__ import annotations

from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ganformer_cli.errors import DownloadError
from ganformer_cli.metrics.features import LearnedDistance, open_distance
from ganformer_cli.metrics.vgg import shrunk_to_lpips

#: ``auto``: LPIPS if its weights are on this machine, otherwise pixels.
DistanceChoice = Literal["auto", "lpips", "pixels"]

_LPIPS_MIN_SIDE = 16
#: The coarsest scale of the pixel distance has at least this many pixels on its shorter side.
_COARSEST = 4


class ImageDistance(Protocol):
    """Distances of images in [-1, 1]."""

    name: str

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        """``[B]``, differentiable by ``images``; both float32 ``[B, 3, H, W]`` in [-1, 1]."""


class PixelDistance:
    """Mean absolute differences of pixels, and of the differences of neighbouring pixels, averaged over scales.

    Each scale has half the resolution of the one before. On a scale of 0 to 1; 0 is the same image.
    """

    name = "pixels"

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        """See ``ImageDistance``."""
        apart = (images - targets) / 2
        total, scales = apart.new_zeros(len(apart)), 0
        while True:
            down, across = apart.diff(dim=2), apart.diff(dim=3)
            total = total + apart.abs().mean((1, 2, 3)) + down.abs().mean((1, 2, 3)) + across.abs().mean((1, 2, 3))
            scales += 1
            if min(apart.shape[2:]) < 2 * _COARSEST:
                return total / scales
            apart = F.avg_pool2d(apart, 2)


class PerceptualDistance:
    """LPIPS on VGG16 (Zhang et al. 2018); images above 256 pixels are averaged down, below 16 enlarged."""

    name = "lpips"

    def __init__(self, network: LearnedDistance) -> None:
        self.network = network

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        """See ``ImageDistance``."""
        one, other = (_resized((each + 1) * 127.5) for each in (images, targets))
        return self.network.differentiable(one, other).float()


def _resized(pixels: Tensor) -> Tensor:
    enlarge = -(-_LPIPS_MIN_SIDE // min(pixels.shape[2:]))
    return shrunk_to_lpips(pixels) if enlarge == 1 else F.interpolate(pixels, scale_factor=enlarge, mode="nearest")


def open_image_distance(choice: DistanceChoice, device: torch.device) -> ImageDistance:
    """The distance; nothing is downloaded.

    Raises:
        DownloadError: ``lpips`` is asked for, and its weights are not there.
        SnapshotError: they are damaged.
    """
    if choice == "pixels":
        return PixelDistance()
    try:
        return PerceptualDistance(open_distance(device=device, offline=True))
    except DownloadError as error:
        if choice == "auto":
            return PixelDistance()
        raise DownloadError(
            f"--distance lpips: {error}; run `ganformer eval --fetch --metrics ppl`, or say --distance pixels"
        ) from error
