"""The errors of this package; only ``cli`` turns them into a message on stderr and an exit status."""

from __future__ import annotations


class GanformerError(Exception):
    """Base class. The message says what is wrong, where (the option or the file), and what to do about it."""


class ConfigError(GanformerError):
    """An option or a combination of options is invalid."""


class DataError(GanformerError):
    """A data set or its source is missing, unreadable, or does not fit."""


class SnapshotError(GanformerError):
    """A model file is missing, damaged, or of another architecture."""


class TrainingError(GanformerError):
    """Training cannot continue."""


class DownloadError(GanformerError):
    """A file cannot be downloaded, or is not the expected one."""


class OutputError(GanformerError):
    """A file or folder cannot be written."""


def first_line(error: BaseException) -> str:
    """What an error says, without the rest that those of libraries have; its kind where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
