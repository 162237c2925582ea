"""Augmentation of what the discriminator sees, as strong as it must be (Karras et al. 2020, "Training Generative
Adversarial Networks with Limited Data").

Real and generated images pass through the same random transformations, each of which happens with probability ``p``:
flips, quarter turns and whole-pixel shifts; scaling, rotation, stretching and shifts; brightness, contrast, inverted
brightness, hue and saturation (appendix B, without its filters and corruptions). As long as p stays clear of 1, the
generator learns the images and not their transformations. ``p`` follows how confidently the discriminator recognises
real images (section 3.1).

Differences from the paper: images are sampled bilinearly, without its wavelet filter, with reflected borders; and R1
is the gradient by what the discriminator sees.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ganformer_cli.config import TrainConfig

#: Steps between two changes of p.
INTERVAL = 4
#: Upper limit of p: beyond it transformations leak into the generator (section 2.2).
MAX_P = 0.85

# Standard deviations and ranges of appendix B.
_SHIFT, _SCALE, _BRIGHTNESS, _CONTRAST, _SATURATION = 0.125, 0.2, 0.2, 0.5, 1.0


class Augmentation:
    """The transformations and their probability.

    Args:
        options: of the training.
        device: of the images.
    """

    def __init__(self, options: TrainConfig, device: torch.device) -> None:
        self.kind, self.target = options.augment, options.augment_target
        self.step = options.batch_size * INTERVAL / (options.augment_kimg * 1000)  # 0 to 1 takes augment_kimg
        self.p = torch.full([], options.augment_p, device=device)
        self.signs = torch.zeros(2, device=device)  # of the discriminator's output since the last change: sum, number

    def __call__(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` in [-1, 1], each transformed in its own way; differentiable."""
        if self.kind == "none":
            return images
        count, _, height, width = images.shape
        maps = geometry(count, self.p, height, width)
        grid = F.affine_grid(maps[:, :2], list(images.shape), align_corners=False)
        images = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
        matrix = colours(count, self.p)
        images = matrix[:, :3, :3] @ images.flatten(2) + matrix[:, :3, 3:]
        return images.unflatten(2, (height, width)).contiguous(memory_format=torch.channels_last)

    def observe(self, signs: Tensor, number: int) -> None:
        """Add sum and number of the signs of the real images' logits in step ``number``; every few steps, adjust p."""
        if self.kind != "ada":
            return
        self.signs += signs
        if (number + 1) % INTERVAL == 0:
            mean_sign = self.signs[0] / self.signs[1]
            self.p = (self.p + (mean_sign - self.target).sign() * self.step).clamp(0, MAX_P)
            self.signs = torch.zeros_like(self.signs)


def geometry(count: int, p: Tensor, height: int, width: int) -> Tensor:
    """Random maps from coordinates in the new image to those in the old one, ``[count, 3, 3]``; both from -1 to 1."""
    device = p.device

    def chance(probability: Tensor = p) -> Tensor:
        return torch.rand(count, device=device) < probability

    def normal(deviation: float) -> Tensor:
        return torch.randn(count, device=device) * deviation

    one, zero = torch.ones(count, device=device), torch.zeros(count, device=device)
    # Pixels from the middle.
    flip = torch.where(chance() & (torch.rand(count, device=device) < 0.5), -one, one)
    matrix = scaling(flip, one)
    turns = torch.randint(4, [count], device=device)
    if height != width:
        turns = turns // 2 * 2  # a quarter turn would not fit
    matrix = matrix @ rotation(torch.where(chance(), turns * (math.pi / 2), zero))
    shifted = chance()
    x, y = (
        torch.where(shifted, ((torch.rand(count, device=device) * 2 - 1) * _SHIFT * size).round(), zero)
        for size in (width, height)
    )
    matrix = matrix @ translation(x, y)
    scale = torch.where(chance(), normal(_SCALE).exp2(), one)
    matrix = matrix @ scaling(scale, scale)
    # Two turns, of which at least one happens with probability p.
    either = 1 - (1 - p).sqrt()
    before, after = (
        rotation(torch.where(chance(either), (torch.rand(count, device=device) * 2 - 1) * math.pi, zero))
        for _ in range(2)
    )
    stretch = torch.where(chance(), normal(_SCALE).exp2(), one)
    matrix = matrix @ before @ scaling(stretch, 1 / stretch) @ after
    shifted = chance()
    x, y = (torch.where(shifted, normal(_SHIFT) * size, zero) for size in (width, height))
    matrix = matrix @ translation(x, y)
    to_pixels = torch.diag(torch.tensor([width / 2, height / 2, 1.0], device=device))
    return to_pixels.inverse() @ matrix @ to_pixels


def colours(count: int, p: Tensor) -> Tensor:
    """Random maps of colours, ``[count, 4, 4]``, for (red, green, blue, 1)."""
    device = p.device
    one, zero = torch.ones(count, device=device), torch.zeros(count, device=device)

    def sometimes(value: Tensor, otherwise: Tensor) -> Tensor:
        return torch.where(torch.rand(count, device=device) < p, value, otherwise)

    def normal(deviation: float) -> Tensor:
        return torch.randn(count, device=device) * deviation

    grey = torch.tensor([1.0, 1.0, 1.0, 0.0], device=device) / math.sqrt(3)
    along = torch.outer(grey, grey)
    unit = torch.eye(4, device=device)
    last = torch.zeros(4, 4, device=device)
    last[3, 3] = 1.0
    light = sometimes(normal(_BRIGHTNESS), zero)
    move = unit.repeat(count, 1, 1)
    move[:, :3, 3] = light[:, None]
    contrast = sometimes(normal(_CONTRAST).exp2(), one)[:, None, None]
    matrix = (contrast * (unit - last) + last) @ move
    inverted = sometimes((torch.rand(count, device=device) < 0.5).float(), zero)[:, None, None]
    matrix = (unit - 2 * along * inverted) @ matrix
    matrix = turn_about(grey[:3], sometimes((torch.rand(count, device=device) * 2 - 1) * math.pi, zero)) @ matrix
    saturation = sometimes(normal(_SATURATION).exp2(), one)[:, None, None]
    return (along + (unit - along - last) * saturation + last) @ matrix


def scaling(x: Tensor, y: Tensor) -> Tensor:
    """``[N] → [N, 3, 3]``."""
    return torch.diag_embed(torch.stack([x, y, torch.ones_like(x)], 1))


def rotation(angle: Tensor) -> Tensor:
    """``[N] → [N, 3, 3]``."""
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], 1).unflatten(1, (3, 3))


def translation(x: Tensor, y: Tensor) -> Tensor:
    """``[N] → [N, 3, 3]``."""
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    return torch.stack([one, zero, x, zero, one, y, zero, zero, one], 1).unflatten(1, (3, 3))


def turn_about(axis: Tensor, angle: Tensor) -> Tensor:
    """Rotation of the first three of four coordinates (Rodrigues): unit ``axis [3]``, ``angle [N] → [N, 4, 4]``."""
    x, y, z = axis
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).unflatten(0, (3, 3))
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    turned = cos * torch.eye(3, device=axis.device) + sin * cross + (1 - cos) * torch.outer(axis, axis)
    matrix = torch.eye(4, device=axis.device).repeat(len(angle), 1, 1)
    matrix[:, :3, :3] = turned
    return matrix
