"""Runs ``ganformer`` command lines in forked processes, watches what they leave, and counts what they break.

Part of ``stress.py``. The parent imports torch and every command once; each case is a fork of it, in a session and a
folder of its own, so that a case costs milliseconds and not the seconds of an import. POSIX only.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

#: What may never happen, and what the report counts.
FAULTS = ("lost", "executed", "outside", "hung", "outlived", "traceback", "escape", "memory")
#: A command that uses this much more memory than its input explains is a bomb that went off.
MEMORY_BYTES = 1 << 30
CANARY = b"\xa7canary of the stress test\xa7" * 40


@dataclasses.dataclass
class Outcome:
    """How a command line ended.

    Args:
        status: exit status; negative, the signal that ended it; None if it had to be killed at the time limit.
        output: stdout and stderr together.
        seconds: wall-clock time.
        memory: bytes that the process grew by at its peak.
        outlived: command lines of processes of its session that were still there after it.
    """

    status: int | None
    output: str
    seconds: float
    memory: int = 0
    outlived: list[str] = dataclasses.field(default_factory=list)

    @property
    def last_line(self) -> str:
        lines = self.output.strip().splitlines()
        return lines[-1][:300] if lines else ""


@dataclasses.dataclass
class Report:
    """Counts of cases and of faults, and the first few faults of each kind in words."""

    cases: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    faults: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    examples: list[str] = dataclasses.field(default_factory=list)
    verbose: bool = False

    def fault(self, kind: str, campaign: str, what: str) -> None:
        """Count a fault and keep its description."""
        self.faults[kind] += 1
        line = f"{kind:9} {campaign}: {what}"
        self.examples.append(line)
        if self.verbose:
            print(line, flush=True)

    def check(self, campaign: str, what: str, outcome: Outcome, *, memory: int = MEMORY_BYTES) -> None:
        """Count what is a fault of a command line whatever it was asked to do."""
        if outcome.status is None:
            self.fault("hung", campaign, f"{what} (more than {outcome.seconds:.0f} s): {outcome.last_line}")
        if "Traceback (most recent call last)" in outcome.output or "Exception ignored in" in outcome.output:
            at = max(outcome.output.find("Traceback (most"), outcome.output.find("Exception ignored in"))
            shown = " | ".join(outcome.output[at : at + 3000].splitlines()[:30])
            self.fault("traceback", campaign, f"{what}: {outcome.last_line} <- {shown}")
        if "weights_only" in outcome.output:
            self.fault("traceback", campaign, f"{what} shows advice of torch: {outcome.last_line}")
        if any(character in outcome.output for character in "\x1b\x9b\x07\x08"):
            self.fault("escape", campaign, f"{what}: {outcome.last_line!r}")
        if outcome.outlived:
            self.fault("outlived", campaign, f"{what}: {outcome.outlived[:3]}")
        if outcome.memory > memory:
            self.fault("memory", campaign, f"{what}: {outcome.memory >> 20} MiB")

    def summary(self) -> str:
        """The table that is printed last."""
        lines = [f"{name:24}{count:8}" for name, count in sorted(self.cases.items())]
        lines += ["", *(f"{kind:24}{self.faults[kind]:8}" for kind in FAULTS)]
        return "\n".join(lines)


class Sandbox:
    """A folder for one case, with neighbours that must stay as they are.

    ``cwd`` is where the command runs; ``outside`` lies beside it, with a canary that nothing may touch. A file named
    ``executed`` in ``outside`` appears only if foreign code ran (hostile inputs are made to create it).
    """

    def __init__(self, root: Path, name: str) -> None:
        self.root = root / name
        shutil.rmtree(self.root, ignore_errors=True)
        self.cwd, self.outside = self.root / "cwd", self.root / "outside"
        self.cwd.mkdir(parents=True)
        self.outside.mkdir()
        self.canary = self.outside / "canary.bin"
        self.canary.write_bytes(CANARY)
        self.marker = self.outside / "executed"

    def check(self, report: Report, campaign: str, what: str) -> None:
        """Report what happened outside ``cwd``."""
        if self.marker.exists():
            report.fault("executed", campaign, what)
            self.marker.unlink()
        if not self.canary.is_file() or self.canary.read_bytes() != CANARY:
            report.fault("outside", campaign, f"{what}: the canary has changed")
            self.canary.write_bytes(CANARY)
        strangers = [path for path in self.outside.iterdir() if path.name not in ("canary.bin", "executed")]
        strangers += [path for path in self.root.iterdir() if path.name not in ("cwd", "outside", "home", "output.txt")]
        for path in strangers:
            report.fault("outside", campaign, f"{what}: {path.name} was written")
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def remove(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)


# ----- Running -----


def warm_up() -> None:
    """Import what the commands import, so that forks need not."""
    import importlib

    import torch

    torch.set_num_threads(1)
    from ganformer_cli.cli import main

    for name in main.COMMANDS:
        importlib.import_module(f"ganformer_cli.cli.{name.replace('-', '_')}")
    import ganformer_cli.metrics.evaluate
    import ganformer_cli.original_snapshots
    import ganformer_cli.training.loop
    import ganformer_cli.visualization  # noqa: F401


@contextlib.contextmanager
def started(
    sandbox: Sandbox, words: Sequence[str], *, environment: Mapping[str, str] | None = None, real: bool = False
) -> Iterator[int]:
    """Start a command line in the sandbox; yields its process id. The session is killed at the end of the block.

    Args:
        sandbox: where it runs; its output goes to ``output.txt`` there.
        words: the command line after ``ganformer``.
        environment: added to that of this process.
        real: start a fresh interpreter instead of a fork, as a user does.
    """
    home = sandbox.root / "home"
    home.mkdir(exist_ok=True)
    cache = str(sandbox.root.parent / "cache")  # shared, so that operators are built once
    given = {"GANFORMER_CACHE": cache, "HOME": str(home), "COLUMNS": "200", **(environment or {})}
    sys.stdout.flush()
    sys.stderr.flush()
    # Held back until the child is a program of its own: it must not be hit while it is still a copy of this one.
    signals = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    child = os.fork()
    if child != 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    else:
        try:
            os.setsid()
            output = os.open(sandbox.root / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            for descriptor, target in ((os.open(os.devnull, os.O_RDONLY), 0), (output, 1), (output, 2)):
                os.dup2(descriptor, target)
            os.chdir(sandbox.cwd)
            os.environ.update(given)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
            try:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            except KeyboardInterrupt:  # before the program has begun
                os._exit(130)
            words = [str(word) for word in words]
            if real:
                os.execv(sys.executable, [sys.executable, "-m", "ganformer_cli", *words])
            sys.argv = ["ganformer", *words]
            from ganformer_cli.cli.main import main

            main()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
            status = 1
        finally:
            with contextlib.suppress(BaseException):
                sys.stdout.flush()
                sys.stderr.flush()
            _end_children()
        os._exit(status & 0xFF)
    try:
        yield child
    finally:
        for process in session_of(child):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, 0)


def _end_children() -> None:
    # What an interpreter does at its end, and os._exit leaves out.
    import multiprocessing.util

    with contextlib.suppress(BaseException):
        multiprocessing.util._exit_function()  # type: ignore[attr-defined]


def wait(child: int, sandbox: Sandbox, limit: float, *, linger: float = 10.0) -> Outcome:
    """Wait for the end of a started command line, at most ``limit`` seconds, and then for its session to be empty.

    Args:
        child: its process id.
        sandbox: where it runs.
        limit: seconds after which it counts as hung.
        linger: seconds that other processes of its session may outlive it.
    """
    begin, status, memory = time.monotonic(), None, 0
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    while time.monotonic() - begin < limit:
        done, code, usage = os.wait4(child, os.WNOHANG)
        if done:
            status, memory = os.waitstatus_to_exitcode(code), max(0, usage.ru_maxrss - base) << 10
            break
        time.sleep(0.01)
    seconds, outlived = time.monotonic() - begin, list[str]()
    if status is not None:
        deadline = time.monotonic() + linger
        while (left := session_of(child)) and time.monotonic() < deadline:
            time.sleep(0.05)
        outlived = [command_line(process) for process in left]
    output = sandbox.root / "output.txt"  # not there if it was killed before it could say anything
    text = output.read_bytes().decode("utf-8", "replace") if output.is_file() else ""
    return Outcome(status, text, seconds, memory, outlived)


def run(sandbox: Sandbox, words: Sequence[str], *, limit: float = 60.0, **how: Any) -> Outcome:
    """Run a command line to its end, or to the time limit."""
    with started(sandbox, words, **how) as child:
        return wait(child, sandbox, limit)


def session_of(leader: int) -> list[int]:
    """The living processes of a session, its leader among them."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == leader and fields[0] != "Z":
                    found.append(int(entry.name))
    return found


def children_of(parent: int) -> list[int]:
    """The living processes that ``parent`` started, but for Python's resource tracker."""
    found = []
    for process in session_of(parent):
        with contextlib.suppress(OSError, IndexError):
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == parent and "resource_tracker" not in command_line(process):
                found.append(process)
    return found


def command_line(process: int) -> str:
    """The words that a process was started with; empty if it is gone."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
    except OSError:
        return ""


def until(condition: Callable[[], Any], limit: float) -> bool:
    """Wait until a condition holds; whether it did within ``limit`` seconds."""
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


# ----- What a folder holds -----


def weights_digest(path: Path) -> str:
    """sha256 of the tensors of a safetensors file, without its header; empty if it is damaged."""
    data = path.read_bytes()
    if len(data) < 8:
        return ""
    (size,) = struct.unpack("<Q", data[:8])
    return hashlib.sha256(data[8 + size :]).hexdigest()[:16]


def pixels_digest(path: Path) -> str:
    """sha256 of an image's pixels; empty if it is damaged."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return hashlib.sha256(image.tobytes()).hexdigest()[:16]
    except (OSError, ValueError, SyntaxError):
        return ""


def records(path: Path) -> list[dict[str, Any]]:
    """The whole JSON objects of a JSON Lines file."""
    found = []
    if path.is_file():
        for line in path.read_bytes().splitlines():
            with contextlib.suppress(ValueError, RecursionError):
                value = json.loads(line)
                if isinstance(value, dict):
                    found.append(value)
    return found


def run_contents(run_folder: Path) -> set[str]:
    """What a training run has made, as facts that do not depend on file names or times."""
    found = set()
    for path in run_folder.rglob("*"):
        if not path.is_file():
            continue
        if path.parent.name == "snapshots" and path.suffix == ".safetensors":
            found.add(f"snapshot {weights_digest(path)}")
        elif path.parent.name == "samples" and path.suffix == ".png" and path.name != "latest.png":
            found.add(f"grid {path.name.split('-')[0]} {pixels_digest(path)}")
    for record in records(run_folder / "metrics.jsonl"):
        if isinstance(record.get("swd"), float):
            found.add(f"score {record.get('kimg')}: {record['swd']:.6g}")
    states = sorted((run_folder / "state").glob("*.safetensors"))
    if states:
        found.add(f"state {weights_digest(states[-1])}")
    return found


def wrong_scores(run_folder: Path) -> list[str]:
    """Scores whose snapshot is there under the name that they give, but holds other weights."""
    wrong = []
    for record in records(run_folder / "metrics.jsonl"):
        path = run_folder / "snapshots" / str(record.get("snapshot", ""))
        named = record.get("provenance", {}).get("snapshot_sha256")
        if named and path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() != named:
            wrong.append(f"{path.name} at {record.get('kimg')} kimg")
    return wrong


def folder_contents(folder: Path, *, without: Sequence[str] = ()) -> dict[str, str]:
    """sha256 of every file below a folder, by relative path; names that contain one of ``without`` are left out."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part in path.name for part in without)
    }


def pick(source: random.Random, weighted: Mapping[str, float]) -> str:
    """One of the names, as often as its weight says."""
    return source.choices(list(weighted), list(weighted.values()))[0]
