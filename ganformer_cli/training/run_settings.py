"""The configuration of a run: what was asked for, completed by presets, a snapshot, or the run that is resumed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ganformer_cli import config as settings
from ganformer_cli.checkpoints.run_folder import CONFIG_FILE, MAY_CHANGE, read_run_config, runs_of
from ganformer_cli.config import MODEL_FIELDS, TRAIN_FIELDS, ModelConfig, RunConfig, TrainConfig, option_name
from ganformer_cli.data import ImageDataset
from ganformer_cli.data.catalogue import find_entry
from ganformer_cli.errors import ConfigError
from ganformer_cli.metrics.weights import CATALOGUE
from ganformer_cli.original_snapshots.model_files import Origin

#: What follows from the data set, which is open before the run is known.
_FROM_DATA = frozenset({"dataset", "resolution", "ratio", "c_dim", "labels", "train_images_num", "g_img2img"})
#: What --init-from does not take from the snapshot, because it follows from the images.
_FROM_IMAGES = frozenset({"resolution", "ratio", "c_dim", "square_grid", "truncation_cutoff", "g_img2img"})
#: What --init-from takes from a snapshot of another kind of attention.
_BACKBONE = frozenset(
    {
        *("channel_base", "channel_max", "mapping_num_layers", "mapping_dim", "mapping_resnet", "g_arch", "d_arch"),
        *("local_noise", "mbstd_group_size", "conv_last"),
    }
)


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
    """The run's configuration: the options that were given, completed by presets."""
    entry = find_entry(dataset.name, data_dir)
    given = {**options, "dataset": options.get("dataset", TrainConfig.dataset)}
    given.update(resolution=dataset.resolution, ratio=dataset.ratio)
    if baseline is not None and "g_img2img" in settings.BASELINES[baseline]:
        # The paper's resolution, or that of smaller images.
        given.setdefault("g_img2img", min(settings.BASELINES[baseline]["g_img2img"], dataset.resolution))
    if given.get("labels"):
        if dataset.label_dim == 0:
            raise ConfigError(
                f"--labels: --dataset {dataset.name} has no labels; leave the option out, or prepare the images with "
                "a dataset.json that has them"
            )
        if dataset.label_dim > settings.MAX_LABELS:
            raise ConfigError(
                f"--labels: --dataset {dataset.name} has labels of {dataset.label_dim} numbers, and a network takes at "
                f"most {settings.MAX_LABELS}; leave the option out, or prepare the images with fewer classes"
            )
        given["c_dim"] = dataset.label_dim
    if given.get("vqgan") and given.get("vq_stage") != "2":
        there = all(file.path.is_file() for file in CATALOGUE["lpips"])
        given.setdefault("vq_perceptual", "lpips" if there else "gradients")
    preset = entry.preset if entry else {}
    config = settings.resolve_run(given, dataset_preset=preset, on_cpu=on_cpu, autotune=autotune, defaults=defaults)
    if len(dataset) < config.train.batch_size:
        raise ConfigError(
            f"--dataset {dataset.name}: {len(dataset)} images are fewer than --batch-size "
            f"{config.train.batch_size}; use a larger data set or a smaller batch"
        )
    return config


def network_settings(found: ModelConfig, options: dict[str, Any], baseline: str | None) -> dict[str, Any]:
    """The settings that a run with --init-from takes from the snapshot, so that most of its weights fit."""
    same_kind = baseline is None and options.get("attention", found.attention) == found.attention
    names = (MODEL_FIELDS if same_kind else _BACKBONE) - _FROM_IMAGES
    return {name: getattr(found, name) for name in names}


def reloaded_settings(result_dir: Path, expname: str | None) -> tuple[str, dict[str, Any]]:
    """For --reload: name and settings of the newest run of ``expname``, or of the newest run.

    Raises:
        ConfigError: there is none.
    """
    runs = [path for path in result_dir.iterdir() if path.is_dir()] if result_dir.is_dir() else []
    if expname is not None:
        runs = runs_of(result_dir, expname)[-1:]
    ready = [path for path in runs if (path / CONFIG_FILE).is_file()]
    if not ready:
        what = f"no run {expname}-NNN" if expname else "no run"
        raise ConfigError(f"--reload: {what} in {result_dir} to take settings from; leave it out to start one")
    run = max(ready, key=lambda path: (path / CONFIG_FILE).stat().st_mtime)
    config = read_run_config(run)
    return run.name.rpartition("-")[0] or run.name, {**config.model.to_dict(), **config.train.to_dict()}


def resumed_config(
    config: RunConfig, folder: Path, given: Mapping[str, Any], *, attention: str | None, say: Callable[[str], None]
) -> RunConfig:
    """``config`` for resuming the run in ``folder``: what is not given is as it was begun.

    So a run goes on although the defaults have changed since, or an option's meaning: ``--attention duplex`` of a run
    of an earlier version is the paper's equation.

    Args:
        given: the fields that the user chose.
        attention: as the user spelled it; None if it was not given.
        say: told what the run has that ``config`` has not.
    """
    begun = read_run_config(folder)
    free = MODEL_FIELDS | TRAIN_FIELDS
    free -= _FROM_DATA | {"pretrained_pkl", "init_from"} | set(given)
    if "snapshot_kimg" in given:
        free -= {"first_snapshot_kimg"}  # it follows from the other
    if attention == "duplex" and begun.model.attention == "duplex-equation":
        free |= {"attention"}
        say("this run is of an earlier version, in which duplex was what is --attention duplex-equation now")
    parts, kept = [], []
    for was, now in ((begun.model, config.model), (begun.train, config.train)):
        values = {name: value for name, value in was.to_dict().items() if name in free}
        kept += [
            f"{option_name(name)} {value}" for name, value in sorted(values.items()) if getattr(now, name) != value
        ]
        parts.append({**now.to_dict(), **values})
    same = all(
        getattr(was, name) == getattr(now, name)
        for was, now, names in ((begun.model, config.model, MODEL_FIELDS), (begun.train, config.train, TRAIN_FIELDS))
        for name in names.intersection(given) - free - MAY_CHANGE
    )
    if kept and same:  # else the run is refused, or goes on with --override, which says enough
        say(f"resuming with the run's settings where none are given: {', '.join(kept)}")
    where = str(folder)
    return RunConfig(model=ModelConfig.from_dict(parts[0], where), train=TrainConfig.from_dict(parts[1], where))


def pretrained_config(origin: Origin, config: RunConfig, given: Mapping[str, Any]) -> RunConfig:
    """``config`` with the networks of --pretrained-pkl, which win over presets but not over what the user gave.

    Args:
        given: what the user gave directly, by option: the released CLEVR model contradicts --ganformer-default.

    Raises:
        ConfigError: the user or the data set asks for other networks.
    """
    found, file = origin.config, origin.option
    if found.vqgan != config.model.vqgan:
        raise ConfigError(
            f"{file} is {'a' if found.vqgan else 'no'} VQGAN; "
            f"{'give' if found.vqgan else 'leave out'} --baseline VQGAN, or choose another snapshot"
        )
    if found.image_size != config.model.image_size:
        height, width = config.model.image_size
        raise ConfigError(
            f"{file} makes images of {found.image_size[1]}x{found.image_size[0]}, those of the data set are "
            f"{width}x{height}; prepare it at that size, or take the weights that fit with --init-from"
        )
    if found.c_dim != config.model.c_dim:
        labels = "give --labels and a data set that has them" if found.c_dim else "leave out --labels"
        raise ConfigError(
            f"{file} has labels of {found.c_dim} numbers, this run of {config.model.c_dim}; {labels}, or take the "
            "weights that fit with --init-from"
        )
    if "attention_dropout" in given:
        # Free to differ: it acts in training only, and shapes no weight.
        found = dataclasses.replace(found, attention_dropout=given["attention_dropout"])
    for name in sorted(MODEL_FIELDS.intersection(given) - {"resolution", "ratio"}):
        was, asked = getattr(found, name), given[name]
        if asked != was and not (name == "attention" and settings.ATTENTION_NAMES.get(asked) == was):
            raise ConfigError(
                f"{option_name(name)} {given[name]}: the networks of {file} have {was}; leave it out, or take the "
                "weights that fit with --init-from"
            )
    train = config.train
    if not (found.style or found.has_components):
        train = dataclasses.replace(train, style_mixing=0.0)
    if not found.can_be_local:
        unused: dict[str, Any] = {name: 0.0 for name in settings.REGION_WEIGHTS if name not in given}
        train = dataclasses.replace(train, **unused)
    rate = original_dropout(origin)
    if rate is not None and "component_dropout" not in given:
        train = dataclasses.replace(train, component_dropout=rate)
    return RunConfig(model=found, train=train)


def original_dropout(origin: Origin) -> float | None:
    """The component dropout that a snapshot of the authors' was trained with, or None."""
    training = origin.header.get("training")
    rate = training.get("component_dropout") if isinstance(training, dict) else None
    return float(rate) if isinstance(rate, int | float) and 0 < rate < 1 and origin.config.has_attention else None
