"""Ways through latent space."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from ganformer_cli.sampling import slerp
from ganformer_cli.visualization.interpolation import count_frames, interpolate


def way(ends: torch.Tensor, steps: int, **options: Any) -> torch.Tensor:
    return torch.cat(list(interpolate(ends, steps, **options)))


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("spherical", [True, False])
@pytest.mark.parametrize(("loop", "frames"), [(False, 9), (True, 12)])
def test_a_way_meets_every_end(spherical: bool, loop: bool, frames: int) -> None:
    ends = normal(3, 4, 8)
    found = way(ends, 4, spherical=spherical, loop=loop)
    assert len(found) == frames == count_frames(3, 4, loop=loop)
    assert torch.equal(found[[0, 4, 8]], ends)
    steps = (found.roll(-1, 0) - found).flatten(1).norm(dim=1)
    steps = steps if loop else steps[:-1]
    assert steps.max() < 0.5 * (ends[0] - ends[1]).norm()  # no jumps, and none at the seam of a loop


def test_great_circles_keep_the_length_that_a_straight_way_loses() -> None:
    ends = torch.nn.functional.normalize(normal(2, 5, 64), dim=-1)
    middle = way(ends, 2, spherical=True)[1]
    torch.testing.assert_close(middle.norm(dim=-1), torch.ones(5))
    assert (way(ends, 2, spherical=False)[1].norm(dim=-1) < 0.9).all()


def test_a_quarter_of_a_right_angle() -> None:
    found = slerp(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0]), torch.tensor(0.25))
    angle = math.pi / 8
    torch.testing.assert_close(found, 2 * torch.tensor([math.cos(angle), math.sin(angle)]))


@pytest.mark.parametrize("factor", [1.0, -1.0, 3.0, 0.0])
def test_vectors_on_one_line_go_straight(factor: float) -> None:
    first = normal(1, 8)
    found = slerp(first, factor * first, torch.tensor(0.5))
    torch.testing.assert_close(found, (1 + factor) / 2 * first)


@pytest.mark.parametrize("shape", [(4, 8), (4, 6, 8)])
@pytest.mark.parametrize("spherical", [True, False])
def test_one_component_moves_alone(shape: tuple[int, ...], spherical: bool) -> None:
    ends = normal(3, *shape)
    found = way(ends, 5, spherical=spherical, loop=True, component=2)
    assert len(found) == 15
    torch.testing.assert_close(found[:, 2], way(ends[:, 2], 5, spherical=spherical, loop=True))
    others = [0, 1, 3]
    assert torch.equal(found[:, others], ends[:1, others].expand(15, *[-1] * len(shape)))
