"""Pictures as people have them, made into a data set: one size, RGB, numbered, in a zip of stored PNGs.

The zip has the layout that StyleGAN2-ADA, StyleGAN3 and EDM read: ``00000/img00000000.png`` ... and ``dataset.json``
with the labels. Beside it lies ``manifest.json``, which says what was done. The same source and settings give the same
pictures everywhere, and the same bytes wherever Pillow and its zlib are the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import uuid
import warnings
import zipfile
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageColor

from ganformer_cli import __version__
from ganformer_cli.config import MAX_RESOLUTION, ModelConfig, image_size
from ganformer_cli.data.catalogue import SCENES
from ganformer_cli.data.datasets import MANIFEST, MANIFEST_FORMAT, read_manifest
from ganformer_cli.data.pictures import TOO_SMALL, Color, UnusableError, crop_size, fit, open_picture, shown_size
from ganformer_cli.data.stores import LABELS, Store, labels_by_name, open_store
from ganformer_cli.errors import ConfigError, DataError, OutputError
from ganformer_cli.files import ensure_writable_folder, sha256_of, write_json

ARCHIVE = "images.zip"
CHOSEN = (8, 256)  # the least and the largest resolution that is chosen for the user
_REACHED_BY = 0.9  # this share of the pictures is large enough for the resolution that is chosen
_MEASURED = 500  # pictures looked at to choose it
# What the manifest says of the settings, and the options that they come from.
_OPTIONS = {"resolution": "--resolution", "ratio": "--ratio", "background": "--background", "suffixes": "--format",
            "max_images": "--max-images", "crop": "crop", "filter": "filter"}  # fmt: skip
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # devices, on Windows
_FORBIDDEN = re.compile(r'[\x00-\x1f/\\:*?"<>|]')

Progress = Callable[[int, int, int], None]  # pictures looked at, of how many, skipped


@dataclass(frozen=True)
class Prepared:
    """What :func:`prepare` made, or found made before."""

    folder: Path
    manifest: dict[str, Any]
    unchanged: bool  # it was there already, from the same source with the same settings


def prepare(
    source: Path,
    name: str,
    *,
    data_dir: Path = Path("datasets"),
    resolution: int | None = None,
    ratio: float = 1.0,
    background: str = "white",
    suffixes: frozenset[str] | None = None,
    max_images: int | None = None,
    strict: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Prepared:
    """Make the data set ``data_dir/name`` of the pictures in ``source``.

    Each picture is turned upright, cropped to its middle, put on the background where it is transparent, and shrunk
    with Lanczos's filter. Of an animation the first frame is taken. The order is that of the names. Labels come from
    the source's ``dataset.json``, if it has one. Made again from the same source with the same settings, the data set
    is left as it is.

    Args:
        source: folder (with all below it) or zip.
        resolution: longer side in pixels, a power of two; None: see :func:`choose_resolution`.
        ratio: height / width.
        background: colour under transparent parts: a name, or ``#rrggbb``.
        suffixes: take files with these suffixes only (lower case, with the dot); None takes any that can be read.
        max_images: stop after so many usable pictures.
        strict: a picture that cannot be used is an error, and not skipped.
        overwrite: replace a data set of this name that was made otherwise.

    Raises:
        ConfigError: an argument that cannot be.
        DataError: the source is missing or not usable, or the target is taken.
        OutputError: the target cannot be written.
    """
    color = _check(name, resolution, ratio, background, max_images)
    with contextlib.closing(open_store(source, suffixes)) as store, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of large pictures and odd metadata; we decide about both
        labels = labels_by_name(store)
        chosen = choose_resolution(store, ratio) if resolution is None else resolution
        height, width = image_size(chosen, ratio)
        settings = {
            "resolution": chosen,
            "ratio": ratio,
            "height": height,
            "width": width,
            "crop": "centre",
            "filter": "lanczos",
            "background": "#{:02x}{:02x}{:02x}".format(*color),
            "suffixes": None if suffixes is None else sorted(suffixes),
            "max_images": max_images,
        }
        target = data_dir / name
        made_before = _made_before(target, store, settings, overwrite)
        if made_before is not None:
            if strict and made_before["skipped"]:
                _refuse_skipped(store, **made_before["skipped"][0])
            return Prepared(target, made_before, unchanged=True)
        with _building(target) as folder:
            manifest = {
                "format": MANIFEST_FORMAT,
                "name": name,
                "tool": f"ganformer {__version__}",
                **_write(store, folder / ARCHIVE, labels, height, width, color, max_images, strict, progress),
                **settings,
            }
            write_json(folder / MANIFEST, manifest)
    return Prepared(target, manifest, unchanged=False)


def choose_resolution(store: Store, ratio: float) -> int:
    """The largest power of two, up to 256, that nine in ten of the pictures reach when cropped to ``ratio``.

    Raises:
        DataError: none of them can be read.
    """
    count = len(store.names)
    longest = []
    for index in sorted({i * (count - 1) // (_MEASURED - 1) for i in range(_MEASURED)}):
        with contextlib.suppress(OSError, ValueError, RuntimeError, zipfile.BadZipFile, UnusableError):
            size = shown_size(open_picture(store.read(index)))
            longest.append(max(crop_size(size, image_size(MAX_RESOLUTION, ratio))))
    if not longest:
        raise DataError(f"{store.path}: none of its {count} pictures can be read; are they complete?")
    longest.sort()
    reach = longest[int(len(longest) * (1 - _REACHED_BY))]
    least, largest = CHOSEN
    return int(min(largest, max(least, 1 << (reach.bit_length() - 1))))


def check_name(name: str) -> None:
    """Whether ``name`` can name a data set and its folder, on every system.

    Raises:
        ConfigError: it cannot.
    """
    why = ""
    if not name or len(name) > 100:
        why = "use 1 to 100 characters"
    elif _FORBIDDEN.search(name) or name[0] in ".-" or name[-1] in ". " or _RESERVED.fullmatch(name):
        why = "use letters, digits, - and _, as in --name my-pictures"
    elif name == SCENES:
        why = "the built-in data set has this name; choose another"
    if why:
        raise ConfigError(f"--name {name!r} cannot name a data set: {why}")


def _check(name: str, resolution: int | None, ratio: float, background: str, max_images: int | None) -> Color:
    """Check the arguments; the background as a colour."""
    check_name(name)
    ModelConfig(resolution=CHOSEN[0] if resolution is None else resolution, ratio=ratio)  # refuses what no model takes
    if max_images is not None and max_images < 1:
        raise ConfigError(f"--max-images {max_images}: at least 1 picture is needed")
    try:
        red, green, blue, *_ = ImageColor.getrgb(background)
    except ValueError:
        raise ConfigError(f"--background {background!r} is no colour; give a name, or #rrggbb") from None
    return red, green, blue


# ---- The target: whole, or as it was before --------------------------------------------------------------------------


def _made_before(target: Path, store: Store, settings: dict[str, Any], overwrite: bool) -> dict[str, Any] | None:
    """The manifest of ``target`` if it was made from this source with these settings and is whole; None: make it.

    Raises:
        DataError: the target holds something else.
    """
    if not target.is_dir():
        if target.exists() or target.is_symlink():
            raise DataError(f"{target} is in the way and is no folder; remove it, or choose another --name")
        return None
    strangers = sorted({path.name for path in target.iterdir()} - {MANIFEST, ARCHIVE})
    if strangers:
        raise DataError(f"{target} holds something else ({strangers[0]}); empty it, or choose another --name")
    try:
        manifest = read_manifest(target)
    except DataError:
        if not overwrite:
            raise DataError(
                f"{target} holds a damaged data set; add --overwrite to make it anew, or choose another --name"
            ) from None
        manifest = None
    if manifest is None:
        return None
    differing = [key for key in _OPTIONS if manifest.get(key) != settings[key]]
    try:
        made_of, considered = manifest["source"]["fingerprint"], int(manifest["source"]["considered"])
    except (KeyError, TypeError, ValueError):
        made_of, considered = None, 0
    if not differing and made_of == _source_fingerprint(store, considered):
        archive = target / ARCHIVE
        whole = archive.is_file() and sha256_of(archive) == manifest["images"].get("sha256")
        return manifest if whole else None
    if not overwrite:
        what = "of other pictures"
        if differing:
            key = differing[0]
            what = f"with {_OPTIONS[key]} {manifest.get(key)}, not {settings[key]}"
        raise DataError(f"{target} was made {what}; add --overwrite to replace it, or choose another --name")
    return None


@contextlib.contextmanager
def _building(target: Path) -> Iterator[Path]:
    """A new folder beside ``target``, which takes its place if the block succeeds and disappears otherwise."""
    parent = target.parent
    made = [place for place in (parent, *parent.parents) if not place.exists()]
    ensure_writable_folder(parent, "--data-dir")
    mark = uuid.uuid4().hex[:8]
    folder, old = parent / f".{target.name}.{mark}.part", parent / f".{target.name}.{mark}.old"
    try:
        folder.mkdir()
        yield folder
        try:
            if target.exists():
                os.replace(target, old)
            os.replace(folder, target)
        except BaseException:
            if old.exists() and not target.exists():
                os.replace(old, target)
            raise
    except OSError as error:
        raise OutputError(
            f"cannot write {target}: {error.strerror or error}; free it or choose another place"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if target.exists():  # otherwise the old one could not be put back, and is all there is
            shutil.rmtree(old, ignore_errors=True)
        with contextlib.suppress(OSError):  # they are not empty if all went well
            for place in made:
                place.rmdir()


# ---- The pictures ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Outcome:
    """What became of one picture."""

    png: bytes = b""
    pixels: bytes = b""  # sha256
    file: bytes = b""  # sha256 of the source file
    reason: str = ""  # why it is skipped; empty if it is kept


def _write(
    store: Store, path: Path, labels: dict[str, Any] | None, height: int, width: int, background: Color,
    max_images: int | None, strict: bool, progress: Progress | None,
) -> dict[str, Any]:  # fmt: skip
    """Write the archive; what the manifest says about it."""

    def convert(index: int) -> _Outcome:
        if labels is not None and store.names[index] not in labels:
            return _Outcome(file=_file_digest(store, index), reason=f"no label in {LABELS}")
        return _convert(store, index, height, width, background)

    total = len(store.names)
    kept_labels: list[tuple[str, Any]] = []
    skipped: list[dict[str, str]] = []
    considered = 0
    content, source = hashlib.sha256(f"{height}x{width}".encode()), _source_digest(store)
    if progress is not None:
        progress(0, total, 0)
    with path.open("wb") as stream:
        with (
            zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive,
            contextlib.closing(_in_order(convert, total)) as outcomes,
        ):
            for index, outcome in enumerate(outcomes):
                considered += 1
                _add_to_source(source, store.names[index], outcome.file)
                if outcome.reason:
                    skipped.append({"file": _printable(store.names[index]), "reason": outcome.reason})
                    if strict:
                        _refuse_skipped(store, **skipped[-1])
                else:
                    name = f"{len(kept_labels):08d}"
                    name = f"{name[:5]}/img{name}.png"
                    _add(archive, name, outcome.png)
                    kept_labels.append((name, labels and labels[store.names[index]]))
                    content.update(outcome.pixels)
                if progress is not None:
                    progress(considered, total, len(skipped))
                if len(kept_labels) == max_images:
                    break
            if not kept_labels:
                first = skipped[0]
                small = any(item["reason"].startswith(TOO_SMALL) for item in skipped)
                raise DataError(
                    f"{store.path}: none of its {total} pictures can be used; the first, {first['file']}: "
                    f"{first['reason']}{'; try a lower --resolution' if small else ''}"
                )
            listing = json.dumps({"labels": kept_labels if labels else None}).encode()
            _add(archive, LABELS, listing)
            content.update(listing)
        stream.flush()
        os.fsync(stream.fileno())
    return {
        "count": len(kept_labels),
        "fingerprint": content.hexdigest(),
        "images": {"file": ARCHIVE, "bytes": path.stat().st_size, "sha256": sha256_of(path)},
        "labels": _describe([label for _, label in kept_labels]) if labels else None,
        "source": {
            "name": _printable(store.path.resolve().name),
            "pictures": total,
            "considered": considered,
            "other_files": store.others,
            "fingerprint": source.hexdigest(),
        },
        "skipped": skipped,
    }


def _convert(store: Store, index: int, height: int, width: int, background: Color) -> _Outcome:
    try:
        data = store.read(index)
    except Exception as error:  # a damaged zip can break its reader in any way
        return _Outcome(reason=f"cannot be read: {getattr(error, 'strerror', None) or error}")
    digest = hashlib.sha256(data).digest()
    try:
        with open_picture(data) as image:
            fitted = fit(image, height, width, background)
    except UnusableError as error:
        return _Outcome(file=digest, reason=str(error))
    return _Outcome(png=_png(fitted), pixels=hashlib.sha256(fitted.tobytes()).digest(), file=digest)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _in_order(work: Callable[[int], _Outcome], count: int) -> Generator[_Outcome, None, None]:
    """``work(0)``, ``work(1)``, ...: some at a time, since Pillow lets other threads run, and few of them in memory."""
    threads = min(8, os.cpu_count() or 1)
    waiting: deque[Future[_Outcome]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for index in range(count):
                waiting.append(pool.submit(work, index))
                if len(waiting) > 3 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    """Store ``data`` with nothing about it that differs from run to run or from system to system."""
    info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    info.create_system = 3
    info.external_attr = 0o644 << 16
    archive.writestr(info, data)


def _describe(labels: list[Any]) -> dict[str, Any]:
    """What the manifest says of the labels."""
    if isinstance(labels[0], list):
        return {"kind": "vectors", "size": len(labels[0])}
    counts = Counter(labels)
    return {"kind": "classes", "size": max(counts) + 1, "pictures": {str(k): counts[k] for k in sorted(counts)}}


def _refuse_skipped(store: Store, file: str, reason: str) -> None:
    raise DataError(f"{store.path}: {file}: {reason}; mend or remove it, or leave --strict out")


# ---- Fingerprints ----------------------------------------------------------------------------------------------------


def _source_fingerprint(store: Store, considered: int) -> str:
    """sha256 of the names and files of the first ``considered`` pictures, their labels, and how many there are."""
    digest = _source_digest(store)
    for index, name in enumerate(store.names[:considered]):
        _add_to_source(digest, name, _file_digest(store, index))
    return digest.hexdigest()


def _source_digest(store: Store) -> Any:
    return hashlib.sha256(f"{len(store.names)}\n".encode() + (store.labels_file() or b""))


def _add_to_source(digest: Any, name: str, file: bytes) -> None:
    digest.update(f"{name}\0".encode("utf-8", "surrogatepass") + file)


def _file_digest(store: Store, index: int) -> bytes:
    try:
        return hashlib.sha256(store.read(index)).digest()
    except Exception:  # as in _convert: what cannot be read has no content
        return b""


def _printable(name: str) -> str:
    """A file's name as valid text, whatever bytes it is made of."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
