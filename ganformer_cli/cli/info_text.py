"""The text of ``ganformer info``: what is known of a model, a line for each property."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ganformer_cli.cli.output import cell

#: Number of classes that are listed.
MAX_LISTED_CLASSES = 20
NOT_RECORDED = "not recorded"
NO_LICENCE = "that of whoever trained the model, and of its data"
#: What scores on one line have in common, and how it is printed.
_CONDITIONS = {"images": "{} images", "truncation_psi": "truncation psi {}", "dataset": "against {}"}


def text_of(record: Mapping[str, Any]) -> str:
    """The record of ``info.describe`` as text."""
    height, width = record["image_size"]
    components = "none"
    if record["components"]:
        components = f"{record['components']} of {record['component_size']} numbers"
    rows = [
        ("model", f"{record['model']} ({record['bytes'] / 1e6:,.1f} MB)"),
        ("sha256", record["sha256"]),
        ("networks", ", ".join(record["networks"]) or "none"),
        ("architecture", record["architecture"]),
        ("components", components),
        ("images", f"{width}x{height} (width x height)"),
        ("resolution", f"{record['resolution']}, ratio {record['ratio']:g}"),
        *_label_lines(record),
        ("parameters", ", ".join(f"{count:,} in the {name}" for name, count in record["parameters"].items()) or "none"),
        ("training", NOT_RECORDED if record["kimg"] is None else f"{value_text(record['kimg'])} kimg"),
        ("data set", _dataset(record["dataset"])),
        *(("scores", line) for line in _score_lines(record["scores"])),
        ("ganformer", str(record["version"] or NOT_RECORDED)),
    ]
    if "truncation_psi" in record:
        rows.append(("truncation", f"psi {value_text(record['truncation_psi'])}"))
    if isinstance(record.get("training"), Mapping):
        said = ", ".join(f"{name.replace('_', ' ')} {value_text(value)}" for name, value in record["training"].items())
        rows.append(("trained with", said))
    if isinstance(record.get("left_out"), Mapping):
        rows += [("left out", f"{name}: {why}") for name, why in record["left_out"].items()]
    if "source" in record:
        rows.append(("source", _source(record["source"])))
    rows.append(("licence", str(record["licence"] or NO_LICENCE)))
    return "\n".join(f"{name:<14}{cell(value)}" for name, value in rows)


def _dataset(dataset: Any) -> str:
    if not isinstance(dataset, Mapping):
        return NOT_RECORDED
    parts = [str(dataset.get("name", "unnamed"))]
    if "images" in dataset:
        parts.append(f"{dataset['images']} images")
    if "mirror_augment" in dataset:
        parts.append("also mirrored" if dataset["mirror_augment"] else "not mirrored")
    if "fingerprint" in dataset:
        parts.append(f"fingerprint {dataset['fingerprint']}")
    return ", ".join(parts)


def _source(source: Any) -> str:
    """The file that a converted one was made from."""
    if not isinstance(source, Mapping):
        return str(source)
    return f"{source.get('file')} ({source.get('format')}), sha256 {source.get('sha256')}"


def _score_lines(scores: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One line for all scores that were computed under the same conditions."""
    from ganformer_cli.metrics.registry import SCORES

    lines: dict[str, list[str]] = {}
    for name, score in scores.items():
        how = ", ".join(
            text.format(value_text(score[key])) for key, text in _CONDITIONS.items() if score[key] is not None
        )
        in_percent = name in SCORES and SCORES[name].percent
        value = SCORES[name].text(score["value"]) if in_percent else f"{score['value']:.4g}"
        lines.setdefault(how, []).append(f"{name} {value}")
    return [", ".join(values) + f" ({how})" * bool(how) for how, values in lines.items()]


def value_text(value: Any) -> str:
    """A number, without a decimal point if it is whole; anything else as text."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _label_lines(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    labels, classes = record["labels"], record["classes"]
    lines = [("classes", str(classes or "none"))]
    if labels is None:
        return [*lines, ("labels", f"{NOT_RECORDED}; classes are taken as equally likely")] if classes else lines
    if labels["kind"] == "vectors":
        some = "" if labels["kept"] == labels["distinct"] else f", {labels['kept']} of them kept in the model"
        said = f"vectors of {labels['size']} numbers, {labels['distinct']} distinct ones in the data{some}"
    else:
        names = labels["names"] or range(classes)
        shown = [f"{name} {count}" for name, count in zip(names, labels["images"], strict=True)][:MAX_LISTED_CLASSES]
        said = f"images of each class: {', '.join(shown)}{', …' * (classes > MAX_LISTED_CLASSES)}"
    return [*lines, ("labels", said)]
