"""The cores that a process may use: affinity and cgroups of both versions."""

from __future__ import annotations

import itertools
import os
import statistics
import time
from pathlib import Path

import pytest

from ganformer_cli import cpus
from ganformer_cli.cpus import UsableCores, cgroup_cores, limit_spinning, thread_seconds, usable_cores

V1_HALF = {"cpu,cpuacct/cpu.cfs_quota_us": "50000", "cpu,cpuacct/cpu.cfs_period_us": "100000"}


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="ascii")


@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 0.5),
        ("0::/user/job\n", {"cpu.max": "max 100000\n", "user/cpu.max": "150000 100000\n"}, 1.5),
        ("0::/user/job\n", {"user/cpu.max": "400000 100000\n", "user/job/cpu.max": "200000 100000\n"}, 2.0),
        ("0::/gone/../\n", {"cpu.max": "max 100000\n"}, None),
        ("4:cpu,cpuacct:/docker/1\n", V1_HALF, 0.5),
        ("4:cpu:/job\n", {"cpu/job/cpu.cfs_quota_us": "-1", "cpu/job/cpu.cfs_period_us": "100000"}, None),
        ("4:cpu:/job\n", {"cpu/job/cpu.cfs_quota_us": "1", "cpu/job/cpu.cfs_period_us": "0"}, None),
        ("4:memory:/job\n", {}, None),
        ("nonsense\n", {"cpu.max": "what\n"}, None),
    ],
)  # fmt: skip
def test_cgroup_limits(tmp_path: Path, own: str, files: dict[str, str], cores: float | None) -> None:
    write(tmp_path / "own", own)
    for name, text in files.items():
        write(tmp_path / "cgroup" / name, text)
    assert cgroup_cores(tmp_path / "cgroup", tmp_path / "own") == cores


def test_systems_without_cgroups_have_no_limit(tmp_path: Path) -> None:
    assert cgroup_cores(tmp_path, tmp_path / "nowhere") is None


def test_half_a_core_is_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpus, "cgroup_cores", lambda: 0.5)
    found = usable_cores()
    assert (found.number, found.whole) == (0.5, 1)
    assert "0.5 cores" in found.limit


def test_an_affinity_mask_is_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpus, "cgroup_cores", lambda: None)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3}, raising=False)
    assert usable_cores() == UsableCores(2, "the affinity mask allows 2 of 8 cores")


WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


@pytest.mark.parametrize("name", [None, *WAITING])
def test_how_threads_wait_is_the_users_choice(monkeypatch: pytest.MonkeyPatch, name: str | None) -> None:
    for each in WAITING:
        monkeypatch.setenv(each, "")  # so that it is restored
        monkeypatch.delenv(each)
    if name is not None:
        monkeypatch.setenv(name, "7")
    limit_spinning()
    expected = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0"}
    if name == "OMP_WAIT_POLICY":
        expected = {}
    if name is not None:
        expected[name] = "7"
    assert {each: os.environ[each] for each in WAITING if each in os.environ} == expected


def test_the_clock_of_a_thread_tells_short_trials_apart() -> None:
    """Windows' own advances by 16 ms, more than a block of a small network takes."""
    start, times = time.perf_counter(), [thread_seconds()]
    while time.perf_counter() - start < 1 and len(times) < 100:
        now = thread_seconds()
        if now > times[-1]:
            times.append(now)
    assert statistics.median(later - now for now, later in itertools.pairwise(times)) < 0.001
