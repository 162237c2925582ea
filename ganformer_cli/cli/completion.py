"""What the shell completes: runs, models, data sets and names of the catalogues; everything light."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from ganformer_cli.resources import resource_folder

#: Of a folder of images, for instance, that holds very many.
MAX_ENTRIES = 10_000


def complete_models(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Run folders, published snapshots, or any file."""
    from ganformer_cli.original_snapshots.catalogue import PREFIX, PUBLISHED

    runs = (path.as_posix() for path in _runs(ctx))
    return _matching([*runs, *(f"{PREFIX}{name}" for name in PUBLISHED)], incomplete)


def complete_runs(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of runs, without their numbers."""
    return _matching((path.name.rpartition("-")[0] for path in _runs(ctx)), incomplete, files=False)


def complete_datasets(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The built-in data set, prepared ones, or any path."""
    folder = Path(ctx.params.get("data_dir") or "datasets")
    prepared = (path.parent.name for path in folder.glob("*/manifest.json"))
    return _matching(["scenes", *prepared], incomplete)


def complete_sources(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Data sets of the catalogue, or any path."""
    return _matching({path.stem for path in resource_folder("datasets").glob("*.toml")} - {"scenes"}, incomplete)


def _runs(ctx: click.Context) -> list[Path]:
    folder = Path(ctx.params.get("result_dir") or "results")
    return [path.parent for path in folder.glob("*/config.json")]


def _matching(words: Iterable[str], incomplete: str, *, files: bool = True) -> list[CompletionItem]:
    """The words that begin so, and the paths beside them; if there are no words, the shell completes file names."""
    found = {word for word in words if word.startswith(incomplete)}
    if files and not found:
        return [CompletionItem(incomplete, type="file")]
    if files and incomplete:  # the shell completes no file names where it is given words
        found.update(_paths(incomplete))
    return [CompletionItem(word) for word in sorted(found)]


def _paths(incomplete: str) -> Iterator[str]:
    """Files and folders whose path begins so."""
    folder, slash, name = incomplete.rpartition("/")
    with contextlib.suppress(OSError), os.scandir(folder + slash or ".") as entries:
        for entry in islice(entries, MAX_ENTRIES):
            if entry.name.startswith(name) and (name or not entry.name.startswith(".")):
                yield f"{folder}{slash}{entry.name}"
