"""Kills, stops and interrupts commands at random moments and at chosen system calls; part of ``stress.py``.

After each signal the same command line runs to its end, and must leave what an undisturbed one leaves.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import shlex
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests import stress_harness as harness
from tests.stress_harness import Report, Sandbox

#: A run of twenty steps with snapshots, grids, scores and states.
TRAIN = shlex.split(
    "train --dataset scenes --train-images-num 14 --resolution 32 --components-num 2 --latent-size 16 "
    "--channel-base 128 --channel-max 8 --mapping-num-layers 2 --batch-size 4 --total-kimg 0.08 --tick-kimg 0.016 "
    "--snapshot-kimg 0.024 --save-minutes 0.001 --vis-num 2 --metrics swd --eval-images-num 4 --expname run"
)
RUN = Path("results/run-000")
#: Seconds that a command has to save and end after a signal that asks it to.
TO_STOP = 30.0
NUMBERS = {name: getattr(signal, f"SIG{name}") for name in ("KILL", "TERM", "INT", "HUP", "USR1", "STOP")}


@dataclasses.dataclass(frozen=True)
class Scenario:
    """A command line that may be disturbed.

    Args:
        words: after ``ganformer``.
        prepare: makes what it needs in the sandbox's working folder.
        contents: what it has made, as a set of facts; an undisturbed run's must all be there in the end.
        children: whether it starts processes that may be the target.
        real: run in a fresh interpreter.
    """

    words: tuple[str, ...]
    prepare: Callable[[Path], None]
    contents: Callable[[Path], set[str]]
    children: bool = False
    real: bool = False
    environment: tuple[tuple[str, str], ...] = ()


def no_preparation(folder: Path) -> None:
    """For commands that need nothing."""


def images(folder: Path, count: int = 60) -> None:
    """A folder of small images of noise in two classes."""
    from PIL import Image

    source = random.Random(0)
    for number in range(count):
        path = folder / "images" / f"class{number % 2}" / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.frombytes("RGB", (24, 20), source.randbytes(24 * 20 * 3)).save(path)


class Trained:
    """A finished tiny run, made once and copied into the sandboxes that need a model."""

    folder: Path | None = None

    @classmethod
    def copy(cls, folder: Path) -> None:
        if cls.folder is None:
            raise RuntimeError("no run was trained")
        shutil.copytree(cls.folder / "results", folder / "results")

    @classmethod
    def make(cls, root: Path) -> None:
        sandbox = Sandbox(root, "trained")
        outcome = harness.run(sandbox, TRAIN, limit=300)
        if outcome.status != 0:
            raise RuntimeError(f"the run that the cases need failed: {outcome.output[-2000:]}")
        cls.folder = sandbox.cwd


def made_files(name: str, *without: str) -> Callable[[Path], set[str]]:
    """Facts: the files below a folder and their contents."""
    return lambda cwd: {f"{path} {sha}" for path, sha in harness.folder_contents(cwd / name, without=without).items()}


def made_file(name: str) -> Callable[[Path], set[str]]:
    """Facts: the tensors, or the bytes, of one file."""
    return lambda cwd: {harness.weights_digest(cwd / name)} if (cwd / name).is_file() else set()


_VOLATILE = ("report", "summary", "prepare.log", ".lock", "journal")
SCENARIOS: dict[str, Scenario] = {
    "train": Scenario(tuple(TRAIN), no_preparation, lambda cwd: harness.run_contents(cwd / RUN)),
    "train, loading process": Scenario(
        (*TRAIN, "--num-threads", "1"), no_preparation, lambda cwd: harness.run_contents(cwd / RUN), children=True
    ),
    "train, two processes": Scenario(
        (*TRAIN, "--processes", "2"),
        no_preparation,
        lambda cwd: harness.run_contents(cwd / RUN),
        children=True,
        real=True,
    ),
    "prepare": Scenario(
        ("prepare", "images", "--name", "set", "--resolution", "16", "--workers", "1"),
        images,
        made_files("datasets", *_VOLATILE),
    ),
    "prepare, two workers": Scenario(
        ("prepare", "images", "--name", "set", "--resolution", "16", "--workers", "2", "--shards-num", "3"),
        images,
        made_files("datasets", *_VOLATILE),
        children=True,
    ),
    "generate": Scenario(
        ("generate", "--model", str(RUN), "--images-num", "40", "--output-dir", "images", "--gpus", "none"),
        Trained.copy,
        made_files("images", ".json"),
    ),
    "generate npy": Scenario(
        ("generate", "--model", str(RUN), "--images-num", "40", "--output-dir", "images", "--format", "npy"),
        Trained.copy,
        made_files("images", ".json"),
    ),
    "generate film": Scenario(
        ("generate", "--model", str(RUN), "--seeds", "0,1", "--interpolate", "--output-dir", "images"),
        Trained.copy,
        made_files("images", ".json"),
    ),
    "eval": Scenario(
        ("eval", "--model", str(RUN), "--dataset", "scenes", "--eval-images-num", "16", "--gpus", "none"),
        Trained.copy,
        lambda cwd: {f"{r.get('swd')}" for r in harness.records(cwd / RUN / "metrics.jsonl") if r.get("by") is None},
    ),
    "convert": Scenario(
        ("convert", str(RUN), "copy.safetensors", "--overwrite"), Trained.copy, made_file("copy.safetensors")
    ),
    "compare": Scenario(
        ("compare", "--format", "csv", "--output", "table.csv", "--overwrite"),
        Trained.copy,
        made_files(".", ".json", ".png", ".safetensors", ".lock"),
    ),
    "build-ops": Scenario(
        ("build-ops", "--output-dir", "ops", "--cpu", "DEFAULT"),
        no_preparation,
        lambda cwd: {path.name.split("-")[0] for path in (cwd / "ops").glob("*.json")},
        children=True,
    ),
}
WEIGHTS = {
    "train": 10,
    "train, loading process": 2,
    "train, two processes": 0.6,
    "prepare": 4,
    "prepare, two workers": 2,
    "generate": 4,
    "generate npy": 2,
    "generate film": 2,
    "eval": 2,
    "convert": 1,
    "compare": 1,
    "build-ops": 0.4,
}
#: System calls at which strace may end a process.
CALLS = ("openat", "rename", "fsync", "unlink", "write", "mkdir")


class Signals:
    """The campaign of signals.

    Args:
        root: folder of the sandboxes.
        source: of every choice.
        report: takes in the counts.
    """

    def __init__(self, root: Path, source: random.Random, report: Report) -> None:
        self.root, self.source, self.report = root, source, report
        self.expected: dict[str, tuple[set[str], float]] = {}

    def undisturbed(self, name: str) -> tuple[set[str], float]:
        """What a scenario leaves without signals, and the seconds that it takes."""
        if name not in self.expected:
            scenario, sandbox = SCENARIOS[name], Sandbox(self.root, "undisturbed")
            scenario.prepare(sandbox.cwd)
            outcome = harness.run(sandbox, scenario.words, limit=300, real=scenario.real)
            if outcome.status != 0:
                raise RuntimeError(f"{name} fails undisturbed: {outcome.output[-2000:]}")
            self.expected[name] = scenario.contents(sandbox.cwd), outcome.seconds
            if not self.expected[name][0]:
                raise RuntimeError(f"{name} leaves nothing to compare")
            sandbox.remove()
        return self.expected[name]

    def case(self, name: str | None = None) -> None:
        """Disturb one command line one to three times, let it end, and compare."""
        name = name or harness.pick(self.source, WEIGHTS)
        scenario = SCENARIOS[name]
        expected, seconds = self.undisturbed(name)
        sandbox = Sandbox(self.root, "signals")
        scenario.prepare(sandbox.cwd)
        messages = []
        for _ in range(self.source.choice((1, 1, 2, 3))):
            messages.append(self.disturb(name, scenario, sandbox, seconds))
            self.report.cases["signals"] += 1
        what = f"{name} after {', '.join(messages)}"
        outcome = harness.run(sandbox, scenario.words, limit=120 + 10 * seconds, real=scenario.real)
        self.report.check("signals", what, outcome)
        if outcome.status not in (0, None):
            self.report.fault("lost", "signals", f"{what}: does not go on: {outcome.last_line}")
        elif missing := sorted(expected - scenario.contents(sandbox.cwd)):
            self.report.fault("lost", "signals", f"{what}: {len(missing)} of {len(expected)} missing: {missing[:3]}")
        for wrong in harness.wrong_scores(sandbox.cwd / RUN):
            self.report.fault("lost", "signals", f"{what}: the score of {wrong} names other weights")
        if leftover := [path.name for path in sandbox.cwd.rglob("*.part")]:
            self.report.fault("lost", "signals", f"{what}: left {leftover[:3]}")
        sandbox.check(self.report, "signals", what)
        sandbox.remove()

    def disturb(self, name: str, scenario: Scenario, sandbox: Sandbox, seconds: float) -> str:
        """Start the command line and send one signal; returns which and when, in words."""
        if self.source.random() < 0.2 and shutil.which("strace"):
            return self.at_a_system_call(name, scenario, sandbox)
        number_name = self.source.choice(list(NUMBERS))
        to_child = scenario.children and self.source.random() < 0.4
        moment = self.source.random() * seconds
        what = f"{number_name} {'to a child ' if to_child else ''}at {moment:.2f} s"
        with harness.started(sandbox, scenario.words, real=scenario.real) as leader:
            harness.until(lambda: leader not in harness.session_of(leader), moment)
            target, number = leader, NUMBERS[number_name]
            if to_child:
                harness.until(lambda: harness.children_of(leader), 5.0)
                target = self.source.choice(harness.children_of(leader) or [leader])
            whole_session = number_name == "INT" and self.source.random() < 0.5  # as a terminal does
            for process in harness.session_of(leader) if whole_session else [target]:
                _send(process, number)
            if number_name == "STOP":
                time.sleep(0.2)
                if target == leader:
                    _send(leader, signal.SIGCONT)
                _send(leader, signal.SIGTERM)
            # Compilers whose caller was killed end what they are at, which nobody will use.
            linger = 90.0 if name == "build-ops" else 10.0
            outcome = harness.wait(leader, sandbox, TO_STOP + 10 * seconds, linger=linger)
        self.report.check("signals", f"{name}, {what}", outcome)
        return what

    def at_a_system_call(self, name: str, scenario: Scenario, sandbox: Sandbox) -> str:
        """Let strace send the signal when a system call is made for the nth time."""
        call, number = self.source.choice(CALLS), self.source.choice(("KILL", "KILL", "TERM"))
        count = self.source.randrange(1, 40) if call in ("rename", "fsync", "unlink", "mkdir") else self.place(call)
        what = f"{number} at {call} {count}"
        attach = ["-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}"]
        inject = ["-e", f"inject={call}:signal={number}:when={count}"]
        with harness.started(sandbox, scenario.words, real=scenario.real) as leader:
            tracer = os.spawnvp(os.P_NOWAIT, "strace", ["strace", *attach, *inject, "-p", str(leader)])
            outcome = harness.wait(leader, sandbox, 120.0, linger=90.0 if name == "build-ops" else 10.0)
            with contextlib.suppress(ProcessLookupError):
                os.kill(tracer, signal.SIGTERM)
            os.waitpid(tracer, 0)
        self.report.check("signals", f"{name}, {what}", outcome)
        return what

    def place(self, call: str) -> int:
        """Which of the many opens or writes."""
        return int(10 ** (3 * self.source.random()))


def _send(process: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, number)


# ----- The seven faults that once were -----


def two_trainings_in_one_folder(root: Path, source: random.Random, report: Report) -> None:
    """The same command twice at once: one of them trains, the other is refused or gets a folder of its own."""
    for extra, both_may_run in (((), False), (("--restart",), True)):
        sandbox = Sandbox(root, "twice")
        other = Sandbox(root, "twice-other")
        other.cwd.rmdir()
        other.cwd.symlink_to(sandbox.cwd)
        words = [*TRAIN, *extra]
        with harness.started(sandbox, words) as first, harness.started(other, words) as second:
            outcomes = [harness.wait(first, sandbox, 120), harness.wait(second, other, 120)]
        report.cases["serious"] += 1
        for outcome in outcomes:
            report.check("serious", f"two trainings {extra}", outcome)
        finished = sum(outcome.status == 0 for outcome in outcomes)
        folders = len(list((sandbox.cwd / "results").glob("run-*")))
        if finished == 0 or folders < finished or (finished == 2 and not both_may_run):
            report.fault("lost", "serious", f"two trainings {extra}: {finished} ended well in {folders} folder(s)")
        other.cwd.unlink()
        sandbox.remove()
        other.remove()


def workers_without_their_launcher(root: Path, source: random.Random, report: Report) -> None:
    """The launcher of two processes is killed: its workers end, and nothing else trains in their folder meanwhile."""
    sandbox = Sandbox(root, "launcher")
    words = [*TRAIN, "--processes", "2", "--total-kimg", "4"]
    log = sandbox.cwd / RUN / "log.jsonl"
    with harness.started(sandbox, words, real=True) as leader:
        harness.until(log.is_file, 120)
        os.kill(leader, signal.SIGKILL)
        outcome = harness.wait(leader, sandbox, 10, linger=20)
    report.cases["serious"] += 1
    report.check("serious", "launcher of two processes killed", outcome)
    sandbox.remove()


def scored_snapshot_overwritten(root: Path, source: random.Random, report: Report) -> None:
    """Snapshots within one kimg, and a stop between them: every score names the weights that it was computed from."""
    sandbox = Sandbox(root, "scored")
    words = [*TRAIN, "--total-kimg", "0.4"]
    with harness.started(sandbox, words) as leader:
        harness.until(lambda: len(harness.records(sandbox.cwd / RUN / "metrics.jsonl")) >= 3, 60)
        _send(leader, signal.SIGTERM)
        outcome = harness.wait(leader, sandbox, TO_STOP)
    report.cases["serious"] += 1
    report.check("serious", "stop within a kimg", outcome)
    for wrong in harness.wrong_scores(sandbox.cwd / RUN):
        report.fault("lost", "serious", f"stop within a kimg: the score of {wrong} names other weights")
    sandbox.remove()


def killed_between_state_and_scores(root: Path, source: random.Random, report: Report) -> None:
    """Kills at each rename of the last snapshot: what belongs to it is made again, even where training had ended."""
    clean = Sandbox(root, "clean")
    harness.run(clean, TRAIN, limit=300)
    expected = harness.run_contents(clean.cwd / RUN)
    clean.remove()
    for count in (*range(2, 30, 3), -1):
        sandbox = Sandbox(root, "between")
        with harness.started(sandbox, TRAIN) as leader:
            if count < 0:  # when the last state is there, wherever its grid and scores are
                harness.until((sandbox.cwd / RUN / "state" / "training-state-000000080.safetensors").exists, 60)
                _send(leader, signal.SIGKILL)
                harness.wait(leader, sandbox, 10)
            else:
                inject = ["-e", "trace=rename", "-e", f"inject=rename:signal=KILL:when={count}"]
                tracer = os.spawnvp(
                    os.P_NOWAIT, "strace", ["strace", "-f", "-qq", "-o", "/dev/null", *inject, "-p", str(leader)]
                )
                harness.wait(leader, sandbox, 120)
                os.waitpid(tracer, 0)
        outcome = harness.run(sandbox, TRAIN, limit=300)
        report.cases["serious"] += 1
        what = f"killed at rename {count}"
        report.check("serious", what, outcome)
        if missing := sorted(expected - harness.run_contents(sandbox.cwd / RUN)):
            report.fault("lost", "serious", f"{what}: {len(missing)} of {len(expected)} missing: {missing[:2]}")
        sandbox.remove()


def relative_folders_of_operators(root: Path, source: random.Random, report: Report) -> None:
    """Operators are built into relative folders as into absolute ones."""
    for words, environment in (
        (["build-ops", "--output-dir", "built"], {}),
        (["build-ops"], {"GANFORMER_CACHE": "cache"}),
    ):
        sandbox = Sandbox(root, "relative")
        outcome = harness.run(sandbox, words, limit=300, environment=environment, real=True)
        report.cases["serious"] += 1
        report.check("serious", f"{' '.join(words)} {environment}", outcome)
        if outcome.status != 0:
            report.fault("lost", "serious", f"{' '.join(words)} {environment}: {outcome.last_line}")
        sandbox.remove()


def outputs_that_are_not_files(root: Path, source: random.Random, report: Report) -> None:
    """A device, a symbolic link and somebody's file given as output stay what they are."""
    sandbox = Sandbox(root, "outputs")
    Trained.copy(sandbox.cwd)
    lines = [
        ["compare", "--output", "TARGET"],
        ["compare", "--format", "csv", "--output", "TARGET"],
        ["compare", "--plot", "TARGET.png"],
        ["bench", "--only", "operators", "--quick", "--output", "TARGET"],
    ]
    for line in lines:
        for kind in ("device", "link", "file"):
            target = sandbox.cwd / next(word for word in line if "TARGET" in word).replace("TARGET", "target")
            theirs = sandbox.outside / "canary.bin"
            if kind == "device":
                with contextlib.suppress(PermissionError):
                    os.mknod(target, 0o666 | 0o020000, os.makedev(1, 3))
            elif kind == "link":
                target.symlink_to(theirs)
            else:
                target.write_bytes(harness.CANARY)
            words = [str(target) if "TARGET" in word else word for word in line]
            if kind == "device" and not target.exists():
                continue  # only root makes devices
            outcome = harness.run(sandbox, words, limit=120)
            what = f"{' '.join(line)} onto a {kind}"
            report.cases["serious"] += 1
            report.check("serious", what, outcome)
            if kind == "file":
                kept = target.read_bytes() == harness.CANARY
            else:
                kept = target.is_char_device() if kind == "device" else target.is_symlink()
            if not kept:
                report.fault("lost", "serious", f"{what}: replaced")
            target.unlink(missing_ok=True)
            sandbox.check(report, "serious", what)
    sandbox.remove()


def loading_processes(root: Path, source: random.Random, report: Report) -> None:
    """A loading process that is killed or stopped, and a /dev/shm that is too small, neither hang nor lose a run."""
    words = [*TRAIN, "--num-threads", "1", "--total-kimg", "0.4"]
    log = RUN / "log.jsonl"
    for number_name in ("KILL", "STOP"):
        sandbox = Sandbox(root, "loading")
        with harness.started(sandbox, words) as leader:
            harness.until((sandbox.cwd / log).is_file, 120)
            for child in harness.children_of(leader):
                _send(child, NUMBERS[number_name])
            if number_name == "STOP":
                time.sleep(1)
                begin = time.monotonic()
                _send(leader, signal.SIGTERM)
            outcome = harness.wait(leader, sandbox, 120)
            if number_name == "STOP" and outcome.status is not None and time.monotonic() - begin > 20:
                report.fault("hung", "serious", "a stopped loading process: SIGTERM took more than 20 s")
        report.cases["serious"] += 1
        report.check("serious", f"loading process, {number_name}", outcome)
        sandbox.remove()
    if os.geteuid() == 0 and shutil.which("unshare"):
        sandbox = Sandbox(root, "small-shm")
        mount = "mount -t tmpfs -o size=16k tmpfs /dev/shm && exec "
        line = " ".join(["python", "-m", "ganformer_cli", *words, "--resolution", "64", "--batch-size", "32"])
        outcome = _run_shell(sandbox, ["unshare", "-m", "sh", "-c", mount + line])
        report.cases["serious"] += 1
        report.check("serious", "small /dev/shm", outcome)
        sandbox.remove()


def _run_shell(sandbox: Sandbox, words: list[str]) -> harness.Outcome:
    """Run a program that is not ganformer in the sandbox, to its end or for two minutes."""
    child = os.fork()
    if child == 0:
        os.setsid()
        output = os.open(sandbox.root / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(sandbox.cwd)
        os.environ["GANFORMER_CACHE"] = str(sandbox.root.parent / "cache")
        os.execvp(words[0], words)
    try:
        return harness.wait(child, sandbox, 120)
    finally:
        for process in harness.session_of(child):
            _send(process, signal.SIGKILL)


#: By the name that the report gives them.
SERIOUS: dict[str, Callable[[Path, random.Random, Report], Any]] = {
    "two trainings in one folder": two_trainings_in_one_folder,
    "workers without their launcher": workers_without_their_launcher,
    "scored snapshot overwritten": scored_snapshot_overwritten,
    "killed between state and scores": killed_between_state_and_scores,
    "relative folders of operators": relative_folders_of_operators,
    "outputs that are not files": outputs_that_are_not_files,
    "loading processes": loading_processes,
}
