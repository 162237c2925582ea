"""``ganformer info --list`` and ``--datasets``: what the authors published, and which data sets are prepared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ganformer_cli.cli.model_choice import GDRIVE
from ganformer_cli.cli.options import warn
from ganformer_cli.cli.output import echo, echo_json, echo_table
from ganformer_cli.files import MIB

#: The row of the paper's table that the published snapshots belong to.
PAPERS_MODEL = "duplex"
_PUBLISHED_COLUMNS = ("name", "data set", "size", "written by", "file", "paper's FID")
_DATASET_COLUMNS = ("name", "images", "size", "labels", "MiB", "from")


def list_published(*, as_json: bool) -> None:
    """Print all of them: what they are, whether they are downloaded, and what the paper reports."""
    from ganformer_cli.original_snapshots.catalogue import PUBLISHED

    found = [published_record(name) for name in PUBLISHED]
    if as_json:
        echo_json(found)
        return
    echo_table(_PUBLISHED_COLUMNS, map(_published_row, found))
    source = next(each["paper"]["source"] for each in found if each["paper"])
    echo(f"paper's FID: reported for such models, not measured on these files ({source})")
    echo("ganformer generate --model NAME and eval --model NAME download a model if necessary")


def published_record(name: str) -> dict[str, Any]:
    """What is known about a published snapshot, as JSON values; None if it is not known."""
    from ganformer_cli.config import image_size
    from ganformer_cli.data.catalogue import load_catalogue
    from ganformer_cli.downloads.drive import drive_address
    from ganformer_cli.metrics.kept import read_kept
    from ganformer_cli.original_snapshots.catalogue import PUBLISHED, snapshot_path

    known, path = PUBLISHED[name], snapshot_path(name)
    height, width = image_size(known.resolution, known.ratio)
    reported = load_catalogue()[known.dataset].reported
    paper = None
    # The paper's table is about one resolution only.
    if reported is not None and reported.resolution == known.resolution and PAPERS_MODEL in reported.fid:
        paper = {
            "fid": reported.fid[PAPERS_MODEL],
            "model": PAPERS_MODEL,
            "images": reported.images,
            "resolution": reported.resolution,
            "source": reported.source,
        }
    here = path.is_file()
    return {
        "name": f"{GDRIVE}{name}",
        "dataset": known.dataset,
        "resolution": known.resolution,
        "image_size": [height, width],
        "format": known.format,
        "url": drive_address(known.file_id),
        "path": str(path) if here else None,
        "bytes": path.stat().st_size if here else None,
        "paper": paper,
        "scores": [
            {name: record[name] for name in record if name != "swd_levels"} for record in read_kept(path).records
        ],
    }


def _published_row(found: dict[str, Any]) -> tuple[str, ...]:
    height, width = found["image_size"]
    here = "not downloaded" if found["bytes"] is None else f"{found['bytes'] / 1e6:,.1f} MB, here"
    fid = f"{found['paper']['fid']:.2f}" if found["paper"] else "-"
    return found["name"], found["dataset"], f"{width}x{height}", found["format"], here, fid


def list_datasets(data_dir: Path, *, as_json: bool) -> None:
    """Print the data sets in ``data_dir``; a damaged one is named on stderr."""
    from ganformer_cli.data.loading.datasets import describe_prepared

    found = describe_prepared(data_dir)
    if as_json:
        echo_json(found, indent=None, ascii=False)
        return
    rows = [_dataset_row(each) for each in found if "error" not in each]
    if rows:
        echo_table(_DATASET_COLUMNS, rows, right=("images", "MiB"))
    elif not found:
        echo(f"no data set is prepared in {data_dir}; make one with: ganformer prepare FOLDER")
    for each in found:
        if "error" in each:
            warn(each["error"])


def _dataset_row(each: dict[str, Any]) -> tuple[str, ...]:
    labels = "" if each["labels"] is None else "{size} {kind}".format(**each["labels"])
    if each["labels"] and each["labels"]["kind"] == "vectors":
        labels = f"vectors of {each['labels']['size']}"
    size = f"{each['width']}x{each['height']}"
    return each["name"], str(each["images"]), size, labels, f"{each['bytes'] / MIB:.1f}", str(each["source"] or "")
