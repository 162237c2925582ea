"""What a metric is: one object that says what it needs, computes its scores, and warns. Standard library only.

Each file in ``definitions/`` adds one metric, or a few that share their arithmetic, with ``add_metric``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ganformer_cli.metrics.processes import SINGLE_PROCESS, ProcessGroup

if TYPE_CHECKING:
    import torch

    from ganformer_cli.sampling import Generator

#: What a metric works on: images, mean and covariance of their features, all their features, or the generator itself.
Needs = Literal["pixels", "moments", "rows", "model"]
#: Which generated images a metric looks at: those that are drawn, or a VQGAN's reconstructions of the reals.
Subject = Literal["samples", "reconstructions"]
#: Which way a score is better; ``one``: nearer to 1.
Better = Literal["lower", "higher", "one"]


_ARROWS: dict[Better, str] = {"lower": "↓", "higher": "↑", "one": "→1"}


@dataclass(frozen=True)
class Score:
    """A number that a metric gives, under the name that it has in records."""

    name: str
    title: str
    better: Better
    digits: int = 2  # behind the point, where people read it
    percent: bool = False  # people read it in percent; records and JSON hold the fraction
    explanation: str = ""  # shown beside the value; empty: which way it is better
    metric: str = ""  # that gives it; set by the registry

    @property
    def heading(self) -> str:
        """The title of a column of ``number``s."""
        return f"{self.title} %" if self.percent else self.title

    @property
    def directed_heading(self) -> str:
        """``heading``, and which way it is better: ``FID ↓``."""
        return f"{self.heading} {_ARROWS[self.better]}"

    def shown(self, value: float) -> float:
        """``value`` as people read it."""
        return 100 * value if self.percent else value

    def number(self, value: float, sign: str = "") -> str:
        """``value`` as people read it, with its digits and without a unit; ``sign`` is ``+`` for differences."""
        return f"{self.shown(value):{sign}.{self.digits}f}"

    def text(self, value: float, sign: str = "") -> str:
        """``number`` with its unit."""
        return f"{self.number(value, sign)} %" if self.percent else self.number(value, sign)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a metric is computed from.

    ``reals`` and ``fakes`` are what it ``needs``: ``pixels`` uint8 ``[N, 3, H, W]``; ``moments``
    ``GaussianStatistics``; ``rows`` float32 ``[N, D]``; ``model`` no reals, and the ``Generator``.
    """

    fakes: Any
    reals: Any = None
    seed: int = 0
    device: torch.device | None = None  # for arithmetic that is worth a GPU
    # Only where the metric needs the model; every process then computes a part of it.
    count: int = 0  # latents to look at
    distance: Any = None  # ``LearnedDistance``
    group: ProcessGroup = SINGLE_PROCESS
    progress: Callable[[int, int], None] | None = None


@dataclass(frozen=True, kw_only=True)
class Circumstances:
    """What ``Metric.caution`` judges by."""

    reals: int  # how many images of either kind are compared
    fakes: int
    width: int = 0  # numbers in a feature
    generator: Generator | None = None  # None: images that are there already


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric."""

    name: str  # as ``--metrics`` and records have it
    title: str  # in words
    version: str  # of the arithmetic: numbers of different versions do not compare
    needs: Needs
    scores: tuple[Score, ...]
    #: From ``Inputs`` to scores by name; ``NAME_std`` is a score's deviation, ``NAME_levels`` its parts. Heavy
    #: libraries are imported inside.
    compute: Callable[[Inputs], dict[str, Any]]
    #: Why a score of these circumstances means less than it seems; None: it does not.
    caution: Callable[[Circumstances], str | None] = lambda circumstances: None
    network: str | None = None  # the feature network, of ``features.NETWORKS``, or ``lpips``; None: it needs none
    output: str = ""  # of that network
    of: Subject = "samples"  # reconstructions are those of the reals, in the same order
    uses_reals: bool = True
    equal_numbers: bool = False  # whether it compares as many fakes as reals
    max_images: int | None = None  # of either kind that it looks at
    has_floor: bool = False  # whether the score of two sets of reals is worth knowing
    aliases: tuple[str, ...] = ()  # other names for ``--metrics``; several metrics may share one
    order: int = 100  # of columns

    @property
    def features(self) -> tuple[str, str]:
        """Network and output whose features it takes."""
        return self.network or "", self.output

    def counts(self, reals: int, fakes: int) -> tuple[int, int]:
        """How many of so many reals and fakes it looks at."""
        if self.equal_numbers:
            reals = fakes = min(reals, fakes)
        limit = max(reals, fakes) if self.max_images is None else self.max_images
        return min(reals, limit) if self.uses_reals else 0, min(fakes, limit)


#: By name, in no order; ``registry`` has the ordered table.
DEFINED: dict[str, Metric] = {}


def add_metric(metric: Metric) -> None:
    """Make a metric known under its name."""
    DEFINED[metric.name] = metric
