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
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from ganformer_cli.benchmarks.data import ImageSizes, draw_images
from ganformer_cli.benchmarks.measuring import Case, Conditions, Contender, Contenders, in_fresh_process
from ganformer_cli.errors import GanformerError
from ganformer_cli.memory import Peak
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


#: Of files with a file of weights on a device: seconds, and the score.
ScoreFiles = Callable[[Path, Path, str], tuple[float, float]]


def scoring_cases(conditions: Conditions, sizes: ImageSizes) -> list[Case]:
    """Inception features and a score of files of images."""
    build = partial(build_scoring, conditions, sizes)
    return [Case(what=f"Inception Score of {sizes.side} px PNGs", images=sizes.images, build=build)]


@contextmanager
def build_scoring(conditions: Conditions, sizes: ImageSizes) -> Contenders:
    """Scores files with random weights, ours and torch-fidelity's."""
    with tempfile.TemporaryDirectory(prefix="ganformer-bench-") as place:
        folder, weights = draw_images(Path(place, "images"), "png", sizes), Path(place, "random.pth")
        torch.save(random_weights(Inception.shapes()), weights)
        scores: dict[str, float] = {}

        def contender(name: str, score: ScoreFiles) -> Contender:
            def call() -> float:
                sample = partial(score_with_memory, partial(score, folder, weights, conditions.device))
                seconds, scores[name], made.memory = in_fresh_process(sample)
                if not all(math.isclose(each - 1, scores[name] - 1, rel_tol=_TOLERANCE) for each in scores.values()):
                    raise GanformerError(
                        f"this Inception network (first) and torch-fidelity's give the scores {list(scores.values())}: "
                        "one of the two is not what it was; please report this"
                    )
                return seconds

            made = Contender(name=name, call=call, clocks_itself=True)
            return made

        ours, theirs = contender("", score_ours), contender("torch-fidelity", score_theirs)
        yield [ours, theirs] if importlib.util.find_spec("torch_fidelity") else [ours]


def score_with_memory(score: Callable[[], tuple[float, float]]) -> tuple[float, float, Peak]:
    """Seconds, the score, and memory of this process; not that of processes which torch-fidelity reads with."""
    with Peak(torch.device("cpu")) as peak:
        seconds, found = score()
    return seconds, found, peak


def score_ours(folder: Path, weights: Path, device: str) -> tuple[float, float]:
    """As ``ganformer eval --images`` does it."""
    started = time.perf_counter()
    network = open_network("inception", weights=weights, resize="tf1", device=device, offline=True)
    dataset = open_images(folder, "--images")
    source, key = DatasetImages(dataset, np.arange(len(dataset))), ("inception", "logits")
    found = collect(source, {"inception": network}, count=len(dataset), rows=[key], group=SINGLE_PROCESS)
    score, _ = inception_score(found.rows[key], splits=_SPLITS, seed=_SEED)
    return time.perf_counter() - started, score


def score_theirs(folder: Path, weights: Path, device: str) -> tuple[float, float]:
    """As torch-fidelity's own function does it, at its own settings, in a process that does nothing else afterwards."""
    metrics = load_fidelity("metrics")
    # It reads with several processes, which must not be started anew where torchvision was helped to import. They are
    # copies of this one where that is how the system starts processes; elsewhere it reads with this one.
    if copies := multiprocessing.get_all_start_methods()[0] == "fork":
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
    return time.perf_counter() - started, float(found["inception_score_mean"])


def load_fidelity(module: str) -> ModuleType:
    """A module of torch-fidelity's.

    torchvision, which it imports, lacks two operators beside a torch without CUDA, and then does not import; neither is
    called by what is used here, and their names are enough.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for operator in ("nms", "qnms"):
            torch.library.define(
                f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )
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
