"""``ganformer info``: what a model file holds, and where it comes from; what a picture says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from ganformer_cli.cli.info_published import list_published
from ganformer_cli.cli.kept_scores import scores_file
from ganformer_cli.cli.model_choice import find_model, load_all, model_options, run_of
from ganformer_cli.cli.options import GroupedCommand, given_options, json_option, option, warn
from ganformer_cli.cli.output import cell, echo, echo_json
from ganformer_cli.errors import DataError
from ganformer_cli.files import sha256_of

if TYPE_CHECKING:
    from ganformer_cli.config import ModelConfig
    from ganformer_cli.models import LabelDistribution

#: So many classes are shown one by one.
CLASSES = 20
#: Files that ``ganformer generate`` writes, and that say of themselves how they were made.
PICTURES = frozenset({".png", ".jpg", ".webp", ".gif", ".mp4"})
NETWORKS = ("ema", "generator", "discriminator")
NOT_SAID = "not recorded"
NO_LICENCE = "the licence of a model is that of whoever trained it, and of its data"
#: What two scores must share to be shown on one line, and how it is said.
_CONDITIONS = {"images": "{} pictures", "truncation_psi": "truncation psi {}", "dataset": "against {}"}


class ModelFile(NamedTuple):
    """What a model file says of itself."""

    header: Mapping[str, Any]
    config: ModelConfig
    networks: tuple[str, ...]  # of NETWORKS
    labels: LabelDistribution | None


@click.command("info", cls=GroupedCommand)
@click.argument("chosen", metavar="[RUN|FILE|PICTURE]", required=False)
@model_options
@option(
    "--list", "show_list", is_flag=True, group="Model", help="Show the models that the authors published, and exit."
)
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    chosen: str | None,
    model: str | None,
    expname: str | None,
    result_dir: Path,
    show_list: bool,
    as_json: bool,
    offline: bool,
) -> None:
    """Show what a model is and where it comes from: networks, data set, training, scores, checksum.

    RUN|FILE is a run folder, whose newest snapshot is taken, or a model file; --model says the same. Of a PICTURE that
    ganformer generate has made: which model, seed and settings made it.

    \b
      ganformer info                                    the run that saved last
      ganformer info results/faces-002
      ganformer info --json results/faces-002/snapshots/network-snapshot-005000.safetensors
      ganformer info images/seed0007.png
      ganformer info --list                             the models that the authors published
    """
    if show_list:
        if others := sorted(set(given_options(ctx)) - {"show_list", "as_json", "offline"}):
            said = {"chosen": str(chosen)}.get(others[0], f"--{others[0].replace('_', '-')}")
            raise click.UsageError(f"--list shows what the authors published; leave out {said}")
        list_published(as_json=as_json)
        return
    if chosen is not None and model is not None:
        raise click.UsageError(f"{chosen} and --model {model} each name a model; give one of them")
    if chosen is not None and Path(chosen).suffix.lower() in PICTURES:
        image = describe_image(Path(chosen))
        lines = [f"{name:<20}{cell(value)}" for name, value in image.items()]
        if as_json:
            echo_json(image)
        else:
            echo("\n".join(lines), lines=True)
        return
    file = find_model(chosen if model is None else model, expname, result_dir, offline=offline)
    record = describe(file)
    if as_json:
        echo_json(record)
    else:
        echo("\n".join(_lines(record)), lines=True)


def read_model(file: Path) -> ModelFile:
    """Read what ``describe`` needs; of our own files without the weights.

    Raises:
        SnapshotError: the file is damaged, or no model.
    """
    from ganformer_cli.checkpoints.headers import read_config, read_header, read_shapes
    from ganformer_cli.checkpoints.snapshots import read_label_distribution
    from ganformer_cli.original_snapshots import is_original

    if is_original(file):
        found = load_all(file)
        present = tuple(name for name in NETWORKS if getattr(found, name) is not None)
        return ModelFile(found.header, found.config, present, found.ema.label_distribution)
    header = read_header(file)
    inside = {name.partition(".")[0] for name in read_shapes(file)}
    config, present = read_config(file), tuple(name for name in NETWORKS if name in inside)
    return ModelFile(header, config, present, read_label_distribution(file, config))


def describe(file: Path) -> dict[str, Any]:
    """Everything that is known of a model file, as JSON values; None where it does not say."""
    header, config, networks, labels = read_model(file)
    height, width = config.image_size
    digest = sha256_of(file)
    record: dict[str, Any] = {
        "model": str(file),
        "bytes": file.stat().st_size,
        "sha256": digest,
        "networks": list(networks),
        "architecture": _architecture(config),
        "resolution": config.resolution,
        "image_size": [height, width],
        "ratio": config.ratio,
        "attention": config.attention,
        "components": config.components_num,
        "component_size": config.component_size if config.has_components else None,
        **_labels(labels, config),
        "parameters": _parameters(config, networks),
        "kimg": header.get("kimg"),
        "dataset": header.get("dataset"),
        "scores": _scores(file, digest),
        "version": header.get("version"),
        "licence": header.get("licence"),
    }
    record |= {name: header[name] for name in ("source", "truncation_psi", "training", "left_out") if name in header}
    return {**record, "config": config.to_dict()}


def describe_image(file: Path) -> dict[str, Any]:
    """What a picture or film says of itself.

    Raises:
        DataError: there is none, or it is not ganformer's.
    """
    from ganformer_cli.sampling.image_files import read_metadata

    if not file.is_file():
        raise DataError(f"{file}: no such file; give a picture that ganformer generate has made, or a model")
    about = read_metadata(file)
    if not about:
        raise DataError(
            f"{file}: does not say how it was made: it is none of ganformer generate's, or another program has "
            "rewritten it; give another"
        )
    names: dict[str, Any] = {name: about[name] for name in ("run", "file") if name in about}
    return {"picture": str(file), **names, **about}


def _labels(kept: LabelDistribution | None, config: ModelConfig) -> dict[str, Any]:
    """How many classes a model has, and what it has kept of the labels of its data."""
    if kept is None:
        return {"classes": config.c_dim, "labels": None}
    counts = kept.counts.tolist()
    if kept.vectors is None:
        names = None if kept.names is None else list(kept.names)
        return {"classes": config.c_dim, "labels": {"kind": "classes", "images": counts, "names": names}}
    about = {"kind": "vectors", "size": config.c_dim, "distinct": kept.distinct, "kept": len(counts)}
    return {"classes": 0, "labels": about}


def _label_lines(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    labels, classes = record["labels"], record["classes"]
    lines = [("classes", str(classes or "none"))]
    if labels is None:
        return [*lines, ("labels", f"{NOT_SAID}; classes are taken to be equally likely")] if classes else lines
    if labels["kind"] == "vectors":
        some = "" if labels["kept"] == labels["distinct"] else f", {labels['kept']} of them kept in the model"
        said = f"vectors of {labels['size']} numbers, {labels['distinct']} different ones in the data{some}"
    else:
        names = labels["names"] or range(classes)
        shown = [f"{name} {count}" for name, count in zip(names, labels["images"], strict=True)][:CLASSES]
        said = f"images of each class: {', '.join(shown)}{', …' * (classes > CLASSES)}"
    return [*lines, ("labels", said)]


def _architecture(config: ModelConfig) -> str:
    """What kind of network it is, in a few words."""
    if config.has_attention:
        kind = f"{config.attention} attention{'' if config.attention_resolutions else ' in no layer'}"
    elif config.kgan:
        kind = f"k-GAN, merged by {config.merge_type}"
    else:
        kind = f"no attention, {'as StyleGAN2' if config.style else 'no style'}"
    return f"{kind}, self-attention at {config.g_img2img} (SAGAN)" if config.g_img2img else kind


def _parameters(config: ModelConfig, networks: tuple[str, ...]) -> dict[str, int]:
    """How many numbers are trained in each kind of network that the file holds."""
    import torch

    from ganformer_cli.models import Discriminator, Generator, parameter_count

    counts = {}
    with torch.device("meta"):
        if "ema" in networks or "generator" in networks:
            counts["generator"] = parameter_count(Generator(config))
        if "discriminator" in networks:
            counts["discriminator"] = parameter_count(Discriminator(config))
    return counts


def _scores(file: Path, digest: str) -> dict[str, dict[str, Any]]:
    """The newest score of each kind that is kept of a snapshot, in its run or beside it: its value, and of what."""
    from ganformer_cli.metrics.records import is_finite_number, read_records, scores_in

    kept, of_run = scores_file(file), run_of(file) is not None
    if not kept.is_file():
        return {}
    scores: dict[str, dict[str, Any]] = {}
    for record in read_records(kept, warn):
        said = record.get("provenance")
        provenance = said if isinstance(said, Mapping) else {}
        if (of_run and record.get("snapshot") != file.name) or provenance.get("snapshot_sha256", digest) != digest:
            continue  # of another file, which may have had this name
        for name, score in scores_in(record).items():
            conditions = {
                "images": score.conditions.get("num_fakes"),
                "truncation_psi": score.conditions.get("truncation_psi"),
                "dataset": score.conditions.get("dataset"),
            }
            scores[name] = {"value": score.value, **conditions}
            if is_finite_number(record.get(f"{name}_floor")):
                scores[f"{name}_floor"] = {"value": record[f"{name}_floor"], **conditions}
    return scores


def _lines(record: Mapping[str, Any]) -> list[str]:
    """The record as text, a line for each thing."""
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
        ("pictures", f"{width}x{height} (width x height)"),
        ("resolution", f"{record['resolution']}, ratio {record['ratio']:g}"),
        *_label_lines(record),
        ("parameters", ", ".join(f"{count:,} in the {name}" for name, count in record["parameters"].items()) or "none"),
        ("training", NOT_SAID if record["kimg"] is None else f"{_said(record['kimg'])} kimg"),
        ("data set", _dataset(record["dataset"])),
        *(("scores", line) for line in _score_lines(record["scores"])),
        ("ganformer", str(record["version"] or NOT_SAID)),
    ]
    if "truncation_psi" in record:
        rows.append(("truncation", f"psi {_said(record['truncation_psi'])}"))
    if isinstance(record.get("training"), Mapping):
        said = ", ".join(f"{name.replace('_', ' ')} {_said(value)}" for name, value in record["training"].items())
        rows.append(("trained with", said))
    if isinstance(record.get("left_out"), Mapping):
        rows += [("left out", f"{name}: {why}") for name, why in record["left_out"].items()]
    if "source" in record:
        rows.append(("source", _source(record["source"])))
    rows.append(("licence", str(record["licence"] or NO_LICENCE)))
    return [f"{name:<14}{cell(value)}" for name, value in rows]


def _dataset(dataset: Any) -> str:
    if not isinstance(dataset, Mapping):
        return NOT_SAID
    parts = [str(dataset.get("name", "of no name"))]
    if "images" in dataset:
        parts.append(f"{dataset['images']} pictures")
    if "mirror_augment" in dataset:
        parts.append("mirrored too" if dataset["mirror_augment"] else "not mirrored")
    if "fingerprint" in dataset:
        parts.append(f"fingerprint {dataset['fingerprint']}")
    return ", ".join(parts)


def _source(source: Any) -> str:
    """Of a converted file: the one that it was made from."""
    if not isinstance(source, Mapping):
        return str(source)
    return f"{source.get('file')} ({source.get('format')}), sha256 {source.get('sha256')}"


def _score_lines(scores: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One line for the scores that were taken in the same way."""
    from ganformer_cli.metrics.registry import SCORES

    lines: dict[str, list[str]] = {}
    for name, score in scores.items():
        how = ", ".join(text.format(_said(score[key])) for key, text in _CONDITIONS.items() if score[key] is not None)
        in_percent = name in SCORES and SCORES[name].percent
        value = SCORES[name].text(score["value"]) if in_percent else f"{score['value']:.4g}"
        lines.setdefault(how, []).append(f"{name} {value}")
    return [", ".join(values) + f" ({how})" * bool(how) for how, values in lines.items()]


def _said(value: Any) -> str:
    """Whole numbers without a point."""
    return f"{value:g}" if isinstance(value, float) else str(value)
