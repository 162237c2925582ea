"""What ``ganformer bench`` measures of scores: files of pictures to features, ours beside torch-fidelity's.

Both read the same files, resize them as TensorFlow 1 does, and pass them through Inception-v3 with the same random
weights; both then give the same Inception Score, or the measurement fails. Reading the weights counts, imports do not.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import multiprocessing
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ganformer_cli.benchmarks.data import ImageSizes, draw
from ganformer_cli.errors import GanformerError
from ganformer_cli.memory import proc_mib
from ganformer_cli.metrics.collecting import collect
from ganformer_cli.metrics.features import open_network
from ganformer_cli.metrics.inception import Inception
from ganformer_cli.metrics.inception_score import inception_score
from ganformer_cli.metrics.processes import SINGLE_PROCESS
from ganformer_cli.metrics.sources import DatasetImages, open_images

_SEED = 2020
_SPLITS = 2
#: What two scores may differ by, as a share of what they are above 1. A score of 1 says that all pictures are alike;
#: random weights make them nearly so.
_SAME = 1e-3
_INSTALL = "pip install torch-fidelity==0.4.0 torch==2.13.0"


@dataclass(frozen=True, kw_only=True)
class ScoringSizes:
    """What is measured."""

    pictures: int = 128
    side: int = 256
    repeats: int = 2


@dataclass(frozen=True)
class Scored:
    """One measurement."""

    per_second: float  # pictures
    peak_mib: float | None  # of the process; the processes that torch-fidelity reads with are not in it
    score: float


#: Runs a function, perhaps in a process of its own.
Runner = Callable[[Callable[[], Scored]], Scored]


def measure_scoring(
    sizes: ScoringSizes, device: str, run: Runner, done: Callable[[float, str], None]
) -> dict[str, Any]:
    """Pictures a second and memory, as JSON values: the fastest of several turns.

    Args:
        sizes: how many pictures, and how large.
        device: ``cpu`` or a GPU.
        run: runs one measurement.
        done: told which share of all has been measured, and what.

    Raises:
        GanformerError: the two do not give the same score.
    """
    sides: dict[str, Callable[[Path, Path, str], Scored]] = {"ours": score_ours}
    if importlib.util.find_spec("torch_fidelity") is not None:
        sides["theirs"] = score_theirs
    found: dict[str, list[Scored]] = {name: [] for name in sides}
    with tempfile.TemporaryDirectory(prefix="ganformer-bench-") as place:
        folder, weights = Path(place) / "pictures", Path(place) / "random.pth"
        draw(folder, "png", ImageSizes(pictures=sizes.pictures, side=sizes.side))
        torch.save(random_weights(Inception.shapes()), weights)
        for turn in range(sizes.repeats):
            for name, measure in sides.items():
                found[name].append(run(partial(measure, folder, weights, device)))
                done(1 / (len(sides) * sizes.repeats), f"{name}, turn {turn + 1}")
    best = {name: max(turns, key=lambda turn: turn.per_second) for name, turns in found.items()}
    ours, theirs = best["ours"], best.get("theirs")
    if theirs is not None and not math.isclose(ours.score - 1, theirs.score - 1, rel_tol=_SAME):
        raise GanformerError(
            f"this Inception network gives a score of {ours.score:.7g}, torch-fidelity's {theirs.score:.7g}: one of "
            "the two is not what it was; please report this"
        )
    return {
        **asdict(sizes),
        "ours": asdict(ours),
        "theirs": None if theirs is None else asdict(theirs),
        "ratio": None if theirs is None else ours.per_second / theirs.per_second,
        "without_theirs": None if theirs is not None else f"torch-fidelity is not installed: {_INSTALL}",
    }


def score_ours(folder: Path, weights: Path, device: str) -> Scored:
    """As ``ganformer eval --images`` does it."""
    started = time.perf_counter()
    network = open_network("inception", weights=weights, resize="tf1", device=device, offline=True)
    dataset = open_images(folder, "--images")
    source = DatasetImages(dataset, np.arange(len(dataset)))
    wanted = ("inception", "logits")
    found = collect(
        source,
        {"inception": network},
        count=len(dataset),
        rows=[wanted],
        group=SINGLE_PROCESS,
    )
    score, _ = inception_score(found.rows[wanted], splits=_SPLITS, seed=_SEED)
    return Scored(len(dataset) / (time.perf_counter() - started), proc_mib("VmHWM"), score)


def score_theirs(folder: Path, weights: Path, device: str) -> Scored:
    """As torch-fidelity's own function does it, at its own settings."""
    metrics = load_fidelity("metrics")
    # It reads with several processes, which must not be started anew where torchvision was helped to import. They are
    # copies of this one where that is how the system starts processes; elsewhere it reads with this one.
    copies = multiprocessing.get_all_start_methods()[0] == "fork"
    before = multiprocessing.get_start_method(allow_none=True)
    if copies:
        multiprocessing.set_start_method("fork", force=True)
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it reads with more processes than there are cores
        found = metrics.calculate_metrics(
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
    seconds = time.perf_counter() - started
    multiprocessing.set_start_method(before, force=True)
    pictures = len(list(folder.iterdir()))
    score = float(found["inception_score_mean"])
    return Scored(pictures / seconds, proc_mib("VmHWM"), score)


def load_fidelity(module: str) -> ModuleType:
    """A module of torch-fidelity's.

    torchvision, which it imports, lacks two operators beside a torch without CUDA, and then does not import; neither is
    called by what is used here, and their names are enough.
    """
    try:
        return importlib.import_module(f"torch_fidelity.{module}")
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] in ("torchvision", "torch_fidelity")]:
        del sys.modules[name]
    for operator in ("nms", "qnms"):
        torch.library.define(f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return importlib.import_module(f"torch_fidelity.{module}")


def random_weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Parameters of a feature network that let signals through: with them it tells pictures apart."""
    # numpy promises never to change this generator's numbers.
    random = np.random.RandomState(0)

    def values(name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
        if len(shape) > 1:
            return random.standard_normal(shape) * (2 / math.prod(shape[1:])) ** 0.5
        # Variances, and what norms multiply by.
        positive = name.endswith(("running_var", "bn.weight", "norm.weight", "norm1.weight", "norm2.weight"))
        return random.random_sample(shape) + 0.5 if positive else random.standard_normal(shape) * 0.1

    return {name: torch.from_numpy(values(name, shape)).float() for name, shape in shapes.items()}
