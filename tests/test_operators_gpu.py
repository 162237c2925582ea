"""What only a GPU shows of the CUDA operators; ``test_operators_cuda.py`` has what they compute."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ganformer_cli.operators import native
from ganformer_cli.operators.attention import Keys, Over, attention_means, bipartite_attention
from ganformer_cli.operators.bias_act import bias_act, bias_act_reference
from ganformer_cli.operators.upfirdn2d import upfirdn2d

pytestmark = pytest.mark.gpu


def derivatives(form: Callable[..., Tensor], inputs: list[Tensor], device: str, dtype: torch.dtype) -> list[Tensor]:
    """Result, gradients of its squares, and gradients of those gradients' squares."""
    leaves = [tensor.detach().to(device, dtype).requires_grad_() for tensor in inputs]
    out = form(*leaves)
    first = torch.autograd.grad(out.square().sum(), leaves, create_graph=True)
    once_more = torch.stack([gradient.square().sum() for gradient in first]).sum()
    return [tensor.detach().cpu() for tensor in (out, *first, *torch.autograd.grad(once_more, leaves))]


def attention(x: Tensor, keys: Tensor, place: Tensor, values: Tensor) -> Tensor:
    given = Keys(keys, keys.sum(3), torch.ones_like(x[0, :4].t()), place)
    return bipartite_attention(x, given, values, values[:1, 0, 0], dropout=0.3, seed=torch.tensor(5, device=x.device))


def means(x: Tensor, keys: Tensor, over: Over) -> Tensor:
    return attention_means(x, Keys(keys, keys.sum(3), None, None), over=over).content


def activation(x: Tensor, bias: Tensor, strength: Tensor) -> Tensor:
    return bias_act(x, bias, noise=torch.ones_like(x[:, :1]).detach(), strength=strength.sum(), activation="lrelu")


PUBLIC: list[tuple[Callable[..., Tensor], list[tuple[int, ...]]]] = [
    (attention, [(2, 20, 37), (1, 2, 5, 20), (1, 2, 5, 4), (2, 2, 5, 20)]),
    (functools.partial(means, over="components"), [(2, 20, 37), (2, 1, 5, 20)]),
    (functools.partial(means, over="positions"), [(2, 20, 37), (2, 1, 5, 20)]),
    (activation, [(2, 20, 6, 5), (20,), (1,)]),
    (lambda x: upfirdn2d(x, torch.tensor([1.0, 3, 3, 1]).to(x) / 8, up=2, padding=(2, 1)), [(2, 20, 6, 5)]),
]


@pytest.mark.parametrize(("form", "shapes"), PUBLIC)
def test_derivatives_on_a_gpu(form: Callable[..., Tensor], shapes: list[tuple[int, ...]]) -> None:
    """First and second, of the operators as a model calls them."""
    torch.manual_seed(0)
    inputs = [torch.randn(shape) for shape in shapes]
    with native.use("reference"):
        truth = derivatives(form, inputs, "cpu", torch.float64)
        plain = derivatives(form, inputs, "cuda", torch.float32)
    with native.use("native"):
        found = derivatives(form, inputs, "cuda", torch.float32)
        again = derivatives(form, inputs, "cuda", torch.float32)
    for ours, theirs, exact in zip(found, plain, truth, strict=True):
        errors = [(one.double() - exact).norm() / exact.norm() for one in (ours, theirs)]
        assert errors[0] <= 2 * errors[1] + 2 * torch.finfo(torch.float32).eps
    # First derivatives are native, and the same every time.
    assert all(torch.equal(one, other) for one, other in zip(found[: 1 + len(inputs)], again, strict=False))


def test_the_current_stream_is_taken() -> None:
    """Work that waits in a stream of its own is waited for."""
    with torch.cuda.stream(torch.cuda.Stream()):
        x = torch.randn(2048, 2048, device="cuda")
        for _ in range(20):
            x = x @ x / 50
        image = x[None, :, :, None]
        with native.use("native"):
            found = bias_act(image, activation="lrelu")
    torch.cuda.synchronize()
    assert torch.allclose(found, bias_act_reference(image, activation="lrelu"), equal_nan=True)
