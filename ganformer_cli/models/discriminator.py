"""The discriminator: a residual network over the picture (``Discriminator``)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ganformer_cli.config import ModelConfig
from ganformer_cli.models.layers import (
    RESIDUAL_GAIN,
    Conv2d,
    FullyConnected,
    downsample2d,
    minibatch_std,
)
from ganformer_cli.operators import binomial_filter


class DiscriminatorBlock(nn.Module):
    """One resolution: conv0, conv1 (×2 down), and what the architecture adds."""

    def __init__(self, resolution: int, config: ModelConfig) -> None:
        super().__init__()
        self.architecture = config.d_arch
        channels, out_channels = config.channels(resolution), config.channels(resolution // 2)
        self.fromrgb = self.skip = None
        if resolution == config.resolution or self.architecture == "skip":
            self.fromrgb = Conv2d(3, channels, 1, activation="lrelu")
        self.conv0 = Conv2d(channels, channels, 3, activation="lrelu")
        self.conv1 = Conv2d(channels, out_channels, 3, activation="lrelu", down=2)
        if self.architecture == "resnet":
            self.skip = Conv2d(channels, out_channels, 1, bias=False, down=2)
        self.register_buffer("kernel", binomial_filter(), persistent=False)
        self.kernel: Tensor

    def forward(self, x: Tensor | None, image: Tensor) -> tuple[Tensor, Tensor]:
        """Features ``x [B, C, H, W]`` (None at the input) and image ``[B, 3, H, W]`` → half the size."""
        x = add_colours(x, image, self.fromrgb)
        if self.architecture == "skip":
            image = downsample2d(image, self.kernel)
        if self.skip is None:
            return self.conv1(self.conv0(x)), image
        shortcut = self.skip(x, gain=RESIDUAL_GAIN)
        return shortcut + self.conv1(self.conv0(x), gain=RESIDUAL_GAIN), image


class DiscriminatorEpilogue(nn.Module):
    """The 4×4 block: minibatch standard deviation, convolution, fully connected, output."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        resolution = config.block_resolutions[0]
        channels = config.channels(resolution)
        height, width = config.grid(resolution)
        self.group_size = config.mbstd_group_size
        self.fromrgb = Conv2d(3, channels, 1, activation="lrelu") if config.d_arch == "skip" else None
        self.conv = Conv2d(channels + 1, channels, 3, activation="lrelu")
        self.fc = FullyConnected(channels * height * width, channels, activation="lrelu")
        self.out = FullyConnected(channels, max(config.c_dim, 1))

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        """``[B, C, h, w] → [B, max(c_dim, 1)]``."""
        x = add_colours(x, image, self.fromrgb)
        x = self.conv(minibatch_std(x, self.group_size))
        return self.out(self.fc(x.flatten(1)))


class Discriminator(nn.Module):
    """Real or not, one number a picture.

    Args:
        config: everything about the networks.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        for resolution in config.block_resolutions[:0:-1]:
            self.add_module(f"b{resolution}", DiscriminatorBlock(resolution, config))
        self.b4 = DiscriminatorEpilogue(config)

    def forward(self, image: Tensor, c: Tensor | None = None) -> Tensor:
        """Logits.

        Args:
            image: float ``[B, 3, H, W]`` in [-1, 1]; B divisible by ``min(4, B)``.
            c: float32 ``[B, c_dim]``, or None for a model without classes.

        Returns:
            ``[B, 1]``.
        """
        image = pad_centre(image, self.config.grid(self.config.resolution))
        x = None
        for resolution in self.config.block_resolutions[:0:-1]:
            x, image = self.get_submodule(f"b{resolution}")(x, image)
        logits = self.b4(x, image)
        if self.config.c_dim > 0 and c is not None:
            logits = (logits * c).sum(1, keepdim=True)
        return logits


def add_colours(x: Tensor | None, image: Tensor, fromrgb: Conv2d | None) -> Tensor:
    """Features plus the image's, where this block reads the image."""
    if fromrgb is not None:
        colours = fromrgb(image)
        x = colours if x is None else x + colours
    assert x is not None
    return x


def pad_centre(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Grey around ``[B, C, H, W]`` up to ``size`` = (height, width): the counterpart of the generator's crop."""
    rows, columns = size[0] - x.shape[2], size[1] - x.shape[3]
    if rows == 0 and columns == 0:
        return x
    top, left = rows // 2, columns // 2
    return F.pad(x, (left, columns - left, top, rows - top))


def parameter_count(module: nn.Module) -> int:
    """Number of trained numbers in ``module``."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
