"""Time and memory of attention over the number of positions: bipartite O(m·n), per pixel O(n·d²), dense O(n²)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ganformer_cli.benchmarks.measuring import Case, Conditions, Contender, Workload
from ganformer_cli.benchmarks.networks import LayerCase, LayerInputs
from ganformer_cli.benchmarks.operators import LayerSizes
from ganformer_cli.files import MIB
from ganformer_cli.memory import free_memory_mib
from ganformer_cli.models.attention import SelfAttention
from ganformer_cli.visualization.charts import Line, LinePanel

SIDES = (8, 16, 32, 64, 128, 256)
OURS = "bipartite attention, O(m·n)"
PER_PIXEL = "per pixel, O(n·d²)"
DENSE = "dense self-attention, O(n²)"
FORMS = (PER_PIXEL, DENSE)
#: n×n matrices of float32 that dense self-attention needs at a time: scores, probabilities, and a copy.
_MATRICES = 3


def curve_cases(conditions: Conditions, sides: Sequence[int] = SIDES) -> list[Case]:
    """Attention layers on one feature map of 256 channels, forward, at each size; dense only where memory has room."""
    free = free_memory_mib(torch.device(conditions.device))
    cases = []
    for side in sides:
        needed = _MATRICES * 4 * side**4 / MIB
        fits = free is None or needed < free / 2
        case = Case(
            group="curve",
            what=f"simplex, {side}x{side}{'' if fits else f'; dense needs {needed / 1024:.0f} GiB and is left out'}",
            images=1,
            positions=side**2,
            build=partial(build_forms, conditions, LayerSizes(images=1, side=side), dense=fits),
            weight=2 + 20 * (side / 128) ** 4 * fits + 20 * (side / 256) ** 2,
        )
        cases.append(case)
    return cases


def build_forms(conditions: Conditions, sizes: LayerSizes, *, dense: bool = True) -> Workload:
    """Our layer against the other forms."""
    case = LayerCase(kind="simplex", dtype=conditions.dtype)
    given = LayerInputs(case, sizes, conditions.device)

    def baselines() -> Iterator[tuple[str, Contender]]:
        per_pixel = LayerInputs(case, sizes, conditions.device, per_pixel=True)
        run = partial(per_pixel.run, conditions)
        yield PER_PIXEL, Contender(call=run, backend="reference", with_memory=True)
        if dense:
            layer = SelfAttention(sizes.features).to(conditions.device).eval()
            x = given.x.unflatten(2, (sizes.side, sizes.side))

            def attend() -> Tensor:
                with torch.no_grad(), conditions.autocast():
                    return layer(x)

            yield DENSE, Contender(call=attend, with_memory=True)

    return Workload(run=Contender(call=given.run, with_memory=True), baselines=baselines(), has_operators=False)


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
        panels += [LinePanel(title, lines, x_label="positions n", y_label=title, logarithmic=True)] if lines else []
    return panels
