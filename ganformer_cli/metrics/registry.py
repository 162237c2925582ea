"""The metrics that there are, found in ``definitions/``, by name; and the scores that they give. Light to import."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Iterable
from dataclasses import replace

from ganformer_cli.errors import ConfigError
from ganformer_cli.metrics import definitions
from ganformer_cli.metrics.metric import DEFINED, Metric, Score

METRICS: dict[str, Metric] = {}  # those that need no feature network first
SCORES: dict[str, Score] = {}  # in the order of columns


def load_definitions() -> None:
    """Fill ``METRICS`` and ``SCORES`` with what lies in ``definitions/``."""
    for module in pkgutil.iter_modules(definitions.__path__):
        importlib.import_module(f"{definitions.__name__}.{module.name}")
    found = sorted(DEFINED.values(), key=lambda metric: metric.order)
    METRICS.update((metric.name, metric) for metric in sorted(found, key=lambda metric: metric.network is not None))
    SCORES.update((s.name, replace(s, metric=metric.name)) for metric in found for s in metric.scores)


load_definitions()


def parse_metrics(text: str) -> tuple[str, ...]:
    """``"fid,pr"`` as a tuple of names, each once; ``none`` and nothing as an empty one.

    Raises:
        ConfigError: there is no such metric.
    """
    aliases: dict[str, list[str]] = {}
    for metric in METRICS.values():
        for alias in metric.aliases:
            aliases.setdefault(alias, []).append(metric.name)
    names: dict[str, None] = {}
    for part in text.split(","):
        name = part.strip().lower().replace("-", "_")
        if name in ("", "none"):
            continue
        if name not in METRICS and name not in aliases:
            near = difflib.get_close_matches(name, [*METRICS, *aliases], n=1)
            advice = f"did you mean {near[0]}? " if near else ""
            several = [f"{alias} for {', '.join(metrics)}" for alias, metrics in aliases.items() if len(metrics) > 1]
            raise ConfigError(
                f"--metrics {part.strip()}: there is no such metric; {advice}There are {', '.join(METRICS)}, "
                f"{', '.join([*several, 'and none'])}"
            )
        names.update(dict.fromkeys(aliases.get(name, [name])))
    return tuple(names)


def networks_of(names: Iterable[str]) -> tuple[str, ...]:
    """The feature networks that these metrics need, each once."""
    return tuple(dict.fromkeys(network for name in names if (network := METRICS[name].network)))


def is_better(score: str, value: float, than: float) -> bool:
    """Whether a score's ``value`` is better than another one."""
    better = SCORES[score].better
    if better == "one":
        return abs(value - 1) < abs(than - 1)
    return value < than if better == "lower" else value > than
