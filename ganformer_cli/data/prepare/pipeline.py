"""Pictures as people have them, made into a data set: one size, RGB, numbered, in zips of stored PNGs.

A zip has the layout that StyleGAN2-ADA, StyleGAN3 and EDM read: ``00000/img00000000.png`` ... and ``dataset.json``
with the labels. Beside it lies ``manifest.json``, which says what was done. The same source and settings give the same
pictures everywhere, and the same bytes wherever Pillow and its zlib are the same, however many processes make them and
however often they are interrupted.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import PIL
from PIL import ImageColor

from ganformer_cli import __version__
from ganformer_cli.config import MAX_RESOLUTION, ModelConfig, image_size, names
from ganformer_cli.data.catalogue import SCENES
from ganformer_cli.data.file_kinds import figures_text, unread_count_text, unread_text
from ganformer_cli.data.images import (
    TOO_SMALL,
    Color,
    Decoding,
    UnusableImageError,
    crop_size,
    from_pixels,
    open_image,
    upright_size,
)
from ganformer_cli.data.manifest import MANIFEST_FORMAT, belongs, read_manifest
from ganformer_cli.data.prepare.conversion import NO_LABEL, ConversionSettings, convert_all, source_digest
from ganformer_cli.data.prepare.statistics import (
    DatasetStatistics,
    UnusableLabelsError,
    check_label_width,
    source_fingerprint,
)
from ganformer_cli.data.prepare.writer import DatasetPlan, DatasetWriter, discard, exclusive, publish, recover
from ganformer_cli.data.sources import Item, Source, open_source
from ganformer_cli.errors import ConfigError, DataError, OutputError
from ganformer_cli.files import ensure_writable_folder, reason_and_remedy, sha256_of

COMPRESSIONS = ("png", "none")
CHOSEN_RESOLUTIONS = (8, 256)  # the least and the largest resolution that is chosen for the user
MAX_SHARDS = 99_999
_SHARD_BYTES = 4 << 30  # of pixels, in one zip
_REACHED_BY = 0.9  # this share of the pictures is large enough for the resolution that is chosen
_MEASURED = 500  # pictures looked at to choose it
_TOOL = f"ganformer {__version__}"
# What the manifest says of the settings, and the options that they come from.
_OPTIONS = {
    "resolution": "--resolution", "ratio": "--ratio", "background": "--background", "value_range": "--value-range",
    "form": "--format", "max_images": "--max-images", "compression": "--compression",
    "crop": "crop", "filter": "filter",
}  # fmt: skip

Progress = Callable[[int, int, int], None]  # pictures looked at, of how many, skipped


@dataclass(frozen=True)
class PreparedSet:
    """What :func:`prepare` made, or found made before."""

    folder: Path
    manifest: dict[str, Any]
    unchanged: bool  # it was there already, from the same source with the same settings
    resumed: int = 0  # pictures of the source that an interrupted run had done
    notes: Sequence[str] = ()  # what the user should know of how the source was read
    not_read: Mapping[str, int] = field(default_factory=dict)  # files of the source, by suffix, that cannot be read


def prepare(
    source: Path | Source,
    name: str,
    *,
    data_dir: Path = Path("datasets"),
    form: str | None = None,
    labels: str | None = None,
    resolution: int | None = None,
    ratio: float = 1.0,
    background: str = "white",
    value_range: tuple[float, float] | None = None,
    max_images: int | None = None,
    strict: bool = False,
    overwrite: bool = False,
    shards_num: int | None = None,
    compression: str = "png",
    near_duplicates: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
) -> PreparedSet:
    """Make the data set ``data_dir/name`` of the pictures in ``source``.

    Each picture is turned upright, cropped to its middle, put on the background where it is transparent, and shrunk
    with Lanczos's filter. Of an animation the first frame is taken. The order is that of the source. Made again from
    the same source with the same settings, the data set is left as it is. The work lies in ``data_dir/.NAME.part``
    until it is done: interrupted at any moment and called again, it goes on where it was.

    Args:
        source: where the pictures are; a :class:`Source` is left open.
        form: what ``source`` is, see :func:`open_source`; None finds out.
        labels: where labels come from, see :func:`open_source`.
        resolution: longer side in pixels, a power of two; None: see :func:`choose_resolution`.
        ratio: height / width.
        background: colour under transparent parts: a name, or ``#rrggbb``.
        value_range: of images and arrays with more than 8 bits, what becomes 0 and 255; None: 0 to 65535, of floating
            point 0 to 1.
        max_images: stop after so many usable pictures.
        strict: a picture that cannot be used is an error, and not skipped.
        overwrite: replace a data set of this name that was made otherwise.
        shards_num: zips to spread the pictures over; None: one for each 4 GiB of pixels.
        compression: ``png``, or ``none`` for PNGs that are larger and quicker to read.
        near_duplicates: look for pictures that look alike, too.
        workers: processes that convert pictures. None takes one a core, if there is work for more than a second. They
            start by spawning, on every system: a script needs the usual ``if __name__ == "__main__":``.
        progress: called with pictures looked at, of how many, and skipped; at the start with 0 looked at.

    Raises:
        ConfigError: an argument that cannot be.
        DataError: the source is missing or not usable, or the target is taken.
        OutputError: the target cannot be written.
    """
    given = (resolution, ratio, background, max_images, shards_num, compression, workers, value_range)
    color = check_settings(name, *given)
    decoding = Decoding(color, value_range)
    name = check_dataset_name(name)
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # Pillow warns of large pictures and odd metadata; we decide about both
        if isinstance(source, Path):
            source = stack.enter_context(open_source(source, form=form, labels=labels, resolution=resolution))
        _check_labels(source, strict)
        not_read = _not_read(source)
        if strict and not_read:
            raise DataError(
                f"{source.path}: {unread_count_text(not_read)}: {unread_text(not_read)}; "
                "remove them, or leave --strict out"
            )
        notes = [_printable(text) for text in (*source.label_notes, *source.label_faults)]
        sheets = source.unread_files().sheets
        told = [*notes, *([figures_text(sheets)] if sheets else [])]
        _check_numbers(source, decoding)
        chosen = choose_resolution(source, ratio) if resolution is None else resolution
        height, width = image_size(chosen, ratio)
        settings = {
            "width": width,
            "height": height,
            "ratio": ratio,
            "resolution": chosen,
            "crop": "centre",
            "filter": "lanczos",
            "background": "#{:02x}{:02x}{:02x}".format(*color),
            "value_range": None if value_range is None else list(value_range),
            "compression": compression,
            "max_images": max_images,
            "form": form,
        }
        plan = _plan(source, name, settings, labels, shards_num)
        target = data_dir / name
        _recover(target)
        find_existing = _made_before(target, source, settings, plan.shards, near_duplicates, overwrite)
        if find_existing is not None:
            if strict and find_existing["skipped"]["count"]:
                _refuse_skipped(source, find_existing["skipped"]["first"][0])
            return PreparedSet(target, find_existing, unchanged=True, notes=told, not_read=not_read)
        with _writing(target, plan) as writer:
            resumed = writer.committed
            look = ConversionSettings(height, width, decoding, compression == "png", source.label_kind is not None)
            _convert(writer, source, look, max_images, strict, workers, progress)
            head = {"format": MANIFEST_FORMAT, "name": name, "tool": _TOOL, **settings}
            if notes:
                head["label_notes"] = notes
            manifest = writer.finish({**head, "source": _describe(source, writer.statistics)}, near_duplicates)
    return PreparedSet(target, manifest, unchanged=False, resumed=resumed, notes=told, not_read=not_read)


def choose_resolution(source: Source, ratio: float) -> int:
    """The largest power of two, up to 256, that nine in ten of the pictures reach when cropped to ``ratio``.

    Raises:
        DataError: none of them can be read.
    """
    longest, why = [], ""
    for item in source.samples(_MEASURED):
        try:
            size = _size(item)
        except UnusableImageError as error:
            why = why or f"{item.name}: {error}"
            continue
        longest.append(max(crop_size(size, image_size(MAX_RESOLUTION, ratio))))
    if not longest:
        raise DataError(f"{source.path}: none of its {source.count()} pictures can be read ({why}); are they complete?")
    longest.sort()
    reach = longest[int(len(longest) * (1 - _REACHED_BY))]
    least, largest = CHOSEN_RESOLUTIONS
    return int(min(largest, max(least, 1 << (reach.bit_length() - 1))))


def check_dataset_name(name: str) -> str:
    """The name of a data set as it becomes its folder's.

    Raises:
        ConfigError: it cannot name one on every system, see :mod:`ganformer_cli.config.names`.
    """
    if name == SCENES:
        raise ConfigError(f"--name {name!r} cannot name a data set: the built-in one has this name; choose another")
    return names.check_name("--name", name)


def check_settings(
    name: str, resolution: int | None, ratio: float, background: str, max_images: int | None, shards_num: int | None,
    compression: str, workers: int | None, value_range: tuple[float, float] | None = None,
) -> Color:  # fmt: skip
    """Check what :func:`prepare` is given, before there is a source; the background as a colour.

    Raises:
        ConfigError: an argument that cannot be.
    """
    check_dataset_name(name)
    ModelConfig(
        resolution=CHOSEN_RESOLUTIONS[0] if resolution is None else resolution, ratio=ratio
    )  # refuses what no model takes
    for option, value, most in (
        ("--max-images", max_images, None), ("--shards-num", shards_num, MAX_SHARDS), ("workers", workers, None),
    ):  # fmt: skip
        if value is not None and (value < 1 or (most is not None and value > most)):
            raise ConfigError(f"{option} {value}: at least 1{f', at most {most}' if most else ''}")
    if value_range is not None and not (math.isfinite(sum(value_range)) and value_range[0] < value_range[1]):
        raise ConfigError(
            f"--value-range {value_range[0]:g},{value_range[1]:g}: write the lower number first, as in 0,4095"
        )
    if compression not in COMPRESSIONS:
        raise ConfigError(f"--compression {compression!r}: choose {' or '.join(COMPRESSIONS)}")
    try:
        red, green, blue, *_ = ImageColor.getrgb(background)
    except ValueError:
        raise ConfigError(f"--background {background!r} is no colour; give a name, or #rrggbb") from None
    return red, green, blue


def _check_labels(source: Source, strict: bool) -> None:
    """Raise DataError if no network takes these labels; with ``strict`` also if some of them are of no image."""
    if source.label_width is not None and source.label_kind is not None:
        check_label_width(source.label_kind, source.label_width, str(source.path))
    if strict and source.label_faults:
        raise DataError(f"{source.label_faults[0]}; correct the labels, or leave --strict out")


def _check_numbers(source: Source, decoding: Decoding) -> None:
    """Refuse at once an array whose numbers mean something else: some rows of it may happen to look right.

    Raises:
        DataError: it is one.
    """
    first = next(iter(source.samples(1)), None)
    if first is None or first.data is None or isinstance(first.data, bytes):
        return
    try:
        from_pixels(first.data, decoding.value_range)
    except UnusableImageError as error:
        if str(error).startswith("values"):
            raise DataError(
                f"{source.path}: {first.name} has {error}; scale the array, or say what its values mean with "
                "--value-range LOW,HIGH"
            ) from None


def _size(item: Item) -> tuple[int, int]:
    """Height and width of a picture as it is meant to be seen.

    Raises:
        UnusableImageError: it cannot be opened.
    """
    if item.data is None:
        raise UnusableImageError(item.error)
    if not isinstance(item.data, bytes):
        return item.data.shape[0], item.data.shape[1]
    with open_image(item.data) as image:
        return upright_size(image)


def _plan(
    source: Source, name: str, settings: dict[str, Any], labels: str | None, shards_num: int | None
) -> DatasetPlan:  # fmt: skip
    images = max(1, source.count())
    if settings["max_images"] is not None:
        images = min(images, settings["max_images"])
    size = images * settings["height"] * settings["width"] * 3
    shards = min(images, shards_num or -(-size // _SHARD_BYTES))
    identity = {
        "tool": _TOOL, "pillow": PIL.__version__, "name": name, "settings": settings, "shards": shards,
        "labels": [labels, source.label_kind, source.class_names], "source": source.fingerprint(),
    }  # fmt: skip
    return DatasetPlan(
        settings["height"], settings["width"], images, shards, source.label_kind, source.class_names,
        source.class_count, identity,
    )  # fmt: skip


def _not_read(source: Source) -> dict[str, int]:
    """The files of the source that are no images and that nobody expects beside images, by their suffix."""
    return dict(sorted(source.unread_files().unread.items()))


def _describe(source: Source, statistics: DatasetStatistics) -> dict[str, Any]:
    """What the manifest says of the source."""
    return {
        "name": _printable(source.path.resolve().name),
        "form": source.form,
        "pictures": source.count(),
        "considered": statistics.considered,
        "other_files": source.others(),
        "not_read": _not_read(source),
        "fingerprint": source_fingerprint(statistics.source, source.count()),
    }


# ---- The pictures ----------------------------------------------------------------------------------------------------


class _WorthlessError(DataError):
    """An error after which there is nothing to go on with."""


def _convert(
    writer: DatasetWriter, source: Source, look: ConversionSettings, max_images: int | None, strict: bool,
    workers: int | None, progress: Progress | None,
) -> None:  # fmt: skip
    """Convert the pictures of the source that are not done yet."""
    statistics, total = writer.statistics, source.count()
    if progress is not None:
        progress(0, total, 0)
        if statistics.considered:
            progress(statistics.considered, total, statistics.skipped_count)
    if strict and statistics.skipped:
        _refuse_skipped(source, statistics.skipped[0])
    if max_images is None or statistics.kept < max_images:
        with contextlib.closing(convert_all(_items(source, statistics.considered), look, workers)) as images:
            for converted in images:
                writer.take(converted)
                if strict and statistics.skipped:
                    _refuse_skipped(source, statistics.skipped[0])
                if progress is not None:
                    progress(statistics.considered, total, statistics.skipped_count)
                if statistics.kept == max_images:
                    break
    if not statistics.kept:
        first = statistics.skipped[0] if statistics.skipped else {"file": "-", "reason": "it is not there any more"}
        advice = ""
        if any(item["reason"].startswith(TOO_SMALL) for item in statistics.skipped):
            advice = "; try a lower --resolution"
        elif first["reason"] == NO_LABEL and source.label_example:
            advice = f"; the labels are of names such as {source.label_example}, or choose --labels none"
        raise _WorthlessError(
            f"{source.path}: none of its {total} pictures can be used; the first, {first['file']}: "
            f"{first['reason']}{advice}"
        )


def _items(source: Source, start: int) -> Iterator[Item]:
    try:
        yield from source.items(start)
    except OSError as error:  # not one picture, of which the source says so itself
        raise DataError(f"{source.path} cannot be read: {error.strerror or error}; run the same again") from error


def _refuse_skipped(source: Source, skipped: dict[str, str]) -> None:
    raise _WorthlessError(
        f"{source.path}: {skipped['file']}: {skipped['reason']}; mend or remove it, or leave --strict out"
    )


def _printable(name: str) -> str:
    """A file's name as valid text, whatever bytes it is made of."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


# ---- The target: whole, or as it was before --------------------------------------------------------------------------


def _made_before(
    target: Path, source: Source, settings: dict[str, Any], shards: int, near_duplicates: bool, overwrite: bool
) -> dict[str, Any] | None:
    """The manifest of ``target`` if it was made from this source with these settings and is whole; None: make it.

    The source is read through for that, but not one picture decoded.

    Raises:
        DataError: the target holds something else.
    """
    if not target.is_dir():
        if target.exists() or target.is_symlink():
            raise DataError(f"{target} is in the way and is no folder; remove it, or choose another --name")
        return None
    strangers = sorted(path.name for path in target.iterdir() if not belongs(path.name))
    if strangers:
        raise DataError(f"{target} holds something else ({strangers[0]}); empty it, or choose another --name")
    try:
        manifest = read_manifest(target)
    except DataError as error:
        if not overwrite:
            raise DataError(
                f"{target} holds a damaged data set or one of another version ({error}); add --overwrite to make it "
                f"anew, or choose another --name"
            ) from None
        manifest = None
    if manifest is None:
        return None
    how = ""
    for key, option in _OPTIONS.items():
        if manifest.get(key) != settings[key]:
            how = how or f"with {option} {manifest.get(key)}, not {settings[key]}"
    if len(manifest["shards"]) != shards:
        how = how or f"with --shards-num {len(manifest['shards'])}, not {shards}"
    if near_duplicates and manifest["duplicates"]["near"] is None:
        how = how or "without --near-duplicates"
    if not how and not _is_made_of(manifest, source):
        how = "of other pictures"
    if not how:
        return manifest if all(_is_whole(target / shard["file"], shard) for shard in manifest["shards"]) else None
    if not overwrite:
        raise DataError(f"{target} was made {how}; add --overwrite to replace it, or choose another --name")
    return None


def _is_made_of(manifest: dict[str, Any], source: Source) -> bool:
    if manifest["source"]["pictures"] != source.count():
        return False
    digest = hashlib.sha256()
    for item in islice(_items(source, 0), manifest["source"]["considered"]):
        digest.update(source_digest(item))
    return bool(manifest["source"]["fingerprint"] == source_fingerprint(digest, source.count()))


def _is_whole(path: Path, shard: dict[str, Any]) -> bool:
    return path.is_file() and path.stat().st_size == shard["bytes"] and sha256_of(path) == shard["sha256"]


def _part(target: Path) -> Path:
    """Where the data set lies while it is made."""
    return target.parent / f".{target.name}.part"


def _recover(target: Path) -> None:
    """Set in order what a process left that was killed while it exchanged ``target``."""
    part = _part(target)
    if part.is_dir():
        with _telling_of(target), exclusive(part):
            recover(part, target)


@contextlib.contextmanager
def _writing(target: Path, plan: DatasetPlan) -> Iterator[DatasetWriter]:
    """A data set in the making, which takes the place of ``target`` if the block succeeds.

    Otherwise what was done is kept for the next time, unless that is nothing.
    """
    parent, part = target.parent, _part(target)
    made = [place for place in (parent, *parent.parents) if not place.exists()]
    ensure_writable_folder(parent, "--data-dir")
    try:
        with _telling_of(target), exclusive(part):
            writer = DatasetWriter(part, plan)
            try:
                writer.start()
                yield writer
                writer.close()
                publish(part, target)
            except BaseException as error:
                writer.close()
                if isinstance(error, (_WorthlessError, UnusableLabelsError)) or not writer.committed:
                    discard(part)
                raise
    finally:
        with contextlib.suppress(OSError):  # they are not empty if all went well
            for place in made:
                place.rmdir()


@contextlib.contextmanager
def _telling_of(target: Path) -> Iterator[None]:
    """Make an error of the system one that says what to do."""
    try:
        yield
    except OSError as error:
        reason, remedy = reason_and_remedy(error)
        full = error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None))  # Windows knows no quota
        first = "free some space" if full else "mend that"
        raise OutputError(
            f"cannot write {target}: {reason}; {first} and run the same again: it goes on where it was. Or {remedy}"
        ) from error
