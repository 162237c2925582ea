"""From an entry of the catalogue to an archive on this disk that can be read: downloaded, and checked.

What is downloaded lies in ``<data-dir>/.downloads/NAME`` and stays there until the caller lets it go. Nothing has its
final name before it is whole, and what is there is not asked for again.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ganformer_cli.config import image_size
from ganformer_cli.config.names import quoted
from ganformer_cli.data.catalogue import CatalogueEntry, DownloadSource
from ganformer_cli.data.manifest import read_manifest
from ganformer_cli.data.prepare.options import PrepareOptions
from ganformer_cli.data.prepare.pipeline import PreparedSet, made_otherwise
from ganformer_cli.data.sources import Item, Source, open_source
from ganformer_cli.data.sources.base import IndexedSource, Labels, MissingLibraryError
from ganformer_cli.data.sources.zips import ZipSource
from ganformer_cli.downloads.checksums import CHECKSUMS, ChecksumError, check_file, checked_note
from ganformer_cli.downloads.drive import DRIVE, fetch_drive
from ganformer_cli.downloads.transfer import fetch
from ganformer_cli.errors import DataError, DownloadError, OutputError
from ganformer_cli.files import (
    GIB,
    digest_file,
    ensure_writable_folder,
    error_reason,
    quietly,
    remove,
    replace,
    why_no_file,
)
from ganformer_cli.resources import DOWNLOADS

USUAL_RESOLUTION = 256  # of an entry that does not say
PNG_SHARE = 0.65  # about what a photograph's PNG takes of its pixels

AcquireProgress = Callable[[str, int, int | None], None]  # "download" or "check"; bytes done, of how many if known


@dataclass(frozen=True)
class AcquiredArchive:
    """The archive of a data set on this disk, ready to be read."""

    path: Path
    format: str | None  # for open_source; None: whatever it is found to be
    source: DownloadSource | None  # where it comes from; None for a file that nothing is known about
    downloaded: bool  # it is ours, and no file of the user's

    def open(self, labels: str | None, resolution: int | None) -> Source:
        """Open the archive; images outside the folder that the catalogue names are left out.

        Raises:
            DataError: the file cannot be used.
        """
        try:
            opened = open_source(self.path, format=self.format, labels=labels, resolution=resolution)
        except MissingLibraryError:
            raise
        except DataError as error:
            if (aside := self._put_aside()) is None:
                raise
            raise DataError(
                f"{error}; the download is not such an archive and was put aside as {aside}: run the same command to "
                "download it anew"
            ) from error
        if self.source is None or self.source.folder is None or not isinstance(opened, ZipSource):
            return opened
        try:
            return _Within(opened, self.source.folder)
        except DataError:
            opened.close()
            raise

    def _put_aside(self) -> Path | None:
        """Rename a download that cannot be opened with any labels; None if it can be, or its checksum is right."""
        if not self.downloaded or (self.source is not None and self.source.checksum is not None):
            return None
        try:
            open_source(self.path, format=self.format, labels="none").close()
        except DataError:
            aside = self.path.with_name(f"{self.path.name}.bad")
            replace(self.path, aside)
            remove(checked_note(self.path), warn=quietly)
            remove(self.path.with_name(CHECKSUMS), warn=quietly)
            return aside
        return None

    def release(self, *, keep_download: bool) -> int:
        """Remove the archive, unless it is to be kept or is the user's; return the bytes of a download that is kept."""
        if not self.downloaded:
            return 0
        if keep_download:
            return self.path.stat().st_size
        for path in (self.path, checked_note(self.path), self.path.with_name(f"{self.path.name}.lock")):
            remove(path, warn=quietly)
        for folder in (self.path.parent, self.path.parent.parent):
            with contextlib.suppress(OSError):  # something else is in it
                folder.rmdir()
        return 0


class _Within(IndexedSource):
    """The images of a zip that lie in one folder of it."""

    def __init__(self, zipped: ZipSource, folder: str) -> None:
        self.path, self.format = zipped.path, zipped.format
        self.labels = Labels(zipped.labels.kind, zipped.labels.class_names)
        self._zipped, self._folder = zipped, folder
        below = f"{folder}/"
        self._numbers = array("Q", (number for number, name in enumerate(zipped.names()) if name.startswith(below)))
        if not self._numbers:
            raise DataError(f"{self.path}: there are no images in its folder {folder}; is it the right archive?")
        self._others = zipped.others() + zipped.count() - len(self._numbers)

    def count(self) -> int:
        return len(self._numbers)

    def item(self, number: int) -> Item:
        return self._zipped.item(self._numbers[number])

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self._zipped.fingerprint()} {self._folder}".encode()).hexdigest()

    def close(self) -> None:
        self._zipped.close()


def acquire(
    entry: CatalogueEntry,
    data_dir: Path,
    *,
    choice: int | None = None,
    output: int = 0,
    progress: AcquireProgress = lambda what, done, total: None,
    notice: Callable[[str], None] = lambda line: None,
) -> AcquiredArchive:
    """Download the images of ``entry``, unless they are there, from the first of its sources that gives them.

    Args:
        choice: the number of the only source to ask, from 1; None tries them in order.
        output: bytes that the data set made of them will take, which the disk must have, too.

    Raises:
        DataError: there is no such source.
        DownloadError: none of the sources can be had; the message says why for each.
        OutputError: the place cannot be written to, or has not enough space.
    """
    sources = _chosen(entry, choice)
    folder = data_dir / DOWNLOADS / entry.name
    # What is there goes before what would have to be downloaded.
    sources = [source for source in sources if (folder / source.file_name(entry.name)).is_file()] or sources
    refused: list[DownloadError] = []
    for source in sources:
        archive = folder / source.file_name(entry.name)
        try:
            _require_space(entry, source, archive, output)
            _download(source, archive, progress)
            return AcquiredArchive(archive, source.opened_as, source, downloaded=True)
        except ChecksumError as error:
            refused.append(
                DownloadError(
                    f"{error}. Where it is right and the catalogue is not: ganformer prepare {entry.name} --from-file "
                    "FILE --no-check"
                )
            )
        except DownloadError as error:
            refused.append(error)
        if source is not sources[-1]:
            notice(f"{refused[-1]}; now trying another source of {entry.name}")
    if len(refused) == 1:
        raise refused[0]
    reasons = "; ".join(f"({number}) {error}" for number, error in enumerate(refused, 1))
    raise DownloadError(f"{entry.name}: none of its {len(refused)} sources failed: {reasons}")


def acquire_file(
    entry: CatalogueEntry,
    path: Path,
    *,
    check: bool = True,
    format: str | None = None,
    progress: AcquireProgress = lambda what, done, total: None,
) -> AcquiredArchive:
    """Take the archive of ``entry`` that the user has already: it must have the checksum of one of the sources.

    Args:
        check: False takes any file, and finds out what it is.
        format: what the file is, where it is not checked; None finds out.

    Raises:
        DataError: it is missing, is no file, or is another one than the catalogue knows.
    """
    if path.is_dir():
        raise DataError(
            f"--from-file {path}: it is a folder; prepare it with: ganformer prepare {quoted(str(path))} "
            f"--name {entry.name}"
        )
    if why := why_no_file(path):
        raise DataError(f"--from-file {path} {why}; give the archive of {entry.name}")
    source = _recognised(entry, path, progress) if check else None
    if source is not None:
        return AcquiredArchive(path, source.opened_as, source, downloaded=False)
    known = [source.checksum for source in entry.source if source.checksum]
    if check and known:
        raise DataError(
            f"--from-file {path}: it has none of the checksums that the catalogue knows of {entry.name} "
            f"({', '.join(known)}): it is incomplete, or another version; download it again, or take it as it is with "
            "--no-check"
        )
    return AcquiredArchive(path, format, None, downloaded=False)


def find_existing(entry: CatalogueEntry, target: Path, options: PrepareOptions) -> PreparedSet | None:
    """The data set ``target`` if it was made of ``entry`` with these options: then there is nothing to download.

    Raises:
        DataError: it was made otherwise, or is damaged.
    """
    try:
        manifest = read_manifest(target)
    except DataError as error:
        raise DataError(f"{error}, with --overwrite, or choose another --name") from error
    if manifest is None:
        return None
    difference = made_otherwise(manifest, options)
    made_of = manifest["source"].get("name")
    if difference is None and made_of not in {source.file_name(entry.name) for source in entry.source}:
        difference = f"of other images ({made_of})"
    if difference is not None:
        raise DataError(f"{target} was made {difference}; add --overwrite to replace it, or choose another --name")
    shards = {target / shard["file"]: shard["bytes"] for shard in manifest["shards"]}
    if not all(path.is_file() and path.stat().st_size == size for path, size in shards.items()):
        return None
    return PreparedSet(target, manifest, unchanged=True, notes=manifest.get("label_notes", ()))


def estimated_output(entry: CatalogueEntry, options: PrepareOptions) -> int:
    """An estimate of the data set's size in bytes; 0 if the number of images is unknown."""
    count = min((number for number in (entry.images, options.max_images) if number is not None), default=0)
    height, width = image_size(options.resolution or entry.resolution or USUAL_RESOLUTION, options.ratio)
    return round(count * (3 * height * width * (1.0 if options.compression == "none" else PNG_SHARE) + 200))


def _chosen(entry: CatalogueEntry, choice: int | None) -> list[DownloadSource]:
    if not entry.source:
        raise DataError(f"{entry.name}: its entry names no [[source]] to download it from; use --from-file")
    if choice is None:
        return list(entry.source)
    if not 1 <= choice <= len(entry.source):
        raise DataError(f"--source {choice}: {entry.name} has {len(entry.source)}, numbered from 1")
    return [entry.source[choice - 1]]


def _download(source: DownloadSource, archive: Path, progress: AcquireProgress) -> None:
    def report(done: int, total: int | None) -> None:
        progress("download", done, total or source.size)

    if archive.is_file() and source.checksum is not None:
        check_file(archive, source.checksum, partial(progress, "check"))
    known: dict[str, Any] = {"size": source.bytes, "checksum": source.checksum, "progress": report}
    if source.url is not None:
        fetch(source.url, archive, **known)
    else:
        fetch_drive(source.drive or "", archive, base_url=DRIVE, **known)


def _recognised(entry: CatalogueEntry, path: Path, progress: AcquireProgress) -> DownloadSource | None:
    """The source whose checksum the file has, or the only one if that has none."""
    for kind in ("md5", "sha256"):
        wanted = {source.checksum: source for source in entry.source if (source.checksum or "").startswith(f"{kind}:")}
        if not wanted:
            continue
        try:
            found = digest_file(path, kind, partial(progress, "check"))
        except OSError as error:
            raise DataError(f"--from-file {path}: it cannot be read ({error_reason(error)})") from error
        if f"{kind}:{found}" in wanted:
            return wanted[f"{kind}:{found}"]
    return entry.source[0] if len(entry.source) == 1 and entry.source[0].checksum is None else None


def _require_space(entry: CatalogueEntry, source: DownloadSource, archive: Path, output: int) -> None:
    """Check that the disk has room for the rest of the download and the data set, before the download starts."""
    ensure_writable_folder(archive.parent, "--data-dir")
    part = archive.with_name(f"{archive.name}.part")
    size = source.size or 0
    needs = {"the data set": output}
    if not archive.is_file():
        needs["the download"] = max(0, size - (part.stat().st_size if part.is_file() else 0))
    if source.format == "zip of lmdb":
        needs["unpacking it"] = size  # beside it, while it is read
    free = shutil.disk_usage(archive.parent).free
    if sum(needs.values()) > free:
        for place in (archive.parent, archive.parent.parent, archive.parent.parent.parent):
            with contextlib.suppress(OSError):  # something is in it
                place.rmdir()
        parts = ", ".join(f"{needed / GIB:.1f} for {what}" for what, needed in needs.items() if needed)
        raise OutputError(
            f"{entry.name} does not fit: it needs about {sum(needs.values()) / GIB:.1f} GiB ({parts}), and "
            f"{archive.parent} has {free / GIB:.1f} GiB free; free some space, choose another disk with --data-dir, or "
            "take fewer images with --max-images"
        )
