"""The feature networks that metrics need, opened from files that are given, kept or downloaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganformer_cli.errors import ConfigError, DownloadError
from ganformer_cli.metrics.registry import METRICS, networks_of

if TYPE_CHECKING:
    import torch

    from ganformer_cli.metrics.features import FeatureNetwork, LearnedDistance
    from ganformer_cli.metrics.resizing import Resize

#: The network that does not give features of an image but the distance of two.
DISTANCE = "lpips"
#: Told the name of a network, how many bytes of its files are there, and how many there are if known.
Fetching = Callable[[str, int, int | None], None]


@dataclass
class FeatureNetworks:
    """Networks that are open."""

    features: dict[str, FeatureNetwork] = field(default_factory=dict)  # by name
    distance: LearnedDistance | None = None

    def __contains__(self, name: object) -> bool:
        return self.distance is not None if name == DISTANCE else name in self.features

    def __getitem__(self, name: str) -> FeatureNetwork | LearnedDistance:
        if name == DISTANCE and self.distance is not None:
            return self.distance
        return self.features[name]


def weights_by_network(given: Sequence[str], metrics: Sequence[str]) -> dict[str, Path]:
    """The files of ``--weights``.

    Each is ``NETWORK=PATH``, or a path alone where the metrics need one network, or a folder that has the files of all.

    Raises:
        ConfigError: it is not clear which network a file is for, or no metric needs it.
    """
    needed = networks_of(metrics)
    names = ", ".join(needed)
    found: dict[str, Path] = {}
    for text in given:
        if Path(text).is_dir():
            found = {name: Path(text) for name in needed} | found
            continue
        name, equals, path = text.partition("=")
        if not equals or name not in {metric.network for metric in METRICS.values()}:
            if len(needed) != 1:
                why = f"need {names}" if needed else "need no feature network"
                remedy = f"write for instance --weights {needed[0]}={text}" if needed else "leave it out"
                raise ConfigError(f"--weights {text}: the metrics {','.join(metrics)} {why}; {remedy}")
            name, path = needed[0], text
        if name not in needed:
            raise ConfigError(f"--weights {text}: none of the metrics {','.join(metrics)} needs {name}; leave it out")
        if name in found:
            raise ConfigError(f"--weights {text}: {name} has {found[name]} already; give one file for each network")
        found[name] = Path(path)
    return found


def open_networks(
    metrics: Sequence[str],
    *,
    weights: Mapping[str, Path],
    resize: Resize | None,
    device: torch.device,
    offline: bool = False,
    progress: Fetching = lambda name, done, total: None,
) -> tuple[FeatureNetworks, dict[str, DownloadError]]:
    """The networks that the metrics need, by name, and why the others cannot be had.

    Args:
        metrics: of ``registry.METRICS``.
        weights: files to use in place of those that are downloaded.
        resize: how images get the networks' size, ``tf1`` or ``clean``; None: as for each network's published scores.

    Raises:
        SnapshotError: a file is damaged, or of another network.
        DownloadError: a file of ``weights`` is not the one that its name says.
    """
    from ganformer_cli.metrics.features import open_distance, open_network

    found, missing = FeatureNetworks(), dict[str, DownloadError]()
    for name in networks_of(metrics):
        where: dict[str, Any] = {"weights": weights.get(name), "device": device, "offline": offline}
        where["progress"] = partial(progress, name)
        try:
            if name == DISTANCE:
                found.distance = open_distance(**where)
            else:
                found.features[name] = open_network(name, resize=resize, **where)
        except DownloadError as error:
            if name in weights:  # a file that was named is meant, not done without
                raise
            missing[name] = error
    return found, missing
