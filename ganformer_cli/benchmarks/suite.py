"""All that ``ganformer bench`` measures, group by group, as JSON values."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from ganformer_cli import __version__
from ganformer_cli.benchmarks.busy import busy_cases
from ganformer_cli.benchmarks.curve import FORMS, SIDES, curve_cases
from ganformer_cli.benchmarks.data import ImageSizes, data_cases
from ganformer_cli.benchmarks.measuring import (
    PLAIN,
    Case,
    Cases,
    Conditions,
    Measurement,
    Memory,
    first_line,
    in_fresh_process,
    measure,
    memories,
    native_missing,
    ratio_of,
)
from ganformer_cli.benchmarks.networks import generator_cases, layer_cases, training_cases
from ganformer_cli.benchmarks.operators import LayerSizes, build_cases, operator_cases
from ganformer_cli.benchmarks.scoring import scoring_cases
from ganformer_cli.config import RunConfig
from ganformer_cli.cpus import cpu_name
from ganformer_cli.errors import GanformerError
from ganformer_cli.memory import EVALUATION_MIB, TRAINING_MIB, keep_large_blocks
from ganformer_cli.operators.native import Backend

#: How long measuring memory takes, as a share of measuring times.
MEMORY_WEIGHT = 0.3


@dataclass(frozen=True, kw_only=True)
class BenchmarkPlan:
    """What is measured.

    Attributes:
        groups: what ``--only`` says.
        conditions: under which.
        config: of the networks.
        images: that the networks take at a time.
        quick: tiny sizes, which show that everything runs.
    """

    groups: Sequence[str]
    conditions: Conditions
    config: RunConfig
    images: int
    quick: bool

    def cases(self) -> dict[str, Cases]:
        """By group, a function that lists its cases; another process can call it, too."""
        images, conditions = self.images, self.conditions
        if self.quick:
            layer = LayerSizes(images=images, side=8, channels=8, features=16, components=4, component=8)
            prepared, scored = ImageSizes(images=4, side=64, resolution=16), ImageSizes(images=4, side=32)
        else:
            layer = LayerSizes(images=images)
            prepared, scored = ImageSizes(), ImageSizes(images=128, side=256)
        known: dict[str, Cases] = {
            "build": build_cases,
            "data": partial(data_cases, prepared),
            "metrics": partial(scoring_cases, conditions, scored),
            "operators": partial(operator_cases, conditions, layer),
            "layer": partial(layer_cases, conditions, layer),
            "generator": partial(generator_cases, conditions, self.config.model, images),
            "training": partial(training_cases, conditions, self.config),
            "busy": partial(busy_cases, conditions, quick=self.quick),
            "curve": partial(curve_cases, conditions, SIDES[:2] if self.quick else SIDES),
        }
        return {group: cases for group, cases in known.items() if group in self.groups}

    @property
    def seconds(self) -> float:
        """Rough time that it takes on two CPU cores."""
        weight = sum(case.weight for cases in self.cases().values() for case in cases())
        return weight * (1 + MEMORY_WEIGHT * self.measures_memory_apart)

    @property
    def measures_memory_apart(self) -> bool:
        """Whether memory is measured in processes of its own."""
        return self.conditions.memory and not self.conditions.on_cuda


def run_benchmarks(
    plan: BenchmarkPlan, progress: Callable[[float, str], None], warn: Callable[[str], None]
) -> dict[str, Any]:
    """Measure everything of the plan.

    Args:
        plan: what.
        progress: called with the share of all that is done, and what was measured.
        warn: called with what could not be measured.

    Returns:
        The machine, the conditions, and under ``rows`` one object for each case.
    """
    conditions = plan.conditions
    keep_memory()
    with conditions.apply():
        missing = native_missing(conditions)
        backend: Backend = "reference" if missing else "native"
        groups = plan.cases()
        if missing:
            groups.pop("build", None)
        listed = {group: cases() for group, cases in groups.items()}
        apart, total, done = plan.measures_memory_apart, plan.seconds, 0.0

        def go_on(weight: float, what: str) -> None:
            nonlocal done
            done += weight
            progress(done / total, what)

        rows: list[dict[str, Any]] = []
        for group, cases in listed.items():
            keep_memory(group)
            memory: dict[str, list[Memory | None]] = {}
            if apart and group not in ("build", "data", "metrics", "busy"):
                for name in ("", *FORMS) if group == "curve" else ("", PLAIN)[: 1 + (backend == "native")]:
                    memory[name] = _memories(plan, group, name, backend, warn)
            go_on(sum(case.weight for case in cases) * MEMORY_WEIGHT * apart, f"{group}: memory")
            for index, case in enumerate(cases):
                try:
                    found = measure(case, conditions, backend)
                except (GanformerError, RuntimeError) as error:  # the latter are torch's: not enough memory, for one
                    rows.append({"group": group, "what": case.what, "error": first_line(error)})
                else:
                    for name, each in memory.items():
                        if index < len(each) and name in found:
                            found[name].memory = each[index]
                    rows.append(row_record(case, found))
                go_on(case.weight, f"{group}: {case.what}")
        return {
            "version": __version__,
            **machine(conditions),
            "operators": backend,
            "operators_reason": missing,
            "rows": rows,
        }


def _memories(
    plan: BenchmarkPlan, group: str, name: str, backend: Backend, warn: Callable[[str], None]
) -> list[Memory | None]:
    """Memory of a contender of all cases of a group, in one new process."""
    prepare = partial(keep_memory, group)
    try:
        return in_fresh_process(partial(memories, plan.cases()[group], name, backend, plan.conditions, prepare))
    except GanformerError as error:
        warn(f"{group}: no memory{f' of {name}' if name else ''}: {error}")
        return []


def keep_memory(group: str = "training") -> None:
    """Keep freed memory as the commands do that need what is measured in ``group``."""
    keep_large_blocks(EVALUATION_MIB if group == "generator" else TRAINING_MIB)


def machine(conditions: Conditions) -> dict[str, Any]:
    """What was measured on."""
    return {
        "device": conditions.device,
        "device_name": torch.cuda.get_device_name(conditions.device) if conditions.on_cuda else cpu_name(),
        "cpu_features": cpu_features(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "precision": conditions.precision,
        "repeats": conditions.repeats,
    }


def cpu_features() -> list[str]:
    """The vector instructions that torch's kernels use, and the bf16 and matrix instructions that oneDNN uses."""
    found = [torch.backends.cpu.get_cpu_capability()]
    checks = {"AVX512_BF16": "_is_avx512_bf16_supported", "AMX": "_is_amx_tile_supported"}
    found += [name for name, check in checks.items() if getattr(torch.cpu, check, lambda: False)()]
    return found


def row_record(case: Case, found: Mapping[str, Measurement]) -> dict[str, Any]:
    """A line of the table as JSON values: times in milliseconds, ratios with their quartiles."""
    own = found[""]
    against = {}
    for name, other in found.items():
        if name:
            ratio = ratio_of(own, other)
            against[name] = {
                **measurement_record(other),
                "ratio": ratio and four_digits(ratio.value),
                "spread": ratio and [four_digits(ratio.low), four_digits(ratio.high)],
            }
    return {
        "group": case.group,
        "what": case.what,
        "images": case.images,
        **({"positions": case.positions} if case.positions else {}),
        **measurement_record(own),
        "images_per_second": four_digits(case.images / min(own.samples.values())),
        "kept_percent": None if own.kept is None else round(100 * own.kept, 2),
        "against": against,
    }


def measurement_record(found: Measurement) -> dict[str, Any]:
    """Least and median time in milliseconds, and memory in MiB."""
    times, memory = list(found.samples.values()), found.memory
    return {
        "ms": four_digits(min(times) * 1e3),
        "ms_median": four_digits(statistics.median(times) * 1e3),
        "samples": len(times),
        "peak_mib": None if memory is None else round(memory.peak, 1),
        "added_mib": None if memory is None or memory.added is None else round(memory.added, 1),
    }


def four_digits(value: float) -> float:
    """Four digits that say something."""
    return float(f"{value:.4g}")
