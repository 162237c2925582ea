"""What commands that show a page in the browser have in common."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from ganformer_cli.cli.options import boolean_option, combined, option, switch
from ganformer_cli.cli.output import echo, echo_json
from ganformer_cli.stop_signals import StopSignal

if TYPE_CHECKING:
    from ganformer_cli.web.server import LocalServer

#: ``--port``, ``--open`` and ``--json``, as parameters ``port``, ``open_browser`` and ``as_json``.
page_options = combined(
    option("--port", type=click.IntRange(0, 65535), default=0, group="Server", help="Port; 0 takes a free one."),
    boolean_option("--open", "open_browser", default=True, group="Server", help="Open the page in the browser."),
    switch("--json", "as_json", group="Server", help="Print the page's address as JSON."),
)


@contextlib.contextmanager
def local_server(routes: Mapping[str, Callable[..., Any]], port: int) -> Iterator[LocalServer]:
    """A server for the block. Ctrl+C is the normal way to end it; other signals end the command with their status."""
    from ganformer_cli.web.server import LocalServer

    try:
        with LocalServer(routes, port, lambda text: echo(text, err=True, lines=True)) as server:
            yield server
    except StopSignal:
        raise
    except KeyboardInterrupt:
        pass


def serve_page(server: LocalServer, name: str, *, open_browser: bool, as_json: bool) -> None:
    """Say the page's address, open it, and serve it until Ctrl+C."""
    if as_json:
        echo_json({"address": server.address}, indent=None)
    else:
        echo(f"{name}: {server.address}  (Ctrl+C ends it)")
    if open_browser:
        click.launch(server.address)
    server.serve_forever()
