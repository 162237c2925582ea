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
    Contenders,
    contenders_of,
    in_fresh_process,
    measure,
    memories,
    own_and_plain,
    ratio_of,
    time_in_turns,
)
from ganformer_cli.errors import GanformerError
from ganformer_cli.memory import Peak
from ganformer_cli.operators import native

QUICK = Conditions(repeats=3, seconds=0.0, sample=0.0)
MIB = 2**20


def test_calls_are_sampled_in_turn_and_nobody_is_always_first() -> None:
    order: list[str] = []

    def sample(name: str) -> float:
        order.append(name)
        return float(len(order))

    contenders = [Contender(name=name, call=partial(sample, name), clocks_itself=True) for name in "abc"]
    time_in_turns(contenders, QUICK)
    assert "".join(order) == "abcbcacab"
    assert [each.samples for each in contenders] == [[1, 6, 8], [2, 4, 9], [3, 5, 7]]


def test_a_long_case_has_half_of_the_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ganformer_cli.benchmarks.measuring.LONG_CASE", 0.0)
    contender = Contender(call=lambda: None)
    time_in_turns([contender], Conditions(repeats=5, sample=0.0))
    assert len(contender.samples) == 3


def test_calls_are_made_on_their_backend_with_the_same_random_numbers() -> None:
    backends: dict[str, set[bool]] = {"native": set(), "reference": set()}
    numbers: dict[str, set[float]] = {"native": set(), "reference": set()}

    def call(backend: str) -> None:
        backends[backend].add(native.serves(torch.zeros(1)))
        numbers[backend].add(float(torch.rand([])))

    # Each sample is a loop of many calls; the first number of each is what the other backend draws too.
    contenders = [
        Contender(call=partial(call, "native")),
        Contender(call=native.use("reference")(partial(call, "reference"))),
    ]
    time_in_turns(contenders, QUICK)
    assert backends["reference"] == {False}
    starts = {float(torch.rand([], generator=torch.Generator().manual_seed(seed))) for seed in range(4)}
    assert starts <= numbers["native"]
    assert starts <= numbers["reference"]


def test_a_ratio_is_the_median_over_rounds_with_its_quartiles_and_none_of_one_sample() -> None:
    # The machine was slow in the second round, for both: their ratio says nothing of it.
    found = ratio_of([2.0, 8.0, 6.0, 10.0], [1.0, 4.0, 2.0, 2.0])
    assert found == {"ratio": 2.5, "spread": [2.0, 3.5]}
    assert ratio_of([2.0], [1.0]) == {"ratio": None, "spread": None}


def test_a_case_is_measured_against_its_baselines_and_closed() -> None:
    seen: list[str] = []

    def build() -> Contenders:
        run = Contender(call=lambda: seen.append("run"), kept=0.5)
        yield [run, Contender(name="elsewhere", call=lambda: 2.0, clocks_itself=True)]
        seen.append("closed")

    peak = Peak(torch.device("cpu"))
    peak.mib, peak.added_mib = 30.0, None
    row = measure(Case(what="w", images=2, build=build), QUICK, {"elsewhere": peak})
    assert set(seen[:-1]) == {"run"}
    assert seen[-1] == "closed"
    assert (row["what"], row["images"], row["kept_percent"], row["peak_mib"]) == ("w", 2, 50.0, None)
    elsewhere = row["against"]["elsewhere"]
    assert {key: elsewhere[key] for key in ("ms", "ms_median", "samples", "peak_mib", "added_mib")} == {
        **{"ms": 2000.0, "ms_median": 2000.0, "samples": 3},
        **{"peak_mib": 30.0, "added_mib": None},
    }
    low, high = elsewhere["spread"]
    assert low <= elsewhere["ratio"] <= high


def test_the_plain_operators_are_a_baseline_of_the_native_ones() -> None:
    def build() -> Contenders:
        yield own_and_plain(lambda: native.status("cpu").problem == f"{native.VARIABLE}=reference")

    case = Case(what="w", images=1, build=build)
    with contenders_of(case, Conditions(backend="reference")) as found:
        assert [(each.name, each.call()) for each in found] == [("", True)]
    with contenders_of(case, Conditions(backend="native")) as found:
        assert [(each.name, each.call()) for each in found] == [("", False), (PLAIN, True)]


def memory_cases() -> list[Case]:
    """Cases that need 64 MiB, nothing, and 32 MiB."""

    def using(mib: int) -> Contenders:
        yield [Contender(call=lambda: torch.ones(mib * MIB // 4).sum(), takes_memory=True)]

    return [Case(what=str(mib), images=1, build=partial(using, mib)) for mib in (64, 0, 32)]


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
    found = in_fresh_process(partial(memories, memory_cases, QUICK))
    assert [list(each) for each in found] == [[""]] * 3
    added = [each[""].added_mib for each in found]
    assert added == pytest.approx([64, 0, 32], abs=4)
    assert all((each[""].mib or 0) > (each[""].added_mib or 0) for each in found)


def raise_error() -> None:
    raise GanformerError("so it is")


@pytest.mark.slow
@pytest.mark.usefixtures("importable")
def test_errors_of_a_fresh_process_arrive() -> None:
    with pytest.raises(GanformerError, match="so it is"):
        in_fresh_process(raise_error)
    with pytest.raises(GanformerError, match="is there enough memory"):
        in_fresh_process(partial(os._exit, 3))


def test_threads_are_those_asked_for_and_then_as_before() -> None:
    before = torch.get_num_threads()
    with Conditions(threads=before + 1).apply():
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
