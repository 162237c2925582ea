"""The tools of ``ganformer bench``: what is timed in turn, memory, what autograd keeps."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from ganformer_cli.benchmarks.measuring import (
    Case,
    Conditions,
    Work,
    Workload,
    in_fresh_process,
    interleaved,
    kept_bytes,
    measure,
    process_memories,
)
from ganformer_cli.errors import ConfigError, GanformerError
from ganformer_cli.operators import native

QUICK = Conditions(repeats=3, seconds=0.0, sample=0.0)
MIB = 2**20


def test_calls_are_sampled_in_turn_and_nobody_is_always_first(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    # One call is one sample: each seems to take a second.
    monkeypatch.setattr("ganformer_cli.benchmarks.measuring._warm_up", lambda work, conditions: 1.0)
    works = {name: Work(partial(order.append, name)) for name in "abc"}
    timings = interleaved(works, QUICK)
    assert "".join(order) == "abcbcacab"
    assert {name: timing.samples for name, timing in timings.items()} == {"a": 3, "b": 3, "c": 3}


def test_calls_are_made_on_their_side_with_the_same_random_numbers() -> None:
    sides: dict[str, set[str]] = {"native": set(), "reference": set()}
    numbers: dict[str, set[float]] = {"native": set(), "reference": set()}

    def call(side: str) -> None:
        sides[side].add(native._backend)
        numbers[side].add(float(torch.rand([])))

    # Each sample is a loop of many calls; the first number of each is what the other side draws too.
    interleaved({side: Work(partial(call, side), side) for side in ("native", "reference")}, QUICK)
    assert sides == {"native": {"native"}, "reference": {"reference"}}
    starts = {float(torch.rand([], generator=torch.Generator().manual_seed(seed))) for seed in range(3)}
    assert starts <= numbers["native"]
    assert starts <= numbers["reference"]


def test_a_long_call_is_not_made_only_to_warm_it_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ganformer_cli.benchmarks.measuring.LONG_CALL", 0.0)
    timing = interleaved({"long": Work(lambda: None)}, QUICK)["long"]
    assert timing.samples == QUICK.repeats + 1


def test_slow_rivals_may_be_sampled_less_often() -> None:
    timings = interleaved({"much": Work(lambda: None), "little": Work(lambda: None, most=2)}, QUICK)
    assert (timings["much"].samples, timings["little"].samples) == (3, 2)


def test_a_case_is_measured_on_the_sides_and_beside_its_rivals() -> None:
    seen: list[str] = []
    work = Workload(
        run=lambda: seen.append(native._backend),
        rivals=lambda: {"copy": Work(lambda: None, "reference")},
        kept=lambda: 0.5,
    )
    row = measure(Case(group="g", what="w", images=2, build=lambda: work), QUICK, ["reference"])
    assert set(seen) == {"reference"}
    assert (row.group, row.what, row.images, set(row.sides), set(row.against)) == ("g", "w", 2, {"reference"}, {"copy"})
    assert row.sides["reference"].kept == 0.5


def test_kept_bytes_count_each_memory_once_and_nothing_that_was_there() -> None:
    x = torch.randn(1000, requires_grad=True)
    w = torch.randn(1000, requires_grad=True)
    assert kept_bytes(lambda: x * w, [x, w]) == 0
    assert kept_bytes(lambda: x * w, [x]) == 4000
    # exp keeps its result; the square's two views of it, and its reshaped halves, are the same memory.
    assert kept_bytes(lambda: x.exp().view(10, 100).square()[:5].square(), [x]) == 4000 + 4000
    assert kept_bytes(lambda: x + w, []) == 0


def memory_cases() -> list[Case]:
    """Cases that need 64 MiB, nothing, and 32 MiB."""

    def using(mib: int) -> Workload:
        return Workload(run=lambda: torch.ones(mib * MIB // 4).sum())

    return [Case(group="g", what=str(mib), images=1, build=partial(using, mib)) for mib in (64, 0, 32)]


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch, checkout: Path, tmp_path: Path) -> None:
    """A new process finds this file's functions, though other people's packages may install a ``tests``, too."""
    package = tmp_path / "tests" / "__init__.py"
    package.parent.mkdir()
    package.write_text(f"__path__ = [{str(checkout / 'tests')!r}]\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells the worst moment")
@pytest.mark.usefixtures("importable")
def test_memory_of_a_fresh_process_is_that_of_each_case() -> None:
    found = in_fresh_process(partial(process_memories, memory_cases, "reference", QUICK))
    added = [memory.added for memory in found if memory is not None]
    assert len(added) == 3
    assert added == pytest.approx([64, 0, 32], abs=4)
    assert all(memory is not None and memory.peak > memory.added for memory in found)


def raise_error() -> None:
    raise GanformerError("so it is")


@pytest.mark.usefixtures("importable")
def test_errors_of_a_fresh_process_arrive() -> None:
    with pytest.raises(GanformerError, match="so it is"):
        in_fresh_process(raise_error)
    with pytest.raises(GanformerError, match="status 3"):
        in_fresh_process(partial(os._exit, 3))


@pytest.mark.parametrize(
    ("conditions", "said"),
    [
        (Conditions(device="cuda"), "--device cuda: .*--device cpu"),
        (Conditions(precision="tf32"), "--precision tf32: .*fp32"),
    ],
)
def test_what_a_machine_cannot_do_is_said(conditions: Conditions, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=said):
        conditions.check()


def test_threads_are_those_asked_for_and_then_as_before() -> None:
    before = torch.get_num_threads()
    with Conditions(threads=before + 1).apply():
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
