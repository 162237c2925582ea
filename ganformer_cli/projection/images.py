"""The images to project: found, decoded, and fitted to the size that a model makes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ganformer_cli.data.images import WHITE, Fit, UnusableImageError, crop_size, open_image, upright_size
from ganformer_cli.data.images import fit as fit_image
from ganformer_cli.errors import DataError
from ganformer_cli.files import error_reason, read_regular

MAX_IMAGES = 10_000


class FittedImage(NamedTuple):
    """An image as the model could have made it."""

    file: Path
    pixels: npt.NDArray[np.uint8]  # [3, H, W]
    fitted: str  # what was done to it, in words; empty if nothing


def find_images(paths: Sequence[Path]) -> list[Path]:
    """The files; of a folder, those in it, by name, without hidden ones.

    Raises:
        DataError: nothing there, or too many.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(each for each in path.iterdir() if each.is_file() and not each.name.startswith("."))
            if not inside:
                raise DataError(f"{path}: an empty folder; give images")
            found += inside
        else:
            found.append(path)
    if len(found) > MAX_IMAGES:
        raise DataError(f"{len(found)} images: at most {MAX_IMAGES} are projected at a time; give fewer")
    return found


def read_image(path: Path, height: int, width: int, fit: Fit = "crop") -> FittedImage:
    """An image of any kind, upright, RGB, ``height`` by ``width``.

    Raises:
        DataError: it cannot be read, is damaged, or too small.
    """
    try:
        data = read_regular(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error_reason(error)}); give an image") from error
    try:
        with open_image(data) as image:
            mode, transparent = image.mode, image.has_transparency_data
            size = upright_size(image)
            pixels = np.asarray(fit_image(image, height, width, WHITE, fit=fit))
    except UnusableImageError as error:
        raise DataError(f"{path}: {error}; give another image") from error
    return FittedImage(path, pixels.transpose(2, 0, 1).copy(), _said(size, (height, width), mode, transparent, fit))


def _said(size: tuple[int, int], wanted: tuple[int, int], mode: str, transparent: bool, fit: Fit) -> str:
    steps = []
    if transparent:
        steps.append("transparent parts on white")
    elif mode != "RGB":
        steps.append(f"mode {mode} as RGB")
    cropped = crop_size(size, wanted)
    if cropped != size:
        what = {"crop": f"cropped to {cropped[1]}x{cropped[0]} in the middle", "pad": "padded with white"}
        steps.append(what.get(fit, "stretched"))
    if (cropped if fit == "crop" else size) != wanted:
        steps.append(f"shrunk to {wanted[1]}x{wanted[0]}")
    return f"{size[1]}x{size[0]} {', '.join(steps)}" if steps else ""
