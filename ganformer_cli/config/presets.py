"""Presets: the values of settings that the user leaves out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ganformer_cli.config.base import option_name, require, settings_of
from ganformer_cli.config.model import ATTENTION_NAMES, ModelConfig, image_size
from ganformer_cli.config.train import REGION_WEIGHTS, RunConfig, TrainConfig

MODEL_FIELDS = frozenset(settings_of(ModelConfig))
TRAIN_FIELDS = frozenset(settings_of(TrainConfig))

#: What the authors' --ganformer-default stands for: the layer of the released snapshots.
GANFORMER_DEFAULT: dict[str, Any] = {
    "attention": "kmeans",
    "integration": "mul",
    "normalize": "layer",
    "use_pos": True,
    "mapping_resnet": True,
    "mapping_ltnt2ltnt": True,
    "g_arch": "resnet",
    "d_arch": "resnet",
}

#: What --baseline stands for: the networks that the paper compares with, on the same backbone.
BASELINES: dict[str, dict[str, Any]] = {
    "GAN": {"attention": "none", "style": False, "latent_stem": True},
    "StyleGAN2": {"attention": "none", "style": True, "latent_stem": False},
    "SAGAN": {"attention": "none", "style": False, "latent_stem": True, "g_img2img": 32},
    "VQGAN": {"attention": "none", "style": True, "latent_stem": False, "vqgan": True},
    "kGAN": {"attention": "none", "style": True, "latent_stem": False, "kgan": True},
}

#: The part of a data set's preset that is meant for a model with components.
COMPONENT_SETTINGS = (
    *("components_num", "latent_size", "style", "mapping_ltnt2ltnt"),
    *("g_start_res", *REGION_WEIGHTS),
)

#: What the networks and the training of a VQGAN do not read.
NOT_OF_VQGAN = frozenset(
    {
        *("components_num", "latent_size", "mapping_num_layers", "mapping_dim", "mapping_resnet", "mapping_shared"),
        *("mapping_ltnt2ltnt", "w_avg_per_component", "g_arch", "local_noise", "tanh", "g_img2img", "merge_type"),
        *("merge_layer", "d_arch", "mbstd_group_size", "augment", "augment_p", "augment_target", "augment_kimg"),
        *("objective", "gamma", "g_loss", "d_loss", "pl_weight", "g_reg_interval", "d_reg_interval", "style_mixing"),
        *("component_mixing", "component_dropout", "freeze_d", "checkpoint_activations"),
        *REGION_WEIGHTS,
        "truncation_psi",
    }
)

#: What the preset of a shipped data set may hold.
DATA_SETTINGS = frozenset(
    {*COMPONENT_SETTINGS, *("gamma", "local_noise", "style_mixing", "mirror_augment", "total_kimg", "snapshot_kimg")}
)

#: On a GPU, up to 256 pixels: about a minute of training. Larger images take longer.
FIRST_SNAPSHOT_KIMG = 4.0


def size_preset(resolution: int, on_cpu: bool) -> dict[str, Any]:
    """Settings for the image size and the device.

    On a CPU: small networks, small batches and a short training, so that a first run ends within minutes. On a GPU: the
    networks of the paper, with a shorter training for small images.
    """
    if not on_cpu:
        return {
            "total_kimg": 5000.0 if resolution <= 128 else 25000.0,
            "num_threads": 4,
            "first_snapshot_kimg": FIRST_SNAPSHOT_KIMG * min(1, 256 / resolution),
        }
    return {
        "components_num": 8,
        "latent_size": 128,
        "channel_base": max(1024, 16 * resolution),
        "channel_max": 128,
        "mapping_num_layers": 4,
        "batch_size": 8,
        "gamma": 1.0 if resolution <= 32 else 10.0,
        "g_lr": 0.003,
        "d_lr": 0.0025,
        "total_kimg": 26.0 if resolution <= 32 else 30.0,
        "tick_kimg": 1.0,
        "snapshot_kimg": 4.0 if resolution <= 32 else 10.0,
        # About a minute of training on two cores.
        "first_snapshot_kimg": 0.5 if resolution <= 32 else 0.25 if resolution <= 64 else 0.1,
        "eval_images_num": 256,
    }


def vqgan_preset(resolution: int, on_cpu: bool) -> dict[str, Any]:
    """Settings of a VQGAN: on a CPU 8 x 8 of 256 codes and a small transformer, on a GPU the paper's networks."""
    common = {
        "gamma": 0.0,
        "style_mixing": 0.0,
        "truncation_psi": 1.0,
        "code_stride": min(16, max(2, resolution // 8)),
        "metrics": "swd,diversity,rswd,psnr",
    }
    if not on_cpu:
        return {**common, "precision": "tf32", "g_lr": 0.00015, "d_lr": 0.00015, "transformer_lr": 0.00015}
    return {
        **common,
        "precision": "fp32",
        "batch_size": 16,
        "g_lr": 0.0005,
        "d_lr": 0.0005,
        "vq_gan_weight": 0.1,  # with 0.8, small batches move the decoder faster than the discriminator can follow
        "codebook_size": 256,
        "code_dim": 64,
        "transformer_layers": 4,
        "transformer_width": 128,
        "transformer_heads": 4,
        "ema_kimg": 2.0,
        "total_kimg": 50.0,
        "snapshot_kimg": 10.0,
    }


def autotune_preset(pixels: int, batch_size: int) -> dict[str, Any]:
    """Settings of --autotune (Karras et al. 2020, "Training GANs with Limited Data", appendix C).

    Args:
        pixels: height times width of an image.
        batch_size: images per step.
    """
    rate = 0.0025 if pixels < 1024**2 else 0.002
    return {"gamma": 0.0002 * pixels / batch_size, "g_lr": rate, "d_lr": rate, "ema_kimg": batch_size * 10 / 32}


def resolve_run(
    given: Mapping[str, Any],
    *,
    dataset_preset: Mapping[str, Any],
    on_cpu: bool,
    autotune: bool = False,
    defaults: Mapping[str, Any] | None = None,
) -> RunConfig:
    """The configuration of a run: what the user gave, completed by presets.

    Args:
        given: fields of ``ModelConfig`` and ``TrainConfig`` that the user chose, ``resolution`` among them.
        dataset_preset: settings that come with the data set.
        on_cpu: whether the run is on a CPU; then ``size_preset`` wins over ``dataset_preset``.
        autotune: whether ``autotune_preset`` wins over both.
        defaults: replaces the fields' defaults, and loses against all presets: ``GANFORMER_DEFAULT``.

    Raises:
        ConfigError: an unknown field, or a contradiction.
    """
    resolution = given.get("resolution", ModelConfig.resolution)
    defaults = defaults or {}
    attention = given.get("attention", defaults.get("attention", ModelConfig.attention))
    attention = ATTENTION_NAMES.get(attention, attention)
    # k-means with the integration of the released networks, the others with the paper's.
    values: dict[str, Any] = {"integration": "mul" if attention == "kmeans" else "both", **defaults}
    preset, size = dict(dataset_preset), size_preset(resolution, on_cpu)
    if attention == "none":
        for name in COMPONENT_SETTINGS:
            preset.pop(name, None)
    values.update({**preset, **size} if on_cpu else {**size, **preset})
    if given.get("vqgan"):
        values = {name: value for name, value in values.items() if name not in NOT_OF_VQGAN}
        values.update(vqgan_preset(resolution, on_cpu))
        total = given.get("total_kimg", values.get("total_kimg", TrainConfig.total_kimg))
        if given.get("vq_stage", TrainConfig.vq_stage) == "both":
            values["vq_kimg"] = total / 2 or None
        first = given.get("vq_kimg", values.get("vq_kimg")) or total
        values["vq_warmup_kimg"] = 0.0 if given.get("vq_stage") == "2" else first / 5
    if autotune:
        height, width = image_size(resolution, given.get("ratio", ModelConfig.ratio))
        batch = given.get("batch_size", values.get("batch_size", TrainConfig.batch_size))
        values.update(autotune_preset(height * width, batch))
    if attention == "none":
        if not given.get("kgan"):
            values["components_num"] = 0
        if not given.get("style", True):
            values["style_mixing"] = 0.0
    if given.get("snapshot_kimg") is not None:
        values["first_snapshot_kimg"] = None  # evenly, as asked for
    values.update(given)
    unknown = sorted(set(values) - MODEL_FIELDS - TRAIN_FIELDS)
    require(not unknown, f"unknown setting {', '.join(map(option_name, unknown))}")
    if "g_start_res" not in given and values.get("g_start_res", 0) >= given.get("g_end_res", math.inf):
        del values["g_start_res"]
    model = ModelConfig(**{k: v for k, v in values.items() if k in MODEL_FIELDS})
    if not model.can_be_local:
        values.update({name: 0.0 for name in REGION_WEIGHTS if name not in given})
    if values.get("pretrained_pkl") is None:
        model.check_attention_acts()
    return RunConfig(
        model=model,
        train=TrainConfig(**{k: v for k, v in values.items() if k in TRAIN_FIELDS}),
    )
