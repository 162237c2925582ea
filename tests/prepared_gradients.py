"""The gradients of the parameters behind prepared weights, which training never needs by themselves."""

from __future__ import annotations

from torch import Tensor, nn

from ganformer_cli.models.prepared import PreparedWeights


def gradients_of(weights: PreparedWeights) -> dict[nn.Parameter, Tensor]:
    """By the chain rule from those of what is prepared."""
    return {
        parameter: tensor.grad * weights.weights[parameter].gain
        for parameter, tensor in zip(weights.moved, weights.trained, strict=True)
        if tensor.grad is not None
    }
