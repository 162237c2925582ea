"""Images as people have them, made into a data set: one size, RGB, numbered, in zips of stored PNGs.

A zip has the layout that StyleGAN2-ADA, StyleGAN3 and EDM read: ``00000/img00000000.png`` ... and ``dataset.json``
with the labels. Beside it lies ``manifest.json``, which says what was done. The same source and settings give the same
images everywhere, and the same bytes wherever Pillow and its zlib are the same, however many processes make them and
however often they are interrupted.
"""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import PIL

from ganformer_cli import __version__
from ganformer_cli.data.file_kinds import figures_text, unread_count_text, unread_text
from ganformer_cli.data.images import TOO_SMALL, Decoding, UnusableImageError, from_pixels
from ganformer_cli.data.manifest import MANIFEST_FORMAT, belongs, read_manifest
from ganformer_cli.data.prepare.conversion import NO_LABEL, ConversionSettings, convert_all, source_digest
from ganformer_cli.data.prepare.options import CENTRE, PrepareOptions, check_dataset_name, choose_resolution
from ganformer_cli.data.prepare.statistics import (
    DatasetPlan,
    DatasetStatistics,
    UnusableSourceError,
    check_label_width,
    source_fingerprint,
)
from ganformer_cli.data.prepare.target import recover, writing
from ganformer_cli.data.prepare.writer import DatasetWriter
from ganformer_cli.data.sources import Item, Source, open_source
from ganformer_cli.data.sources.base import shown
from ganformer_cli.errors import DataError
from ganformer_cli.files import error_reason, sha256_of

PrepareProgress = Callable[[int, int, int], None]  # images looked at, of how many, skipped

_SHARD_BYTES = 4 << 30  # of pixels, in one zip
_TOOL = f"ganformer {__version__}"
# What the manifest says of the settings, and the options that they come from.
_MANIFEST_OPTIONS = {
    "resolution": "--resolution", "ratio": "--ratio", "background": "--background", "value_range": "--value-range",
    "form": "--format", "max_images": "--max-images", "compression": "--compression", "crop": "--fit",
    "filter": "filter",
}  # fmt: skip


@dataclass(frozen=True)
class PreparedSet:
    """What :func:`prepare` made, or found unchanged."""

    folder: Path
    manifest: dict[str, Any]
    unchanged: bool  # it was there already, from the same source with the same settings
    resumed: int = 0  # images of the source that an interrupted run had done
    notes: Sequence[str] = ()  # what the user should know of how the source was read
    not_read: Mapping[str, int] = field(default_factory=dict)  # files of the source, by suffix, that cannot be read


def prepare(
    source: Path | Source,
    name: str,
    *,
    data_dir: Path = Path("datasets"),
    format: str | None = None,
    labels: str | None = None,
    progress: PrepareProgress = lambda done, total, skipped: None,
    **options: Any,
) -> PreparedSet:
    """Make the data set ``data_dir/name`` of the images in ``source``.

    Each image is turned upright, brought to the proportions of the set, put on the background where it is transparent,
    and shrunk with Lanczos's filter. Of an animation the first frame is taken. The order is that of the source. Made
    again from the same source with the same settings, the data set is left as it is. The work lies in
    ``data_dir/.NAME.part`` until it is done: interrupted at any moment and called again, it goes on where it was.

    Args:
        source: where the images are; a :class:`Source` is left open.
        format: what ``source`` is, see :func:`open_source`; None finds out.
        labels: where labels come from, see :func:`open_source`.
        progress: called with images looked at, of how many, and skipped; at the start with 0 looked at.
        options: the fields of :class:`PrepareOptions`.

    Raises:
        ConfigError: an option that cannot be.
        DataError: the source is missing or not usable, or the target is taken.
        OutputError: the target cannot be written.
    """
    chosen = PrepareOptions(**options)
    name = check_dataset_name(name)
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # Pillow warns of large images and odd metadata; we decide about both
        if isinstance(source, Path):
            source = stack.enter_context(
                open_source(source, format=format, labels=labels, resolution=chosen.resolution)
            )
        _check_source(source, chosen)
        label_notes = [shown(text) for text in (*source.labels.notes, *source.labels.faults)]
        figures, not_read = source.unread_files().sheets, _not_read(source)
        notes = [*label_notes, *([figures_text(figures)] if figures else [])]
        resolution = chosen.resolution or choose_resolution(source, chosen.ratio, chosen.fit)
        settings = chosen.manifest(resolution, format)
        plan = _plan(source, name, settings, labels, chosen.shards_num)
        target = data_dir / name
        recover(target)
        existing = _existing_manifest(target, source, plan, chosen)
        if existing is not None:
            if chosen.strict and existing["skipped"]["count"]:
                _refuse_skipped(source, existing["skipped"]["first"][0])
            return PreparedSet(target, existing, unchanged=True, notes=notes, not_read=not_read)
        with writing(target, plan) as writer:
            resumed = writer.committed
            _convert(writer, source, plan, chosen, progress)
            head = {"format": MANIFEST_FORMAT, "name": name, "tool": _TOOL, **settings}
            if label_notes:
                head["label_notes"] = label_notes
            head["source"] = _describe(source, writer.statistics)
            manifest = writer.finish(head, chosen.near_duplicates)
    return PreparedSet(target, manifest, unchanged=False, resumed=resumed, notes=notes, not_read=not_read)


def _check_source(source: Source, options: PrepareOptions) -> None:
    """Check that the source can be prepared."""
    if source.labels.kind is not None:
        check_label_width(source.labels.kind, source.labels.width, str(source.path))
    if options.strict and source.labels.faults:
        raise DataError(f"{source.labels.faults[0]}; correct the labels, or leave --strict out")
    if options.strict and (not_read := _not_read(source)):
        raise DataError(
            f"{source.path}: {unread_count_text(not_read)}: {unread_text(not_read)}; remove them, or leave --strict out"
        )
    _check_numbers(source, options.decoding)


def _check_numbers(source: Source, decoding: Decoding) -> None:
    """Refuse at once an array whose numbers mean something else: some rows of it may happen to look right."""
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
        "labels": [labels, source.labels.kind, source.labels.class_names], "source": source.fingerprint(),
    }  # fmt: skip
    return DatasetPlan(settings["height"], settings["width"], images, shards, source.labels, identity)


def _not_read(source: Source) -> dict[str, int]:
    """The files of the source that are neither images nor expected beside images, by their suffix."""
    return dict(sorted(source.unread_files().unread.items()))


def _describe(source: Source, statistics: DatasetStatistics) -> dict[str, Any]:
    """What the manifest says of the source."""
    return {
        "name": shown(source.path.resolve().name),
        "form": source.format,
        "pictures": source.count(),
        "considered": statistics.considered,
        "other_files": source.others(),
        "not_read": _not_read(source),
        "fingerprint": source_fingerprint(statistics.source, source.count()),
    }


def _convert(
    writer: DatasetWriter, source: Source, plan: DatasetPlan, options: PrepareOptions, progress: PrepareProgress
) -> None:
    """Convert the images of the source that are not done yet."""
    statistics, total = writer.statistics, source.count()
    progress(0, total, 0)
    if statistics.considered:
        progress(statistics.considered, total, statistics.skipped_count)
    if options.strict and statistics.skipped:
        _refuse_skipped(source, statistics.skipped[0])
    packed, labelled = options.compression == "png", plan.labels.kind is not None
    settings = ConversionSettings(plan.height, plan.width, options.decoding, packed, labelled, options.fit)
    if options.max_images is None or statistics.kept < options.max_images:
        items = _items(source, statistics.considered)
        with contextlib.closing(convert_all(items, settings, options.workers)) as images:
            for converted in images:
                writer.add(*converted)
                if options.strict and statistics.skipped:
                    _refuse_skipped(source, statistics.skipped[0])
                progress(statistics.considered, total, statistics.skipped_count)
                if statistics.kept == options.max_images:
                    break
    if not statistics.kept:
        first = statistics.skipped[0] if statistics.skipped else {"file": "-", "reason": "it no longer exists"}
        advice = ""
        if any(item["reason"].startswith(TOO_SMALL) for item in statistics.skipped):
            advice = "; try a lower --resolution"
        elif first["reason"] == NO_LABEL and source.labels.example:
            advice = f"; the labels are of names such as {source.labels.example}, or choose --labels none"
        raise UnusableSourceError(
            f"{source.path}: none of its {total} images can be used; the first, {first['file']}: "
            f"{first['reason']}{advice}"
        )


def _items(source: Source, start: int) -> Iterator[Item]:
    try:
        yield from source.items(start)
    except OSError as error:  # not one image, of which the source says so itself
        raise DataError(f"{source.path} cannot be read: {error_reason(error)}; run the same again") from error


def _refuse_skipped(source: Source, skipped: dict[str, str]) -> None:
    raise UnusableSourceError(
        f"{source.path}: {skipped['file']}: {skipped['reason']}; repair or remove it, or leave --strict out"
    )


# ---- A data set that is there already --------------------------------------------------------------------------------


def _existing_manifest(
    target: Path, source: Source, plan: DatasetPlan, options: PrepareOptions
) -> dict[str, Any] | None:
    """The manifest of ``target`` if it was made from this source with these settings and is whole; None: make it.

    The source is read through for that, but not one image decoded.

    Raises:
        DataError: the target holds something else.
    """
    if not target.is_dir():
        if target.exists() or target.is_symlink():
            raise DataError(f"{target} exists and is not a folder; remove it, or choose another --name")
        return None
    strangers = sorted(path.name for path in target.iterdir() if not belongs(path.name))
    if strangers:
        raise DataError(f"{target} holds something else ({strangers[0]}); empty it, or choose another --name")
    try:
        manifest = read_manifest(target)
    except DataError as error:
        if options.overwrite:
            return None
        raise DataError(
            f"{target} holds a damaged data set or one of another version ({error}); add --overwrite to make it again, "
            "or choose another --name"
        ) from None
    if manifest is None:
        return None
    difference = made_otherwise(manifest, options, plan)
    if difference is None and not _is_made_of(manifest, source):
        difference = "of other images"
    if difference is None:
        return manifest if all(_is_whole(target / shard["file"], shard) for shard in manifest["shards"]) else None
    if options.overwrite:
        return None
    raise DataError(f"{target} was made {difference}; add --overwrite to replace it, or choose another --name")


def made_otherwise(
    manifest: dict[str, Any], options: PrepareOptions, plan: DatasetPlan | None = None
) -> str | None:  # fmt: skip
    """How a data set was made otherwise than with these options; None if it was not.

    Args:
        plan: what would be made, if the source is known.
    """
    if plan is None:
        settings = options.manifest(options.resolution or manifest.get("resolution", 0), manifest.get("form"))
    else:
        settings = plan.identity["settings"]
    for key, option in _MANIFEST_OPTIONS.items():
        before, now = manifest.get(key), settings[key]
        if before != now:
            before, now = ("crop" if value == CENTRE else value for value in (before, now))
            return f"with {option} {before}, not {now}"
    shards = options.shards_num if plan is None else plan.shards
    if shards not in (None, len(manifest["shards"])):
        return f"with --shards-num {len(manifest['shards'])}, not {shards}"
    if options.near_duplicates and manifest["duplicates"]["near"] is None:
        return "without --near-duplicates"
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
