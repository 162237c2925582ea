"""How ``prepare`` makes a data set: the options, checked once, and the resolution where none is given."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, get_args

from PIL import ImageColor

from ganformer_cli.config import MAX_RESOLUTION, ModelConfig, image_size, names
from ganformer_cli.data.catalogue import SCENES
from ganformer_cli.data.images import (
    FITS,
    Decoding,
    Fit,
    UnusableImageError,
    ValueRange,
    open_image,
    reach,
    upright_size,
)
from ganformer_cli.data.sources import Item, Source
from ganformer_cli.errors import ConfigError, DataError

Compression = Literal["png", "none"]
COMPRESSIONS: tuple[Compression, ...] = get_args(Compression)
CHOSEN_RESOLUTIONS = (8, 256)  # the least and the largest resolution that is chosen for the user
MAX_SHARDS = 99_999
CENTRE = "centre"  # what the manifest calls the fit "crop"
_REACHED_BY = 0.9  # this share of the images is large enough for the resolution that is chosen
_MEASURED = 500  # images whose size is looked at to choose it


@dataclass(frozen=True)
class PrepareOptions:
    """How a data set is made.

    Args:
        resolution: longer side in pixels, a power of two; None: see :func:`choose_resolution`.
        ratio: height / width.
        fit: how an image of other proportions is brought to them, see :func:`~ganformer_cli.data.images.fit`.
        background: colour under transparent parts, and around an image that is padded: a name, or ``#rrggbb``.
        value_range: of images and arrays with more than 8 bits, what becomes 0 and 255; None: 0 to 65535, of floating
            point 0 to 1.
        max_images: stop after N usable images.
        strict: an image that cannot be used is an error, and not skipped.
        overwrite: replace a data set of this name that was made otherwise.
        shards_num: zips to spread the images over; None: one for each 4 GiB of pixels.
        compression: ``png``, or ``none`` for PNGs that are larger and quicker to read.
        near_duplicates: look for images that look alike, too.
        workers: processes that convert images. None takes one a core, if there is work for more than a second. They
            start by spawning, on every system: a script needs the usual ``if __name__ == "__main__":``.

    Raises:
        ConfigError: an option that cannot be.
    """

    _: KW_ONLY
    resolution: int | None = None
    ratio: float = 1.0
    fit: Fit = "crop"
    background: str = "white"
    value_range: ValueRange | None = None
    max_images: int | None = None
    strict: bool = False
    overwrite: bool = False
    shards_num: int | None = None
    compression: Compression = "png"
    near_duplicates: bool = False
    workers: int | None = None

    def __post_init__(self) -> None:
        # This refuses what no model takes.
        least = CHOSEN_RESOLUTIONS[0]
        ModelConfig(resolution=least if self.resolution is None else self.resolution, ratio=self.ratio)
        for option, value in (("--max-images", self.max_images), ("--workers", self.workers)):
            if value is not None and value < 1:
                raise ConfigError(f"{option} {value}: must be at least 1")
        if self.shards_num is not None and not 1 <= self.shards_num <= MAX_SHARDS:
            raise ConfigError(f"--shards-num {self.shards_num}: must be at least 1 and at most {MAX_SHARDS}")
        for option, chosen, known in (("--fit", self.fit, FITS), ("--compression", self.compression, COMPRESSIONS)):
            if chosen not in known:
                raise ConfigError(f"{option} {chosen!r}: choose one of {', '.join(known)}")
        if self.value_range is not None:
            low, high = self.value_range
            if not (math.isfinite(low + high) and low < high):
                raise ConfigError(f"--value-range {low:g},{high:g}: write the lower number first, as in 0,4095")
        self.decoding  # noqa: B018 (refuses a background that is no colour)

    @property
    def decoding(self) -> Decoding:
        """How files are decoded, as far as they do not say so themselves."""
        try:
            red, green, blue, *_ = ImageColor.getrgb(self.background)
        except ValueError:
            raise ConfigError(f"--background {self.background!r} is not a colour; give a name, or #rrggbb") from None
        return Decoding((red, green, blue), self.value_range)

    def manifest(self, resolution: int, format: str | None) -> dict[str, Any]:
        """What the manifest says of how the data set was made.

        Args:
            resolution: given or chosen.
            format: of the source, as given.
        """
        height, width = image_size(resolution, self.ratio)
        return {
            "width": width,
            "height": height,
            "ratio": self.ratio,
            "resolution": resolution,
            "crop": CENTRE if self.fit == "crop" else self.fit,
            "filter": "lanczos",
            "background": "#{:02x}{:02x}{:02x}".format(*self.decoding.background),
            "value_range": None if self.value_range is None else list(self.value_range),
            "compression": self.compression,
            "max_images": self.max_images,
            "form": format,
        }


def check_dataset_name(name: str) -> str:
    """The name of a data set, normalised for its folder.

    Raises:
        ConfigError: it cannot name one on every system, see :mod:`ganformer_cli.config.names`.
    """
    if name == SCENES:
        raise ConfigError(f"--name {name!r} is the name of the built-in data set; choose another")
    return names.check_name("--name", name)


def choose_resolution(source: Source, ratio: float, fit: Fit = "crop") -> int:
    """The largest power of two, up to 256, that nine in ten of the images reach when brought to ``ratio``.

    Raises:
        DataError: none of them can be read.
    """
    longest, why = [], ""
    for item in source.samples(_MEASURED):
        try:
            longest.append(reach(_size(item), image_size(MAX_RESOLUTION, ratio), fit))
        except UnusableImageError as error:
            why = why or f"{item.name}: {error}"
    if not longest:
        raise DataError(f"{source.path}: none of its {source.count()} images can be read ({why}); are they complete?")
    longest.sort()
    reached = longest[int(len(longest) * (1 - _REACHED_BY))]
    least, largest = CHOSEN_RESOLUTIONS
    return int(min(largest, max(least, 1 << (reached.bit_length() - 1))))


def _size(item: Item) -> tuple[int, int]:
    """Height and width of an image as it is meant to be seen."""
    if item.data is None:
        raise UnusableImageError(item.error)
    if not isinstance(item.data, bytes):
        return item.data.shape[0], item.data.shape[1]
    with open_image(item.data) as image:
        return upright_size(image)
