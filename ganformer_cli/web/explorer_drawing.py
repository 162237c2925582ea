"""Draws what the explorer shows: the image of a state, and the regions of its components in every layer.

Images are drawn one at a time by one thread, directly from the synthesis network: ``sample_latents``, whose rounding
does not depend on the batch, would draw four to show one. What is saved comes from there.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganformer_cli.errors import GanformerError
from ganformer_cli.models import AttentionMap, Generator
from ganformer_cli.models.generator import crop_centre
from ganformer_cli.sampling import from_uint8, labels_from_seeds, sample_latents, to_uint8
from ganformer_cli.sampling.components import (
    ComponentEdit,
    EditedLatents,
    edit_components,
    edited_layers,
    map_seeds,
    mix_layers,
)
from ganformer_cli.sampling.image_files import Images
from ganformer_cli.visualization.attention import upsample
from ganformer_cli.visualization.region_measures import map_information
from ganformer_cli.web.explorer_state import BlendEdit, ImageState

#: Longer side of regions; those of larger images are smaller than the image.
MAX_REGION_SIZE = 256
#: A small image comes first where drawing takes longer than this.
PREVIEW_SECONDS = 0.3
_PREVIEW_RESOLUTION = 64
#: Of an image's say in the fit of previews, what is left after the next one: most edits change little.
_PREVIEW_MEMORY = 0.6
#: Multiply-adds of the convolutions of an image up to which one thread is as fast as several.
_FEW = 200e6
_CACHED_LATENTS = 64
_CACHED_BYTES = 64 << 20

_Value = TypeVar("_Value")


class Superseded(Exception):
    """A newer image is wanted; this one is not finished."""


class Drawing(NamedTuple):
    """An image with the regions of its components."""

    image: Images  # uint8 [3, H, W]
    layers: tuple[str, ...]  # those with maps, coarse to fine
    regions: npt.NDArray[np.uint16]  # [layers, h, w], the component that a place attends to most
    shares: npt.NDArray[np.float64]  # [layers, m], each region's share of the image
    information: npt.NDArray[np.float64]  # [layers], how much a place says of its component
    seconds: float  # to draw


@dataclass
class DrawingJob:
    """An image that is being drawn."""

    wanted: Callable[[], bool]  # False once it need not be finished
    preview: Images | None = None  # a small image, uint8 [3, h, w], if there is one before the drawing
    ready: threading.Event = field(default_factory=threading.Event)  # something can be shown, or there is an error
    drawing: Future[Drawing] = field(default_factory=Future)


class LeastRecent(Generic[_Value]):
    """A cache that drops what was not used for longest, once the sizes of its values add up to more than ``limit``."""

    def __init__(self, limit: int) -> None:
        self.limit, self.total = limit, 0
        self._values: OrderedDict[Hashable, tuple[_Value, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> _Value | None:
        """The value, or None."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key][0]

    def put(self, key: Hashable, value: _Value, size: int = 1) -> None:
        """Keep a value."""
        with self._lock:
            if key in self._values:
                self.total -= self._values.pop(key)[1]
            self._values[key] = value, size
            self.total += size
            while self.total > self.limit and len(self._values) > 1:
                self.total -= self._values.popitem(last=False)[1][1]


class Drawer:
    """Draws the states of all tabs, one after the other.

    Args:
        generator: the model, in evaluation mode, on its device.
        latents: float ``[N, m+1, w]`` or ``[N, m+1, L, w]`` of space w, whose rows are the sources of images, or None
            for seeds; those of space z are mapped beforehand.
    """

    def __init__(self, generator: Generator, latents: npt.NDArray[Any] | None = None) -> None:
        self.generator, self.latents = generator, latents
        self.device = next(generator.parameters()).device
        self._latents: LeastRecent[EditedLatents] = LeastRecent(_CACHED_LATENTS)
        self._drawings: LeastRecent[Drawing] = LeastRecent(_CACHED_BYTES)
        self._mapping = threading.Lock()
        self._job: DrawingJob | None = None
        self._preview = _Preview()
        self._seconds = 0.0
        config = generator.config
        work = sum(18 * config.channels(each) ** 2 * math.prod(config.grid(each)) for each in config.block_resolutions)
        threads = 1 if work <= _FEW else torch.get_num_threads()
        # One thread draws: torch's own would only get in each other's way.
        self._pool = ThreadPoolExecutor(1, "drawing", torch.set_num_threads, (threads,))
        self._hooks = []
        wanted = min(_PREVIEW_RESOLUTION, config.resolution // 2)
        for block in generator.synthesis_network.blocks():
            self._hooks += [layer.register_forward_hook(self._look) for layer in block.children()]
            if block.resolution == wanted:
                self._hooks.append(block.register_forward_hook(self._see))

    def close(self) -> None:
        """Draw nothing more, and stop what is being drawn."""
        if (job := self._job) is not None:
            job.wanted = lambda: False
        self._pool.shutdown(cancel_futures=True)
        for hook in self._hooks:
            hook.remove()

    def run(self, work: Callable[[], _Value]) -> _Value:
        """Do something on the thread that draws, in turn, and wait for it."""
        return self._pool.submit(work).result()

    def start(self, state: ImageState, wanted: Callable[[], bool] = lambda: True) -> DrawingJob:
        """Begin to draw; what has been drawn lately is ready at once."""
        job = DrawingJob(wanted)
        if known := self._drawings.get(state):
            job.drawing.set_result(known)
            job.ready.set()
        else:
            self._pool.submit(self._finish, job, state)
        return job

    def images(self, states: list[ImageState], wanted: Callable[[], bool] = lambda: True) -> Iterator[Images]:
        """The images of several states, one after the other; others may be drawn in between."""
        for state in states:
            if not wanted():
                return
            known = self._drawings.get(state)
            yield known.image if known else self.between(state, state, 1)

    def labels(self, state: ImageState) -> list[float] | None:
        """The label of every seed of a state; None where the model has none."""
        if not self.generator.config.c_dim:
            return None
        found: list[float] = list(state.label or labels_from_seeds(self.generator, [state.source])[0].tolist())
        return found

    def edited_latents(self, state: ImageState) -> EditedLatents:
        """The latents of a state, float32 ``[1, m+1, L, w]``, and which components are removed.

        Raises:
            ConfigError: an edit that the model cannot take.
        """
        psi, labels = state.psi, self.labels(state)
        origin = (state.source, psi, None if labels is None else tuple(labels))
        with self._mapping:
            known, done = None, len(state.edits)
            while (known := self._latents.get((origin, state.edits[:done]))) is None and done > 0:
                done -= 1
            if known is None:
                source: Any = [state.source] if self.latents is None else self.latents[state.source : state.source + 1]
                known = edit_components(self.generator, source, [], truncation_psi=psi, labels=labels)
            for edit in state.edits[done:]:
                if isinstance(edit, ComponentEdit):
                    known = edit_components(self.generator, known, [edit], truncation_psi=psi, labels=labels)
                else:
                    known = self._blend(known, edit, psi, labels)
            self._latents.put((origin, state.edits), known)
        return known

    def exact_image(self, state: ImageState) -> Images:
        """The image as ``ganformer generate`` draws it, to the last bit."""
        return self.run(lambda: self._sample(self.edited_latents(state), state, None))

    def between(self, before: ImageState, after: ImageState, amount: float) -> Images:
        """The image on the way from one state to another: ``amount`` 0 to 1.

        Noise that changes, and components that are removed or come back, have no way between: they change at the end.
        """
        one, other = self.edited_latents(before), self.edited_latents(after)
        if amount < 1:
            ws = torch.lerp(one.latents, other.latents, amount)
            edited, state = one._replace(latents=ws), before
        else:
            edited, state = other, after
        return self.run(lambda: self._synthesize(edited, state, None))

    # ----- On the thread that draws -----

    def _finish(self, job: DrawingJob, state: ImageState) -> None:
        try:
            if not job.wanted():
                raise Superseded
            self._job = job
            drawing = self._drawings.get(state) or self._draw(state)
            self._drawings.put(state, drawing, drawing.image.nbytes + drawing.regions.nbytes)
            job.drawing.set_result(drawing)
        except BaseException as error:
            job.drawing.set_exception(error)
        finally:
            self._job = None
            job.ready.set()

    def _draw(self, state: ImageState) -> Drawing:
        found: list[AttentionMap] = []
        start = time.perf_counter()
        on_attention = found.append if self.generator.config.has_maps else None
        image = self._synthesize(self.edited_latents(state), state, on_attention)
        seconds = self._seconds = time.perf_counter() - start
        if seconds > PREVIEW_SECONDS:
            self._preview.add(image)
        height, width = image.shape[1:]
        shrink = -(-max(height, width) // MAX_REGION_SIZE)
        regions, shares, information = [], [], []
        for each in found:
            probabilities = upsample(each.probabilities[0], max(1, height // shrink), max(1, width // shrink))
            owners = probabilities.argmax(0).numpy().astype(np.uint16)
            regions.append(owners)
            shares.append(np.bincount(owners.ravel(), minlength=len(probabilities)) / owners.size)
            information.append(map_information(each.probabilities[0].float().mean(0).cpu().numpy()))
        if not found:
            return Drawing(image, (), np.zeros((0, 1, 1), np.uint16), np.zeros((0, 0)), np.zeros(0), seconds)
        layers = tuple(each.layer for each in found)
        return Drawing(image, layers, np.stack(regions), np.stack(shares), np.array(information), seconds)

    def _synthesize(
        self, edited: EditedLatents, state: ImageState, on_attention: Callable[[AttentionMap], None] | None
    ) -> Images:
        if state.noise == "random":  # which comes from torch's one stream, and so does that of what is saved
            return self._sample(edited, state, on_attention)
        with torch.inference_mode():
            image = self.generator.synthesis(
                edited.latents.to(self.device),
                state.noise,
                component_mask=None if edited.dropped is None else edited.dropped.to(self.device),
                on_attention=on_attention,
            )[0]
            if not image.isfinite().all():
                raise GanformerError(
                    "this image has values that are not finite: the latents are too far from those of the training, "
                    "or this model has diverged; undo, or use an earlier snapshot"
                )
            pixels: Images = to_uint8(image).cpu().numpy()
        return pixels

    def _sample(
        self, edited: EditedLatents, state: ImageState, on_attention: Callable[[AttentionMap], None] | None
    ) -> Images:
        noise_seed = state.noise_seed if state.noise == "random" else None
        samples = sample_latents(
            self.generator,
            edited.latents,
            space="w",
            noise_mode=state.noise,
            dropped=edited.dropped,
            noise_seed=noise_seed,
            attention=on_attention is not None,
        )
        found = next(samples)
        if on_attention is not None:
            for each in found.maps:
                on_attention(each)
        return found.image

    def _blend(self, known: EditedLatents, edit: BlendEdit, psi: float, labels: list[float] | None) -> EditedLatents:
        ws = known.latents[0]
        other = map_seeds(self.generator, [edit.seed], truncation_psi=psi, labels=labels)[0]
        moved = torch.lerp(ws, other, edit.amount)
        return known._replace(latents=mix_layers(ws, moved, edited_layers(self.generator, edit.layers))[None])

    # ----- Between two layers -----

    def _look(self, layer: nn.Module, inputs: Any, output: Any) -> None:
        if self._job is not None and not self._job.wanted():
            raise Superseded

    def _see(self, block: nn.Module, inputs: Any, output: tuple[Tensor, Tensor | None, Any]) -> None:
        job = self._job
        if job is None or len(output[0]) > 1:  # k-GAN draws an image of each component
            return
        self._preview.see(output[0][0], output[1], self.generator)
        small = self._preview.draw() if self._seconds > PREVIEW_SECONDS else None
        if small is not None:
            job.preview = small
            job.ready.set()


class _Preview:
    """A small image from the features of a block in the middle.

    Of a network that adds up colours it is what there is so far. Of others it is a linear function of the features,
    fitted by least squares to the images that have been drawn.
    """

    def __init__(self) -> None:
        self.gram: Tensor | None = None  # [C + 1, C + 1]
        self.moments: Tensor | None = None  # [C + 1, 3]
        self.weights: Tensor | None = None  # [C + 1, 3]
        self.features: Tensor | None = None  # [h, w, C + 1]
        self.colours: Tensor | None = None

    def see(self, features: Tensor, colours: Tensor | None, generator: Generator) -> None:
        """Take the features ``[C, h, w]`` of the image that is being drawn, and its colours so far, if any."""
        height, width = generator.config.image_size
        scale = max(generator.config.grid(generator.config.resolution)) / max(features.shape[1:])
        size = (max(1, round(height / scale)), max(1, round(width / scale)))
        self.colours = None if colours is None else crop_centre(colours, size)[0].float().cpu()
        cropped = crop_centre(features[None], size)[0].float().cpu()
        self.features = torch.cat([cropped, torch.ones(1, *size)]).permute(1, 2, 0)

    def draw(self) -> Images | None:
        """The small image, or None before the first image."""
        if self.colours is not None:
            return to_uint8(self.colours).numpy()
        if self.features is None or self.weights is None:
            return None
        return to_uint8((self.features @ self.weights).permute(2, 0, 1)).numpy()

    def add(self, image: Images) -> None:
        """Learn from the finished image, uint8 ``[3, H, W]``."""
        features, self.features = self.features, None
        if features is None or self.colours is not None:
            return
        target = from_uint8(torch.from_numpy(image))
        small = F.adaptive_avg_pool2d(target, (features.shape[0], features.shape[1])).permute(1, 2, 0).reshape(-1, 3)
        rows = features.reshape(-1, features.shape[2])
        gram, moments = rows.T @ rows, rows.T @ small
        if self.gram is not None and self.moments is not None:
            gram, moments = gram + _PREVIEW_MEMORY * self.gram, moments + _PREVIEW_MEMORY * self.moments
        self.gram, self.moments = gram, moments
        ridge = torch.eye(len(self.gram)) * float(self.gram.diagonal().mean()) * 1e-3
        self.weights = torch.linalg.solve(self.gram + ridge, self.moments)
