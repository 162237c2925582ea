"""Time and memory of attention over the number of positions: bipartite O(m·n), per pixel O(n·d²), dense O(n²)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from ganformer_cli.benchmarks.measuring import Case, Conditions, Contender, Contenders
from ganformer_cli.benchmarks.operators import LayerInputs, layer_call, with_gradients
from ganformer_cli.files import MIB
from ganformer_cli.memory import free_memory_mib
from ganformer_cli.models.attention import SelfAttention
from ganformer_cli.operators import native
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
        what = f"simplex, {side}x{side}{'' if fits else f'; dense needs {needed / 1024:.0f} GiB and is left out'}"
        build = partial(build_forms, LayerInputs(conditions, images=1, side=side), dense=fits)
        cases.append(Case(what=what, images=1, positions=side**2, build=build))
    return cases


def build_forms(given: LayerInputs, *, dense: bool = True) -> Contenders:
    """Our layer against the other forms."""
    ours, per_pixel = (with_gradients(*layer_call(given, "simplex", per_pixel=each)) for each in (False, True))
    forms = [
        Contender(call=ours, takes_memory=True),
        Contender(name=PER_PIXEL, call=native.use("reference")(per_pixel), takes_memory=True),
    ]
    if dense:
        layer = SelfAttention(given.features).to(given.conditions.device).eval()
        attend = torch.no_grad()(partial(layer, given.image(given.features)))
        forms.append(Contender(name=DENSE, call=attend, takes_memory=True))
    yield forms


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
