"""Projects images batch by batch, saved now and then, so that what is interrupted resumes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from ganformer_cli.models import Generator
from ganformer_cli.projection.distance import ImageDistance
from ganformer_cli.projection.folder import ProjectionFolder, stacked
from ganformer_cli.projection.images import FittedImage
from ganformer_cli.projection.optimization import Projection, ProjectionSettings, Projector, joined

SAVE_SECONDS = 20.0


def count_steps(images: Sequence[FittedImage], settings: ProjectionSettings, batch_size: int) -> int:
    """The steps of all batches together."""
    return math.ceil(len(images) / batch_size) * settings.steps


def project_images(
    generator: Generator,
    images: Sequence[FittedImage],
    distance: ImageDistance,
    settings: ProjectionSettings,
    folder: ProjectionFolder,
    *,
    batch_size: int,
    frames: int,
    should_stop: Callable[[], bool],
    update: Callable[[int, float], None],
) -> Projection | None:
    """Project all batches; None if ``should_stop`` says so, after everything is saved.

    Args:
        generator, images, distance, settings: as ``Projector`` takes them.
        folder: resumes a batch that was begun, and keeps what is done.
        batch_size: images that are projected together.
        frames: of the film of each projection.
        should_stop: asked after each step.
        update: told the steps that are done, and the distance.
    """
    parts: list[Projection] = []
    batches = range(0, len(images), batch_size)
    for number, first in enumerate(batches):
        some = stacked(images[first : first + batch_size])
        projector = Projector(generator, some, distance, settings, first=first, frames=frames)
        folder.resume(projector, number)
        saved = time.monotonic()
        while not projector.is_done:
            value = projector.advance()
            update(number * settings.steps + projector.step, value)
            if should_stop() or time.monotonic() - saved > SAVE_SECONDS:
                folder.save(projector, number)
                saved = time.monotonic()
            if should_stop():
                return None
        if len(batches) > 1:
            folder.save(projector, number)
        parts.append(projector.result())
    return joined(parts)
