"""What the page of ``ganformer watch`` asks for."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from ganformer_cli.checkpoints.run_folder import SAMPLE_FOLDER
from ganformer_cli.web.grids import grid_content, thumbnail
from ganformer_cli.web.runs import RunReader, find_runs, is_run, sample_files
from ganformer_cli.web.server import NotFoundError, Routes, html, page_html

#: Runs whose curves stay in memory.
MAX_READERS = 200


class Watcher:
    """Answers for the runs of ``folder``, or for the run that it is.

    No path comes from a request: runs and files are looked up by name in what the folder lists now.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._reader = functools.lru_cache(MAX_READERS)(RunReader)

    @property
    def routes(self) -> Routes:
        """For ``LocalServer``."""
        return {
            "GET ": lambda: html(page_html("watch")),
            "GET api/runs": self.runs,
            "GET api/run/*": lambda name: self._reader(self._find(name)).describe(),
            "GET sample/*/*": lambda name, file: grid_content(self._grid(name, file)),
            "GET thumbnail/*/*": lambda name, file: thumbnail(self._grid(name, file)),
        }

    def runs(self) -> dict[str, Any]:
        """The table, and whether the folder is there."""
        return {
            "folder": self.folder.name,
            "exists": self.folder.is_dir(),
            "single": is_run(self.folder),
            "runs": [self._reader(run).summarize() for run in find_runs(self.folder)],
        }

    def _grid(self, name: str, file: str) -> Path:
        run = self._find(name)
        if not any(file == known for files in sample_files(run).values() for _, known in files):
            raise NotFoundError("no such image; it may have been deleted")
        return run / SAMPLE_FOLDER / file

    def _find(self, name: str) -> Path:
        for run in find_runs(self.folder):
            if run.name == name:
                return run
        raise NotFoundError("no such run; it may have been deleted")
