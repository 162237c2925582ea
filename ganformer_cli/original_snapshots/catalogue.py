"""The six snapshots that the authors published, on Google Drive (``gdrive:clevr-snapshot.pkl`` and so on)."""

from __future__ import annotations

import difflib
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ganformer_cli.downloads.drive import DRIVE, fetch_drive
from ganformer_cli.errors import SnapshotError
from ganformer_cli.files import open_regular
from ganformer_cli.resources import cache_folder

PREFIX = "gdrive:"


class Published(NamedTuple):
    """A published snapshot."""

    file_id: str
    #: height / width of its data, which its images are cropped to.
    ratio: float
    dataset: str  # as the catalogue of data sets calls it
    resolution: int  # longer side of its images
    format: str = "PyTorch"  # which of the authors' two programs wrote it


PUBLISHED = {
    "clevr-snapshot.pkl": Published("1sYtuNEi0HGBH1F8GW2JlF4mCRGGrtZa9", 0.75, "clevr", 256),
    "cityscapes-snapshot.pkl": Published("1iL8S26IYCNAQmUS-6GYCVheKFtCE4ktQ", 0.5, "cityscapes", 256),
    "ffhq-snapshot.pkl": Published("1-b0vwevUQs6LI_EybdO8XJ5uYSx63vEa", 1.0, "ffhq", 256),
    "bedrooms-snapshot.pkl": Published("1lrB4t3hOOpn8YiwHEduIZYzndHrsKX8z", 188 / 256, "bedrooms", 256),
    "ffhq-snapshot-1024.pkl": Published("1OcsibUthk2y8y0slf2lQnrYBAtmdJYCQ", 1.0, "ffhq", 1024),
    "cityscapes-snapshot-2048.pkl": Published(
        "1lJlbIuxF89-owG7vQSBYXc8y2RqqP_bP", 0.5, "cityscapes", 2048, "TensorFlow"
    ),
}


def snapshot_path(name: str) -> Path:
    """Where a published snapshot lies once it is downloaded, or put there by hand."""
    return cache_folder() / "snapshots" / name


def published_ratio(path: Path) -> float | None:
    """Height / width of the data of a published snapshot, by the file's name; None for other files."""
    known = PUBLISHED.get(path.name)
    return None if known is None else known.ratio


def fetch_snapshot(
    name: str,
    *,
    offline: bool = False,
    base_url: str = DRIVE,
    progress: Callable[[int, int | None], None] | None = None,
) -> Path:
    """A published snapshot on disk, downloaded unless it is there.

    Args:
        name: with or without ``gdrive:``.
        progress: called with the bytes that are there, and all if known.

    Raises:
        SnapshotError: there is no such snapshot.
        DownloadError: it cannot be downloaded; the message says how to get it by hand.
    """
    name = name.removeprefix(PREFIX)
    if name not in PUBLISHED:
        near = difflib.get_close_matches(name, PUBLISHED, n=1)
        meant = f"did you mean {PREFIX}{near[0]}? " if near else ""
        raise SnapshotError(
            f"--model {PREFIX}{name}: not published; {meant}There are {', '.join(PUBLISHED)} (ganformer info --list)"
        )
    return fetch_drive(
        PUBLISHED[name].file_id,
        snapshot_path(name),
        base_url=base_url,
        check=check_snapshot,
        progress=progress,
        offline=offline,
    )


def check_snapshot(path: Path) -> None:
    """Raise SnapshotError unless ``path`` begins and ends as a pickle does."""
    from ganformer_cli.original_snapshots.pickles import check_start  # loads torch

    with open_regular(path) as file:
        check_start(path, file.read(512))
        file.seek(-1, os.SEEK_END)
        if file.read(1) != pickle.STOP:
            raise SnapshotError(f"{path}: it is cut short; delete it to download it again")
