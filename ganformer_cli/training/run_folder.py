"""The run folder ``<result-dir>/<expname>-<NNN>/`` and what lies in it."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path
from typing import Any

from ganformer_cli.config import RunConfig
from ganformer_cli.config.names import check_name
from ganformer_cli.errors import ConfigError, OutputError
from ganformer_cli.files import Warn, append_json_line, ensure_writable_folder, is_in_use, write_bytes, write_json

CONFIG_FILE = "config.json"
LOG_FILE = "log.jsonl"
METRICS_FILE = "metrics.jsonl"
EVENTS_FILE = "events.jsonl"  # warnings: what went wrong, and when
TAKEN_FILE = "init-from.json"  # what came from --init-from and what did not, tensor by tensor
SAMPLE_FOLDER = "samples"

#: Settings that a run may change when it goes on.
MAY_CHANGE = frozenset(
    {
        "total_kimg",
        "num_threads",
        "tick_kimg",
        "snapshot_kimg",
        "save_minutes",
        "last_snapshots",
        "keep_samples",
        "metrics",
        "metrics_every",
        "eval_images_num",
        "checkpoint_activations",
        "cuda_bench",
    }
)


def runs_of(result_dir: Path, expname: str) -> list[Path]:
    """The run folders of an experiment, oldest first."""
    pattern = re.compile(re.escape(unicodedata.normalize("NFC", expname)) + r"-(\d{3,})")
    found = []
    if result_dir.is_dir():
        for path in result_dir.iterdir():
            match = pattern.fullmatch(unicodedata.normalize("NFC", path.name))
            if match and path.is_dir():
                found.append((int(match.group(1)), path))
    return [path for _, path in sorted(found)]


def choose_run_folder(result_dir: Path, expname: str, *, restart: bool) -> tuple[Path, bool]:
    """The folder to train in, and whether it holds a run to go on with.

    Args:
        result_dir: folder of all runs.
        expname: name of the experiment.
        restart: begin a new numbered run even where one could go on.
    """
    expname = check_name("--expname", expname)
    runs = runs_of(result_dir, expname)
    if runs and not restart:
        return runs[-1], (runs[-1] / CONFIG_FILE).is_file()
    number = int(runs[-1].name.rsplit("-", 1)[1]) + 1 if runs else 0
    return result_dir / f"{expname}-{number:03d}", False


def create_run_folder(folder: Path, config: RunConfig) -> None:
    """Make the folder and write the resolved configuration.

    Raises:
        OutputError: it cannot be written to.
    """
    ensure_writable_folder(folder, "--result-dir")
    write_json(folder / CONFIG_FILE, config.to_dict())


def read_run_config(folder: Path) -> RunConfig:
    """The configuration that a run was begun with.

    Raises:
        ConfigError: it is missing or damaged.
    """
    path = folder / CONFIG_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); begin anew with --restart") from error
    return RunConfig.from_dict(values, where=str(path))


def check_same_run(folder: Path, old: RunConfig, new: RunConfig, *, override: bool = False) -> None:
    """Whether ``new`` may go on where ``old`` stopped.

    Args:
        folder: the run folder.
        old: settings of the run.
        new: settings that are asked for now.
        override: settings of training may differ; those of the networks never may.

    Raises:
        ConfigError: it may not; the differences are named.
    """
    before, after = old.to_dict(), new.to_dict()
    different = {
        part: [
            f"{name} was {before[part][name]}, now {after[part][name]}"
            for name in before[part]
            if before[part][name] != after[part][name] and name not in MAY_CHANGE
        ]
        for part in before
    }
    if override:
        different = {part: found for part, found in different.items() if part == "model"}
    listed = [difference for found in different.values() for difference in found]
    if listed:
        also = "" if different.get("model") else ", go on all the same with --override,"
        raise ConfigError(
            f"{folder}: this run was begun with other settings ({'; '.join(listed)}); give the same{also} or "
            "begin a new run with --restart or another --expname"
        )


#: Records for files that another program had open; the next one brings them along.
_waiting: dict[Path, list[dict[str, Any]]] = {}


def append_record(path: Path, record: dict[str, Any], warn: Warn | None = None) -> None:
    """Add one JSON object as a line to the file ``path``.

    Args:
        path: the file.
        record: the object.
        warn: told that another program holds the file, so that the line waits for the next one. None: that is an
            error, too.

    Raises:
        OutputError: it cannot be written to.
    """
    waiting = [*_waiting.pop(path, []), record]
    try:
        while waiting:
            append_json_line(path, waiting[0])
            waiting.pop(0)
    except OutputError as error:
        if warn is None or not (isinstance(error.__cause__, OSError) and is_in_use(error.__cause__)):
            raise
        _waiting[path] = waiting
        warn(f"{error}. Its newest line is written with the next one")


def forget_records_after(path: Path, kimg: float) -> None:
    """Drop the lines behind ``kimg`` from a log: a run that goes on writes them again."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue  # the last line of a killed run may be half written
        if isinstance(record, dict) and record.get("kimg", 0) <= kimg:
            kept.append(line + "\n")
    write_bytes(path, "".join(kept).encode("utf-8"))
