"""DINOv2's ViT-L/14 (Oquab et al. 2023), whose features rank generators more as people do (Stein et al. 2023).

A vision transformer: patches of 14x14 pixels become 256 tokens, one token for the whole image goes before them, and
24 blocks of attention and a two-layer network, each scaled by a learned vector, are added one after the other. The
image's own token, normalised, is the feature.

Positions were trained at 37x37 patches and are interpolated (bicubic) to 16x16. As DINOv2 does that, each side is
scaled by (16 + 0.1) / 37: the tenth once guarded against rounding, and the published features are with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganformer_cli.metrics.vgg import normalised
from ganformer_cli.metrics.weights import Shape, filled, shapes_of

_SIDE, _PATCH = 224, 14
_TRAINED = 37  # patches on a side
_SURPLUS = 0.1
_EPSILON = 1e-6


class VitSizes(NamedTuple):
    """Of a vision transformer."""

    width: int = 1024
    blocks: int = 24
    heads: int = 16


class DinoV2(nn.Module):
    """Images to features.

    Args:
        tensors: parameters by DINOv2's names, of the shapes of ``shapes``.
    """

    side = _SIDE
    outputs = {"cls": VitSizes().width}

    def __init__(self, tensors: Mapping[str, Tensor], sizes: VitSizes | None = None) -> None:
        super().__init__()
        self.layers = filled(lambda: _Layers(sizes or VitSizes()), tensors)
        own, places = tensors["pos_embed"].float().split([1, _TRAINED**2], 1)
        self.register_buffer("first", (tensors["cls_token"].float() + own))
        self.register_buffer("places", _interpolated(places))

    @staticmethod
    def shapes(sizes: VitSizes | None = None) -> dict[str, Shape]:
        """What a file of weights must hold."""
        sizes = sizes or VitSizes()
        tokens: dict[str, Shape] = {
            "cls_token": (1, 1, sizes.width),
            "pos_embed": (1, _TRAINED**2 + 1, sizes.width),
            "mask_token": (1, sizes.width),
        }
        return tokens | shapes_of(lambda: _Layers(sizes))

    @staticmethod
    def scaled(pixels: Tensor) -> Tensor:
        """0 .. 255 to mean 0 and deviation 1 over ImageNet."""
        return normalised(pixels)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """``cls`` of images ``[B, 3, 224, 224]``, scaled."""
        patches = self.layers.patch_embed["proj"](x).flatten(2).transpose(1, 2)
        x = torch.cat([self.get_buffer("first").expand(len(x), -1, -1), patches + self.get_buffer("places")], 1)
        for block in self.layers.blocks:
            x = block(x)
        return {"cls": self.layers.norm(x[:, 0])}


class _Layers(nn.Module):
    """The parts of the transformer under DINOv2's names."""

    def __init__(self, sizes: VitSizes) -> None:
        super().__init__()
        width = sizes.width
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, _PATCH, stride=_PATCH)})
        self.norm = nn.LayerNorm(width, _EPSILON)
        self.blocks = nn.ModuleList(_Block(width, sizes.heads) for _ in range(sizes.blocks))


class _Block(nn.Module):
    """Attention and a two-layer network, ``[B, tokens, width]``."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, _EPSILON), nn.LayerNorm(width, _EPSILON)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})
        self.ls1, self.ls2 = (nn.ParameterDict({"gamma": torch.empty(width)}) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        images, tokens, width = x.shape
        qkv = self.attn["qkv"](self.norm1(x)).view(images, tokens, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(images, tokens, width)
        x = x + self.attn["proj"](seen) * self.ls1["gamma"]
        inner = F.gelu(self.mlp["fc1"](self.norm2(x)))
        return x + self.mlp["fc2"](inner) * self.ls2["gamma"]


def _interpolated(places: Tensor) -> Tensor:
    """Position vectors ``[1, 37·37, D]`` at 16x16 patches, ``[1, 256, D]``."""
    side = _SIDE // _PATCH
    grid = places.unflatten(1, (_TRAINED, _TRAINED)).permute(0, 3, 1, 2)
    scale = (side + _SURPLUS) / _TRAINED
    return F.interpolate(grid, scale_factor=(scale, scale), mode="bicubic").flatten(2).transpose(1, 2).contiguous()
