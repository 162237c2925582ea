"""From the options of ``ganformer train`` to the configuration of a run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ganformer_cli import config as settings
from ganformer_cli.cli.model_choice import named_model
from ganformer_cli.cli.options import given_options, warn
from ganformer_cli.cli.train_compatibility import synonyms
from ganformer_cli.config import MODEL_FIELDS, TRAIN_FIELDS, TrainConfig, option_name
from ganformer_cli.errors import ConfigError

if TYPE_CHECKING:
    from ganformer_cli.data import ImageDataset
    from ganformer_cli.original_snapshots.model_files import Origin


def baseline_name(ctx: click.Context) -> str | None:
    """The baseline that is asked for, as ``config.BASELINES`` spells it."""
    asked: str | None = ctx.params.get("baseline")
    if ctx.params.get("baseline_kgan"):
        if asked not in (None, "kGAN", "k-GAN"):
            raise ConfigError(f"--kgan means --baseline kGAN and contradicts --baseline {asked}; leave one of them out")
        asked = "kGAN"
    return "kGAN" if asked == "k-GAN" else asked


def chosen_settings(ctx: click.Context) -> dict[str, Any]:
    """The configuration fields that the user gave, directly or by an option that stands for them.

    Raises:
        ConfigError: two options contradict each other.
    """
    given, baseline = given_options(ctx), baseline_name(ctx)
    options = {name: value for name, value in given.items() if name in MODEL_FIELDS | TRAIN_FIELDS}
    if "attention" in options:
        options["attention"] = settings.ATTENTION_NAMES.get(options["attention"], options["attention"])
    implied = list(synonyms(given))
    if given.get("ganformer_default"):
        implied.append(("--ganformer-default", {"attention": "kmeans"}))
    if baseline is not None:
        meaning = {name: value for name, value in settings.BASELINES[baseline].items() if name != "g_img2img"}
        implied.append((f"--baseline {baseline}", meaning))
    if baseline == "VQGAN" and (unread := sorted(settings.NOT_OF_VQGAN.intersection(options))):
        raise ConfigError(
            f"{', '.join(map(option_name, unread))}: nothing reads it with --baseline VQGAN; leave it out, and see the "
            "section VQGAN of ganformer train --help-all"
        )
    if baseline == "VQGAN" and given.get("autotune"):
        raise ConfigError(
            "--autotune with --baseline VQGAN: it chooses learning rates and the weight of R1 for the other networks; "
            "leave one of them out"
        )
    for said, meaning in implied:
        for name, value in meaning.items():
            if options.setdefault(name, value) != value:
                other = f"{option_name(name)} {given.get(name, options[name])}"  # as it was spelled
                raise ConfigError(
                    f"{said} means {option_name(name)} {value} and contradicts {other}; leave one of them out"
                )
    if given.get("allow_tf32") and options.get("precision") == "fp32":
        raise ConfigError("--allow-tf32 contradicts --precision fp32; leave one of them out")
    if given.get("transformer") and options.get("attention") == "none":
        other = "--attention none" if baseline is None else f"--baseline {baseline}"
        raise ConfigError(f"--transformer contradicts {other}; leave one of them out")
    return options


def open_data(options: dict[str, Any], data_dir: Path, *, on_cpu: bool) -> ImageDataset:
    """The data set that the options name."""
    from ganformer_cli.data import open_dataset

    name = options.get("dataset", TrainConfig.dataset)
    resolution = options.get("resolution")
    if name == "scenes" and resolution is None:
        resolution = settings.SCENES_RESOLUTION_CPU if on_cpu else settings.SCENES_RESOLUTION_GPU
    dataset = open_dataset(
        name,
        data_dir=data_dir,
        resolution=resolution,
        ratio=options.get("ratio"),
        max_images=options.get("train_images_num"),
    )
    for note in dataset.notes if os.environ.get("RANK", "0") == "0" else ():  # by one of several processes
        warn(f"--dataset {name}: {note}")
    return dataset


def find_start(options: dict[str, Any], *, offline: bool) -> Origin | None:
    """The snapshot of --pretrained-pkl or --init-from, or None.

    Raises:
        ConfigError: both are given.
        SnapshotError, DownloadError: it cannot be read or downloaded.
    """
    from ganformer_cli.original_snapshots.model_files import read_origin

    given = [name for name in ("pretrained_pkl", "init_from") if options.get(name) is not None]
    if len(given) > 1:
        raise ConfigError("--init-from and --pretrained-pkl both say what to start from; give one of them")
    if not given:
        return None
    option, model = option_name(given[0]), options[given[0]]
    return read_origin(f"{option} {model}", named_model(model, option, offline=offline))
