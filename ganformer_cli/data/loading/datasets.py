"""Data sets to train on and to compare with: numbered images of one size, some with labels."""

from __future__ import annotations

import abc
import difflib
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ganformer_cli.config import ModelConfig, image_size
from ganformer_cli.config.names import quoted
from ganformer_cli.data.catalogue import SCENES, find_entry, spellings
from ganformer_cli.data.images import Decoding, ImageArray, is_large_enough
from ganformer_cli.data.loading.stores import PlainStore, ShardStore, Store, open_store
from ganformer_cli.data.manifest import MANIFEST, decoding_of, read_manifest
from ganformer_cli.data.scenes.composition import Scene, compose
from ganformer_cli.data.scenes.kept_images import KeptImages
from ganformer_cli.data.scenes.rendering import render, render_mask
from ganformer_cli.data.set_labels import prepared_labels
from ganformer_cli.data.sources.label_values import is_one_hot
from ganformer_cli.errors import DataError

LabelArray = npt.NDArray[np.float32]

CACHE_BYTES = 1 << 30  # decoded images kept in memory, at most
SCENES_COUNT = 10_000
SMALL_DATASET = 5_000  # images, below which training without augmentation overfits
SCENES_RESOLUTIONS = (32, 256)
_SCENES_DRAWING = 1  # raise it whenever the same seed draws other images
_SCENES_SHORTEST = 8


class ImageDataset(abc.ABC):
    """Images ``0 .. len - 1``, all uint8 [3, height, width], RGB.

    Can be sent to another process; its cache of decoded images stays behind.
    """

    def __init__(self, name: str, height: int, width: int, ratio: float, count: int, fingerprint: str) -> None:
        self.name = name
        self.height = height
        self.width = width
        self.resolution = max(height, width)  # the longer side
        self.ratio = ratio  # height / width, before rounding to whole pixels
        self.fingerprint = fingerprint  # sha256, hexadecimal: the same for the same images and labels
        self.cache_bytes = CACHE_BYTES
        self._count = count
        self._cache: ImageArray | None = None
        self._cached: npt.NDArray[np.bool_] | None = None

    label_dim = 0  # width of a label; 0 without labels
    decoding = Decoding()  # how its files are, or were, decoded
    notes: Sequence[str] = ()  # what the user should know of how it is read, a sentence each
    class_names: list[str] | None = None  # of classes that have names

    def __len__(self) -> int:
        return self._count

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": None, "_cached": None}

    def image(self, index: int) -> ImageArray:
        """Image ``index``: uint8 [3, height, width]. Decoded or drawn once, if memory allows.

        Raises:
            DataError: the image is unreadable or of another size.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        if self._cache is None or self._cached is None:
            room = min(len(self), self.cache_bytes // (3 * self.height * self.width))
            self._cache = np.empty((room, 3, self.height, self.width), np.uint8)
            self._cached = np.zeros(room, np.bool_)
        if index >= len(self._cached):
            return self._load(index)
        if not self._cached[index]:
            self._cache[index] = self._load(index)
            self._cached[index] = True
        image: ImageArray = self._cache[index].copy()
        return image

    def label(self, index: int) -> LabelArray:
        """Label of image ``index``: float32 [label_dim], one-hot for a class; empty without labels."""
        return np.zeros(self.label_dim, np.float32)

    def labels(self) -> npt.NDArray[Any] | None:
        """Of all images: classes, int64 [N], or vectors, float [N, label_dim]; None without labels."""
        if self.label_dim == 0:
            return None
        rows = np.stack([self.label(index) for index in range(len(self))])
        return rows.argmax(axis=1) if is_one_hot(rows) else rows

    @property
    def label_kind(self) -> str | None:
        """``classes``, ``vectors``, or None without labels."""
        labels = self.labels()
        return None if labels is None else "classes" if labels.ndim == 1 else "vectors"

    def close(self) -> None:  # noqa: B027 (some have nothing to let go of)
        """Let go of files; they are opened again when needed."""

    @abc.abstractmethod
    def _load(self, index: int) -> ImageArray:
        """Image ``index``, decoded or drawn; not from the cache."""


class SceneDataset(ImageDataset):
    """The built-in images; see :mod:`ganformer_cli.data.scenes.composition`."""

    def __init__(self, *, resolution: int = 32, ratio: float = 1.0, count: int = SCENES_COUNT, seed: int = 0) -> None:
        low, high = SCENES_RESOLUTIONS
        if not low <= resolution <= high:
            raise DataError(f"--resolution {resolution}: scenes are drawn at {low} to {high} px; choose one of these")
        ModelConfig(ratio=ratio)  # refuses what no model takes
        height, width = image_size(resolution, ratio)
        if min(height, width) < _SCENES_SHORTEST:
            raise DataError(
                f"--ratio {ratio}: a scene of {width}x{height} px is too narrow to show anything; "
                f"choose a ratio nearer to 1 or a larger --resolution"
            )
        content = f"scenes {_SCENES_DRAWING} seed {seed} count {count} {height}x{width}"
        fingerprint = hashlib.sha256(content.encode()).hexdigest()
        super().__init__(SCENES, height, width, ratio, count, fingerprint)
        self.seed = seed
        self._kept = KeptImages(fingerprint[:32], count, (3, height, width))

    def scene(self, index: int) -> Scene:
        """What image ``index`` shows."""
        return compose(self.seed, index, self.height, self.width)

    def masks(self, index: int) -> ImageArray:
        """Which object covers most of each pixel: uint8 [height, width]; 0 ground, k ``scene(index).objects[k-1]``."""
        return render_mask(self.scene(index), self.height, self.width)

    def close(self) -> None:
        self._kept.close()

    def _load(self, index: int) -> ImageArray:
        image = self._kept.find(index)
        if image is None:
            image = render(self.scene(index), self.height, self.width)
            self._kept.keep(index, image)
        return image


class PreparedDataset(ImageDataset):
    """Images of one size on disk: what ``ganformer prepare`` made, or a zip or folder in StyleGAN's layout."""

    def __init__(
        self,
        path: Path,
        *,
        name: str | None = None,
        max_images: int | None = None,
        decoding: Decoding | None = None,
        size: tuple[int, int] | None = None,
    ) -> None:
        """
        Args:
            path: a folder with a manifest, or a zip or a folder of images.
            max_images: use at most the first N images.
            decoding: of images that are not prepared.
            size: (height, width) to crop and shrink the images to, as ``prepare`` does, where all are large enough;
                else, and with None, they must have one size, and keep it.

        Raises:
            DataError: there is nothing there, or it does not hold images of one size.
        """
        manifest = read_manifest(path)
        store = open_store(path) if manifest is None else ShardStore(path, manifest["shards"])
        self._store: Store = store
        try:
            if isinstance(store, PlainStore):
                if decoding is not None:
                    self.decode(decoding)
                height, width = self._conform(size) or self._store.common_size()
                ratio, fingerprint = height / width, store.fingerprint()
                labels = store.labels
                notes = [*store.unread_files.notes(), *labels.notes]
            elif manifest is not None:
                self.decoding = decoding_of(manifest)
                height, width, ratio = manifest["height"], manifest["width"], manifest["ratio"]
                if size not in (None, (height, width)) and self._conform(size, {(height, width): 0}):
                    height, width = self._store.fitted or (height, width)
                    ratio = height / width
                fingerprint = manifest["fingerprint"]
                labels = prepared_labels(path, manifest)
                notes = labels.notes
            if store.several_frames:
                notes = [*notes, "of images with several frames or pages only the first is used"]
            self.notes = [*notes, *self.notes]
        except DataError:
            self._store.close()
            raise
        count = self._store.count
        if max_images is not None and max_images < count:
            count = max_images
            fingerprint = hashlib.sha256(f"{fingerprint} first {count}".encode()).hexdigest()
        whole = path.resolve()
        super().__init__(
            name or (whole.name if path.is_dir() else whole.stem), height, width, ratio, count, fingerprint
        )
        self.path = path
        self.is_prepared = manifest is not None
        self._labels = labels.values  # int64 [images] or float64 [images, label_dim]
        self.label_dim, self.class_names = labels.width, labels.class_names

    def decode(self, decoding: Decoding) -> None:
        """How files that are not prepared are decoded from now on; must be called before the first is read."""
        self.decoding = self._store.decoding = decoding

    def _conform(
        self, size: tuple[int, int] | None, sizes: Mapping[tuple[int, int], int] | None = None
    ) -> tuple[int, int] | None:
        """Let the images be cropped and shrunk to ``size``, if those that are looked at are large enough."""
        if size is None:
            return None
        sizes = self._store.sizes() if sizes is None else sizes
        small = [own for own in sizes if not is_large_enough(own, size)]
        if small and len(sizes) > 1:
            raise self._store.several(sizes)
        if small:
            return None
        if others := [own for own in sizes if own != size]:
            self.notes = [*self.notes, conformed_text(others, size)]
        self._store.fitted = size
        return size

    def labels(self) -> npt.NDArray[Any] | None:
        return None if self._labels is None else self._labels[: len(self)]

    def label(self, index: int) -> LabelArray:
        if self._labels is None:
            return super().label(index)
        if self._labels.ndim == 2:
            return np.asarray(self._labels[index], np.float32)
        one_hot = np.zeros(self.label_dim, np.float32)
        one_hot[self._labels[index]] = 1
        return one_hot

    def close(self) -> None:
        self._store.close()

    def _load(self, index: int) -> ImageArray:
        image = self._store.image(index)
        if image.shape[1:] != (self.height, self.width):
            raise DataError(
                f"{self._store.where(index)} has {image.shape[2]}x{image.shape[1]} px where the others have "
                f"{self.width}x{self.height}; bring them to one size with: ganformer prepare {quoted(str(self.path))}"
            )
        return image


def conformed_text(sizes: Sequence[tuple[int, int]], size: tuple[int, int]) -> str:
    """A sentence that images of these (height, width) are brought to ``size``."""
    (height, width), *more = sizes
    return (
        f"images of {width}x{height} px{' and other sizes' if more else ''} are cropped to the middle and shrunk to "
        f"{size[1]}x{size[0]} px, as ganformer prepare does"
    )


def prepared_names(data_dir: Path) -> list[str]:
    """Names of the prepared data sets under ``data_dir``, sorted."""
    if not data_dir.is_dir():
        return []
    return sorted(p.name for p in data_dir.iterdir() if (p / MANIFEST).is_file() and not p.name.startswith("."))


def describe_prepared(data_dir: Path) -> list[dict[str, Any]]:
    """The prepared data sets under ``data_dir`` by their manifests: JSON values; of a damaged one what is wrong."""
    sets: list[dict[str, Any]] = []
    for name in prepared_names(data_dir):
        try:
            manifest = read_manifest(data_dir / name) or {}
        except DataError as error:
            sets.append({"name": name, "folder": str(data_dir / name), "error": str(error)})
            continue
        labels = manifest["labels"]
        sets.append({
            "name": name, "folder": str(data_dir / name), "images": manifest["count"], "width": manifest["width"],
            "height": manifest["height"], "ratio": manifest["ratio"], "fit": manifest.get("crop"),
            "labels": labels and {"kind": labels["kind"], "size": labels["size"]},
            "bytes": sum(shard["bytes"] for shard in manifest["shards"]), "source": manifest["source"].get("name"),
        })  # fmt: skip
    return sets


def small_dataset_hint(dataset: ImageDataset, augment: str) -> str | None:
    """What to say before training on few images without augmentation; None where there is nothing to say."""
    if len(dataset) >= SMALL_DATASET or augment != "none":
        return None
    return (
        f"{len(dataset)} images are few: the discriminator may memorise them, and then the generated images get "
        "worse; --augment ada prevents that"
    )


def open_dataset(
    name: str,
    *,
    data_dir: Path = Path("datasets"),
    resolution: int | None = None,
    ratio: float | None = None,
    max_images: int | None = None,
) -> ImageDataset:
    """A data set by name or by path.

    Args:
        name: ``scenes``, the name of a set prepared under ``data_dir``, or the path of a folder or zip of
            prepared images.
        resolution: longer side in pixels; None takes what there is (scenes: 32).
        ratio: height / width; None takes what there is (scenes: 1).
        max_images: use at most the first N images.

    Raises:
        ConfigError: a ratio that no model takes.
        DataError: there is no such set, it is damaged, or it has another resolution or ratio.
    """
    if max_images is not None and max_images < 1:
        raise DataError(f"--train-images-num {max_images}: at least 1 image is needed")
    if name == SCENES:
        return SceneDataset(
            resolution=SCENES_RESOLUTIONS[0] if resolution is None else resolution,
            ratio=1.0 if ratio is None else ratio,
            count=SCENES_COUNT if max_images is None else max_images,
        )
    if ratio is not None:
        ModelConfig(ratio=ratio)
    dataset = PreparedDataset(_find(name, data_dir), max_images=max_images)
    again = "prepare the images again with --overwrite, or under another --name,"
    if resolution is not None and resolution != dataset.resolution:
        raise DataError(
            f"--resolution {resolution}: data set {name!r} has images of {dataset.width}x{dataset.height}; "
            f"leave the option out, or {again} and --resolution {resolution}"
        )
    if ratio is not None and image_size(dataset.resolution, ratio) != (dataset.height, dataset.width):
        raise DataError(
            f"--ratio {ratio}: data set {name!r} has images of {dataset.width}x{dataset.height} "
            f"(ratio {dataset.ratio:g}); leave the option out, or {again} and --ratio {ratio}"
        )
    return dataset


def _find(name: str, data_dir: Path) -> Path:
    """Where the data set called ``name`` lies."""
    is_path = name.startswith((".", "~")) or Path(name).is_absolute()  # ./photos is that folder, whatever was prepared
    for spelling in spellings(name) if name and not is_path else ():
        if (data_dir / spelling / MANIFEST).is_file():
            return data_dir / spelling
    if name and Path(name).exists():
        return Path(name)
    known = prepared_names(data_dir)
    if find_entry(name, data_dir) is not None:
        raise DataError(
            f"--dataset {name}: not prepared in {data_dir}; download and prepare it with: ganformer prepare "
            f"{quoted(name)} --data-dir {quoted(str(data_dir))} (or, from images that you have: ganformer prepare "
            f"FOLDER --name {quoted(name)})"
        )
    near = difflib.get_close_matches(name, [SCENES, *known], n=1)
    advice = f"did you mean {near[0]!r}?" if near else "make one with: ganformer prepare FOLDER"
    raise DataError(
        f"--dataset {name}: neither a prepared data set in {data_dir} nor a path; {advice} "
        f"(there {'are' if known else 'is'}: {', '.join([SCENES, *known])})"
    )
