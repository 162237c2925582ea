"""A sweep: a table of settings × seeds becomes training runs, several at a time, and a JSON file of scores for each.

Whatever ends the sweep loses nothing: a run that is not written down yet is started anew with the same command, which
resumes it. Its processes save and end by themselves when the sweep is gone.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ganformer_cli.checkpoints.run_folder import LOG_FILE, METRICS_FILE, runs_of
from ganformer_cli.checkpoints.run_lock import LAUNCHER
from ganformer_cli.config.names import check_name
from ganformer_cli.errors import ConfigError, DataError, GanformerError
from ganformer_cli.files import read_json, read_toml, write_json
from ganformer_cli.metrics.records import finite_numbers, read_records, with_seconds

RUNS, LOGS = "runs", "logs"
#: Seconds between looks at the processes, and that they get to save at the end.
PAUSE, GRACE = 0.2, 120.0

_KEYS = {"seeds", "common", "settings"}


@dataclass(frozen=True, eq=False)
class SweepRun:
    """One training run of a sweep: options of ``ganformer train``, without dashes, and a seed."""

    setting: str
    seed: int
    options: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Of the run, its log and its file of scores."""
        return f"{self.setting}-seed{self.seed}"

    def arguments(self, folder: Path) -> list[str]:
        """The command line behind ``ganformer train``, with runs in ``folder``."""
        words = ["--result-dir", str(folder), "--expname", self.name, "--seed", str(self.seed)]
        for key, value in self.options.items():
            for each in value if isinstance(value, list) else [value]:
                words += [f"--{key}", str(each)]
        return words


def read_sweep(path: Path) -> list[SweepRun]:
    """The runs of a table, seed by seed.

    The file holds ``seeds``, options that all runs share under ``[common]``, and options of each setting under
    ``[settings.NAME]``, by the names that ``ganformer train`` has for them; a setting may have ``seeds`` of its own.

    Raises:
        ConfigError: it is no such table.
    """

    def refuse(why: str) -> ConfigError:
        return ConfigError(f"{path}: {why}")

    table = read_toml(path, kind=ConfigError)
    if unknown := sorted(set(table) - _KEYS):
        raise refuse(f"unknown key {unknown[0]}; there are {', '.join(sorted(_KEYS))}")
    settings, common = table.get("settings"), table.get("common", {})
    if not isinstance(settings, dict) or not settings:
        raise refuse('no settings; write for instance [settings.duplex] and below it attention = "duplex"')
    runs = []
    for setting, own in settings.items():
        if not isinstance(own, dict) or not isinstance(common, dict):
            raise refuse(f"settings.{setting} is not a table of options")
        options = {**common, **own}
        seeds = options.pop("seeds", table.get("seeds", [0]))
        if not isinstance(seeds, list) or not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
            raise refuse("seeds must be a list of whole numbers from 0 on, for instance seeds = [0, 1, 2]")
        if taken := sorted({"result-dir", "expname", "seed"} & set(options)):
            raise refuse(f"settings.{setting}: {taken[0]} is chosen by the sweep; leave it out")
        for value in options.values():
            if not all(isinstance(each, (str, int, float)) for each in (value if isinstance(value, list) else [value])):
                raise refuse(f"settings.{setting}: values must be texts, numbers, true or false, or lists of them")
        runs += [SweepRun(check_name("settings", setting), seed, options) for seed in dict.fromkeys(seeds)]
    # All settings with the first seed come before any with the second: whatever ends the sweep, they compare.
    return sorted(runs, key=lambda run: run.seed)


def unfinished(runs: Sequence[SweepRun], folder: Path) -> list[SweepRun]:
    """The runs that have no file of scores in ``folder`` yet.

    Raises:
        ConfigError: a file is of a run with other options.
        DataError: it cannot be read.
    """
    left = []
    for run in runs:
        path = folder / f"{run.name}.json"
        if not path.exists():
            left.append(run)
            continue
        found = read_json(path)
        known = found.get("sweep") if isinstance(found, dict) else None
        if not isinstance(known, dict) or known.get("options") != dict(run.options):
            raise ConfigError(
                f"{path}: holds scores of other options than the table has for {run.setting}; give the setting another "
                "name, or choose another --output-dir"
            )
    return left


def run_sweep(
    runs: Sequence[SweepRun],
    folder: Path,
    *,
    at_once: int,
    threads: int,
    message: Callable[[str], None],
    command: Sequence[str] = (sys.executable, "-m", "ganformer_cli", "train"),
) -> dict[str, str]:
    """Train what is not finished, and write ``NAME.json`` for each.

    Args:
        runs: of ``read_sweep``.
        folder: of the files of scores; runs and their logs lie below it.
        at_once: processes at a time.
        threads: of each.
        message: called when a run begins, has ended, or has failed.
        command: that trains; its arguments follow.

    Returns:
        The runs that failed, by name, with the last line of their logs. Starting the sweep again tries them anew.
    """
    waiting = unfinished(runs, folder)
    (folder / LOGS).mkdir(parents=True, exist_ok=True)
    # A process saves and ends when its standard input does; so it does not outlive this one.
    environment = {**os.environ, LAUNCHER: str(os.getpid()), "OMP_NUM_THREADS": str(threads)}
    working: dict[SweepRun, tuple[subprocess.Popen[bytes], IO[bytes]]] = {}
    failed: dict[str, str] = {}
    try:
        while waiting or working:
            while waiting and len(working) < at_once:
                run = waiting.pop(0)
                log: IO[bytes] = (folder / LOGS / f"{run.name}.log").open("ab")
                words = [*command, *run.arguments(folder / RUNS)]
                process = subprocess.Popen(
                    words,
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    start_new_session=True,  # Ctrl-C is for this process, which then lets them save
                )
                working[run] = process, log
                message(f"{run.name}: begun; {len(waiting)} wait")
            time.sleep(PAUSE)
            for run, (process, log) in list(working.items()):
                if process.poll() is None:
                    continue
                del working[run]
                log.close()
                try:
                    if process.returncode != 0:
                        raise GanformerError(last_line(Path(log.name)) or f"status {process.returncode}")
                    write_scores(run, folder)
                except GanformerError as error:
                    failed[run.name] = str(error)
                    message(f"{run.name}: failed: {error}")
                else:
                    message(f"{run.name}: done")
    finally:
        for process, _ in working.values():
            if process.stdin is not None:
                process.stdin.close()
        deadline = time.monotonic() + GRACE
        for process, log in working.values():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            log.close()
    return failed


def write_scores(run: SweepRun, folder: Path) -> None:
    """``NAME.json``: the newest scores of a finished run, as ``ganformer compare`` reads them, and their course.

    Raises:
        DataError: the run has left no scores.
    """
    place = runs_of(folder / RUNS, run.name)
    records = read_records(place[-1] / METRICS_FILE) if place and (place[-1] / METRICS_FILE).exists() else []
    if not records:
        raise DataError(
            f"{folder / RUNS / run.name}: the run has no scores; give it metrics, for instance swd,diversity"
        )
    details = {
        "setting": run.setting,
        "seed": run.seed,
        "options": dict(run.options),
        "run": place[-1].relative_to(folder).as_posix(),
        "course": [finite_numbers(each) for each in with_seconds(records, place[-1] / LOG_FILE)],
    }
    write_json(folder / f"{run.name}.json", {**records[-1], "sweep": details})


def last_line(path: Path) -> str:
    """The last line of a log."""
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines() if path.is_file() else []
    return lines[-1].strip() if lines else ""
