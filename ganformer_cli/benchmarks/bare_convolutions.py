"""The time that the convolutions of a computation take by themselves: what is left when all else costs nothing.

The convolutions are written down while they happen, below autograd. Then each is made alone, with random numbers, in
both memory formats and in every equivalent form, and the fastest counts.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ganformer_cli.benchmarks.measuring import Conditions, Timing, sample_of

Size = tuple[int, ...]

#: A memory format that takes so many times as long as the other is not tried again.
HOPELESS = 1.5

_FORMATS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}


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

    @property
    def is_filter(self) -> bool:
        """Whether every channel is filtered by itself: resampling, and no convolution of the network's."""
        return self.weight[1] == 1 and (self.groups > 1 or self.weight[0] == 1)

    def output(self) -> Size:
        """Size of the result ``[B, O, H', W']``."""
        with torch.device("meta"):
            result = self.forward(torch.empty(self.image), torch.empty(self.weight))
        return tuple(result.shape)

    def forward(self, image: Tensor, weight: Tensor) -> Tensor:
        """The convolution itself."""
        return torch.ops.aten.convolution(image, weight, None, *self._geometry())

    def backward(self, gradient: Tensor, image: Tensor, weight: Tensor) -> Any:
        """The gradients that are wanted."""
        assert self.wanted is not None
        wanted = [*self.wanted, False]
        return torch.ops.aten.convolution_backward(gradient, image, weight, None, *self._geometry(), wanted)

    def _geometry(self) -> tuple[Any, ...]:
        sizes = (list(self.stride), list(self.padding), list(self.dilation))
        return *sizes, self.transposed, list(self.output_padding), self.groups


class ConvolutionRecorder(TorchDispatchMode):
    """Counts the convolutions that are made inside of it, those of backward passes too."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[Convolution] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        aten = torch.ops.aten
        if function in (aten.conv2d.default, aten.conv2d.padding, aten.conv_transpose2d.input):
            # Outside of inference mode torch takes these apart before we see them.
            with self:
                return function.decompose(*args, **kwargs)
        if function is aten.convolution.default:
            image, weight, _, *geometry = args
            self._note(image, weight, geometry, None)
        elif function is aten.convolution_backward.default:
            _, image, weight, _, *geometry, wanted = args
            if wanted[0] or wanted[1]:
                self._note(image, weight, geometry, (bool(wanted[0]), bool(wanted[1])))
        return function(*args, **kwargs)

    def _note(self, image: Tensor, weight: Tensor, geometry: list[Any], wanted: tuple[bool, bool] | None) -> None:
        stride, padding, dilation, transposed, output_padding, groups = geometry
        if image.ndim == 4:  # of pictures; torch expands sizes given as one number itself
            sizes = [tuple(size) * (2 // len(size)) for size in (stride, padding, dilation, output_padding)]
            call = Convolution(
                image=tuple(image.shape),
                weight=tuple(weight.shape),
                stride=sizes[0],
                padding=sizes[1],
                dilation=sizes[2],
                transposed=bool(transposed),
                output_padding=sizes[3],
                groups=groups,
                wanted=wanted,
                dtype=weight.dtype,
            )
            self.calls[call] += 1


def record(call: Callable[[], object]) -> Counter[Convolution]:
    """The network's convolutions in ``call``, and how often each is made; filters do not count."""
    with ConvolutionRecorder() as recorder:
        call()
    return Counter({made: count for made, count in recorder.calls.items() if not made.is_filter})


def equivalents(call: Convolution, count: int, batch: int) -> Iterator[tuple[Convolution, float]]:
    """``count`` times ``call``, and what computes the same numbers in other ways: (convolution, how often)."""
    yield call, count
    if call.groups > 1:
        # A weight for each picture, made into groups: as costly as one weight for all.
        batched = call._replace(
            image=(call.image[0] * call.groups, call.image[1] // call.groups, *call.image[2:]),
            weight=(call.weight[0] // call.groups, *call.weight[1:]),
            groups=1,
        )
        yield batched, count
    elif call.image[0] == 1 and batch > 1:
        # Made picture by picture, with a weight for each: pictures scaled before and behind would need one weight.
        together = max(size for size in range(1, batch + 1) if count % size == 0)
        yield call._replace(image=(together, *call.image[1:])), count / together
    elif (gradient := _as_weight_gradient(call)) is not None:
        yield gradient, count


def _as_weight_gradient(call: Convolution) -> Convolution | None:
    """A convolution with a weight as large as an image is how torch says "gradient by the weight" in second
    derivatives; this is the same as the first derivative says it, or None where ``call`` is nothing of that kind."""
    if call.wanted is not None or call.transposed or min(call.weight[2:]) < 4:
        return None
    output = call.output()
    if min(output[2:]) < 1 or max(output[2:]) >= min(call.weight[2:]):
        return None
    # Its kernel is the output, and its output as large as the kernel; with a stride the former may come out larger.
    for surplus in range(max(call.dilation)):
        kernel = tuple(size - surplus for size in output[2:])
        gradient = Convolution(
            image=(call.image[1], call.image[0], *call.image[2:]),
            weight=(call.weight[0], call.image[0], *kernel),
            stride=call.dilation,
            padding=call.padding,
            dilation=call.stride,
            wanted=(False, True),
            dtype=call.dtype,
        )
        if gradient.output()[2:] == call.weight[2:]:
            return gradient
    return None


class Clock:
    """Times convolutions by themselves, and remembers all samples.

    Args:
        conditions: under which.
    """

    def __init__(self, conditions: Conditions) -> None:
        self.conditions = conditions
        self._samples: dict[tuple[Convolution, str], list[float]] = {}

    def sample(self, call: Convolution) -> None:
        """Time ``call`` once more, in each memory format that may be the best."""
        known = {layout: self._samples.setdefault((call, layout), []) for layout in _FORMATS}
        best = min((min(taken) for taken in known.values() if taken), default=math.inf)
        for layout, taken in known.items():
            if not taken or min(taken) <= HOPELESS * best:
                run = self._alone(call, _FORMATS[layout])
                seconds = sample_of(run, 1, self.conditions)  # the first call may have built something
                loops = max(1, min(100, round(self.conditions.sample / max(seconds, 1e-9))))
                taken.append(sample_of(run, loops, self.conditions))

    def timing(self, call: Convolution) -> Timing:
        """Seconds of ``call`` in the better memory format."""
        found = [self._samples[call, layout] for layout in _FORMATS]
        return min(Timing(min(taken), statistics.median(taken), len(taken)) for taken in found)

    def _alone(self, call: Convolution, layout: torch.memory_format) -> Callable[[], object]:
        """The convolution with random numbers in a memory format."""

        def random(size: Size) -> Tensor:
            numbers = torch.randn(size, device=self.conditions.device).to(call.dtype)
            return numbers.contiguous(memory_format=layout)

        image, weight = random(call.image), random(call.weight)
        if call.wanted is None:
            return lambda: call.forward(image, weight)
        gradient = random(call.output())
        return lambda: call.backward(gradient, image, weight)


class BareConvolutions:
    """The time that convolutions take in their fastest forms.

    Args:
        calls: how often each is made.
        batch: pictures that the computation takes, to know a loop over them.
        clock: may have samples already, of another computation.
    """

    def __init__(self, calls: Mapping[Convolution, int], batch: int, clock: Clock) -> None:
        self.forms = [list(equivalents(call, count, batch)) for call, count in calls.items()]
        self.clock = clock

    def sample(self) -> None:
        """Time every form once more."""
        for call in {call for forms in self.forms for call, _ in forms}:
            self.clock.sample(call)

    def timing(self) -> Timing:
        """Seconds of all calls together."""
        least = median = 0.0
        samples = 0
        for forms in self.forms:
            timings = [(self.clock.timing(call), times) for call, times in forms]
            timing, times = min(timings, key=lambda form: form[0].least * form[1])
            least += timing.least * times
            median += timing.median * times
            samples = max(samples, timing.samples)
        return Timing(least, median, samples)
