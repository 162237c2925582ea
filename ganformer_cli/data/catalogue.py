"""The data sets that are known by name: one file each in ``datasets/``, and the user's own in the same form."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ganformer_cli.config import MODEL_FIELDS, TRAIN_FIELDS, ModelConfig, TrainConfig, names
from ganformer_cli.config.source_formats import DOWNLOAD_FORMATS
from ganformer_cli.downloads.checksums import split_checksum
from ganformer_cli.downloads.drive import drive_address
from ganformer_cli.errors import ConfigError, DataError
from ganformer_cli.files import GB, read_toml
from ganformer_cli.resources import resource_folder
from ganformer_cli.text import printable

SCENES = "scenes"  # the built-in set's name
MAX_DOWNLOAD_BYTES = 10**15  # of a download: a petabyte
_ID = re.compile(r"[\w-]{10,100}", re.ASCII)  # of a file of Drive's
_PLAIN = re.compile(r"[^<>:\"/\\|?*\x00-\x1f]{1,150}(?<![. ])")  # a file's name on every system


class _Wrong(ValueError):
    """A key and what is wrong with it."""


@dataclass(frozen=True)
class DownloadSource:
    """One place where a data set can be downloaded."""

    format: str  # a key of DOWNLOAD_FORMATS
    url: str | None = None
    drive: str | None = None  # the id of a file of Google Drive; instead of url
    md5: str | None = None
    sha256: str | None = None
    gigabytes: float | None = None  # about; 10**9 bytes
    bytes: int | None = None  # exactly
    folder: str | None = None  # inside the archive: what lies elsewhere is not looked at

    @property
    def address(self) -> str:
        """What a person can open in a browser."""
        return self.url if self.url is not None else drive_address(self.drive or "")

    @property
    def size(self) -> int | None:
        """Its approximate size in bytes."""
        if self.bytes is not None:
            return self.bytes
        return None if self.gigabytes is None else round(self.gigabytes * GB)

    @property
    def checksum(self) -> str | None:
        """``"sha256:…"`` or ``"md5:…"``."""
        if self.sha256 is not None:
            return f"sha256:{self.sha256.lower()}"
        return None if self.md5 is None else f"md5:{self.md5.lower()}"

    @property
    def opened_as(self) -> str:
        """How it is read, see ``open_source``."""
        return DOWNLOAD_FORMATS[self.format][0]

    def file_name(self, entry: str) -> str:
        """What the download is called on disk; ``entry`` is the data set's name."""
        if self.url is not None:
            name = unquote(urlsplit(self.url).path).rpartition("/")[2]
            if _PLAIN.fullmatch(name) and not name.startswith("."):
                return name
        return entry + DOWNLOAD_FORMATS[self.format][1]


@dataclass(frozen=True)
class Reported:
    """Scores of models of a data set that a publication reports."""

    source: str  # the publication, one line
    resolution: int  # longer side of the images that were compared
    images: int  # how many were generated
    fid: dict[str, float]  # Fréchet Inception distance, by the model's name


@dataclass(frozen=True)
class CatalogueEntry:
    """What ``datasets/NAME.toml`` says."""

    name: str  # the file's stem, and the name on the command line
    title: str
    licence: str  # one line
    ratio: float  # height / width of its images
    resolution: int | None = None  # longer side that it is usually trained at; None: any
    images: int | None = None  # how many images it has
    homepage: str | None = None
    source: tuple[DownloadSource, ...] = ()  # tried in order
    preset: dict[str, Any] = field(default_factory=dict)  # options of ``ganformer train``, with underscores
    reported: Reported | None = None


@cache
def load_catalogue() -> dict[str, CatalogueEntry]:
    """Every shipped entry, by name, in alphabetical order.

    Raises:
        DataError: a file is not TOML, or has a wrong or missing key.
    """
    return {path.stem: read_entry(path) for path in sorted(resource_folder("datasets").glob("*.toml"))}


def find_entry(name: str, data_dir: Path) -> CatalogueEntry | None:
    """The entry called ``name``: the shipped one, else the user's own, ``data_dir/NAME.toml``; None without either.

    Raises:
        DataError: the user's own cannot be used.
    """
    shipped = load_catalogue().get(name)
    if shipped is not None or names.invalid_reason(unicodedata.normalize("NFC", name)):
        return shipped
    paths = (data_dir / f"{spelling}.toml" for spelling in spellings(name))
    return next((read_entry(path) for path in paths if path.is_file()), None)


def spellings(name: str) -> dict[str, None]:
    """``name``, and how else Unicode writes it: systems differ in which they keep."""
    return dict.fromkeys((name, *(unicodedata.normalize(kind, name) for kind in ("NFC", "NFD"))))


def own_entries(data_dir: Path) -> list[Path]:
    """The files of the user's own entries in ``data_dir``."""
    return sorted(path for path in data_dir.glob("*.toml") if path.stem not in load_catalogue())


def read_entry(path: Path) -> CatalogueEntry:
    """One entry of the catalogue.

    Raises:
        DataError: the file is not TOML, or has a wrong or missing key.
    """
    try:
        values = read_toml(path)
        _check(values, _ENTRY, "", needed=("title", "licence", "ratio"))
        sources = values.get("source", [])
        for number, source in enumerate(sources, 1):
            _check_source(source, f"source {number}: " if len(sources) > 1 else "source: ")
        values["source"] = tuple(DownloadSource(format=source.pop("form"), **source) for source in sources)
        values["ratio"] = float(values["ratio"])
        if "reported" in values:
            _check(values["reported"], _REPORTED, "reported: ", needed=tuple(_REPORTED))
            values["reported"] = Reported(**values["reported"])
        entry = CatalogueEntry(name=names.check_name("its file's name", path.stem), **values)
        _check_preset(entry)
    except (ValueError, ConfigError) as error:
        raise DataError(f"{path} is not a valid catalogue entry: {error}") from error
    return entry


# ---- What a file may say ---------------------------------------------------------------------------------------------


def _line(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and "\n" not in value and len(value) <= 500


def _number(most: float) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= most


def _whole(most: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and 0 < value <= most


def _address(value: Any) -> bool:
    try:
        return isinstance(value, str) and urlsplit(value).scheme in {"http", "https"} and bool(urlsplit(value).hostname)
    except ValueError:  # brackets that do not close, for instance
        return False


def _inside(value: Any) -> bool:
    """A folder in an archive: no part of it leads out, and none is empty."""
    return isinstance(value, str) and all(part not in {"", ".", ".."} for part in value.split("/"))


_Rules = dict[str, tuple[Callable[[Any], bool], str]]  # what a key's value must be, in a program's words and in ours

_ENTRY: _Rules = {
    "title": (_line, "a line of text"),
    "licence": (_line, 'a line of text, such as "CC BY 4.0"'),
    "homepage": (_address, "an address that begins with http:// or https://"),
    "ratio": (_number(1000), "height / width, a number above 0"),
    "resolution": (_whole(1 << 16), f"a whole number of pixels, at most {1 << 16}"),
    "images": (_whole(10**10), "a whole number of images, at most 10^10"),
    "source": (lambda value: isinstance(value, list), "written as [[source]]"),
    "preset": (lambda value: isinstance(value, dict), "written as [preset]"),
    "reported": (lambda value: isinstance(value, dict), "written as [reported]"),
}
_REPORTED: _Rules = {
    "source": (_line, "a line of text that names the publication"),
    "resolution": (_whole(1 << 16), f"a whole number of pixels, at most {1 << 16}"),
    "images": (_whole(10**10), "a whole number of images, at most 10^10"),
    "fid": (
        lambda value: isinstance(value, dict) and all(map(_number(1e6), value.values())),
        "a number above 0 for each model, written as [reported.fid]",
    ),
}
_SOURCE: _Rules = {
    "form": (
        lambda value: isinstance(value, str) and value in DOWNLOAD_FORMATS,
        f"one of {', '.join(DOWNLOAD_FORMATS)}",
    ),
    "url": (_address, "an address that begins with http:// or https://"),
    "drive": (lambda value: isinstance(value, str) and bool(_ID.fullmatch(value)), "the id of a file of Google Drive"),
    "md5": (lambda value: _is_checksum("md5", value), "32 hexadecimal digits"),
    "sha256": (lambda value: _is_checksum("sha256", value), "64 hexadecimal digits"),
    "gigabytes": (_number(MAX_DOWNLOAD_BYTES / GB), f"a number above 0, at most {MAX_DOWNLOAD_BYTES // GB:,}"),
    "bytes": (_whole(MAX_DOWNLOAD_BYTES), f"a whole number above 0, at most {MAX_DOWNLOAD_BYTES:,}"),
    "folder": (_inside, "a folder inside the archive, such as CLEVR_v1.0/images"),
}


def _is_checksum(kind: str, value: Any) -> bool:
    try:
        split_checksum(f"{kind}:{value}")
    except ValueError:
        return False
    return isinstance(value, str)


def _check(values: Mapping[str, Any], rules: _Rules, where: str, *, needed: tuple[str, ...]) -> None:
    for key, value in values.items():
        if key not in rules:
            advice = _did_you_mean(key, rules) or f"known are {', '.join(rules)}"
            raise _Wrong(f"{where}{printable(key, limit=80)} is not a known key; {advice}")
        fits, meant = rules[key]
        if not fits(value):
            raise _Wrong(f"{where}{key} = {printable(repr(value), limit=80)} must be {meant}")
    for key in needed:
        if key not in values:
            raise _Wrong(f"{where}{key} is missing: {rules[key][1]}")


def _did_you_mean(key: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {near[0]}?" if near else ""


def _check_source(source: Any, where: str) -> None:
    if not isinstance(source, dict):
        raise _Wrong(f"{where}must be written as [[source]]")
    _check(source, _SOURCE, where, needed=("form",))
    if ("url" in source) == ("drive" in source):
        raise _Wrong(f"{where}must have either url or drive")
    if "folder" in source and source["form"] != "zip of pictures":
        raise _Wrong(f"{where}folder needs a zip of pictures, not {source['form']}")


def _check_preset(entry: CatalogueEntry) -> None:
    """Whether models and runs take the ratio, the resolution and the preset."""
    for key in entry.preset:
        if key not in MODEL_FIELDS | TRAIN_FIELDS:
            near = _did_you_mean(key.replace("-", "_"), sorted(MODEL_FIELDS | TRAIN_FIELDS))
            advice = near or "it is not an option of ganformer train"
            raise _Wrong(f"preset: {printable(key, limit=80)} is unknown; {advice}")
    model = {"ratio": entry.ratio, **({} if entry.resolution is None else {"resolution": entry.resolution})}
    ModelConfig.from_dict({**model, **_part(entry.preset, MODEL_FIELDS)}, "preset")
    TrainConfig.from_dict(_part(entry.preset, TRAIN_FIELDS), "preset")


def _part(values: Mapping[str, Any], names: frozenset[str]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key in names}
