"""Which metrics there are, what each needs, and the scores that it gives. Standard library only."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ganformer_cli.errors import ConfigError

#: What a metric works on: the pictures themselves; mean and covariance of their features; all features; the model.
Needs = Literal["pixels", "moments", "rows", "model"]
#: Which way a score is better; ``one``: nearer to 1.
Better = Literal["lower", "higher", "one"]


@dataclass(frozen=True)
class Metric:
    """A metric and what it needs."""

    name: str
    title: str
    module: str  # of ganformer_cli.metrics
    needs: Needs
    network: str | None = None  # of ganformer_cli.metrics.features
    output: str = ""  # of that network
    reals: bool = True  # whether it looks at real pictures, too
    version: str = "VERSION"  # what the module calls the version of the arithmetic


@dataclass(frozen=True)
class Score:
    """A number that a metric gives, under the name that it has in records."""

    name: str
    metric: str
    title: str
    better: Better
    digits: int = 2  # behind the point, where people read it
    percent: bool = False  # a share, which people read in percent; records and JSON hold the fraction

    @property
    def heading(self) -> str:
        """The title of a column of ``number``s."""
        return f"{self.title} %" if self.percent else self.title

    def shown(self, value: float) -> float:
        """``value`` as people read it."""
        return 100 * value if self.percent else value

    def number(self, value: float, sign: str = "") -> str:
        """``value`` as people read it, with its digits and without a unit; ``sign`` is ``+`` for differences."""
        return f"{self.shown(value):{sign}.{self.digits}f}"

    def text(self, value: float, sign: str = "") -> str:
        """``number`` with its unit."""
        return f"{self.number(value, sign)} %" if self.percent else self.number(value, sign)


METRICS = {
    metric.name: metric
    for metric in (
        Metric("swd", "sliced Wasserstein distance", "sliced_wasserstein", "pixels"),
        Metric("diversity", "diversity", "diversity", "pixels"),
        Metric("fid", "Fréchet Inception distance", "frechet", "moments", "inception", "pool"),
        Metric("kid", "kernel Inception distance", "kernel_distance", "rows", "inception", "pool"),
        Metric("is", "Inception score", "inception_score", "rows", "inception", "logits", reals=False),
        Metric("pr", "precision and recall", "manifold", "rows", "vgg16", "fc2", version="VERSION_PRECISION"),
        Metric("dc", "density and coverage", "manifold", "rows", "vgg16", "fc2", version="VERSION_DENSITY"),
        Metric("fd_dinov2", "Fréchet distance of DINOv2", "frechet", "moments", "dinov2", "cls"),
        Metric("ppl_zfull", "perceptual path length, z, full", "path_length", "model", "lpips", reals=False),
        Metric("ppl_wfull", "perceptual path length, w, full", "path_length", "model", "lpips", reals=False),
        Metric("ppl_zend", "perceptual path length, z, ends", "path_length", "model", "lpips", reals=False),
        Metric("ppl_wend", "perceptual path length, w, ends", "path_length", "model", "lpips", reals=False),
    )
}

SCORES = {
    score.name: score
    for score in (
        Score("fid", "fid", "FID", "lower"),
        Score("kid", "kid", "KID", "lower", 5),
        Score("is", "is", "IS", "higher"),
        Score("precision", "pr", "precision", "higher", percent=True),
        Score("recall", "pr", "recall", "higher", percent=True),
        Score("density", "dc", "density", "higher", 3),
        Score("coverage", "dc", "coverage", "higher", 3),
        Score("fd_dinov2", "fd_dinov2", "FD-DINOv2", "lower"),
        Score("ppl_zfull", "ppl_zfull", "PPL z", "lower"),
        Score("ppl_wfull", "ppl_wfull", "PPL w", "lower"),
        Score("ppl_zend", "ppl_zend", "PPL z end", "lower"),
        Score("ppl_wend", "ppl_wend", "PPL w end", "lower"),
        Score("swd", "swd", "SWD", "lower"),
        Score("diversity", "diversity", "diversity", "one", 3),
    )
}

#: Names that stand for others.
_ALIASES = {"ppl": ("ppl_zfull", "ppl_wfull", "ppl_zend", "ppl_wend"), "prc": ("pr",), "isc": ("is",)}


def parse_metrics(text: str) -> tuple[str, ...]:
    """``"fid,pr"`` as a tuple of names, each once; ``none`` and nothing as an empty one.

    Raises:
        ConfigError: there is no such metric.
    """
    names: dict[str, None] = {}
    for part in text.split(","):
        name = part.strip().lower().replace("-", "_")
        if name in ("", "none"):
            continue
        for meant in _ALIASES.get(name, (name,)):
            if meant not in METRICS:
                near = difflib.get_close_matches(meant, [*METRICS, *_ALIASES], n=1)
                advice = f"did you mean {near[0]}? " if near else ""
                raise ConfigError(
                    f"--metrics {part.strip()}: there is no such metric; {advice}There are {', '.join(METRICS)}, ppl "
                    "for the last four, and none"
                )
            names[meant] = None
    return tuple(names)


def version_of(name: str) -> str:
    """The version of a metric's arithmetic: numbers of different versions do not compare."""
    metric = METRICS[name]
    return str(getattr(importlib.import_module(f"ganformer_cli.metrics.{metric.module}"), metric.version))


def networks_of(names: Iterable[str]) -> tuple[str, ...]:
    """The feature networks that these metrics need, each once."""
    return tuple(dict.fromkeys(network for name in names if (network := METRICS[name].network)))


def scores_of(name: str) -> tuple[Score, ...]:
    """The scores that a metric gives."""
    return tuple(score for score in SCORES.values() if score.metric == name)


def is_better(score: str, value: float, than: float) -> bool:
    """Whether a score's ``value`` is better than another one."""
    better = SCORES[score].better
    if better == "one":
        return abs(value - 1) < abs(than - 1)
    return value < than if better == "lower" else value > than
