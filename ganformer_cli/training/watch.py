"""Signs of failing training: NaN or inf, samples all alike, a discriminator that the generator cannot follow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ganformer_cli.data import ImageDataset
from ganformer_cli.metrics.diversity import mean_pairwise_distance
from ganformer_cli.models import Generator
from ganformer_cli.sampling import sample_seeds

#: Number of samples, always of the same seeds, and of real images whose pairwise distances are compared.
NUM_FAKES, NUM_REALS = 16, 64


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no tensor contains NaN or inf; reading the answer waits for a GPU."""
    return bool(torch.nn.utils.get_total_norm([tensor.detach() for tensor in tensors]).isfinite())


@dataclass(frozen=True)
class Band:
    """The range of a figure in healthy training, and what to do outside of it."""

    name: str
    low: float
    high: float
    below: str  # meaning and remedy
    above: str


DIVERSITY = Band(
    "diversity",
    low=0.15,
    high=float("inf"),
    below="the samples are nearly all alike: the generator has collapsed. Return to an earlier snapshot "
    "(--restart --pretrained-pkl FILE) with a larger --gamma or a lower --g-lr; --batch-gpu should be at least 4",
    above="",
)
SIGN_REAL = Band(
    "sign_real",
    low=0.0,
    high=0.97,
    below="the discriminator takes most real images for fakes. A larger --batch-size, a lower --d-lr or a smaller "
    "--gamma may help",
    above="the discriminator recognises nearly every real image: it has memorised them, or the generator cannot "
    "follow. More images, --mirror-augment or a larger --gamma help",
)
#: Consecutive ticks outside its band after which a figure gives a warning.
MAX_TICKS_OUTSIDE = 3
#: kimg before which no figure is judged.
SETTLED_KIMG = 1.0


@dataclass
class CollapseWatch:
    """Judges samples and discriminator at each tick.

    Args:
        dataset: the real images.
        judged_by_sign: whether the sign of the discriminator's output says real or fake, as with all losses but wgan.
    """

    dataset: ImageDataset
    judged_by_sign: bool = True
    outside: dict[str, int] = field(default_factory=dict)  # consecutive ticks outside the band, by figure
    spread: float | None = None  # mean distance of the real images

    def diversity(self, generator: Generator) -> float | None:
        """Mean distance of sixteen samples over that of real images; None if the latter are all the same.

        torch's random state is unchanged.
        """
        if self.spread is None:
            count = min(NUM_REALS, len(self.dataset))
            chosen = np.linspace(0, len(self.dataset) - 1, count).astype(int)
            reals = np.stack([self.dataset.image(int(index)) for index in chosen])
            self.spread = mean_pairwise_distance(reals) if count > 1 else 0.0
        if self.spread == 0:
            return None
        fakes = np.stack([sample.image for sample in sample_seeds(generator, range(NUM_FAKES))])
        return mean_pairwise_distance(fakes) / self.spread

    def warnings(self, figures: dict[str, float], kimg: float) -> list[str]:
        """Warnings about this tick's figures; each is given once, until its figure has been healthy again."""
        warnings = []
        for band in (DIVERSITY, SIGN_REAL) if self.judged_by_sign else (DIVERSITY,):
            value = figures.get(band.name)
            if value is None or kimg < SETTLED_KIMG:
                continue
            if band.low <= value <= band.high:
                self.outside[band.name] = 0
                continue
            self.outside[band.name] = self.outside.get(band.name, 0) + 1
            if self.outside[band.name] == MAX_TICKS_OUTSIDE:
                warnings.append(f"{band.name} is {value:.3g}: {band.below if value < band.low else band.above}")
        return warnings
