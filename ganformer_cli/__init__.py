"""GANsformer: images from a few latents that attend to the image and to each other.

In Python: ``from ganformer_cli import load_generator, sample``. These names are imported on first use, so that
``import ganformer_cli`` does not load torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ganformer_cli.lazy import lazy_attributes

if TYPE_CHECKING:
    from ganformer_cli.errors import GanformerError
    from ganformer_cli.original_snapshots import load_generator
    from ganformer_cli.projection.optimization import Projection, project
    from ganformer_cli.sampling.api import attention_maps, sample
    from ganformer_cli.sampling.components import ComponentEdit, EditedLatents, edit_components

__version__ = "0.1.0"

__all__ = [
    "ComponentEdit",
    "EditedLatents",
    "GanformerError",
    "Projection",
    "__version__",
    "attention_maps",
    "edit_components",
    "load_generator",
    "project",
    "sample",
]

__getattr__ = lazy_attributes(
    __name__,
    {
        "errors": "GanformerError",
        "original_snapshots": "load_generator",
        "projection.optimization": "Projection project",
        "sampling.api": "attention_maps sample",
        "sampling.components": "ComponentEdit EditedLatents edit_components",
    },
)


def __dir__() -> list[str]:
    return sorted(__all__)
