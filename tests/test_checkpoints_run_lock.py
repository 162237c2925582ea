"""One training at a time in a run folder: who is let in, who is refused, and what a kill leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from ganformer_cli.checkpoints import run_lock
from ganformer_cli.checkpoints.run_folder import claimed
from ganformer_cli.checkpoints.run_lock import (
    LAUNCHER,
    OWNER_FILE,
    LockedError,
    is_alive,
    lock_run,
    process_start,
    this_process,
)
from ganformer_cli.errors import ConfigError, OutputError

#: Loads no torch: holds the lock until its standard input ends.
HOLDER = """
import sys
from pathlib import Path
from ganformer_cli.checkpoints.run_lock import lock_run
with lock_run(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def start_holder(folder: Path, **environment: str) -> subprocess.Popen[str]:
    """Another process that has the lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8", env={**os.environ, **environment},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "held"
    return process


def end(process: subprocess.Popen[str], *, kill: bool = False) -> None:
    if kill:
        process.kill()
    process.communicate(timeout=60)


@pytest.fixture(scope="module")
def other_pid() -> Iterator[int]:
    """The number of another process, which lives."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process.pid
    process.communicate(b"\n")


def gone_pid() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def write_owner(folder: Path, **values: Any) -> None:
    (folder / OWNER_FILE).write_text(json.dumps({**asdict(this_process()), **values}), encoding="utf-8")


def test_a_second_training_is_refused_and_told_who_has_the_run(tmp_path: Path) -> None:
    holder = start_holder(tmp_path)
    said = rf"being trained by another process \(process {holder.pid} on .*--restart"
    with pytest.raises(LockedError, match=said), lock_run(tmp_path):
        pass
    end(holder)
    with lock_run(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_leaves_is_recognised_and_told(tmp_path: Path) -> None:
    holder = start_holder(tmp_path)
    end(holder, kill=True)
    assert (tmp_path / OWNER_FILE).is_file()
    messages: list[str] = []
    with lock_run(tmp_path, messages.append):
        assert run_lock.read_owner(tmp_path) == replace(this_process(), since=run_lock.read_owner(tmp_path).since)  # type: ignore[union-attr]
    assert len(messages) == 1
    assert str(holder.pid) in messages[0]
    assert "was killed" in messages[0]


def test_this_process_may_ask_again(tmp_path: Path) -> None:
    with lock_run(tmp_path), lock_run(tmp_path / "x" / ".."):
        assert (tmp_path / OWNER_FILE).is_file()
    assert not (tmp_path / OWNER_FILE).exists()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_the_lock_goes_at_every_end(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), lock_run(tmp_path):
        raise error
    assert list(tmp_path.iterdir()) == []


# ----- What lock.json says, where the system's lock says nothing -----


@pytest.fixture
def no_system_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on some network file systems."""

    def acquire(lock: FileLock) -> None:
        raise NotImplementedError

    monkeypatch.setattr(FileLock, "acquire", acquire)
    monkeypatch.setattr(run_lock, "SETTLE_SECONDS", 0.05)


def test_without_locks_of_the_system_a_living_process_is_seen(tmp_path: Path, no_system_locks: None) -> None:
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    write_owner(tmp_path, pid=other.pid, start=process_start(other.pid))
    with pytest.raises(LockedError, match=f"process {other.pid} on"), lock_run(tmp_path):
        pass
    other.communicate(b"\n")
    with lock_run(tmp_path):
        pass
    assert not (tmp_path / OWNER_FILE).exists()


@pytest.mark.parametrize(
    "stale",
    [
        pytest.param(lambda _: {"pid": gone_pid()}, id="the process is gone"),
        pytest.param(lambda other: {"pid": other, "start": "123"}, id="its number was given again"),
        pytest.param(lambda _: {"pid": os.getpid(), "start": "123"}, id="to this very process"),
        pytest.param(lambda other: {"pid": other, "boot": "another"}, id="the machine was started again"),
    ],
)
def test_a_stale_lock_is_recognised(tmp_path: Path, no_system_locks: None, stale: Any, other_pid: int) -> None:
    if process_start(os.getpid()) is None:
        pytest.skip("this system does not say when a process began")
    write_owner(tmp_path, **stale(other_pid))
    messages: list[str] = []
    with lock_run(tmp_path, messages.append):
        pass
    assert ["was killed" in text for text in messages] == [True]


@pytest.mark.parametrize("boot", ["another", None])
def test_another_machine_is_asked_about(tmp_path: Path, boot: str | None) -> None:
    """Also where locks work: its own need not reach us."""
    write_owner(tmp_path, host="elsewhere", boot=boot)
    before = (tmp_path / OWNER_FILE).read_bytes()
    with pytest.raises(LockedError, match=r"on elsewhere.*delete .*lock\.json and start again"), lock_run(tmp_path):
        pass
    assert (tmp_path / OWNER_FILE).read_bytes() == before
    (tmp_path / OWNER_FILE).unlink()
    with lock_run(tmp_path):
        pass


def test_a_container_of_this_machine_is_seen_through_the_lock_of_the_system(tmp_path: Path) -> None:
    if run_lock.boot_id() is None:
        pytest.skip("this system has no name for a start of the machine")
    write_owner(tmp_path, host="a-container")
    messages: list[str] = []
    with lock_run(tmp_path, messages.append):
        pass
    assert len(messages) == 1


def test_two_that_take_a_folder_without_locks_at_once_notice(
    tmp_path: Path, no_system_locks: None, monkeypatch: pytest.MonkeyPatch, other_pid: int
) -> None:
    """The one that wrote last goes on."""
    monkeypatch.setattr(time, "sleep", lambda seconds: write_owner(tmp_path, pid=other_pid))
    with pytest.raises(LockedError), lock_run(tmp_path):
        pass
    assert (tmp_path / OWNER_FILE).is_file()


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "{", "[" * 100_000, '{"pid": 1e999}', '{"pid": ' + "9" * 5000 + "}", "\x00\xff", '{"host": 1}'],
    ids=lambda text: text[:12],
)
def test_a_damaged_lock_file_is_no_obstacle(tmp_path: Path, text: str) -> None:
    (tmp_path / OWNER_FILE).write_bytes(text.encode("latin-1"))
    with lock_run(tmp_path):
        pass


def test_one_with_impossible_values_is_none_either(tmp_path: Path) -> None:
    for values in ({"pid": -1}, {"pid": 2**40}, {"host": "\x1b[2J"}, {"start": 5}, {"launcher_pid": "x"}):
        write_owner(tmp_path, **values)
        with lock_run(tmp_path):
            pass


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs a folder that cannot be written to")
def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(OutputError, match="--result-dir .*cannot be written to"), lock_run(tmp_path):
        pass
    tmp_path.chmod(0o755)


def test_processes_are_known_by_number_and_start() -> None:
    assert is_alive(os.getpid(), process_start(os.getpid()))
    assert not is_alive(os.getpid(), "another start") or process_start(os.getpid()) is None
    assert not is_alive(gone_pid(), None)


# ----- Workers whose launcher is gone -----


@pytest.mark.slow
def test_workers_that_still_save_are_waited_for(tmp_path: Path) -> None:
    launcher = gone_pid()
    holder = start_holder(tmp_path, **{LAUNCHER: str(launcher)})
    assert holder.stdin is not None
    threading.Timer(0.5, holder.stdin.close).start()
    messages: list[str] = []
    with lock_run(tmp_path, messages.append):
        assert holder.wait(timeout=60) == 0
    assert "waiting for the processes of an earlier start" in messages[0]


def test_a_process_learns_that_what_started_it_is_gone(tmp_path: Path) -> None:
    program = (
        "import os, sys, time, types\n"
        "from pathlib import Path\n"
        "import ganformer_cli\n"
        "package = types.ModuleType('ganformer_cli.training')\n"  # whose own modules load torch
        "package.__path__ = [str(Path(ganformer_cli.__file__).parent / 'training')]\n"
        "sys.modules['ganformer_cli.training'] = package\n"
        "from ganformer_cli.training.launcher import when_launcher_ends\n"
        "when_launcher_ends(lambda: os._exit(7))\n"
        "print('begun', flush=True)\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, LAUNCHER: "1"},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline().strip() == b"begun"
    assert process.poll() is None
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(timeout=60) == 7


# ----- Which folder -----


def test_restarts_at_once_each_have_their_own_number(tmp_path: Path) -> None:
    """Every one of them looks before any has made its folder."""
    found: list[Path] = []
    with claimed(tmp_path, "x", restart=True) as (first, _):
        (first / "file").touch()
        (tmp_path / "x-001").mkdir()
        holder = start_holder(tmp_path / "x-001")
        with claimed(tmp_path, "x", restart=True) as (second, resume):
            found = [first, second]
            assert not resume
        end(holder)
    assert [path.name for path in found] == ["x-000", "x-002"]


def test_a_number_that_another_takes_in_between_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mkdir = Path.mkdir
    taken: list[Path] = []

    def too_late(self: Path, *given: Any, **more: Any) -> None:
        if self.name == "x-000" and not taken:
            taken.append(self)
            mkdir(self)
        mkdir(self, *given, **more)

    monkeypatch.setattr(Path, "mkdir", too_late)
    with claimed(tmp_path, "x", restart=True) as (folder, _):
        assert folder.name == "x-001"


def test_of_two_first_starts_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x-000").mkdir()
    holder = start_holder(tmp_path / "x-000")
    said = "x-000 is being trained by another process"
    with pytest.raises(LockedError, match=said), claimed(tmp_path, "x", restart=False):
        pass
    end(holder)


def test_nothing_is_left_of_a_run_that_did_not_begin(tmp_path: Path) -> None:
    with pytest.raises(ConfigError), claimed(tmp_path / "a" / "results", "x", restart=False):
        raise ConfigError("something is wrong")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("held", ["state/training-state-000000004.safetensors", "snapshots/any.safetensors"])
def test_a_run_without_its_configuration_is_left_alone(tmp_path: Path, held: str) -> None:
    file = tmp_path / "x-000" / held
    file.parent.mkdir(parents=True)
    file.write_bytes(b"weights")
    before = sorted(tmp_path.rglob("*"))
    said = r"x-000: there are files in \w+, but config\.json is missing.*--restart"
    with pytest.raises(ConfigError, match=said), claimed(tmp_path, "x", restart=False):
        pass
    assert sorted(tmp_path.rglob("*")) == before
    with claimed(tmp_path, "x", restart=True) as (folder, _):
        assert folder.name == "x-001"
