"""Finds the folders ``ops/`` and ``datasets/``: inside an installed package, beside it in a checkout."""

from __future__ import annotations

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
