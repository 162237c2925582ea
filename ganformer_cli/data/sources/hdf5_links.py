"""What an HDF5 file does not hold itself: links to other files, raw data in other files, virtual datasets.

HDF5 follows all of these by itself. A file that somebody else made could so bring bytes of any other file of this
machine into a data set, or wait for a named pipe; so links are looked at, and never followed out of the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ganformer_cli.errors import DataError

_MOST_LINKS = 16  # soft links behind one another
_NAMED = 3  # files that a message names


def external_links(h5py: Any, group: Any) -> list[str]:
    """The members of a group that lie in other files: ``name (file)``."""
    found = []
    links = group.id.links
    for name in group:
        raw = name.encode("utf-8", "surrogateescape")
        if links.get_info(raw).type == h5py.h5l.TYPE_EXTERNAL:
            file = links.get_val(raw)[0].decode("utf-8", "replace")
            found.append(f"{group.name.rstrip('/')}/{name} ({file})")
    return found


def member(h5py: Any, path: Path, group: Any, name: str, depth: int = 0) -> Any | None:
    """The object ``name`` of a group, links within the file followed; None where there is none.

    Raises:
        DataError: it lies in another file, or the links lead in a circle.
    """
    where = group.file["/"] if name.startswith("/") else group
    for part in filter(None, name.split("/")):
        if part == ".":
            continue
        raw = part.encode("utf-8", "surrogateescape")
        if not isinstance(where, h5py.Group) or not where.id.links.exists(raw):
            return None
        kind = where.id.links.get_info(raw).type
        if kind == h5py.h5l.TYPE_HARD:
            where = where[part]
        elif kind == h5py.h5l.TYPE_SOFT:
            if depth >= _MOST_LINKS:
                raise DataError(f"{path}: its links lead in a circle at {name}; get the file again")
            target = where.id.links.get_val(raw).decode("utf-8", "surrogateescape")
            where = member(h5py, path, where, target, depth + 1)
            if where is None:
                return None
        else:
            links = external_links(h5py, where) or [part]
            raise elsewhere(path, f"{name} is a link to another file", links)
    return where


def check_held(path: Path, dataset: Any) -> None:
    """Refuse a dataset whose data lie elsewhere.

    Raises:
        DataError: they lie in other files.
    """
    if dataset.external:
        files = [str(part[0]) for part in dataset.external]
        raise elsewhere(path, f"dataset {dataset.name} has external storage", files)
    if dataset.is_virtual:
        files = sorted({str(source.file_name) for source in dataset.virtual_sources()})
        raise elsewhere(path, f"dataset {dataset.name} is virtual", files)


def elsewhere(path: Path, what: str, files: list[str]) -> DataError:
    """The error for what lies in other files."""
    named = ", ".join(files[:_NAMED]) + (" ..." if len(files) > _NAMED else "")
    return DataError(f"{path}: {what} ({named}), which is not followed; copy all of it into one file, or give that one")
