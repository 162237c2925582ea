"""The scores of a snapshot or of images that lie in no run: in a file beside them.

``clevr-snapshot.pkl`` has ``clevr-snapshot.pkl.metrics.jsonl``, the folder ``images`` has ``images.metrics.jsonl``. A
record holds the checksum of the snapshot, or of the images; what has changed since has no scores.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ganformer_cli.errors import DataError
from ganformer_cli.files import error_reason, sha256_of
from ganformer_cli.metrics.records import provenance_of, read_records

SUFFIX = ".metrics.jsonl"


@dataclass
class KeptScores:
    """Scores that are kept of a snapshot or of images."""

    records: list[dict[str, Any]] = field(default_factory=list)  # oldest first, of what is there now
    warnings: list[str] = field(default_factory=list)  # what was left out, and why


def file_beside(scored: Path) -> Path:
    """Where the scores of a snapshot or of images are kept that lie in no run."""
    path = Path(os.path.abspath(scored))  # the name that it is called by, even of a link; "." has none of its own
    return scored.parent / f"{path.name}{SUFFIX}" if scored.name == path.name else path.parent / f"{path.name}{SUFFIX}"


def read_kept(scored: Path) -> KeptScores:
    """The scores that are kept beside a snapshot or images, of what is there now.

    A published snapshot that was deleted after it had been scored still has its scores.

    Raises:
        DataError: the file of scores, or the images, cannot be read.
    """
    file, found = file_beside(scored), KeptScores()
    if not file.is_file():
        return found
    known: dict[str, bool] = {}
    for record in read_records(file, found.warnings.append):
        what = identity(record)
        if what not in known:
            known[what] = not scored.exists() or _is_still(scored, provenance_of(record))
        if known[what]:
            found.records.append(record)
    if not all(known.values()):
        found.warnings.append(f"{scored}: has changed since it was scored; scores of what it was are left out")
    return found


def identity(record: Mapping[str, Any]) -> str:
    """What was scored: the snapshot's checksum, or that of the images; empty where a record does not say."""
    provenance = provenance_of(record)
    return str(provenance.get("snapshot_sha256") or provenance.get("images_sha256") or "")


def image_identity(path: Path) -> dict[str, Any]:
    """What tells whether a folder or a file of images has changed, for the provenance of their scores.

    Raises:
        DataError: it cannot be read.
    """
    try:
        files = _files(path)
        return {**_glance(path, files), "images_sha256": _content(path, files)}
    except OSError as error:
        raise DataError(f"{error.filename or path}: cannot be read ({error_reason(error)})") from error


def _files(path: Path) -> list[Path]:
    """The file, or all files of the folder, in order of their names."""
    if not path.is_dir():
        return [path]
    return sorted(Path(folder, name) for folder, _, names in os.walk(path) for name in names)


def _glance(path: Path, files: Sequence[Path]) -> dict[str, Any]:
    """What is known of files that are not read: a hash of names and sizes, and when one was changed last."""
    digest, newest = hashlib.sha256(), 0
    for file in files:
        found = file.stat()
        digest.update(f"{_name(file, path)}\n{found.st_size}\n".encode())
        newest = max(newest, found.st_mtime_ns)
    return {"images_listing": digest.hexdigest(), "images_modified": newest}


def _content(path: Path, files: Sequence[Path]) -> str:
    """A hash of names and bytes."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{_name(file, path)}\n{sha256_of(file)}\n".encode())
    return digest.hexdigest()


def _name(file: Path, path: Path) -> str:
    """Relative to the folder; names of a system may hold bytes that are no text."""
    return file.relative_to(path).as_posix().encode("utf-8", "surrogateescape").hex() if file != path else ""


def _is_still(scored: Path, provenance: Mapping[str, Any]) -> bool:
    """Whether a snapshot, or images, are what they were when a record was made."""
    if "snapshot_sha256" in provenance:
        return scored.is_file() and sha256_of(scored) == provenance["snapshot_sha256"]
    try:
        files = _files(scored)
        now = _glance(scored, files)
        if now["images_listing"] != provenance.get("images_listing"):
            return False
        # What nobody has touched need not be read.
        if now["images_modified"] == provenance.get("images_modified"):
            return True
        return _content(scored, files) == provenance.get("images_sha256")
    except OSError:
        return False
