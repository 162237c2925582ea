"""Saves what the explorer shows: the image, its latents, a film of the steps."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ganformer_cli.errors import ConfigError
from ganformer_cli.files import ensure_writable_folder, write_bytes
from ganformer_cli.sampling.image_files import Images, metadata_text, save_png
from ganformer_cli.visualization.animation import check_film, save_film
from ganformer_cli.visualization.figures import npy_bytes
from ganformer_cli.web.explorer_drawing import Drawer
from ganformer_cli.web.explorer_state import ImageState

FPS = 12
#: Frames between two steps; fewer where drawing them would take longer than ``MAX_FILM_SECONDS``.
FRAMES_A_STEP = 12
MAX_FILM_SECONDS = 60.0
#: Metadata that image files hold.
MAX_METADATA = 60_000


class Saver:
    """Writes into one folder, each file whole or not at all, none over another.

    Args:
        drawer: draws what is saved.
        folder: made when the first file is saved.
        metadata: of every image and film: where the model is from.
    """

    def __init__(self, drawer: Drawer, folder: Path, metadata: Mapping[str, Any]) -> None:
        self.drawer, self.folder, self.metadata = drawer, folder, metadata
        self._lock = threading.Lock()

    def save_image(self, state: ImageState, origin: Mapping[str, int]) -> dict[str, Any]:
        """Save a PNG, as ``ganformer generate`` draws it from the latents that ``save_latents`` saves.

        Returns:
            ``file``, and a ``note`` if there is something to know.
        """
        image = self.drawer.exact_image(state)
        metadata, note = self._metadata(state, origin)
        with self._lock:
            path = self._free("image", "png")
            save_png(path, image, metadata)
        return {"file": str(path), "note": note}

    def save_latents(self, state: ImageState) -> dict[str, Any]:
        """Save float32 ``[1, m+1, L, w]`` of space w."""
        edited = self.drawer.edited_latents(state)
        with self._lock:
            path = self._free("latents", "npy")
            write_bytes(path, npy_bytes(edited.latents.numpy()))
        note = f"for ganformer generate --latents {path} --space w"
        if edited.dropped is not None:
            removed = ", ".join(map(str, edited.dropped[0].nonzero()[:, 0].tolist()))
            note += f"; that components ({removed}) are removed is not part of latents"
        return {"file": str(path), "note": note}

    def save_film(self, states: Sequence[ImageState], kind: str, origin: Mapping[str, int]) -> dict[str, Any]:
        """Save a film from the first to the last state, with images in between where nothing but latents changes.

        Raises:
            ConfigError: a single state, MP4 without ffmpeg, or too many frames.
        """
        if len(states) < 2:
            raise ConfigError("a film needs at least two steps; change something first")
        start = time.perf_counter()
        self.drawer.exact_image(states[0])
        seconds = time.perf_counter() - start
        a_step = int(MAX_FILM_SECONDS / max(seconds * (len(states) - 1), 1e-3))
        a_step = min(FRAMES_A_STEP, max(1, a_step))
        height, width = self.drawer.generator.output_size
        frames = a_step * (len(states) - 1) + 1
        try:
            check_film(kind, frames, height, width)
        except ConfigError as error:
            raise ConfigError(str(error).replace("--film ", "")) from error
        metadata, note = self._metadata(states[-1], origin)
        with self._lock:
            path = self._free("film", kind)
            save_film(path, self._frames(states, a_step), per_second=FPS, metadata={**metadata, "figure": "steps"})
        if a_step < FRAMES_A_STEP:
            fewer = f"{a_step} images a step instead of {FRAMES_A_STEP}, because drawing takes long"
            note = f"{note}; {fewer}" if note else fewer
        return {"file": str(path), "note": note}

    def _frames(self, states: Sequence[ImageState], a_step: int) -> Iterator[Images]:
        yield self.drawer.exact_image(states[0])
        for before, after in zip(states, states[1:], strict=False):
            for frame in range(1, a_step + 1):
                yield self.drawer.between(before, after, frame / a_step)

    def _metadata(self, state: ImageState, origin: Mapping[str, int]) -> tuple[dict[str, Any], str | None]:
        metadata = {**self.metadata, **origin, **state.record()}
        labels = self.drawer.labels(state)
        if labels is not None and not (sum(labels) == 1 and max(labels) == 1):
            metadata["label"] = labels
        elif labels is not None:
            metadata["class"] = labels.index(1)
        if len(metadata_text(metadata)) <= MAX_METADATA:
            return metadata, None
        return {**metadata, "edits": len(state.edits)}, "its metadata has only the number of edits: there are too many"

    def _free(self, kind: str, suffix: str) -> Path:
        """The first file name of that kind that is not taken."""
        ensure_writable_folder(self.folder, "--output-dir")
        number = 1
        while (path := self.folder / f"{kind}-{number:04d}.{suffix}").exists() or path.is_symlink():
            number += 1
        return path
