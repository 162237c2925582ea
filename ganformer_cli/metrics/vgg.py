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

from ganformer_cli.metrics.weights import Shape, filled, shapes_of

_SIDE = 224
#: LPIPS was made for images of about this size.
LPIPS_SIDE = 256
FC = 4096
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's images, on a scale of 0 to 1

#: Output channels of convolutions, in groups between which a maximum halves the size.
_GROUPS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
_EPSILON = 1e-10


class Vgg16(nn.Module):
    """Images to features.

    Args:
        tensors: parameters by name, of the shapes of ``shapes``.
    """

    side = _SIDE
    outputs = {"fc2": FC}

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.features = _trunk_of(tensors)
        self.classifier = filled(_classifier, tensors, "classifier.")

    @staticmethod
    def shapes() -> dict[str, Shape]:
        """What a file of weights must hold; the last layer, of ImageNet's classes, is not computed."""
        last: dict[str, Shape] = {"classifier.6.weight": (1000, FC), "classifier.6.bias": (1000,)}
        return trunk_shapes() | shapes_of(_classifier, "classifier.") | last

    @staticmethod
    def scaled(pixels: Tensor) -> Tensor:
        """0 .. 255 to mean 0 and deviation 1 over ImageNet."""
        return normalised(pixels)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """``fc2``, behind its ReLU, of images ``[B, 3, 224, 224]``, scaled."""
        x = self.features(x.contiguous(memory_format=torch.channels_last))
        return {"fc2": self.classifier(x.flatten(1))}


class Lpips(nn.Module):
    """The learned distance of images.

    Args:
        tensors: parameters of VGG16's convolutions and ``lin0.model.1.weight`` to ``lin4.model.1.weight``.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.features = _trunk_of(tensors)
        for layer in range(len(_GROUPS)):
            self.register_buffer(f"weights_{layer}", tensors[f"lin{layer}.model.1.weight"].float())

    @staticmethod
    def own_shapes() -> dict[str, Shape]:
        """What its own file of weights must hold beside VGG16's."""
        return {f"lin{layer}.model.1.weight": (1, widths[-1], 1, 1) for layer, widths in enumerate(_GROUPS)}

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        """Distances, float64 ``[B]``, of float images ``[B, 3, H, W]`` from 0 to 255, H and W at least 16."""
        total = torch.zeros(len(one), dtype=torch.float64, device=one.device)
        pairs = zip(self._groups(_lpips_normalised(one)), self._groups(_lpips_normalised(other)), strict=True)
        for layer, (a, b) in enumerate(pairs):
            apart = (_unit(a) - _unit(b)).square_()
            total += F.conv2d(apart, self.get_buffer(f"weights_{layer}")).double().mean((1, 2, 3))
        return total

    def _groups(self, x: Tensor) -> Iterator[Tensor]:
        """The features behind the last ReLU of each group, ``[B, C, H, W]``."""
        x = x.contiguous(memory_format=torch.channels_last)
        for layer in list(self.features)[:-1]:
            if isinstance(layer, nn.MaxPool2d):
                yield x
            x = layer(x)
        yield x


def _trunk() -> nn.Sequential:
    """The convolutions, under torchvision's numbers."""
    layers: list[nn.Module] = []
    channels = 3
    for widths in _GROUPS:
        for width in widths:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


def _trunk_of(tensors: Mapping[str, Tensor]) -> nn.Sequential:
    trunk = filled(_trunk, tensors, "features.")
    return trunk.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it


def trunk_shapes() -> dict[str, Shape]:
    """The tensors of the convolutions in VGG16's file of weights."""
    return shapes_of(_trunk, "features.")


def _classifier() -> nn.Sequential:
    """The fully connected layers under torchvision's numbers, up to the second one's ReLU."""
    relu = nn.ReLU(inplace=True)
    return nn.Sequential(nn.Linear(512 * 7 * 7, FC), relu, nn.Identity(), nn.Linear(FC, FC), relu)


def normalised(pixels: Tensor) -> Tensor:
    """0 .. 255 to mean 0 and deviation 1 over ImageNet's images."""
    mean, deviation = (255 * torch.tensor(each, device=pixels.device)[:, None, None] for each in (MEAN, DEVIATION))
    return (pixels - mean) / deviation


def _lpips_normalised(pixels: Tensor) -> Tensor:
    """LPIPS has its own numbers for this, which differ from ImageNet's in the third digit."""
    shift = torch.tensor((-0.030, -0.088, -0.188), device=pixels.device)[:, None, None]
    scale = torch.tensor((0.458, 0.448, 0.450), device=pixels.device)[:, None, None]
    return (pixels / 127.5 - 1 - shift) / scale


def shrunk_to_lpips(pixels: Tensor) -> Tensor:
    """Images ``[B, 3, H, W]`` averaged down to about the size that LPIPS was made for, 256 pixels on the shorter side;
    smaller ones as they are (Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN", appendix D).
    """
    factor = min(pixels.shape[2:]) // LPIPS_SIDE
    return F.avg_pool2d(pixels, factor) if factor > 1 else pixels


def _unit(x: Tensor) -> Tensor:
    """Features of unit length at each place; where all are 0, they stay so, and so do their gradients."""
    return x / (x.square().sum(1, keepdim=True).clamp_min(_EPSILON**3).sqrt() + _EPSILON)
