"""The discriminator: a residual network over the image (``Discriminator``)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ganformer_cli.config import ModelConfig
from ganformer_cli.models.attention import AttentionOptions, AttentionSizes, DuplexAttention
from ganformer_cli.models.initialization import normal
from ganformer_cli.models.layers import (
    RESIDUAL_GAIN,
    Conv2d,
    FullyConnected,
    downsample2d,
    minibatch_std,
)
from ganformer_cli.models.positions import ImagePositions, initial_positions
from ganformer_cli.operators import binomial_filter


class AggregatorAttention(nn.Module):
    """The trained aggregators gather from the image; with ``d_ltnt2img`` they also change it.

    Both are what the generator's duplex layer does, without and with its second half.
    """

    def __init__(self, channels: int, resolution: int, config: ModelConfig) -> None:
        super().__init__()
        size = config.component_size
        self.changes_image = config.d_ltnt2img
        options = AttentionOptions.from_config(
            config, updates_image=config.d_ltnt2img, image_gate=False, latent_gate=False
        )
        sizes = AttentionSizes(channels, size, config.position_size, size, config.components_num)
        self.attention = DuplexAttention(sizes, options)
        self.image_positions = ImagePositions(config.grid(resolution), config) if config.image_positions else None

    def forward(self, x: Tensor, y: Tensor, component_positions: Tensor | None) -> tuple[Tensor, Tensor]:
        """``x [B, C, H, W]``, ``y [B, m, w]``, ``component_positions [m, w]`` → new ``x`` and ``y``."""
        positions = None if self.image_positions is None else self.image_positions()
        pixels = x.flatten(2)
        if not self.changes_image:
            return x, self.attention.update_components(pixels, y, positions, component_positions)
        result = self.attention(pixels, y, positions, component_positions)
        return result.x.unflatten(2, x.shape[2:]), result.y


class Aggregators(nn.Module):
    """m trained vectors that gather from the image at each resolution and are scored at the end (section 3.3).

    Args:
        config: of the whole model.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        components, size = config.components_num, config.component_size
        self.group_size = config.mbstd_group_size
        self.start = nn.Parameter(normal(components, size))
        self.pos = None
        if config.use_pos:
            self.pos = nn.Parameter(initial_positions(components, size, init=config.pos_init))
        for resolution in config.d_attention_resolutions:
            channels = config.channels(resolution)
            self.add_module(f"b{resolution}", AggregatorAttention(channels, resolution, config))
        self.fc = FullyConnected(size + 1, size, activation="lrelu")
        self.out = FullyConnected(size, 1)

    def attend(self, resolution: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The attention of one block, if it has one: ``x [B, C, H, W]`` and ``y [B, m, w]``."""
        layer = self._modules.get(f"b{resolution}")
        if layer is None:
            return x, y
        new: tuple[Tensor, Tensor] = layer(x, y, self.pos)
        return new

    def scores(self, y: Tensor) -> Tensor:
        """One number from each aggregator: ``[B, m, w] → [B, m]``."""
        y = minibatch_std(y.transpose(1, 2)[..., None], self.group_size)[..., 0].transpose(1, 2)
        return self.out(self.fc(y))[..., 0]


class DiscriminatorBlock(nn.Module):
    """One resolution: conv0, conv1 (×2 down), and what the architecture adds."""

    def __init__(self, resolution: int, config: ModelConfig) -> None:
        super().__init__()
        self.dtype: torch.dtype | None = None  # of the features; None: that of the image
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

    def forward(self, x: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """Features ``x [B, C, H, W]`` and image ``[B, 3, H, W]`` → half the size."""
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
        self.dtype: torch.dtype | None = None
        resolution = config.block_resolutions[0]
        channels = config.channels(resolution)
        height, width = config.grid(resolution)
        self.group_size = config.mbstd_group_size
        self.fromrgb = Conv2d(3, channels, 1, activation="lrelu") if config.d_arch == "skip" else None
        self.conv = Conv2d(channels + 1, channels, 3, activation="lrelu")
        self.fc = FullyConnected(channels * height * width, channels, activation="lrelu")
        scores = config.components_num if config.d_transformer else 0
        self.out = FullyConnected(channels + scores, max(config.c_dim, 1))

    def forward(self, x: Tensor, scores: Tensor | None) -> Tensor:
        """``[B, C, h, w]``, and the aggregators' ``[B, m]`` or None → ``[B, max(c_dim, 1)]``."""
        x = self.conv(minibatch_std(x, self.group_size))
        x = self.fc(x.flatten(1))
        return self.out(x if scores is None else torch.cat([x, scores], dim=1))


class Discriminator(nn.Module):
    """Real or generated: one logit for each image.

    Args:
        config: everything about the networks.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        #: In training: compute each block's features again in the backward pass, and do not keep them.
        self.checkpointing = False
        for resolution in config.block_resolutions[:0:-1]:
            self.add_module(f"b{resolution}", DiscriminatorBlock(resolution, config))
        self.b4 = DiscriminatorEpilogue(config)
        self.aggregators = Aggregators(config) if config.d_transformer else None

    def freeze(self, count: int) -> None:
        """Exclude the ``count`` blocks of the highest resolutions from training (FreezeD: Mo et al., 2020)."""
        for resolution in self.config.block_resolutions[::-1][:count]:
            self.get_submodule(f"b{resolution}").requires_grad_(False)
            if self.aggregators is not None and hasattr(self.aggregators, f"b{resolution}"):
                self.aggregators.get_submodule(f"b{resolution}").requires_grad_(False)

    def forward(self, image: Tensor, c: Tensor | None = None) -> Tensor:
        """Logits.

        Args:
            image: float ``[B, 3, H, W]`` in [-1, 1]; B divisible by ``min(4, B)``.
            c: float32 ``[B, c_dim]``, or None for a model without classes.

        Returns:
            ``[B, 1]``.
        """
        image = pad_centre(image, self.config.grid(self.config.resolution))
        image = image.contiguous(memory_format=torch.channels_last)
        x = scores = y = None
        if self.aggregators is not None:
            y = self.aggregators.start.expand(len(image), -1, -1)
        for resolution in reversed(self.config.block_resolutions):
            block = self.get_submodule(f"b{resolution}")
            x = add_colours(x, image, block.fromrgb, block.dtype or image.dtype)  # type: ignore[arg-type]
            if self.aggregators is not None and y is not None:
                x, y = self.aggregators.attend(resolution, x, y)
            if block is self.b4:
                break
            if self.checkpointing and torch.is_grad_enabled():
                x, image = checkpoint(block, x, image, use_reentrant=False)
            else:
                x, image = block(x, image)
        if self.aggregators is not None and y is not None:
            scores = self.aggregators.scores(y)
        assert x is not None
        logits = self.b4(x, scores)
        if self.config.c_dim > 0 and c is not None:
            logits = (logits * c).sum(1, keepdim=True)
        return logits


def add_colours(x: Tensor | None, image: Tensor, fromrgb: Conv2d | None, dtype: torch.dtype) -> Tensor:
    """Features in ``dtype``, plus the image's, where this block reads the image."""
    if x is not None:
        x = x.to(dtype)
    if fromrgb is not None:
        colours = fromrgb(image.to(dtype))
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
