"""Configuration: sizes, contradictions, JSON there and back, and who wins over whom."""

from __future__ import annotations

from typing import Any

import pytest

from ganformer_cli.config import (
    BASELINES,
    GANFORMER_DEFAULT,
    ModelConfig,
    RunConfig,
    TrainConfig,
    image_size,
    resolve_run,
    start_grid,
)
from ganformer_cli.errors import ConfigError


@pytest.mark.parametrize(
    ("resolution", "ratio", "size", "start"),
    [
        (256, 1.0, (256, 256), (4, 4)),
        (256, 0.5, (128, 256), (2, 4)),
        (256, 0.75, (192, 256), (3, 4)),
        (256, 188 / 256, (188, 256), (3, 4)),
        (256, 0.7, (179, 256), (3, 4)),
        (128, 2.0, (128, 64), (4, 2)),
        (64, 1.5, (64, 43), (4, 3)),
    ],
)
def test_sizes(resolution: int, ratio: float, size: tuple[int, int], start: tuple[int, int]) -> None:
    assert image_size(resolution, ratio) == size
    assert start_grid(ratio) == start
    config = ModelConfig(resolution=resolution, ratio=ratio)
    grid = config.grid(resolution)
    assert grid[0] >= size[0]
    assert grid[1] >= size[1]
    assert config.image_size == size


def test_number_of_layers_is_that_of_the_specification() -> None:
    assert ModelConfig(resolution=32).num_ws == 9
    assert ModelConfig(resolution=256).num_ws == 15


def test_attention_resolutions() -> None:
    assert ModelConfig(resolution=256).attention_resolutions == (4, 8, 16, 32, 64, 128)
    assert ModelConfig(resolution=64, g_start_res=3, g_end_res=5).attention_resolutions == (8, 16)
    assert ModelConfig(attention="none", components_num=0).attention_resolutions == ()


WRONG_MODELS: list[tuple[dict[str, Any], list[str]]] = [
    ({"components_num": 7}, ["--components-num 7", "--latent-size 512"]),
    ({"components_num": 0}, ["--components-num 0", "duplex"]),
    ({"attention": "none"}, ["--components-num 16", "--attention"]),
    ({"attention": "triplex"}, ["--attention triplex", "simplex"]),
    ({"resolution": 100}, ["--resolution 100", "power of two"]),
    ({"resolution": 4}, ["--resolution 4"]),
    ({"ratio": 0.0}, ["--ratio"]),
    ({"ratio": float("nan")}, ["--ratio"]),
    ({"num_heads": 3}, ["--num-heads 3", "512", "--channel-max"]),
    ({"attention": "simplex", "kmeans_iters": 2}, ["--kmeans-iters 2", "--attention duplex"]),
    ({"pos_dim": 6}, ["--pos-dim 6", "multiple of 4"]),
    ({"channel_max": 10**9}, ["--channel-max 1000000000"]),
    ({"channel_base": 16}, ["--channel-base 16"]),
    ({"attention_dropout": 1.0}, ["--attention-dropout"]),
    ({"style": False, "c_dim": 2}, ["--style False", "labels"]),
    ({"normalize": "batch"}, ["--normalize batch", "layer"]),
    ({"pos_type": "learned"}, ["--pos-type learned", "trainable2d"]),
    ({"pos_type": "trainable", "pos_dim": 7}, ["--pos-dim 7", "--pos-type trainable"]),
    ({"pos_directions_num": 3}, ["--pos-dim 32", "--pos-directions-num 3"]),
    ({"pos_type": "trainable", "pos_directions_num": 4}, ["--pos-directions-num 4", "--pos-type trainable"]),
    ({"use_pos": False, "pos_init": "normal"}, ["--pos-init normal", "no position is trained"]),
    (
        {"attention": "kmeans", "mapping_ltnt2ltnt": False, "pos_init": "normal"},
        ["--pos-init normal", "--mapping-ltnt2ltnt False"],
    ),
    ({"attention": "simplex", "iterative": True}, ["--iterative True", "--attention simplex"]),
    ({"attention": "kmeans", "iterative": True, "g_end_res": 3}, ["--iterative", "--g-end-res 3"]),
    ({"d_ltnt2img": True}, ["--d-ltnt2img True", "--d-transformer"]),
    (
        {
            "d_transformer": True,
            "num_heads": 3,
            "channel_base": 10240,
            "channel_max": 48,
            "g_end_res": 3,
            "d_end_res": 9,
        },
        ["--num-heads 3", "40 channels at resolution 256"],
    ),
    ({"num_heads": 8, "latent_size": 64}, ["--num-heads 8", "--mapping-ltnt2ltnt", "--latent-size"]),
    ({"mapping_shared": True, "style": False}, ["--mapping-shared", "--style False"]),
    ({"mapping_shared": True, "c_dim": 2}, ["--mapping-shared", "--labels"]),
    ({"mapping_num_layers": 0, "mapping_dim": 8}, ["--mapping-dim 8", "--mapping-num-layers 0"]),
    ({"g_img2img": 512}, ["--g-img2img 512", "--resolution 256"]),
    ({"merge_type": "sum"}, ["--merge-type sum", "kGAN"]),
    ({"kgan": True}, ["kGAN", "--attention duplex"]),
    ({"kgan": True, "attention": "none", "merge_layer": 8}, ["--merge-layer 8", "--resolution 256"]),
    ({"kgan": True, "attention": "none", "components_num": 0}, ["--components-num 0", "kGAN"]),
    ({"kgan": True, "attention": "none", "style": False}, ["kGAN", "--style False"]),
    ({"kgan": True, "attention": "none", "latent_stem": True}, ["kGAN", "--latent-stem"]),
    *(
        ({"attention": "none", "components_num": 0, name: value}, [f"{option} {value}", "--attention none"])
        for name, option, value in (
            ("num_heads", "--num-heads", 2),
            ("integration", "--integration", "mul"),
            ("g_ltnt2ltnt", "--g-ltnt2ltnt", True),
            ("mapping_shared", "--mapping-shared", True),
            ("mapping_ltnt2ltnt", "--mapping-ltnt2ltnt", False),
            ("pos_type", "--pos-type", "linear"),
            ("d_transformer", "--d-transformer", True),
            ("img_gate", "--img-gate", True),
        )
    ),
    ({"attention": "none", "components_num": 0, "style": False}, ["--style False", "--attention none", "GAN"]),
]


@pytest.mark.parametrize(("options", "words"), WRONG_MODELS)
def test_contradictions_name_the_options(options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        ModelConfig(**options)
    for word in words:
        assert word in str(error.value)


WRONG_RUNS: list[tuple[dict[str, Any], list[str]]] = [
    ({"batch_size": 6}, ["--batch-size 6", "multiple of 4"]),
    ({"batch_size": 1}, ["--batch-size 1", "at least 2"]),
    ({"batch_size": 16, "batch_gpu": 6}, ["--batch-gpu 6", "--batch-size 16"]),
    ({"batch_size": 12, "batch_gpu": 6}, ["--batch-gpu 6", "multiple of 4"]),
    ({"batch_size": 8, "batch_gpu": 1}, ["--batch-gpu 1", "at least 2"]),
    ({"gamma": -1.0}, ["--gamma -1"]),
    ({"style_mixing": 2.0}, ["--style-mixing 2"]),
    ({"component_dropout": 1.0}, ["--component-dropout"]),
    ({"tick_kimg": 0.0}, ["--tick-kimg"]),
    ({"attention": "none", "component_dropout": 0.1}, ["--component-dropout", "--attention"]),
    ({"misspelt": 1}, ["--misspelt"]),
    ({"component_mixing": 2.0}, ["--component-mixing 2"]),
    ({"components_num": 1, "component_mixing": 0.5}, ["--component-mixing 0.5", "--components-num 1"]),
    ({"g_loss": "mse"}, ["--g-loss mse", "hinge"]),
    ({"d_loss": "wgan", "gamma": 0.0}, ["--d-loss wgan", "--gamma 0"]),
    ({"objective": "relativistic", "d_loss": "hinge"}, ["--d-loss hinge", "--objective relativistic"]),
    ({"objective": "relativistic", "augment": "ada"}, ["--augment ada", "--objective relativistic"]),
    ({"attention": "none", "locality_weight": 1.0}, ["--locality-weight 1", "--attention"]),
    ({"components_num": 1, "map_divergence_weight": 1.0}, ["--map-divergence-weight 1", "--components-num"]),
    ({"pl_weight": -1.0}, ["--pl-weight -1"]),
    ({**BASELINES["GAN"], "style_mixing": 0.5}, ["--style-mixing 0.5", "--style False"]),
    ({"labels": True}, ["--labels"]),
]


@pytest.mark.parametrize(("options", "words"), WRONG_RUNS)
def test_wrong_runs_name_the_options(options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        resolve_run({"resolution": 32, **options}, dataset_preset={}, on_cpu=True)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("batch", [2, 3, 4, 8, 32])
def test_batches_that_minibatch_std_can_group(batch: int) -> None:
    assert resolve_run({"batch_size": batch}, dataset_preset={}, on_cpu=True).train.batch_size == batch


def test_json_there_and_back() -> None:
    run = resolve_run({"resolution": 64, "attention": "kmeans", "seed": 3}, dataset_preset={}, on_cpu=True)
    assert RunConfig.from_dict(run.to_dict()) == run


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"surprise": 1}, "surprise"),
        ({"resolution": "256"}, "resolution"),
        ({"style": 1}, "style"),
        ({"components_num": True}, "components_num"),
        ({"ratio": None}, "ratio"),
    ],
)
def test_reading_is_strict(change: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        ModelConfig.from_dict({**ModelConfig().to_dict(), **change}, where="file.safetensors")


def test_presets_fill_only_what_was_left_out() -> None:
    preset = {"gamma": 40.0, "components_num": 8, "latent_size": 128, "style": False}
    run = resolve_run({"resolution": 256, "gamma": 7.0}, dataset_preset=preset, on_cpu=False)
    assert (run.train.gamma, run.model.components_num, run.model.style) == (7.0, 8, False)
    small = resolve_run({"resolution": 32, "channel_max": 99}, dataset_preset=preset, on_cpu=True)
    assert small.model.channel_max == 99
    assert small.model.channels(4) <= 99


def test_ganformer_default_is_the_released_layer() -> None:
    run = resolve_run({"resolution": 256}, dataset_preset={}, on_cpu=False, defaults=GANFORMER_DEFAULT)
    assert (run.model.attention, run.model.integration, run.model.normalize) == ("kmeans", "mul", "layer")


@pytest.mark.parametrize(
    ("options", "weight", "start"),
    [
        ({}, 1.0, 3),
        ({"attention": "simplex"}, 1.0, 3),
        ({"components_num": 1}, 0.0, 3),
        ({"g_end_res": 3}, 1.0, 0),
        ({"g_start_res": 2, "locality_weight": 2.0}, 2.0, 2),
        ({"attention": "none"}, 0.0, 0),
        (BASELINES["kGAN"], 0.0, 0),
        (BASELINES["VQGAN"], 0.0, 0),
    ],
)
def test_a_preset_asks_no_model_for_what_it_cannot_do(options: dict[str, Any], weight: float, start: int) -> None:
    preset = {"style": False, "g_start_res": 3, "locality_weight": 1.0, "map_divergence_weight": 1.0}
    run = resolve_run({"resolution": 32, **options}, dataset_preset=preset, on_cpu=True)
    assert (run.train.locality_weight, run.model.g_start_res) == (weight, start)
    assert run.train.map_divergence_weight == min(weight, 1)


@pytest.mark.parametrize("on_cpu", [True, False])
def test_a_data_set_s_preset_is_more_particular_than_ganformer_default(on_cpu: bool) -> None:
    """The authors' CLEVR network has neither the style nor the attention of components in the mapping."""
    preset = {"components_num": 8, "latent_size": 128, "mapping_ltnt2ltnt": False, "style": False}
    run = resolve_run({"resolution": 64}, dataset_preset=preset, on_cpu=on_cpu, defaults=GANFORMER_DEFAULT)
    assert (run.model.attention, run.model.style, run.model.mapping_ltnt2ltnt) == ("kmeans", False, False)
    given = {"resolution": 64, "style": True}
    assert resolve_run(given, dataset_preset=preset, on_cpu=on_cpu, defaults=GANFORMER_DEFAULT).model.style


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"g_start_res": 9}, ["--g-start-res 9", "--g-end-res 8"]),
        ({"d_transformer": True, "d_start_res": 9}, ["--d-start-res 9", "--d-end-res 8"]),
    ],
)
def test_a_new_run_attends_somewhere(options: dict[str, Any], words: list[str]) -> None:
    """The authors' networks need not: those are only read."""
    given = {"resolution": 64, **options}
    with pytest.raises(ConfigError) as error:
        resolve_run(given, dataset_preset={}, on_cpu=False)
    assert all(word in str(error.value) for word in words)
    assert not ModelConfig(resolution=32, g_start_res=7).has_maps


def test_use_pos_of_an_earlier_version_keeps_its_meaning() -> None:
    """It took away the image's positions, too, and its files do not say so."""
    earlier = ModelConfig(use_pos=False).to_dict()
    for name in ("image_positions", "cropped_positions", "mapping_ltnt_gate"):
        del earlier[name]
    found = ModelConfig.from_dict(earlier)
    assert not found.image_positions
    assert ModelConfig.from_dict(found.to_dict()) == found
    assert ModelConfig(use_pos=False).image_positions
    assert ModelConfig.from_dict(ModelConfig(use_pos=False).to_dict()).image_positions
    assert ModelConfig.from_dict({**earlier, "use_pos": True}).image_positions


def test_without_attention_there_are_no_components() -> None:
    """And what a preset says about them is left alone."""
    preset = {"components_num": 8, "latent_size": 128, "mapping_ltnt2ltnt": False, "style": False, "gamma": 40.0}
    run = resolve_run({"resolution": 256, "attention": "none"}, dataset_preset=preset, on_cpu=False)
    assert run.model.z_shape == (1, 512)
    assert run.model.style
    assert run.train.gamma == 40
    small = resolve_run({"resolution": 32, "attention": "none"}, dataset_preset=preset, on_cpu=True)
    assert small.model.z_shape == (1, 128)


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_on_either_device(name: str) -> None:
    preset = {"components_num": 8, "latent_size": 128, "mapping_ltnt2ltnt": False, "style": False}
    for on_cpu in (True, False):
        run = resolve_run({"resolution": 64, **BASELINES[name]}, dataset_preset=preset, on_cpu=on_cpu)
        assert run.model.attention == "none"
        assert (run.model.components_num > 0) == (name == "kGAN")


def test_the_defaults_are_those_of_the_authors() -> None:
    model, train = ModelConfig(), TrainConfig()
    assert (model.latent_size, model.mapping_num_layers, model.attention_dropout, model.g_end_res) == (512, 8, 0.12, 8)
    assert (train.batch_size, train.g_lr, train.style_mixing, train.gamma, train.truncation_psi) == (
        32,
        0.002,
        0.9,
        10,
        0.75,
    )
