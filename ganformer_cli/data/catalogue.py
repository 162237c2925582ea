"""The data sets that are known by name: one file each in ``datasets/``."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from ganformer_cli.errors import DataError
from ganformer_cli.resources import resource_folder

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SCENES = "scenes"  # the built-in set's name


@dataclass(frozen=True)
class CatalogueEntry:
    """What ``datasets/NAME.toml`` says."""

    name: str  # the file's stem, and the name on the command line
    title: str
    licence: str  # one line
    ratio: float  # height / width of its pictures
    resolution: int | None = None  # longer side that it is usually trained at; None: any
    images: int | None = None  # how many pictures it has
    homepage: str | None = None
    source: tuple[dict[str, Any], ...] = ()  # where it is found: form, url or drive (an id), md5, gigabytes
    preset: dict[str, Any] = field(default_factory=dict)  # options of ``ganformer train``, with underscores


@cache
def load_catalogue() -> dict[str, CatalogueEntry]:
    """Every shipped entry, by name, in alphabetical order.

    Raises:
        DataError: a file is not TOML, or has a wrong or missing key.
    """
    return {path.stem: read_entry(path) for path in sorted(resource_folder("datasets").glob("*.toml"))}


def read_entry(path: Path) -> CatalogueEntry:
    """One entry of the catalogue.

    Raises:
        DataError: the file is not TOML, or has a wrong or missing key.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        values["source"] = tuple(values.get("source", ()))
        return CatalogueEntry(name=path.stem, **values)
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path} cannot be used as a catalogue entry: {error}") from error
