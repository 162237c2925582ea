"""Tells the authors' snapshots from model files of ours, without torch."""

from __future__ import annotations

from pathlib import Path

from ganformer_cli.files import open_regular


def is_original(path: Path) -> bool:
    """Whether to read ``path`` as a snapshot of the authors': by its suffix, or because it begins like a pickle.

    A safetensors file begins with the length of its header, whose first byte may be any.
    """
    if path.suffix in (".pkl", ".pickle"):
        return True
    try:
        with open_regular(path) as file:
            head = file.read(9)
    except OSError:
        return False
    return head[:1] == b"\x80" and not (head[5:8] == bytes(3) and head[8:] == b"{")
