"""Images at the size that a feature network wants.

``tf1``: the bilinear resize of TensorFlow 1, which published scores were made with. Output pixel i looks at input place
i·(input / output), not half a pixel further on, and at that place and the next one only: an image that is made smaller
aliases.

``clean``: Pillow's bicubic resize of floating-point channels, clipped to 0 to 255, which averages over all pixels that
it brings together (Parmar, Zhang & Zhu 2022, "On Aliased Resizing and Surprising Subtleties in GAN Evaluation").
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from ganformer_cli.errors import ConfigError

Resize = Literal["tf1", "clean"]
RESIZES: tuple[Resize, ...] = get_args(Resize)


def resized(images: Tensor, side: int, resize: Resize) -> Tensor:
    """uint8 ``[B, 3, H, W]`` as float32 ``[B, 3, side, side]`` from 0 to 255, whatever the ratio of H and W.

    Raises:
        ConfigError: there is no such resize.
    """
    if resize == "tf1":
        return _bilinear_tf1(images, side)
    if resize == "clean":
        # Torch's antialiased filter is Pillow's, but computes places in the images' dtype; Pillow's are float64.
        found = torch.nn.functional.interpolate(images.double(), (side, side), mode="bicubic", antialias=True)
        return found.clamp_(0, 255).float()
    raise ConfigError(f"--resize {resize}: there are {' and '.join(RESIZES)}")


def _bilinear_tf1(images: Tensor, side: int) -> Tensor:
    """Rounds as TensorFlow does: places in float32, then along rows, then along columns."""
    low, high, fraction = _places(images.shape[3], side, images.device)
    left, right = images[..., low].float(), images[..., high].float()
    rows = left.add_((right.sub_(left)).mul_(fraction))
    low, high, fraction = _places(images.shape[2], side, images.device)
    above, below = rows[:, :, low], rows[:, :, high]
    return above.add_(below.sub_(above).mul_(fraction[:, None]))


def _places(given: int, wanted: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For each output pixel the two input pixels that it lies between, int64, and how far from the first, float32."""
    scale = torch.tensor(given / wanted, dtype=torch.float32, device=device)
    place = torch.arange(wanted, dtype=torch.float32, device=device) * scale
    low = place.long()
    return low, (low + 1).clamp_max(given - 1), place - low
