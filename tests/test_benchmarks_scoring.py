"""``ganformer bench --only metrics``: files of images to features, against torch-fidelity."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable

import pytest
from click.testing import Result

from ganformer_cli.benchmarks import scoring
from ganformer_cli.benchmarks.data import ImageSizes
from ganformer_cli.benchmarks.measuring import Conditions, measure
from ganformer_cli.benchmarks.scoring import scoring_cases
from ganformer_cli.errors import GanformerError

Run = Callable[..., Result]
QUICK = ("bench", "--quick", "--device", "cpu", "--only", "metrics", "--no-memory", "--repeats", "1")


@pytest.mark.slow
def test_both_are_measured_and_agree(ganformer: Run) -> None:
    done = ganformer(*QUICK, "--json")
    assert done.exit_code == 0, done.stderr
    (row,) = json.loads(done.stdout)["rows"]
    assert (row["group"], row["images"]) == ("metrics", 4)
    assert row["images_per_second"] > 0
    # That the two agree, a row without an error says.
    assert set(row["against"]) == ({"torch-fidelity"} if importlib.util.find_spec("torch_fidelity") else set())


def scripted(monkeypatch: pytest.MonkeyPatch, ours: float, theirs: float) -> None:
    """Measurements that are given; no network, and no files of weights."""

    def score(value: float, seconds: float) -> scoring.ScoreFiles:
        return lambda folder, weights, device: (seconds, value)

    monkeypatch.setattr(scoring, "in_fresh_process", lambda function: function())
    monkeypatch.setattr(scoring, "random_weights", lambda shapes: {})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(scoring, "score_ours", score(ours, 2.0))
    monkeypatch.setattr(scoring, "score_theirs", score(theirs, 5.0))


CONDITIONS = Conditions(repeats=2, seconds=0.0, sample=0.0, memory=False)


def test_times_and_memory_are_those_that_the_measurement_says(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, 1.5, 1.5)
    (case,) = scoring_cases(CONDITIONS, ImageSizes(images=1, side=8))
    row = measure(case, CONDITIONS, "reference")
    theirs = row["against"]["torch-fidelity"]
    assert (row["ms"], row["samples"], theirs["ms"], theirs["ratio"]) == (2000.0, 2, 5000.0, 0.4)
    if sys.platform.startswith("linux"):
        assert row["peak_mib"] > 50
        assert theirs["peak_mib"] > 50


def test_scores_that_differ_are_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, 1.5, 1.501)
    (case,) = scoring_cases(CONDITIONS, ImageSizes(images=1, side=8))
    with pytest.raises(GanformerError, match=r"\[1.5, 1.501\].*please report"):
        measure(case, CONDITIONS, "reference")
