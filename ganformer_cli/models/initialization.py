"""Initial values of parameters; on the meta device only their shapes.

Networks are built on the meta device to compare their shapes with a file, and to count their parameters. There, torch
computes random numbers and arithmetic in Python, and imports its compiler for that, which takes a second.
"""

from __future__ import annotations

import torch
from torch import Tensor


def has_values() -> bool:
    """Whether new tensors have values: not on the meta device."""
    return not torch.empty(0).is_meta


def normal(*shape: int, divisor: float = 1.0) -> Tensor:
    """Standard normal numbers, divided by ``divisor``."""
    if not has_values():
        return torch.empty(shape)
    return torch.randn(shape) if divisor == 1 else torch.randn(shape) / divisor


def uniform(*shape: int) -> Tensor:
    """Uniform numbers in [0, 1)."""
    return torch.rand(shape) if has_values() else torch.empty(shape)
