"""What attention costs: multiply-adds, counted by torch, of the plain-torch form."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ganformer_cli.models.attention import (
    ATTENTION_LAYERS,
    AttentionOptions,
    AttentionSizes,
    BipartiteLayer,
    is_cheaper_per_pixel,
)
from ganformer_cli.operators import native

BATCH, W, P = 2, 6, 4


def cost(
    kind: str, n: int, m: int, d: int, *, backward: bool = False, per_pixel: bool | None = None, **options: Any
) -> int:
    """Multiply-adds of a layer, of the plain-torch form.

    Args:
        per_pixel: the form to use, or None for the layer's own choice.
    """
    sizes = AttentionSizes(d, W, P, W, m)
    layer: BipartiteLayer = ATTENTION_LAYERS[kind](sizes, AttentionOptions(**options))
    if per_pixel is not None:
        layer.per_pixel = per_pixel
    x, y = torch.randn(BATCH, d, n, requires_grad=True), torch.randn(BATCH, m, W, requires_grad=True)
    positions = torch.randn(n, P) if layer.options.image_positions else None
    counter = FlopCounterMode(display=False)
    with native.use("reference"), counter:
        result = layer(x, y, positions, torch.randn(m, W))
        if backward:
            (result.x.sum() + result.y.sum()).backward()
    return counter.get_total_flops() // 2


KINDS: list[tuple[str, dict[str, Any]]] = [(kind, {}) for kind in ATTENTION_LAYERS] + [
    ("kmeans", {"kmeans_iters": 3}),
    ("simplex", {"integration": "both"}),
    ("duplex-equation", {"integration": "both", "heads": 2}),
]


@pytest.mark.slow
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_a_position_costs_in_proportion_to_components_and_channels(
    kind: str, options: dict[str, Any], backward: bool
) -> None:
    """Linear in n, and what each position adds is linear in m and in d: there is no n·d² term."""

    def each(m: int, d: int) -> int:
        totals = [cost(kind, n, m, d, backward=backward, **options) for n in (40, 80, 120)]
        first, second = totals[1] - totals[0], totals[2] - totals[1]
        assert first == second  # linear in n
        return first // 40

    by_channels = [each(4, d) for d in (32, 64, 96)]
    assert by_channels[1] - by_channels[0] == by_channels[2] - by_channels[1]
    by_components = [each(m, 32) for m in (4, 8, 12)]
    assert by_components[1] - by_components[0] == by_components[2] - by_components[1]
    # Nothing is left at no components: no work on the positions alone.
    assert by_components[0] == by_components[1] - by_components[0]


def test_the_multiply_adds_are_those_of_the_specification() -> None:
    """2·h·m·d a position and picture; k-means' first position term once for the batch; duplex 6·h·m·d and positions."""
    n, m, d = 64, 5, 32
    small, large = (
        {
            (kind, heads): cost(kind, size, m, d, heads=heads, integration="mul")
            for kind in ATTENTION_LAYERS
            for heads in (1, 2)
        }
        for size in (n, 2 * n)
    )
    for heads in (1, 2):
        each = {kind: (large[kind, heads] - small[kind, heads]) // n for kind in ATTENTION_LAYERS}
        pixel, place = BATCH * heads * m * d, BATCH * heads * m * P
        assert each["kmeans"] == 2 * pixel + place // BATCH
        assert each["simplex"] == 2 * pixel + place
        assert each["duplex-equation"] == 6 * pixel + 5 * place


@pytest.mark.slow
@pytest.mark.parametrize("integration", ["mul", "both"])
def test_the_cheaper_form_is_chosen(integration: str) -> None:
    """For each number of heads, channels and components, by what a position costs in either form."""
    chosen = set()
    for heads, m, d in itertools.product((1, 2, 4, 8), (2, 8, 16), (8, 32, 64)):
        slopes = []
        for per_pixel in (False, True):
            options: dict[str, Any] = {
                "heads": heads,
                "integration": integration,
                "image_positions": False,
                "component_positions": False,
                "per_pixel": per_pixel,
            }
            slopes.append(cost("simplex", 60, m, d, **options) - cost("simplex", 20, m, d, **options))
        moved, by_pixel = slopes
        choice = is_cheaper_per_pixel(d, m, heads, 2 * d if integration == "both" else d)
        assert choice == (by_pixel <= moved), (heads, m, d, slopes)
        chosen.add(choice)
    assert chosen == {False, True}


def test_both_forms_train_alike() -> None:
    """The choice changes rounding only: same result, same dropout for the same seed."""
    for kind, heads in itertools.product(ATTENTION_LAYERS, (1, 2)):
        layer = ATTENTION_LAYERS[kind](AttentionSizes(8, W, P, W, 3), AttentionOptions(heads=heads, dropout=0.5))
        layer.double()
        torch.manual_seed(0)
        inputs = (torch.randn(2, 8, 9), torch.randn(2, 3, W), torch.randn(9, P), torch.randn(3, W))
        results: list[Tensor] = []
        for per_pixel in (False, True):
            layer.per_pixel = per_pixel
            torch.manual_seed(1)
            results.append(layer(*(t.double() for t in inputs)).x)
        torch.testing.assert_close(*results)
