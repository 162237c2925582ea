"""Parameters for feature networks."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


def random_weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Parameters of a feature network that let signals through: with them it tells images apart."""
    # numpy promises never to change this generator's numbers.
    random = np.random.RandomState(0)
    found = {}
    for name, shape in shapes.items():
        if len(shape) > 1:
            values = random.standard_normal(shape) * (2 / math.prod(shape[1:])) ** 0.5
        elif name.endswith(("running_var", "bn.weight", "norm.weight", "norm1.weight", "norm2.weight")):
            values = random.random_sample(shape) + 0.5  # variances, and what norms multiply by
        else:
            values = random.standard_normal(shape) * 0.1
        found[name] = torch.from_numpy(values).float()
    return found
