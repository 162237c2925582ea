"""Which data sets a line of ``ganformer prepare`` asks for, and whether its options go together."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ganformer_cli.cli.options import warn
from ganformer_cli.config.names import check_name, quoted, same_name, valid_name
from ganformer_cli.errors import ConfigError, DataError

if TYPE_CHECKING:
    from ganformer_cli.data.catalogue import CatalogueEntry

CATALOGUE_FLAGS = ("ffhq", "cityscapes", "clevr", "bedrooms")  # flags of the authors' script
SUFFIXES = (".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")  # that are no part of a name; of others it is the last


@dataclass(frozen=True)
class OwnImages:
    """A data set to make of the user's images."""

    name: str
    path: Path
    ratio: float  # unless another is asked for


@dataclass(frozen=True)
class CatalogueSet:
    """A data set to make of what an entry of the catalogue names."""

    name: str
    entry: CatalogueEntry

    @property
    def ratio(self) -> float:
        return self.entry.ratio


PrepareJob = OwnImages | CatalogueSet


@dataclass(frozen=True)
class PrepareSettings:
    """What holds for all data sets of a line; ``options`` are the fields of ``PrepareOptions``."""

    data_dir: Path
    format: str | None
    labels: str | None
    from_file: Path | None
    check: bool
    choice: int | None
    keep_download: bool
    as_json: bool
    options: dict[str, Any]


def find_jobs(
    given: list[str], wanted: tuple[str, ...], name: str | None, settings: PrepareSettings
) -> list[PrepareJob]:
    """The data sets that a line asks for, each once, in its order.

    Raises:
        click.UsageError: there is none, two would have one name, or options do not go together.
        ConfigError: the built-in data set is asked for.
        DataError: an entry of the user's own cannot be used.
    """
    from ganformer_cli.data.catalogue import SCENES, find_entry, load_catalogue, read_entry

    name = None if name is None else check_name("--name", name)
    jobs: list[PrepareJob] = []
    for word in [*given, *(f"--{flag}" for flag in wanted)]:
        path, entry = Path(word), None
        if word.startswith("--") and word[2:] in load_catalogue():
            entry = load_catalogue()[word[2:]]
        elif path.suffix.lower() == ".toml" and path.exists() and not path.is_dir():
            entry = read_entry(path)
        elif settings.format != "tfds" and not path.exists():
            entry = find_entry(word, settings.data_dir)
            near = difflib.get_close_matches(word, load_catalogue(), n=1) if entry is None else []
            if near:
                raise DataError(f"{word} does not exist, and no known data set has this name; did you mean {near[0]}?")
        if entry is not None and entry.name == SCENES:
            raise ConfigError(f"{SCENES} is built in and needs no preparing; run: ganformer train --dataset {SCENES}")
        if entry is not None:
            job: PrepareJob = CatalogueSet(name or entry.name, entry)
        elif not word:
            raise click.UsageError("SOURCE is empty; give the path of a folder or a file of images")
        else:
            called = name or _name_of(path)
            usual = load_catalogue().get(called)
            job = OwnImages(called, path, 1.0 if usual is None else usual.ratio)
        if job in jobs:
            continue
        if any(job.name == other.name for other in jobs):
            if name is not None:
                raise click.UsageError(f"--name {name} needs a single SOURCE; prepare them one at a time")
            raise click.UsageError(f"two SOURCEs would both be named {job.name}; prepare each with its own --name")
        jobs.append(job)
    if not jobs:
        raise click.UsageError(
            "SOURCE is missing; give the path of a folder or a file of images, or the name of a known data set "
            f"({', '.join(CATALOGUE_FLAGS)})"
        )
    _check_together(jobs, settings)
    return jobs


def _name_of(path: Path) -> str:
    """The name of the data set that is made of ``path``: its own, as far as that can be a name everywhere."""
    own = path.stem
    if path.is_dir():
        own = path.resolve().name
    else:
        for suffix in SUFFIXES:
            if path.name.lower().endswith(suffix):
                own = path.name[: -len(suffix)]
    called = valid_name(own)
    if not same_name(called, own):
        warn(f"{path}: the data set is called {quoted(called)}, which works on every system; --name chooses another")
    return called


def _check_together(jobs: list[PrepareJob], settings: PrepareSettings) -> None:
    """Refuse options that do not go together."""
    from_file, check, choice = settings.from_file, settings.check, settings.choice
    format, labels = settings.format, settings.labels
    known = [job for job in jobs if isinstance(job, CatalogueSet)]
    if from_file is not None and (len(jobs) != 1 or not known):
        example = next((job.name for job in known), "ffhq")
        raise click.UsageError(
            f"--from-file {from_file} needs one data set of the catalogue, as in: ganformer prepare {example} "
            f"--from-file {quoted(str(from_file))}"
        )
    if not check and from_file is None:
        raise click.UsageError("--check False needs --from-file; a download is always checked")
    if choice is not None and (len(known) != 1 or from_file is not None):
        raise click.UsageError("--source needs one data set of the catalogue to download")
    if format is not None and known and (from_file is None or check):
        raise click.UsageError(
            f"--format {format}: the catalogue knows what {known[0].name} is; leave the option out, or give "
            "--from-file with --no-check"
        )
    if labels not in {None, "none", "folders"} and len(jobs) > 1:
        raise click.UsageError(f"--labels {labels} needs a single SOURCE; prepare them one at a time")
