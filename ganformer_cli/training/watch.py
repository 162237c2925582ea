"""What tells that training goes wrong: numbers that are none, samples all alike, a discriminator out of reach."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ganformer_cli.data import ImageDataset
from ganformer_cli.metrics.diversity import mean_pairwise_distance
from ganformer_cli.models import Generator
from ganformer_cli.sampling import sample_images

#: Samples whose distances are taken, always of the same seeds, and real pictures that they are compared with.
NUM_FAKES, NUM_REALS = 16, 64


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether there is neither nan nor infinity in any of them; reading it waits for a GPU."""
    return bool(torch.nn.utils.get_total_norm([tensor.detach() for tensor in tensors]).isfinite())


@dataclass(frozen=True)
class Band:
    """Where a figure of healthy training lies, and what to do where it does not."""

    name: str
    low: float
    high: float
    below: str  # what it means, and what to do
    above: str


DIVERSITY = Band(
    "diversity",
    low=0.15,
    high=float("inf"),
    below="the samples are nearly all alike: the generator has collapsed. Go back to an earlier snapshot "
    "(--restart --pretrained-pkl FILE) with a larger --gamma or a lower --g-lr; see that --batch-gpu is at least 4",
    above="",
)
SIGN_REAL = Band(
    "sign_real",
    low=0.0,
    high=0.97,
    below="the discriminator takes most real pictures for fakes. A larger --batch-size, a lower --d-lr or a smaller "
    "--gamma may help",
    above="the discriminator knows nearly every real picture: it has learnt them by heart, or the generator cannot "
    "follow. More pictures, --mirror-augment or a larger --gamma help",
)
#: Ticks in a row that a figure must lie outside its band, so that a passing swing is no alarm.
MAX_TICKS_OUTSIDE = 3
#: kimg before which nothing can be said.
SETTLED_KIMG = 1.0


@dataclass
class CollapseWatch:
    """Looks at the samples at each tick.

    Args:
        dataset: the real pictures.
        judged_by_sign: whether the sign of the discriminator's output says real or fake, as with all losses but wgan.
    """

    dataset: ImageDataset
    judged_by_sign: bool = True
    outside: dict[str, int] = field(default_factory=dict)  # ticks in a row, by figure
    spread: float | None = None  # mean distance of the real pictures

    def diversity(self, generator: Generator) -> float | None:
        """Mean distance of sixteen samples over that of real pictures; None where the latter are all one.

        torch's random state is left as it was.
        """
        if self.spread is None:
            count = min(NUM_REALS, len(self.dataset))
            chosen = np.linspace(0, len(self.dataset) - 1, count).astype(int)
            reals = np.stack([self.dataset.image(int(index)) for index in chosen])
            self.spread = mean_pairwise_distance(reals) if count > 1 else 0.0
        if self.spread == 0:
            return None
        fakes = np.stack([image for _, image in sample_images(generator, range(NUM_FAKES), truncation_psi=1.0)])
        return mean_pairwise_distance(fakes) / self.spread

    def warnings(self, figures: dict[str, float], kimg: float) -> list[str]:
        """What to tell the reader about this tick's figures; each warning once, until its figure has been healthy."""
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
