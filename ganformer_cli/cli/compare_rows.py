"""The rows of ``ganformer compare``: how runs are named, and what the paper reports."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ganformer_cli.cli.options import warn
from ganformer_cli.config import BASELINES, ModelConfig, RunConfig
from ganformer_cli.errors import ConfigError, DataError

if TYPE_CHECKING:
    from ganformer_cli.metrics.tabulate import ModelRow


# ----- The paper's table -----


def reported_rows(datasets: Iterable[str]) -> dict[str, list[ModelRow]]:
    """The rows of the paper's table, by data set; what the user's own entry of the catalogue reports counts, too."""
    from ganformer_cli.data.catalogue import find_entry
    from ganformer_cli.metrics.tabulate import Cell, ModelRow

    rows = {}
    for name in datasets:
        try:
            entry = find_entry(name, Path("datasets"))
        except DataError as error:
            warn(str(error))
            continue
        if entry is None or entry.reported is None:
            continue
        reported = entry.reported
        source = f"{reported.source}; FID of {reported.images} images, longer side {reported.resolution}"
        rows[name] = [
            ModelRow(f"{model} (paper)", (), {"fid": Cell(value, None, 0)}, source)
            for model, value in reported.fid.items()
        ]
    return rows


# ----- Names of rows -----


def read_settings(run: Path) -> RunConfig | None:
    """How a run was made; None, and a warning, where its configuration is of another version or damaged."""
    from ganformer_cli.checkpoints.run_folder import read_run_config

    try:
        return read_run_config(run)
    except ConfigError as error:
        warn(f"{error}. Its scores are shown under the run's name")
        return None


def row_names(runs: Sequence[tuple[str | None, Path, RunConfig | None]]) -> list[str]:
    """The row that each run belongs to.

    Runs that differ in nothing but their seed share one, named by the kind of network; where runs of one kind differ in
    more, or nobody knows, the run's name without its number tells them apart.
    """
    kinds = [label or (model_kind(config.model) if config else run_name(path)) for label, path, config in runs]
    settings: dict[str, set[str]] = {}
    for kind, (label, _, config) in zip(kinds, runs, strict=True):
        if label is None:
            settings.setdefault(kind, set()).add(row_settings(config))
    return [
        kind if label or len(settings[kind]) == 1 or config is None else f"{kind} ({run_name(path)})"
        for kind, (label, path, config) in zip(kinds, runs, strict=True)
    ]


def row_settings(config: RunConfig | None) -> str:
    """All settings that runs of one row share, as text."""
    from ganformer_cli.checkpoints.run_folder import MAY_CHANGE

    if config is None:
        return ""
    train = {name: value for name, value in config.train.to_dict().items() if name not in MAY_CHANGE | {"seed"}}
    return json.dumps([config.model.to_dict(), train], sort_keys=True)


def run_name(path: Path) -> str:
    """The name of a run without its number and without a seed at its end: ``duplex-seed1-000`` is ``duplex``."""
    return re.sub(r"([-_.]seed[-_.]?\d+)?-\d{3,}$", "", path.resolve().name) or path.resolve().name


def model_kind(config: ModelConfig) -> str:
    """The baseline that a network is, or its kind of attention."""
    if config.has_attention:
        return config.attention_name
    for name, values in BASELINES.items():
        # Where SAGAN attends follows from the size of the images.
        same = {"kgan": False, "vqgan": False, **values, "g_img2img": config.g_img2img if "g_img2img" in values else 0}
        if all(getattr(config, field) == value for field, value in same.items()) and (
            config.g_img2img > 0 or "g_img2img" not in values
        ):
            return name
    return config.attention
