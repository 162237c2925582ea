"""The manifest of a prepared data set: what is in it, how it was made, and a checksum that shows whether it was edited.

Beside it lie the images, in one zip or several ("shards"), and what is told of them.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from ganformer_cli.data.images import Decoding
from ganformer_cli.data.manifest_content import content_fault
from ganformer_cli.errors import DataError
from ganformer_cli.files import read_json
from ganformer_cli.text import printable

MANIFEST = "manifest.json"
MANIFEST_FORMAT = "ganformer-dataset/2"
ARCHIVE = "images.zip"
DATASET_JSON = "dataset.json"  # in each zip, as StyleGAN has it: {"labels": null}, or [[name, class or vector], ...]
PREVIEW = "preview.png"
DUPLICATES = "duplicates.json"
SKIPPED = "skipped.jsonl"

_SHARD = re.compile(r"images-\d{5,}-of-\d{5,}\.zip")
_KINDS: dict[str, Any] = {
    "count": int, "height": int, "width": int, "ratio": (int, float), "fingerprint": str, "shards": list,
    "source": dict, "skipped": dict, "checksum": str,
}  # fmt: skip


def shard_name(number: int, of: int) -> str:
    """What zip ``number`` of so many is called."""
    return ARCHIVE if of == 1 else f"images-{number:05d}-of-{of:05d}.zip"


def image_name(number: int) -> str:
    """What image ``number`` of a data set is called in its zip, as in StyleGAN's."""
    return f"{f'{number:08d}'[:5]}/img{number:08d}.png"


def belongs(name: str) -> bool:
    """Whether a file of this name is part of a prepared data set."""
    return name in {MANIFEST, ARCHIVE, PREVIEW, DUPLICATES, SKIPPED} or _SHARD.fullmatch(name) is not None


def checksum(manifest: dict[str, Any]) -> str:
    """sha256, hexadecimal, of everything in a manifest but its own ``checksum``."""
    rest = {key: value for key, value in manifest.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a prepared data set, or None where there is none.

    Raises:
        DataError: there is one, but it is damaged, was edited, or is of another version.
    """
    path = folder / MANIFEST
    if not path.exists():
        return None
    manifest = read_json(path, remedy="prepare it again")
    if not isinstance(manifest, dict) or not isinstance(form := manifest.get("format"), str):
        raise DataError(f"{path} is not the manifest of a prepared data set (it has no format); prepare it again")
    if form != MANIFEST_FORMAT:
        found = printable(form, limit=80)
        raise DataError(f"{path} has format {found!r}, this version reads {MANIFEST_FORMAT!r}; prepare it again")
    wrong = [key for key, kind in _KINDS.items() if not isinstance(manifest.get(key), kind)]
    if not wrong and not (manifest["shards"] and all(_is_shard(shard) for shard in manifest["shards"])):
        wrong = ["shards"]
    if wrong:
        raise DataError(f"{path} is damaged ({', '.join(wrong)}); prepare it again")
    if checksum(manifest) != manifest["checksum"]:
        raise DataError(f"{path} was edited: its checksum does not match; prepare it again")
    if fault := content_fault(manifest):
        raise DataError(f"{path} is damaged: {fault}; prepare it again")
    return dict(manifest)


def decoding_of(manifest: dict[str, Any]) -> Decoding:
    """How the images of a prepared data set were decoded."""
    digits, value_range = manifest.get("background"), manifest.get("value_range")
    known: dict[str, Any] = {}
    if isinstance(digits, str) and re.fullmatch(r"#[0-9a-f]{6}", digits):
        known["background"] = tuple(bytes.fromhex(digits[1:]))
    if isinstance(value_range, list) and len(value_range) == 2:
        known["value_range"] = (float(value_range[0]), float(value_range[1]))
    return Decoding(**known)


def _is_shard(shard: Any) -> bool:
    """Whether this is an entry of ``shards``. Its file must be a plain name: it cannot point elsewhere."""
    kinds = {"file": str, "count": int, "bytes": int, "sha256": str}
    if not isinstance(shard, dict) or any(not isinstance(shard.get(key), kind) for key, kind in kinds.items()):
        return False
    return shard["file"] == ARCHIVE or _SHARD.fullmatch(shard["file"]) is not None
