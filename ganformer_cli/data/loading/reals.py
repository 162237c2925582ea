"""The real images that generated ones are compared with: a data set by name, or the one of a model's training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ganformer_cli.data.catalogue import SCENES
from ganformer_cli.data.loading.datasets import ImageDataset, open_dataset
from ganformer_cli.errors import ConfigError


def open_reals(
    name: str | None,
    header: Mapping[str, Any],
    *,
    data_dir: Path,
    resolution: int,
    ratio: float,
    warn: Callable[[str], None],
) -> ImageDataset:
    """The data set of that name, or, without one, the one that a snapshot's header says it was trained on.

    Args:
        name: of ``--dataset``, or None.
        header: of the snapshot.
        data_dir: folder of prepared data sets.
        resolution, ratio: of the built-in scenes, which come in any size.
        warn: told what is to be known of the set, and that it has changed.

    Raises:
        ConfigError: no name, and the header has none.
        DataError: there is no such set, or it is damaged.
    """
    limit, fingerprint = None, None
    if name is None:
        trained_on = header.get("dataset")
        if not isinstance(trained_on, Mapping) or not isinstance(trained_on.get("name"), str):
            raise ConfigError("--dataset is needed: this snapshot does not say what it was trained on")
        name, limit, fingerprint = trained_on["name"], trained_on.get("images"), trained_on.get("fingerprint")
    size: dict[str, Any] = {"resolution": resolution, "ratio": ratio} if name == SCENES else {}
    dataset = open_dataset(name, data_dir=data_dir, max_images=limit if isinstance(limit, int) else None, **size)
    for note in dataset.notes:
        warn(f"--dataset {name}: {note}")
    if fingerprint is not None and fingerprint != dataset.fingerprint:
        warn(f"the data set {name} has changed since this model was trained; the scores are for its present content")
    return dataset
