"""What can go wrong, said so that the reader can mend it.

Every room raises one of these; only ``cli`` turns it into a message on stderr and a status.
"""

from __future__ import annotations


class GanformerError(Exception):
    """Base of every error that a user can mend.

    The message says what went wrong, where (the option or the file), and what to do about it.
    """


class ConfigError(GanformerError):
    """An option, or a combination of options, that cannot work."""


class DataError(GanformerError):
    """A source or data set that is missing, unreadable, or does not fit."""


class SnapshotError(GanformerError):
    """A model file that is missing, damaged, or of another architecture."""


class TrainingError(GanformerError):
    """Training that cannot go on."""


class DownloadError(GanformerError):
    """A file of the internet that cannot be had, or is not the one that it should be."""


class OutputError(GanformerError):
    """A place that cannot be written to."""


class NotYetError(GanformerError):
    """Something that the command line knows by name and that this version does not do yet."""
