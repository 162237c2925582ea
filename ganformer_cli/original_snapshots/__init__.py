"""The authors' snapshots: recognised, downloaded, and opened without executing anything in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ganformer_cli.lazy import lazy_attributes
from ganformer_cli.original_snapshots.recognition import is_original

if TYPE_CHECKING:
    from ganformer_cli.original_snapshots.catalogue import PREFIX, fetch_snapshot
    from ganformer_cli.original_snapshots.opening import ModelNetworks, load_generator, load_original

__all__ = ["PREFIX", "ModelNetworks", "fetch_snapshot", "is_original", "load_generator", "load_original"]

__getattr__ = lazy_attributes(
    __name__,
    {
        "original_snapshots.catalogue": "PREFIX fetch_snapshot",
        "original_snapshots.opening": "ModelNetworks load_generator load_original",
    },
)
