"""``report.html`` in a run folder: the page of the run as one file."""

from __future__ import annotations

import contextlib
import datetime
import json
import platform
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ganformer_cli import __version__
from ganformer_cli.checkpoints.run_folder import ENVIRONMENT_FILE, REPORT_FILE, SAMPLE_FOLDER
from ganformer_cli.config.names import quoted
from ganformer_cli.cpus import cpu_name
from ganformer_cli.files import write_bytes, write_json
from ganformer_cli.training.autotune import Parallelism
from ganformer_cli.training.distributed import Group
from ganformer_cli.training.listeners import Listener, RunStart, SnapshotRecord
from ganformer_cli.web.grids import embedded
from ganformer_cli.web.runs import RunReader
from ganformer_cli.web.server import NotFoundError, page_html

#: Snapshots whose grids a report holds.
MAX_SNAPSHOTS = 24
#: Pixels a side of the newest grids, and of earlier ones.
NEWEST_SIDE, EARLIER_SIDE = 1600, 800
_PLAIN_WORD = re.compile(r"[\w./:=,+-]+")  # needs no quotes


class ReportWriter(Listener):
    """Writes ``report.html`` at each snapshot and at the end, and ``environment.json`` at the start.

    Args:
        environment: what the run was started with, by name, for people.
    """

    name = REPORT_FILE

    def __init__(self, environment: Mapping[str, Any]) -> None:
        self.environment = dict(environment)
        self._reader: RunReader | None = None
        self._images: dict[tuple[str, int], str] = {}

    def on_start(self, start: RunStart) -> None:
        """Write the environment."""
        if self._reader is None:
            self._reader = RunReader(start.folder)
            write_json(start.folder / ENVIRONMENT_FILE, self.environment)
        self._images.clear()  # after a rollback, grids are made anew

    def on_snapshot(self, snapshot: SnapshotRecord) -> None:
        """Write the report."""
        self._write(ended=False)

    def close(self) -> None:
        """Write how it ended."""
        self._write(ended=True)

    def _write(self, *, ended: bool) -> None:
        if self._reader is None:
            return
        run, folder = self._reader.describe(ended=ended), self._reader.folder
        run["files"], run["left_out"] = thin_out(run["files"])
        images = {}
        for files in run["files"].values():
            for position, (_, file) in enumerate(reversed(files)):
                key = file, NEWEST_SIDE if position == 0 else EARLIER_SIDE
                with contextlib.suppress(NotFoundError):
                    if key not in self._images:
                        self._images[key] = embedded(folder / SAMPLE_FOLDER / file, key[1])
                    images[file] = self._images[key]
        self._images = {key: data for key, data in self._images.items() if key[0] in images}
        write_bytes(
            folder / REPORT_FILE, report_html({**run, "images": images, "written": time.time()}).encode("utf-8")
        )


#: Nothing is loaded from anywhere.
_POLICY = (
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'\">"
)


def run_environment(
    words: Sequence[str], device: torch.device, group: Group, parallelism: Parallelism | None
) -> dict[str, Any]:
    """What a run is started with, by name, for people; ``words`` are those of the command line."""
    found: dict[str, Any] = {
        "command": " ".join(["ganformer", *(word if _PLAIN_WORD.fullmatch(word) else quoted(word) for word in words)]),
        "started": datetime.datetime.now().astimezone().isoformat(" ", "seconds"),
        "ganformer": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": cpu_name(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processes": group.world_size,
        "threads": torch.get_num_threads() if parallelism is None else parallelism.threads,
    }
    if device.type == "cuda":
        found["CUDA"] = torch.version.cuda
    return found


def thin_out(files: Mapping[str, list[Any]]) -> tuple[dict[str, list[Any]], int]:
    """At most ``MAX_SNAPSHOTS`` grids of a kind, and of how many fakes nothing is shown.

    Every second, fourth, ... is kept, so that a longer run adds one at a time.
    """
    kept, left_out = {}, 0
    for kind, known in files.items():
        step = 1
        while -(-len(known) // step) + 1 > MAX_SNAPSHOTS:
            step *= 2
        kept[kind] = [file for index, file in enumerate(known) if index % step == 0 or index == len(known) - 1]
        if kind == "fakes":
            left_out = len(known) - len(kept[kind])
    return kept, left_out


def report_html(run: Mapping[str, Any]) -> str:
    """The page with one run inside.

    Args:
        run: see ``RunReader.describe``, and ``images``: ``data:`` addresses by file name.
    """
    # No text of the run can end the script that it stands in.
    data = json.dumps(run, allow_nan=False).replace("<", "\\u003c")
    page = page_html("watch").replace('<meta charset="utf-8">', f'<meta charset="utf-8">\n{_POLICY}', 1)
    start, empty, end = page.partition('<script id="data" type="application/json">')
    return f"{start}{empty}{data}{end}"
