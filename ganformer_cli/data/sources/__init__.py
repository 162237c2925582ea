"""Where images come from: folders, archives and arrays of many kinds, all read in one way."""

from ganformer_cli.data.sources.base import FORMS, Item, Pixels, Source
from ganformer_cli.data.sources.opening import open_source

__all__ = ["FORMS", "Item", "Pixels", "Source", "open_source"]
