"""Time and memory of attention over the number of positions: bipartite O(m·n), per pixel O(n·d²), dense O(n²)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ganformer_cli.benchmarks.measuring import Case, Conditions, Contender, Workload
from ganformer_cli.benchmarks.networks import LayerCase, LayerInputs, LayerSizes
from ganformer_cli.files import MIB
from ganformer_cli.memory import free_memory_mib
from ganformer_cli.models.attention import SelfAttention
from ganformer_cli.visualization.charts import Line, LinePanel

SIDES = (8, 16, 32, 64, 128, 256)
OURS = "bipartite attention, O(m·n)"
PER_PIXEL = "per pixel, O(n·d²)"
DENSE = "dense self-attention, O(n²) time"
STORED = "dense, n×n matrix stored"
FORMS = (PER_PIXEL, DENSE, STORED)
#: What a stored matrix takes: scores, probabilities, and a copy.
_MATRICES = 3


def curve_cases(conditions: Conditions, sides: Sequence[int] = SIDES) -> list[Case]:
    """Attention layers on one feature map of 256 channels, forward, at each size."""
    return [
        Case(
            group="curve",
            what=f"simplex, {side}x{side}",
            images=1,
            positions=side**2,
            build=partial(build_forms, conditions, LayerSizes(images=1, side=side)),
            weight=2 + 300 * (side / 256) ** 4,
        )
        for side in sides
    ]


def build_forms(conditions: Conditions, sizes: LayerSizes) -> Workload:
    """Our layer against the other forms; the stored matrix only where memory has room for it."""
    case = LayerCase(kind="simplex", dtype=conditions.dtype)
    given = LayerInputs(case, sizes, conditions.device)

    def baselines() -> dict[str, Contender]:
        per_pixel = LayerInputs(case, sizes, conditions.device, per_pixel=True)
        dense = SelfAttention(sizes.features).to(conditions.device).eval()
        x = given.x.unflatten(2, (sizes.side, sizes.side))
        call = partial(_attend, dense, x, conditions)
        found = {
            PER_PIXEL: Contender(call=partial(per_pixel.run, conditions), backend="reference", with_memory=True),
            DENSE: Contender(call=call, with_memory=True, max_rounds=2),
        }
        needed = _MATRICES * 4 * sizes.side**4 / MIB
        free = free_memory_mib(torch.device(conditions.device))
        if free is None or needed < free / 2:
            stored = partial(_attend, dense, x, conditions, [SDPBackend.MATH])
            found[STORED] = Contender(call=stored, with_memory=True, max_rounds=2)
        return found

    return Workload(run=Contender(call=given.run, with_memory=True), baselines=baselines, has_operators=False)


def _attend(
    layer: Callable[[Tensor], Tensor], x: Tensor, conditions: Conditions, backends: Sequence[SDPBackend] | None = None
) -> Tensor:
    with torch.no_grad(), conditions.autocast():
        if backends is None:
            return layer(x)
        with sdpa_kernel(list(backends)):
            return layer(x)


def curve_panels(rows: Sequence[Mapping[str, Any]]) -> list[LinePanel]:
    """Time and memory over positions, both on logarithmic axes.

    Args:
        rows: those of the record that have ``positions``.
    """
    panels = []
    for key, title in (("ms", "time of a forward pass, ms"), ("added_mib", "memory that it adds, MiB")):
        points: dict[str, list[tuple[int, float]]] = {}
        for row in rows:
            for name, found in {OURS: row, **row["against"]}.items():
                if found[key]:
                    points.setdefault(name, []).append((row["positions"], found[key]))
        lines = [Line(name, *zip(*some, strict=True)) for name, some in points.items()]
        panels += [LinePanel(title, lines, x_label="positions n", logarithmic=True)] if lines else []
    return panels
