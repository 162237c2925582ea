"""A sweep of settings and seeds: what it trains, what it writes, and that nothing is lost when it is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from ganformer_cli.benchmarks import sweep
from ganformer_cli.benchmarks.sweep import SweepRun, read_sweep, run_sweep
from ganformer_cli.errors import ConfigError

Run = Callable[..., Result]

TABLE = """
seeds = [0, 1]
[common]
total-kimg = 0.1
dataset = "scenes"
[settings.a]
attention = "simplex"
[settings.b]
attention = "kmeans"
seeds = [1]
"""

#: Stands for ``ganformer train``: a run folder with scores, and the environment it had.
FAKE = """
import json, os, sys, pathlib, time
words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
run = pathlib.Path(words["--result-dir"], words["--expname"] + "-000")
run.mkdir(parents=True, exist_ok=True)
(run / "started").open("a").write("x")
print("working", flush=True)
if words["--expname"].startswith("slow") and len((run / "started").read_text()) == 1:
    sys.stdin.read()
    (run / "saved").touch()
    sys.exit(130)
if words["--expname"].startswith("bad"):
    sys.exit("ganformer train: error: it cannot be")
seed = int(words["--seed"])
log = [{"kimg": k, "seconds": 10.0 * k} for k in (1, 2)]
scores = [{"snapshot": f"s{k}", "kimg": k, "swd": 30.0 + seed - k, "provenance": {"dataset": "scenes"}} for k in (1, 2)]
(run / "log.jsonl").write_text("".join(json.dumps(line) + chr(10) for line in log))
(run / "metrics.jsonl").write_text("".join(json.dumps(line) + chr(10) for line in scores))
(run / "threads").write_text(os.environ["OMP_NUM_THREADS"])
"""


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    (tmp_path / "fake.py").write_text(FAKE, encoding="utf-8")
    return [sys.executable, str(tmp_path / "fake.py")]


@pytest.fixture
def table(own_folder: Path) -> Path:
    path = own_folder / "table.toml"
    path.write_text(TABLE, encoding="utf-8")
    return path


def test_runs_are_settings_by_seeds(table: Path) -> None:
    runs = read_sweep(table)
    assert [run.name for run in runs] == ["a-seed0", "a-seed1", "b-seed1"]
    words = runs[2].arguments(Path("runs"))
    assert words[:6] == ["--result-dir", "runs", "--expname", "b-seed1", "--seed", "1"]
    assert words[6:] == ["--total-kimg", "0.1", "--dataset", "scenes", "--attention", "kmeans"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seeds = [0]", "no settings"),
        ("seeds = 1\n[settings.a]", "seeds must be a list"),
        ("seed = [1]\n[settings.a]", "unknown key seed"),
        ("[settings.a]\nseed = 1", "seed is chosen by the sweep"),
        ("[settings.a]\ngamma = {}", "values must be"),
        ("settings = 1", "no settings"),
        ('[settings."../a"]', "../a"),
        ("[settings", "table.toml"),
    ],
)
def test_tables_that_are_none(table: Path, text: str, message: str) -> None:
    table.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_sweep(table)
    assert message in str(caught.value)


def test_each_run_leaves_its_scores_and_their_course(table: Path, tmp_path: Path, command: list[str]) -> None:
    said: list[str] = []
    failed = run_sweep(read_sweep(table), tmp_path, at_once=2, threads=1, message=said.append, command=command)
    assert failed == {}
    found = json.loads((tmp_path / "a-seed1.json").read_text(encoding="utf-8"))
    assert (found["swd"], found["kimg"]) == (29.0, 2)
    about = found["sweep"]
    assert (about["setting"], about["seed"], about["run"]) == ("a", 1, "runs/a-seed1-000")
    assert about["options"] == {"total-kimg": 0.1, "dataset": "scenes", "attention": "simplex"}
    assert about["course"] == [
        {"kimg": 1, "swd": 30.0, "seconds": 10.0},
        {"kimg": 2, "swd": 29.0, "seconds": 20.0},
    ]
    assert (tmp_path / about["run"] / "threads").read_text(encoding="utf-8") == "1"
    # The same again has nothing to do.
    said.clear()
    run_sweep(read_sweep(table), tmp_path, at_once=2, threads=1, message=said.append, command=command)
    assert said == []
    assert (tmp_path / about["run"] / "started").read_text(encoding="utf-8") == "x"
    table.write_text(TABLE.replace("simplex", "duplex"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"a-seed0.json: holds scores of other options"):
        run_sweep(read_sweep(table), tmp_path, at_once=2, threads=1, message=said.append, command=command)


@pytest.mark.slow
def test_a_run_that_fails_leaves_the_others_and_is_tried_again(tmp_path: Path, command: list[str]) -> None:
    runs = [SweepRun(name, 0, {}) for name in ("bad", "good")]
    for _ in range(2):
        failed = run_sweep(runs, tmp_path, at_once=1, threads=1, message=lambda text: None, command=command)
        assert failed == {"bad-seed0": "ganformer train: error: it cannot be"}
        assert (tmp_path / "good-seed0.json").exists()
    assert (tmp_path / "runs" / "bad-seed0-000" / "started").read_text(encoding="utf-8") == "xx"


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("number", ["SIGKILL", "SIGINT"])
def test_what_a_killed_sweep_had_begun_saves_and_is_resumed(tmp_path: Path, command: list[str], number: str) -> None:
    script = (
        "import sys, pathlib, signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs ignore it
        "from ganformer_cli.benchmarks.sweep import SweepRun, run_sweep\n"
        "runs = [SweepRun('slow', 0, {}), SweepRun('quick', 0, {})]\n"
        "run_sweep(runs, pathlib.Path(sys.argv[1]), at_once=2, threads=1, message=print, command=sys.argv[2:])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path), *command], stdout=subprocess.DEVNULL)
    run = tmp_path / "runs" / "slow-seed0-000"
    wait_for(lambda: (tmp_path / "quick-seed0.json").exists() and (run / "started").exists())
    process.send_signal(getattr(signal, number))
    process.wait()
    wait_for((run / "saved").exists)
    assert not (tmp_path / "slow-seed0.json").exists()
    runs = [SweepRun("slow", 0, {}), SweepRun("quick", 0, {})]
    said: list[str] = []
    assert run_sweep(runs, tmp_path, at_once=2, threads=1, message=said.append, command=command) == {}
    assert said == ["slow-seed0: begun; 0 wait", "slow-seed0: done"]


def wait_for(ready: Callable[[], bool]) -> None:
    while not ready():
        time.sleep(0.05)


def test_the_command_checks_the_table_before_it_trains(ganformer: Run, table: Path) -> None:
    for options, message in (
        ("gama = 1", "table.toml, settings.a: No such option"),
        ("attention = 'simplest'", "table.toml, settings.a: "),
    ):
        table.write_text(f"[settings.a]\n{options}", encoding="utf-8")
        done = ganformer("sweep", table, "--output-dir", "out")
        assert done.exit_code == 1
        assert message in done.stderr
        assert not Path("out").exists()


@pytest.mark.slow
def test_the_command_trains_and_compare_averages_seeds(
    ganformer: Run, table: Path, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = run_sweep
    monkeypatch.setattr(sweep, "run_sweep", lambda *args, **kwargs: original(*args, **kwargs, command=command))
    done = ganformer("sweep", table, "--output-dir", "out", "--json")
    assert done.exit_code == 0, done.stderr
    assert done.stderr.splitlines()[0] == "3 runs, 0 of them done"
    files = json.loads(done.stdout)["done"]
    assert sorted(files) == sorted(str(path) for path in Path("out").glob("*.json"))
    rows = [line.split() for line in ganformer("compare", *files).stdout.splitlines()]
    assert rows[2:] == [["a", "28.50", "±", "0.71", "2"], ["b", "29.00", "1"]]
    drawn = ganformer("compare", *files, "--plot", "scores.png")
    assert drawn.exit_code == 0, drawn.stderr
    assert Path("scores.png").stat().st_size > 1000
