"""How much one file in an archive, and an archive's own directory, may claim of memory.

Budgets are for each entry, never for the whole: a data set of any size is read in bounded memory. Only what grows out
of all proportion to its bytes on the disk is refused.
"""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

from ganformer_cli.errors import DataError
from ganformer_cli.files import check_regular, open_regular

LARGEST_FILE = 1 << 30  # bytes of one picture's file; more is a mistake or an attack
LARGEST_LABELS = 1 << 28  # bytes of a file of labels
LARGEST_WINDOW = 1 << 29  # bytes that decompressing may look back, which it keeps in memory
# One picture's file that unpacks to so many bytes and so many times its size is made to fill memory: such files hardly
# shrink at all, and pixels as they are, ten times.
BOMB_BYTES, BOMB_TIMES = 64 << 20, 200
# A whole archive may hold little else than blank pixels, which shrink a hundred times (dSprites does).
ARCHIVE_BOMB_BYTES, ARCHIVE_BOMB_TIMES = 4 << 30, 2000
# Bytes of a zip's directory, out of each of which Python's own reader makes up to twenty.
LARGEST_DIRECTORY = 16 << 20
LARGEST_SHARD_DIRECTORY = 128 << 20  # of a zip that is a data set: some two million pictures

_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64 = 20  # bytes
_WIDE = 0xFFFFFFFF


def is_bomb(size: int, packed: int) -> bool:
    """Whether one file in an archive is made to fill memory: ``size`` bytes, out of ``packed``."""
    return size > BOMB_BYTES and size > BOMB_TIMES * packed


def unpacks_to(size: int, packed: int) -> str:
    """What to say of such a file."""
    return f"a decompression bomb: {max(1, packed >> 10)} KiB unpack to {size >> 20} MiB"


def is_archive_bomb(size: int, packed: int) -> bool:
    """Whether a whole archive, or a dataset in it, is: ``size`` bytes so far, out of ``packed``."""
    return size > ARCHIVE_BOMB_BYTES and size > ARCHIVE_BOMB_TIMES * packed


def open_zip(path: Path, largest_directory: int = LARGEST_DIRECTORY) -> zipfile.ZipFile:
    """A zip, by Python's own reader.

    Raises:
        OSError, zipfile.BadZipFile: it cannot be read.
        DataError: it lists more files than that reader has room for.
    """
    check_regular(path)
    size = _directory_bytes(path)
    if size > largest_directory:
        raise DataError(
            f"{path} lists too many files to be read as it is (a directory of {size >> 20} MiB); unpack it, and give "
            "the folder"
        )
    return zipfile.ZipFile(path)


def _directory_bytes(path: Path) -> int:
    """The size of a zip's directory as its end says; 0 where there is no end."""
    with open_regular(path) as stream:
        size = stream.seek(0, 2)
        stream.seek(max(0, size - _END.size - 0xFFFF - _LOCATOR64 - _END64.size))
        tail = stream.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0 or at + _END.size > len(tail):
        return 0
    length = int(_END.unpack_from(tail, at)[5])
    wide = at - _LOCATOR64 - _END64.size
    if length == _WIDE and wide >= 0 and tail.startswith(b"PK\6\6", wide):
        length = int(_END64.unpack_from(tail, wide)[8])
    return min(length, size)


def read_labels_entry(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """The file of labels in a zip.

    Raises:
        DataError: it is too large.
    """
    if info.file_size > LARGEST_LABELS:
        raise DataError(f"{archive.filename}: {info.filename} has {info.file_size >> 20} MiB; mend or remove it")
    return archive.read(info)
