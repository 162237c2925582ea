"""``ganformer generate --rank``: what the images are compared with, and by what."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganformer_cli.cli.options import warn
from ganformer_cli.errors import DownloadError

if TYPE_CHECKING:
    from ganformer_cli.sampling.image_writer import ImageJob
    from ganformer_cli.visualization.ranking import Ranking, RankingMethod


def open_ranking(
    job: ImageJob, *, header: dict[str, Any], dataset: str | None, data_dir: Path, keep: int | None
) -> Ranking:
    """The ranking that ``--rank realism`` asks for, against a data set by name or that of the model's training.

    Raises:
        ConfigError, DataError: there is no such data set, or too few images.
    """
    from ganformer_cli.data.loading.reals import open_reals
    from ganformer_cli.visualization.ranking import Ranking

    config = job.generator.config
    reals = open_reals(dataset, header, data_dir=data_dir, resolution=config.resolution, ratio=config.ratio, warn=warn)
    return Ranking(job, reals, _open_method(job), keep)


def _open_method(job: ImageJob) -> RankingMethod:
    """Features of VGG16, as in the paper, if it has been downloaded; else the colours of the images, which is said."""
    from ganformer_cli.metrics.features import open_network
    from ganformer_cli.metrics.realism import PIXEL_SIDE, pixel_features, realism
    from ganformer_cli.visualization.ranking import RankingMethod

    device = next(job.generator.parameters()).device
    try:
        network = open_network("vgg16", device=device, offline=True)
    except DownloadError:
        warn(
            f"--rank realism: the network VGG16 is not here, so images are compared by their colours at {PIXEL_SIDE}x"
            f"{PIXEL_SIDE}; ganformer eval --fetch --metrics pr downloads it"
        )
        return RankingMethod("realism", f"pixels{PIXEL_SIDE}", pixel_features, realism)
    return RankingMethod("realism", "vgg16", lambda images: network(images)["fc2"].cpu(), realism)
