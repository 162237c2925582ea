"""``bias_act``: its definition, its derivatives, and that native code and plain torch are the same function."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.autograd.graph import saved_tensors_hooks

from ganformer_cli.errors import GanformerError
from ganformer_cli.operators import native
from ganformer_cli.operators.bias_act import bias_act, bias_act_reference

ROOT2 = 2.0**0.5
SHAPES = [
    (2, 3, 5, 7),
    (1, 1, 1, 1),
    (3, 20),
    (4, 33, 6),
    (0, 5, 3, 3),
    (2, 0, 4, 4),
    (2, 70, 1, 1),
    (2, 600, 2, 3),
    (1, 2, 190, 193),  # a plane that is cut into pieces
    (2, 3, 2, 3, 4),
]


def channels_last(x: Tensor) -> Tensor:
    """The same numbers with the channels next to each other in memory, for any number of axes."""
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def random_arguments(shape: tuple[int, ...], dtype: torch.dtype, *, shared: bool = False) -> dict[str, Tensor]:
    """x, bias, noise and strength."""
    generator = torch.Generator().manual_seed(sum(shape))
    batch = 1 if shared else shape[0]
    shapes = {"x": shape, "bias": shape[1:2], "noise": (batch, 1, *shape[2:]), "strength": ()}
    return {name: torch.randn(s, generator=generator, dtype=dtype) for name, s in shapes.items()}


def definition(
    x: Tensor, bias: Tensor, noise: Tensor, strength: Tensor, lrelu: bool, gain: float, clamp: float
) -> Tensor:
    x = x + strength * noise + bias.reshape([-1] + [1] * (x.ndim - 2))
    if lrelu:
        x = torch.where(x < 0, 0.2 * x, x) * ROOT2
    x = x * gain
    return torch.where(x > clamp, clamp, torch.where(x < -clamp, -clamp, x))


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels-last"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_definition(backend: str, shape: tuple[int, ...], last: bool) -> None:
    for shared, lrelu in ((False, True), (True, False)):
        arguments = random_arguments(shape, torch.float64, shared=shared)
        expected = definition(**arguments, lrelu=lrelu, gain=0.7, clamp=0.9)
        x = arguments.pop("x")
        x = channels_last(x) if last else x
        out = bias_act(x, **arguments, activation="lrelu" if lrelu else "linear", gain=0.7, clamp=0.9)
        torch.testing.assert_close(out, expected, rtol=1e-14, atol=1e-14)
        assert out.stride() == x.stride() or out.numel() == 0
        plain = bias_act(x, gain=3.0)
        torch.testing.assert_close(plain, x * 3)


def test_without_bias_any_shape_will_do(backend: str) -> None:
    for shape in ((), (5,), (2, 3, 4)):
        x = torch.randn(shape)
        torch.testing.assert_close(bias_act(x, activation="lrelu"), torch.where(x < 0, 0.2 * x, x) * ROOT2)


def test_nothing_to_do_costs_nothing(backend: str) -> None:
    x = torch.randn(2, 3)
    assert bias_act(x) is x


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_nan_and_infinity_go_through(backend: str, dtype: torch.dtype) -> None:
    nan, inf = float("nan"), float("inf")
    x = torch.tensor([nan, inf, -inf, 1.0]).to(dtype).repeat(40).reshape(1, 1, 160).requires_grad_()
    out = bias_act(x, activation="lrelu")
    assert out[0, 0, :3].tolist() == pytest.approx([nan, inf, -inf], nan_ok=True)
    clamped = bias_act(x, activation="lrelu", clamp=2.0)
    assert clamped[0, 0, :3].tolist() == pytest.approx([nan, 2, -2], nan_ok=True)
    (dx,) = torch.autograd.grad(out, x, torch.ones_like(out))
    expected = torch.tensor([ROOT2, 0.2 * ROOT2]).to(dtype).tolist()
    assert dx[0, 0, 1:3].tolist() == pytest.approx(expected, rel=1e-2 if dtype == torch.bfloat16 else 1e-6)


def test_other_memory_layouts(backend: str) -> None:
    bias, weight = torch.randn(3), torch.randn(2, 3, 4, 4)
    base = torch.randn(2, 3, 8, 8)
    views = {
        "every second": base[:, :, ::2, ::2],
        "expanded": base[:1, :, :4, :4].expand(2, -1, -1, -1),
        "turned": base[:, :, :4, :4].transpose(2, 3),
        "a slice of channels": torch.randn(2, 5, 4, 4)[:, 1:4],
    }
    for name, view in views.items():
        results = []
        for x in (view.detach(), view.contiguous()):
            x = x.requires_grad_()
            out = bias_act(x, bias, activation="lrelu")
            results.append((out, *torch.autograd.grad((out * weight).sum(), x)))
        for one, other in zip(*results, strict=True):
            if backend == "native":
                assert torch.equal(one, other), name
            else:  # torch itself may compute strided rows in another order: on Windows the last bit differs
                torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6, msg=name)


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels-last"])
def test_gradients_of_any_memory_layout(backend: str, last: bool) -> None:
    """Expanded, as of a mean, sliced, or in the layout that the result has not."""
    arguments = random_arguments((2, 6, 4, 4), torch.float32)
    if last:
        arguments["x"] = channels_last(arguments["x"])
    noise = arguments.pop("noise")
    leaves = [t.requires_grad_() for t in arguments.values()]
    x, bias, strength = leaves
    out = bias_act(x, bias, noise=noise, strength=strength, activation="lrelu")
    for grad in (
        torch.tensor(0.25).expand_as(out),
        torch.randn(6).reshape(1, 6, 1, 1).expand_as(out),
        torch.randn(2, 6, 8, 4)[:, :, ::2],
        torch.randn(2, 6, 4, 4) if last else channels_last(torch.randn(2, 6, 4, 4)),
    ):
        found = torch.autograd.grad(out, leaves, grad, retain_graph=True)
        expected = torch.autograd.grad(
            out, leaves, grad.clone(memory_format=torch.contiguous_format), retain_graph=True
        )
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels-last"])
@pytest.mark.parametrize(
    ("shape", "shared", "options"),
    [
        ((2, 3, 2, 3), False, {"activation": "lrelu"}),
        ((2, 3, 2, 3), True, {"activation": "lrelu", "clamp": 0.8, "gain": 0.7}),
        ((2, 3, 2, 3), False, {"activation": "linear", "gain": 1.3}),
        ((2, 2, 3), False, {"activation": "linear", "clamp": 0.8}),
        ((3, 4), True, {"activation": "lrelu"}),
        ((2, 1, 1, 1), False, {"activation": "lrelu"}),
    ],
    ids=str,
)
def test_derivatives(backend: str, shape: tuple[int, ...], shared: bool, options: dict[str, Any], last: bool) -> None:
    """The first and the second, with respect to everything that has one."""
    arguments = random_arguments(shape, torch.float64, shared=shared)
    noise = arguments.pop("noise")
    x, bias, strength = (t.requires_grad_() for t in arguments.values())

    def function(x: Tensor, bias: Tensor, strength: Tensor) -> Tensor:
        return bias_act(channels_last(x) if last else x, bias, noise=noise, strength=strength, **options)

    assert gradcheck(function, (x, bias, strength))
    assert gradgradcheck(function, (x, bias, strength), fast_mode=True)
    assert gradgradcheck(lambda x: bias_act(x, **options), x, fast_mode=True)


def test_third_derivative(native_backend: None) -> None:
    """A penalty on a second derivative is differentiable, too."""
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)

    def thrice(function: Any) -> Tensor:
        y = x
        for _ in range(3):
            (y,) = torch.autograd.grad(function(y * y, activation="lrelu").sum(), x, create_graph=True)
        return y

    torch.testing.assert_close(thrice(bias_act), thrice(bias_act_reference))


def test_only_what_needs_a_gradient_gets_one(native_backend: None) -> None:
    arguments = random_arguments((2, 3, 4, 4), torch.float32)
    noise = arguments.pop("noise")
    for wanted in arguments:
        for tensor in arguments.values():
            tensor.requires_grad_(False)
            tensor.grad = None
        arguments[wanted].requires_grad_()
        x, bias, strength = arguments.values()
        bias_act(x, bias, noise=noise, strength=strength, activation="lrelu").sum().backward()
        assert [name for name, tensor in arguments.items() if tensor.grad is not None] == [wanted]


def test_where_it_clamps_there_is_no_gradient(backend: str) -> None:
    """Also where the limit, 256.3, is no number of the format: bfloat16 rounds it to 256."""
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        x = torch.tensor([[-3000.0, -300.0, -1.0, 1.0, 100.0, 300.0]]).to(dtype).requires_grad_()
        out = bias_act(x, activation="lrelu", clamp=256.3)
        (dx,) = torch.autograd.grad(out.sum(), x)
        assert (dx != 0).tolist() == [[False, True, True, True, True, False]]
        assert out.abs().max() == torch.tensor(256.3, dtype=dtype)


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels-last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(4, 17, 23, 29), (1, 3, 113, 203), (16, 113)], ids=str)
def test_as_exact_as_plain_torch(native_backend: None, shape: tuple[int, ...], dtype: torch.dtype, last: bool) -> None:
    """Against float64, at most twice the error of plain torch in the same precision; results and gradients."""
    names = ("out", "dx", "dbias", "dstrength")
    ours, plain = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    for seed in range(8):  # the error of one sum is a matter of luck, in both
        generator = torch.Generator().manual_seed(seed)
        shapes = (shape, shape[1:2], (shape[0], 1, *shape[2:]), (), shape)
        drawn = [torch.randn(s, generator=generator).to(dtype) for s in shapes]

        def results(function: Any, dtype: torch.dtype, drawn: list[Tensor] = drawn) -> list[Tensor]:
            x, bias, noise, strength, grad = (t.to(dtype) for t in drawn)
            if last:
                x, grad = channels_last(x), channels_last(grad)
            leaves = [t.requires_grad_() for t in (x, bias, strength)]
            out = function(x, bias, noise=noise, strength=strength, activation="lrelu", gain=0.7)
            return [out, *torch.autograd.grad(out, leaves, grad)]

        truth = results(bias_act_reference, torch.float64)
        for errors, found in ((ours, results(bias_act, dtype)), (plain, results(bias_act_reference, dtype))):
            for name, one, true in zip(names, found, truth, strict=True):
                assert one.dtype == dtype
                errors[name] += float((one.double() - true).detach().square().sum())
    for name in names:
        assert ours[name] ** 0.5 <= 2 * plain[name] ** 0.5, name


def test_parameters_of_another_precision(backend: str) -> None:
    """float32 parameters beside bfloat16 features: the result stays bfloat16, the gradients come back as float32."""
    arguments = random_arguments((2, 3, 4, 4), torch.float32)
    x, bias, noise, strength = arguments.values()
    x = x.bfloat16().requires_grad_()
    out = bias_act(x, bias.requires_grad_(), noise=noise, strength=strength.requires_grad_(), activation="lrelu")
    assert out.dtype == torch.bfloat16
    gradients = torch.autograd.grad(out.float().sum(), (x, bias, strength))
    assert [g.dtype for g in gradients] == [torch.bfloat16, torch.float32, torch.float32]
    exact = bias_act_reference(x.float(), bias, noise=noise, strength=strength, activation="lrelu")
    torch.testing.assert_close(out.float(), exact, rtol=2e-2, atol=2e-2)


def test_half_precision_on_a_cpu_is_left_to_plain_torch() -> None:
    x, bias = torch.randn(2, 3, 4, 4), torch.randn(3)
    out = bias_act(x.half(), bias, activation="lrelu")
    assert out.dtype == torch.float16
    torch.testing.assert_close(out.float(), bias_act_reference(x, bias, activation="lrelu"), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels-last"])
def test_the_number_of_threads_changes_nothing(native_backend: None, last: bool) -> None:
    """Sums, too, are the same to the last bit."""
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            arguments = random_arguments((3, 40, 61, 67), torch.float32)
            noise, x = arguments["noise"], arguments["x"]
            x = (channels_last(x) if last else x).requires_grad_()
            bias, strength = arguments["bias"].requires_grad_(), arguments["strength"].requires_grad_()
            out = bias_act(x, bias, noise=noise, strength=strength, activation="lrelu")
            results.append([out, *torch.autograd.grad(out, (x, bias, strength), arguments["x"].detach().cos())])
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_backward_keeps_the_result_alone(native_backend: None) -> None:
    """Neither the input nor anything in between: they may be freed, or were never there."""
    x, bias = torch.randn(2, 3, 16, 16, requires_grad=True), torch.randn(3, requires_grad=True)
    kept: list[Tensor] = []
    with saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):  # type: ignore[func-returns-value]
        out = bias_act(x, bias, activation="lrelu")
        assert {t.data_ptr() for t in kept if t is not None and t.numel() > 3} == {out.data_ptr()}
        kept.clear()
        bias_act(x, bias)
        assert not [t for t in kept if t is not None]


GOOD: dict[str, Any] = {
    "x": torch.zeros(2, 3, 4, 5),
    "bias": torch.zeros(3),
    "noise": torch.zeros(2, 1, 4, 5),
    "strength": torch.zeros([]),
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"x": torch.zeros(2, 3, 4, 5, dtype=torch.int64)}, "x is torch.int64"),
        ({"bias": torch.zeros(4)}, "bias is [4]; for x [2, 3, 4, 5]"),
        ({"bias": torch.zeros(3, 1)}, "bias is [3, 1]"),
        ({"bias": torch.zeros(3, dtype=torch.int32)}, "bias is torch.int32"),
        ({"bias": torch.zeros(3, device="meta")}, "bias is on meta"),
        ({"x": torch.zeros(3), "noise": None, "strength": None}, "bias is [3]; for x [3]"),
        ({"noise": None}, "noise and strength"),
        ({"strength": None}, "noise and strength"),
        ({"noise": torch.zeros(3, 1, 4, 5)}, "noise is [3, 1, 4, 5]"),
        ({"noise": torch.zeros(2, 3, 4, 5)}, "noise is [2, 3, 4, 5]"),
        ({"noise": torch.zeros(4, 5)}, "noise is [4, 5]"),
        ({"noise": torch.zeros(2, 1, 5, 4)}, "noise is [2, 1, 5, 4]"),
        ({"noise": torch.zeros(2, 1, 4, 5, requires_grad=True)}, "noise requires a gradient"),
        ({"strength": torch.zeros(1)}, "strength is [1]"),
        ({"strength": torch.zeros([], dtype=torch.bool)}, "strength is torch.bool"),
        ({"activation": "relu"}, "activation is 'relu'; choose linear or lrelu"),
        ({"gain": 0.0}, "gain is 0.0"),
        ({"gain": float("nan")}, "gain is nan"),
        ({"clamp": -1.0}, "clamp is -1.0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_arguments_are_named(backend: str, changes: dict[str, Any], said: str) -> None:
    bias_act(**GOOD)
    with pytest.raises(GanformerError) as caught:
        bias_act(**{**GOOD, **changes})
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("position", "value", "said"),
    [
        (0, torch.zeros(2, 3, 4, 5, dtype=torch.float16), "x must be"),
        (1, torch.zeros(4), "bias must"),
        (1, torch.zeros(3, dtype=torch.float64), "bias must be Float"),
        (2, torch.zeros(2, 1, 4, 4), "noise must"),
        (2, torch.zeros(2, 1, 4, 5, dtype=torch.float64), "noise must be Float"),
        (2, None, "noise and strength"),
        (3, torch.zeros(2), "strength must"),
        (4, 2, "activation must"),
        (5, -1.0, "gain must"),
    ],
)
def test_the_native_operator_never_reads_beyond(native_backend: None, position: int, value: Any, said: str) -> None:
    """Called past the checks in Python it checks by itself."""
    native.serves(GOOD["x"])
    arguments = [*GOOD.values(), 1, 1.0, -1.0]
    torch.ops.ganformer.bias_act(*arguments)
    arguments[position] = value
    with pytest.raises(GanformerError, match=said):
        native.call(torch.ops.ganformer.bias_act, *arguments)


@pytest.mark.parametrize(
    ("position", "value", "said"),
    [
        (0, torch.zeros(2, 3, 4, 4), "grad must"),
        (0, torch.zeros(2, 3, 4, 5, dtype=torch.float64), "grad must be Float"),
        (1, torch.zeros(2, 3, 4, 5, dtype=torch.int32), "out must|grad must"),
        (2, torch.zeros(5, 1, 4, 5), "noise must"),
        (3, None, "noise and strength"),
        (5, -1, "activation must"),
    ],
)
def test_the_native_derivative_never_reads_beyond(native_backend: None, position: int, value: Any, said: str) -> None:
    native.serves(GOOD["x"])
    arguments = [GOOD["x"], GOOD["x"], GOOD["noise"], GOOD["strength"], True, 1, 1.0, -1.0]
    torch.ops.ganformer.bias_act_backward(*arguments)
    arguments[position] = value
    with pytest.raises(GanformerError, match=said):
        native.call(torch.ops.ganformer.bias_act_backward, *arguments)


@pytest.mark.slow
def test_registration(native_backend: None) -> None:
    """The schema is true, and shapes are known without computing."""
    native.serves(GOOD["x"])
    arguments = random_arguments((2, 3, 4, 5), torch.float32)
    x, bias, noise, strength = arguments.values()
    x = x.requires_grad_()
    utils = ("test_schema", "test_faketensor")
    operators = torch.ops.ganformer
    torch.library.opcheck(operators.bias_act.default, (x, bias, noise, strength, 1, 1.0, -1.0), test_utils=utils)
    torch.library.opcheck(
        operators.bias_act_backward.default, (x, x.detach(), noise, strength, True, 1, 1.0, -1.0), test_utils=utils
    )
