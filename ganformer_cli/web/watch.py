"""What the page of ``ganformer watch`` asks for."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from ganformer_cli.checkpoints.run_folder import SAMPLE_FOLDER
from ganformer_cli.web.runs import describe_run, find_runs, sample_files, summarize
from ganformer_cli.web.server import Content, NotFoundError, Routes, html, page_html


class Watcher:
    """Answers for the runs of ``folder``, or for the run that it is.

    No path comes from a request: runs and files are looked up by name in what the folder lists now.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def routes(self) -> Routes:
        """For ``LocalServer``."""
        return {
            "GET ": lambda: html(page_html("watch")),
            "GET api/runs": self.runs,
            "GET api/run/*": self.run,
            "GET sample/*/*": self.sample,
        }

    def runs(self) -> list[dict[str, Any]]:
        """The table."""
        return [summarize(run) for run in find_runs(self.folder)]

    def run(self, name: str) -> dict[str, Any]:
        """All of one run."""
        return describe_run(self._find(name))

    def sample(self, name: str, file: str) -> Content:
        """A grid."""
        run = self._find(name)
        if any(file == known for files in sample_files(run).values() for _, known in files):
            with contextlib.suppress(OSError):
                return Content("image/png", (run / SAMPLE_FOLDER / file).read_bytes())
        raise NotFoundError("no such image; it may have been deleted")

    def _find(self, name: str) -> Path:
        for run in find_runs(self.folder):
            if run.name == name:
                return run
        raise NotFoundError("no such run; it may have been deleted")
