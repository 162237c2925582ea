"""Files of images to Inception features and a score, against torch-fidelity where it is installed.

Both read the same files, resize them as TensorFlow 1 does, and pass them through Inception-v3 with the same random
weights; both then give the same Inception Score, or the measurement fails. Each sample is taken in a process of its
own. Reading the weights counts, imports do not.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import multiprocessing
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ganformer_cli.benchmarks.data import ImageSizes, draw_images
from ganformer_cli.benchmarks.measuring import (
    Case,
    Conditions,
    Contender,
    Memory,
    Workload,
    in_fresh_process,
    temporary_folder,
)
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
#: What two scores may differ by, as a share of what they are above 1. A score of 1 says that all images are alike;
#: random weights make them nearly so.
_TOLERANCE = 1e-3


class ScoringSample(NamedTuple):
    """One measurement."""

    seconds: float
    peak_mib: float | None  # of the process; the processes that torch-fidelity reads with are not in it
    score: float


def scoring_cases(conditions: Conditions, sizes: ImageSizes) -> list[Case]:
    """Inception features and a score of files of images."""
    build = partial(build_scoring, conditions, sizes)
    what = f"Inception Score of {sizes.side} px PNGs"
    return [Case(group="metrics", what=what, images=sizes.images, build=build, weight=120)]


def build_scoring(conditions: Conditions, sizes: ImageSizes) -> Workload:
    """Scores files with random weights, ours and torch-fidelity's."""
    resources, place = temporary_folder()
    draw_images(place / "images", "png", sizes)
    torch.save(random_weights(Inception.shapes()), place / "random.pth")
    scores: dict[str, float] = {}

    def measure(name: str, score: Callable[[Path, Path, str], ScoringSample]) -> tuple[float, Memory | None]:
        run = partial(score, place / "images", place / "random.pth", conditions.device)
        found = in_fresh_process(run) if conditions.memory else run()
        scores[name] = found.score
        if not all(math.isclose(each - 1, found.score - 1, rel_tol=_TOLERANCE) for each in scores.values()):
            raise GanformerError(
                f"this Inception network and torch-fidelity's give the scores {scores}: one of the two is not what it "
                "was; please report this"
            )
        return found.seconds, None if found.peak_mib is None else Memory(found.peak_mib)

    theirs = []
    if importlib.util.find_spec("torch_fidelity") is not None:
        theirs = [("torch-fidelity", Contender(measure=partial(measure, "torch-fidelity", score_theirs)))]
    ours = Contender(measure=partial(measure, "ganformer", score_ours))
    return Workload(run=ours, baselines=theirs, has_operators=False, resources=resources)


def score_ours(folder: Path, weights: Path, device: str) -> ScoringSample:
    """As ``ganformer eval --images`` does it."""
    started = time.perf_counter()
    network = open_network("inception", weights=weights, resize="tf1", device=device, offline=True)
    dataset = open_images(folder, "--images")
    source, key = DatasetImages(dataset, np.arange(len(dataset))), ("inception", "logits")
    found = collect(source, {"inception": network}, count=len(dataset), rows=[key], group=SINGLE_PROCESS)
    score, _ = inception_score(found.rows[key], splits=_SPLITS, seed=_SEED)
    return ScoringSample(time.perf_counter() - started, proc_mib("VmHWM"), score)


def score_theirs(folder: Path, weights: Path, device: str) -> ScoringSample:
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
    return ScoringSample(seconds, proc_mib("VmHWM"), float(found["inception_score_mean"]))


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
    """Parameters of a feature network that let signals through: with them it tells images apart."""
    # numpy promises never to change this generator's numbers.
    random = np.random.RandomState(0)
    found = {}
    for name, shape in shapes.items():
        if len(shape) > 1:
            values = random.standard_normal(shape) * (2 / math.prod(shape[1:])) ** 0.5
        elif name.endswith(("running_var", "bn.weight", "norm.weight", "norm1.weight", "norm2.weight")):
            values = random.random_sample(shape) + 0.5  # variances, and what norms multiply by
        else:
            values = random.standard_normal(shape) * 0.1
        found[name] = torch.from_numpy(values).float()
    return found
