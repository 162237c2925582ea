"""``ganformer watch``: runs in the browser, while they train."""

from __future__ import annotations

from pathlib import Path

import click

from ganformer_cli.cli.local_pages import local_server, page_options, serve_page
from ganformer_cli.cli.options import GroupedCommand
from ganformer_cli.cli.runs import existing_folder


@click.command("watch", cls=GroupedCommand)
@click.argument("folder", metavar="[RUN|DIR]", default="results", type=click.Path(path_type=Path))
@page_options
def command(folder: Path, port: int, open_browser: bool, as_json: bool) -> None:
    """Show the run RUN, or all runs in DIR (by default results), in the browser until Ctrl+C.

    The page refreshes by itself. Only this machine can open it, and only with the address that is printed.
    """
    from ganformer_cli.web.watch import Watcher

    watcher = Watcher(existing_folder(folder))
    with local_server(watcher.routes, port) as server:
        serve_page(server, "watch", open_browser=open_browser, as_json=as_json)
