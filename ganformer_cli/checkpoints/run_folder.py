"""The run folder ``<result-dir>/<expname>-<NNN>/`` and what lies in it."""

from __future__ import annotations

import contextlib
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ganformer_cli.checkpoints.run_lock import LockedError, lock_run
from ganformer_cli.config import RunConfig
from ganformer_cli.config.names import check_name
from ganformer_cli.errors import ConfigError, GanformerError, OutputError, SnapshotError
from ganformer_cli.files import (
    Warn,
    append_json_line,
    ensure_writable_folder,
    error_reason,
    is_in_use,
    quietly,
    read_json,
    read_json_lines,
    read_regular,
    remove,
    why_no_file,
    write_bytes,
    write_json,
)

SNAPSHOT_FOLDER = "snapshots"
STATE_FOLDER = "state"
SNAPSHOT_PATTERN = "network-snapshot-*.safetensors"
CONFIG_FILE = "config.json"
LOG_FILE = "log.jsonl"
METRICS_FILE = "metrics.jsonl"
PARALLELISM_FILE = "parallelism.json"  # processes and threads on a CPU
EVENTS_FILE = "events.jsonl"  # warnings: what went wrong, and when
ENVIRONMENT_FILE = "environment.json"  # versions, machine and command line
REPORT_FILE = "report.html"  # curves and samples, for a browser
TAKEN_FILE = "init-from.json"  # what came from --init-from and what did not, tensor by tensor
SAMPLE_FOLDER = "samples"
LATEST_FILE = "latest.png"  # in it: a copy of the newest grid of fakes

#: Settings that a run may change when it goes on.
MAY_CHANGE = frozenset(
    {
        "total_kimg",
        "num_threads",
        "tick_kimg",
        "snapshot_kimg",
        "first_snapshot_kimg",
        "save_minutes",
        "last_snapshots",
        "last_states",
        "keep_samples",
        "metrics",
        "metrics_every",
        "eval_images_num",
        "checkpoint_activations",
        "cuda_bench",
    }
)


_SNAPSHOT_NAME = re.compile(r"network-snapshot-(\d{1,15})(?:_(\d{3}))?\.safetensors")


def runs_of(result_dir: Path, expname: str) -> list[Path]:
    """The run folders of an experiment, by number."""
    pattern = re.compile(re.escape(unicodedata.normalize("NFC", expname)) + r"-(\d{3,})")
    found = []
    if result_dir.is_dir():
        for path in result_dir.iterdir():
            match = pattern.fullmatch(unicodedata.normalize("NFC", path.name))
            if match and path.is_dir():
                found.append((int(match.group(1)), path))
    return [path for _, path in sorted(found)]


def choose_run_folder(result_dir: Path, expname: str, *, restart: bool) -> tuple[Path, bool]:
    """The folder to train in, and whether it holds a run to resume.

    Args:
        restart: begin a new numbered run even if one could be resumed.

    Raises:
        ConfigError: the name is invalid, or the folder holds a run without its configuration.
    """
    expname = check_name("--expname", expname)
    runs = runs_of(result_dir, expname)
    if runs and not restart:
        resume = (runs[-1] / CONFIG_FILE).is_file()
        if not resume:
            check_empty(runs[-1])
        return runs[-1], resume
    number = int(runs[-1].name.rsplit("-", 1)[1]) + 1 if runs else 0
    return result_dir / f"{expname}-{number:03d}", False


@contextlib.contextmanager
def claimed(
    result_dir: Path, expname: str, *, restart: bool, message: Callable[[str], None] = lambda text: None
) -> Iterator[tuple[Path, bool]]:
    """``choose_run_folder``, locked against other processes within the block.

    A new run's folder is created here, so that two processes that begin at once with ``restart`` get one each; it is
    removed again if it stays empty.

    Raises:
        LockedError: another process trains there.
        ConfigError: the folder holds a run without its configuration.
        OutputError: the place cannot be written to.
    """
    while True:
        new_parents = [path for path in (result_dir, *result_dir.parents) if not path.exists()]
        folder, _ = choose_run_folder(result_dir, expname, restart=restart)
        made = not folder.exists()
        try:
            if made:
                ensure_writable_folder(result_dir, "--result-dir")
                folder.mkdir()
        except FileExistsError:
            continue  # another process has just created it
        except OSError as error:
            raise OutputError(f"--result-dir {folder}: cannot be made ({error_reason(error)})") from error
        with contextlib.ExitStack() as stack:
            if made:
                stack.callback(remove_empty, [folder, *new_parents])
            try:
                stack.enter_context(lock_run(folder, message))
            except LockedError:
                if restart and made:
                    continue
                raise
            # Before the lock was acquired, another process may have trained there.
            resume = (folder / CONFIG_FILE).is_file()
            if not resume:
                check_empty(folder)
            yield folder, resume
            return


def remove_empty(folders: Sequence[Path]) -> None:
    """Remove the folders that are empty."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def check_empty(folder: Path) -> None:
    """Raise ConfigError if a folder without a configuration holds networks: it is unknown how they were trained."""
    held = next((name for name in (STATE_FOLDER, SNAPSHOT_FOLDER) if any_file(folder / name)), None)
    if held is not None:
        raise ConfigError(
            f"{folder}: there are files in {held}, but {CONFIG_FILE} is missing, so that the settings are unknown; "
            "put that file back, or begin a new run with --restart"
        )


def any_file(folder: Path) -> bool:
    """Whether a folder contains anything."""
    return folder.is_dir() and next(folder.iterdir(), None) is not None


def remove_leftovers(folder: Path) -> None:
    """Remove partly written files that a kill left in a run folder; the caller has locked it."""
    for part in (folder, *(folder / name for name in (SNAPSHOT_FOLDER, SAMPLE_FOLDER, STATE_FOLDER))):
        for path in part.glob(".*.part"):
            remove(path, warn=quietly)


def create_run_folder(folder: Path, config: RunConfig) -> None:
    """Create the folder and write the resolved configuration.

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
    remedy = "bring back a whole one, or begin a new run with --restart"
    values = read_json(path, kind=ConfigError, remedy=remedy)
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: is not an object of settings; {remedy}")
    return RunConfig.from_dict(values, where=str(path))


def check_same_run(folder: Path, old: RunConfig, new: RunConfig, *, override: bool = False) -> None:
    """Check that a run with settings ``old`` may be resumed with ``new``.

    Args:
        override: allow other settings of training; those of the networks must always be the same.

    Raises:
        ConfigError: it may not; the message lists the differences.
    """
    before, after = old.to_dict(), new.to_dict()
    if before["train"]["precision"] == "tf32" and after["train"]["precision"] == "auto":
        before["train"]["precision"] = "auto"  # what auto has taken the place of: the run goes on as it was
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
        also = "" if different.get("model") else ", resume nevertheless with --override,"
        raise ConfigError(
            f"{folder}: this run was begun with other settings ({'; '.join(listed)}); give the same{also} or "
            "begin a new run with --restart or another --expname"
        )


#: Records for files that another program had open; they are written with the next one.
_waiting: dict[Path, list[dict[str, Any]]] = {}


def append_record(path: Path, record: dict[str, Any], warn: Warn | None = None) -> None:
    """Add one JSON object as a line to the file ``path``.

    Args:
        warn: told that another program has the file open, so that the line is written with the next one. None: that
            is an error, too.

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


def forget_records_after(
    path: Path,
    kimg: float,
    notice: Callable[[str], None] = lambda text: None,
    *,
    ours: Callable[[dict[str, Any]], bool] = lambda record: True,
) -> None:
    """Drop the lines after ``kimg`` from a log: a resumed run writes them again.

    An incomplete last line is dropped, too. Other damaged lines stay, since it is unknown what they were.

    Args:
        path: a file with one JSON object a line.
        kimg: thousands of images shown.
        notice: told of each damaged line.
        ours: whether a resumed run writes a record again.

    Raises:
        DataError: the file cannot be read.
        OutputError: it cannot be written to.
    """
    if not path.exists():
        return
    damaged: list[GanformerError] = []
    records = dict(read_json_lines(path, damaged=damaged.append, finite=False))
    lines = read_regular(path).split(b"\n")
    kept = []
    for number, line in enumerate(lines[:-1] if len(lines) not in records else lines, 1):
        record = records.get(number, {})
        at = record.get("kimg", kimg)
        if type(at) not in (int, float) or not abs(at) < 2**1000:
            notice(f"{path}, line {number}: kimg is not a number; the line is left unchanged")
        elif at > kimg and ours(record):
            continue
        kept.append(line)
    last = f"{path}, line {len(lines)}: "
    for error in damaged:
        if not str(error).startswith(last):
            notice(f"{error}; the line is left unchanged")
    text = b"".join(line + b"\n" for line in kept if line.strip())
    if text != b"\n".join(lines):
        write_bytes(path, text)


# ----- Snapshots -----


def kimg_in_name(kimg: float) -> str:
    """``kimg`` thousand images in a file name: ``000012``, or to the image ``000012_345``.

    No two numbers of images have the same name, and sorting the names as text sorts them by number.
    """
    thousands, rest = divmod(round(kimg * 1000), 1000)
    return f"{thousands:06d}_{rest:03d}" if rest else f"{thousands:06d}"


def snapshot_name(kimg: float) -> str:
    """File name of the snapshot taken after ``kimg`` thousand images."""
    return f"network-snapshot-{kimg_in_name(kimg)}.safetensors"


def images_in_name(path: Path) -> int | None:
    """The number of images in the file name of a snapshot; None if a user has named it.

    Earlier versions wrote whole thousands only.
    """
    match = _SNAPSHOT_NAME.fullmatch(path.name)
    return int(match[1]) * 1000 + int(match[2] or 0) if match else None


def snapshots_of(run: Path) -> list[Path]:
    """The snapshots of a run folder, oldest first, after those that a user has named."""

    def order(path: Path) -> tuple[int, str]:
        images = images_in_name(path)
        return -1 if images is None else images, path.name

    return sorted((run / SNAPSHOT_FOLDER).glob(SNAPSHOT_PATTERN), key=order)


def resolve_model(path: str | Path, option: str = "--model") -> Path:
    """The model file that ``path``, given with ``option``, means: itself, or the newest snapshot of a run folder.

    Raises:
        SnapshotError: there is none.
    """
    path = Path(path)
    if path.is_dir():
        found = snapshots_of(path)
        if not found:
            raise SnapshotError(
                f"{option} {path}: no snapshot in {path / SNAPSHOT_FOLDER}; give a run folder or a file"
            )
        return found[-1]
    if why := why_no_file(path):
        why = ": no such file or run folder" if why == "does not exist" else f" {why}"
        raise SnapshotError(f"{option} {path}{why}; give one, for example results/NAME-000")
    return path
