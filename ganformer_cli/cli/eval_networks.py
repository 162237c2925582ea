"""The weights of feature networks, downloaded with a bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ganformer_cli.cli.progress import ProgressBar
from ganformer_cli.files import MIB


@contextmanager
def fetching(*, silent: bool) -> Iterator[Callable[[str, int, int | None], None]]:
    """Progress of downloads: a function that is told a network's name, the bytes that are there, and all if known."""
    with ProgressBar() as progress:
        shown = ""

        def report(name: str, done: int, total: int | None) -> None:
            nonlocal shown
            if silent:
                return
            if shown != name:
                shown = name
                progress.start((total or done) / MIB, "MiB", f"weights of {name}", done=done / MIB)
            progress.update(done / MIB)

        yield report


def fetch_networks(networks: Sequence[str], *, offline: bool, silent: bool = False) -> dict[str, Path]:
    """Where the weights of these networks lie, downloaded unless they are there.

    Raises:
        DownloadError: they cannot be had; the message says how to get them by hand.
    """
    from ganformer_cli.metrics.features import fetch_weights

    found = {}
    with fetching(silent=silent) as report:
        for name in networks:

            def one(done: int, total: int | None, name: str = name) -> None:
                report(name, done, total)

            found[name] = fetch_weights(name, offline=offline, progress=one)
    return found
