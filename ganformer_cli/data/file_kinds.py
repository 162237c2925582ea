"""Which files of a folder or an archive are images, which belong to images, and which are not read and so reported.

A file with the suffix of an image that can be read is an image. Any other is looked into, for suffixes get lost and are
made up. What is left is either an expected companion (labels, notes, licences), or counted by its suffix, so that
nothing is missing without a word: HEIC where ``pillow-heif`` is not installed, movies, raw files of cameras, archives.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from pathlib import Path

from PIL import Image

from ganformer_cli.data.image_formats import HEIF_INSTALL, readable_formats, readable_suffixes, start_format
from ganformer_cli.files import open_regular

START = 4096  # bytes of a file that are looked at

_SHOWN = 6  # kinds of files that are named
_NO_SUFFIX = "without suffix"  # or with something that is none
_PLAIN_SUFFIX = re.compile(r"\.[a-z0-9_+-]{1,12}")
_HEIF = frozenset({".heic", ".heif", ".heics", ".heifs", ".hif"})
_ARCHIVES = frozenset({".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar"})
# They begin as TIFFs do, and what Pillow finds in them is a small preview.
_CAMERA_RAW = frozenset({
    ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".iiq", ".kdc", ".mef", ".mos",
    ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f",
})  # fmt: skip
# What commonly lies beside images and says something about them.
_COMPANIONS = frozenset({
    ".aae", ".bib", ".cfg", ".conf", ".css", ".csv", ".htm", ".html", ".ini", ".ipynb", ".json", ".jsonl",
    ".labels", ".lnk", ".log", ".md", ".md5", ".mdb", ".ndjson", ".nfo", ".parquet", ".py", ".rst", ".sh",
    ".sha256", ".toml", ".tsv", ".txt", ".url", ".xml", ".xmp", ".yaml", ".yml",
})  # fmt: skip
_COMPANION_NAMES = frozenset({
    "authors", "changelog", "citation", "contributing", "copying", "credits", "desktop.ini",
    "ehthumbs.db", "licence", "license", "makefile", "notice", "readme", "thumbs.db", "version",
})  # fmt: skip
_ARRAYS = frozenset({".npy", ".npz", ".mat"})
_OF_LABELS = re.compile(r"label|class|attr|annot|latent|feature|embed|split|index|meta", re.IGNORECASE)
# What ``ganformer generate`` draws of images, beside them in older versions: each says so in its head.
_SHEET = re.compile(
    r"(grid|truncation|best|worst|training|noise-variation|disentanglement|style-mix-[\w-]+|interpolation[\w.-]*|frame\d{5}"
    r"|(seed|image)\d+(-psi[\d.e+-]+)?-(maps|layer-maps|mix-\w+|component-psi))\.(png|gif|webp)"
)
_ABOUT = re.compile(rb"ganformer[\0 ](\{)")


class FileKind(Enum):
    """What a file among images is."""

    IMAGE = "image"
    COMPANION = "companion"  # expected beside images, and no image
    SHEET = "sheet"  # drawn of images by ``ganformer generate``
    UNREAD = "unread"


class ImageSelection:
    """Which files are taken as images.

    Args:
        suffixes: of images, lower case, with the dot; None: all that can be read, and what proves to be an image.
    """

    def __init__(self, suffixes: frozenset[str] | None = None) -> None:
        self._suffixes = readable_suffixes() if suffixes is None else suffixes
        self._chosen = suffixes is not None  # by the user: what else there is, is left out on purpose

    def kind(self, name: str, start: Callable[[], bytes]) -> FileKind:
        """What a file is, by its name and, where that does not say enough, by its first :data:`START` bytes."""
        file = name.rpartition("/")[2]
        suffix = os.path.splitext(file)[1].lower()
        if suffix in self._suffixes:
            is_sheet = _SHEET.fullmatch(file) is not None and is_drawn_figure(file, start())
            return FileKind.SHEET if is_sheet else FileKind.IMAGE
        if self._chosen or is_companion(file):
            return FileKind.COMPANION
        if suffix not in _CAMERA_RAW and starts_as_image(start()):
            return FileKind.IMAGE
        return FileKind.UNREAD


class UnreadFiles:
    """The files that are no images: how many of what."""

    def __init__(self) -> None:
        self.unread: Counter[str] = Counter()  # by suffix
        self.sheets = 0

    def add(self, name: str, kind: FileKind) -> None:
        """Count a file."""
        if kind is FileKind.UNREAD:
            suffix = os.path.splitext(name.rpartition("/")[2])[1].lower()
            self.unread[suffix if _PLAIN_SUFFIX.fullmatch(suffix) else _NO_SUFFIX] += 1
        self.sheets += kind is FileKind.SHEET

    def add_beside(self, name: str) -> None:
        """Count a file that lies beside images in records or archives; a preview of them is expected there."""
        file = name.rpartition("/")[2]
        expected = is_companion(file) or file.lower().startswith("preview")
        self.add(name, FileKind.COMPANION if expected else FileKind.UNREAD)

    @classmethod
    def sum(cls, parts: Iterable[UnreadFiles]) -> UnreadFiles:
        """Of several places together."""
        whole = cls()
        for part in parts:
            whole.unread.update(part.unread)
            whole.sheets += part.sheets
        return whole

    def notes(self) -> list[str]:
        """What to say of them, a sentence each."""
        said = []
        if self.unread:
            said.append(f"{unread_count_text(self.unread)}: {unread_text(self.unread)}")
        if self.sheets:
            said.append(figures_text(self.sheets))
        return said


def is_hidden(name: str) -> bool:
    """Whether a part of this path is what systems leave behind: ``.DS_Store``, ``._a.png``, ``__MACOSX``."""
    return any((part.startswith(".") and part not in {".", ".."}) or part == "__MACOSX" for part in name.split("/"))


def is_companion(file: str) -> bool:
    """Whether a file of this name is expected beside images: labels, notes, licences, what systems leave behind."""
    stem, suffix = os.path.splitext(file.lower())
    if suffix in _COMPANIONS or file.lower() in _COMPANION_NAMES or (stem in _COMPANION_NAMES and not suffix):
        return True
    return suffix in _ARRAYS and _OF_LABELS.search(stem) is not None


def unread_count_text(unread: Mapping[str, int]) -> str:
    """As in ``40 files are not read``."""
    count = sum(unread.values())
    return "1 file is not read" if count == 1 else f"{count} files are not read"


def unread_text(unread: Mapping[str, int]) -> str:
    """As in ``40 .heic (to read them: pip install "ganformer[heif]"), 1 .mp4``."""
    ordered = sorted(unread.items(), key=lambda one: (-one[1], one[0]))
    parts = []
    for suffix, count in ordered[:_SHOWN]:
        advice = next((f" ({text})" for suffixes, text in _ADVICE if suffix in suffixes), "")
        parts.append(f"{count} {suffix}{advice}")
    if len(ordered) > _SHOWN:
        parts.append(f"{sum(count for _, count in ordered[_SHOWN:])} others")
    return ", ".join(parts)


def figures_text(count: int) -> str:
    """That sheets are left out."""
    figures = "1 figure" if count == 1 else f"{count} figures"
    verb = "is" if count == 1 else "are"
    return f"{figures} drawn by ganformer generate {verb} left out (grids, maps and the like)"


_ADVICE = (
    (_HEIF, f"to read them: {HEIF_INSTALL}"),
    ({".avif"}, "to read them: pip install --upgrade pillow"),
    (_ARCHIVES, "archives: unpack them, or prepare each by itself"),
    (_CAMERA_RAW, "camera raw: develop them to PNG or TIFF"),
)


def starts_as_image(start: bytes) -> bool:
    """Whether a file that starts so is an image that can be read here."""
    return start_format(start) in readable_formats()


def is_drawn_figure(file: str, start: bytes) -> bool:
    """Whether a file that starts so says of itself that ``ganformer generate`` drew it of images."""
    if file.lower().endswith(".webp"):  # it says so at its end
        return file.startswith("interpolation") and start[12:16] == b"VP8X" and b"ANIM" in start[:64]
    if start.startswith(b"GIF8"):  # its comment is cut into blocks
        try:
            with Image.open(io.BytesIO(start), formats=("GIF",)) as image:
                comment = image.info.get("comment", b"")
        except Exception:  # a damaged file can break a decoder in any way
            return False
        start = comment if isinstance(comment, bytes) else b""
    for found in _ABOUT.finditer(start):
        try:
            about, _ = json.JSONDecoder().raw_decode(start[found.start(1) :].decode("ascii", "replace"))
        except (ValueError, RecursionError):
            continue
        if isinstance(about, dict) and "figure" in about:
            return True
    return False


def start_of(path: Path) -> bytes:
    """The first :data:`START` bytes of a file; none where it cannot be read."""
    try:
        with open_regular(path) as stream:
            return stream.read(START)
    except (OSError, ValueError):
        return b""
