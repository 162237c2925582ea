"""What was computed of real images, kept on disk under what it was computed from.

An entry is a safetensors file named by the hash of a plain description (which images, which network, which resize);
the description itself and a checksum of the arrays lie in its header. An entry that is damaged, or not the one that its
name says, is as good as none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ganformer_cli.errors import OutputError
from ganformer_cli.files import write_bytes
from ganformer_cli.resources import cache_folder

_Arrays = dict[str, npt.NDArray[Any]]

FOLDER = "statistics"
#: Larger ones are not kept: they would fill the disk.
_MAX_BYTES = 256 << 20
_DESCRIPTION, _CHECKSUM = "description", "sha256"


class Cache:
    """The entries in a folder.

    Args:
        folder: None: ``statistics`` in the cache of this user.
        notice: called with a warning about an entry that is damaged or cannot be written.
    """

    def __init__(self, folder: Path | None = None, notice: Callable[[str], None] = lambda text: None) -> None:
        self.folder = cache_folder() / FOLDER if folder is None else folder
        self.notice = notice

    def path(self, description: Mapping[str, Any]) -> Path:
        """Where the entry of this description lies, if there is one."""
        name = hashlib.sha256(_as_text(description).encode()).hexdigest()[:40]
        return self.folder / f"{name}.safetensors"

    def read(self, description: Mapping[str, Any]) -> _Arrays | None:
        """The arrays that were kept under this description; None where there are none, or damaged ones."""
        path = self.path(description)
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="numpy") as file:
                header = file.metadata() or {}
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
        except (SafetensorError, OSError, ValueError) as error:
            self.notice(f"{path} is damaged ({error}); computing it again")
            return None
        if header.get(_DESCRIPTION) != _as_text(description) or header.get(_CHECKSUM) != _checksum(arrays):
            self.notice(f"{path} is damaged (its checksum differs); computing it again")
            return None
        return arrays

    def write(self, description: Mapping[str, Any], arrays: _Arrays) -> None:
        """Keep ``arrays``, whole or not at all, unless they are too large or the folder cannot be written to."""
        if sum(array.nbytes for array in arrays.values()) > _MAX_BYTES:
            return
        whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        header = {_DESCRIPTION: _as_text(description), _CHECKSUM: _checksum(whole)}
        try:
            write_bytes(self.path(description), save(whole, metadata=header))
        except OutputError as error:
            self.notice(f"the statistics of the real images were not cached: {error}")


def _as_text(description: Mapping[str, Any]) -> str:
    return json.dumps(description, sort_keys=True)


def _checksum(arrays: _Arrays) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}\n".encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()
