"""The mapping network: from normal latents ``z`` to the latents ``w`` that the synthesis network reads."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganformer_cli.models.attention import AttentionOptions, AttentionSizes, SimplexAttention
from ganformer_cli.models.layers import FullyConnected, rms_normalize
from ganformer_cli.operators.bias_act import LRELU_SLOPE

#: Decay of the running mean of w, per training batch.
W_AVG_DECAY = 0.995

#: Learning-rate multiplier of the mapping layers (StyleGAN, appendix C).
MAPPING_LRMUL = 0.01


class ResidualBlock(nn.Module):
    """Two fully-connected layers around a shortcut; the last activation has no gain.

    Where the width changes (labels beside the latent, ``mapping_dim``) the shortcut is a linear layer.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.shortcut = None
        if in_features != out_features:
            self.shortcut = FullyConnected(in_features, out_features, bias=False, lrmul=MAPPING_LRMUL)
        self.fc0 = FullyConnected(in_features, out_features, activation="lrelu", lrmul=MAPPING_LRMUL)
        self.fc1 = FullyConnected(out_features, out_features, lrmul=MAPPING_LRMUL)

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        """``x`` and ``shortcut``: ``[..., in] → [..., out]``."""
        if self.shortcut is not None:
            shortcut = self.shortcut(shortcut)
        return F.leaky_relu(self.fc1(self.fc0(x)) + shortcut, LRELU_SLOPE)


class MLP(nn.Module):
    """Fully-connected layers or residual blocks, then one output layer.

    Args:
        in_features: width of the input.
        out_features: width w of the output, and of the components' positions.
        depth: number of hidden layers; two make one residual block, an odd one left over makes one of its own.
        hidden: width of the hidden layers.
        resnet: residual blocks instead of plain layers.
        attention: options of the components' self-attention before each block or layer, or None.
        components: m, needed with ``attention``.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        depth: int,
        hidden: int,
        resnet: bool,
        attention: AttentionOptions | None = None,
        components: int = 0,
    ) -> None:
        super().__init__()
        self.resnet = resnet
        self.steps = math.ceil(depth / 2) if resnet else depth
        self.attends = attention is not None
        width = in_features
        for i in range(self.steps):
            if attention is not None:
                sizes = AttentionSizes(width, width, out_features, out_features, components)
                self.add_module(f"sa{i}", SimplexAttention(sizes, attention))
            self.add_module(
                f"l{i}",
                ResidualBlock(width, hidden)
                if resnet
                else FullyConnected(width, hidden, activation="lrelu", lrmul=MAPPING_LRMUL),
            )
            width = hidden
        self.out_layer = FullyConnected(width, out_features, activation="lrelu", lrmul=MAPPING_LRMUL)

    def forward(self, x: Tensor, positions: Tensor | None = None, *, attend: bool = True) -> Tensor:
        """``x [B, m, w]``, with self-attention of the components if this network has it; or ``[B, w]``.

        Args:
            x: the latents.
            positions: the components' embeddings ``[m, w]``.
            attend: False for latents that are mapped one by one.
        """
        for i in range(self.steps):
            shortcut = x
            if self.attends and attend:
                attention = self.get_submodule(f"sa{i}")
                x = attention(x.transpose(1, 2), x, positions, positions).x.transpose(1, 2)
            layer = self.get_submodule(f"l{i}")
            x = layer(x, shortcut) if self.resnet else layer(x)
        return self.out_layer(x)


class MappingNetwork(nn.Module):
    """``z [B, m+1, w] → w [B, m+1, w]``; the last latent is the global one (without components: the only one).

    Args:
        component_size: w.
        components: m, or 0.
        c_dim: number of classes, or 0.
        depth: hidden layers of either MLP.
        hidden: width of the hidden layers.
        resnet: residual blocks instead of plain layers.
        self_attention: options of the components' self-attention, or None.
        shared: one MLP for the components and the global latent, which attends to nothing in it.
        use_global: whether anything reads the global latent; otherwise it is only normalised.
        normalize_each: normalise each component by itself and the global latent not at all (TensorFlow's networks).
        mean_per_component: keep a running mean of w for every component, or one for all (the released networks).
    """

    def __init__(
        self,
        component_size: int,
        components: int,
        *,
        c_dim: int,
        depth: int,
        hidden: int,
        resnet: bool,
        shared: bool,
        self_attention: AttentionOptions | None,
        use_global: bool,
        normalize_each: bool,
        mean_per_component: bool,
    ) -> None:
        super().__init__()
        self.components = components
        self.normalize_each = normalize_each
        global_size = component_size
        self.embed = None
        if c_dim > 0:
            self.embed = FullyConnected(c_dim, component_size)
            global_size += component_size
        self.global_mlp = None
        self.shared = shared
        if use_global and not shared:
            self.global_mlp = MLP(global_size, component_size, depth=depth, hidden=hidden, resnet=resnet)
        self.mlp = None
        if components > 0:
            self.mlp = MLP(
                component_size,
                component_size,
                depth=depth,
                hidden=hidden,
                resnet=resnet,
                attention=self_attention,
                components=components,
            )
        shape = (components + 1, component_size) if mean_per_component else (component_size,)
        self.register_buffer("w_avg", torch.zeros(shape))
        self.w_avg: Tensor

    def forward(self, z: Tensor, c: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
        """``z [B, m+1, w]``, ``c [B, c_dim]``, ``positions [m, w]`` → ``[B, m+1, w]``."""
        style = z[:, -1] if self.normalize_each and self.components > 0 else rms_normalize(z[:, -1], (1,))
        if self.embed is not None and c is not None:
            style = torch.cat([style, rms_normalize(self.embed(c), (1,))], dim=1)
        if self.global_mlp is not None:
            style = self.global_mlp(style)
        elif self.shared and self.mlp is not None:
            style = self.mlp(style, attend=False)
        w = style[:, None]
        if self.mlp is not None:
            # The components are normalised together, over their m·w numbers.
            components = self.mlp(rms_normalize(z[:, :-1], (2,) if self.normalize_each else (1, 2)), positions)
            w = torch.cat([components, w], dim=1)
        return w

    @torch.no_grad()
    def mean_of(self, w: Tensor) -> Tensor:
        """The mean of ``w [B, m+1, w]`` over the batch, and over the latents, if they share one: as ``w_avg`` is."""
        mean = w.detach().mean(0)
        if mean.shape != self.w_avg.shape:
            mean = mean.mean(0)
        return mean.expand_as(self.w_avg)

    def update_mean(self, mean: Tensor) -> None:
        """Move the running mean towards that of a batch."""
        self.w_avg.lerp_(mean, 1 - W_AVG_DECAY)

    def truncate(self, w: Tensor, psi: float | Tensor) -> Tensor:
        """``w_avg + psi·(w − w_avg)`` (StyleGAN, appendix B)."""
        return torch.lerp(self.w_avg.expand_as(w), w, psi)
