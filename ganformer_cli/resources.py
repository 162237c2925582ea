"""Finds the shipped folders ``ops/`` and ``datasets/``, in an installed package or beside it, and the cache."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ganformer_cli.errors import GanformerError

_PACKAGE = Path(__file__).resolve().parent


def resource_folder(name: str) -> Path:
    """The folder of the shipped resources ``name``: ``"ops"`` or ``"datasets"``.

    Raises:
        GanformerError: neither place has it, which means that the installation is damaged.
    """
    for folder in (_PACKAGE / name, _PACKAGE.parent / name):
        if folder.is_dir():
            return folder
    raise GanformerError(f"the folder {name!r} of this installation is missing; install ganformer again")


def cache_folder() -> Path:
    """Where downloads and built operators are kept: ``GANFORMER_CACHE`` if set, else the system's folder for caches.

    Absolute, since compilers run in folders of their own. May not exist yet.
    """
    if chosen := os.environ.get("GANFORMER_CACHE"):
        return Path(chosen).expanduser().absolute()
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA", "")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "ganformer" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "ganformer"
    system = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (system if system.is_absolute() else Path.home() / ".cache") / "ganformer"
