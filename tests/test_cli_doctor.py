"""``ganformer doctor``: a row for each thing, a remedy in each red one, a status that says whether training can run."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result

from ganformer_cli.operators import checks, native
from ganformer_cli.operators.checks import Cards, Check
from ganformer_cli.operators.cuda_toolkit import Nvcc
from ganformer_cli.operators.self_tests import SelfTest, all_self_tests

Run = Callable[..., Result]

WORKING = Cards(("NVIDIA GeForce RTX 3060",), "580.65.06", (13, 0), works=True)
OLDER = Cards(("NVIDIA GeForce RTX 3060",), "550.54.15", (12, 4), works=True)
SILENT = Cards(("NVIDIA card",))


def rows_of(done: Result) -> dict[str, dict[str, Any]]:
    rows = json.loads(done.stdout)["checks"]
    assert len({row["name"] for row in rows}) == len(rows)
    return {row["name"]: row for row in rows}


def test_a_row_for_each_thing(ganformer: Run) -> None:
    done = ganformer("doctor", "--json")
    assert done.exit_code == 0
    record = json.loads(done.stdout)
    rows = rows_of(done)
    assert record["can_train"] is True
    assert {"Python", "torch", "CUDA", "compiler", "nvcc", "ninja", "cache", "operators (cpu)"} <= rows.keys()
    assert any(name.startswith("GPU") for name in rows)
    for name in ("bias_act", "upfirdn2d", "bipartite_attention", "attention_means"):
        row = rows[f"{name} (cpu)"]
        if rows["operators (cpu)"]["details"]["native"]:
            assert row["state"] == "good", row["found"]
            assert 0 <= row["details"]["error"] <= checks.TOLERANCE
    assert all(row["remedy"] for row in rows.values() if row["state"] == "bad")
    assert rows["torch"]["details"]["version"] == torch.__version__


def test_plain_lines_in_a_pipe(ganformer: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        Check("compiler", "good", "g++ [12]"),
        Check("cache", "bad", "full", "make room"),
        Check("GPU", "note", "none"),
    ]
    monkeypatch.setattr(checks, "all_checks", lambda: iter(rows))
    done = ganformer("doctor")
    assert done.exit_code == 0
    assert done.stdout.splitlines()[1:] == [
        "ok  compiler  g++ [12]",
        "!!  cache     full",
        "              -> make room",
        "--  GPU       none",
    ]


def test_without_torch_training_cannot_run(ganformer: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    done = ganformer("doctor", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["can_train"] is False
    row = rows_of(done)["torch"]
    assert row["state"] == "bad"
    assert "https://pytorch.org" in row["remedy"]


def test_a_torch_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.9.1")
    check = checks.check_torch()
    assert check.blocks
    assert "2.10" in check.remedy


def test_only_what_stops_training_gives_a_status(ganformer: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "all_checks", lambda: iter([Check("compiler", "bad", "none", "install one")]))
    assert ganformer("doctor").exit_code == 0
    monkeypatch.setattr(checks, "all_checks", lambda: iter([Check("torch", "bad", "old", "newer", blocks=True)]))
    assert ganformer("doctor").exit_code == 1


# ----- CUDA -----


@pytest.mark.parametrize(
    ("cards", "wanted", "state", "remedy"),
    [
        (Cards(), (), "note", ""),
        (Cards(), (13, 0), "note", ""),
        # What pip gives on Windows: a torch for the CPU beside a card.
        (WORKING, (), "bad", "pip install --upgrade torch --index-url https://download.pytorch.org/whl/cu130"),
        (OLDER, (), "bad", "pip install --upgrade torch --index-url https://download.pytorch.org/whl/cu126"),
        (SILENT, (), "bad", "install NVIDIA's driver"),
        (SILENT, (13, 0), "bad", "install NVIDIA's driver"),
        (OLDER, (13, 0), "bad", "install a newer driver"),
        (WORKING, (13, 0), "bad", "CUDA_VISIBLE_DEVICES"),
    ],
)
def test_cards_beside_a_torch_that_sees_none(
    monkeypatch: pytest.MonkeyPatch, cards: Cards, wanted: tuple[int, ...], state: str, remedy: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    check = checks.check_cuda(cards, wanted)
    assert (check.state, check.blocks) == (state, False)
    assert remedy in check.remedy
    assert bool(check.remedy) == (state == "bad")


def test_a_card_that_torch_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    check = checks.check_cuda(WORKING, (13, 0))
    assert check.state == "good"
    assert "580.65.06" in check.found


@pytest.mark.parametrize(
    ("nvcc", "wanted", "needed", "state"),
    [
        (None, (13, 0), True, "bad"),
        (None, (), False, "note"),
        (Nvcc("nvcc", (13, 1), ()), (13, 0), True, "good"),
        (Nvcc("nvcc", (12, 4), ()), (13, 0), True, "bad"),
        (Nvcc("nvcc", (12, 4), ()), (13, 0), False, "note"),
        (Nvcc("nvcc", (12, 4), ()), (), False, "note"),
    ],
)
def test_nvcc_must_match_torch_where_there_is_a_card(
    monkeypatch: pytest.MonkeyPatch, nvcc: Nvcc | None, wanted: tuple[int, ...], needed: bool, state: str
) -> None:
    monkeypatch.setattr(checks, "find_nvcc", lambda wanted: nvcc)
    check = checks.check_nvcc(wanted, needed=needed)
    assert check.state == state
    assert ("CUDA toolkit 13.0" in check.remedy) == (state == "bad")


# ----- Compiler and cache -----


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "find_compiler", lambda: None)
    monkeypatch.setattr(native, "status", lambda device: native.Status(False, "no compiler"))
    check = checks.check_compiler()
    assert check.state == "bad"
    assert "install" in check.remedy
    monkeypatch.setattr(native, "status", lambda device: native.Status(True))  # of a wheel with the operators inside
    check = checks.check_compiler()
    assert check.state == "note"
    assert check.remedy == ""


def test_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    monkeypatch.setenv("GANFORMER_CACHE", str(folder))
    (folder / "operators").mkdir(parents=True)
    (folder / "operators" / "build.json").write_bytes(b"x" * 2_000_000)
    check = checks.check_cache()
    assert check.state == "good"
    assert "2.0 MB, 1 build of operators" in check.found
    monkeypatch.setenv("GANFORMER_CACHE", str(folder / "operators" / "build.json"))
    check = checks.check_cache()
    assert check.state == "bad"
    assert "GANFORMER_CACHE" in check.remedy


# ----- Operators -----


def test_operators_that_cannot_be_built_say_why_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_found", {"cpu": native.Status(False, "g++ failed: x.cpp:1: error: no", "mend it")})
    with native.use("auto"):
        library, *operators = checks.check_operators("cpu")
    assert (library.state, library.remedy) == ("bad", "mend it")
    assert "x.cpp:1: error: no" in library.found
    assert len(operators) == len(all_self_tests())
    assert {check.found for check in operators} == {"reference"}


def test_operators_that_are_switched_off_are_no_fault() -> None:
    with native.use("reference"):
        library, *_ = checks.check_operators("cpu")
    assert library.state == "note"
    assert "GANFORMER_OPS=reference" in library.found


def times(ours: float) -> SelfTest:
    """An operator that is not the same on both sides."""
    return SelfTest("wrong", ((2, 3),), lambda x: [x * (1 if native._backend == "reference" else ours)])


def refuse(x: torch.Tensor) -> list[torch.Tensor | None]:
    raise RuntimeError("CUDA error: no kernel image\nfor this card")


@pytest.mark.parametrize(
    ("test", "state", "said"),
    [
        (times(1.0), "good", "native"),
        (times(1.001), "bad", "wrong"),
        (times(float("nan")), "bad", "wrong"),
        (SelfTest("failing", ((2, 3),), refuse), "bad", "no kernel image for this card"),
        # The gradient is compared too.
        (
            SelfTest("half", ((2, 3),), lambda x: [x if native._backend == "reference" else x.detach() + 0 * x]),
            "bad",
            "wrong",
        ),
    ],
)
def test_a_wrong_operator_is_noticed(test: SelfTest, state: str, said: str) -> None:
    check = checks._tested(test, "cpu")
    assert check.state == state
    assert said in check.found
    assert ("GANFORMER_OPS=reference" in check.remedy) == (state == "bad")
    json.dumps(dict(check.details), allow_nan=False)
