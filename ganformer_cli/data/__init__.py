"""Images: where they come from, how they are prepared, and how they are read.

``ganformer_cli.data.loading.stream`` is not imported here, because it needs torch and preparing images does not.
"""

from ganformer_cli.data.loading.datasets import ImageDataset, PreparedDataset, SceneDataset, open_dataset

__all__ = ["ImageDataset", "PreparedDataset", "SceneDataset", "open_dataset"]
