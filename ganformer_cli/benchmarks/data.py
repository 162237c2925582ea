"""Preparing images, and reading them for training, against Pillow in one process."""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections import deque
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ganformer_cli.benchmarks.measuring import Case, Contender, Contenders
from ganformer_cli.data.loading.datasets import PreparedDataset
from ganformer_cli.data.prepare.options import COMPRESSIONS
from ganformer_cli.data.prepare.pipeline import prepare


@dataclass(frozen=True, kw_only=True)
class ImageSizes:
    """What is measured."""

    images: int = 120
    side: int = 1024  # of the source
    resolution: int = 256


def data_cases(sizes: ImageSizes) -> list[Case]:
    """Preparing JPEGs and PNGs with as many processes as there are cores, and reading what was prepared in one."""
    change = f"{sizes.side} to {sizes.resolution} px"
    builds = {f"prepare {suffix}, {change}": partial(build_preparing, sizes, suffix) for suffix in ("jpg", "png")}
    for compression in COMPRESSIONS:
        what = f"read {sizes.resolution} px, --compression {compression}"
        builds[what] = partial(build_reading, sizes, compression)
    return [Case(what=what, images=sizes.images, build=build) for what, build in builds.items()]


@contextmanager
def build_preparing(sizes: ImageSizes, suffix: str) -> Contenders:
    """Preparing against what one would write by hand: one process, Pillow's defaults."""
    with tempfile.TemporaryDirectory(prefix="ganformer-bench-") as name:
        source = draw_images(Path(name, "source"), suffix, sizes)

        def run() -> None:
            with tempfile.TemporaryDirectory(dir=name) as place:
                prepare(source, "set", data_dir=Path(place), resolution=sizes.resolution)

        pillow = partial(pillow_loop, source, Path(name, "pillow.zip"), sizes.resolution)
        yield [Contender(call=run), Contender(name="Pillow in one process", call=pillow)]


@contextmanager
def build_reading(sizes: ImageSizes, compression: str) -> Contenders:
    """Reading all images once in one process, against zipfile and Pillow reading PNGs."""
    with tempfile.TemporaryDirectory(prefix="ganformer-bench-") as name:
        folder = Path(name)
        source = draw_images(folder / "source", "jpg", sizes)
        made = prepare(source, "set", data_dir=folder, resolution=sizes.resolution, compression=compression)
        pillow_loop(source, folder / "pillow.zip", sizes.resolution)

        def pillow() -> None:
            with zipfile.ZipFile(folder / "pillow.zip") as archive:
                for name in archive.namelist():
                    np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB"))

        with closing(PreparedDataset(made.folder)) as dataset:  # Windows removes no folder of open files
            dataset.cache_bytes = 0
            numbers = range(len(dataset))
            run = Contender(call=lambda: deque(map(dataset.image, numbers), maxlen=0))
            yield [run, Contender(name="zipfile and Pillow", call=pillow)]


def draw_images(folder: Path, suffix: str, sizes: ImageSizes) -> Path:
    """Make ``folder``, with files of smooth shapes with some grain, which look like photographs to a compressor."""
    folder.mkdir()
    numbers = np.random.default_rng(0)
    for number in range(sizes.images):
        coarse = Image.fromarray(numbers.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((sizes.side, sizes.side), Image.Resampling.BICUBIC), np.int16)
        grain = numbers.integers(-6, 7, smooth.shape, dtype=np.int16)
        image = Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8))
        image.save(folder / f"{number:05d}.{suffix}", quality=90, compress_level=1)
    return folder


def pillow_loop(source: Path, target: Path, resolution: int) -> None:
    """Square PNGs of all images, in a zip."""
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(source.iterdir()):
            with Image.open(path) as opened:
                image = ImageOps.fit(opened.convert("RGB"), (resolution, resolution), Image.Resampling.LANCZOS)
            buffer = io.BytesIO()
            image.save(buffer, "PNG")
            archive.writestr(f"{path.stem}.png", buffer.getvalue())
