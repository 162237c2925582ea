"""Preparing images, and reading them for training, against Pillow in one process."""

from __future__ import annotations

import contextlib
import io
import tempfile
import zipfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ganformer_cli.benchmarks.measuring import Case, Contender, Workload, temporary_folder
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
    cases = {f"prepare {suffix}, {change}": partial(build_preparing, sizes, suffix) for suffix in ("jpg", "png")}
    for compression in COMPRESSIONS:
        what = f"read {sizes.resolution} px, --compression {compression}"
        cases[what] = partial(build_reading, sizes, compression)
    return [Case(group="data", what=what, images=sizes.images, build=build, weight=30) for what, build in cases.items()]


def build_preparing(sizes: ImageSizes, suffix: str) -> Workload:
    """Preparing against what one would write by hand: one process, Pillow's defaults."""
    resources, folder = temporary_folder()
    draw_images(folder / "source", suffix, sizes)

    def run() -> None:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            prepare(folder / "source", "set", data_dir=Path(place), resolution=sizes.resolution)

    pillow = partial(pillow_loop, folder / "source", folder / "pillow.zip", sizes.resolution)
    baselines = [("Pillow in one process", Contender(call=pillow))]
    return Workload(run=Contender(call=run), baselines=baselines, has_operators=False, resources=resources)


def build_reading(sizes: ImageSizes, compression: str) -> Workload:
    """Reading all images once in one process, against zipfile and Pillow reading PNGs."""
    resources, folder = temporary_folder()
    draw_images(folder / "source", "jpg", sizes)
    made = prepare(folder / "source", "set", data_dir=folder, resolution=sizes.resolution, compression=compression)
    # Windows removes no folder of open files.
    dataset = resources.enter_context(contextlib.closing(PreparedDataset(made.folder)))
    dataset.cache_bytes = 0
    pillow_loop(folder / "source", folder / "pillow.zip", sizes.resolution)

    def run() -> None:
        for number in range(len(dataset)):
            dataset.image(number)

    def pillow() -> None:
        with zipfile.ZipFile(folder / "pillow.zip") as archive:
            for name in archive.namelist():
                np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB"))

    baselines = [("zipfile and Pillow", Contender(call=pillow))]
    return Workload(run=Contender(call=run), baselines=baselines, has_operators=False, resources=resources)


def draw_images(folder: Path, suffix: str, sizes: ImageSizes) -> None:
    """Files of smooth shapes with some grain, which look like photographs to a compressor."""
    folder.mkdir()
    numbers = np.random.default_rng(0)
    for number in range(sizes.images):
        coarse = Image.fromarray(numbers.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((sizes.side, sizes.side), Image.Resampling.BICUBIC), np.int16)
        grain = numbers.integers(-6, 7, smooth.shape, dtype=np.int16)
        options: dict[str, Any] = {"quality": 90} if suffix == "jpg" else {"compress_level": 1}
        image = Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8))
        image.save(folder / f"{number:05d}.{suffix}", **options)


def pillow_loop(source: Path, target: Path, resolution: int) -> None:
    """Square PNGs of all images, in a zip."""
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(source.iterdir()):
            with Image.open(path) as opened:
                image = ImageOps.fit(opened.convert("RGB"), (resolution, resolution), Image.Resampling.LANCZOS)
            buffer = io.BytesIO()
            image.save(buffer, "PNG")
            archive.writestr(f"{path.stem}.png", buffer.getvalue())
