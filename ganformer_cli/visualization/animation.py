"""Pictures one after the other, as a film: GIF and WebP by Pillow, MP4 by ffmpeg."""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import PIL.Image

from ganformer_cli.errors import ConfigError, OutputError
from ganformer_cli.files import advice, atomic_open, remove, replace
from ganformer_cli.sampling.image_files import METADATA_TAG, Images, exif, metadata_text, save_png

#: Pillow holds a GIF or WebP whole, as pixels: no larger ones.
MAX_FILM_BYTES = 1 << 30
#: Of x264, 0 without loss to 51; this one shows none.
_CRF = "16"


def check_film(kind: str, frames: int, height: int, width: int) -> None:
    """Complain about what cannot be made: to be called before anything is drawn.

    Raises:
        ConfigError: MP4 without ffmpeg, or too long a GIF or WebP.
    """
    if kind == "mp4":
        find_ffmpeg()
    elif kind != "frames" and 3 * frames * height * width > MAX_FILM_BYTES:
        raise ConfigError(
            f"--film {kind}: {frames} frames of {width}x{height} are too much for one {kind.upper()}; make fewer "
            "(--interpolation-density), or say --film mp4 or --film frames"
        )


class Film:
    """A film as one file, or as a folder of PNG frames.

    Args:
        path: of the film, without suffix; that of the folder.
        kind: ``gif``, ``webp``, ``mp4`` or ``frames``.
        size: height and width of a frame, before ``scale``.
        fps: frames a second.
        scale: each pixel becomes so many across and down.

    Raises:
        ConfigError: it cannot be made, see ``check_film``.
    """

    def __init__(
        self,
        path: Path,
        kind: str,
        frames: int,
        size: tuple[int, int],
        *,
        fps: float,
        scale: int,
        metadata: Mapping[str, Any],
    ) -> None:
        check_film(kind, frames, size[0] * scale, size[1] * scale)
        self.frames, self.fps, self.scale = frames, fps, scale
        self.in_frames = kind == "frames"
        self.path = path if self.in_frames else path.with_name(f"{path.name}.{kind}")
        if scale > 1:
            metadata = {**metadata, "scale": scale}
        #: The files, with their metadata.
        self.files: dict[Path, dict[str, Any]] = {self.path: {**metadata, "fps": fps}}
        if self.in_frames:
            self.files = {self._frame(index): {**metadata, "frame": index} for index in range(frames)}

    def write(self, frames: Iterable[Images]) -> None:
        """Write uint8 ``[3, H, W]`` frames, as many as were announced."""
        scaled = (frame.repeat(self.scale, 1).repeat(self.scale, 2) for frame in frames)
        if not self.in_frames:
            save_film(self.path, scaled, per_second=self.fps, metadata=self.files[self.path])
            return
        for index, image in enumerate(scaled):
            save_png(self._frame(index), image, self.files[self._frame(index)])
        # Of a longer film that is replaced: players take every frame that they find.
        for surplus in set(self.path.glob("frame*.png")) - self.files.keys():
            remove(surplus)

    def _frame(self, index: int) -> Path:
        return self.path / f"frame{index:05d}.png"


def save_film(
    path: Path, frames: Iterable[Images], *, per_second: float, metadata: Mapping[str, Any] | None = None
) -> None:
    """Write uint8 ``[3, H, W]`` frames as one file, whole or not at all; its name's suffix says of which kind.

    GIF and WebP start over for ever. A GIF has at most 256 colours in a frame, WebP is lossless.

    Raises:
        ConfigError: MP4 without ffmpeg.
        OutputError: the place cannot be written to, or ffmpeg fails.
    """
    if path.suffix == ".mp4":
        _save_mp4(path, frames, per_second, metadata or {})
        return
    text = metadata_text(metadata or {})
    pixels = [PIL.Image.fromarray(np.ascontiguousarray(frame.transpose(1, 2, 0))) for frame in frames]
    how: dict[str, Any] = {"save_all": True, "append_images": pixels[1:], "duration": round(1000 / per_second)}
    how |= {"loop": 0}
    stream = io.BytesIO()
    if path.suffix == ".gif":
        pixels[0].save(stream, "GIF", comment=f"{METADATA_TAG} {text}".encode(), **how)
    else:
        pixels[0].save(stream, "WEBP", lossless=True, exif=exif(text), **how)
    with atomic_open(path) as file:
        file.write(stream.getvalue())


def find_ffmpeg() -> str:
    """The program: the one on the PATH, or that of the package imageio-ffmpeg.

    Raises:
        ConfigError: there is none.
    """
    found = shutil.which("ffmpeg")
    if found:
        return found
    try:
        from imageio_ffmpeg import get_ffmpeg_exe  # type: ignore[import-not-found,import-untyped,unused-ignore]

        return str(get_ffmpeg_exe())
    except (ImportError, RuntimeError) as error:
        raise ConfigError(
            "--film mp4: needs the program ffmpeg, which is not on the PATH; install it (or: pip install "
            "imageio-ffmpeg), or say --film gif, --film webp or --film frames"
        ) from error


def _save_mp4(path: Path, frames: Iterable[Images], per_second: float, metadata: Mapping[str, Any]) -> None:
    """H.264, playable everywhere: colours at half the resolution, an even number of rows and columns."""
    program = find_ffmpeg()
    waiting = iter(frames)
    first = next(waiting)
    height, width = first.shape[1:]
    words = [program, "-hide_banner", "-loglevel", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    words += ["-s", f"{width}x{height}", "-r", f"{per_second:g}", "-i", "-", "-an"]
    words += ["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-c:v", "libx264", "-crf", _CRF, "-pix_fmt", "yuv420p"]
    words += ["-movflags", "+faststart", "-metadata", f"comment={METADATA_TAG} {metadata_text(metadata)}"]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # ffmpeg goes back in the file that it writes, and tells its kind by the name.
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", suffix=".part", dir=path.parent) as folder:
            made = Path(folder) / "film.mp4"
            said = _feed([*words, str(made)], _marked(itertools.chain([first], waiting)))
            if said is not None:
                if os.strerror(errno.ENOSPC) in said:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                raise OutputError(f"{path}: ffmpeg failed ({said}); say --film gif, --film webp or --film frames")
            replace(made, path.resolve())
    except _FrameError as error:
        raise error.error from None
    except OSError as error:
        raise OutputError(f"cannot write {path}: {advice(error)}") from error


class _FrameError(Exception):
    """A frame could not be drawn, for a reason that has nothing to do with the film's file."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


def _marked(frames: Iterable[Images]) -> Iterator[Images]:
    """``frames``, whose own errors of the system are told from those of the film's file."""
    try:
        yield from frames
    except OSError as error:
        raise _FrameError(error) from error


def _feed(words: Sequence[str], frames: Iterable[Images]) -> str | None:
    """Run ffmpeg on images; None, or the last line that it says if it fails."""
    with tempfile.TemporaryFile() as errors:
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors) as process:
            assert process.stdin is not None
            try:
                for frame in frames:
                    if not _written(process.stdin, frame):
                        break  # it has ended, and says below why
                with contextlib.suppress(OSError):
                    process.stdin.close()
            except BaseException:
                process.kill()
                with contextlib.suppress(OSError):  # what it no longer takes; else that would be the error
                    process.stdin.close()
                raise
        if process.returncode == 0:
            return None
        errors.seek(0)
        lines = errors.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else f"status {process.returncode}"


def _written(stream: IO[bytes], frame: Images) -> bool:
    try:
        stream.write(np.ascontiguousarray(frame.transpose(1, 2, 0)).tobytes())
    except OSError:
        return False
    return True
