"""``adam_step`` against torch's Adam, and the weights that act after it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from ganformer_cli.config import ModelConfig
from ganformer_cli.errors import GanformerError
from ganformer_cli.models import Discriminator
from ganformer_cli.models.prepared import PreparedWeights, lay_out_weights
from ganformer_cli.operators import native
from ganformer_cli.operators.adam_step import ActingWeight, adam_step
from tests.prepared_gradients import gradients_of

Memory = dict[str, Tensor]


def weights_of_all_kinds() -> list[ActingWeight]:
    """With and without a gain and a cast; of no element, one, many; in three layouts."""
    torch.manual_seed(0)
    plain, vector, empty = (nn.Parameter(torch.randn(shape)) for shape in ((), (3001,), (0, 4)))
    last = nn.Parameter(torch.randn(33, 16, 3, 3).contiguous(memory_format=torch.channels_last))
    turned = nn.Parameter(torch.randn(70, 5, 3, 3).contiguous(memory_format=torch.channels_last).transpose(0, 1))
    scaled = [
        ActingWeight(weight, gain, torch.empty_like(weight), torch.empty_like(weight, dtype=torch.bfloat16))
        for weight, gain in ((last, 0.03), (turned, 2.5))
    ]
    return [ActingWeight(plain), ActingWeight(vector, 0.01, torch.empty_like(vector)), ActingWeight(empty), *scaled]


def memories_of(weights: list[ActingWeight], *keys: str) -> list[Memory]:
    moments = ("exp_avg_sq", *keys)
    return [
        {"step": torch.zeros([]), **{key: torch.zeros_like(weight.parameter) for key in moments}} for weight in weights
    ]


@pytest.mark.parametrize("beta1", [0.0, 0.9])
def test_steps_are_those_of_torch(backend: str, beta1: float) -> None:
    """Three steps, in the arithmetic of float64 by torch: no further away than torch's own in float32."""
    weights = weights_of_all_kinds()
    memories = memories_of(weights, *(["exp_avg"] if beta1 else []))
    plain = [nn.Parameter(weight.parameter.detach().clone()) for weight in weights]
    exact = [nn.Parameter(weight.parameter.detach().double()) for weight in weights]
    options = {"lr": 0.01, "betas": (beta1, 0.99), "eps": 1e-8}
    optimizers = [torch.optim.Adam(parameters, **options, fused=True) for parameters in (plain, exact)]  # type: ignore[arg-type]
    for _ in range(3):
        gradients = [torch.randn_like(weight.parameter) for weight in weights]
        norm = adam_step(weights, gradients, memories, **options)  # type: ignore[arg-type]
        scaled = [gradient.double() * weight.gain for gradient, weight in zip(gradients, weights, strict=True)]
        torch.testing.assert_close(norm.double(), nn.utils.get_total_norm(scaled), rtol=1e-6, atol=0)
        for parameters, optimizer in zip((plain, exact), optimizers, strict=True):
            for parameter, gradient in zip(parameters, scaled, strict=True):
                parameter.grad = gradient.to(parameter.dtype)
            optimizer.step()
    for weight, memory, rough, truth in zip(weights, memories, plain, exact, strict=True):
        found = weight.parameter.detach()
        if found.numel():
            error = (found - truth).abs().max().item()
            assert error <= 2 * (rough - truth).abs().max().item() + 1e-7
        assert memory["step"].item() == 3
        for key in set(memory) - {"step"}:
            torch.testing.assert_close(memory[key].double(), optimizers[1].state[truth][key], rtol=1e-5, atol=1e-7)
        if weight.acting is not None:
            assert torch.equal(weight.acting, found * weight.gain)
        if weight.cast is not None and weight.acting is not None:
            assert torch.equal(weight.cast, weight.acting.bfloat16())


def test_the_layout_of_gradients_and_the_threads_make_no_difference() -> None:
    results = []
    for threads, contiguous in ((1, False), (3, True)):
        weights = weights_of_all_kinds()
        gradients = [torch.randn_like(weight.parameter) for weight in weights]
        if contiguous:
            gradients = [gradient.contiguous() for gradient in gradients]
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            norm = adam_step(weights, gradients, memories_of(weights), lr=0.1, betas=(0.0, 0.9), eps=1e-8)
        finally:
            torch.set_num_threads(before)
        results.append([norm, *(weight.parameter.detach() for weight in weights)])
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"exp_avg_sq": torch.zeros(4)}, "second moments"),
        ({"exp_avg": torch.zeros(4, 3).t()}, "first moments must lie in memory"),
        ({"step": torch.zeros(2)}, "a step must be one number"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_has_changed(wrong: Memory, message: str) -> None:
    weights = [ActingWeight(nn.Parameter(torch.ones(7))), ActingWeight(nn.Parameter(torch.ones(3, 4)))]
    memories = memories_of(weights, "exp_avg")
    memories[1].update(wrong)
    with native.use("native"), pytest.raises(GanformerError, match=message):
        adam_step(weights, [torch.ones(7), torch.ones(3, 4)], memories, lr=0.1, betas=(0.5, 0.9), eps=1e-8)
    assert all(torch.equal(weight.parameter, torch.ones_like(weight.parameter)) for weight in weights)
    assert memories[0]["step"].item() == 0


def test_prepared_weights_follow_their_parameters(backend: str) -> None:
    """After a step, and after a change by somebody else, the network computes as one without prepared weights."""
    torch.manual_seed(0)
    network = Discriminator(ModelConfig(resolution=8, channel_base=64, channel_max=8))
    lay_out_weights(network)
    weights = PreparedWeights(network)
    optimizer = torch.optim.Adam(network.parameters(), 0.01, (0.0, 0.9), fused=True)
    images = torch.randn(2, 3, 8, 8)

    def check() -> None:
        expected = copy.deepcopy(network)(images)
        with weights.use(trained=True):
            found = network(images)
        torch.testing.assert_close(found, expected)

    check()
    with weights.use(trained=True):
        network(images).square().sum().backward()
        expected = nn.utils.get_total_norm(list(gradients_of(weights).values()))
        torch.testing.assert_close(weights.step(optimizer), expected)
    before = network(images)
    check()
    network.load_state_dict({name: value * 1.1 for name, value in network.state_dict().items()})
    assert not torch.allclose(network(images), before)
    check()
