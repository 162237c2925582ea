"""The grids in a run's ``samples`` folder: the same latents throughout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ganformer_cli.checkpoints.run_folder import LATEST_FILE, SAMPLE_FOLDER, kimg_in_name
from ganformer_cli.config import RunConfig
from ganformer_cli.data import ImageDataset
from ganformer_cli.errors import OutputError
from ganformer_cli.files import Warn, remove
from ganformer_cli.models import AttentionMap, Generator
from ganformer_cli.sampling import GROUP_SIZE, sample_seeds
from ganformer_cli.sampling.image_files import save_png
from ganformer_cli.visualization.attention import attention_sheet
from ganformer_cli.visualization.grids import image_grid

#: Number of samples beside which the attention is drawn.
MAX_ATTENTION_IMAGES = 8
#: The grid of real images.
REALS = "reals.png"


#: Draws the images of a grid: ``(dataset, count, truncation psi)`` to uint8 ``[N, 3, H, W]``.
DrawGrid = Callable[[ImageDataset, int, float], npt.NDArray[np.uint8]]


class SampleGrids:
    """Draws and names the grids of one run.

    Args:
        folder: the run folder.
        config: of the run.
        dataset: the real images.
        warn: told of an old grid that cannot be deleted.
        draw: see ``NetworkTrainer.draw_grid``.
    """

    def __init__(self, folder: Path, config: RunConfig, dataset: ImageDataset, warn: Warn, draw: DrawGrid) -> None:
        self.folder = folder / SAMPLE_FOLDER
        self.component_shares: list[float] = []  # of the newest attention maps, averaged over images, heads and pixels
        self.config, self.dataset, self.warn, self.draw = config, dataset, warn, draw

    def save_reals(self) -> None:
        """``reals.png``: evenly spaced images of the data set."""
        count = min(self.config.train.vis_num, len(self.dataset))
        indices = np.linspace(0, len(self.dataset) - 1, count).astype(int)
        save_png(self.folder / REALS, image_grid(np.stack([self.dataset.image(int(i)) for i in indices])))

    def save_fakes(self, generator: Generator, kimg: float) -> None:
        """``fakes-KIMG.png``, the same as ``latest.png``, and with attention ``attention-KIMG.png``.

        Args:
            generator: in evaluation mode.
            kimg: thousands of real images shown so far.
        """
        psi = self.config.train.truncation_psi
        images = self.draw(self.dataset, self.config.train.vis_num, psi)
        grid, attention = self.paths(kimg)
        pixels = image_grid(images)
        save_png(grid, pixels)
        try:
            save_png(self.folder / LATEST_FILE, pixels)
        except OutputError as error:  # on Windows a program that shows it may hold it; the grid itself is there
            self.warn(f"{error}; the next snapshot writes it again")
        if self.config.model.has_maps:
            seeds = range(min(MAX_ATTENTION_IMAGES, len(images)))
            drawn = sample_seeds(generator, seeds, truncation_psi=psi, batch_size=GROUP_SIZE, attention=True)
            last = [sample.maps[-1] for sample in drawn]
            maps = AttentionMap(last[0].layer, torch.cat([layer.probabilities for layer in last]))
            # [N, heads, components, H, W]
            self.component_shares = maps.probabilities.mean((0, 1, 3, 4)).tolist()
            save_png(attention, attention_sheet(images[: len(last)], maps))
        if not self.config.train.keep_samples:
            for old in [*self.folder.glob("fakes-*.png"), *self.folder.glob("attention-*.png")]:
                if old not in (grid, attention):
                    remove(old, warn=self.warn)

    def paths(self, kimg: float) -> tuple[Path, Path]:
        """Where the grid of a snapshot and its attention map lie."""
        name = f"{kimg_in_name(kimg)}.png"
        return self.folder / f"fakes-{name}", self.folder / f"attention-{name}"

    def missing(self, kimg: float) -> list[str]:
        """What is not there of what belongs to the snapshot at ``kimg``."""
        grid, attention = self.paths(kimg)
        found = [] if grid.is_file() else [grid.name]
        return found if attention.is_file() or not self.config.model.has_maps else [*found, attention.name]

    def newest(self) -> Path:
        """The newest grid of fakes; the folder, if somebody has tidied it up."""
        return max(self.folder.glob("fakes-*.png"), default=self.folder, key=lambda path: path.stem)
