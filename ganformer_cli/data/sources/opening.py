"""Which kind of source a path is: recognized by its content, not by its name."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import islice
from pathlib import Path

from ganformer_cli.config.source_formats import SOURCE_FORMATS
from ganformer_cli.data.file_kinds import unread_text
from ganformer_cli.data.manifest import read_manifest
from ganformer_cli.data.sources.arrays import NpySource, NpzSource
from ganformer_cli.data.sources.base import (
    DAMAGED,
    READ_ERRORS,
    Source,
    has_image_suffix,
    reason,
    wanted_images,
)
from ganformer_cli.data.sources.chained import ChainedSource
from ganformer_cli.data.sources.folders import FolderSource, walk
from ganformer_cli.data.sources.hdf5 import Hdf5Source
from ganformer_cli.data.sources.lmdbs import DATA, LmdbSource, Unpacked, is_lmdb
from ganformer_cli.data.sources.records import starts_as_records
from ganformer_cli.data.sources.tars import COMPRESSED, TarSource, is_tar
from ganformer_cli.data.sources.tfds import TfdsSource
from ganformer_cli.data.sources.tfrecords import FolderFiles, TfrecordsSource, ZipFiles, part_of
from ganformer_cli.data.sources.webdataset import WebdatasetSource, label_kind_of
from ganformer_cli.data.sources.zips import ZipSource
from ganformer_cli.data.zips import ZipIndex
from ganformer_cli.errors import ConfigError, DataError
from ganformer_cli.files import error_reason, open_regular, read_json, why_no_file

_START = 4096  # bytes of a file that are looked at; HDF5 may begin after a block of the user's own
_PROBED = 10_000  # files of a folder or zip that are looked at, at most, to see what it mostly holds
_TAR_SUFFIXES = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")
_MAGIC = {
    b"PK\3\4": "zip", b"PK\5\6": "zip", b"PK\7\x08": "zip", b"\x93NUMPY": "npy", b"\x89HDF\r\n\x1a\n": "hdf5",
}  # fmt: skip
_SOURCES: dict[str, Callable[[Path, str | None], Source]] = {"npy": NpySource, "hdf5": Hdf5Source, "lmdb": LmdbSource}
# What people give by mistake, and what to say of it.
_MISTAKES = {
    **dict.fromkeys(COMPRESSED, "compressed, but not a tar, or damaged: download it again, or unpack it first"),
    b"7z\xbc\xaf": "a 7z archive: unpack it, and give the folder",
    b"Rar!": "a rar archive: unpack it, and give the folder",
    b"\x89PNG": "one image: give the folder that it lies in",
    b"\xff\xd8\xff": "one image: give the folder that it lies in",
    b"\x80\x04\x95": "a pickle, which can run any code: save the images as .npy or .png",
}  # fmt: skip


def open_source(
    path: Path, *, format: str | None = None, labels: str | None = None, resolution: int | None = None
) -> Source:
    """The images at ``path``.

    Args:
        format: one of :data:`SOURCE_FORMATS`; None recognizes the content. ``png`` and ``jpg`` take such files only,
            of a folder, zip or tar.
        labels: None takes what lies in the source (``dataset.json`` and the like); ``none``; ``folders``, where a
            image's class is its first folder; or the path of a ``.npy``, ``.csv`` or ``.json`` file.
        resolution: which files of TFRecords of several resolutions; None takes the largest.

    Raises:
        ConfigError: there is no such format.
        DataError: there is nothing there, or nothing that is recognised, or it is empty or damaged, or a library is
            missing.
        OutputError: there is not enough space to unpack it.
    """
    if format is not None and format not in SOURCE_FORMATS:
        raise ConfigError(f"--format {format}: choose one of {', '.join(SOURCE_FORMATS)}")
    try:
        source = TfdsSource(path, labels) if format == "tfds" else _open(path, format, labels, resolution)
    except OSError as error:
        raise DataError(f"{error.filename or path} cannot be read: {error_reason(error)}") from error
    except READ_ERRORS as error:
        raise DataError(f"{path} is damaged or cut short ({reason(error)}); download it again") from error
    try:
        _refuse_empty(source, format)
    except BaseException:
        source.close()
        raise
    return source


def _refuse_empty(source: Source, format: str | None) -> None:
    """Raise if nothing of it can be used: the images are not counted for it where that takes long."""
    first = next(iter(source.items()), None)
    if first is None:
        raise no_images(source, {"png": " ending in .png", "jpg": " ending in .jpg or .jpeg"}.get(format or "", ""))
    if first.data is None and first.error.startswith(DAMAGED) and source.count() == 1:
        raise DataError(f"{source.path}: {first.error}; download it again")


def no_images(source: Source, ending: str = "") -> DataError:
    """The error that there are none in ``source``, and what there is instead."""
    others, unread = source.others(), source.unread_files().unread
    found = f"the {others} files in it are something else" if others else "it is empty"
    found += f" ({unread_text(unread)})" if unread else ""
    return DataError(f"{source.path} holds no images{ending}; {found}")


def _open(path: Path, format: str | None, labels: str | None, resolution: int | None) -> Source:
    if path.is_dir():
        return _open_folder(path, format, labels, resolution)
    if why := why_no_file(path):
        raise DataError(f"{path} {why}; give the path of a folder, an archive or an array of images")
    found = _kind_of_file(path)
    if found == "zip":
        return _open_zip(path, format, labels, resolution)
    if found == "tar":
        if format == "webdataset" or (format is None and label_kind_of(path) is not None):
            return WebdatasetSource(path, [], [], labels)
        if format not in (None, "tar", "png", "jpg"):
            raise _misfit(path, format, found)
        return TarSource(path, wanted_images(format), labels)
    if format not in (None, found):
        raise _misfit(path, format, found)
    if (kind := _SOURCES.get(found)) is not None:
        return kind(path, labels)
    return TfrecordsSource(FolderFiles(path), resolution, labels)


def _open_folder(path: Path, format: str | None, labels: str | None, resolution: int | None) -> Source:
    prepared = _prepared_zips(path) if format in (None, "zip") else []
    if prepared:
        source = _open_prepared(path, prepared, labels)
        if labels is None and source.labels.kind == "classes":
            try:
                described = (read_manifest(path) or {}).get("labels") or {}
                source.labels.class_names, source.labels.class_count = described.get("names"), described.get("size")
            except DataError as error:
                source.labels.notes.append(f"classes have no names: {error}")
        return source
    if format in (None, "lmdb"):
        near = (name for name in islice(walk(path), _PROBED) if name.count("/") < 2)
        database = next((name for name in near if name.rpartition("/")[2] == DATA), None)
        if database is not None:
            return LmdbSource(path, labels, data=path / database)
    found = format or _kind_of_content(walk(path)) or "folder"
    if found == "tfrecords":
        return TfrecordsSource(FolderFiles(path), resolution, labels)
    if found in ("webdataset", "tar"):
        names = list(walk(path))
        shards = [name for name in names if name.lower().endswith(_TAR_SUFFIXES)]
        if not shards:
            raise DataError(f"{path} holds no tars; leave --format out, or give the folder that they lie in")
        return WebdatasetSource(path, shards, sorted({*names} - {*shards}), labels)
    if format not in (None, "png", "jpg"):
        raise _misfit(path, format, "folder")
    return FolderSource(path, wanted_images(format), labels)


def _open_zip(path: Path, format: str | None, labels: str | None, resolution: int | None) -> Source:
    index = ZipIndex(path)
    try:
        database = next((name for name in index.names() if name.rpartition("/")[2] == DATA), None)
        found = "lmdb" if database is not None else _kind_of_content(index.names()) or "zip"
        if found == "zip" and len(index) and all(name.endswith(".npy") for name in islice(index.names(), _PROBED)):
            found = "npy"
        forced = "zip" if format in ("png", "jpg") else format or found
        if forced == "zip":
            return ZipSource(index, wanted_images(format), labels)
    except BaseException:
        index.close()
        raise
    index.close()
    if forced == "npy" and found == "npy":
        return NpzSource(path, labels)
    if forced == "tfrecords":
        return TfrecordsSource(ZipFiles(path), resolution, labels)
    if forced == "lmdb" and database is not None:
        unpacked = Unpacked(path, database)
        return LmdbSource(path, labels, data=unpacked.data, unpacked=unpacked)
    if found == "webdataset" and format is None:
        raise DataError(f"{path} is a zip of tars; unpack it, and give the folder")
    raise _misfit(path, format, found)


def _misfit(path: Path, format: str | None, found: str) -> DataError:
    return DataError(f"--format {format}: {path} is something else ({found}); leave the option out")


def _kind_of_content(names: Iterable[str]) -> str | None:
    """What most of these files are: "tfrecords" or "webdataset"; None for images, and what is something else."""
    images = records = tars = 0
    for name in islice(names, _PROBED):
        images += has_image_suffix(name)
        records += part_of(name.rpartition("/")[2]) is not None
        tars += name.lower().endswith(_TAR_SUFFIXES)
    if max(records, tars) <= images:  # a preview beside the data is no image of the source
        return None
    return "tfrecords" if records >= tars else "webdataset"


def _kind_of_file(path: Path) -> str:
    """What a file is, by its first bytes."""
    with open_regular(path) as stream:
        start = stream.read(_START)
    for magic, kind in _MAGIC.items():
        if any(start.startswith(magic, at) for at in ((0, 512, 1024, 2048) if kind == "hdf5" else (0,))):
            return kind
    if is_lmdb(start):
        return "lmdb"
    if starts_as_records(start):
        return "tfrecords"
    if is_tar(path):
        return "tar"
    with suppress(zipfile.BadZipFile):  # behind something else, as in a program that unpacks itself
        ZipIndex(path).close()
        return "zip"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not start:
        why = "an empty file: download it again"
    elif text.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        why = "a web page, not an archive: the download went wrong; repeat it in a browser"
    else:
        mistakes = (why for magic, why in _MISTAKES.items() if start.startswith(magic))
        why = next(mistakes, "not a known kind of source: give a folder, an archive or an array of images")
    raise DataError(f"{path} is {why}")


def _prepared_zips(path: Path) -> list[Path]:
    """The zips of a data set that ``ganformer prepare`` made; none if it did not."""
    try:
        manifest = read_json(path / "manifest.json")
        if not str(manifest["format"]).startswith("ganformer-dataset/"):
            return []
    except (DataError, TypeError, KeyError):
        return []
    return sorted(path.glob("images*.zip"))


def _open_prepared(path: Path, zips: list[Path], labels: str | None) -> Source:
    if len(zips) == 1:
        return _open_zip(zips[0], "zip", labels, None)
    if labels not in (None, "none"):
        raise DataError(f"--labels {labels}: {path} is a prepared data set in {len(zips)} parts; give its source")
    parts: list[Source] = []
    try:
        for file in zips:
            parts.append(_open_zip(file, "zip", labels, None))
            parts[-1].close()  # it is opened again when its turn comes: a system opens only so many files at a time
        return ChainedSource(path, parts)
    except BaseException:
        for part in parts:
            part.close()
        raise
