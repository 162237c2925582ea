"""Finds the shipped folders ``ops/`` and ``datasets/``, in an installed package or beside it, and the cache."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import stat
import tempfile
from pathlib import Path

import platformdirs

from ganformer_cli.errors import GanformerError

_PACKAGE = Path(__file__).resolve().parent
#: Folders of the cache, and what they hold.
CACHE_FOLDERS = {
    "operators": "native operators that were built",
    "weights": "networks that metrics use",
    "snapshots": "models that the authors published",
    "hub": "models from the Hugging Face Hub",
    "statistics": "statistics of data sets, for metrics",
    "trials": "what trials found fastest on this machine",
    "scenes": "drawn images of the built-in data set",
}
DOWNLOADS = ".downloads"  # in a folder of data sets: the archives that they are made of


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

    A user without a home folder (a container's, a service's) has one beside the system's temporary files. Absolute,
    since compilers run in folders of their own. May not exist yet.

    Raises:
        GanformerError: ``GANFORMER_CACHE`` is relative to a home folder that there is not.
    """
    if chosen := os.environ.get("GANFORMER_CACHE"):
        folder = os.path.expanduser(chosen)  # which leaves a ~ that means nothing
        if folder.startswith("~") and not os.path.isabs(folder) and not os.path.lexists(folder):
            raise GanformerError(f"GANFORMER_CACHE {chosen}: this home folder does not exist; give an absolute path")
        return Path(folder).absolute()
    folder = ""
    with contextlib.suppress(RuntimeError, OSError, KeyError):  # no home: older versions leave a ~ in it
        folder = platformdirs.user_cache_dir("ganformer", appauthor=False)
    if not os.path.isabs(folder):  # a relative XDG_CACHE_HOME, which its specification says to ignore; or no home
        folder = os.path.join(os.path.expanduser("~"), ".cache", "ganformer")
    return Path(folder) if os.path.isabs(folder) else _temporary_cache()


@functools.cache
def _temporary_cache() -> Path:
    """A folder of this user's beside the system's temporary files, where nobody else can put libraries to be loaded."""
    user = str(os.getuid()) if hasattr(os, "getuid") else "cache"
    folder = Path(tempfile.gettempdir()).absolute() / f"ganformer-{user}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        there = folder.lstat()
    except OSError:
        return folder  # who writes there says why it does not work
    if hasattr(os, "getuid") and (
        not stat.S_ISDIR(there.st_mode) or there.st_uid != os.getuid() or there.st_mode & 0o022
    ):
        folder = Path(tempfile.mkdtemp(prefix="ganformer-"))  # that one is somebody else's: for this process alone
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
