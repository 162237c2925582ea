"""The weights of a network as they act, made once for all passes of an update.

Weights and biases act times constant gains (equalised learning rate). Inside ``PreparedWeights.use`` the layers read
tensors that have been multiplied already, for all of them at once: leaves, whose gradients add up over the passes.
``store_gradients`` then applies the chain rule, once, and the optimiser finds what it always does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import groupby

import torch
from torch import Tensor, nn

from ganformer_cli.models.layers import Conv2d, EffectiveWeights, EqualizedLayer, ModulatedConv2d


class PreparedWeights:
    """Multiplies the weights of a network by their gains, all at once.

    Args:
        network: its parameters keep their place; their layout is already what convolutions read best
            (``lay_out_weights``). Those that require no gradient are frozen: none is ever taken by them.
    """

    def __init__(self, network: nn.Module) -> None:
        self.layers = [module for module in network.modules() if isinstance(module, EqualizedLayer)]
        self.gains: dict[nn.Parameter, float] = {}
        for layer in self.layers:
            self.gains[layer.weight] = layer.weight_gain
            if layer.bias is not None and layer.bias_gain != 1:
                self.gains[layer.bias] = layer.bias_gain
        # All of one gain lie side by side, so that one product serves them.
        self.gains = dict(sorted(self.gains.items(), key=lambda item: item[1]))
        self.products: list[tuple[Tensor, float]] = []
        leaves: dict[nn.Parameter, Tensor] = {}
        for gain, group in groupby(self.gains, key=self.gains.__getitem__):
            parameters = list(group)
            flat = parameters[0].new_empty(sum(parameter.numel() for parameter in parameters)).detach()
            self.products.append((flat, gain))
            start = 0
            for parameter in parameters:
                leaf = flat.as_strided(parameter.shape, parameter.stride(), start)
                leaves[parameter] = leaf.requires_grad_(parameter.requires_grad)
                start += parameter.numel()
        #: What gradients are taken by: the leaves, and parameters that have no gain, in the order of the parameters.
        self.trained: list[Tensor] = [
            leaves.get(parameter, parameter) for parameter in network.parameters() if parameter.requires_grad
        ]
        self.parameters: list[Tensor] = list(leaves)
        self.leaves = list(leaves.values())
        self.effective = [
            EffectiveWeights(leaves[layer.weight], None if layer.bias is None else leaves.get(layer.bias, layer.bias))
            for layer in self.layers
        ]
        self.sources: list[Tensor] = []
        self.casts: list[Tensor] = []
        self.in_use = False

    @property
    def prepared(self) -> list[Tensor]:
        """What the layers read."""
        return [*self.leaves, *self.casts]

    def cast_to(self, dtypes: dict[nn.Module, torch.dtype]) -> None:
        """Prepare the 3×3 weights of these layers in the precision of their features, too."""
        self.sources, self.casts = [], []
        for i, (layer, (weight, bias, _)) in enumerate(zip(self.layers, self.effective, strict=True)):
            dtype, cast = dtypes.get(layer), None
            if dtype is not None and isinstance(layer, Conv2d | ModulatedConv2d) and weight.shape[-1] == 3:
                cast = torch.empty_like(weight, dtype=dtype, requires_grad=False)
                self.sources.append(weight)
                self.casts.append(cast)
            self.effective[i] = EffectiveWeights(weight, bias, cast)
            if layer.prepared is not None:
                layer.prepared = self.effective[i]

    @contextlib.contextmanager
    def use(self, *, trained: bool, fresh: bool = True) -> Iterator[None]:
        """Let the layers read prepared weights inside.

        Args:
            trained: whether gradients are taken by them and by the other parameters.
            fresh: whether to make them anew; False where the parameters are those of the last time.
        """
        if fresh:
            self.refresh()
        for tensor in self.trained:
            tensor.requires_grad_(trained)
        for layer, effective in zip(self.layers, self.effective, strict=True):
            vars(layer)["prepared"] = effective  # nn.Module's own way costs ten times as much, and this is every update
        self.in_use = True
        try:
            yield
        finally:
            self.in_use = False
            for layer in self.layers:
                vars(layer)["prepared"] = None
            for tensor in self.trained:
                tensor.requires_grad_()

    @torch.no_grad()
    def refresh(self) -> None:
        """Make them of the parameters as they are now."""
        torch._foreach_copy_(self.leaves, self.parameters)
        for flat, gain in self.products:
            flat.mul_(gain)
        if self.casts:
            torch._foreach_copy_(self.casts, self.sources)

    @torch.no_grad()
    def store_gradients(self) -> None:
        """Put the gradients of the parameters where optimisers look for them."""
        found = [
            (parameter, leaf.grad, gain)
            for (parameter, gain), leaf in zip(self.gains.items(), self.leaves, strict=True)
            if leaf.grad is not None
        ]
        if found:
            torch._foreach_mul_([gradient for _, gradient, _ in found], [gain for *_, gain in found])
        for parameter, gradient, _ in found:
            parameter.grad = gradient
        for leaf in self.leaves:
            leaf.grad = None

    def clear_gradients(self) -> None:
        """Forget what has been added up, and what optimisers were given."""
        for tensor in (*self.trained, *self.parameters):
            tensor.grad = None


@torch.no_grad()
def lay_out_weights(network: nn.Module) -> None:
    """Store the weights of convolutions in the order in which they are read, so that none is turned at each use."""
    for layer in network.modules():
        if isinstance(layer, Conv2d | ModulatedConv2d):
            turned = isinstance(layer, ModulatedConv2d) and layer.up == 2  # used as the weight of the adjoint
            weight = layer.weight.data.transpose(0, 1) if turned else layer.weight.data
            weight = weight.contiguous(memory_format=torch.channels_last)
            layer.weight.data = weight.transpose(0, 1) if turned else weight
