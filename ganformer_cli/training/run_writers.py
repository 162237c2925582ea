"""Writers of a run's curves and images: TensorBoard's event files, and Weights & Biases."""

from __future__ import annotations

import importlib
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from PIL import Image

from ganformer_cli.files import ensure_writable_folder, read_json, write_json
from ganformer_cli.training.listeners import Listener, RunStart, SnapshotRecord

#: Holds the event files, in the run folder.
TENSORBOARD_FOLDER = "tensorboard"
#: Holds the id of the run at Weights & Biases, in the run folder.
WANDB_FILE = "wandb.json"
WANDB_PROJECT = "ganformer"

#: Groups of curves; the rest of a log line stands under ``training``.
_GROUPS = {
    "loss_g": "loss",
    "loss_d": "loss",
    "r1": "loss",
    "path_length": "loss",
    "loss_codes": "loss",
    "commitment": "loss",
    "grad_norm_g": "gradients",
    "grad_norm_d": "gradients",
    "score_real": "discriminator",
    "score_fake": "discriminator",
    "sign_real": "discriminator",
    "augment_p": "augmentation",
    "images_per_second": "speed",
    "sec_per_kimg": "speed",
    "seconds": "speed",
    "memory_mib": "memory",
    "gpu_memory_mib": "memory",
}


def tick_scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a log line by the name of their curve, such as ``loss/loss_g``."""
    values = dict(record)
    if values.get("sec_per_kimg"):
        values["images_per_second"] = 1000 / values["sec_per_kimg"]
    return {
        f"{_GROUPS.get(name, 'training')}/{name}": float(value)
        for name, value in values.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def snapshot_scalars(snapshot: SnapshotRecord) -> dict[str, float]:
    """The scores, and the share of each component, by the name of their curve."""
    scores = {f"scores/{name}": value for name, value in snapshot.scores.items()}
    return scores | {f"components/share_{index:02}": share for index, share in enumerate(snapshot.component_shares)}


def snapshot_images(snapshot: SnapshotRecord) -> Iterator[tuple[str, Path]]:
    """The grids of a snapshot that exist, by name."""
    for name, path in (("fakes", snapshot.grid), ("attention", snapshot.attention), ("reals", snapshot.reals)):
        if path is not None and path.is_file():
            yield f"samples/{name}", path


class TensorBoardWriter(Listener):
    """Writes event files to ``tensorboard`` in the run folder; a step is a real image shown.

    Raises:
        ImportError: the package ``tensorboard`` is not installed.
    """

    name = "--tensorboard"

    def __init__(self) -> None:
        self._event = importlib.import_module("tensorboard.compat.proto.event_pb2")
        self._summary = importlib.import_module("tensorboard.compat.proto.summary_pb2").Summary
        self._open = importlib.import_module("torch.utils.tensorboard").FileWriter
        self._writer: Any = None
        self._has_reals = False

    def on_start(self, start: RunStart) -> None:
        """Open a new event file; what earlier ones hold from this step on is not shown any more."""
        if self._writer is None:
            folder = start.folder / TENSORBOARD_FOLDER
            ensure_writable_folder(folder, "folder")
            self._writer = self._open(str(folder), flush_secs=30)
        if start.images_seen > 0:
            log = self._event.SessionLog(status=self._event.SessionLog.START)
            # TensorBoard drops this step, too, but it has been written already.
            self._writer.add_event(self._event.Event(session_log=log), start.images_seen + 1)

    def on_tick(self, record: Mapping[str, Any], images_seen: int) -> None:
        """The curves of a log line."""
        self._add([{"tag": tag, "simple_value": value} for tag, value in tick_scalars(record).items()], images_seen)

    def on_snapshot(self, snapshot: SnapshotRecord) -> None:
        """Scores, shares and grids; the files' own PNG bytes, so that nothing is compressed twice."""
        values = [{"tag": tag, "simple_value": value} for tag, value in snapshot_scalars(snapshot).items()]
        for tag, path in snapshot_images(snapshot):
            if path == snapshot.reals and self._has_reals:
                continue
            self._has_reals = self._has_reals or path == snapshot.reals
            with Image.open(path) as image:
                width, height = image.size
            encoded = path.read_bytes()
            image_value = self._summary.Image(height=height, width=width, colorspace=3, encoded_image_string=encoded)
            values.append({"tag": tag, "image": image_value})
        self._add(values, snapshot.images_seen)
        self._writer.flush()

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()

    def _add(self, values: list[dict[str, Any]], step: int) -> None:
        self._writer.add_summary(self._summary(value=[self._summary.Value(**value) for value in values]), step)


class WandbWriter(Listener):
    """Logs to Weights & Biases, as its environment variables and ``wandb login`` say; the x axis is ``kimg``.

    Raises:
        ImportError: the package ``wandb`` is not installed.
    """

    name = "--wandb"

    def __init__(self) -> None:
        self._wandb: ModuleType | Any = importlib.import_module("wandb")
        self._run: Any = None

    def on_start(self, start: RunStart) -> None:
        """Begin the run there, or resume the one whose id the run folder holds."""
        if self._run is not None:
            return
        file = start.folder / WANDB_FILE
        known = read_json(file) if file.is_file() else None
        identity = known.get("id") if isinstance(known, dict) else None
        if not isinstance(identity, str):
            identity = uuid.uuid4().hex[:12]
            write_json(file, {"id": identity})
        self._run = self._wandb.init(
            project=WANDB_PROJECT,
            name=start.folder.name,
            id=identity,
            resume="allow",
            dir=str(start.folder),
            config=dict(start.config),
        )
        self._run.define_metric("*", step_metric="kimg")

    def on_tick(self, record: Mapping[str, Any], images_seen: int) -> None:
        """The curves of a log line."""
        self._run.log({"kimg": images_seen / 1000, **tick_scalars(record)})

    def on_snapshot(self, snapshot: SnapshotRecord) -> None:
        """Scores, shares and grids."""
        images = {tag: self._wandb.Image(str(path)) for tag, path in snapshot_images(snapshot)}
        self._run.log({"kimg": snapshot.images_seen / 1000, **snapshot_scalars(snapshot), **images})

    def close(self) -> None:
        """End the run there."""
        if self._run is not None:
            self._run.finish()


def open_writers(*, tensorboard: bool, wandb: bool, message: Callable[[str], None]) -> list[Listener]:
    """The writers that are asked for and installed; ``message`` receives a line on each that is not."""
    wanted = [(TensorBoardWriter, "tensorboard", tensorboard), (WandbWriter, "wandb", wandb)]
    writers: list[Listener] = []
    for kind, package, is_wanted in wanted:
        if not is_wanted:
            continue
        try:
            writers.append(kind())
        except ImportError:
            message(f"warning: {kind.name} needs {package}, and is left out; install it with: pip install {package}")
    return writers
