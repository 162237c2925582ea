"""VGG16 (Simonyan & Zisserman 2015), and the learned distance of two images that is built on it.

Parameters have torchvision's names. Its second fully connected layer is what precision and recall were defined on
(Kynkäänniemi et al. 2019).

LPIPS (Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", equation 1, version
0.1) compares the features behind five of its ReLUs: at each place they are scaled to unit length, subtracted and
squared; a learned weight for each channel adds them up; averages over places are summed over the five layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SIDE = 224
FC = 4096
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's images, on a scale of 0 to 1

#: Output channels of convolutions, in groups between which a maximum halves the size.
_GROUPS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
_EPSILON = 1e-10

_Shape = tuple[int, ...]


class Vgg16(nn.Module):
    """Images to features.

    Args:
        tensors: parameters by name, of the shapes of ``shapes``.
    """

    side = _SIDE
    outputs = {"fc2": FC}

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.trunk = _Trunk(tensors)
        for number in (0, 3):
            for part in ("weight", "bias"):
                self.register_buffer(f"fc{number}_{part}", tensors[f"classifier.{number}.{part}"].float())

    @staticmethod
    def shapes() -> dict[str, _Shape]:
        """What a file of weights must hold."""
        found = _Trunk.shapes()
        for number, (outputs, inputs) in {0: (FC, 512 * 7 * 7), 3: (FC, FC), 6: (1000, FC)}.items():
            found[f"classifier.{number}.weight"] = (outputs, inputs)
            found[f"classifier.{number}.bias"] = (outputs,)
        return found

    @staticmethod
    def scaled(pixels: Tensor) -> Tensor:
        """0 .. 255 to mean 0 and deviation 1 over ImageNet."""
        return normalised(pixels)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """``fc2``, behind its ReLU, of images ``[B, 3, 224, 224]``, scaled."""
        *_, last = self.trunk(x)
        x = F.max_pool2d(last, 2).flatten(1)
        for number in (0, 3):
            weight, bias = (self.get_buffer(f"fc{number}_{part}") for part in ("weight", "bias"))
            x = F.linear(x, weight, bias).relu_()
        return {"fc2": x}


class Lpips(nn.Module):
    """The learned distance of images.

    Args:
        tensors: parameters of VGG16's convolutions and ``lin0.model.1.weight`` to ``lin4.model.1.weight``.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.trunk = _Trunk(tensors)
        for layer in range(len(_GROUPS)):
            self.register_buffer(f"weights_{layer}", tensors[f"lin{layer}.model.1.weight"].float())

    @staticmethod
    def trunk_shapes() -> dict[str, _Shape]:
        """What VGG16's file of weights must hold."""
        return _Trunk.shapes()

    @staticmethod
    def own_shapes() -> dict[str, _Shape]:
        """What its own file of weights must hold beside VGG16's."""
        return {f"lin{layer}.model.1.weight": (1, widths[-1], 1, 1) for layer, widths in enumerate(_GROUPS)}

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        """Distances, float64 ``[B]``, of float images ``[B, 3, H, W]`` from 0 to 255, H and W at least 16."""
        total = torch.zeros(len(one), dtype=torch.float64, device=one.device)
        pairs = zip(self.trunk(_lpips_normalised(one)), self.trunk(_lpips_normalised(other)), strict=True)
        for layer, (a, b) in enumerate(pairs):
            apart = (_unit(a) - _unit(b)).square_()
            total += F.conv2d(apart, self.get_buffer(f"weights_{layer}")).double().mean((1, 2, 3))
        return total


class _Trunk(nn.Module):
    """The convolutions; gives the features behind the last ReLU of each group, ``[B, C, H, W]``."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        for number, _, _ in _convolutions():
            weight = tensors[f"features.{number}.weight"].float()
            self.register_buffer(f"weight_{number}", weight.to(memory_format=torch.channels_last))
            self.register_buffer(f"bias_{number}", tensors[f"features.{number}.bias"].float())

    @staticmethod
    def shapes() -> dict[str, _Shape]:
        found: dict[str, _Shape] = {}
        for number, outputs, inputs in _convolutions():
            found[f"features.{number}.weight"] = (outputs, inputs, 3, 3)
            found[f"features.{number}.bias"] = (outputs,)
        return found

    def forward(self, x: Tensor) -> Iterator[Tensor]:
        x = x.contiguous(memory_format=torch.channels_last)
        numbers = (number for number, _, _ in _convolutions())
        for group, widths in enumerate(_GROUPS):
            if group:
                x = F.max_pool2d(x, 2)
            for _ in widths:
                number = next(numbers)
                weight, bias = self.get_buffer(f"weight_{number}"), self.get_buffer(f"bias_{number}")
                x = F.conv2d(x, weight, bias, padding=1).relu_()
            yield x


def normalised(pixels: Tensor) -> Tensor:
    """0 .. 255 to mean 0 and deviation 1 over ImageNet's images."""
    mean, deviation = (255 * torch.tensor(each, device=pixels.device)[:, None, None] for each in (MEAN, DEVIATION))
    return (pixels - mean) / deviation


def _lpips_normalised(pixels: Tensor) -> Tensor:
    """LPIPS has its own numbers for this, which differ from ImageNet's in the third digit."""
    shift = torch.tensor((-0.030, -0.088, -0.188), device=pixels.device)[:, None, None]
    scale = torch.tensor((0.458, 0.448, 0.450), device=pixels.device)[:, None, None]
    return (pixels / 127.5 - 1 - shift) / scale


def _unit(x: Tensor) -> Tensor:
    """Features of unit length at each place; where all are 0, they stay so, and so do their gradients."""
    return x / (x.square().sum(1, keepdim=True).clamp_min(_EPSILON**3).sqrt() + _EPSILON)


def _convolutions() -> Iterator[tuple[int, int, int]]:
    """Number in torchvision's sequence, output and input channels of every convolution."""
    number, channels = 0, 3
    for widths in _GROUPS:
        for width in widths:
            yield number, width, channels
            number, channels = number + 2, width  # a ReLU stands between
        number += 1  # the maximum
