"""What the networks are compared with: the layer pixel by pixel, and the bare convolutions."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ganformer_cli.benchmarks.bare_convolutions import BareConvolutions, Convolution, equivalents, record
from ganformer_cli.benchmarks.measuring import Conditions
from ganformer_cli.benchmarks.networks import LayerCase, LayerInputs
from ganformer_cli.benchmarks.operators import LayerSizes


def test_what_the_layer_keeps_is_counted_without_what_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = LayerSizes(images=2, side=8, features=16, components=4, component=8)
    given = LayerInputs(LayerCase(kind="simplex", backward=True), sizes, "cpu")
    # Keeps sin's input, which is given, then exp's output, which is as large.
    monkeypatch.setattr(given, "forward", lambda: given.x.sin().exp())
    assert given.kept() == 1.0


class Small(nn.Module):
    """A filter, a convolution, one that up-samples, and one whose weight differs from picture to picture."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Conv2d(3, 6, 3, padding=1)
        self.up = nn.ConvTranspose2d(6, 4, 3, stride=2)
        self.each = nn.Parameter(torch.randn(2, 5, 4, 3, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.conv2d(x, torch.ones(3, 1, 2, 2), groups=3)
        x = self.up(self.plain(x))
        return torch.cat([F.conv2d(picture[None], weight) for picture, weight in zip(x, self.each, strict=True)])


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
    grouped = Convolution(image=(1, 8, 5, 5), weight=(6, 4, 3, 3), groups=2)
    each = EACH._replace(wanted=(True, True))
    products = PLAIN._replace(wanted=(False, True))
    ways_of = ((PLAIN, 3, 1), (EACH, 4, 2), (each, 2, 2), (second, 1, 2), (grouped, 1, 2), (products, 2, 2))
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


def test_bare_time_is_that_of_the_fastest_forms() -> None:
    class Scripted(BareConvolutions):
        def seconds_alone(self, call: Convolution, memory_format: torch.memory_format) -> float:
            sampled.append((call, memory_format))
            seconds = 1.0 if call.image[0] == 1 else 3.0
            return seconds * (2 if memory_format is torch.channels_last else 1)

    sampled: list[tuple[Convolution, torch.memory_format]] = []
    bare = Scripted({EACH: 4, PLAIN: 2}, 4, Conditions())
    # Four alone take 4 seconds, all four at once 3; of the other there is only one form.
    assert bare.sample() == 3.0 + 2 * 3.0
    together = EACH._replace(image=(4, *EACH.image[1:]))
    assert {call for call, _ in sampled} == {EACH, together, PLAIN}
    sampled.clear()
    assert bare.sample() == 9.0
    # What took twice as long is not tried again.
    assert set(sampled) == {(call, torch.contiguous_format) for call in (EACH, together, PLAIN)}


def test_convolutions_are_made_alone_in_every_way_that_is_recorded() -> None:
    calls = {PLAIN: 1, UP: 2, PLAIN._replace(wanted=(True, True)): 1, EACH: 2, UP._replace(wanted=(False, True)): 1}
    bare = BareConvolutions(calls, 2, Conditions(sample=0.0))
    assert bare.sample() > 0
    assert bare.sample() > 0
