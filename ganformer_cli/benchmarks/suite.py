"""All that ``ganformer bench`` measures, group by group, as JSON values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch

from ganformer_cli import __version__
from ganformer_cli.benchmarks.busy import busy_cases
from ganformer_cli.benchmarks.curve import SIDES, curve_cases
from ganformer_cli.benchmarks.images import ImageSizes, data_cases, scoring_cases
from ganformer_cli.benchmarks.measuring import Cases, Conditions, in_fresh_process, measure, memories
from ganformer_cli.benchmarks.networks import generator_cases, training_cases
from ganformer_cli.benchmarks.operators import LAYERS, OPERATORS, LayerInputs, build_cases, call_cases
from ganformer_cli.config import RunConfig
from ganformer_cli.cpus import cpu_name
from ganformer_cli.errors import GanformerError, first_line
from ganformer_cli.memory import EVALUATION_MIB, TRAINING_MIB, Peak, keep_large_blocks
from ganformer_cli.operators import native
from ganformer_cli.operators.bf16 import bf16_instructions


class BenchmarkGroup(NamedTuple):
    """Cases of one subject."""

    cases: Cases  # lists them; another process can call it, too
    seconds: float  # rough time of a case on two CPU cores, with its memory
    memory: bool = False  # is measured beforehand, on a CPU in a new process; other groups tell theirs, or have none
    keep_mib: int = TRAINING_MIB  # as the commands keep freed memory that need what is measured


@dataclass(frozen=True, kw_only=True)
class BenchmarkPlan:
    """What is measured."""

    groups: Sequence[str]  # in any order
    conditions: Conditions
    config: RunConfig  # of the networks
    images: int  # that the networks take at a time
    quick: bool  # tiny sizes, which show that everything runs

    def chosen(self) -> dict[str, BenchmarkGroup]:
        """The groups by name, in the order in which they are measured."""
        images, conditions, model = self.images, self.conditions, self.config.model
        layer, prepared, scored = LayerInputs(conditions, images=images), ImageSizes(), ImageSizes(images=128, side=256)
        if self.quick:
            layer = replace(layer, side=8, channels=8, features=16, components=4, component=8)
            prepared, scored = ImageSizes(images=4, side=64, resolution=16), ImageSizes(images=4, side=32)
        generator = partial(generator_cases, conditions, model, images)
        curve = partial(curve_cases, conditions, SIDES[:2] if self.quick else SIDES)
        pixels = images * model.resolution**2 / (4 * 256**2)
        groups = {
            "build": BenchmarkGroup(build_cases, 60),
            "data": BenchmarkGroup(partial(data_cases, prepared), 30),
            "metrics": BenchmarkGroup(partial(scoring_cases, conditions, scored), 120),
            "operators": BenchmarkGroup(partial(call_cases, OPERATORS, layer), 4, memory=True),
            "layer": BenchmarkGroup(partial(call_cases, LAYERS, layer), 18, memory=True),
            "generator": BenchmarkGroup(generator, 50 * pixels, memory=True, keep_mib=EVALUATION_MIB),
            "training": BenchmarkGroup(partial(training_cases, conditions, self.config), 700 * pixels, memory=True),
            "busy": BenchmarkGroup(partial(busy_cases, conditions, quick=self.quick), 90),
            "curve": BenchmarkGroup(curve, 20, memory=True),
        }
        return {name: group for name, group in groups.items() if name in self.groups}

    def seconds(self) -> float:
        """Rough time of everything on two CPU cores."""
        return sum(group.seconds * len(group.cases()) for group in self.chosen().values())


def run_benchmarks(
    plan: BenchmarkPlan, progress: Callable[[float, str], None], warn: Callable[[str], None]
) -> dict[str, Any]:
    """Measure the plan: the machine, the conditions, and under ``rows`` one object for each case.

    ``progress`` is called with the share of all that is done, and what comes next or was measured; ``warn`` with what
    could not be measured.

    Raises:
        GanformerError: ``GANFORMER_OPS=native``, and they cannot be had.
    """
    keep_large_blocks()
    native.serves(torch.zeros(1, device=plan.conditions.device))
    status = native.status(torch.device(plan.conditions.device).type)
    conditions = replace(plan.conditions, backend="native" if status.native else "reference")
    rows: list[dict[str, Any]] = []
    seconds, done = plan.seconds(), 0.0
    for name, group in plan.chosen().items():
        if name == "build" and not status.native:
            continue
        conditions = replace(conditions, keep_mib=group.keep_mib)
        cases = group.cases()
        memory: list[dict[str, Peak]] = [{} for _ in cases]
        if group.memory and conditions.memory:
            progress(done, f"{name}: memory")
            take = partial(memories, group.cases, conditions)
            try:
                memory = take() if conditions.on_cuda else in_fresh_process(take)
            except (GanformerError, RuntimeError) as error:  # the latter are torch's: not enough memory, for one
                warn(f"{name}: no memory: {first_line(error)}")
        for case, known in zip(cases, memory, strict=True):
            try:
                row = measure(case, conditions, known)
            except (GanformerError, RuntimeError) as error:
                row = {"what": case.what, "error": first_line(error)}
            rows.append({"group": name, **row})
            done += group.seconds / seconds
            progress(done, f"{name}: {case.what}")
    return {
        "version": __version__,
        "device": conditions.device,
        "device_name": torch.cuda.get_device_name(conditions.device) if conditions.on_cuda else cpu_name(),
        # Vector instructions of torch's kernels, bf16 and matrix instructions of oneDNN.
        "cpu_features": [torch.backends.cpu.get_cpu_capability(), *bf16_instructions()],
        "threads": conditions.threads or torch.get_num_threads(),
        "torch": torch.__version__,
        "precision": conditions.precision,
        "repeats": conditions.repeats,
        "operators": conditions.backend,
        "operators_reason": None if status.native else status.reason or "they are not there",
        "rows": rows,
    }
