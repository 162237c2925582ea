"""The real images' side of an evaluation: what was computed of them before is taken from the cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from ganformer_cli.errors import DataError
from ganformer_cli.metrics.cache import Cache
from ganformer_cli.metrics.collecting import Collected, FeatureKey, collect
from ganformer_cli.metrics.plan import EvaluationPlan
from ganformer_cli.metrics.processes import ProcessGroup
from ganformer_cli.metrics.sources import DatasetImages, content_digest
from ganformer_cli.metrics.statistics import GaussianStatistics

if TYPE_CHECKING:
    from ganformer_cli.metrics.features import FeatureNetwork

#: Raise it when something else is computed under the same description.
_FORMAT = 2


def collect_reals(
    source: DatasetImages,
    plan: EvaluationPlan,
    networks: Mapping[str, FeatureNetwork],
    *,
    selection: Mapping[str, Any],
    cache: Cache | None,
    device: torch.device,
    group: ProcessGroup,
    progress: Callable[[int, int], None],
) -> Collected:
    """What the metrics need of the reals.

    Args:
        source: the reals that may be used.
        plan: how many of them are, and for what.
        selection: how the reals were chosen; part of what an entry of the cache is known by.

    Raises:
        DataError: an image cannot be read.
        OutputError: the disk has no space for the features.
    """
    wanted = {kind: plan.features(kind, "reals") for kind in ("moments", "rows")}
    cached = Collected()
    descriptions: dict[tuple[str, FeatureKey], dict[str, Any]] = {}
    if cache is not None and any(wanted.values()):
        content = group.run_on_rank0(lambda: content_digest(source.dataset, source.indices[: plan.reals]))
        for kind, key in [(kind, key) for kind, keys in wanted.items() for key in keys]:
            network = networks[key[0]]
            descriptions[kind, key] = {
                "format": _FORMAT,
                "kind": kind,
                "pictures": content,
                "count": plan.reals,
                "of": len(source.indices),
                "decoding": repr(source.dataset.decoding),
                **selection,
                "network": key,
                "weights_sha256": network.weights_sha256,
                "resize": network.resize,
                "device": device.type,
                "torch": torch.__version__,
            }
        # The first process reads for all: the others need not see the files.
        cached = group.run_on_rank0(lambda: _read(cache, descriptions))
    found = collect(
        source,
        networks,
        count=plan.reals,
        moments=[key for key in wanted["moments"] if key not in cached.moments],
        rows=[key for key in wanted["rows"] if key not in cached.rows],
        pixels=max(plan.pixels("reals"), 2 * plan.floor_images),
        group=group,
        progress=progress,
    )
    if cache is not None and group.rank == 0:
        for (kind, key), description in descriptions.items():
            if kind == "moments" and key in found.moments:
                cache.write(description, found.moments[key].to_arrays())
            elif kind == "rows" and key in found.rows:
                cache.write(description, {"rows": found.rows[key]})
    found.moments.update(cached.moments)
    found.rows.update(cached.rows)
    return found


def _read(cache: Cache, descriptions: Mapping[tuple[str, FeatureKey], Mapping[str, Any]]) -> Collected:
    """What the cache has."""
    found = Collected()
    for (kind, key), description in descriptions.items():
        arrays = cache.read(description)
        if arrays is None:
            continue
        try:
            if kind == "moments":
                found.moments[key] = GaussianStatistics.from_arrays(arrays)
            else:
                found.rows[key] = arrays["rows"]
        except (DataError, KeyError):
            continue  # something else was written under this name; it is computed anew
    return found
