"""The tools of ``ganformer bench``: what is timed in turn, ratios, memory, what autograd keeps."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from ganformer_cli.benchmarks.measuring import (
    PLAIN,
    Case,
    Conditions,
    Contender,
    Measurement,
    Memory,
    Workload,
    in_fresh_process,
    interleaved,
    kept_bytes,
    measure,
    memories,
    ratio_of,
)
from ganformer_cli.errors import ConfigError, GanformerError
from ganformer_cli.operators import native

QUICK = Conditions(repeats=3, seconds=0.0, sample=0.0)
MIB = 2**20


def test_calls_are_sampled_in_turn_and_nobody_is_always_first() -> None:
    order: list[str] = []

    def sample(name: str) -> tuple[float, None]:
        order.append(name)
        return 1.0, None

    timings = interleaved({name: Contender(measure=partial(sample, name)) for name in "abc"}, QUICK)
    assert "".join(order) == "abcbcacab"
    assert {name: sorted(samples) for name, samples in timings.items()} == {name: [1, 2, 3] for name in "abc"}


def test_calls_are_made_on_their_backend_with_the_same_random_numbers() -> None:
    backends: dict[str, set[bool]] = {"native": set(), "reference": set()}
    numbers: dict[str, set[float]] = {"native": set(), "reference": set()}

    def call(backend: str) -> None:
        backends[backend].add(native.serves(torch.zeros(1)))
        numbers[backend].add(float(torch.rand([])))

    # Each sample is a loop of many calls; the first number of each is what the other backend draws too.
    with native.use("reference"):
        interleaved(
            {
                "native": Contender(call=partial(call, "native"), backend="auto"),
                "reference": Contender(call=partial(call, "reference"), backend="reference"),
            },
            QUICK,
        )
    assert backends["reference"] == {False}
    starts = {float(torch.rand([], generator=torch.Generator().manual_seed(seed))) for seed in range(4)}
    assert starts <= numbers["native"]
    assert starts <= numbers["reference"]


def test_a_long_call_is_not_made_only_to_warm_it_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ganformer_cli.benchmarks.measuring.LONG_CALL", 0.0)
    assert sorted(interleaved({"long": Contender(call=lambda: None)}, QUICK)["long"]) == [0, 1, 2, 3]


def test_slow_baselines_may_be_sampled_less_often() -> None:
    found = interleaved({"much": Contender(), "little": Contender(max_rounds=2)}, QUICK)
    assert (sorted(found["much"]), sorted(found["little"])) == ([1, 2, 3], [1, 2])


def test_a_ratio_is_the_median_over_rounds_with_its_quartiles_and_none_of_one_sample() -> None:
    def measured(samples: dict[int, float]) -> Measurement:
        return Measurement(samples=samples, memory=None)

    own = measured({1: 2.0, 2: 8.0, 3: 6.0, 4: 10.0, 5: 100.0})
    # The machine was slow in round 2, for both: their ratio says nothing of it.
    assert ratio_of(own, measured({1: 1.0, 2: 4.0, 3: 2.0, 4: 2.0})) == (2.5, 2.0, 3.5)
    assert ratio_of(own, measured({5: 1.0})) is None
    assert ratio_of(own, measured({7: 1.0, 8: 1.0})) is None


def test_a_case_is_measured_against_its_baselines_and_closed() -> None:
    seen: list[str] = []
    work = Workload(
        run=Contender(call=lambda: seen.append("run")),
        baselines=[("copy", Contender()), ("elsewhere", Contender(measure=lambda: (2.0, Memory(30.0))))],
        kept=lambda: 0.5,
    )
    work.resources.callback(seen.append, "closed")
    found = measure(Case(group="g", what="w", images=2, build=lambda: work), QUICK, "reference")
    assert set(seen[:-1]) == {"run"}
    assert seen[-1] == "closed"
    assert {name: each.kept for name, each in found.items()} == {"": 0.5, "copy": None, "elsewhere": None}
    assert found["elsewhere"] == Measurement(samples={1: 2.0, 2: 2.0, 3: 2.0}, memory=Memory(30.0))


def test_the_plain_operators_are_a_baseline_of_the_native_ones() -> None:
    for has_operators, backend, names in ((True, "native", {"", PLAIN}), (True, "reference", {""})):
        work = Workload(run=Contender(), has_operators=has_operators)
        with native.use("reference"):
            assert set(work.contenders(backend)) == names  # type: ignore[arg-type]
    assert set(Workload(run=Contender(), has_operators=False).contenders("reference")) == {""}


def test_kept_bytes_count_each_memory_once_and_nothing_that_was_there() -> None:
    x = torch.randn(1000, requires_grad=True)
    w = torch.randn(1000, requires_grad=True)
    assert kept_bytes(lambda: x * w, [x, w]) == 0
    assert kept_bytes(lambda: x * w, [x]) == 4000
    # exp keeps its result; the square's two views of it, and its reshaped halves, are the same memory.
    assert kept_bytes(lambda: x.exp().view(10, 100).square()[:5].square(), [x]) == 4000 + 4000
    assert kept_bytes(lambda: x + w, []) == 0


def do_nothing() -> None:
    pass


def memory_cases() -> list[Case]:
    """Cases that need 64 MiB, nothing, and 32 MiB."""

    def using(mib: int) -> Workload:
        return Workload(run=Contender(call=lambda: torch.ones(mib * MIB // 4).sum(), with_memory=True))

    return [Case(group="g", what=str(mib), images=1, build=partial(using, mib)) for mib in (64, 0, 32)]


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch, checkout: Path, tmp_path: Path) -> None:
    """A new process finds this file's functions, though other people's packages may install a ``tests``, too."""
    package = tmp_path / "tests" / "__init__.py"
    package.parent.mkdir()
    package.write_text(f"__path__ = [{str(checkout / 'tests')!r}]\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells the worst moment")
@pytest.mark.usefixtures("importable")
def test_memory_of_a_fresh_process_is_that_of_each_case() -> None:
    found = in_fresh_process(partial(memories, memory_cases, "", "reference", QUICK, do_nothing))
    added = [memory.added for memory in found if memory is not None and memory.added is not None]
    assert len(added) == 3
    assert added == pytest.approx([64, 0, 32], abs=4)
    assert all(memory is not None and memory.peak > (memory.added or 0) for memory in found)


def raise_error() -> None:
    raise GanformerError("so it is")


@pytest.mark.slow
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
