"""The real pictures' side of an evaluation: what was computed of them before is taken from the cache."""

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
    report: Callable[[int, int], None],
) -> Collected:
    """What the metrics need of the reals.

    Args:
        source: the reals that may be used.
        plan: how many of them are, and for what.
        networks: the feature networks by name, on ``device``.
        selection: how they were chosen; part of what the cache's entries are known by.
        cache: where features are kept, if anywhere.
        device: where the networks are.
        group, report: as for ``collect``.

    Raises:
        DataError: a picture cannot be read.
        OutputError: the disk has no space for the features.
    """
    moments, rows = plan.wanted("moments", real=True), plan.wanted("rows", real=True)
    kept = Collected()
    descriptions: dict[tuple[str, FeatureKey], dict[str, Any]] = {}
    if cache is not None and (moments or rows):
        content = group.run_on_rank0(lambda: content_digest(source.dataset, source.indices[: plan.reals]))
        for kind, wanted in [("moments", each) for each in moments] + [("rows", each) for each in rows]:
            network = networks[wanted[0]]
            descriptions[kind, wanted] = {
                "format": _FORMAT,
                "kind": kind,
                "pictures": content,
                "count": plan.reals,
                "of": len(source.indices),
                "decoding": repr(source.dataset.decoding),
                **selection,
                "network": wanted,
                "weights_sha256": network.weights_sha256,
                "resize": network.resize,
                "device": device.type,
                "torch": torch.__version__,
            }
        group.run_on_rank0(lambda: _read(cache, descriptions, kept))
        # The files need not be seen by all: each process asks the first what it has.
        kept.moments, kept.rows = group.run_on_rank0(lambda: (kept.moments, kept.rows))
    found = collect(
        source,
        networks,
        count=plan.reals,
        moments=[each for each in moments if each not in kept.moments],
        rows=[each for each in rows if each not in kept.rows],
        pixels=plan.real_pixels,
        group=group,
        report=report,
    )
    if cache is not None and group.rank == 0:
        for (kind, wanted), description in descriptions.items():
            if kind == "moments" and wanted in found.moments:
                cache.write(description, found.moments[wanted].to_arrays())
            elif kind == "rows" and wanted in found.rows:
                cache.write(description, {"rows": found.rows[wanted]})
    found.moments.update(kept.moments)
    found.rows.update(kept.rows)
    return found


def _read(cache: Cache, descriptions: Mapping[tuple[str, FeatureKey], Mapping[str, Any]], kept: Collected) -> None:
    """Put into ``kept`` what the cache has."""
    for (kind, wanted), description in descriptions.items():
        arrays = cache.read(description)
        if arrays is None:
            continue
        try:
            if kind == "moments":
                kept.moments[wanted] = GaussianStatistics.from_arrays(arrays)
            else:
                kept.rows[wanted] = arrays["rows"]
        except (DataError, KeyError):
            continue  # written by something else under the same name; computed anew
