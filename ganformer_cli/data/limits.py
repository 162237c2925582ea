"""How much one file in an archive may claim of memory.

Limits are for each entry, never for the whole: a data set of any size is read in bounded memory. Only what grows out of
all proportion to its bytes on the disk is refused.
"""

from __future__ import annotations

MAX_FILE_BYTES = 1 << 30  # of one image's file; more is a mistake or an attack
MAX_LABELS_BYTES = 1 << 28  # of a file of labels
MAX_WINDOW_BYTES = 1 << 29  # that decompressing may look back, which it keeps in memory
# One image's file that unpacks to so many bytes and so many times its size is made to fill memory: such files hardly
# shrink at all, and pixels as they are, ten times.
BOMB_BYTES, BOMB_RATIO = 64 << 20, 200
# A whole archive may hold little else than blank pixels, which shrink a hundred times (dSprites does).
ARCHIVE_BOMB_BYTES, ARCHIVE_BOMB_RATIO = 4 << 30, 2000


def is_bomb(size: int, packed: int) -> bool:
    """Whether one file in an archive is made to fill memory: ``size`` bytes, out of ``packed``."""
    return size > BOMB_BYTES and size > BOMB_RATIO * packed


def bomb_text(size: int, packed: int) -> str:
    """What to say of such a file."""
    return f"a decompression bomb: {max(1, packed >> 10)} KiB unpack to {size >> 20} MiB"


def is_archive_bomb(size: int, packed: int) -> bool:
    """Whether a whole archive, or a dataset in it, is: ``size`` bytes so far, out of ``packed``."""
    return size > ARCHIVE_BOMB_BYTES and size > ARCHIVE_BOMB_RATIO * packed


def too_large(size: int) -> str:
    """What to say of a file that is larger than :data:`MAX_FILE_BYTES`."""
    return f"a file of {size >> 20} MiB"
