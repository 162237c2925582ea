"""The weights of feature networks, downloaded with a bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from ganformer_cli.cli.progress import ProgressBar


@contextmanager
def fetching(*, silent: bool) -> Iterator[Callable[[str, int, int | None], None]]:
    """Progress of downloads: a function that is told a network's name, the bytes that are there, and all if known."""
    with ProgressBar() as progress:

        def report(name: str, done: int, total: int | None) -> None:
            if not silent:
                progress.show_bytes(f"weights of {name}", done, total)

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
            found[name] = fetch_weights(name, offline=offline, progress=partial(report, name))
    return found
