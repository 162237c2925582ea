"""``ganformer info --datasets``: the prepared data sets, and what is in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ganformer_cli.cli.options import warn
from ganformer_cli.cli.output import echo, echo_json, echo_table
from ganformer_cli.files import MIB

_COLUMNS = ("name", "images", "size", "labels", "MiB", "from")


def list_datasets(data_dir: Path, *, as_json: bool) -> None:
    """Print the data sets in ``data_dir``; a damaged one is named on stderr."""
    from ganformer_cli.data.loading.datasets import describe_prepared

    found = describe_prepared(data_dir)
    if as_json:
        echo_json(found, indent=None, ascii=False)
        return
    rows = [_row(each) for each in found if "error" not in each]
    if rows:
        echo_table(_COLUMNS, rows, right=("images", "MiB"))
    elif not found:
        echo(f"no data set is prepared in {data_dir}; make one with: ganformer prepare FOLDER")
    for each in found:
        if "error" in each:
            warn(each["error"])


def _row(each: dict[str, Any]) -> tuple[str, ...]:
    labels = "" if each["labels"] is None else "{size} {kind}".format(**each["labels"])
    if each["labels"] and each["labels"]["kind"] == "vectors":
        labels = f"vectors of {each['labels']['size']}"
    size = f"{each['width']}x{each['height']}"
    return each["name"], str(each["images"]), size, labels, f"{each['bytes'] / MIB:.1f}", str(each["source"] or "")
