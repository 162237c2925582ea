"""What ``ganformer prepare`` says: what it made, what the catalogue has, what it found wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganformer_cli.cli.options import warn
from ganformer_cli.cli.output import echo, echo_json, echo_table
from ganformer_cli.config.names import quoted
from ganformer_cli.errors import DataError
from ganformer_cli.files import GB

if TYPE_CHECKING:
    from ganformer_cli.data.catalogue import CatalogueEntry
    from ganformer_cli.data.prepare.pipeline import PreparedSet

SMALL_PART = 0.5  # of a range: less is worth a word
EXAMPLES = 3  # files named for each reason
REASONS = 8
CLASSES = 6  # that many are named one by one
_COLUMNS = ("name", "title", "images", "GB", "ratio", "licence")


def summarise(prepared: PreparedSet, data_dir: Path, kept_download: tuple[Path, int] | None) -> None:
    """Say what was made; ``kept_download`` is an archive and its size."""
    from ganformer_cli.data.file_kinds import unread_count_text

    manifest = prepared.manifest
    size = f"{manifest['width']}x{manifest['height']}"
    bytes_ = sum(shard["bytes"] for shard in manifest["shards"])
    written = f"{bytes_ / 1e6:.1f} MB" if bytes_ >= 1e6 else f"{bytes_ / 1e3:.0f} kB"
    state = "unchanged, made before from the same images" if prepared.unchanged else written
    missing = f"; {unread_count_text(prepared.not_read)}" if prepared.not_read else ""
    echo(f"{prepared.folder}: {manifest['count']} images of {size} px ({state}){missing}")
    for name, text in _lines(prepared):
        echo(f"{name + ':':<12}{text}")
    _summarise_skipped(prepared)
    if kept_download is not None:
        path, held = kept_download
        echo(f"the download is kept: {path} ({held / GB:.1f} GB); remove it if you need the space")
    where = "" if data_dir == Path("datasets") else f" --data-dir {quoted(str(data_dir))}"
    labelled = " --labels" if manifest["labels"] else ""
    echo(f"next: ganformer train --dataset {quoted(manifest['name'])}{where}{labelled}")


def warn_of_empty_classes(manifest: Mapping[str, Any]) -> None:
    """Say which classes have no image."""
    labels = manifest["labels"]
    if not labels or labels["kind"] != "classes":
        return
    names, counts = labels.get("names"), labels["pictures"]
    empty = [number for number in range(labels["size"]) if not counts.get(str(number))]
    if not empty:
        return
    shown = ", ".join(names[number] if names else str(number) for number in empty[:CLASSES])
    more = f" and {len(empty) - CLASSES} more" if len(empty) > CLASSES else ""
    one = len(empty) == 1
    warn(
        f"{len(empty)} of {labels['size']} classes {'has' if one else 'have'} no image and will never be drawn: "
        f"{shown}{more}"
    )


def warn_of_unused_range(manifest: Mapping[str, Any]) -> None:
    """Say where images with more than 8 bits use a small part of their range: they come out dark or without contrast.

    Values of 12 bits in files of 16 are the usual case.
    """
    if manifest.get("value_range") is not None:
        return
    for values in manifest["sources"].get("wide_values", ()):
        low, high, full = values["lowest"], values["highest"], values["of"]
        if not 0 <= high - low < full * SMALL_PART:
            continue
        best = [low, high]
        if full > 1 and low >= 0:
            bits = max(8, int(high).bit_length())
            best = [0 if low < 2**bits / 4 else low, 2**bits - 1]
        said = ",".join(f"{value:g}" for value in best)
        what = "16-bit" if full > 1 else "floating-point"
        warn(
            f"{values['count']} images have {what} values from {low:g} to {high:g} only, of 0 to {full:g}, and so "
            "come out dark or without contrast; if that is their whole range, make them again with "
            f"--value-range {said} --overwrite"
        )


def _lines(prepared: PreparedSet) -> Iterable[tuple[str, str]]:
    from ganformer_cli.data.file_kinds import unread_text

    manifest = prepared.manifest
    if prepared.resumed and not prepared.unchanged:
        yield "resumed", f"{prepared.resumed} images were done before"
    considered, not_read = manifest["source"]["considered"], sum(prepared.not_read.values())
    if not_read:
        files = f"{considered + not_read} files: {considered} looked at, {not_read} not read"
        yield "kept", f"{manifest['count']} of {files}"
        yield "not read", unread_text(prepared.not_read)
    else:
        yield "kept", f"{manifest['count']} of {considered} that were looked at"
    sources = manifest["sources"]
    if sources["smallest"] and sources["largest"]:
        small, large = ("x".join(map(str, sources[key])) for key in ("smallest", "largest"))
        yield "sizes", small if small == large else f"{small} to {large}"
    if sources.get("several_frames"):
        yield "animated", f"{sources['several_frames']} with several frames or pages, of which only the first is used"
    if sources["modes"]:
        yield "channels", ", ".join(f"{mode} {count}" for mode, count in sources["modes"].items())
    if manifest["labels"]:
        yield "labels", _labels(manifest["labels"])
    for note in prepared.notes:
        yield "note", note
    if (duplicates := _duplicates(manifest["duplicates"])) is not None:
        yield "duplicates", duplicates
    shards = manifest["shards"]
    each = "" if len(shards) == 1 else f", each up to {max(shard['count'] for shard in shards)} images"
    yield "shards", f"{len(shards)}{each}"
    preview = prepared.folder / "preview.png"
    if preview.is_file():
        yield "preview", str(preview)


def _labels(labels: Mapping[str, Any]) -> str:
    if labels["kind"] == "vectors":
        return f"vectors of {labels['size']} numbers"
    counts, names = labels["pictures"], labels.get("names")
    named = [(names[int(label)] if names else label, count) for label, count in counts.items()]
    text = f"{labels['size']} classes"
    if len(named) <= CLASSES:
        return f"{text} ({', '.join(f'{name} {count}' for name, count in named)})"
    least, most = min(named, key=lambda one: one[1]), max(named, key=lambda one: one[1])
    return f"{text} of {least[1]} ({least[0]}) to {most[1]} ({most[0]}) images"


def _duplicates(found: Mapping[str, Any]) -> str | None:
    parts = []
    for kind, first, words in (("exact", "first", "the same"), ("near", "first_near", "nearly the same")):
        if found.get(kind):
            example = " = ".join(found[first][0][:EXAMPLES]) if found.get(first) else ""
            groups = "1 group" if found[kind] == 1 else f"{found[kind]} groups"
            parts.append(f"{groups} of {words}{f' ({example})' if example else ''}")
    return f"{', '.join(parts)}; listed in duplicates.json" if parts else None


def _summarise_skipped(prepared: PreparedSet) -> None:
    skipped = prepared.manifest["skipped"]
    if not skipped["count"]:
        return
    echo(f"skipped {skipped['count']}:")
    reasons = sorted(skipped["reasons"].items(), key=lambda one: -one[1])
    for reason, count in reasons[:REASONS]:
        files = [item["file"] for item in skipped["first"] if item["reason"].partition(":")[0] == reason]
        files = files[:EXAMPLES]
        more = f" and {count - len(files)} more" if files and count > len(files) else ""
        echo(f"  {count} {reason}{': ' if files else ''}{', '.join(files)}{more}")
    if len(reasons) > REASONS:
        echo(f"  {sum(count for _, count in reasons[REASONS:])} for other reasons")
    if skipped["count"] > EXAMPLES:
        listed = "manifest.json" if skipped["count"] <= len(skipped["first"]) else "skipped.jsonl"
        echo(f"  all are listed in {prepared.folder / listed}")


def list_catalogue(data_dir: Path, *, as_json: bool) -> None:
    """The data sets that are known by name, shipped and the user's own."""
    from ganformer_cli.data.catalogue import load_catalogue, own_entries, read_entry

    entries = list(load_catalogue().values())
    for path in own_entries(data_dir):
        try:
            entries.append(read_entry(path))
        except DataError as error:
            warn(str(error))
    if as_json:
        echo_json([_described(entry) for entry in entries], indent=None, ascii=False)
        return
    echo_table(_COLUMNS, map(_row, entries), right=("images", "GB", "ratio"))


def _row(entry: CatalogueEntry) -> tuple[str, ...]:
    sizes = " or ".join("?" if source.size is None else f"{source.size / GB:g}" for source in entry.source)
    images = "" if entry.images is None else str(entry.images)
    return entry.name, entry.title, images, sizes or "built in", f"{entry.ratio:.4g}", entry.licence


def _described(entry: CatalogueEntry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "title": entry.title,
        "images": entry.images,
        "ratio": entry.ratio,
        "resolution": entry.resolution,
        "licence": entry.licence,
        "homepage": entry.homepage,
        "preset": entry.preset,
        "sources": [
            {
                "form": source.format,
                "address": source.address,
                "gigabytes": None if source.size is None else source.size / GB,
                "checksum": source.checksum,
                "folder": source.folder,
            }
            for source in entry.source
        ],
    }


def report_verified(found: dict[str, Any], *, as_json: bool) -> None:
    """Say what was found of a data set.

    Raises:
        DataError: something is wrong with it.
    """
    if as_json:
        echo_json(found, indent=None, ascii=False)
    elif found["ok"]:
        shards = "1 shard" if found["shards"] == 1 else f"{found['shards']} shards"
        echo(f"{found['folder']}: intact, {found['pictures']} images in {shards}")
    else:
        for problem in found["problems"]:
            echo(problem)
    if not found["ok"]:
        count = len(found["problems"])
        raise DataError(
            f"--verify {found['folder']}: {'a problem was' if count == 1 else f'{count} problems were'} found; prepare "
            "it again with --overwrite, or download it again"
        )
