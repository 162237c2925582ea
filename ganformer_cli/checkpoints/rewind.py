"""Takes a run back to one of its earlier training states; what is later is moved aside, never deleted."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ganformer_cli.checkpoints import run_folder, training_state
from ganformer_cli.errors import ConfigError, OutputError
from ganformer_cli.files import read_regular, write_bytes

#: Holds what was moved aside, in the run folder, with a number.
ASIDE = "set-aside"

_GRID_KINDS = ("fakes", "attention")


def find_state(run: Path, kimg: float) -> Path:
    """The training state of a run at ``kimg`` thousand images.

    Raises:
        ConfigError: there is none; the message lists those that exist.
    """
    states = {training_state.images_in_state_name(path): path for path in training_state.states_of(run)}
    found = states.get(round(kimg * 1000))
    if found is None:
        listed = ", ".join(f"{images / 1000:g}" for images in states) or "none"
        raise ConfigError(
            f"--resume-from {kimg:g}: {run} has no training state at {kimg:g} kimg; those that it has: {listed}. The "
            "newest --last-states are kept; to begin a new run from a snapshot, give --restart --pretrained-pkl FILE"
        )
    return found


def rewind(run: Path, kimg: float, message: Callable[[str], None]) -> None:
    """Make the training state at ``kimg`` the newest of a run, which the caller has locked.

    Later states, snapshots and grids are moved to a new folder in the run folder, with a copy of the logs. A kill at
    any moment leaves a run that can be resumed, or rewound again.

    Args:
        kimg: thousands of real images shown.
        message: told what was moved, and where.

    Raises:
        ConfigError: there is no such state.
        SnapshotError: it is damaged.
        OutputError: something cannot be moved.
    """
    training_state.read_state(find_state(run, kimg))
    images = round(kimg * 1000)
    states = [path for path in training_state.states_of(run) if training_state.images_in_state_name(path) > images]
    snapshots = [path for path in run_folder.snapshots_of(run) if (run_folder.images_in_name(path) or 0) > images]
    name = run_folder.kimg_in_name(kimg)
    samples = run / run_folder.SAMPLE_FOLDER
    grids = [
        path for kind in _GRID_KINDS for path in sorted(samples.glob(f"{kind}-*.png")) if path.stem > f"{kind}-{name}"
    ]
    counts = {"training states": len(states), "snapshots": len(snapshots), "grids": len(grids)}
    listed = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    if not listed:
        message(f"--resume-from {kimg:g}: this is the newest state; nothing is moved aside")
        return
    aside = _next_folder(run)
    try:
        aside.mkdir()
        for log in (run_folder.LOG_FILE, run_folder.METRICS_FILE):
            if (run / log).is_file():
                write_bytes(aside / log, read_regular(run / log))
        # The newest state last to first: the run goes on from the newest that is left, whenever this is interrupted.
        for path in (*grids, *snapshots, *reversed(states)):
            place = aside / path.relative_to(run)
            place.parent.mkdir(exist_ok=True)
            os.replace(path, place)
        _renew_latest(samples)
    except OSError as error:
        raise OutputError(f"--resume-from {kimg:g}: {run}: cannot move what is later: {error}") from error
    message(f"--resume-from {kimg:g}: {listed} of later are moved to {aside}, with a copy of the logs")


def _next_folder(run: Path) -> Path:
    """A folder that does not exist yet."""
    taken = {path.name for path in run.glob(f"{ASIDE}-*")}
    return run / next(name for number in range(len(taken) + 1) if (name := f"{ASIDE}-{number:03}") not in taken)


def _renew_latest(samples: Path) -> None:
    """``latest.png`` is a copy of the newest grid that is left."""
    newest = max(samples.glob("fakes-*.png"), default=None, key=lambda path: path.stem)
    if newest is None:
        (samples / run_folder.LATEST_FILE).unlink(missing_ok=True)
    else:
        write_bytes(samples / run_folder.LATEST_FILE, read_regular(newest))
