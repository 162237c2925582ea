"""All that ``ganformer bench`` measures, group by group, as JSON values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from ganformer_cli import __version__
from ganformer_cli.benchmarks.busy import busy_cases
from ganformer_cli.benchmarks.curve import SIDES, curve_cases
from ganformer_cli.benchmarks.data import ImageSizes, data_cases
from ganformer_cli.benchmarks.measuring import Cases, Conditions, first_line, in_fresh_process, measure, memories
from ganformer_cli.benchmarks.networks import generator_cases, training_cases
from ganformer_cli.benchmarks.operators import LAYERS, OPERATORS, LayerSizes, build_cases, call_cases
from ganformer_cli.benchmarks.scoring import scoring_cases
from ganformer_cli.config import RunConfig
from ganformer_cli.cpus import cpu_name
from ganformer_cli.errors import GanformerError
from ganformer_cli.memory import EVALUATION_MIB, TRAINING_MIB, Peak, keep_large_blocks
from ganformer_cli.operators import native
from ganformer_cli.operators.native import Backend

#: Rough seconds of a case on two CPU cores, with its memory; of networks, with four images of 256 × 256.
SECONDS = {
    **{"build": 60, "data": 30, "metrics": 120, "operators": 4, "layer": 18},
    **{"generator": 50, "training": 700, "busy": 90, "curve": 20},
}
#: What is measured in new processes for its memory. The other groups tell theirs themselves, or have none.
WITH_MEMORY = ("operators", "layer", "generator", "training", "curve")


@dataclass(frozen=True, kw_only=True)
class BenchmarkPlan:
    """What is measured."""

    groups: Sequence[str]  # in any order
    conditions: Conditions
    config: RunConfig  # of the networks
    images: int  # that the networks take at a time
    quick: bool  # tiny sizes, which show that everything runs

    def cases(self) -> dict[str, Cases]:
        """By group, a function that lists its cases; another process can call it, too."""
        images, conditions = self.images, self.conditions
        layer, prepared, scored = LayerSizes(images=images), ImageSizes(), ImageSizes(images=128, side=256)
        if self.quick:
            layer = LayerSizes(images=images, side=8, channels=8, features=16, components=4, component=8)
            prepared, scored = ImageSizes(images=4, side=64, resolution=16), ImageSizes(images=4, side=32)
        known: dict[str, Cases] = {
            "build": build_cases,
            "data": partial(data_cases, prepared),
            "metrics": partial(scoring_cases, conditions, scored),
            "operators": partial(call_cases, OPERATORS, conditions, layer),
            "layer": partial(call_cases, LAYERS, conditions, layer),
            "generator": partial(generator_cases, conditions, self.config.model, images),
            "training": partial(training_cases, conditions, self.config),
            "busy": partial(busy_cases, conditions, quick=self.quick),
            "curve": partial(curve_cases, conditions, SIDES[:2] if self.quick else SIDES),
        }
        return {group: cases for group, cases in known.items() if group in self.groups}

    def seconds(self) -> dict[str, float]:
        """Rough time of each group on two CPU cores."""
        pixels = self.images * self.config.model.resolution**2 / (4 * 256**2)
        scales = {"generator": pixels, "training": pixels}
        return {group: SECONDS[group] * scales.get(group, 1.0) * len(cases()) for group, cases in self.cases().items()}


def run_benchmarks(
    plan: BenchmarkPlan, progress: Callable[[float, str], None], warn: Callable[[str], None]
) -> dict[str, Any]:
    """Measure everything of the plan.

    Args:
        plan: what.
        progress: called with the share of all that is done, and what comes next or was measured.
        warn: called with what could not be measured.

    Returns:
        The machine, the conditions, and under ``rows`` one object for each case.

    Raises:
        GanformerError: ``GANFORMER_OPS=native``, and they cannot be had.
    """
    conditions = plan.conditions
    keep_large_blocks()
    rows: list[dict[str, Any]] = []
    with conditions.apply():
        native.serves(torch.zeros(1, device=conditions.device))
        status = native.status(torch.device(conditions.device).type)
        backend: Backend = "native" if status.native else "reference"
        seconds, done = plan.seconds(), 0.0
        for group, list_cases in plan.cases().items():
            if group == "build" and not status.native:
                continue
            # As the commands keep freed memory that need what is measured.
            keep_mib = EVALUATION_MIB if group == "generator" else TRAINING_MIB
            keep_large_blocks(keep_mib)
            cases = list_cases()
            memory: list[dict[str, Peak]] = [{} for _ in cases]
            if group in WITH_MEMORY and conditions.memory and not conditions.on_cuda:
                progress(done, f"{group}: memory")
                try:
                    memory = in_fresh_process(partial(memories, list_cases, conditions, backend, keep_mib))
                except GanformerError as error:
                    warn(f"{group}: no memory: {error}")
            for case, known in zip(cases, memory, strict=True):
                try:
                    row = measure(case, conditions, backend, known)
                except (GanformerError, RuntimeError) as error:  # the latter are torch's: not enough memory, for one
                    row = {"what": case.what, "error": first_line(error)}
                rows.append({"group": group, **row})
                done += seconds[group] / len(cases) / sum(seconds.values())
                progress(done, f"{group}: {case.what}")
        checks = {"AVX512_BF16": "_is_avx512_bf16_supported", "AMX": "_is_amx_tile_supported"}
        features = [name for name, check in checks.items() if getattr(torch.cpu, check, lambda: False)()]
        return {
            "version": __version__,
            "device": conditions.device,
            "device_name": torch.cuda.get_device_name(conditions.device) if conditions.on_cuda else cpu_name(),
            # Vector instructions of torch's kernels, bf16 and matrix instructions of oneDNN.
            "cpu_features": [torch.backends.cpu.get_cpu_capability(), *features],
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "precision": conditions.precision,
            "repeats": conditions.repeats,
            "operators": backend,
            "operators_reason": None if status.native else status.reason or "they are not there",
            "rows": rows,
        }
