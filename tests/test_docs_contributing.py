"""The files that ``CONTRIBUTING.md`` names exist, and its lists of what a change touches are true."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from ganformer_cli.metrics import metric, registry
from ganformer_cli.metrics.metric import Metric, Score

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
#: Paths between backticks; those with a placeholder stand for a file that does not exist yet.
PATHS = sorted({name for name in re.findall(r"`([\w./-]+/[\w./-]+)`", TEXT) if name.split("/")[0] != "results"})


@pytest.mark.parametrize("name", PATHS)
def test_a_named_file_exists(name: str) -> None:
    assert (ROOT / name).exists()


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("ganformer_cli/data/sources/opening.py", "_SOURCES"),
        ("ganformer_cli/config/source_formats.py", "SOURCE_FORMATS"),
        ("ganformer_cli/config/source_formats.py", "DOWNLOAD_FORMATS"),
        ("ganformer_cli/cli/main.py", "COMMANDS"),
    ],
)
def test_a_named_table_stands_where_it_is_said_to(file: str, name: str) -> None:
    assert f"`{name}`" in TEXT
    assert f"`{file}`" in TEXT
    targets = [
        target
        for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body
        for target in (node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)])
    ]
    assert name in {target.id for target in targets if isinstance(target, ast.Name)}


def test_a_metric_is_known_once_its_file_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    new = Metric(
        name="beauty", title="beauty", version="beauty-1", needs="pixels", order=1,
        scores=(Score("beauty", "beauty", "higher"),), compute=lambda inputs: {"beauty": 1.0},
    )  # fmt: skip
    monkeypatch.setitem(metric.DEFINED, "beauty", new)
    monkeypatch.setitem(registry.METRICS, "beauty", new)  # so that both are as before afterwards
    monkeypatch.setitem(registry.SCORES, "beauty", new.scores[0])
    registry.load_definitions()
    assert registry.parse_metrics("beauty") == ("beauty",)
    assert registry.SCORES["beauty"].metric == "beauty"
