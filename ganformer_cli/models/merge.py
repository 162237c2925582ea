"""k-GAN: images made independently and merged into one (van Steenkiste et al. 2020)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ganformer_cli.models.layers import Conv2d


class Merge(nn.Module):
    """Composes m images, or their features, into one.

    ``softmax`` weights them with the softmax of learned scores, a 1×1 convolution of each one's features; ``leaves``
    lays them over each other, the first on top, with the sigmoid of those scores as opacity and the last one opaque;
    ``sum`` and ``max`` need no scores.

    Args:
        channels: of the features.
        components: m.
        kind: one of these four.
    """

    def __init__(self, channels: int, components: int, kind: str) -> None:
        super().__init__()
        self.components, self.kind = components, kind
        self.score = None
        if kind in ("softmax", "leaves"):
            # A bias would add one number to a whole softmax.
            self.score = Conv2d(channels, 1, 1, bias=kind == "leaves")

    def forward(self, x: Tensor, image: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Features and image of all components to those of one image.

        Args:
            x: ``[B·m, C, H, W]``.
            image: ``[B·m, 3, H, W]``, or None where there is none yet.

        Returns:
            ``[B, C, H, W]``, ``[B, 3, H, W]`` or None, and the weights ``[B, m, H, W]``, which sum to 1, or None.
        """
        weights = None if self.score is None else self.weights(self.score(x)[:, 0].unflatten(0, (-1, self.components)))
        return self.compose(x, weights), None if image is None else self.compose(image, weights), weights

    def weights(self, scores: Tensor) -> Tensor:
        """``[B, m, H, W] → [B, m, H, W]``."""
        if self.kind == "softmax":
            return scores.softmax(1)
        opacity = torch.cat([scores[:, :-1].sigmoid(), torch.ones_like(scores[:, -1:])], dim=1)
        through = torch.cat([torch.ones_like(scores[:, :1]), (1 - opacity[:, :-1]).cumprod(1)], dim=1)
        return opacity * through

    def compose(self, images: Tensor, weights: Tensor | None) -> Tensor:
        """``[B·m, C, H, W] → [B, C, H, W]``."""
        images = images.unflatten(0, (-1, self.components))
        if weights is not None:
            return (images * weights[:, :, None]).sum(1)
        return images.sum(1) if self.kind == "sum" else images.amax(1)
