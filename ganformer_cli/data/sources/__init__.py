"""Where images come from: folders, archives and arrays of many kinds, all read in one way."""

from ganformer_cli.config.source_formats import SOURCE_FORMATS
from ganformer_cli.data.sources.base import Item, Pixels, Source
from ganformer_cli.data.sources.opening import open_source

__all__ = ["SOURCE_FORMATS", "Item", "Pixels", "Source", "open_source"]
