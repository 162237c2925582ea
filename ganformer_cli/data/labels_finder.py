"""Where the ``dataset.json`` of a folder or an archive lies."""

from __future__ import annotations

import os
from pathlib import Path

from ganformer_cli.data.manifest import DATASET_JSON
from ganformer_cli.errors import DataError


class LabelsFinder:
    """Finds the ``dataset.json`` of a folder or archive while its names are gone through.

    It lies at the top, or in a folder that all images lie in.
    """

    def __init__(self) -> None:
        self._files: list[str] = []
        self._around: list[str] | None = None  # folders that all images lie in

    def see_image(self, name: str) -> None:
        """An image's name, with forward slashes."""
        if self._around is None:
            self._around = name.split("/")[:-1]
        elif self._around:
            self._around = list(os.path.commonprefix([self._around, name.split("/")[:-1]]))

    def see_file(self, name: str) -> None:
        """The name of something else."""
        if name.rpartition("/")[2] == DATASET_JSON:
            self._files.append(name)

    def find(self, source: Path) -> str | None:
        """Its name.

        Raises:
            DataError: there are several.
        """
        if DATASET_JSON in self._files:
            return DATASET_JSON
        around = "".join(f"{folder}/" for folder in self._around or [])
        found = sorted({name for name in self._files if around.startswith(name.removesuffix(DATASET_JSON))})
        if len(found) > 1:
            raise DataError(f"{source}: {found[0]} and {found[1]} both hold labels; say which with --labels FILE")
        return found[0] if found else None

    def note(self, used: str | None) -> str | None:
        """What to say where there is one that is not used."""
        if used is not None or not self._files:
            return None
        return (
            f"{self._files[0]} is not used, because there are images outside of its folder; prepare that folder by "
            "itself, or name the file with --labels"
        )
