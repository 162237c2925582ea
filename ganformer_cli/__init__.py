"""GANsformer: pictures from a few latents that attend to the picture and to each other.

Python users need little: ``from ganformer_cli import load_generator, sample``. The names below load what they need on
first use, so that ``import ganformer_cli`` stays free of torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ganformer_cli.errors import GanformerError
    from ganformer_cli.original_snapshots import load_generator
    from ganformer_cli.sampling import sample

__version__ = "0.1.0"

__all__ = ["GanformerError", "__version__", "load_generator", "sample"]

_HOMES = {
    "GanformerError": "ganformer_cli.errors",
    "load_generator": "ganformer_cli.original_snapshots",
    "sample": "ganformer_cli.sampling",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
