"""The run beside another program, with a program in place of the training that writes its log at a fixed pace."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from ganformer_cli.benchmarks import busy
from ganformer_cli.benchmarks.measuring import Conditions
from ganformer_cli.errors import TrainingError

FAKE = """
import json, os, sys, time
from pathlib import Path
folder = Path(sys.argv[sys.argv.index("--result-dir") + 1]) / "busy-000"
folder.mkdir()
with open(folder / "log.jsonl", "w") as log:
    for tick in range(1, 10000):
        print(json.dumps({"kimg": tick * 0.04}), file=log, flush=True)
        time.sleep(0.01)
"""


def in_place_of_training(monkeypatch: pytest.MonkeyPatch, program: str) -> list[subprocess.Popen[bytes]]:
    """``program`` runs where ``ganformer train`` would; the processes that were started."""
    started: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def start(words: list[str], **options: object) -> subprocess.Popen[bytes]:
        if "ganformer_cli" in words:
            words = [sys.executable, "-c", program, *words[words.index("ganformer_cli") + 1 :]]
        started.append(real(words, **options))  # type: ignore[call-overload]
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.setattr(busy, "END_SECONDS", 0.1)
    return started


def test_both_are_timed_by_the_log_and_nothing_is_left_running(monkeypatch: pytest.MonkeyPatch) -> None:
    started = in_place_of_training(monkeypatch, FAKE)
    (case,) = busy.busy_cases(Conditions(), quick=True)
    with contextmanager(case.build)() as contenders:
        assert [contender.name for contender in contenders] == ["", busy.UNDISTURBED]
        for contender in contenders:
            assert contender.sample() > 0.005
    assert len(started) == 2  # the training and one competitor
    assert [process.poll() is None for process in started] == [False, False]


def test_a_training_that_ends_is_told_with_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    in_place_of_training(monkeypatch, "print('no room')")
    (case,) = busy.busy_cases(Conditions(), quick=True)
    with pytest.raises(TrainingError, match="no room"):
        next(case.build())


def test_the_competitor_ends_with_its_standard_input(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", busy.COMPETITOR], stdin=subprocess.PIPE)
    assert process.stdin is not None
    time.sleep(0.2)
    assert process.poll() is None
    process.stdin.close()
    assert process.wait(30) == 0


def test_a_gpu_run_has_no_such_case() -> None:
    assert busy.busy_cases(Conditions(device="cuda"), quick=True) == []
