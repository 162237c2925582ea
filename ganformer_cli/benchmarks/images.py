"""Files of images: prepared and read for training, against Pillow in one process; scored, against torch-fidelity.

Both scores read the same files, resize them as TensorFlow 1 does, and pass them through Inception-v3 with the same
random weights. Each sample is taken in a process of its own. Reading the weights counts, imports do not.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import math
import multiprocessing
import tempfile
import time
import warnings
import zipfile
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from PIL import Image, ImageOps

from ganformer_cli.benchmarks.measuring import Case, Conditions, Contender, Contenders, in_fresh_process
from ganformer_cli.data.loading.datasets import PreparedDataset
from ganformer_cli.data.prepare.options import COMPRESSIONS
from ganformer_cli.data.prepare.pipeline import prepare
from ganformer_cli.memory import Peak
from ganformer_cli.metrics.collecting import collect
from ganformer_cli.metrics.features import open_network
from ganformer_cli.metrics.inception import Inception
from ganformer_cli.metrics.inception_score import inception_score
from ganformer_cli.metrics.processes import SINGLE_PROCESS
from ganformer_cli.metrics.sources import DatasetImages, open_images

_SEED = 2020
_SPLITS = 2


@dataclass(frozen=True, kw_only=True)
class ImageSizes:
    """What is measured."""

    images: int = 120
    side: int = 1024  # of the source
    resolution: int = 256  # that it is prepared in


@contextmanager
def drawn_images(suffix: str, sizes: ImageSizes) -> Iterator[Path]:
    """A folder of files of smooth shapes with some grain, which look like photographs to a compressor.

    What is written beside it is removed with it.
    """
    numbers = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(prefix="ganformer-bench-") as name:
        folder = Path(name, "source")
        folder.mkdir()
        for number in range(sizes.images):
            coarse = Image.fromarray(numbers.integers(0, 256, (16, 16, 3), dtype=np.uint8))
            smooth = np.asarray(coarse.resize((sizes.side, sizes.side), Image.Resampling.BICUBIC), np.int16)
            grained = np.clip(smooth + numbers.integers(-6, 7, smooth.shape, dtype=np.int16), 0, 255).astype(np.uint8)
            Image.fromarray(grained).save(folder / f"{number:05d}.{suffix}", quality=90, compress_level=1)
        yield folder


# ----- Prepared and read -----


def data_cases(sizes: ImageSizes) -> list[Case]:
    """Preparing JPEGs and PNGs with as many processes as there are cores, and reading what was prepared in one."""
    change = f"{sizes.side} to {sizes.resolution} px"
    builds = {f"prepare {suffix}, {change}": partial(build_preparing, sizes, suffix) for suffix in ("jpg", "png")}
    reading = f"read {sizes.resolution} px, --compression"
    builds |= {f"{reading} {each}": partial(build_reading, sizes, each) for each in COMPRESSIONS}
    return [Case(what=what, images=sizes.images, build=build) for what, build in builds.items()]


def build_preparing(sizes: ImageSizes, suffix: str) -> Contenders:
    """Preparing against what one would write by hand: one process, Pillow's defaults."""
    with drawn_images(suffix, sizes) as source:

        def run() -> None:
            with tempfile.TemporaryDirectory(dir=source.parent) as place:
                prepare(source, "set", data_dir=Path(place), resolution=sizes.resolution)

        pillow = partial(pillow_loop, source, sizes.resolution)
        yield [Contender(call=run), Contender(name="Pillow in one process", call=pillow)]


def build_reading(sizes: ImageSizes, compression: str) -> Contenders:
    """Reading all images once in one process, against zipfile and Pillow reading PNGs."""
    with drawn_images("jpg", sizes) as source:
        made = prepare(source, "set", data_dir=source.parent, resolution=sizes.resolution, compression=compression)
        zipped = pillow_loop(source, sizes.resolution)

        def pillow() -> None:
            with zipfile.ZipFile(zipped) as archive:
                for name in archive.namelist():
                    np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB"))

        with closing(PreparedDataset(made.folder)) as dataset:  # Windows removes no folder of open files
            dataset.cache_bytes = 0
            run = Contender(call=lambda: deque(map(dataset.image, range(len(dataset))), maxlen=0))
            yield [run, Contender(name="zipfile and Pillow", call=pillow)]


def pillow_loop(source: Path, resolution: int) -> Path:
    """Square PNGs of all images, in a zip beside them."""
    zipped = source.with_suffix(".zip")
    with zipfile.ZipFile(zipped, "w") as archive:
        for path in sorted(source.iterdir()):
            with Image.open(path) as opened:
                image = ImageOps.fit(opened.convert("RGB"), (resolution, resolution), Image.Resampling.LANCZOS)
            with archive.open(f"{path.stem}.png", "w") as entry:
                image.save(entry, "PNG")
    return zipped


# ----- Scored -----


def scoring_cases(conditions: Conditions, sizes: ImageSizes) -> list[Case]:
    """Inception features and a score of files of images, ours and torch-fidelity's."""

    def build() -> Contenders:
        with drawn_images("png", sizes) as folder:
            weights = folder.with_name("random.pth")
            # Each layer takes means: features neither vanish nor overflow.
            values = {name: torch.rand(shape) / math.prod(shape[1:]) for name, shape in Inception.shapes().items()}
            torch.save(values, weights)
            found = importlib.util.find_spec("torch_fidelity") is not None
            contenders = {"": score_ours} | ({"torch-fidelity": score_theirs} if found else {})
            files = folder, weights, conditions.device
            yield [TimedScoring(name=name, call=partial(score, *files)) for name, score in contenders.items()]

    return [Case(what=f"Inception Score of {sizes.side} px PNGs", images=sizes.images, build=build)]


@dataclass(kw_only=True)
class TimedScoring(Contender):
    """A call that is made in a new process, and returns its seconds."""

    clocks_itself: bool = True

    def sample(self) -> float:
        seconds, self.memory = in_fresh_process(partial(seconds_and_memory, self.call))
        return seconds


def seconds_and_memory(score: Callable[[], float]) -> tuple[float, Peak]:
    """Those of this process; memory is not that of processes which torch-fidelity reads with."""
    with Peak(torch.device("cpu")) as peak:
        return score(), peak


def score_ours(folder: Path, weights: Path, device: str) -> float:
    """Seconds of scoring as ``ganformer eval --images`` does it."""
    started = time.perf_counter()
    network = open_network("inception", weights=weights, resize="tf1", device=device, offline=True)
    dataset = open_images(folder, "--images")
    source, key = DatasetImages(dataset, np.arange(len(dataset))), ("inception", "logits")
    found = collect(source, {"inception": network}, count=len(dataset), rows=[key], group=SINGLE_PROCESS)
    inception_score(found.rows[key], splits=_SPLITS, seed=_SEED)
    return time.perf_counter() - started


def score_theirs(folder: Path, weights: Path, device: str) -> float:
    """Seconds of torch-fidelity's own function, at its own settings, in a process that does nothing else afterwards."""
    metrics = load_fidelity("metrics")
    # It reads with several processes, which must not be started anew where torchvision was helped to import. They are
    # copies of this one where that is how the system starts processes; elsewhere it reads with this one.
    if copies := multiprocessing.get_all_start_methods()[0] == "fork":
        multiprocessing.set_start_method("fork", force=True)
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it reads with more processes than there are cores
        metrics.calculate_metrics(
            input1=str(folder),
            isc=True,
            isc_splits=_SPLITS,
            rng_seed=_SEED,
            feature_extractor_weights_path=str(weights),
            cuda=device != "cpu",
            cache=False,
            save_cpu_ram=not copies,
            verbose=False,
        )
    return time.perf_counter() - started


def load_fidelity(module: str) -> ModuleType:
    """A module of torch-fidelity's.

    torchvision, which it imports, lacks two operators beside a torch without CUDA, and then does not import; neither is
    called by what is used here, and their names are enough.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        for operator in ("nms", "qnms"):
            torch.library.define(f"torchvision::{operator}", schema)
    return importlib.import_module(f"torch_fidelity.{module}")
