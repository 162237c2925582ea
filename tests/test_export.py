"""Exported files compute what the model computes, for any number of images, and carry what it is."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result

from ganformer_cli.checkpoints.snapshots import save_snapshot
from ganformer_cli.config import ModelConfig
from ganformer_cli.errors import ConfigError, GanformerError
from ganformer_cli.export import files
from ganformer_cli.export.function import DecoderFunction, FunctionSettings, GeneratorFunction, exportable
from ganformer_cli.models import Generator, LabelDistribution
from ganformer_cli.models.families import build_generator
from ganformer_cli.models.vqgan import VQGAN
from ganformer_cli.original_snapshots import load_generator
from ganformer_cli.sampling import sample_seeds
from ganformer_cli.sampling.components import map_seeds
from tests.small_generators import SMALL_VQGAN

TINY = {"resolution": 8, "components_num": 2, "latent_size": 16, "channel_base": 64, "channel_max": 8}
NO_COMPONENTS = {"attention": "none", "components_num": 0}
#: Every kind of network.
KINDS: dict[str, dict[str, Any]] = {
    "duplex": {},
    "duplex, heads, iterations": {"num_heads": 2, "kmeans_iters": 2, "iterative": True, "integration": "both"},
    "simplex, gates": {"attention": "simplex", "img_gate": True, "ltnt_gate": True},
    "duplex-equation": {"attention": "duplex-equation"},
    "classes": {"c_dim": 3},
    "rectangle": {"ratio": 0.75, "g_arch": "skip", "normalize": "instance", "pos_type": "trainable"},
    "StyleGAN2": NO_COMPONENTS,
    "GAN": {**NO_COMPONENTS, "latent_stem": True, "style": False},
    "SAGAN": {**NO_COMPONENTS, "latent_stem": True, "style": False, "g_img2img": 8},
    "kGAN": {"attention": "none", "kgan": True, "merge_layer": 2},
}
#: Every layer of them in few and small networks, since exporting one takes seconds. Attention is in the layers of 4x4
#: or those of 8x8 only; with latents of space w, the mapping network is left out. The command exports SAGAN.
ONNX_KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # Its mapping network has heads, too, and normalises and truncates as the authors' TensorFlow networks do.
    "simplex, gates, classes, heads": (
        {
            **KINDS["simplex, gates"],
            **KINDS["classes"],
            "num_heads": 2,
            "latent_norm": "each",
            "w_avg_per_component": False,
            "g_end_res": 3,
        },
        {},
    ),
    "duplex, iterations": (
        {**KINDS["duplex, heads, iterations"], "num_heads": 1, "g_start_res": 3},
        {"space": "w"},
    ),
}
ARCHIVED_KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "duplex-equation, heads, rectangle": (
        {**KINDS["duplex-equation"], **KINDS["rectangle"], "num_heads": 2, "g_end_res": 3},
        {"space": "w", "noise": "input"},
    ),
    "kGAN": (KINDS["kGAN"], {}),
}


def generator(**options: Any) -> Generator:
    """Untrained; strengths and biases, which start at zero, have values."""
    torch.manual_seed(0)
    made = build_generator(ModelConfig(**{**TINY, "mapping_num_layers": 2, **options})).eval().requires_grad_(False)
    for name, parameter in made.named_parameters():
        if name.endswith(("strength", "bias", "gather_out.weight")):
            torch.nn.init.normal_(parameter)
    if not made.config.vqgan:
        made.mapping_network.w_avg.normal_()
    return made


def function(made: Generator, **settings: Any) -> GeneratorFunction:
    return GeneratorFunction(made, FunctionSettings(**settings))


# ----- The function -----


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_the_function_draws_the_images_of_the_seeds(options: dict[str, Any]) -> None:
    made = generator(**options)
    has_maps = made.config.has_maps
    exported = function(made, maps=has_maps)
    with exportable(made):
        found = exported(**exported.example(range(3), 0.7))
    for k, drawn in enumerate(sample_seeds(made, range(3), truncation_psi=0.7, attention=has_maps, raw=True)):
        np.testing.assert_allclose(found["image"][k].numpy(), drawn.image, rtol=1e-4, atol=1e-4)
        assert list(found) == ["image", *(f"maps.{each.layer}" for each in drawn.maps)]
        for each in drawn.maps:
            torch.testing.assert_close(found[f"maps.{each.layer}"][k : k + 1], each.probabilities, rtol=1e-3, atol=1e-4)


def test_latents_of_space_w_are_taken_as_they_are() -> None:
    made = generator()
    exported = function(made, space="w")
    inputs = exported.example(range(2), 0.7)
    assert list(inputs) == ["w"]
    torch.testing.assert_close(inputs["w"], map_seeds(made, range(2), truncation_psi=0.7))
    ours = made.synthesis(inputs["w"], "const")
    torch.testing.assert_close(exported(**inputs)["image"], ours, rtol=1e-4, atol=1e-4)


def test_given_noise_is_that_of_the_layers_in_order() -> None:
    made = generator()
    exported = function(made, noise="input")
    inputs = exported.example(range(2), 1.0)
    buffers = dict(made.synthesis_network.named_buffers())
    stored = [buffers[f"{name}.noise_const"].flatten() for name in made.noise_shapes()]
    inputs["noise"] = torch.cat(stored)[None].expand(2, -1)
    constant = function(made).forward(z=inputs["z"], psi=inputs["psi"])
    torch.testing.assert_close(exported(**inputs)["image"], constant["image"], rtol=1e-4, atol=1e-4)


def test_classes_are_numbers_and_other_labels_vectors() -> None:
    made = generator(c_dim=3)
    assert "label" in function(made).example(range(2), 1.0)
    made.label_distribution = LabelDistribution(np.array([5, 5, 5]))
    example = function(made).example(range(2), 1.0)
    assert example["class_index"].dtype == torch.int64


@pytest.mark.parametrize(
    ("options", "settings", "message"),
    [
        (SMALL_VQGAN, {}, "export its decoder"),
        ({"local_noise": False}, {"noise": "input"}, "--noise input: this model was trained without noise"),
        (NO_COMPONENTS, {"maps": True}, "--maps: no layer of this model attends"),
    ],
)
def test_what_a_model_does_not_have_is_refused(options: Any, settings: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        function(generator(**options), **settings)


def decoder() -> tuple[VQGAN, DecoderFunction]:
    """A grid of 2 rows and 4 columns."""
    model = generator(**{**SMALL_VQGAN, "resolution": 16, "ratio": 0.5, "code_stride": 4})
    assert isinstance(model, VQGAN)
    return model, DecoderFunction(model)


def test_codes_become_the_images_that_the_model_decodes() -> None:
    model, exported = decoder()
    described = exported.described()
    assert described["inputs"] == [{"name": "codes", "dtype": "int64", "shape": ["batch", 8]}]
    assert described["outputs"] == [{"name": "image", "dtype": "float32", "shape": ["batch", 3, 8, 16]}]
    codes = model.mapping(torch.randn(3, *model.z_shape))
    torch.testing.assert_close(exported(codes)["image"], model.synthesis(codes))
    example = exported.example(range(20), 1.0)["codes"]
    assert example.min() == 0
    assert example.max() == 12, "every code is tried"


def test_a_decoder_leaves_the_model_whole_and_takes_only_its_own_weights() -> None:
    model, exported = decoder()
    taken = exported.generator.state_dict()
    assert {name.partition(".")[0] for name in taken} == {"decoder", "quantizer", "transformer_steps"}
    assert taken["quantizer.codebook"].shape == (13, 5)
    assert "quantizer.counts" not in taken
    assert model.reconstruct(torch.zeros(1, 3, 8, 16)).shape == (1, 3, 8, 16)


# ----- The check -----


@pytest.mark.parametrize(("error", "largest"), [(0.0, 1e-9), (0.5, 0.6)])
def test_a_file_that_computes_something_else_is_found(error: float, largest: float) -> None:
    exported = function(generator())

    def run(inputs: files.Arrays) -> files.Arrays:
        found = exported(**{name: torch.from_numpy(np.array(value)) for name, value in inputs.items()})
        return {name: each.numpy() * (1 + error) for name, each in found.items()}

    check = files.compare(exported, run, "a test")
    assert check.batches == (1, 3)
    assert error / 2 <= check.largest <= largest * 100


@pytest.mark.parametrize("bad", [np.zeros((1, 3, 4, 4)), np.full((1, 3, 8, 8), np.nan)])
def test_another_shape_or_numbers_that_are_not_finite(bad: Any) -> None:
    assert files._difference(bad, torch.zeros(1, 3, 8, 8)) == float("inf")


def test_nothing_is_written_if_the_file_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def black(z: torch.Tensor, **_: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"image": torch.zeros(len(z), 3, 8, 8)}

    program = SimpleNamespace(graph=SimpleNamespace(nodes=[]), module=lambda: black)
    monkeypatch.setattr(torch.export, "export", lambda *_, **__: program)
    monkeypatch.setattr(torch.export, "save", lambda *_, **__: None)
    monkeypatch.setattr(torch.export, "load", lambda *_, **__: program)
    with pytest.raises(GanformerError, match=r"model.pt2: torch .* computes other values .*nothing was written"):
        files.export_generator(tmp_path / "model.pt2", function(generator()), {}, to="torch-export")
    assert not list(tmp_path.iterdir())


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name.startswith("onnx") else object())
    with pytest.raises(ConfigError, match="pip install onnx onnxscript onnxruntime"):
        files.check_packages("onnx")
    files.check_packages("torch-export")


# ----- The files -----


@pytest.fixture
def need_onnx() -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)


@pytest.mark.slow
@pytest.mark.parametrize(("options", "settings"), ONNX_KINDS.values(), ids=ONNX_KINDS)
def test_onnxruntime_computes_what_torch_does(
    options: dict[str, Any], settings: dict[str, Any], tmp_path: Path, need_onnx: None
) -> None:
    made = generator(mapping_num_layers=1, **options)
    exported = function(made, maps=True, **settings)
    check = files.export_generator(tmp_path / "model.onnx", exported, {"kind": "tiny"}, to="onnx")
    assert set(check.differences) == {each["name"] for each in exported.described()["outputs"]}
    assert check.largest <= files.TOLERANCE


@pytest.mark.slow
def test_the_authors_networks_are_exported(tmp_path: Path, checkout: Path) -> None:
    name = "no-attention-layer/network-snapshot-000000.pkl"
    made = load_generator(checkout / "tests" / "golden" / "snapshots" / name)
    exported = function(made, maps=made.config.has_maps, space="w")
    check = files.export_generator(tmp_path / "model", exported, {}, to="torch-export")
    assert check.largest <= files.TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize(("options", "settings"), ARCHIVED_KINDS.values(), ids=ARCHIVED_KINDS)
def test_an_archive_of_torch_export(options: dict[str, Any], settings: dict[str, Any], tmp_path: Path) -> None:
    made = generator(mapping_num_layers=1, **options)
    path = tmp_path / "model.pt2"
    exported = function(made, maps=made.config.has_maps, **settings)
    check = files.export_generator(path, exported, {"kind": "tiny"}, to="torch-export")
    assert set(check.differences) == {each["name"] for each in exported.described()["outputs"]}
    assert check.largest <= files.TOLERANCE
    card = {files.CARD_FILE: ""}
    module = torch.export.load(path, extra_files=card).module()
    assert json.loads(card[files.CARD_FILE]) == {"kind": "tiny"}
    inputs = exported.example(range(5), 1.0)
    torch.testing.assert_close(module(**inputs), exported(**inputs), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_decoder_of_a_vqgan(tmp_path: Path, need_onnx: None) -> None:
    _, exported = decoder()
    check = files.export_generator(tmp_path / "model", exported, {}, to="onnx")
    assert check.batches == (1, 3)
    assert check.largest <= files.TOLERANCE


# ----- The command -----


@pytest.mark.slow
def test_the_command_writes_a_file_with_its_card(
    ganformer: Callable[..., Result], tmp_path: Path, need_onnx: None
) -> None:
    import onnx

    path, snapshot, made = tmp_path / "model.onnx", tmp_path / "model.safetensors", generator(**KINDS["SAGAN"])
    save_snapshot(snapshot, config=made.config, ema=made, generator=None, discriminator=None, kimg=1.0, provenance={})
    done = ganformer("export", "--model", snapshot, "--output", path, "--noise", "none", "--json")
    assert done.exit_code == 0, done.stderr
    record = json.loads(done.stdout)
    assert list(record["differences"]) == ["image"]
    assert max(record["differences"].values()) <= 1e-4
    model = onnx.load(path)
    card = json.loads({each.key: each.value for each in model.metadata_props}["ganformer"])
    assert card["config"]["resolution"] == 8
    assert card["opset"] == model.opset_import[0].version == 18
    assert [each.name for each in model.graph.input] == [each["name"] for each in card["inputs"]] == ["z", "psi"]
    assert [each.name for each in model.graph.output] == ["image"]
    assert str(Path(files.__file__).parent.parent).encode() not in path.read_bytes(), "no paths of this machine"
    again = ganformer("export", "--model", snapshot, "--output", path)
    assert again.exit_code == 1
    assert "exists already" in again.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--to", "torch-export", "--opset", "19"], "--opset 19 is of --to onnx"),
        (["--opset", "3"], "--opset"),
        (["--output", "."], "--output"),
        (["--output", "missing/../also/missing\0"], "null character"),
    ],
)
def test_wrong_lines_say_what_is_wrong(
    ganformer: Callable[..., Result], tiny_run: Path, words: list[str], message: str
) -> None:
    done = ganformer("export", "--model", tiny_run, *words)
    assert done.exit_code != 0
    assert message in done.stderr
