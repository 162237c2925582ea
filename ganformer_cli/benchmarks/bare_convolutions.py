"""The time that the convolutions of a computation take by themselves: what is left when all else costs nothing.

The convolutions are written down while they happen, below autograd. Then each is made alone, with random numbers, in
both memory formats and in every equivalent form, and the fastest counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ganformer_cli.benchmarks.measuring import Conditions, Contender, seconds_of
from ganformer_cli.models import convolution

Size = tuple[int, ...]

#: A form that takes so many times as long as the fastest one is not tried again.
HOPELESS = 1.5

_FORMATS = (torch.contiguous_format, torch.channels_last)


class Convolution(NamedTuple):
    """One call, by its sizes."""

    image: Size  # [B, I, H, W]
    weight: Size  # [O, I / groups, k, k]; transposed [I, O / groups, k, k]
    stride: Size = (1, 1)
    padding: Size = (0, 0)
    dilation: Size = (1, 1)
    transposed: bool = False
    output_padding: Size = (0, 0)
    groups: int = 1
    wanted: tuple[bool, bool] | None = None  # gradients by image and by weight; None: it is the forward pass
    dtype: torch.dtype = torch.float32
    by_products: bool = False  # gradients by the weight are products of matrices

    @property
    def is_filter(self) -> bool:
        """Whether every channel is filtered by itself: resampling, and no convolution of the network's."""
        return self.weight[1] == 1 and (self.groups > 1 or self.weight[0] == 1)

    def output(self) -> Size:
        """Size of the result ``[B, O, H', W']``."""
        with torch.device("meta"):
            return tuple(self.run(torch.empty(self.image), torch.empty(self.weight)).shape)

    def run(self, image: Tensor, weight: Tensor, gradient: Tensor | None = None) -> Any:
        """The convolution itself, or of a ``gradient`` those that are wanted."""
        sizes = list(self.stride), list(self.padding), list(self.dilation)
        geometry = *sizes, self.transposed, list(self.output_padding), self.groups
        if gradient is None or self.wanted is None:
            return torch.ops.aten.convolution(image, weight, None, *geometry)
        if self.by_products:
            shape = convolution.ConvShape(self.stride[0], self.padding[0], self.transposed)
            return convolution.gradients_by_products(gradient, image, weight, shape, self.wanted)
        return torch.ops.aten.convolution_backward(gradient, image, weight, None, *geometry, [*self.wanted, False])

    def alone(self, memory_format: torch.memory_format, device: str) -> Callable[[], object]:
        """The call with random numbers."""

        def random(size: Size) -> Tensor:
            return torch.randn(size, device=device).to(self.dtype).contiguous(memory_format=memory_format)

        image, weight = random(self.image), random(self.weight)
        gradient = None if self.wanted is None else random(self.output())
        return lambda: self.run(image, weight, gradient)


class _Recorder(TorchDispatchMode):
    """Counts the convolutions that are made inside of it, those of backward passes too."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[Convolution] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs, aten = kwargs or {}, torch.ops.aten
        if function in (aten.conv2d.default, aten.conv2d.padding, aten.conv_transpose2d.input):
            # Outside of inference mode torch takes these apart before we see them.
            with self:
                return function.decompose(*args, **kwargs)
        if function is aten.convolution.default:
            image, weight, _, *geometry = args
            self._count(image, weight, geometry, None)
        elif function is aten.convolution_backward.default:
            _, image, weight, _, *geometry, wanted = args
            if wanted[0] or wanted[1]:
                self._count(image, weight, geometry, (bool(wanted[0]), bool(wanted[1])))
        return function(*args, **kwargs)

    def _count(self, image: Tensor, weight: Tensor, geometry: list[Any], wanted: tuple[bool, bool] | None) -> None:
        if image.ndim == 4:
            stride, padding, dilation, transposed, output_padding, groups = geometry
            # torch expands sizes that are given as one number by itself
            stride, padding, dilation, output_padding = (
                tuple(size) * (2 // len(size)) for size in (stride, padding, dilation, output_padding)
            )
            shapes = tuple(image.shape), tuple(weight.shape)
            made = Convolution(
                *shapes, stride, padding, dilation, bool(transposed), output_padding, groups, wanted, weight.dtype
            )
            self.calls[made] += 1


def record(call: Callable[[], object]) -> Counter[Convolution]:
    """The network's convolutions in ``call``, and how often each is made; filters do not count."""
    before, convolution.MAX_PRODUCT_POSITIONS = convolution.MAX_PRODUCT_POSITIONS, 0  # gradients, too, are convolutions
    try:
        with _Recorder() as recorder:
            call()
    finally:
        convolution.MAX_PRODUCT_POSITIONS = before
    return Counter({made: count for made, count in recorder.calls.items() if not made.is_filter})


def equivalents(call: Convolution, count: int, batch: int) -> Iterator[tuple[Convolution, float]]:
    """``count`` times ``call``, and what computes the same numbers in other ways: (convolution, how often)."""
    yield call, count
    if call.groups > 1:
        # A weight for each image, made into groups: as costly as one weight for all.
        image = call.image[0] * call.groups, call.image[1] // call.groups, *call.image[2:]
        yield call._replace(image=image, weight=(call.weight[0] // call.groups, *call.weight[1:]), groups=1), count
    elif call.image[0] == 1 and batch > 1:
        # Made image by image, with a weight for each: images scaled before and behind would need one weight.
        together = max(size for size in range(1, batch + 1) if count % size == 0)
        yield call._replace(image=(together, *call.image[1:])), count / together
    elif call.wanted is not None and call.wanted[1] and _is_plain(call):
        yield call._replace(by_products=True), count
    elif (gradient := _as_weight_gradient(call)) is not None:
        yield gradient, count


def _is_plain(call: Convolution) -> bool:
    """Whether it is one that the networks make: square, not dilated, without groups."""
    square = call.stride[0] == call.stride[1] and call.padding[0] == call.padding[1]
    return square and call.dilation == (1, 1) and call.output_padding == (0, 0) and call.weight[2] == call.weight[3]


def _as_weight_gradient(call: Convolution) -> Convolution | None:
    """In second derivatives torch computes a gradient by the weight as a convolution with a weight as large as an
    image. This is the same as the first derivative does it, or None where ``call`` is nothing of that kind."""
    if call.wanted is not None or call.transposed or min(call.weight[2:]) < 4:
        return None
    output = call.output()
    if min(output[2:]) < 1 or max(output[2:]) >= min(call.weight[2:]):
        return None
    # Its kernel is the output, and its output as large as the kernel; with a stride the former may come out larger.
    for surplus in range(max(call.dilation)):
        gradient = Convolution(
            image=(call.image[1], call.image[0], *call.image[2:]),
            weight=(call.weight[0], call.image[0], *(size - surplus for size in output[2:])),
            stride=call.dilation,
            padding=call.padding,
            dilation=call.stride,
            wanted=(False, True),
            dtype=call.dtype,
        )
        if gradient.output()[2:] == call.weight[2:]:
            return gradient
    return None


class BareConvolutions:
    """Times the convolutions of a computation in their fastest forms.

    Args:
        calls: how often each is made.
        batch: images that the computation takes, to know a loop over them.
        conditions: under which.
    """

    def __init__(self, calls: Mapping[Convolution, int], batch: int, conditions: Conditions) -> None:
        self.conditions = conditions
        #: For each call the forms and memory formats that may be the fastest, and how often the form is made.
        self.candidates = [
            {(form, layout): times for form, times in equivalents(call, count, batch) for layout in _FORMATS}
            for call, count in calls.items()
        ]

    def sample(self) -> float:
        """Seconds of all convolutions together, each in the form that was the fastest this time."""
        total = 0.0
        for forms in self.candidates:
            taken = {form: times * self.seconds_alone(*form) for form, times in forms.items()}
            least = min(taken.values())
            for form, seconds in taken.items():
                if seconds > HOPELESS * least:
                    del forms[form]
            total += least
        return total

    def seconds_alone(self, call: Convolution, memory_format: torch.memory_format) -> float:
        """Seconds of one convolution by itself."""
        run = call.alone(memory_format, self.conditions.device)
        first = seconds_of(run, 1, self.conditions)  # it may have built something
        loops = max(1, min(100, round(self.conditions.sample / max(first, 1e-9))))
        return seconds_of(run, loops, self.conditions)


def bare_convolutions(run: Callable[[], object], batch: int, conditions: Conditions) -> Iterator[tuple[str, Contender]]:
    """The bare convolutions of ``run`` as what it is measured against."""
    bare = BareConvolutions(record(run), batch, conditions)
    yield "bare convolutions", Contender(measure=lambda: (bare.sample(), None))
