"""What ``ganformer bench`` measures of pictures: preparing them, and reading them for training.

Preparing is compared with a loop of Pillow that does the same in one process, in the same run.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ganformer_cli.data.loading.datasets import PreparedDataset
from ganformer_cli.data.prepare.conversion import default_workers
from ganformer_cli.data.prepare.pipeline import COMPRESSIONS, prepare

#: What training on a fast GPU takes at 256 × 256, pictures a second.
NEEDED = 1500


@dataclass(frozen=True, kw_only=True)
class ImageSizes:
    """What is measured."""

    pictures: int = 240
    side: int = 1024  # of the source
    resolution: int = 256
    reads: int = 400


@dataclass(frozen=True)
class PreparingRate:
    """Pictures a second, of one kind of file."""

    form: str
    prepared: float
    loop: float  # of Pillow in one process
    processes: int


@dataclass(frozen=True)
class ReadingRate:
    """Pictures a second in one process, of one kind of data set."""

    compression: str
    read: float
    kib: float  # of a picture on disk


def measure_images(sizes: ImageSizes, done: Callable[[str], None]) -> dict[str, Any]:
    """Prepare and read pictures that look like photographs to a compressor, in a temporary folder.

    Args:
        sizes: how many, and how large.
        done: told what has been measured.
    """
    preparing, reading = [], []
    with tempfile.TemporaryDirectory(prefix="ganformer-bench-") as place:
        folder = Path(place)
        for form in ("jpg", "png"):
            source = folder / form
            draw(source, form, sizes)
            started = time.perf_counter()
            prepare(source, f"{form}-set", data_dir=folder, resolution=sizes.resolution)
            prepared = sizes.pictures / (time.perf_counter() - started)
            loop = sizes.pictures / pillow_loop(source, folder / f"{form}.zip", sizes.resolution)
            preparing.append(PreparingRate(form, prepared, loop, default_workers()))
            done(f"prepare {form}")
        for compression in COMPRESSIONS:
            made = prepare(
                folder / "jpg", f"read-{compression}", data_dir=folder, resolution=sizes.resolution,
                compression=compression,
            )  # fmt: skip
            dataset = PreparedDataset(made.folder)
            dataset.cache_bytes = 0
            with contextlib.closing(dataset):  # Windows removes no folder of open files
                started = time.perf_counter()
                for number in range(sizes.reads):
                    dataset.image(number % len(dataset))
                seconds = time.perf_counter() - started
            size = sum(shard["bytes"] for shard in made.manifest["shards"]) / len(dataset) / 1024
            reading.append(ReadingRate(compression, sizes.reads / seconds, size))
            done(f"read {compression}")
    return {
        **asdict(sizes),
        "needed": NEEDED,
        "preparing": [asdict(rate) for rate in preparing],
        "reading": [asdict(rate) for rate in reading],
    }


def draw(folder: Path, form: str, sizes: ImageSizes) -> None:
    """Files of smooth shapes with some grain."""
    folder.mkdir()
    numbers = np.random.default_rng(0)
    for number in range(sizes.pictures):
        coarse = Image.fromarray(numbers.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((sizes.side, sizes.side), Image.Resampling.BICUBIC), np.int16)
        grain = numbers.integers(-6, 7, smooth.shape, dtype=np.int16)
        picture = Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8))
        path = folder / f"{number:05d}.{form}"
        if form == "jpg":
            picture.save(path, quality=90)
        else:
            picture.save(path, compress_level=1)


def pillow_loop(source: Path, target: Path, resolution: int) -> float:
    """Seconds that the same takes as one would write it by hand: one process, Pillow's defaults."""
    started = time.perf_counter()
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(source.iterdir()):
            with Image.open(path) as opened:
                picture = opened.convert("RGB")
            side = min(picture.size)
            left, top = (picture.width - side) // 2, (picture.height - side) // 2
            picture = picture.crop((left, top, left + side, top + side))
            picture = picture.resize((resolution, resolution), Image.Resampling.LANCZOS)
            buffer = io.BytesIO()
            picture.save(buffer, "PNG")
            archive.writestr(f"{path.stem}.png", buffer.getvalue())
    return time.perf_counter() - started
