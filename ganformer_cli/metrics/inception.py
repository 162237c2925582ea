"""The Inception-v3 of 5 December 2015 that the Fréchet Inception Distance was defined with (Szegedy et al. 2015).

It is the network of TensorFlow's ``inception-2015-12-05.tgz``, as its weights were carried over to PyTorch: parameters
have torchvision's names, and it differs from torchvision's network in three places. There are 1008 logits instead of
1000; averages at the border leave the padding out; and the last block takes a maximum where others average.

The batch norms stand behind convolutions without a bias and are folded into them in float64 when weights are loaded.
An average over neighbours followed by a 1x1 convolution is the same as the convolution followed by the average, and is
computed in that order, on fewer channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SIDE = 299
FEATURES, CLASSES = 2048, 1008
#: Added to variances by every batch norm.
_EPSILON = 1e-3

_Shape = tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """A convolution, its batch norm, and a ReLU."""

    name: str
    outputs: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padded: bool = True  # to the size that it had, if the stride is 1

    @property
    def padding(self) -> tuple[int, int]:
        """Rows and columns of zeros on either side."""
        padded = self.padded and self.stride == 1
        return (self.kernel[0] // 2, self.kernel[1] // 2) if padded else (0, 0)


class Branch(NamedTuple):
    """Steps one after the other; a tuple of steps is a fork, whose ends are laid side by side."""

    steps: tuple[Step | tuple[Step, Step], ...]
    pool: str = ""  # what goes before: ``mean``, ``max``, or ``halve``, a maximum with stride 2


def _square(name: str, outputs: int, side: int, stride: int = 1) -> Step:
    return Step(name, outputs, (side, side), stride)


def _block_a(pooled: int) -> tuple[Branch, ...]:
    """Figure 5 of Szegedy et al. 2015, with one 5x5 convolution left."""
    return (
        Branch((Step("branch1x1", 64),)),
        Branch((Step("branch5x5_1", 48), _square("branch5x5_2", 64, 5))),
        Branch((Step("branch3x3dbl_1", 64), _square("branch3x3dbl_2", 96, 3), _square("branch3x3dbl_3", 96, 3))),
        Branch((Step("branch_pool", pooled),), "mean"),
    )


def _block_b() -> tuple[Branch, ...]:
    """Figure 10: half the size."""
    last = _square("branch3x3dbl_3", 96, 3, stride=2)
    return (
        Branch((_square("branch3x3", 384, 3, stride=2),)),
        Branch((Step("branch3x3dbl_1", 64), _square("branch3x3dbl_2", 96, 3), last)),
        Branch((), "halve"),
    )


def _block_c(inner: int) -> tuple[Branch, ...]:
    """Figure 6: 7x7 as 1x7 and 7x1."""
    return (
        Branch((Step("branch1x1", 192),)),
        Branch((Step("branch7x7_1", inner), Step("branch7x7_2", inner, (1, 7)), Step("branch7x7_3", 192, (7, 1)))),
        Branch(
            (
                Step("branch7x7dbl_1", inner),
                Step("branch7x7dbl_2", inner, (7, 1)),
                Step("branch7x7dbl_3", inner, (1, 7)),
                Step("branch7x7dbl_4", inner, (7, 1)),
                Step("branch7x7dbl_5", 192, (1, 7)),
            )
        ),
        Branch((Step("branch_pool", 192),), "mean"),
    )


def _block_d() -> tuple[Branch, ...]:
    """Half the size, again."""
    return (
        Branch((Step("branch3x3_1", 192), _square("branch3x3_2", 320, 3, stride=2))),
        Branch(
            (
                Step("branch7x7x3_1", 192),
                Step("branch7x7x3_2", 192, (1, 7)),
                Step("branch7x7x3_3", 192, (7, 1)),
                _square("branch7x7x3_4", 192, 3, stride=2),
            )
        ),
        Branch((), "halve"),
    )


def _block_e(pool: str) -> tuple[Branch, ...]:
    """Figure 7: forks."""
    fork = Step("branch3x3_2a", 384, (1, 3)), Step("branch3x3_2b", 384, (3, 1))
    double = Step("branch3x3dbl_3a", 384, (1, 3)), Step("branch3x3dbl_3b", 384, (3, 1))
    return (
        Branch((Step("branch1x1", 320),)),
        Branch((Step("branch3x3_1", 384), fork)),
        Branch((Step("branch3x3dbl_1", 448), _square("branch3x3dbl_2", 384, 3), double)),
        Branch((Step("branch_pool", 192),), pool),
    )


_STEM: tuple[Step | None, ...] = (  # None: a maximum with stride 2
    Step("Conv2d_1a_3x3", 32, (3, 3), stride=2),
    Step("Conv2d_2a_3x3", 32, (3, 3), padded=False),
    Step("Conv2d_2b_3x3", 64, (3, 3)),
    None,
    Step("Conv2d_3b_1x1", 80),
    Step("Conv2d_4a_3x3", 192, (3, 3), padded=False),
    None,
)
_BLOCKS: dict[str, tuple[Branch, ...]] = {
    "Mixed_5b": _block_a(32),
    "Mixed_5c": _block_a(64),
    "Mixed_5d": _block_a(64),
    "Mixed_6a": _block_b(),
    "Mixed_6b": _block_c(128),
    "Mixed_6c": _block_c(160),
    "Mixed_6d": _block_c(160),
    "Mixed_6e": _block_c(192),
    "Mixed_7a": _block_d(),
    "Mixed_7b": _block_e("mean"),
    "Mixed_7c": _block_e("max"),
}


class Inception(nn.Module):
    """Images to features.

    Args:
        tensors: parameters and statistics by name, of the shapes of ``shapes``.
    """

    side = _SIDE
    outputs = {"pool": FEATURES, "logits": CLASSES}

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, _, _ in _convolutions():
            weight, bias = _folded(tensors, name)
            self.register_buffer(_key(name, "weight"), weight.to(memory_format=torch.channels_last))
            self.register_buffer(_key(name, "bias"), bias)
        self.register_buffer("classes", tensors["fc.weight"].float())

    @staticmethod
    def shapes() -> dict[str, _Shape]:
        """What a file of weights must hold."""
        found: dict[str, _Shape] = {"fc.weight": (CLASSES, FEATURES), "fc.bias": (CLASSES,)}
        for name, step, inputs in _convolutions():
            found[f"{name}.conv.weight"] = (step.outputs, inputs, *step.kernel)
            for part in ("weight", "bias", "running_mean", "running_var"):
                found[f"{name}.bn.{part}"] = (step.outputs,)
        return found

    @staticmethod
    def scaled(pixels: Tensor) -> Tensor:
        """0 .. 255 to just below 1, as the TensorFlow graph has it."""
        return (pixels - 128) / 128

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Features of images ``[B, 3, 299, 299]``, scaled.

        ``pool`` is what the Fréchet distance takes. ``logits`` are without the bias of the last layer, as they were
        taken for the Inception Score (Salimans et al. 2016).
        """
        x = x.contiguous(memory_format=torch.channels_last)
        for step in _STEM:
            x = F.max_pool2d(x, 3, stride=2) if step is None else self._convolved(x, step.name, step).relu_()
        for block, branches in _BLOCKS.items():
            x = torch.cat([self._branch(x, block, branch) for branch in branches], 1)
        pool = x.mean((2, 3))
        return {"pool": pool, "logits": F.linear(pool, self.get_buffer("classes"))}

    def _branch(self, x: Tensor, block: str, branch: Branch) -> Tensor:
        if branch.pool == "halve":
            return F.max_pool2d(x, 3, stride=2)
        if branch.pool == "max":
            x = F.max_pool2d(x, 3, stride=1, padding=1)
        for step in branch.steps:
            if isinstance(step, tuple):
                x = torch.cat([self._convolved(x, f"{block}.{each.name}", each) for each in step], 1).relu_()
            else:
                x = self._convolved(x, f"{block}.{step.name}", step)
                if branch.pool == "mean":
                    x = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
                x = x.relu_()
        return x

    def _convolved(self, x: Tensor, name: str, step: Step) -> Tensor:
        weight, bias = self.get_buffer(_key(name, "weight")), self.get_buffer(_key(name, "bias"))
        return F.conv2d(x, weight, bias, step.stride, step.padding)


def _convolutions() -> Iterator[tuple[str, Step, int]]:
    """Full name, step and number of input channels of every convolution."""
    channels = 3
    for step in _STEM:
        if step is not None:
            yield step.name, step, channels
            channels = step.outputs
    for block, branches in _BLOCKS.items():
        together = 0
        for branch in branches:
            inner = channels
            for steps in branch.steps:
                fork = steps if isinstance(steps, tuple) else (steps,)
                for step in fork:
                    yield f"{block}.{step.name}", step, inner
                inner = sum(step.outputs for step in fork)
            together += inner
        channels = together


def _folded(tensors: Mapping[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    """Weight and bias, float32, of a convolution with the batch norm behind it."""
    weight = tensors[f"{name}.conv.weight"].double()
    scale, bias, mean, variance = (
        tensors[f"{name}.bn.{part}"].double() for part in ("weight", "bias", "running_mean", "running_var")
    )
    scale = scale / (variance + _EPSILON).sqrt()
    return (weight * scale[:, None, None, None]).float(), (bias - mean * scale).float()


def _key(name: str, part: str) -> str:
    """A buffer's name, in which there may be no dots."""
    return f"{name.replace('.', '__')}__{part}"
