"""Images of a source made into PNGs of one size, by several processes at a time, in order, in bounded memory."""

from __future__ import annotations

import contextlib
import hashlib
import io
import multiprocessing
import os
import signal
import struct
import sys
import threading
import time
import warnings
import zlib
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ganformer_cli.data.images import (
    Decoding,
    Fit,
    UnusableImageError,
    fit,
    from_pixels,
    has_several_frames,
    open_image,
    upright_size,
    wide_values,
)
from ganformer_cli.data.sources import Item
from ganformer_cli.data.sources.base import shown
from ganformer_cli.errors import OutputError
from ganformer_cli.stop_signals import leave_to_parent

NO_LABEL = "no label"

# Of zlib's strategies only "runs" is tried: photographs of 256 px become as small as at level 6 (3 % smaller, even), in
# half the time; drawings become 10 to 20 % larger, in half to a third of the time. They are as quick to read.
_STRATEGY = zlib.Z_RLE
_CHUNK_BYTES = 4 << 20  # of sources, and of pixels: what is sent to a process at once
_CHUNK_IMAGES = 64
_AHEAD = 2  # chunks in flight for each process
_PATIENCE = 5.0  # seconds in which the pool itself notices that a worker has ended
START_WORKERS_AFTER = 1.0  # seconds of work after which starting processes is thought to pay


@dataclass(frozen=True)
class ConversionSettings:
    """How every image is converted."""

    height: int
    width: int
    decoding: Decoding
    packed: bool  # whether the PNGs are compressed
    labelled: bool  # whether an image without a label is skipped
    fit: Fit = "crop"


class ConversionResult(NamedTuple):
    """What became of one image; the journal holds it as a list."""

    name: str
    label: Any = None  # None, a class, or a list of numbers
    reason: str = ""  # why it is skipped; empty if it is kept
    file: str = ""  # sha256 of the file or the pixels in the source; empty if they could not be read
    mode: str = ""  # Pillow's; empty if it could not be opened
    size: tuple[int, int] = (0, 0)  # width and height as it is meant to be seen
    pixels: str = ""  # sha256 of the pixels, RGB; empty if it is skipped
    hash: int = 0  # 64 bits that similar images share, but for a few
    bytes: int = 0  # of the PNG
    crc: int = 0
    several_frames: bool = False  # of which the first is taken
    values: Sequence[float] = ()  # of more than 8 bits: the lowest, the highest, and the highest that there could be


Converted = tuple[ConversionResult, bytes]  # with the PNG; empty if it is skipped


def convert(item: Item, settings: ConversionSettings) -> Converted:
    """Convert one image: its result, and the PNG."""
    result = _seen(item)
    if item.data is None:
        return result._replace(reason=item.error or "cannot be read"), b""
    if settings.labelled and item.label is None:
        return result._replace(reason=NO_LABEL), b""
    try:
        decoding = settings.decoding
        values = None
        if isinstance(item.data, bytes):
            image = open_image(item.data)
        else:
            image = from_pixels(item.data, decoding.value_range)
            if item.data.dtype != np.uint8:
                full = 1.0 if item.data.dtype.kind == "f" else 65535.0
                values = float(item.data.min()), float(item.data.max()), full
        with image:
            height, width = upright_size(image)
            result = result._replace(mode=image.mode, size=(width, height))
            fitted = fit(
                image, settings.height, settings.width, decoding.background, decoding.value_range, settings.fit
            )
            values = values or wide_values(image)
            result = result._replace(several_frames=has_several_frames(image), values=list(values or ()))
    except UnusableImageError as error:
        return result._replace(reason=str(error)), b""
    pixels = fitted.tobytes()
    png = _packed(fitted) if settings.packed else _unpacked(pixels, settings.height, settings.width)
    digest = hashlib.sha256(pixels).hexdigest()
    kept = result._replace(pixels=digest, hash=difference_hash(fitted), bytes=len(png), crc=zlib.crc32(png))
    return kept, png


def source_digest(item: Item) -> bytes:
    """sha256 of an image of the source: of its name, its content and its label."""
    return result_digest(_seen(item))


def result_digest(result: ConversionResult) -> bytes:
    """The same, from the result of its conversion."""
    return hashlib.sha256(f"{result.name}\0{result.file}\0{result.label}".encode()).digest()


def difference_hash(image: Image.Image) -> int:
    """64 bits, most of which images that look alike share: is each of 8x8 places darker than the one right of it?"""
    small = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX))
    return int.from_bytes(np.packbits(small[:, :-1] < small[:, 1:]).tobytes(), "big")


def default_workers() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def convert_all(
    items: Iterator[Item], settings: ConversionSettings, workers: int | None
) -> Generator[Converted, None, None]:
    """Each of ``items`` converted, in their order.

    Args:
        workers: processes; 1 does the work in this one. None takes one for each core once the work has gone on for a
            second, so that few images do not wait for processes to start.

    Raises:
        OutputError: a process ended before its work did.
    """
    patience = START_WORKERS_AFTER if workers is None else 0.0
    workers = default_workers() if workers is None else workers
    started = time.monotonic()
    while workers == 1 or (patience and time.monotonic() < started + patience):
        item = next(items, None)
        if item is None:
            return
        yield convert(item, settings)
    yield from _in_processes(items, settings, workers)


def _in_processes(
    items: Iterator[Item], settings: ConversionSettings, workers: int
) -> Generator[Converted, None, None]:
    waiting: deque[tuple[str, Future[list[Converted]]]] = deque()
    others = multiprocessing.active_children()
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_begin)
    _ignore_closed_pipe(pool)
    started: set[BaseProcess] = set()
    try:
        for chunk in chunked(items, settings):
            with contextlib.nullcontext() if waiting else _interrupts_ignored():
                waiting.append((chunk[0].name, pool.submit(_convert_chunk, chunk, settings)))
            if len(started) < workers:
                started.update(set(multiprocessing.active_children()).difference(others))
            if len(waiting) > _AHEAD * workers:
                yield from _result(*waiting.popleft(), started)
        while waiting:
            yield from _result(*waiting.popleft(), started)
    except BaseException:
        # What the workers still do is of no use, and one that hangs or was stopped would be waited for without end.
        for process in set(multiprocessing.active_children()).difference(others):
            process.kill()
        _wake_manager_thread(pool)
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _ignore_closed_pipe(pool: ProcessPoolExecutor) -> None:
    """Print no traceback when the pool's sending thread finds its pipe closed because the workers are gone.

    Python prints none itself, except on Windows.
    """
    with contextlib.suppress(AttributeError):
        chunks = pool._call_queue  # type: ignore[attr-defined]
        failed = chunks._on_queue_feeder_error

        def sending_failed(error: BaseException, chunk: object) -> None:
            if not chunks._writer.closed:
                failed(error, chunk)

        chunks._on_queue_feeder_error = sending_failed


def _wake_manager_thread(pool: ProcessPoolExecutor) -> None:
    """Let the pool's manager thread, for which ``shutdown`` waits, notice that the workers were killed.

    A worker that is killed while it sends a result leaves half of it in the pipe, and the thread waits for the rest
    until this process closes its own end for writing. On Windows that is not enough: a worker that is killed before it
    has fetched its end leaves that end open in this process. There the thread is sent None, a result that it ignores.
    """
    with contextlib.suppress(AttributeError, OSError):
        writer = pool._result_queue._writer  # type: ignore[attr-defined]
        if sys.platform == "win32":
            thread = pool._executor_manager_thread  # type: ignore[attr-defined]
            threading.Thread(target=_send_none, args=(writer, thread), daemon=True).start()
        else:
            writer.close()


def _send_none(writer: Connection, thread: threading.Thread) -> None:
    """Send None until ``thread`` has ended. Sending may block for ever, so it needs a thread of its own."""
    with contextlib.suppress(OSError):
        while thread.is_alive():
            writer.send(None)
            thread.join(0.1)


def _result(name: str, future: Future[list[Converted]], started: set[BaseProcess]) -> list[Converted]:
    try:
        while True:
            # The pool does not notice a worker that ends while it sends a result, and the others cannot send theirs.
            one_ended = not all(process.is_alive() for process in started)
            if wait([future], _PATIENCE).done:
                return future.result()
            if one_ended:
                raise BrokenProcessPool
    except BrokenProcessPool as error:
        raise OutputError(
            f"a worker process ended unexpectedly at {name} or soon after: too little memory, an image "
            f'that breaks its decoder, or a script without `if __name__ == "__main__":`. Run the same again with '
            f"one worker process"
        ) from error


def _convert_chunk(chunk: list[Item], settings: ConversionSettings) -> list[Converted]:
    return [convert(item, settings) for item in chunk]


def chunked(items: Iterator[Item], settings: ConversionSettings) -> Iterator[list[Item]]:
    """The items in groups, bounded in bytes before and after conversion."""
    most = max(1, min(_CHUNK_IMAGES, _CHUNK_BYTES // (3 * settings.height * settings.width)))
    chunk: list[Item] = []
    size = 0
    for item in items:
        chunk.append(item)
        size += 0 if item.data is None else len(item.data) if isinstance(item.data, bytes) else item.data.nbytes
        if len(chunk) == most or size >= _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _begin() -> None:
    """Initialise a worker process."""
    leave_to_parent()
    warnings.simplefilter("ignore")  # of Pillow, about large images and odd metadata; we decide about both
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when its parent is killed: it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Processes started within do not print a traceback if Ctrl-C comes before they have begun."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _seen(item: Item) -> ConversionResult:
    """What is known of an image before it is decoded."""
    label = list(item.label) if isinstance(item.label, tuple) else item.label
    return ConversionResult(shown(item.name), label, file=_file_digest(item))


def _file_digest(item: Item) -> str:
    if item.data is None:
        return ""
    if isinstance(item.data, bytes):
        return hashlib.sha256(item.data).hexdigest()
    pixels = item.data
    shape = "x".join(map(str, pixels.shape))
    if pixels.dtype.kind == "f" and pixels.size and pixels.min() >= 0 and pixels.max() <= 1:
        pixels = np.rint(pixels.astype(np.float64) * 255).astype(np.uint8)  # known by what they were always made into
    elif pixels.dtype != np.uint8:
        shape += f" {pixels.dtype.name}"
    return hashlib.sha256(f"{shape}\n".encode() + np.ascontiguousarray(pixels).tobytes()).hexdigest()


def _packed(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_type=_STRATEGY)
    return buffer.getvalue()


def _unpacked(pixels: bytes, height: int, width: int) -> bytes:
    """A PNG of RGB pixels as they are: several times quicker to write and to read than what Pillow makes at level 0,
    which predicts each pixel from its neighbours all the same."""
    rows = np.zeros((height, 1 + 3 * width), np.uint8)  # before each row the predictor: none
    rows[:, 1:] = np.frombuffer(pixels, np.uint8).reshape(height, 3 * width)
    header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(rows.tobytes(), 0)
    return b"\x89PNG\r\n\x1a\n" + _block(b"IHDR", header) + _block(b"IDAT", data) + _block(b"IEND", b"")


def _block(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
