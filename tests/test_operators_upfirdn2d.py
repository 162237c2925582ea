"""``upfirdn2d``: its definition, its derivatives, and that native code and plain torch are the same function."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from ganformer_cli.errors import GanformerError
from ganformer_cli.operators import native
from ganformer_cli.operators.upfirdn2d import binomial_filter, upfirdn2d, upfirdn2d_reference

FORMATS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}


class Case(NamedTuple):
    """What is done to an image, and the image's size."""

    size: tuple[int, ...] = (2, 3, 5, 7)
    taps: tuple[int, ...] = (4,)  # the filter's shape: one number for a separable one
    up: int = 1
    down: int = 1
    padding: tuple[int, int] = (0, 0)


CASES = [
    # Every length of filter, separable and not, with "same" padding.
    *(Case(taps=(length,), padding=(length // 2, (length - 1) // 2)) for length in range(1, 13)),
    *(Case(taps=(length, 13 - length), padding=(6, 6)) for length in range(1, 13)),
    # Every pair of factors, also where the phases of the filter have different numbers of taps, or none.
    *(Case(taps=(k,), up=up, down=down, padding=(2, 1)) for up in range(1, 5) for down in range(1, 5) for k in (3, 4)),
    *(Case(taps=(2, 5), up=up, down=down, padding=(1, 3)) for up, down in ((2, 1), (1, 2), (3, 2), (2, 4))),
    Case(taps=(1,), up=5, down=3),
    # What the networks do, at odd sizes.
    Case((2, 17, 9, 33), (4,), padding=(1, 1)),
    Case((2, 17, 9, 33), (4,), padding=(2, 2)),
    Case((2, 17, 9, 33), (4,), up=2, padding=(2, 1)),
    Case((2, 17, 9, 33), (4,), down=2, padding=(1, 1)),
    # Cropping, also of more than there is, and on one side only; and much padding.
    Case(taps=(3,), padding=(-1, -1)),
    Case(taps=(4,), up=2, padding=(-3, 2)),
    Case(taps=(2, 2), up=3, down=2, padding=(5, -4)),
    Case(taps=(2,), padding=(9, -6)),
    Case(taps=(2,), padding=(-8, 10)),
    Case(taps=(4,), down=3, padding=(20, 13)),
    # One position, one row, one channel; nothing at all; a result without rows.
    Case((1, 1, 1, 1), (4,), up=2, padding=(2, 1)),
    Case((3, 2, 1, 40), (4,), padding=(2, 1)),
    Case((2, 1, 40, 1), (4,), down=2, padding=(1, 2)),
    Case((0, 3, 4, 4), (4,), up=2, padding=(2, 1)),
    Case((2, 0, 4, 4), (4,), up=2, padding=(2, 1)),
    Case((2, 3, 0, 5), (4,), padding=(3, 2)),
    Case((2, 3, 0, 5), (4,), up=2, padding=(3, 2)),
    Case((2, 3, 4, 9), (5,), padding=(0, 0)),
    Case((2, 3, 4, 9), (1,), padding=(-1, -3)),
    # Wider and deeper than the tiles that the native operator works in.
    Case((1, 1, 2, 5000), (4,), up=2, padding=(2, 1)),
    Case((1, 1, 2, 9001), (4,), down=2, padding=(1, 1)),
    Case((1, 1, 2, 9001), (6,), up=3, down=2, padding=(1, 1)),
    Case((1, 700, 3, 50), (4,), up=2, padding=(2, 1)),
    Case((1, 300, 3, 50), (4,), padding=(1, 1)),
    Case((1, 300, 3, 50), (3, 4), down=2, padding=(1, 1)),
]


def draw(case: Case, layout: str = "contiguous", dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """An image and a filter."""
    generator = torch.Generator().manual_seed(sum(case.size) + sum(case.taps))
    x = torch.randn(case.size, generator=generator, dtype=dtype).contiguous(memory_format=FORMATS[layout])
    return x, torch.randn(case.taps, generator=generator, dtype=dtype)


def run(case: Case, x: Tensor, kernel: Tensor, gain: float = 1.0) -> Tensor:
    return upfirdn2d(x, kernel, up=case.up, down=case.down, padding=case.padding, gain=gain)


def definition(case: Case, x: Tensor, kernel: Tensor, gain: float = 1.0) -> Tensor:
    """Zeros inserted, padded, filtered, every so-many-th kept: each step by itself."""
    batch, channels, height, width = x.shape
    kernel = torch.outer(kernel, kernel) if kernel.ndim == 1 else kernel
    kh, kw = kernel.shape
    margin = 24
    rows, columns = height * case.up, width * case.up
    padded = x.new_zeros(batch, channels, rows + 2 * margin, columns + 2 * margin)
    padded[:, :, margin : margin + rows : case.up, margin : margin + columns : case.up] = x
    before, after = case.padding
    padded = padded[:, :, margin - before : margin + rows + after, margin - before : margin + columns + after]
    out_rows, out_columns = max(padded.shape[2] - kh + 1, 0), max(padded.shape[3] - kw + 1, 0)
    out = x.new_zeros(batch, channels, out_rows, out_columns)
    for i in range(kh):
        for j in range(kw):
            out += kernel[kh - 1 - i, kw - 1 - j] * padded[:, :, i : i + out_rows, j : j + out_columns]
    return out[:, :, :: case.down, :: case.down] * gain


@pytest.mark.slow
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_definition(backend: str, case: Case, layout: str) -> None:
    x, kernel = draw(case, layout)
    out = run(case, x, kernel, gain=1.7)
    torch.testing.assert_close(out, definition(case, x, kernel, gain=1.7), rtol=1e-12, atol=1e-12)
    assert out.is_contiguous(memory_format=FORMATS["contiguous" if x.is_contiguous() else layout])


@pytest.mark.slow
def test_separable_is_the_product_with_itself(backend: str) -> None:
    x, kernel = draw(Case(taps=(5,)))
    options: dict[str, Any] = {"up": 2, "down": 3, "padding": (2, 2)}
    torch.testing.assert_close(upfirdn2d(x, kernel, **options), upfirdn2d(x, torch.outer(kernel, kernel), **options))


def test_the_binomial_filter_keeps_the_mean() -> None:
    assert binomial_filter().tolist() == [0.125, 0.375, 0.375, 0.125]
    assert binomial_filter((1, 2)).sum() == 1


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize(
    "case",
    [
        Case((2, 2, 3, 4), (4,), up=2, padding=(2, 1)),
        Case((2, 2, 4, 3), (4,), padding=(1, 1)),
        Case((2, 2, 5, 4), (4,), down=2, padding=(1, 1)),
        # The last samples meet no window, or only part of one.
        Case((1, 2, 6, 5), (3,), down=4),
        Case((1, 2, 5, 6), (2, 3), up=2, down=3, padding=(2, -1)),
        Case((1, 2, 6, 7), (3,), padding=(-1, -2)),
        Case((1, 1, 3, 2), (1, 5), up=3, down=2, padding=(4, 7)),
        Case((1, 2, 2, 2), (1,), up=3, down=2),
        Case((0, 2, 3, 3), (4,), up=2, padding=(2, 1)),
        Case((1, 2, 4, 4), (5,)),
    ],
    ids=str,
)
def test_derivatives(backend: str, case: Case, layout: str) -> None:
    x, kernel = draw(case)
    x.requires_grad_()

    def function(x: Tensor) -> Tensor:
        return run(case, x.contiguous(memory_format=FORMATS[layout]), kernel, gain=1.7)

    assert gradcheck(function, x)
    assert gradgradcheck(function, x, fast_mode=True)


def test_it_is_its_own_derivative(native_backend: None) -> None:
    """To any order: the gradient of a gradient comes from the operator, too, and is the operator again."""
    x, kernel = draw(Case())
    x.requires_grad_()
    out = upfirdn2d(x, kernel, up=2, padding=(2, 1))
    probe = torch.randn_like(out).requires_grad_()
    (dx,) = torch.autograd.grad(out, x, probe, create_graph=True)
    assert "upfirdn2d" in type(dx.grad_fn).__name__.lower()
    other = torch.randn_like(x).requires_grad_()
    (again,) = torch.autograd.grad(dx, probe, other, create_graph=True)
    torch.testing.assert_close(again, upfirdn2d(other, kernel, up=2, padding=(2, 1)))
    assert "upfirdn2d" in type(again.grad_fn).__name__.lower()


@pytest.mark.parametrize("layout", FORMATS)
def test_gradients_of_any_memory_layout(backend: str, layout: str) -> None:
    """Expanded, as of a mean, or in the layout that the image has not: the gradient has the image's."""
    case = Case((2, 3, 6, 7), up=2, padding=(2, 1))
    x, kernel = draw(case, layout)
    x.requires_grad_()
    out = run(case, x, kernel)
    for grad in (
        x.new_tensor(0.25).expand_as(out),
        x.new_ones(1, 3, 1, 1).cumsum(1).expand_as(out),
        torch.randn_like(out, memory_format=torch.channels_last),
        torch.randn_like(out, memory_format=torch.contiguous_format),
    ):
        (found,) = torch.autograd.grad(out, x, grad, retain_graph=True)
        expected = grad.clone(memory_format=torch.contiguous_format)
        (expected,) = torch.autograd.grad(upfirdn2d_reference(x, kernel, up=2, padding=(2, 1)), x, expected)
        torch.testing.assert_close(found, expected)
        assert found.is_contiguous(memory_format=FORMATS[layout])


def test_other_memory_layouts(backend: str) -> None:
    kernel = binomial_filter()
    base = torch.randn(2, 3, 16, 16)
    views = {
        "every second": base[:, :, ::2, ::2],
        "expanded": base[:1, :, :8, :8].expand(2, -1, -1, -1),
        "turned": base[:, :, :8, :8].transpose(2, 3),
        "a slice of channels": torch.randn(2, 5, 8, 8)[:, 1:4],
    }
    for name, view in views.items():
        found, expected = (upfirdn2d(x, kernel, up=2, padding=(2, 1)) for x in (view, view.contiguous()))
        torch.testing.assert_close(found, expected, msg=name)
    turned = torch.randn(4, 4)
    torch.testing.assert_close(upfirdn2d(base, turned.t()), upfirdn2d(base, turned.t().contiguous()))


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("up", [1, 2, 3])
def test_nan_goes_where_the_filter_reaches_and_no_further(backend: str, up: int, layout: str) -> None:
    for length in (3, 4):
        case = Case((1, 2, 9, 9), (length,), up=up, padding=(2, 1))
        x, kernel = draw(case, layout)
        spot = torch.zeros_like(x)
        spot[0, 1, 4, 5] = 1
        x[0, 1, 4, 5] = float("nan")
        assert torch.equal(run(case, x, kernel).isnan(), definition(case, spot, kernel.abs()) > 0)


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "case",
    [
        Case((2, 33, 31, 29), (4,), up=2, padding=(2, 1)),
        Case((2, 33, 31, 29), (4,), padding=(1, 1)),
        Case((2, 33, 31, 29), (4,), down=2, padding=(1, 1)),
        Case((2, 5, 31, 29), (12,), up=3, down=2, padding=(5, 6)),
        Case((2, 5, 31, 29), (6, 7), padding=(3, 3)),
    ],
    ids=str,
)
def test_as_exact_as_plain_torch(native_backend: None, case: Case, dtype: torch.dtype, layout: str) -> None:
    """Against float64, at most twice the error of plain torch in the same precision; results and gradients."""
    x, kernel = (t.to(dtype) for t in draw(case, layout))
    options: dict[str, Any] = {"up": case.up, "down": case.down, "padding": case.padding, "gain": 4}
    shape = upfirdn2d(x, kernel, **options).shape
    grad = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)

    def results(function: Any, dtype: torch.dtype) -> list[Tensor]:
        leaf = x.to(dtype).requires_grad_()
        out = function(leaf, kernel.to(dtype), **options)
        return [out, *torch.autograd.grad(out, leaf, grad.to(dtype))]

    truth = results(upfirdn2d_reference, torch.float64)
    ours, plain = results(upfirdn2d, dtype), results(upfirdn2d_reference, dtype)
    for one, other, true in zip(ours, plain, truth, strict=True):
        assert one.dtype == dtype
        assert (one.double() - true).abs().max() <= 2 * (other.double() - true).abs().max()


@pytest.mark.parametrize("layout", FORMATS)
def test_large_results_are_the_same_as_small_ones(native_backend: None, layout: str) -> None:
    """Those that the native operator writes past the caches; at odd sizes, whose rows begin anywhere."""
    x = torch.randn(1, 33, 511, 507).contiguous(memory_format=FORMATS[layout])
    out = upfirdn2d(x, binomial_filter(), padding=(2, 2))
    assert out.numel() * 4 > 2**25
    for channels in (slice(0, 5), slice(30, 33)):
        part = x[:, channels].contiguous(memory_format=FORMATS[layout])
        torch.testing.assert_close(out[:, channels], upfirdn2d(part, binomial_filter(), padding=(2, 2)))


@pytest.mark.parametrize("layout", FORMATS)
def test_the_number_of_threads_changes_nothing(native_backend: None, layout: str) -> None:
    threads = torch.get_num_threads()
    case = Case((3, 17, 61, 67), (4,), up=2, padding=(2, 1))
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(run(case, *draw(case, layout, torch.float32)))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_half_precision_on_a_cpu_is_left_to_plain_torch() -> None:
    x = torch.randn(2, 3, 8, 8)
    out = upfirdn2d(x.half(), binomial_filter(), up=2, padding=(2, 1))
    assert out.dtype == torch.float16
    torch.testing.assert_close(out.float(), upfirdn2d(x, binomial_filter(), up=2, padding=(2, 1)), rtol=0, atol=1e-2)


def test_filters_of_another_precision(backend: str) -> None:
    x = torch.randn(2, 3, 8, 8)
    expected = upfirdn2d(x, binomial_filter(), padding=(1, 2))
    for dtype in (torch.bfloat16, torch.float16, torch.float64):  # all of which have these numbers exactly
        torch.testing.assert_close(upfirdn2d(x, binomial_filter().to(dtype), padding=(1, 2)), expected)


GOOD: dict[str, Any] = {"x": torch.zeros(2, 3, 4, 5), "kernel": binomial_filter(), "padding": (1, 1)}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"x": torch.zeros(3, 4, 5)}, "x is [3, 4, 5]"),
        ({"x": torch.zeros(2, 3, 4, 5, dtype=torch.int64)}, "torch.int64"),
        ({"kernel": torch.zeros(1, 2, 2)}, "kernel is [1, 2, 2]"),
        ({"kernel": torch.zeros([])}, "kernel is []"),
        ({"kernel": torch.zeros(0)}, "kernel is [0]"),
        ({"kernel": torch.zeros(4, dtype=torch.int64)}, "kernel is [4], torch.int64"),
        ({"kernel": torch.zeros(4, requires_grad=True)}, "kernel requires a gradient"),
        ({"kernel": torch.zeros(4, device="meta")}, "kernel is on meta"),
        ({"up": 0}, "up is 0"),
        ({"down": -1}, "down is -1"),
        ({"padding": (0, -2)}, "padding (0, -2)"),
        ({"padding": (1, 1), "kernel": torch.zeros(9, 1)}, "kernel [9, 1]"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_arguments_are_named(backend: str, changes: dict[str, Any], said: str) -> None:
    upfirdn2d(**GOOD)
    with pytest.raises(GanformerError) as caught:
        upfirdn2d(**{**GOOD, **changes})
    assert said in str(caught.value)


@pytest.mark.not_wine("tensors of 48 MB fault in its ntdll now and then, with plain torch, too")
@pytest.mark.parametrize(
    ("position", "value", "said"),
    [
        (0, torch.zeros(2, 3, 4), "x must be"),
        (0, torch.zeros(2, 3, 4, 5, dtype=torch.float16), "x must be"),
        (1, torch.zeros(2, 2, 2), "taps must"),
        (1, torch.zeros(0), "taps must"),
        (1, torch.zeros(4, dtype=torch.int64), "taps must"),
        (2, 0, "up must"),
        (3, -2, "down must"),
        (4, 2**40, "before"),
        (5, -(2**63), "before"),
        (6, -1, "height and width"),
        (7, 2**40, "height and width"),
    ],
)
def test_the_native_operator_never_reads_beyond(native_backend: None, position: int, value: Any, said: str) -> None:
    """Called past the checks in Python it checks by itself; any padding and any size are only more zeros."""
    native.serves(GOOD["x"])
    arguments = [torch.ones(2, 3, 4, 5), GOOD["kernel"], 1, 1, 1, 1, 3, 4, False, 1.0]
    inside = torch.ops.ganformer.upfirdn2d(*arguments)
    arguments[4:8] = [1001, 501, 2003, 1004]
    outside = torch.ops.ganformer.upfirdn2d(*arguments)
    torch.testing.assert_close(outside[:, :, 1000:1003, 500:504], inside)
    assert outside.sum() == pytest.approx(float(torch.ones(2, 3, 4, 5).sum()), rel=1e-5)
    arguments[position] = value
    with pytest.raises(GanformerError, match=said):
        native.call(torch.ops.ganformer.upfirdn2d, *arguments)


@pytest.mark.slow
def test_registration(native_backend: None) -> None:
    """The schema is true, and shapes are known without computing."""
    native.serves(GOOD["x"])
    for layout in FORMATS:
        x, kernel = draw(Case(), layout, torch.float32)
        utils = ("test_schema", "test_faketensor")
        arguments = (x.requires_grad_(), kernel, 2, 1, 2, 2, 10, 14, False, 1.0)
        torch.library.opcheck(torch.ops.ganformer.upfirdn2d.default, arguments, test_utils=utils)
