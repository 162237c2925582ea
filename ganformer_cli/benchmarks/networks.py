"""The generator, and whole training steps with optimisers and moving average, against their bare convolutions.

Bare is the time that the convolutions of a computation take by themselves: what is left when all else costs nothing.
They are written down while they happen, below autograd. Then each is made alone, with random numbers, in both memory
formats and in every equivalent form, and the fastest counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ganformer_cli.benchmarks.measuring import Case, Conditions, Contender, Contenders, own_and_plain
from ganformer_cli.config import ModelConfig, RunConfig
from ganformer_cli.models import convolution
from ganformer_cli.models.generator import Generator
from ganformer_cli.models.precision import HALF, use_half
from ganformer_cli.training.gan import GANTrainer
from ganformer_cli.training.network_trainer import RunningMeans

#: Weight of path length regularisation where the configuration has none: that of StyleGAN2.
PL_WEIGHT = 2.0
#: A form of a convolution that takes so many times as long as the fastest one is not tried again.
HOPELESS = 1.5

_FORMATS = (torch.contiguous_format, torch.channels_last)
Size = tuple[int, ...]


def generator_cases(conditions: Conditions, config: ModelConfig, images: int) -> list[Case]:
    """A generator with random weights as it makes images, in evaluation mode."""

    def build() -> Contenders:
        generator = Generator(config).to(conditions.device).eval()
        if conditions.precision in HALF:
            use_half(generator, HALF[conditions.precision])
        z = torch.randn(images, *config.z_shape, device=conditions.device)
        run = torch.inference_mode()(partial(generator, z))
        yield [*own_and_plain(run), bare_convolutions(run, images, conditions)]

    return [Case(what=f"{config.attention}, {config.resolution} px, forward", images=images, build=build)]


def training_cases(conditions: Conditions, config: RunConfig) -> list[Case]:
    """Steps without and with each regularisation."""
    given, cases = config.train, []
    weights = {"training step": (0.0, 0.0), "with R1": (given.gamma or 1.0, 0.0)}
    for kind, (gamma, pl_weight) in {**weights, "with path length": (0.0, given.pl_weight or PL_WEIGHT)}.items():
        changed = replace(config, train=replace(given, gamma=gamma, pl_weight=pl_weight))
        what = f"{config.model.attention}, {config.model.resolution} px, {kind}"
        cases.append(Case(what=what, images=given.batch_size, build=partial(build_training, conditions, changed)))
    return cases


def build_training(conditions: Conditions, config: RunConfig) -> Contenders:
    """An update of both networks from random images, with the regularisation of ``config``."""
    gan, count = GANTrainer(config, torch.device(conditions.device)), config.train.batch_size
    images = torch.randint(0, 256, (count, 3, *config.model.image_size), dtype=torch.uint8)
    labels = torch.zeros(count, config.model.c_dim)

    def step() -> None:
        gan.step((images, labels), 0, RunningMeans())  # step 0 is one of those that regularise
        gan.average(count)

    yield [*own_and_plain(step), bare_convolutions(step, config.train.micro_batch, conditions)]


# ----- Bare convolutions -----


class Convolution(NamedTuple):
    """One call, by its sizes."""

    image: Size  # [B, I, H, W]
    weight: Size  # [O, I, k, k]; transposed [I, O, k, k]
    stride: Size = (1, 1)
    padding: Size = (0, 0)
    dilation: Size = (1, 1)
    transposed: bool = False
    output_padding: Size = (0, 0)
    wanted: tuple[bool, bool] | None = None  # gradients by image and by weight; None: it is the forward pass
    dtype: torch.dtype = torch.float32
    by_products: bool = False  # gradients by the weight are products of matrices

    def output(self) -> Size:
        """Size of the result ``[B, O, H', W']``."""
        with torch.device("meta"):
            return tuple(self._replace(wanted=None).run(torch.empty(self.image), torch.empty(self.weight)).shape)

    def run(self, image: Tensor, weight: Tensor, gradient: Tensor | None = None) -> Any:
        """The convolution itself, or of a ``gradient`` those that are wanted."""
        geometry = *self[2:7], 1
        if self.wanted is None:
            return torch.ops.aten.convolution(image, weight, None, *geometry)
        if self.by_products:
            assert gradient is not None
            shape = convolution.ConvShape(self.stride[0], self.padding[0], self.transposed)
            return convolution.gradients_by_products(gradient, image, weight, shape, self.wanted)
        return torch.ops.aten.convolution_backward(gradient, image, weight, None, *geometry, [*self.wanted, False])


class _Recorder(TorchDispatchMode):
    """Counts the networks' convolutions inside of it, those of backward passes too."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[Convolution] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        wanted = None
        if function is torch.ops.aten.convolution_backward.default:
            _, image, weight, _, *geometry, groups, (*wanted, _) = args
        elif function is torch.ops.aten.convolution.default:
            image, weight, _, *geometry, groups = args
        else:
            return function(*args, **kwargs or {})
        # What filters each channel by itself is no convolution of a network. torch expands sizes given as one number.
        if groups == 1 and weight.shape[:2] != (1, 1) and (wanted is None or any(wanted)):
            geometry = [tuple(size) * (2 // len(size)) if isinstance(size, Sequence) else size for size in geometry]
            sizes = [tuple(image.shape), tuple(weight.shape), *geometry]
            self.calls[Convolution._make([*sizes, wanted and tuple(wanted), weight.dtype, False])] += 1
        return function(*args, **kwargs or {})


def record(call: Callable[[], object]) -> Counter[Convolution]:
    """The networks' convolutions in ``call``, and how often each is made."""
    before, convolution.TORCH_ALONE = convolution.TORCH_ALONE, True
    try:
        with _Recorder() as recorder:
            call()
    finally:
        convolution.TORCH_ALONE = before
    return recorder.calls


def equivalents(call: Convolution, count: int, batch: int) -> Iterator[tuple[Convolution, float]]:
    """``count`` times ``call``, and what computes the same numbers in other ways: (convolution, how often)."""
    yield call, count
    if call.image[0] == 1 and batch > 1:
        # Made image by image, with a weight for each: images scaled before and behind would need one weight.
        together = max(size for size in range(1, batch + 1) if count % size == 0)
        yield call._replace(image=(together, *call.image[1:])), count / together
    elif call.wanted is not None and call.wanted[1]:
        yield call._replace(by_products=True), count
    elif call.wanted is None and not call.transposed and 4 <= min(call.weight[2:]) > max(call.output()[2:]):
        # In second derivatives torch computes a gradient by the weight as a convolution with a weight as large as an
        # image. The first derivative has the same with the result's gradient as large as that.
        image = call.image[1], call.image[0], *call.image[2:]
        weight = call.weight[0], call.image[0], *call.output()[2:]
        swapped = call._replace(image=image, weight=weight, stride=call.dilation, dilation=call.stride)
        yield swapped._replace(wanted=(False, True)), count


def bare_convolutions(run: Callable[[], object], batch: int, conditions: Conditions) -> Contender:
    """The convolutions of ``run``, each in the form that is the fastest at the moment.

    ``run`` takes ``batch`` images, to know a loop over them. It is made once, when the first sample is taken.
    """
    #: For each convolution the forms and memory formats that may be the fastest, and how often it is made so.
    candidates: list[dict[tuple[Convolution, torch.memory_format], float]] = []

    def seconds() -> float:
        for call, count in record(run).items() if not candidates else ():
            forms = equivalents(call, count, batch)
            candidates.append({(form, layout): times for form, times in forms for layout in _FORMATS})
        total = 0.0
        for candidate in candidates:
            taken = {form: times * seconds_alone(*form, conditions) for form, times in candidate.items()}
            least = min(taken.values())
            for form in [form for form, seconds in taken.items() if seconds > HOPELESS * least]:
                del candidate[form]
            total += least
        return total

    return Contender(name="bare convolutions", call=seconds, clocks_itself=True)


def seconds_alone(call: Convolution, memory_format: torch.memory_format, conditions: Conditions) -> float:
    """Seconds of one convolution by itself, with random numbers."""
    sizes = [call.image, call.weight, *([call.output()] if call.wanted else [])]
    tensors = [torch.randn(size, device=conditions.device, dtype=call.dtype) for size in sizes]
    tensors = [tensor.contiguous(memory_format=memory_format) for tensor in tensors]
    alone = Contender(call=lambda: call.run(*tensors))
    alone.warm_up(conditions.sample)
    return alone.sample()
