"""Layers with equalised learning rate, resampling convolutions, modulated convolution, minibatch statistics.

Images are ``[B, C, H, W]``. A weight is stored as ``N(0, 1) / lrmul`` and used as ``weight · lrmul / √fan_in``
(Karras et al. 2018, section 4.1; Karras et al. 2020, appendix B).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganformer_cli.models.convolution import conv2d
from ganformer_cli.operators import bias_act, binomial_filter, upfirdn2d
from ganformer_cli.operators.bias_act import Activation

#: Both branches of a residual block are scaled by this, so that their sum keeps the variance.
RESIDUAL_GAIN = 0.5**0.5


def rms_normalize(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """``x / √(mean(x²) + 1e-8)``, the mean taken over ``dims``."""
    return x * (x.square().mean(dims, keepdim=True) + 1e-8).rsqrt()


class FullyConnected(nn.Module):
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
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lrmul)
        self.bias = nn.Parameter(torch.full([out_features], float(bias_init))) if bias else None
        self.weight_gain = lrmul / in_features**0.5
        self.bias_gain = lrmul

    def scaled_weight(self) -> Tensor:
        """The weight as it acts, ``[out, in]``."""
        return self.weight * self.weight_gain

    def scaled_bias(self) -> Tensor:
        """The bias as it acts, ``[out]``; zeros where there is none."""
        return self.weight.new_zeros(len(self.weight)) if self.bias is None else self.bias * self.bias_gain

    def forward(self, x: Tensor) -> Tensor:
        """``[..., in] → [..., out]``."""
        bias = None if self.bias is None else self.scaled_bias()
        return bias_act(F.linear(x, self.scaled_weight(), bias), activation=self.activation)


def resampling_conv(x: Tensor, weight: Tensor, kernel: Tensor, *, up: int = 1, down: int = 1) -> Tensor:
    """Convolution with "same" padding, combined with ×2 up- or down-sampling.

    Args:
        x: ``[B, I, H, W]``.
        weight: ``[O, I, k, k]`` in correlation order, k = 1 or 3; or one for each sample, ``[B, O, I, k, k]``. It is
            brought to the dtype of ``x``.
        kernel: the resampling filter ``[4]``, of both axes.
        up: 1 or 2.
        down: 1 or 2.

    Returns:
        ``[B, O, H·up/down, W·up/down]``.
    """
    size = weight.shape[-1]
    weight = weight.to(x.dtype)
    if up == 2 and size == 3:
        x = conv2d(x, weight.transpose(-4, -3), stride=2, transposed=True)
        return upfirdn2d(x, kernel, padding=(1, 1), gain=4)
    if up == 2:
        return upfirdn2d(conv2d(x, weight), kernel, up=2, padding=(2, 1), gain=4)
    if down == 2 and size == 3:
        return conv2d(upfirdn2d(x, kernel, padding=(2, 2)), weight, stride=2)
    if down == 2:
        return conv2d(upfirdn2d(x, kernel, down=2, padding=(1, 1)), weight)
    return conv2d(x, weight, padding=size // 2)


def upsample2d(x: Tensor, kernel: Tensor) -> Tensor:
    """×2 up-sampling of an image ``[B, C, H, W]`` with the resampling filter."""
    return upfirdn2d(x, kernel, up=2, padding=(2, 1), gain=4)


def downsample2d(x: Tensor, kernel: Tensor) -> Tensor:
    """×2 down-sampling of an image ``[B, C, H, W]`` with the resampling filter."""
    return upfirdn2d(x, kernel, down=2, padding=(1, 1))


class Conv2d(nn.Module):
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
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.weight_gain = (in_channels * kernel_size**2) ** -0.5
        self.register_buffer("kernel", binomial_filter(), persistent=False)
        self.kernel: Tensor

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        """``[B, in, H, W] → [B, out, H', W']``; ``gain`` multiplies the result."""
        weight_gain = self.weight_gain
        if self.bias is None and self.activation == "linear":
            # A linear layer's gain costs nothing on the weight, and a pass over the image behind it.
            weight_gain, gain = weight_gain * gain, 1.0
        x = resampling_conv(x, self.weight * weight_gain, self.kernel, up=self.up, down=self.down)
        clamp = None if self.clamp is None else self.clamp * gain
        return bias_act(x, self.bias, activation=self.activation, gain=gain, clamp=clamp)


class ModulatedConv2d(nn.Module):
    """Convolution whose input channels are scaled by a style (StyleGAN2, equations 1 and 3).

    Two forms of one function, by size: a weight for each sample, or the activations scaled before, and by the
    demodulation behind. The first leaves the image features alone, the second the weights.

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
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.weight_gain = (in_channels * kernel_size**2) ** -0.5
        self.affine = None if style_size is None else FullyConnected(style_size, in_channels, bias_init=1)
        self.register_buffer("kernel", binomial_filter(), persistent=False)
        self.kernel: Tensor

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """``x [B, in, H, W]``, style source ``w [B, style_size] → [B, out, H·up, W·up]``."""
        if self.affine is None:
            return resampling_conv(x, self.weight * self.weight_gain, self.kernel, up=self.up)
        # The gain goes with the style, which is smaller than the weight.
        style = self.affine(w)
        if x.dtype is torch.float16 and self.demodulate:
            # Demodulation takes the style's size out again; a large one would leave float16's range before.
            style = style / style.abs().amax(1, keepdim=True).clamp_min(1e-8)
        style = style * self.weight_gain
        if self.modulates_weights(x):
            weight = self.weight * style[:, None, :, None, None]
            if self.demodulate:
                weight = weight * (weight.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
            return resampling_conv(x, weight, self.kernel, up=self.up)
        x = resampling_conv(x * style.to(x.dtype)[:, :, None, None], self.weight, self.kernel, up=self.up)
        if self.demodulate:
            energy = self.weight.square().sum((2, 3))
            x = x * (style.square() @ energy.t() + 1e-8).rsqrt().to(x.dtype)[:, :, None, None]
        return x

    def modulates_weights(self, x: Tensor) -> bool:
        """Whether a weight for each sample is smaller than the image features, with room for what it costs more."""
        rows = self.weight.shape[0] * self.weight.shape[2] * self.weight.shape[3]
        return x.shape[2] * x.shape[3] * self.up**2 >= 2 * rows


def minibatch_std(x: Tensor, group_size: int = 4) -> Tensor:
    """Append the mean standard deviation within groups of pictures as one more channel (Karras et al. 2018, 3).

    Args:
        x: ``[B, C, H, W]``; B divisible by ``min(group_size, B)``. Picture i is in group ``i mod (B / G)``.

    Returns:
        ``[B, C + 1, H, W]``.
    """
    batch, _, height, width = x.shape
    group = min(group_size, batch)
    deviation = (x.unflatten(0, (group, batch // group)).var(0, unbiased=False) + 1e-8).sqrt()
    channel = deviation.mean((1, 2, 3)).repeat(group)
    return torch.cat([x, channel[:, None, None, None].expand(batch, 1, height, width)], dim=1)
