"""Images that have been drawn, kept in a file of the user's cache: drawing one takes as long as a tenth of a small
training step, and the processes of a run, and the next run, need the same ones.
"""

from __future__ import annotations

import contextlib
import zlib
from typing import BinaryIO

import numpy as np

from ganformer_cli.data.images import ImageArray
from ganformer_cli.errors import GanformerError
from ganformer_cli.resources import cache_folder

#: Larger sets are drawn anew: their files would fill the cache.
MAX_BYTES = 64 << 20
#: Of the cache.
FOLDER = "scenes"
#: Of the checksum in front of each image.
_HEADER = 4


class KeptImages:
    """Images by number, in one file that several processes read and write at once.

    Each lies at a place of its own behind its checksum. One that is missing, half written or damaged does not match it,
    and is drawn again; so nothing is locked, and nothing is lost but time. Without a cache that can be written, nothing
    is kept.

    Args:
        name: of the set, which changes with every byte of its images.
        count: images.
        shape: of an image; its dtype is uint8.
    """

    def __init__(self, name: str, count: int, shape: tuple[int, int, int]) -> None:
        self.name, self.shape = name, shape
        self.image_bytes = int(np.prod(shape))
        self._file: BinaryIO | None = None
        self._is_usable = count * (_HEADER + self.image_bytes) <= MAX_BYTES

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_file": None}

    def find(self, index: int) -> ImageArray | None:
        """Image ``index``, or None."""
        file = self._open()
        if file is None:
            return None
        try:
            file.seek(index * (_HEADER + self.image_bytes))
            record = file.read(_HEADER + self.image_bytes)
        except OSError:
            return None
        content = record[_HEADER:]
        if len(content) != self.image_bytes or record[:_HEADER] != _checksum(content):
            return None
        return np.frombuffer(content, np.uint8).reshape(self.shape).copy()

    def keep(self, index: int, image: ImageArray) -> None:
        """Write image ``index``; where that fails, no more are written."""
        file = self._open()
        if file is None:
            return
        content = image.tobytes()
        try:
            file.seek(index * (_HEADER + self.image_bytes))
            file.write(_checksum(content) + content)
        except OSError:  # for instance a full disk
            self.close()
            self._is_usable = False

    def close(self) -> None:
        """Close the file; it is opened again when needed."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None

    def _open(self) -> BinaryIO | None:
        if self._file is None and self._is_usable:
            try:
                path = cache_folder() / FOLDER / f"{self.name}.images"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
                self._file = path.open("r+b", buffering=0)
            except (OSError, GanformerError):
                self._is_usable = False
        return self._file


def _checksum(content: bytes) -> bytes:
    """Of an image. That of zeros is not zero: what was never written is no image."""
    return zlib.crc32(content).to_bytes(_HEADER, "little")
