"""Scenes of 8x8 and 16x16 pixels: networks of two or three blocks train on them in half the time that 32x32 take.

``python tests/small_pictures.py`` draws them. They are files, which a process that reads ahead opens by their name.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from ganformer_cli.data import ImageDataset, open_dataset

Side = Literal[8, 16]
_FOLDER = Path(__file__).resolve().parent / "golden" / "small-pictures"


def small_pictures_file(side: Side = 8) -> Path:
    """A zip of sixteen pictures; a ``--dataset`` of the command line."""
    return _FOLDER / f"scenes-{side}x{side}.zip"


def small_pictures(count: int = 16, side: Side = 8) -> ImageDataset:
    """The first of them."""
    return open_dataset(str(small_pictures_file(side)), max_images=count)


def _draw(side: Side) -> None:
    scenes = open_dataset("scenes", resolution=32, max_images=16)
    _FOLDER.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(small_pictures_file(side), "w") as file:
        for index in range(len(scenes)):
            image = Image.fromarray(np.ascontiguousarray(scenes.image(index).transpose(1, 2, 0)))
            stream = io.BytesIO()
            image.resize((side, side), Image.Resampling.BOX).save(stream, "PNG")
            file.writestr(zipfile.ZipInfo(f"{index:02}.png"), stream.getvalue())  # of a date that stays


if __name__ == "__main__":
    _draw(8)
    _draw(16)
