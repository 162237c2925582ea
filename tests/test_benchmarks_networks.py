"""What the networks are compared with: the layer pixel by pixel, and the bare convolutions."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ganformer_cli.benchmarks import networks
from ganformer_cli.benchmarks.measuring import Conditions
from ganformer_cli.benchmarks.networks import Convolution, bare_convolutions, equivalents, record
from ganformer_cli.benchmarks.operators import contenders_for
from ganformer_cli.models.convolution import conv2d


def test_what_a_call_keeps_is_counted_without_what_it_is_given() -> None:
    x = torch.randn(2, 16, 64, requires_grad=True)
    # Keeps sin's input, which is given, then exp's output, which is as large.
    own, *_ = contenders_for(lambda: x.sin().exp(), [x])
    assert own.kept == 1.0
    own, *_ = contenders_for(lambda: x.sin().exp(), [x.detach()])
    assert own.kept is None


class Small(nn.Module):
    """A filter, a convolution, one that up-samples, and one whose weight differs from picture to picture."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Parameter(torch.randn(6, 3, 3, 3))
        self.up = nn.Parameter(torch.randn(6, 4, 3, 3))
        self.each = nn.Parameter(torch.randn(2, 5, 4, 3, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.conv2d(x, torch.ones(3, 1, 2, 2), groups=3)
        return conv2d(conv2d(conv2d(x, self.plain, padding=1), self.up, stride=2, transposed=True), self.each)


PLAIN = Convolution(image=(2, 3, 7, 7), weight=(6, 3, 3, 3), padding=(1, 1))
UP = Convolution(image=(2, 6, 7, 7), weight=(6, 4, 3, 3), stride=(2, 2), transposed=True)
EACH = Convolution(image=(1, 4, 15, 15), weight=(5, 4, 3, 3))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_convolutions_of_a_forward_pass_are_recorded(mode: type) -> None:
    net, x = Small(), torch.randn(2, 3, 8, 8)
    with mode():
        assert record(lambda: net(x)) == Counter({PLAIN: 1, UP: 1, EACH: 2})


def test_convolutions_of_a_backward_pass_are_recorded() -> None:
    net, x = Small(), torch.randn(2, 3, 8, 8)
    both = (True, True)
    assert record(lambda: net(x).sum().backward()) == Counter(
        {
            PLAIN: 1,
            UP: 1,
            EACH: 2,
            # What feeds the first one is a filter of an image that nobody trains.
            PLAIN._replace(wanted=(False, True)): 1,
            UP._replace(wanted=both): 1,
            EACH._replace(wanted=both): 2,
        }
    )


def test_forms_of_a_convolution_cost_the_same_multiplications() -> None:
    """Each form is a way to compute the same numbers, so its multiplications, as often as it is made, are as many."""

    def cost(call: Convolution, times: float) -> float:
        output, (channels, per_group, height, width) = call.output(), call.weight
        wanted = 1 if call.wanted is None else sum(call.wanted)
        return times * wanted * output[0] * output[2] * output[3] * channels * per_group * height * width

    second = Convolution(image=(3, 2, 9, 9), weight=(6, 2, 9, 9), padding=(1, 1))
    each = EACH._replace(wanted=(True, True))
    products = PLAIN._replace(wanted=(False, True))
    ways_of = ((PLAIN, 3, 1), (EACH, 4, 2), (each, 2, 2), (second, 1, 2), (products, 2, 2))
    for call, count, ways in ways_of:
        forms = list(equivalents(call, count, 4))
        assert forms[0][0] == call
        assert len(set(forms)) == ways
        for form, times in forms:
            assert cost(form, times) == cost(call, count), form


@pytest.mark.parametrize("call", [PLAIN, UP], ids=["plain", "up"])
def test_products_are_the_gradients_that_convolutions_are(call: Convolution) -> None:
    call = call._replace(wanted=(True, True))
    torch.manual_seed(0)
    tensors = torch.randn(call.image), torch.randn(call.weight), torch.randn(call.output())
    (_, _), (form, _) = equivalents(call, 1, 1)
    for one, other in zip(call.run(*tensors)[:2], form.run(*tensors), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_gradients_by_the_weight_in_second_derivatives_are_known() -> None:
    """torch says them as a convolution with an image for a weight."""
    torch.manual_seed(0)
    x, weight = torch.randn(2, 3, 9, 9, requires_grad=True), torch.randn(6, 3, 3, 3, requires_grad=True)

    def second() -> None:
        (gradient,) = torch.autograd.grad(F.conv2d(x, weight, padding=1).square().sum(), x, create_graph=True)
        gradient.square().sum().backward()

    calls = record(second)
    odd = [call for call in calls if call.weight[2] > 3]
    assert odd
    forms = [form for call in odd for form, _ in equivalents(call, 1, 2)][1:]
    assert forms == [Convolution(image=(2, 3, 9, 9), weight=(6, 3, 3, 3), padding=(1, 1), wanted=(False, True))]


def test_bare_time_is_that_of_the_fastest_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    def seconds(call: Convolution, memory_format: torch.memory_format, conditions: Conditions) -> float:
        sampled.append((call, memory_format))
        alone = 1.0 if call.image[0] == 1 else 3.0
        return alone * (2 if memory_format is torch.channels_last else 1)

    monkeypatch.setattr(networks, "seconds_alone", seconds)
    monkeypatch.setattr(networks, "record", lambda run: run())
    sampled: list[tuple[Convolution, torch.memory_format]] = []
    contender = bare_convolutions(lambda: {EACH: 4, PLAIN: 2}, 4, Conditions())
    # Four alone take 4 seconds, all four at once 3; of the other there is only one form.
    assert contender.sample() == 3.0 + 2 * 3.0
    together = EACH._replace(image=(4, *EACH.image[1:]))
    assert {call for call, _ in sampled} == {EACH, together, PLAIN}
    sampled.clear()
    assert contender.sample() == 9.0
    # What took twice as long is not tried again.
    assert set(sampled) == {(call, torch.contiguous_format) for call in (EACH, together, PLAIN)}


def test_convolutions_are_made_alone_in_every_way_that_is_recorded() -> None:
    net, x = Small(), torch.randn(2, 3, 8, 8)
    contender = bare_convolutions(lambda: net(x).sum().backward(), 2, Conditions(sample=0.0))
    assert contender.sample() > 0
    assert contender.sample() > 0
