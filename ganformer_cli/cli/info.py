"""``ganformer info``: what a model file contains and where it comes from; how an image was made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from ganformer_cli.cli.completion import complete_models
from ganformer_cli.cli.info_lists import list_datasets, list_published
from ganformer_cli.cli.info_text import text_of
from ganformer_cli.cli.kept_scores import snapshot_scores
from ganformer_cli.cli.model_card import CARD, card_options, write_card_of
from ganformer_cli.cli.model_choice import ModelChoice, model_options
from ganformer_cli.cli.options import GroupedCommand, given_options, json_option, option, path_option, section, switch
from ganformer_cli.cli.output import cell, echo, echo_json
from ganformer_cli.config import option_name
from ganformer_cli.errors import DataError
from ganformer_cli.files import sha256_of

if TYPE_CHECKING:
    from ganformer_cli.config import ModelConfig
    from ganformer_cli.models import LabelDistribution

#: Suffixes of files that ``ganformer generate`` writes, with metadata that says how.
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".webp", ".gif", ".mp4"})
NETWORK_NAMES = ("ema", "generator", "discriminator")


class ModelFile(NamedTuple):
    """What is read of a model file."""

    header: Mapping[str, Any]
    config: ModelConfig
    parameters: dict[str, int]  # of the networks in the file, by NETWORK_NAMES
    labels: LabelDistribution | None


@click.command("info", cls=GroupedCommand)
@click.argument("chosen", metavar="[RUN|FILE|IMAGE]", required=False, shell_complete=complete_models)
@model_options
@section("Model")
@option("--list", "show_list", is_flag=True, help="List the models that the authors published, and exit.")
@option("--datasets", "show_datasets", is_flag=True, help="List the prepared data sets, and exit.")
@path_option("--data-dir", default="datasets", help="Folder that holds the data sets of --datasets.")
@section("Model card")
@option(
    "--card",
    is_flag=True,
    help=f"Write {CARD}, a model card, next to the model, or into its run folder if it lies in one.",
)
@card_options
@switch("--overwrite", help="Replace a card that was edited.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    chosen: str | None,
    model: ModelChoice,
    show_list: bool,
    show_datasets: bool,
    data_dir: Path,
    card: bool,
    samples: tuple[Path, ...],
    licence: str | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Show what a model is and where it comes from: networks, data set, training, scores, checksum.

    RUN|FILE is a run folder (its newest snapshot) or a model file, as for --model. IMAGE is an image or film made by
    ganformer generate, of which the model, the seed and the settings are shown.

    With --card, write what is known to MODEL.md instead: what the model is, its data, licences, settings, scores and
    samples, with the header that the Hugging Face Hub reads.

    \b
      ganformer info                                    the newest run
      ganformer info results/faces-002
      ganformer info --json results/faces-002/snapshots/network-snapshot-005000.safetensors
      ganformer info images/seed0007.png
      ganformer info --card --licence cc-by-4.0         MODEL.md in the newest run
      ganformer info --list                             models that the authors published
      ganformer info --datasets                         data sets that were prepared
    """
    if show_list:
        if others := sorted(set(given_options(ctx)) - {"show_list", "as_json", "offline"}):
            said = {"chosen": str(chosen)}.get(others[0], option_name(others[0]))
            raise click.UsageError(f"--list shows what the authors published; leave out {said}")
        list_published(as_json=as_json)
        return
    if show_datasets:
        if others := sorted(set(given_options(ctx)) - {"show_datasets", "data_dir", "as_json"}):
            raise click.UsageError(f"--datasets shows prepared data sets; leave out {others[0].replace('_', '-')}")
        list_datasets(data_dir, as_json=as_json)
        return
    if chosen is not None and model.model is not None:
        raise click.UsageError(f"{chosen} and --model {model.model} each name a model; give one of them")
    if chosen is not None and Path(chosen).suffix.lower() in IMAGE_SUFFIXES:
        image = describe_image(Path(chosen))
        if as_json:
            echo_json(image)
        else:
            echo("\n".join(f"{name:<20}{cell(value)}" for name, value in image.items()), lines=True)
        return
    if not card and (card_only := {"samples", "licence", "overwrite"} & set(given_options(ctx))):
        raise click.UsageError(f"--{min(card_only)} is about a model card; add --card, or leave it out")
    file = (model if chosen is None else replace(model, model=chosen)).find()
    record = describe(file)
    if card:
        written = write_card_of(file, record, samples, licence, overwrite=overwrite)
        if as_json:
            echo_json({"card": str(written)})
        else:
            echo(f"card       {written}")
    elif as_json:
        echo_json(record)
    else:
        echo(text_of(record), lines=True)


def read_model(file: Path) -> ModelFile:
    """Read what ``describe`` needs; without torch, if the file is ours.

    Raises:
        SnapshotError: the file is damaged, or no model.
    """
    from ganformer_cli.checkpoints.headers import parameter_counts, read_config, read_header, read_label_distribution
    from ganformer_cli.original_snapshots import is_original

    if is_original(file):
        from ganformer_cli.original_snapshots.opening import load_original

        found = load_original(file)
        networks = {name: getattr(found, name) for name in NETWORK_NAMES}
        counts = {
            n: sum(p.numel() for p in module.parameters()) for n, module in networks.items() if module is not None
        }
        return ModelFile(found.header, found.config, counts, found.ema.label_distribution)
    config, counts = read_config(file), parameter_counts(file)
    known = {name: counts[name] for name in NETWORK_NAMES if name in counts}
    return ModelFile(read_header(file), config, known, read_label_distribution(file, config))


def describe(file: Path) -> dict[str, Any]:
    """What is known about a model file, as JSON values; None if it is not recorded."""
    header, config, counts, labels = read_model(file)
    height, width = config.image_size
    digest = sha256_of(file)
    record: dict[str, Any] = {
        "model": str(file),
        "bytes": file.stat().st_size,
        "sha256": digest,
        "networks": list(counts),
        "architecture": _architecture(config),
        "resolution": config.resolution,
        "image_size": [height, width],
        "ratio": config.ratio,
        "attention": config.attention,
        "components": config.components_num,
        "component_size": config.component_size if config.has_components else None,
        **_labels(labels, config),
        "parameters": _parameters(counts),
        "kimg": header.get("kimg"),
        "dataset": header.get("dataset"),
        "scores": _scores(file, digest),
        "version": header.get("version"),
        "licence": header.get("licence"),
    }
    record |= {name: header[name] for name in ("source", "truncation_psi", "training", "left_out") if name in header}
    return {**record, "config": config.to_dict()}


def describe_image(file: Path) -> dict[str, Any]:
    """The metadata of an image or film.

    Raises:
        DataError: it does not exist, or has none.
    """
    from ganformer_cli.sampling.image_files import read_metadata

    if not file.is_file():
        raise DataError(f"{file}: no such file; give an image made by ganformer generate, or a model")
    about = read_metadata(file)
    if not about:
        raise DataError(
            f"{file}: has no metadata of ganformer generate; another program made or rewrote it, so give another file"
        )
    names: dict[str, Any] = {name: about[name] for name in ("run", "file") if name in about}
    return {"picture": str(file), **names, **about}


def _labels(kept: LabelDistribution | None, config: ModelConfig) -> dict[str, Any]:
    """The number of classes of a model, and the labels of its training data that it keeps."""
    if kept is None:
        return {"classes": config.c_dim, "labels": None}
    counts = kept.counts.tolist()
    if kept.vectors is None:
        names = None if kept.names is None else list(kept.names)
        return {"classes": config.c_dim, "labels": {"kind": "classes", "images": counts, "names": names}}
    about = {"kind": "vectors", "size": config.c_dim, "distinct": kept.distinct, "kept": len(counts)}
    return {"classes": 0, "labels": about}


def _architecture(config: ModelConfig) -> str:
    """The kind of network in a few words."""
    if config.has_attention:
        kind = f"{config.attention_name} attention{'' if config.attention_resolutions else ' in no layer'}"
    elif config.vqgan:
        rows, columns = config.code_grid
        kind = f"VQGAN, {columns}x{rows} codes (width x height) of {config.codebook_size}"
    elif config.kgan:
        kind = f"k-GAN, merged by {config.merge_type}"
    else:
        kind = f"no attention, {'as StyleGAN2' if config.style else 'no style'}"
    return f"{kind}, self-attention at {config.g_img2img} (SAGAN)" if config.g_img2img else kind


def _parameters(counts: Mapping[str, int]) -> dict[str, int]:
    """The number of parameters of each kind of network in the file."""
    found = {"generator": counts.get("ema", counts.get("generator")), "discriminator": counts.get("discriminator")}
    return {name: count for name, count in found.items() if count is not None}


def _scores(file: Path, digest: str) -> dict[str, dict[str, Any]]:
    """The newest score of each metric that is kept for a snapshot, with its conditions."""
    return {
        name: {
            "value": score.value,
            "images": score.conditions.get("num_fakes"),
            "truncation_psi": score.conditions.get("truncation_psi"),
            "dataset": score.conditions.get("dataset"),
        }
        for name, score in snapshot_scores(file, digest).items()
    }
