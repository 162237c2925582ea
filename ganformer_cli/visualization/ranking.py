"""Which of the images look most and least like real ones: two sheets, and a list."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ganformer_cli.data import ImageDataset
from ganformer_cli.errors import ConfigError
from ganformer_cli.files import write_json
from ganformer_cli.sampling.image_files import Images, save_png
from ganformer_cli.sampling.image_writer import ImageJob
from ganformer_cli.visualization.sheets import captioned_grid, fit_to_cell

DEFAULT_KEEP = 16
#: More real images than this change the order by less than it is worth.
MAX_REALS = 4096
_BATCH = 64


class RankingMethod(NamedTuple):
    """How images are compared with real ones."""

    name: str
    features_name: str
    features: Callable[[Tensor], Tensor]  # uint8 [B, 3, H, W] to float32 [B, D]
    #: The score of each image, larger is better, from the features of reals and of the images.
    score: Callable[[Tensor, Tensor], npt.NDArray[np.float64]]


class Ranking:
    """The ranking of the images of a job: two sheets, and a list.

    Args:
        keep: how many are shown of the best and of the worst; None: 16, or as many as there are.

    Raises:
        ConfigError: there are fewer images than ``keep``.
    """

    def __init__(self, job: ImageJob, dataset: ImageDataset, method: RankingMethod, keep: int | None) -> None:
        count = len(job.plan)
        if keep is not None and keep > count:
            raise ConfigError(f"--keep {keep}: there are only {count} images; ask for more (--images-num)")
        self.job, self.dataset = job, dataset
        self.keep = min(DEFAULT_KEEP, count) if keep is None else keep
        self.method = method
        folder = job.plan.sheets
        self.sheets = {name: folder / f"{name}.png" for name in ("best", "worst")}
        self.list = folder / "ranking.json"
        about = {"keep": self.keep, "features": method.features_name, "reals": dataset.fingerprint}
        #: The files with their metadata.
        self.files = {
            path: job.plan.metadata(figure=path.stem, ranked_by=method.name, **about)
            for path in (*self.sheets.values(), self.list)
        }

    def record(self) -> dict[str, Any]:
        """What ``--json`` says."""
        sheets = {name: str(path) for name, path in self.sheets.items()}
        return {"by": self.method.name, "features": self.method.features_name, **sheets, "file": str(self.list)}

    def draw(self, start: Callable[[int, str], None], update: Callable[[int], None]) -> None:
        """Compare the images with real ones, and write sheets and list.

        Args:
            start: called with how many images are to be read, and what for.
            update: called with how many have been.
        """
        job, plan, count = self.job, self.job.plan, len(self.job.plan)
        order = np.random.default_rng(0).permutation(len(self.dataset))[:MAX_REALS]
        start(len(order), "reading real images")
        reals = torch.cat(list(self._features_of((self.dataset.image(int(i)) for i in order), update)))
        start(count, "ranking images")
        fakes = torch.cat(list(self._features_of(map(job.read, range(count)), update)))
        scores = self.method.score(reals, fakes)
        ranking = sorted(range(count), key=lambda index: (-scores[index], index))
        job.folders.announce(self.files)
        for name, shown in (("best", ranking[: self.keep]), ("worst", ranking[::-1][: self.keep])):
            captions = [f"{plan.kind} {plan.image(index).number}: {scores[index]:.2f}" for index in shown]
            sheet = captioned_grid([fit_to_cell(job.read(index)) for index in shown], captions)
            save_png(self.sheets[name], sheet, self.files[self.sheets[name]])
        entries = [
            {"seed" if plan.latents is None else "row": int(plan.image(i).number), self.method.name: float(scores[i])}
            for i in ranking
        ]
        write_json(self.list, {**self.files[self.list], "real_images": len(order), "images": entries})
        job.folders.add(self.files)

    def _features_of(self, images: Iterator[Images], update: Callable[[int], None]) -> Iterator[Tensor]:
        """The features of images, a batch at a time."""
        done = 0
        while batch := list(itertools.islice(images, _BATCH)):
            yield self.method.features(torch.from_numpy(np.stack(batch)))
            done += len(batch)
            update(done)
