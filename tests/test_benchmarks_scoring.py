"""``ganformer bench --only metrics``: files of pictures to features, ours beside torch-fidelity's."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result

from ganformer_cli.benchmarks import scoring
from ganformer_cli.benchmarks.scoring import Scored, ScoringSizes, measure_scoring
from ganformer_cli.errors import GanformerError

Run = Callable[..., Result]
QUICK = ("bench", "--quick", "--device", "cpu", "--only", "metrics", "--no-memory")


def test_both_are_measured_and_agree(ganformer: Run) -> None:
    found = json.loads(ganformer(*QUICK, "--json").stdout)["metrics"]
    assert found["pictures"] == 4
    assert found["ours"]["per_second"] > 0
    if importlib.util.find_spec("torch_fidelity") is None:
        assert found["theirs"] is found["ratio"] is None
        assert "pip install torch-fidelity" in found["without_theirs"]
    else:
        assert found["ratio"] == pytest.approx(found["ours"]["per_second"] / found["theirs"]["per_second"])
        above = found["ours"]["score"] - 1
        assert above > 1e-4  # the network tells these pictures apart
        assert found["theirs"]["score"] - 1 == pytest.approx(above, rel=1e-3)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Callable[..., Scored]]:
    """Measurements that are given; no network, and no files of weights."""
    monkeypatch.setattr(scoring, "random_weights", lambda shapes: {})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)

    def make(*turns: tuple[float, float]) -> Callable[..., Scored]:
        left = [Scored(per_second, 100.0, score) for per_second, score in turns]
        return lambda function: left.pop(0)

    return make


def test_the_fastest_turn_of_each_counts(scripted: Callable[..., Any]) -> None:
    shares: list[float] = []
    run = scripted((8, 1.5), (4, 1.5), (6, 1.5), (5, 1.5))
    found = measure_scoring(ScoringSizes(pictures=1, side=8), "cpu", run, lambda share, what: shares.append(share))
    assert (found["ours"]["per_second"], found["theirs"]["per_second"], found["ratio"]) == (8, 5, 1.6)
    assert sum(shares) == pytest.approx(1)


def test_scores_that_differ_are_no_measurement(scripted: Callable[..., Any]) -> None:
    run = scripted((8, 1.5), (4, 1.501))
    with pytest.raises(GanformerError, match="score of 1.5, torch-fidelity's 1.501"):
        measure_scoring(ScoringSizes(pictures=1, side=8, repeats=1), "cpu", run, lambda share, what: None)


def test_the_table_says_what_was_measured(
    ganformer: Run, monkeypatch: pytest.MonkeyPatch, scripted: Callable[..., Any]
) -> None:
    run = scripted((8, 1.5), (4, 1.5))

    def measure(sizes: ScoringSizes, device: str, runner: object, done: Callable[[float, str], None]) -> Any:
        return measure_scoring(sizes, device, run, done)

    monkeypatch.setattr(scoring, "measure_scoring", measure)
    said = ganformer(*QUICK).stdout
    assert "Inception features, 32 px: 8 pictures/s with 100 MiB; 2.00x torch-fidelity (4 pictures/s" in said
