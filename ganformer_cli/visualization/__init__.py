"""Pictures to look at: grids, and maps of what each component attends to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ganformer_cli.lazy import lazy_attributes

if TYPE_CHECKING:
    from ganformer_cli.visualization.attention import (
        BLENDING_ALPHA,
        attention_sheet,
        component_sheet,
        layer_sheet,
        region_colours,
    )
    from ganformer_cli.visualization.grids import grid_columns, image_grid
    from ganformer_cli.visualization.palette import PALETTE

__all__ = [
    "BLENDING_ALPHA",
    "PALETTE",
    "attention_sheet",
    "component_sheet",
    "grid_columns",
    "image_grid",
    "layer_sheet",
    "region_colours",
]

__getattr__ = lazy_attributes(
    __name__,
    {
        "visualization.attention": "BLENDING_ALPHA attention_sheet component_sheet layer_sheet region_colours",
        "visualization.grids": "grid_columns image_grid",
        "visualization.palette": "PALETTE",
    },
)
