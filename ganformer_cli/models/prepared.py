"""The weights of a network as they act, made once for all passes of an update.

Weights and biases act times constant gains (equalised learning rate). Inside ``PreparedWeights.use`` the layers read
tensors that have been multiplied already, for all of them at once: leaves, whose gradients add up over the passes.
``step`` then applies the chain rule and moves the parameters, and the leaves with them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ganformer_cli.models.layers import Conv2d, EffectiveWeights, EqualizedLayer, ModulatedConv2d
from ganformer_cli.operators.adam_step import ActingWeight, adam_step, make_acting


class PreparedWeights:
    """Multiplies the weights of a network by their gains, all at once.

    Args:
        network: its parameters keep their place; their layout is already what convolutions read best
            (``lay_out_weights``). Those that require no gradient are frozen: none is ever taken by them.
    """

    def __init__(self, network: nn.Module) -> None:
        self.layers = [module for module in network.modules() if isinstance(module, EqualizedLayer)]
        gains: dict[nn.Parameter, float] = {}
        for layer in self.layers:
            gains[layer.weight] = layer.weight_gain
            if layer.bias is not None and layer.bias_gain != 1:
                gains[layer.bias] = layer.bias_gain
        self.weights = {
            parameter: ActingWeight(parameter, gains[parameter], _leaf(parameter))
            if parameter in gains
            else ActingWeight(parameter)
            for parameter in network.parameters()
        }
        self.parameters = list(self.weights)
        #: What gradients are taken by: what acts of each parameter, in their order.
        self.trained: list[Tensor] = [
            parameter if weight.acting is None else weight.acting
            for parameter, weight in self.weights.items()
            if parameter.requires_grad
        ]
        self.moved = [parameter for parameter in self.parameters if parameter.requires_grad]
        self.effective: list[EffectiveWeights] = []
        self.versions: list[int] = []  # of the parameters that the weights were made of; empty: they are to be made
        self.in_use = False
        self.cast_to({})

    @property
    def prepared(self) -> list[Tensor]:
        """What the layers read."""
        tensors = [tensor for weight in self.weights.values() for tensor in (weight.acting, weight.cast)]
        return [tensor for tensor in tensors if tensor is not None]

    def cast_to(self, dtypes: dict[nn.Module, torch.dtype]) -> None:
        """Prepare the 3×3 weights of these layers in the precision of their features, too."""
        self.effective, self.versions = [], []
        for layer in self.layers:
            weight, dtype, cast = self.weights[layer.weight], dtypes.get(layer), None
            assert weight.acting is not None
            if dtype is not None and isinstance(layer, Conv2d | ModulatedConv2d) and layer.weight.shape[-1] == 3:
                cast = torch.empty_like(weight.acting, dtype=dtype, requires_grad=False)
            self.weights[layer.weight] = weight._replace(cast=cast)
            acting = None if layer.bias is None else self.weights[layer.bias].acting
            bias = layer.bias if acting is None else acting
            self.effective.append(EffectiveWeights(weight.acting, bias, cast))
            if layer.prepared is not None:
                layer.prepared = self.effective[-1]

    @contextlib.contextmanager
    def use(self, *, trained: bool) -> Iterator[None]:
        """Let the layers read prepared weights inside; they are made anew if parameters have changed.

        Args:
            trained: whether gradients are taken by them and by the other parameters.
        """
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

    def refresh(self) -> None:
        """Make them of the parameters as they are now, unless they are already."""
        versions = [parameter._version for parameter in self.parameters]
        if self.versions != versions:
            make_acting(list(self.weights.values()))
            self.versions = versions

    def step(self, optimizer: torch.optim.Optimizer) -> Tensor:
        """A step of Adam by the gradients of what is prepared, which is up to date afterwards.

        Args:
            optimizer: a fused Adam of the parameters, in one group, without weight decay.

        Returns:
            The norm of the parameters' gradients, [].
        """
        found = [
            (self.weights[parameter], tensor.grad)
            for parameter, tensor in zip(self.moved, self.trained, strict=True)
            if tensor.grad is not None
        ]
        weights = [weight for weight, _ in found]
        options = optimizer.param_groups[0]
        norm = adam_step(
            weights,
            [gradient for _, gradient in found],
            [adam_memory(optimizer, weight.parameter) for weight in weights],
            lr=options["lr"],
            betas=options["betas"],
            eps=options["eps"],
        )
        self.versions = [parameter._version for parameter in self.parameters]
        return norm

    def clear_gradients(self) -> None:
        """Forget what has been added up."""
        for tensor in self.trained:
            tensor.grad = None


def adam_keys(optimizer: torch.optim.Optimizer) -> tuple[str, ...]:
    """What is kept of each parameter. With β₁ = 0 the first moment is the gradient, and nothing keeps it."""
    first = () if optimizer.defaults["betas"][0] == 0 else ("exp_avg",)
    return ("step", *first, "exp_avg_sq")


def adam_memory(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> dict[str, Tensor]:
    """What a fused Adam keeps of a parameter, by ``adam_keys``; zeros before its first step."""
    memory: dict[str, Tensor] = optimizer.state[parameter]
    if not memory:
        memory["step"] = torch.zeros([], device=parameter.device)
        memory.update({key: torch.zeros_like(parameter) for key in adam_keys(optimizer)[1:]})
    return memory


def _leaf(parameter: nn.Parameter) -> Tensor:
    return torch.empty_like(parameter, requires_grad=parameter.requires_grad)


@torch.no_grad()
def lay_out_weights(network: nn.Module) -> None:
    """Store the weights of convolutions in the order in which they are read, so that none is turned at each use."""
    for layer in network.modules():
        if isinstance(layer, Conv2d | ModulatedConv2d):
            turned = isinstance(layer, ModulatedConv2d) and layer.up == 2  # used as the weight of the adjoint
            weight = layer.weight.data.transpose(0, 1) if turned else layer.weight.data
            weight = weight.contiguous(memory_format=torch.channels_last)
            layer.weight.data = weight.transpose(0, 1) if turned else weight
