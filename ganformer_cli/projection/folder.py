"""A folder of projections: what is in it, how it is resumed, and its sheets and films.

``projected.json`` says what is projected and how; a folder with another one, or with other files, is left alone. Each
batch has a state file below ``state`` while it is optimised, which is replaced as the optimisation goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ganformer_cli.checkpoints.headers import read_header
from ganformer_cli.checkpoints.snapshots import read_tensors, save_tensors
from ganformer_cli.errors import GanformerError, OutputError
from ganformer_cli.files import ensure_writable_folder, quietly, read_json, remove, write_bytes, write_json
from ganformer_cli.models import Generator
from ganformer_cli.projection.images import FittedImage
from ganformer_cli.projection.optimization import Projection, Projector
from ganformer_cli.sampling import from_uint8, sample_latents
from ganformer_cli.sampling.image_files import Images, save_png
from ganformer_cli.visualization.animation import Film
from ganformer_cli.visualization.attention import component_sheet, layer_sheet
from ganformer_cli.visualization.figures import npy_bytes, npz_bytes
from ganformer_cli.visualization.sheets import fit_to_cell, image_table, stack_sheets

RECORD, LATENTS, NOISE, SHEET, STATES = "projected.json", "projected.npy", "noise.npz", "sheet.png", "state"
#: Images of a film.
FRAMES = 48
FPS = 12
#: Rows of the sheet.
MAX_ROWS = 64


class ProjectionFolder:
    """The folder that a command writes to.

    Args:
        settings: JSON values that decide the result: the model, the images, the distance and so on.
        overwrite: replace what is there instead of continuing with it.

    Raises:
        OutputError: it holds other files.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], *, overwrite: bool) -> None:
        self.path, self.settings = path, dict(settings)
        found = self._settings_there()
        #: Whether this very projection was begun here.
        self.resumes = not overwrite and found == self.settings
        strangers = sorted(each.name for each in path.iterdir()) if path.is_dir() else []
        strangers = [name for name in strangers if not name.startswith(".")]
        if strangers and not self.resumes and not overwrite:
            if found is None:
                why = f"holds other files, such as {strangers[0]}"
            else:
                names = sorted({*found, *self.settings})
                differing = [name for name in names if found.get(name) != self.settings.get(name)]
                why = f"holds another projection ({', '.join(differing)} differ{'s' * (len(differing) == 1)})"
            raise OutputError(f"--output-dir {path}: {why}; choose another folder, or give --overwrite")
        ensure_writable_folder(path, "--output-dir")
        if not self.resumes:
            self._remove_states()
            write_json(path / RECORD, {"settings": self.settings, "images": None})

    def _settings_there(self) -> dict[str, Any] | None:
        try:
            record = read_json(self.path / RECORD)
        except GanformerError:
            return None
        settings = record.get("settings") if isinstance(record, dict) else None
        return settings if isinstance(settings, dict) else None

    # ----- State -----

    def _state(self, number: int) -> Path:
        return self.path / STATES / f"batch{number:05d}.safetensors"

    def resume(self, projector: Projector, number: int) -> None:
        """Go on with a batch where it was saved, if it was.

        Raises:
            SnapshotError: its file is damaged.
        """
        file = self._state(number)
        if self.resumes and file.is_file() and read_header(file).get("kind") == "projection":
            projector.load_state(read_tensors(file), str(file))

    def save(self, projector: Projector, number: int) -> None:
        """Keep the state of a batch."""
        save_tensors(self._state(number), projector.state(), {"kind": "projection", "step": projector.step})

    def _remove_states(self) -> None:
        for state in (self.path / STATES).glob("batch*.safetensors"):
            remove(state, warn=quietly)

    # ----- Result -----

    def file(self, index: int, name: str = ".png") -> Path:
        """A file of one image."""
        return self.path / f"image{index:04d}{name}"

    def write(
        self, generator: Generator, images: Sequence[FittedImage], found: Projection, film: str | None, *, maps: bool
    ) -> dict[str, Any]:
        """Write everything; the record, for ``--json``."""
        write_bytes(self.path / LATENTS, npy_bytes(found.latents.numpy()))
        record: dict[str, Any] = {"settings": self.settings, "latents": str(self.path / LATENTS)}
        if found.noise:
            write_bytes(self.path / NOISE, npz_bytes({name: each.numpy() for name, each in found.noise.items()}))
            record["noise"] = str(self.path / NOISE)
        rows = []
        for index, (image, start, distances) in enumerate(zip(images, found.starts, found.distances, strict=True)):
            metadata = {"projection_of": image.file.name, "model": self.settings["model"], "row": index, "start": start}
            save_png(self.file(index), found.images[index].numpy(), metadata)
            row: dict[str, Any] = {"file": str(image.file), "projection": str(self.file(index)), "start": start}
            row |= {"fitted": image.fitted or None, "distances": distances}
            if film is not None:
                made = _film(self.file(index, "-film"), film, image.pixels, found.frames[:, index].numpy(), metadata)
                row["film"] = str(made.path)
            rows.append(row)
        if maps:
            self._write_maps(generator, found, rows)
        sheet = projection_sheet(images, found)
        save_png(self.path / SHEET, sheet, {"model": self.settings["model"]})
        record |= {"sheet": str(self.path / SHEET), "images": rows}
        write_json(self.path / RECORD, record)
        self._remove_states()
        if (self.path / STATES).is_dir() and not any((self.path / STATES).iterdir()):
            (self.path / STATES).rmdir()
        return record

    def _write_maps(self, generator: Generator, found: Projection, rows: list[dict[str, Any]]) -> None:
        for drawn in sample_latents(generator, found.latents, space="w", attention=True):
            parts = [layer_sheet(drawn.image, drawn.maps), component_sheet(drawn.image, drawn.maps[-1])]
            path = self.file(drawn.seed, "-maps.png")
            save_png(path, stack_sheets(parts), {"model": self.settings["model"], "row": drawn.seed})
            rows[drawn.seed]["maps"] = str(path)

    def is_finished(self) -> dict[str, Any] | None:
        """The record of this projection, if it is complete and its files are there."""
        if not self.resumes:
            return None
        record: dict[str, Any] = read_json(self.path / RECORD)
        rows = record.get("images")
        if not isinstance(rows, list) or not (self.path / LATENTS).is_file():
            return None
        files = [row.get(name) for row in rows for name in ("projection", "film", "maps") if row.get(name)]
        return record if all(Path(file).exists() for file in files) else None


def projection_sheet(images: Sequence[FittedImage], found: Projection) -> Images:
    """A row an image: the image, the mean, the projection with its own noise, and with the model's if that differs."""
    rows, names = [], []
    columns = ["image", "mean", "projection", *(["model's noise"] if found.noise else [])]
    for index, image in enumerate(images[:MAX_ROWS]):
        cells = [image.pixels, found.mean_image.numpy(), found.images[index].numpy()]
        if found.noise:
            cells.append(found.drawn[index].numpy())
        rows.append([fit_to_cell(cell) for cell in cells])
        names.append(f"{found.distances[index]['projection']:.3f}")
    return image_table(rows, columns=columns, rows=names)


def _film(path: Path, kind: str, target: Images, frames: Images, metadata: Mapping[str, Any]) -> Film:
    """The image at the left, the projection as it develops at the right."""
    height, width = target.shape[1:]
    scale = max(1, -(-96 // max(height, width)))
    film = Film(path, kind, len(frames), (height, 2 * width), fps=FPS, scale=scale, metadata=metadata)
    film.write(np.concatenate([target, frame], axis=2) for frame in frames)
    return film


def stacked(images: Sequence[FittedImage]) -> torch.Tensor:
    """float32 ``[N, 3, H, W]`` in [-1, 1]."""
    return from_uint8(torch.from_numpy(np.stack([each.pixels for each in images])))
