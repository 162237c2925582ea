"""Draws the images of a plan and writes them behind the drawing; what is there already is kept."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import PIL.Image
import torch

from ganformer_cli.files import atomic_open, write_bytes
from ganformer_cli.memory import free_memory_mib
from ganformer_cli.models import AttentionMap, Generator, NoiseMode
from ganformer_cli.sampling.drawing import (
    DEFAULT_BATCH,
    GROUP_SIZE,
    Sample,
    image_mib,
    sample_latents,
    sample_seeds,
    to_uint8,
)
from ganformer_cli.sampling.image_files import Images, crop_to_ratio, encode_image
from ganformer_cli.sampling.image_folder import (
    ARRAY_FILE,
    LATENTS_FILE,
    SUBFOLDER_SIZE,
    ImagePlan,
    OutputFolders,
    PlannedImage,
)
from ganformer_cli.sampling.latents import latents_from_seeds

#: Formats from which an image is read back as it was drawn.
LOSSLESS = ("png", "webp")
#: Of the memory that is free, what drawing may take.
MEMORY_SHARE = 0.5


class ImageSheets(NamedTuple):
    """What is drawn of each image, from its attention maps."""

    #: The name of each sheet with its suffix, and what its metadata says beside that of the image.
    metadata: Mapping[str, Mapping[str, Any]]
    #: The sheets by name, of an image (not cropped) and its maps; bytes are the content of a file.
    draw: Callable[[Images, Sequence[AttentionMap]], Mapping[str, Images | bytes]]


def fitting_batch_size(generator: Generator) -> int:
    """As many images as there is work for at once, if half of the free memory holds them."""
    device = next(generator.parameters()).device
    wanted = max(DEFAULT_BATCH, GROUP_SIZE * torch.get_num_threads() if device.type == "cpu" else 0)
    free = free_memory_mib(device)
    if free is None:
        return wanted
    return max(1, min(wanted, int(MEMORY_SHARE * free / image_mib(generator.config))))


NO_SHEETS = ImageSheets({}, lambda image, maps: {})


@dataclass(frozen=True)
class ImageJob:
    """How the images of a plan are drawn."""

    generator: Generator
    plan: ImagePlan
    folders: OutputFolders
    label: list[float] | None  # of all images; None draws each seed's own
    noise_mode: NoiseMode
    ratio: float | None  # crop the images to height / width; None does not
    batch_size: int  # images fetched from the device at a time
    sheets: ImageSheets = NO_SHEETS  # what else is drawn of each image

    def find_kept(self, update: Callable[[int], None] | None = None) -> bytearray:
        """For each image of the plan, whether it is there with all its sheets.

        Args:
            update: called now and then with how many images have been looked for.

        Raises:
            OutputError: something else is in the way.
        """
        plan, sheets = self.plan, self.sheets.metadata
        kept = bytearray([self._keeps_array()]) * len(plan)
        if plan.folder.is_dir() or (sheets and plan.sheets.is_dir()):
            for index in range(len(plan) if sheets or plan.format != "npy" else 0):
                kept[index] &= self.folders.holds(plan.files(plan.image(index), sheets))
                if update is not None and index % SUBFOLDER_SIZE == 0:
                    update(index)
            return kept
        return bytearray(len(plan))

    def draw(self, kept: bytearray, wanted: Collection[int], update: Callable[[int], None]) -> dict[int, Images]:
        """Draw and write the images that are not kept.

        Args:
            kept: of ``find_kept``.
            wanted: images to return; those that are kept are read from their files, or drawn again.
            update: called with how many images are there.

        Returns:
            The wanted images by their index, uint8 ``[3, H, W]``, cropped.
        """
        plan, array = self.plan, self.plan.folder / ARRAY_FILE
        todo = [i for i in range(len(plan)) if not kept[i] or (i in wanted and plan.format not in LOSSLESS)]
        images: dict[int, Images] = {}
        with contextlib.ExitStack() as stack:
            append = None
            if not self._keeps_array():
                self.folders.announce({array: plan.array_metadata()})
                append = stack.enter_context(_array_file(array, (len(plan), 3, *self.generator.output_size)))
            writer = stack.enter_context(BackgroundWriter())
            folder = None
            for done, (image, sample) in enumerate(self._samples(todo)):
                if folder != image.file.parent:
                    folder = image.file.parent
                    self._announce(todo[done:], image)
                if append is not None:
                    append(sample.image)
                pixels = sample.image
                if plan.format == "npy":
                    pixels = to_uint8(torch.from_numpy(pixels)).numpy()
                if image.place in wanted:
                    images[image.place] = self.cropped(pixels)
                if not kept[image.place]:
                    writer.submit(self._write, image, pixels, sample.maps)
                update(len(plan) - len(todo) + done + 1)
        if append is not None:
            self.folders.add({array: plan.array_metadata()})
        return images | {index: _read(plan.image(index).file) for index in wanted if index not in images}

    def _keeps_array(self) -> bool:
        plan = self.plan
        return plan.format != "npy" or self.folders.holds({plan.folder / ARRAY_FILE: plan.array_metadata()})

    def _announce(self, todo: Sequence[int], first: PlannedImage) -> None:
        """List the images of one folder that are to be drawn, from ``first`` on."""
        plan = self.plan
        if plan.in_subfolders:
            end = (first.place // SUBFOLDER_SIZE + 1) * SUBFOLDER_SIZE
            todo = list(itertools.takewhile(lambda index: index < end, todo))
        files: dict[Path, dict[str, Any]] = {}
        for index in todo if self.sheets.metadata or plan.format != "npy" else ():
            files |= plan.files(plan.image(index), self.sheets.metadata)
        self.folders.announce(files)

    def _samples(self, todo: Sequence[int]) -> Iterator[tuple[PlannedImage, Sample]]:
        plan, attention = self.plan, bool(self.sheets.metadata)
        options: dict[str, Any] = {
            "noise_mode": self.noise_mode,
            "labels": self.label,
            "attention": attention,
            "raw": plan.format == "npy",
            # Few at a time where each brings its maps along.
            "batch_size": min(self.batch_size, GROUP_SIZE) if attention else self.batch_size,
        }
        for turn, psi in enumerate(plan.psis):
            first = turn * len(plan.numbers)
            images = [plan.image(index) for index in todo if first <= index < first + len(plan.numbers)]
            numbers = [image.number for image in images]
            if plan.latents is None:
                samples = sample_seeds(self.generator, numbers, truncation_psi=psi, **options)
            else:
                options |= {"rows": numbers, "space": plan.settings["space"]}
                samples = sample_latents(self.generator, plan.latents, truncation_psi=psi, **options)
            yield from zip(images, samples, strict=True)

    def _write(self, image: PlannedImage, pixels: Images, maps: Sequence[AttentionMap]) -> None:
        plan = self.plan
        files = plan.files(image, self.sheets.metadata)
        for name, sheet in self.sheets.draw(pixels, maps).items():
            path = plan.sheet(image, name)
            write_bytes(path, sheet if isinstance(sheet, bytes) else encode_image(sheet, "png", files[path]))
        if plan.format != "npy":
            write_bytes(image.file, encode_image(self.cropped(pixels), plan.format, files[image.file]))

    def cropped(self, image: Images) -> Images:
        """uint8 ``[3, H, W]``, or its middle of the ``ratio``."""
        return image if self.ratio is None else crop_to_ratio(image, self.ratio)

    def read(self, index: int) -> Images:
        """An image that has been written, uint8 ``[3, H, W]``; of a JPEG as it is now."""
        plan = self.plan
        if plan.format != "npy":
            return _read(plan.image(index).file)
        array = np.load(plan.folder / ARRAY_FILE, mmap_mode="r", allow_pickle=False)
        return self.cropped(to_uint8(torch.from_numpy(np.array(array[index]))).numpy())

    # ----- Latents -----

    @property
    def latents_file(self) -> Path:
        """Where ``latents.npy`` lies."""
        return self.plan.folder / LATENTS_FILE

    def keeps_latents(self) -> bool:
        """Whether ``latents.npy`` is there.

        Raises:
            OutputError: it holds other latents.
        """
        return self.folders.holds({self.latents_file: self.plan.latents_metadata(self._latents_shape())})

    def save_latents(self) -> None:
        """Write ``latents.npy``: float32, in the order of the plan; given latents as they are."""
        plan, shape = self.plan, self._latents_shape()
        files = {self.latents_file: plan.latents_metadata(shape)}
        self.folders.announce(files)
        with _array_file(self.latents_file, shape) as append:
            for k, seed in enumerate(plan.numbers):
                append(
                    latents_from_seeds(self.generator, [seed]).numpy()[0] if plan.latents is None else plan.latents[k]
                )
        self.folders.add(files)

    def _latents_shape(self) -> tuple[int, ...]:
        given = self.plan.latents
        return (len(self.plan.numbers), *self.generator.z_shape) if given is None else given.shape


class BackgroundWriter:
    """Encodes and writes in other threads while the next images are drawn; what waits is bounded.

    As a context manager it waits for everything at the end, and raises what went wrong.
    """

    def __init__(self) -> None:
        threads = max(1, min(8, (os.cpu_count() or 1) - 1))
        self._pool = ThreadPoolExecutor(threads)
        self._max_waiting = 4 * threads
        self._waiting: deque[Future[None]] = deque()

    def submit(self, function: Callable[..., None], *args: Any) -> None:
        """Call ``function(*args)`` soon; raises what an earlier one has raised."""
        self._waiting.append(self._pool.submit(function, *args))
        while len(self._waiting) > self._max_waiting:
            self._waiting.popleft().result()

    def __enter__(self) -> BackgroundWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            while error is None and self._waiting:
                self._waiting.popleft().result()
        finally:
            self._pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _array_file(path: Path, shape: Sequence[int]) -> Iterator[Callable[[npt.NDArray[Any]], None]]:
    """A ``.npy`` file of float32 ``shape``, whole or not at all: gives a function that appends a part of it."""
    with atomic_open(path) as stream:
        header = {"descr": "<f4", "fortran_order": False, "shape": tuple(shape)}
        np.lib.format.write_array_header_1_0(stream, header)

        def append(part: npt.NDArray[Any]) -> None:
            stream.write(part.astype("<f4").tobytes())

        yield append


def _read(path: Path) -> Images:
    """uint8 ``[3, H, W]`` from a file."""
    with PIL.Image.open(path) as image:
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1)
