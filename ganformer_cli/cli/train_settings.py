"""From the options of ``ganformer train`` to a run's configuration."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ganformer_cli import config as settings
from ganformer_cli.cli.options import boolean_option, given_options, option, warn
from ganformer_cli.cli.train_tensorflow import meanings
from ganformer_cli.config import MODEL_FIELDS, TRAIN_FIELDS, ModelConfig, RunConfig, TrainConfig
from ganformer_cli.errors import ConfigError, NotYetError

if TYPE_CHECKING:
    import torch

    from ganformer_cli.cli.model_choice import Origin
    from ganformer_cli.data import ImageDataset

#: Longer side of the built-in scenes where none is asked for.
SCENES_RESOLUTION_CPU = 32
SCENES_RESOLUTION_GPU = 128

#: What --init-from does not take over from the snapshot's configuration: it follows from the pictures.
_OF_THE_PICTURES = frozenset({"resolution", "ratio", "c_dim", "square_grid", "truncation_cutoff", "g_img2img"})
#: What it takes over where the attention is another one.
_BACKBONE = frozenset(
    {
        *("channel_base", "channel_max", "mapping_num_layers", "mapping_dim", "mapping_resnet", "g_arch", "d_arch"),
        *("local_noise", "mbstd_group_size", "conv_last"),
    }
)

#: Of what size_preset distinguishes.
_SIZES = (32, 64, 128, 256, 1024)
_DEFAULTS = {field.name: field.default for kind in (ModelConfig, TrainConfig) for field in dataclasses.fields(kind)}


def setting(field: str, kind: Any, help: str, *, group: str, rare: bool = True, **more: Any) -> Callable[[Any], Any]:
    """The option of a configuration field; its help ends with the default, its value is None unless given."""
    default = default_text(field)
    text = f"{help}  [default: {default}]" if default else help
    name = settings.option_name(field)
    if kind is bool:
        return boolean_option(name, group=group, rare=rare, help=text, default=None, **more)
    return option(name, field, type=kind, group=group, rare=rare, help=text, default=None, **more)


def default_text(field: str) -> str:
    """The defaults that act: on a GPU and on a CPU, by size, by data set; empty where there is none to say."""
    if field in ("resolution", "ratio"):
        scenes = f"{SCENES_RESOLUTION_CPU} on a CPU, {SCENES_RESOLUTION_GPU} on a GPU" if field == "resolution" else "1"
        return f"the prepared set's; of scenes {scenes}"
    gpu, cpu = (_by_size(field, on_cpu=on_cpu) for on_cpu in (False, True))
    by_data = field in settings.DATA_SETTINGS
    if not gpu and not by_data:
        return ""
    # On a CPU the preset of the size goes before that of the data set.
    by_cpu = field in settings.size_preset(_SIZES[0], True)
    text = f"{gpu or 'none'}{', or by data set' * by_data}"
    return f"{text}; on a CPU {cpu}" if cpu != gpu or (by_data and by_cpu) else text


def _by_size(field: str, *, on_cpu: bool) -> str:
    """The default in words, such as ``16 or 30 by size``."""
    values = dict.fromkeys(settings.size_preset(size, on_cpu).get(field, _DEFAULTS[field]) for size in _SIZES)
    said = [f"{value:g}" if isinstance(value, float) else str(value) for value in values if value is not None]
    if len(said) > 2:
        return f"{said[0]} to {said[-1]} by size"
    return f"{' or '.join(said)} by size" if len(said) == 2 else "".join(said)


def baseline_name(ctx: click.Context) -> str | None:
    """The baseline that was asked for, as ``config.BASELINES`` spells it."""
    asked: str | None = ctx.params.get("baseline")
    if ctx.params.get("tf_kgan"):
        if asked not in (None, "kGAN", "k-GAN"):
            raise ConfigError(f"--kgan means --baseline kGAN and contradicts --baseline {asked}; leave one of them out")
        asked = "kGAN"
    if asked == "VQGAN":
        raise NotYetError("--baseline VQGAN is not in this version yet; there are GAN, StyleGAN2, SAGAN and kGAN")
    return "kGAN" if asked == "k-GAN" else asked


def chosen_settings(ctx: click.Context, baseline: str | None) -> dict[str, Any]:
    """The configuration fields that the user gave, and what --baseline, --ganformer-default and the like stand for."""
    given = given_options(ctx)
    options = {name: value for name, value in given.items() if name in MODEL_FIELDS | TRAIN_FIELDS}
    implied: list[tuple[str, dict[str, Any], bool]] = [
        ("--kmeans", {"attention": "kmeans"}, given.get("kmeans") is True),
        ("--g-img2ltnt", {"attention": "duplex"}, given.get("g_img2ltnt") is True),
        ("--transformer False", {"attention": "none"}, given.get("transformer") is False),
        ("--ganformer-default", {"attention": "kmeans"}, given.get("ganformer_default") is True),
        ("--allow-tf32 False", {"precision": "fp32"}, given.get("allow_tf32") is False),
    ]
    implied += [(said, meaning, True) for said, meaning in meanings(given)]
    if baseline is not None:
        # What it means wins over nothing that the user says: a contradiction is a mistake.
        meaning = {name: value for name, value in settings.BASELINES[baseline].items() if name != "g_img2img"}
        implied.append((f"--baseline {baseline}", meaning, True))
    for name, meaning, present in implied:
        for setting_name, value in meaning.items() if present else ():
            if options.setdefault(setting_name, value) != value:
                said = settings.option_name(setting_name)
                raise ConfigError(
                    f"{name} means {said} {value} and contradicts {said} {options[setting_name]}; leave one of them out"
                )
    if given.get("allow_tf32") is True and options.get("precision") == "fp32":
        raise ConfigError("--allow-tf32 contradicts --precision fp32; leave one of them out")
    if given.get("transformer") is True and options.get("attention") == "none":
        raise ConfigError(f"--transformer contradicts {baseline_said(baseline)}; leave one of them out")
    return options


def baseline_said(baseline: str | None) -> str:
    """How the user said that there be no attention."""
    return "--attention none" if baseline is None else f"--baseline {baseline}"


def open_data(options: dict[str, Any], data_dir: Path, *, on_cpu: bool) -> ImageDataset:
    """The data set that the options name."""
    from ganformer_cli.data import open_dataset

    name = options.get("dataset", TrainConfig.dataset)
    resolution = options.get("resolution")
    if name == "scenes" and resolution is None:
        resolution = SCENES_RESOLUTION_CPU if on_cpu else SCENES_RESOLUTION_GPU
    dataset = open_dataset(
        name,
        data_dir=data_dir,
        resolution=resolution,
        ratio=options.get("ratio"),
        max_images=options.get("train_images_num"),
    )
    for note in dataset.notes if os.environ.get("RANK", "0") == "0" else ():  # once, of several processes
        warn(f"--dataset {name}: {note}")
    return dataset


def resolve(
    options: dict[str, Any],
    dataset: ImageDataset,
    baseline: str | None,
    data_dir: Path,
    *,
    on_cpu: bool,
    autotune: bool = False,
    defaults: dict[str, Any] | None = None,
) -> RunConfig:
    """The run's configuration: what was given, completed by presets."""
    from ganformer_cli.data.catalogue import find_entry

    entry = find_entry(dataset.name, data_dir)
    given = {**options, "dataset": options.get("dataset", TrainConfig.dataset)}
    given.update(resolution=dataset.resolution, ratio=dataset.ratio)
    if baseline is not None and "g_img2img" in settings.BASELINES[baseline]:
        # The paper's resolution, or that of smaller pictures.
        given.setdefault("g_img2img", min(settings.BASELINES[baseline]["g_img2img"], dataset.resolution))
    if given.get("labels"):
        if dataset.label_dim == 0:
            raise ConfigError(
                f"--labels: --dataset {dataset.name} has no labels; leave the option out, or prepare the pictures with "
                "a dataset.json that has them"
            )
        if dataset.label_dim > settings.MAX_LABELS:
            raise ConfigError(
                f"--labels: --dataset {dataset.name} has labels of {dataset.label_dim} numbers, a network takes at "
                f"most {settings.MAX_LABELS}; leave the option out, or prepare the pictures with fewer classes"
            )
        given["c_dim"] = dataset.label_dim
    preset = entry.preset if entry else {}
    config = settings.resolve_run(given, dataset_preset=preset, on_cpu=on_cpu, autotune=autotune, defaults=defaults)
    if len(dataset) < config.train.batch_size:
        raise ConfigError(
            f"--dataset {dataset.name}: {len(dataset)} pictures are fewer than --batch-size "
            f"{config.train.batch_size}; use a larger data set or a smaller batch"
        )
    return config


def find_start(options: dict[str, Any], *, offline: bool) -> Origin | None:
    """The snapshot of --pretrained-pkl or --init-from, or None.

    Raises:
        ConfigError: both are given.
        SnapshotError, DownloadError: it cannot be had, or read.
    """
    from ganformer_cli.cli.model_choice import find_origin

    given = [name for name in ("pretrained_pkl", "init_from") if options.get(name) is not None]
    if len(given) > 1:
        raise ConfigError("--init-from and --pretrained-pkl each say what to start from; give one of them")
    return find_origin(settings.option_name(given[0]), options[given[0]], offline=offline) if given else None


def inherited(found: ModelConfig, options: dict[str, Any], baseline: str | None) -> dict[str, Any]:
    """Settings of the networks that a run with --init-from has from the snapshot, so that most of its weights fit."""
    alike = baseline is None and options.get("attention", found.attention) == found.attention
    names = (MODEL_FIELDS if alike else _BACKBONE) - _OF_THE_PICTURES
    return {name: getattr(found, name) for name in names}


def reloaded(result_dir: Path, expname: str | None) -> tuple[str, dict[str, Any]]:
    """Name and settings of the newest run of ``expname``, or of the one that saved last, for --reload.

    Raises:
        ConfigError: there is none.
    """
    from ganformer_cli.training.run_folder import CONFIG_FILE, read_run_config, runs_of

    runs = [path for path in result_dir.iterdir() if path.is_dir()] if result_dir.is_dir() else []
    if expname is not None:
        runs = runs_of(result_dir, expname)[-1:]
    ready = [path for path in runs if (path / CONFIG_FILE).is_file()]
    if not ready:
        what = f"no run {expname}-NNN" if expname else "no run"
        raise ConfigError(f"--reload: {what} in {result_dir} to take settings from; leave it out to begin one")
    run = max(ready, key=lambda path: (path / CONFIG_FILE).stat().st_mtime)
    config = read_run_config(run)
    return run.name.rpartition("-")[0] or run.name, {**config.model.to_dict(), **config.train.to_dict()}


def as_begun(config: RunConfig, folder: Path) -> RunConfig:
    """``config`` for going on with the run in ``folder``: what an earlier version began keeps the meaning it had."""
    from ganformer_cli.training.run_folder import read_run_config

    begun = read_run_config(folder).model
    if begun.image_positions or config.model.use_pos:
        return config
    return RunConfig(model=dataclasses.replace(config.model, image_positions=False), train=config.train)


def start_from(origin: Origin, config: RunConfig, given: dict[str, Any]) -> RunConfig:
    """``config`` with the networks of --pretrained-pkl, whose settings win over presets and contradict nothing given.

    Raises:
        ConfigError: the user or the data set asked for other networks.
    """
    found, file = origin.config, origin.option
    if found.image_size != config.model.image_size:
        height, width = config.model.image_size
        raise ConfigError(
            f"{file} makes pictures of {found.image_size[1]}x{found.image_size[0]}, those of the data set are "
            f"{width}x{height}; prepare it at that size, or take the weights that fit with --init-from"
        )
    if found.c_dim != config.model.c_dim:
        labels = "give --labels and a data set that has them" if found.c_dim else "leave out --labels"
        raise ConfigError(
            f"{file} has labels of {found.c_dim} numbers, this run of {config.model.c_dim}; {labels}, or take the "
            "weights that fit with --init-from"
        )
    if "attention_dropout" in given:
        # It acts in training only, and shapes no weight.
        found = dataclasses.replace(found, attention_dropout=given["attention_dropout"])
    for name in sorted(set(given) - {"resolution", "ratio"}):
        was = getattr(found, name)
        if given[name] != was:
            said = settings.option_name(name)
            raise ConfigError(
                f"{said} {given[name]}: the networks of {file} have {was}; leave it out, or take the weights that fit "
                "with --init-from"
            )
    train = config.train
    if not (found.style or found.has_components):
        train = dataclasses.replace(train, style_mixing=0.0)
    rate = dropout_of(origin)
    if rate is not None and "component_dropout" not in given_options(click.get_current_context()):
        train = dataclasses.replace(train, component_dropout=rate)
    return RunConfig(model=found, train=train)


def dropout_of(origin: Origin) -> float | None:
    """The rate at which components were dropped when a snapshot of the authors' was trained, or None."""
    said = origin.header.get("training")
    rate = said.get("component_dropout") if isinstance(said, dict) else None
    return float(rate) if isinstance(rate, int | float) and 0 < rate < 1 and origin.config.has_attention else None


def check_precision(config: RunConfig, devices: list[torch.device]) -> None:
    """Raise ConfigError unless the devices can compute in ``--precision``."""
    import torch

    precision = config.train.precision
    if precision == "fp16" and devices[0].type != "cuda":
        raise ConfigError("--precision fp16 is for GPUs; choose bf16 or fp32 on a CPU")
    if precision == "bf16" and devices[0].type == "cuda":
        for device in devices:
            if torch.cuda.get_device_capability(device) < (8, 0):
                name = torch.cuda.get_device_name(device)
                raise ConfigError(f"--precision bf16: {name} does not compute in bfloat16; choose fp16 or fp32")
