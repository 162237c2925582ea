"""A folder of generated images: the names of its files, ``images.json``, and which files are kept.

Each folder that ``ganformer generate`` writes to has an ``images.json``. It lists the folder's files, each with the
metadata of what it is made from; what all files share stands once at the top:

    {"model": "5d0c…", "truncation_psi": 0.7, "files": {"seed0000.png": {"seed": 0}, "seed0001.png": {"seed": 1}}}

Files are listed before they are drawn, so that the same command continues where it was killed: a listed file that is
there is kept. A listed file with other metadata is in the way. A file that is not listed (of an older version, or of
a command that ran at the same time) is judged by the metadata in the file itself.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy.typing as npt

from ganformer_cli.errors import GanformerError, OutputError
from ganformer_cli.files import Warn, quietly, read_json, remove, write_json
from ganformer_cli.sampling.image_files import read_metadata

INDEX_FILE = "images.json"
ARRAY_FILE = "images.npy"
LATENTS_FILE = "latents.npy"
#: More images than this lie in sub-folders: a folder of a million files is slow everywhere.
MAX_IN_FOLDER = 10_000
#: Images in a sub-folder.
SUBFOLDER_SIZE = 1000
#: End of the name of the folder with the sheets and films of a folder of images.
SHEETS_SUFFIX = "-sheets"

# For people: the names of run and file. They may change; the model's checksum decides. "result" is what was measured.
_NOT_COMPARED = ("run", "file", "result")
# Names that say enough: images, what belongs to one, and sub-folders.
_OUR_NAMES = re.compile(r"(seed|image)\d{4,}(-[^/\\]+)?\.\w+|\d{6}|interpolation[\w.-]*|disentanglement\.\w+")
_SYSTEM_FILES = {"thumbs.db", "desktop.ini"}
_ATTEMPTS = 5  # to write images.json
_PART = re.compile(r"\.(?P<name>.+)\.[^.]+\.part")  # half written


# ----- What is to be made -----


class PlannedImage(NamedTuple):
    """One image to be made."""

    place: int  # among all
    number: int  # its seed, or the row of given latents
    psi: float
    stem: str  # of its files' names
    file: Path


@dataclass(frozen=True)
class ImagePlan:
    """All images of a command: every seed, or row of given latents, with the first psi, then with the next one."""

    folder: Path
    format: str  # png, jpg, webp or npy
    numbers: Sequence[int]
    psis: tuple[float, ...]
    settings: Mapping[str, Any]  # metadata that all images share: the model, ...
    latents: npt.NDArray[Any] | None = None
    sheets_dir: Path | None = None  # None: beside the folder, see :attr:`sheets`

    def __len__(self) -> int:
        return len(self.numbers) * len(self.psis)

    @property
    def in_subfolders(self) -> bool:
        """Whether the images lie in sub-folders."""
        return len(self) > MAX_IN_FOLDER

    @property
    def subfolders(self) -> list[Path]:
        """The sub-folders."""
        return [self.image(index).file.parent for index in range(0, len(self), SUBFOLDER_SIZE)]

    @property
    def sheets(self) -> Path:
        """The folder of everything that is drawn of the images.

        It lies beside the folder of the images, not in it: other programs take every image of a folder, many of them
        with all below it.
        """
        if self.sheets_dir is not None:
            return self.sheets_dir
        folder = self.folder if self.folder.name not in ("", "..") else self.folder.resolve()
        return folder.with_name(f"{folder.name}{SHEETS_SUFFIX}") if folder.name else folder / SHEETS_SUFFIX.lstrip("-")

    def image(self, index: int) -> PlannedImage:
        """One of all."""
        turn, place = divmod(index, len(self.numbers))
        number, psi = self.numbers[place], self.psis[turn]
        stem = f"{self.kind}{number:04d}"
        if len(self.psis) > 1:
            short = f"{psi:g}"
            stem += f"-psi{short if float(short) == psi else psi}"
        folder = self.folder / f"{index // SUBFOLDER_SIZE:06d}" if self.in_subfolders else self.folder
        file = self.folder / ARRAY_FILE if self.format == "npy" else folder / f"{stem}.{self.format}"
        return PlannedImage(index, number, psi, stem, file)

    @property
    def kind(self) -> str:
        """``seed`` or ``image`` (of given latents): how file names begin."""
        return "seed" if self.latents is None else "image"

    def sheet(self, image: PlannedImage, name: str) -> Path:
        """The file of a sheet of one image, for instance its ``maps.png``."""
        folder = self.sheets
        if self.in_subfolders and self.format != "npy":
            folder /= image.file.parent.name
        return folder / f"{image.stem}-{name}"

    def files(self, image: PlannedImage, sheets: Mapping[str, Mapping[str, Any]]) -> dict[Path, dict[str, Any]]:
        """The files of one image with their metadata; ``sheets``: what those of its sheets say in addition."""
        metadata = {**self.settings, "truncation_psi": image.psi, **self._source(image.number)}
        files = {self.sheet(image, name): {**metadata, **more} for name, more in sheets.items()}
        return files if self.format == "npy" else {image.file: metadata, **files}

    def metadata(self, **figure: Any) -> dict[str, Any]:
        """The metadata of a file made of several images: which ones, as a checksum."""
        psi = self.psis[0] if len(self.psis) == 1 else list(self.psis)
        return {**self.settings, "truncation_psi": psi, "pictures": self._checksum, **figure}

    @cached_property
    def _checksum(self) -> str:
        digest = hashlib.sha256()
        for number in self.numbers:
            digest.update(repr(self._source(number)).encode())
        return digest.hexdigest()[:16]

    def array_metadata(self) -> dict[str, Any]:
        """The metadata of ``images.npy``: which row is which seed."""
        return {**self.metadata(), **self._rows()}

    def latents_metadata(self, shape: Sequence[int]) -> dict[str, Any]:
        """The metadata of ``latents.npy``, an array of ``shape``."""
        metadata: dict[str, Any] = {"figure": "latents", "shape": list(shape), **self._rows()}
        if self.latents is not None:
            metadata["pictures"] = self._checksum
        return metadata

    def _rows(self) -> dict[str, list[int]]:
        return {"seeds" if self.latents is None else "rows": [int(number) for number in self.numbers]}

    def _source(self, number: int) -> dict[str, Any]:
        if self.latents is None:
            return {"seed": number}
        return {"row": number, "latents": hashlib.sha256(self.latents[number].tobytes()).hexdigest()[:16]}


# ----- What is there -----


class FolderIndex:
    """The files of a folder, and what its ``images.json`` says of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names = set(os.listdir(folder)) if folder.is_dir() else set()
        self.parts: dict[str, list[str]] = {}  # half written, by the name of the file
        for name in self.names:
            if part := _PART.fullmatch(name):
                self.parts.setdefault(part["name"], []).append(name)
        self.listed = _read_index(folder / INDEX_FILE) if INDEX_FILE in self.names else {}

    def metadata(self, name: str) -> dict[str, Any] | None:
        """The metadata of a file; None if it is not ganformer's."""
        return self.listed.get(name) or read_metadata(self.folder / name)

    def remove_parts(self, name: str, warn: Warn) -> None:
        """Remove what a killed command left half written of a file."""
        for part in self.parts.pop(name, ()):
            remove(self.folder / part, warn=warn)

    def save(self) -> None:
        """Write ``images.json``."""
        entries = list(self.listed.values())
        shared = {
            key: value
            for key, value in (entries[0] if entries else {}).items()
            if all(key in entry and entry[key] == value for entry in entries)
        }
        own = {
            name: {key: value for key, value in entry.items() if key not in shared}
            for name, entry in sorted(self.listed.items())
        }
        for left in reversed(range(_ATTEMPTS)):
            try:
                return write_json(self.folder / INDEX_FILE, {**shared, "files": own})
            except OutputError as error:
                # Another command that starts now has taken the half written file for one that a kill left.
                if not (left and isinstance(error.__cause__, FileNotFoundError)):
                    raise


def _read_index(path: Path) -> dict[str, dict[str, Any]]:
    try:
        content = read_json(path)
    except GanformerError:
        return {}  # damaged: the files say themselves what they are
    if not isinstance(content, dict):
        return {}
    files = content.pop("files", {ARRAY_FILE: {}})  # older versions wrote it for an array alone
    if not isinstance(files, dict):
        return {}
    return {name: {**content, **own} for name, own in files.items() if isinstance(own, dict)}


class OutputFolders:
    """The folders that a command writes to: what is kept in them, and what is made.

    Args:
        overwrite: replace what is in the way, instead of raising an error.
        warn: told of half written files that cannot be removed.
    """

    def __init__(self, *, overwrite: bool, warn: Warn) -> None:
        self.overwrite, self._warn = overwrite, warn
        self._indexes: dict[Path, FolderIndex] = {}

    def holds(self, files: Mapping[Path, Mapping[str, Any]]) -> bool:
        """Whether all these files are there, with this metadata; all are looked at.

        Raises:
            OutputError: a file of another origin has one of the names.
        """
        held = [self._holds(path, metadata) for path, metadata in files.items()]
        return all(held)

    def _holds(self, path: Path, metadata: Mapping[str, Any]) -> bool:
        index = self._index(path.parent)
        index.remove_parts(path.name, self._warn)
        if path.name not in index.names:
            return False
        found = index.metadata(path.name)
        if found is not None and _compared(found) == _compared(metadata):
            return True
        if self.overwrite:
            return False
        raise OutputError(
            f"{path}: {_difference(found, metadata)}; choose another --output-dir, or give --overwrite to replace it"
        )

    def result(self, path: Path) -> Any:
        """What :meth:`add` was given as the result of a file; None if there is none."""
        return self._index(path.parent).listed.get(path.name, {}).get("result")

    def announce(self, files: Mapping[Path, Mapping[str, Any]]) -> None:
        """List files that are about to be written. Of files that are to be replaced the listing is removed."""
        for folder, metadata in _by_folder(files).items():
            index = FolderIndex(folder)  # as it is now: another command may have written it meanwhile
            before = dict(index.listed)
            for name, entry in metadata.items():
                found = index.metadata(name) if name in index.names else None
                if name not in index.names:
                    index.listed[name] = entry
                elif found is not None and _compared(found) == _compared(entry):
                    index.listed.setdefault(name, entry)
                else:
                    index.listed.pop(name, None)
            index.remove_parts(INDEX_FILE, quietly)
            if index.listed != before:
                index.save()

    def add(self, files: Mapping[Path, Mapping[str, Any]]) -> None:
        """List files that have been written; ``result`` in the metadata is kept for :meth:`result`."""
        for folder, metadata in _by_folder(files).items():
            index = FolderIndex(folder)
            if any(index.listed.get(name) != entry for name, entry in metadata.items()):
                index.listed |= metadata
                index.save()

    def refuse_strangers(self, folder: Path, option: str) -> None:
        """Raise OutputError, which names ``option``, if a folder holds files that ganformer has not made."""
        index = self._index(folder)
        for name in sorted(index.names):
            known = name in {INDEX_FILE, ARRAY_FILE, LATENTS_FILE, *index.listed} or _OUR_NAMES.fullmatch(name)
            if known or name.startswith(".") or name.lower() in _SYSTEM_FILES:
                continue
            if read_metadata(folder / name) is None:
                raise OutputError(
                    f"{option} {folder}: holds other files, such as {name}; choose an empty folder, or give "
                    "--overwrite to write next to them"
                )

    def _index(self, folder: Path) -> FolderIndex:
        """The index of a folder as it was at first; those looked at last are remembered."""
        if folder not in self._indexes:
            if len(self._indexes) > 3:
                self._indexes.pop(next(iter(self._indexes)))
            self._indexes[folder] = FolderIndex(folder)
        return self._indexes[folder]


def _by_folder(files: Mapping[Path, Mapping[str, Any]]) -> dict[Path, dict[str, dict[str, Any]]]:
    folders: dict[Path, dict[str, dict[str, Any]]] = {}
    for path, metadata in files.items():
        folders.setdefault(path.parent, {})[path.name] = dict(metadata)
    return folders


def _compared(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The part of metadata that decides how an image looks."""
    return {name: value for name, value in metadata.items() if name not in _NOT_COMPARED}


def _difference(found: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> str:
    """How what lies there differs from what is wanted."""
    if found is None:
        return "was not made by ganformer, or is damaged"
    names = [name for name in _compared({**wanted, **found}) if found.get(name) != wanted.get(name)]
    known = {"model": "the model", "latents": "the latents", "pictures": "the choice of images"}
    known |= {"seeds": "the seeds", "rows": "the rows"}
    said = [
        known.get(name) or f"{name.replace('_', ' ')} {_text(found.get(name))} instead of {_text(wanted.get(name))}"
        for name in names
    ]
    return f"was made with other settings ({', '.join(said)})"


def _text(value: Any) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
