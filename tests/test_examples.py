"""The notebooks in ``examples/`` are valid, hold no output, and run from the first cell to the last."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "examples").glob("*.ipynb"))


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


@pytest.fixture(params=NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def notebook(request: pytest.FixtureRequest) -> dict[str, Any]:
    return read(request.param)


def test_there_are_examples() -> None:
    assert NOTEBOOKS


def test_a_notebook_is_valid_and_holds_no_output(notebook: dict[str, Any]) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbformat.validate(notebook)
    for cell in notebook["cells"]:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None


@pytest.mark.slow
def test_a_notebook_runs(notebook: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parent.parent))
    names: dict[str, Any] = {}
    shown = []
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        *statements, last = ast.parse("".join(cell["source"]), cell["id"]).body
        if not isinstance(last, ast.Expr):
            statements.append(last)
        exec(compile(ast.Module(statements, []), cell["id"], "exec"), names)
        if isinstance(last, ast.Expr):  # what Jupyter shows
            shown.append(eval(compile(ast.Expression(last.value), cell["id"], "eval"), names))
        if "parameters" in cell["metadata"].get("tags", []):
            names["kimg"] = 0.05  # instead of minutes
    assert sum(isinstance(each, Image.Image) for each in shown) == 4
    assert (names["before"] != names["after"]).any()
