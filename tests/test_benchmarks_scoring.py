"""``ganformer bench --only metrics``: files of images to features, against torch-fidelity."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable

import pytest
from click.testing import Result

from ganformer_cli.benchmarks import images
from ganformer_cli.benchmarks.images import ImageSizes, scoring_cases
from ganformer_cli.benchmarks.measuring import Conditions, measure

Run = Callable[..., Result]
QUICK = ("bench", "--quick", "--device", "cpu", "--only", "metrics", "--no-memory", "--repeats", "1")


@pytest.mark.slow
def test_both_are_measured(ganformer: Run) -> None:
    done = ganformer(*QUICK, "--json")
    assert done.exit_code == 0, done.stderr
    (row,) = json.loads(done.stdout)["rows"]
    assert (row["group"], row["images"]) == ("metrics", 4)
    assert row["images_per_second"] > 0
    assert set(row["against"]) == ({"torch-fidelity"} if importlib.util.find_spec("torch_fidelity") else set())


def test_times_and_memory_are_those_that_the_measurement_says(monkeypatch: pytest.MonkeyPatch) -> None:
    # No network, and no files of weights.
    monkeypatch.setattr(images, "in_fresh_process", lambda function: function())
    monkeypatch.setattr(images.Inception, "shapes", dict)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(images, "score_ours", lambda folder, weights, device: 2.0)
    monkeypatch.setattr(images, "score_theirs", lambda folder, weights, device: 5.0)
    conditions = Conditions(repeats=2, seconds=0.0, sample=0.0, memory=False)
    (case,) = scoring_cases(conditions, ImageSizes(images=1, side=8))
    row = measure(case, conditions, {})
    theirs = row["against"]["torch-fidelity"]
    assert (row["ms"], row["samples"], theirs["ms"], theirs["ratio"]) == (2000.0, 2, 5000.0, 0.4)
    if sys.platform.startswith("linux"):
        assert row["peak_mib"] > 50
        assert theirs["peak_mib"] > 50
