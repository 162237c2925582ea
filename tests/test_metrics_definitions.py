"""A metric is one object in one file: what is put into ``metrics/definitions`` is known everywhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from ganformer_cli.metrics import definitions
from ganformer_cli.metrics.features import NETWORKS
from ganformer_cli.metrics.metric import DEFINED
from ganformer_cli.metrics.opening import DISTANCE
from ganformer_cli.metrics.registry import METRICS, SCORES, load_definitions, parse_metrics

Run = Callable[..., Result]

TOY = """
from ganformer_cli.metrics.metric import Metric, Score, add_metric

add_metric(
    Metric(
        name="brightness",
        title="difference of brightness",
        version="brightness-1",
        needs="pixels",
        scores=(Score("brightness", "brightness", "lower", 1, explanation="0 is as bright as the data"),),
        compute=lambda inputs: {"brightness": abs(float(inputs.fakes.mean()) - float(inputs.reals.mean()))},
        caution=lambda now: f"brightness of {now.fakes} images is a toy",
        has_floor=True,
        aliases=("light",),
    )
)
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that somebody has added."""
    (tmp_path / "toy_brightness.py").write_text(TOY, encoding="utf-8")
    monkeypatch.setattr(definitions, "__path__", [*definitions.__path__, str(tmp_path)])
    for table in (DEFINED, METRICS, SCORES):
        monkeypatch.setitem(table, "brightness", None)  # gone after the test
    load_definitions()


@pytest.mark.usefixtures("toy")
def test_a_new_metric_is_one_file(ganformer: Run, tiny_run: Path) -> None:
    assert parse_metrics("light") == ("brightness",)
    done = ganformer("eval", "--metrics", "light,diversity", "--eval-images-num", "8")
    assert done.exit_code == 0, done.stderr
    rows = {line.split()[0]: line for line in done.stdout.splitlines()[1:]}
    assert "0 is as bright as the data" in rows["brightness"]
    assert "two sets of reals" in rows["brightness"]
    assert "brightness of 8 images is a toy" in done.stderr
    (record,) = (json.loads(line) for line in (tiny_run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    assert record["provenance"]["metrics"]["brightness"] == {"version": "brightness-1", "num_reals": 8, "num_fakes": 8}
    assert "brightness" in ganformer("info").stdout
    assert "brightness ↓" in ganformer("compare").stdout.splitlines()[1]


def test_definitions_are_complete() -> None:
    scores = [score.name for metric in METRICS.values() for score in metric.scores]
    assert sorted(scores) == sorted(SCORES)
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric.title
        assert metric.version
        assert metric.scores
        assert (metric.needs == "pixels") == (metric.network is None)
        assert metric.network in (None, DISTANCE, *NETWORKS)
        assert not metric.has_floor or metric.needs == "pixels"
        if metric.network in NETWORKS:
            assert metric.output in NETWORKS[metric.network or ""][0].outputs
