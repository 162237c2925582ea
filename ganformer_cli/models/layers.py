"""Layers with equalised learning rate, resampling convolutions, modulated convolution, minibatch statistics.

Images are ``[B, C, H, W]``. A weight is stored as ``N(0, 1) / lrmul`` and used as ``weight · lrmul / √fan_in``
(Karras et al. 2018, section 4.1; Karras et al. 2020, appendix B).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganformer_cli.models.convolution import ConvShape, conv2d, demodulation, modulated_conv2d
from ganformer_cli.models.initialization import normal
from ganformer_cli.operators import bias_act, binomial_filter, upfirdn2d
from ganformer_cli.operators.bias_act import Activation

#: Both branches of a residual block are scaled by this, so that their sum keeps the variance.
RESIDUAL_GAIN = 0.5**0.5

#: Positions from which a pass over the features costs more than convolving each sample by itself.
MIN_POSITIONS_BY_SAMPLE = 128**2


def rms_normalize(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """``x / √(mean(x²) + 1e-8)``, the mean taken over ``dims``."""
    return x * (x.square().mean(dims, keepdim=True) + 1e-8).rsqrt()


class EffectiveWeights(NamedTuple):
    """Weight and bias of a layer as they act, times their gains."""

    weight: Tensor
    bias: Tensor | None
    cast: Tensor | None = None  # the weight once more, in the precision of the features


class EqualizedLayer(nn.Module):
    """A layer whose weight and bias are multiplied by constant gains where they act."""

    weight: nn.Parameter
    bias: nn.Parameter | None
    weight_gain: float
    bias_gain: float = 1.0
    #: In training: made once for all passes of an update (``prepared.py``). None: they are made where they are used.
    prepared: EffectiveWeights | None = None

    def scaled_weight(self) -> Tensor:
        """The weight as it acts."""
        return self.weight * self.weight_gain if self.prepared is None else self.prepared.weight

    def scaled_bias(self) -> Tensor:
        """The bias as it acts, ``[out]``; zeros where there is none."""
        bias = self.effective_bias()
        return self.weight.new_zeros(len(self.weight)) if bias is None else bias

    def effective_bias(self) -> Tensor | None:
        """The bias as it acts, ``[out]``, or None."""
        if self.prepared is not None:
            return self.prepared.bias
        return self.bias if self.bias is None or self.bias_gain == 1 else self.bias * self.bias_gain

    def cast_weight(self, x: Tensor) -> Tensor | None:
        """The weight as it acts, in the precision of the features ``x``, where that is prepared."""
        cast = None if self.prepared is None else self.prepared.cast
        return None if cast is None or cast.dtype != x.dtype else cast


class FullyConnected(EqualizedLayer):
    """``act(x Wᵀ + b)`` with equalised learning rate.

    Args:
        in_features: width of the input.
        out_features: width of the output.
        bias: whether there is one.
        activation: ``linear`` or ``lrelu`` (then multiplied by √2).
        lrmul: learning-rate multiplier of weight and bias.
        bias_init: initial bias as it acts, stored as it is (not divided by ``lrmul``).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        activation: Activation = "linear",
        lrmul: float = 1.0,
        bias_init: float = 0.0,
    ) -> None:
        super().__init__()
        self.activation: Activation = activation
        self.weight = nn.Parameter(normal(out_features, in_features, divisor=lrmul))
        self.bias = nn.Parameter(torch.full([out_features], float(bias_init))) if bias else None
        self.weight_gain = lrmul / in_features**0.5
        self.bias_gain = lrmul

    def forward(self, x: Tensor) -> Tensor:
        """``[..., in] → [..., out]``."""
        x = F.linear(x, self.scaled_weight(), self.effective_bias())
        return x if self.activation == "linear" else bias_act(x, activation=self.activation)


def resampling_conv(
    x: Tensor, weight: Tensor, kernel: Tensor, *, up: int = 1, down: int = 1, cast: Tensor | None = None
) -> Tensor:
    """Convolution with "same" padding, combined with ×2 up- or down-sampling.

    Args:
        x: ``[B, I, H, W]``.
        weight: ``[O, I, k, k]`` in correlation order, k = 1 or 3; or one for each sample, ``[B, O, I, k, k]``, then in
            the dtype of ``x``.
        kernel: the resampling filter ``[4]``, of both axes.
        up: 1 or 2.
        down: 1 or 2.
        cast: ``weight [O, I, k, k]`` in the dtype of ``x``, or None.

    Returns:
        ``[B, O, H·up/down, W·up/down]``.
    """
    size = weight.shape[-1]
    if up == 2 and size == 3:
        turned = None if cast is None else cast.transpose(0, 1)
        x = conv2d(x, weight.transpose(-4, -3), stride=2, transposed=True, cast=turned)
        return upfirdn2d(x, kernel, padding=(1, 1), gain=4)
    if up == 2:
        return upfirdn2d(conv2d(x, weight, cast=cast), kernel, up=2, padding=(2, 1), gain=4)
    if down == 2 and size == 3:
        return conv2d(upfirdn2d(x, kernel, padding=(2, 2)), weight, stride=2, cast=cast)
    if down == 2:
        return conv2d(upfirdn2d(x, kernel, down=2, padding=(1, 1)), weight, cast=cast)
    return conv2d(x, weight, padding=size // 2, cast=cast)


def upsample2d(x: Tensor, kernel: Tensor) -> Tensor:
    """×2 up-sampling of an image ``[B, C, H, W]`` with the resampling filter."""
    return upfirdn2d(x, kernel, up=2, padding=(2, 1), gain=4)


def downsample2d(x: Tensor, kernel: Tensor) -> Tensor:
    """×2 down-sampling of an image ``[B, C, H, W]`` with the resampling filter."""
    return upfirdn2d(x, kernel, down=2, padding=(1, 1))


class Conv2d(EqualizedLayer):
    """Convolution, resampling, bias and activation.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: 1 or 3.
        bias: whether there is one.
        activation: ``linear`` or ``lrelu``.
        up: 1 or 2.
        down: 1 or 2.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        bias: bool = True,
        activation: Activation = "linear",
        up: int = 1,
        down: int = 1,
    ) -> None:
        super().__init__()
        self.up, self.down = up, down
        self.activation: Activation = activation
        self.clamp: float | None = None  # of the result, times its gain
        self.weight = nn.Parameter(normal(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.weight_gain = (in_channels * kernel_size**2) ** -0.5
        self.register_buffer("kernel", binomial_filter(), persistent=False)
        self.kernel: Tensor

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        """``[B, in, H, W] → [B, out, H', W']``; ``gain`` multiplies the result."""
        weight, cast = self.scaled_weight(), self.cast_weight(x)
        if gain != 1 and self.bias is None and self.activation == "linear":
            # A linear layer's gain costs nothing on the weight, and a pass over the image behind it.
            weight, cast, gain = weight * gain, None, 1.0
        x = resampling_conv(x, weight, self.kernel, up=self.up, down=self.down, cast=cast)
        clamp = None if self.clamp is None else self.clamp * gain
        return bias_act(x, self.bias, activation=self.activation, gain=gain, clamp=clamp)


class ModulatedConv2d(EqualizedLayer):
    """Convolution whose input channels are scaled by a style (StyleGAN2, equations 1 and 3).

    The same function in two forms, chosen by size: the features scaled before the convolution and demodulated after it,
    or a weight for each sample, which makes no extra pass over the features. ``by_sample`` False rules out the second,
    which loops over the batch.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: 1 or 3.
        style_size: width of the style's source, or None for a plain convolution.
        up: 1 or 2.
        demodulate: whether output channels are brought to unit variance.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        style_size: int | None,
        up: int = 1,
        demodulate: bool = True,
    ) -> None:
        super().__init__()
        self.up = up
        self.demodulate = demodulate
        self.by_sample = True
        self.weight = nn.Parameter(normal(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = None
        self.weight_gain = (in_channels * kernel_size**2) ** -0.5
        self.affine = None if style_size is None else FullyConnected(style_size, in_channels, bias_init=1)
        self.register_buffer("kernel", binomial_filter(), persistent=False)
        self.kernel: Tensor

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """``x [B, in, H, W]``, style source ``w [B, style_size] → [B, out, H·up, W·up]``."""
        cast = self.cast_weight(x)
        if self.affine is None:
            return resampling_conv(x, self.scaled_weight(), self.kernel, up=self.up, cast=cast)
        style = self.affine(w)
        if x.dtype is torch.float16 and self.demodulate:
            # Demodulation takes the style's size out again; a large one would leave float16's range before.
            style = style / style.abs().amax(1, keepdim=True).clamp_min(1e-8)
        weight = self.weight if self.prepared is None else self.prepared.weight
        if self.prepared is None:
            style = style * self.weight_gain  # which is smaller than the weight
        if weight.shape[-1] == 1 and not self.demodulate and self.up == 1:
            return conv2d(x * style.to(x.dtype)[:, :, None, None], weight)
        if self.modulates_weights(x) or (weight.shape[-1] == 1 and self.up == 2):
            by_sample = weight * style[:, None, :, None, None]
            if self.demodulate:
                by_sample = by_sample * demodulation(weight, style)[:, :, None, None, None]
            return resampling_conv(x, by_sample.to(x.dtype), self.kernel, up=self.up)
        if self.up == 1:
            padding = weight.shape[-1] // 2
            return modulated_conv2d(x, weight, style, ConvShape(1, padding), demodulate=self.demodulate, cast=cast)
        turned = None if cast is None else cast.transpose(0, 1)
        shape = ConvShape(2, transposed=True)
        x = modulated_conv2d(x, weight.transpose(0, 1), style, shape, demodulate=self.demodulate, cast=turned)
        return upfirdn2d(x, self.kernel, padding=(1, 1), gain=4)

    def modulates_weights(self, x: Tensor) -> bool:
        """Whether to make a weight for each sample: on large images that costs less than passes over the features."""
        rows = self.weight.shape[0] * self.weight.shape[2] * self.weight.shape[3]
        return self.by_sample and x.shape[2] * x.shape[3] * self.up**2 >= max(2 * rows, MIN_POSITIONS_BY_SAMPLE)


def minibatch_std(x: Tensor, group_size: int = 4) -> Tensor:
    """Append the mean standard deviation within groups of images as one more channel (Karras et al. 2018, 3).

    Args:
        x: ``[B, C, H, W]``; B divisible by ``min(group_size, B)``. Image i is in group ``i mod (B / G)``.

    Returns:
        ``[B, C + 1, H, W]``.
    """
    batch, _, height, width = x.shape
    group = min(group_size, batch)
    grouped = x.unflatten(0, (group, batch // group))
    # Not var(): it goes through its one axis number by number, ten times as slowly.
    deviation = ((grouped - grouped.mean(0)).square().mean(0) + 1e-8).sqrt()
    channel = deviation.mean((1, 2, 3)).repeat(group)
    return torch.cat([x, channel[:, None, None, None].expand(batch, 1, height, width)], dim=1)
