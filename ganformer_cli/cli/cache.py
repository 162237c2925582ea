"""``ganformer cache``: what is kept on this machine to be used again, and how to be rid of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ganformer_cli.cli.options import GroupedCommand, json_option, option, path_option, section, warn
from ganformer_cli.cli.output import echo, echo_json, echo_table
from ganformer_cli.files import MIB, folder_extent, remove
from ganformer_cli.resources import CACHE_FOLDERS, DOWNLOADS, cache_folder

_DATASETS = "downloads"  # what the downloaded archives of data sets are called here


@click.command("cache", cls=GroupedCommand)
@click.argument("names", nargs=-1, metavar="[NAME...]", type=click.Choice([*CACHE_FOLDERS, _DATASETS]))
@section("Cache")
@option("--clear", is_flag=True, help="Delete it.")
@path_option(
    "--data-dir", default="datasets", help="Folder that holds the data sets, where prepare keeps what it downloads."
)
@json_option
def command(names: tuple[str, ...], clear: bool, data_dir: Path, as_json: bool) -> None:
    """Show what is kept to be used again, and how much: built operators, weights of metrics, published models,
    statistics of data sets, outcomes of trials, drawn scenes, downloaded archives.

    With --clear, delete it; NAME chooses a part. All of it is made or downloaded again when it is needed. Data sets and
    runs are never touched. GANFORMER_CACHE moves the folder.

    \b
      ganformer cache
      ganformer cache --clear
      ganformer cache operators --clear
    """
    folders = {name: (cache_folder() / name, text) for name, text in CACHE_FOLDERS.items()}
    folders[_DATASETS] = data_dir / DOWNLOADS, "downloaded archives of data sets"
    parts: list[dict[str, Any]] = []
    for name in dict.fromkeys(names or folders):
        folder, text = folders[name]
        files, size = folder_extent(folder)
        cleared = clear and files > 0 and remove(folder, warn=warn)
        parts.append(
            {"name": name, "folder": str(folder), "holds": text, "files": files, "bytes": size, "cleared": cleared}
        )
    if as_json:
        echo_json(parts)
        return
    rows = [
        (part["name"], part["holds"], str(part["files"]), f"{part['bytes'] / MIB:.1f}", part["folder"])
        for part in parts
    ]
    echo_table(("name", "holds", "files", "MiB", "folder"), rows, right=("files", "MiB"))
    if clear:
        freed = sum(part["bytes"] for part in parts if part["cleared"])
        echo(f"deleted: {freed / MIB:.1f} MiB")
