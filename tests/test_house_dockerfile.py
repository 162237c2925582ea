"""The Dockerfile: what its stages hold, and that ``.ci/dockerfile.py`` reads it as Docker does."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dockerfile", ROOT / ".ci" / "dockerfile.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_stages_hold_what_they_build_on(script: ModuleType) -> None:
    stages = script.stages(TEXT)
    assert list(stages) == ["build", "test", "final"]
    for name in ("test", "final"):
        assert stages[name][: len(stages["build"])] == stages["build"]
    assert stages["test"][-1] == ("RUN", 'pytest -m "not slow"')
    assert ("ENTRYPOINT", '["ganformer"]') in stages["final"]
    assert not any("pytest" in rest for _, rest in stages["final"])


def test_lines_are_joined_and_comments_left_out(script: ModuleType) -> None:
    text = "# one\nFROM a AS b\nRUN x \\\n    # two\n    && y\n"
    assert list(script.instructions(text)) == [("FROM", "a AS b"), ("RUN", "x && y")]


def test_variables_are_expanded(script: ModuleType) -> None:
    assert script.expanded("$A/${B}/c$D", {"A": "1", "B": "2"}) == "1/2/c"


def test_the_version_of_torch_is_the_tested_one_and_both_bases_are_named() -> None:
    pinned = re.search(r"^torch==\S+$", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.M)
    assert pinned is not None
    assert set(re.findall(r"torch==\S+", TEXT)) == {pinned[0]}
    assert "ARG BASE=debian:" in TEXT
    assert "BASE=nvidia/cuda:" in TEXT
