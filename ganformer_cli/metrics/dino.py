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

_SIDE, _PATCH = 224, 14
_TRAINED = 37  # patches on a side
_SURPLUS = 0.1
_EPSILON = 1e-6

_Shape = tuple[int, ...]


class VitSizes(NamedTuple):
    """Of a vision transformer."""

    width: int = 1024
    blocks: int = 24
    heads: int = 16


class DinoV2(nn.Module):
    """Images to features.

    Args:
        tensors: parameters by DINOv2's names, of the shapes of ``shapes``.
        sizes: of the transformer.
    """

    side = _SIDE
    outputs = {"cls": VitSizes().width}

    def __init__(self, tensors: Mapping[str, Tensor], sizes: VitSizes | None = None) -> None:
        super().__init__()
        self.sizes = sizes or VitSizes()
        for name in self.shapes(self.sizes):
            if name not in ("mask_token", "pos_embed"):
                self.register_buffer(_key(name), tensors[name].float())
        own, places = tensors["pos_embed"].float().split([1, _TRAINED**2], 1)
        self.register_buffer("first", (tensors["cls_token"].float() + own))
        self.register_buffer("places", _interpolated(places))

    @staticmethod
    def shapes(sizes: VitSizes | None = None) -> dict[str, _Shape]:
        """What a file of weights must hold."""
        width, blocks, _ = sizes or VitSizes()
        found: dict[str, _Shape] = {
            "cls_token": (1, 1, width),
            "pos_embed": (1, _TRAINED**2 + 1, width),
            "mask_token": (1, width),
            "patch_embed.proj.weight": (width, 3, _PATCH, _PATCH),
            "patch_embed.proj.bias": (width,),
            "norm.weight": (width,),
            "norm.bias": (width,),
        }
        inner = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
        inner |= {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
        for block in range(blocks):
            for norm in ("norm1", "norm2"):
                found |= {f"blocks.{block}.{norm}.{part}": (width,) for part in ("weight", "bias")}
            for name, (outputs, inputs) in inner.items():
                found[f"blocks.{block}.{name}.weight"] = (outputs, inputs)
                found[f"blocks.{block}.{name}.bias"] = (outputs,)
            found |= {f"blocks.{block}.{scale}.gamma": (width,) for scale in ("ls1", "ls2")}
        return found

    @staticmethod
    def scaled(pixels: Tensor) -> Tensor:
        """0 .. 255 to mean 0 and deviation 1 over ImageNet."""
        return normalised(pixels)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """``cls`` of images ``[B, 3, 224, 224]``, scaled."""
        patches = F.conv2d(x, *self._pair("patch_embed.proj"), stride=_PATCH).flatten(2).transpose(1, 2)
        x = torch.cat([self.get_buffer("first").expand(len(x), -1, -1), patches + self.get_buffer("places")], 1)
        for block in range(self.sizes.blocks):
            x = self._block(x, f"blocks.{block}")
        return {"cls": self._normed(x[:, 0], "norm")}

    def _block(self, x: Tensor, name: str) -> Tensor:
        images, tokens, width = x.shape
        qkv = F.linear(self._normed(x, f"{name}.norm1"), *self._pair(f"{name}.attn.qkv"))
        q, k, v = qkv.view(images, tokens, 3, self.sizes.heads, -1).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(images, tokens, width)
        x = x + F.linear(seen, *self._pair(f"{name}.attn.proj")) * self._buffer(f"{name}.ls1.gamma")
        inner = F.gelu(F.linear(self._normed(x, f"{name}.norm2"), *self._pair(f"{name}.mlp.fc1")))
        return x + F.linear(inner, *self._pair(f"{name}.mlp.fc2")) * self._buffer(f"{name}.ls2.gamma")

    def _normed(self, x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (self.sizes.width,), *self._pair(name), eps=_EPSILON)

    def _pair(self, name: str) -> tuple[Tensor, Tensor]:
        return self._buffer(f"{name}.weight"), self._buffer(f"{name}.bias")

    def _buffer(self, name: str) -> Tensor:
        return self.get_buffer(_key(name))


def _interpolated(places: Tensor) -> Tensor:
    """Position vectors ``[1, 37·37, D]`` at 16x16 patches, ``[1, 256, D]``."""
    side = _SIDE // _PATCH
    grid = places.unflatten(1, (_TRAINED, _TRAINED)).permute(0, 3, 1, 2)
    scale = (side + _SURPLUS) / _TRAINED
    return F.interpolate(grid, scale_factor=(scale, scale), mode="bicubic").flatten(2).transpose(1, 2).contiguous()


def _key(name: str) -> str:
    """A buffer's name, in which there may be no dots."""
    return name.replace(".", "__")
