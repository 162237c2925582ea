"""A few cases of each campaign of ``stress.py`` that needs no signals; the whole runs outside pytest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="it forks, and reads /proc")
def test_nothing_is_lost_executed_or_left(tmp_path: Path) -> None:
    script = Path(__file__).with_name("stress.py")
    words = ["--only", "files,pickles,sources,options", "--share", "0.006", "--seed", "1", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(script.parent.parent)}
    done = subprocess.run(
        [sys.executable, str(script), *words, "--folder", str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
    )
    report = json.loads(done.stdout)
    assert report["examples"] == []
    assert {name: count for name, count in report["faults"].items() if count} == {}
    assert all(report["cases"][name] > 0 for name in ("files", "pickles", "sources", "options"))
    assert done.returncode == 0
