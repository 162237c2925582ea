"""The commands with a VQGAN: what has a meaning for it, and what is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from ganformer_cli.checkpoints.snapshots import load_snapshot, save_snapshot
from ganformer_cli.cli.compare_rows import model_kind
from ganformer_cli.cli.main import program
from ganformer_cli.config import ModelConfig
from ganformer_cli.models.vqgan import VQGAN, PatchDiscriminator

CONFIG = ModelConfig(
    resolution=32, attention="none", components_num=0, latent_size=16, channel_base=256, channel_max=16, vqgan=True,
    codebook_size=13, code_dim=5, code_stride=8, transformer_layers=1, transformer_width=8, transformer_heads=2,
)  # fmt: skip


def write_model(path: Path, *, steps: int) -> Path:
    """A snapshot after so many steps of stage 2."""
    torch.manual_seed(0)
    model = VQGAN(CONFIG)
    model.transformer_steps += steps
    save_snapshot(
        path,
        config=CONFIG,
        ema=model,
        generator=copy.deepcopy(model),
        discriminator=PatchDiscriminator(CONFIG),
        kimg=1.0,
        provenance={},
    )
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A snapshot of stage 2."""
    return write_model(tmp_path_factory.mktemp("model") / "model.safetensors", steps=3)


def run(*words: str | Path) -> Result:
    """A command."""
    return CliRunner().invoke(program, [str(word) for word in words])


@pytest.mark.slow
def test_a_seed_gives_the_same_file_in_every_batch(model: Path, tmp_path: Path) -> None:
    how = ("--model", model, "--temperature", "0.8", "--top-k", "5", "--top-p", "0.9")
    assert (
        run("generate", *how, "--images-num", "4", "--batch-size", "1", "--output-dir", tmp_path / "a").exit_code == 0
    )
    assert run("generate", *how, "--seeds", "3,2", "--output-dir", tmp_path / "b").exit_code == 0
    for name in ("seed0002.png", "seed0003.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    again = run("generate", "--model", model, "--seeds", "3", "--output-dir", tmp_path / "c", "--temperature", "3")
    assert again.exit_code == 0
    assert (tmp_path / "c" / "seed0003.png").read_bytes() != (tmp_path / "a" / "seed0003.png").read_bytes()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--maps"], "--maps"),
        (["--truncation-psi", "0.5"], "--truncation-psi"),
        (["--interpolate"], "--interpolate"),
        (["--noise", "none"], "--noise"),
        (["--top-k", "14"], "--top-k 14: this model's codebook has 13 codes"),
    ],
)
def test_what_has_no_meaning_is_refused_by_name(model: Path, tmp_path: Path, options: list[str], named: str) -> None:
    done = run("generate", "--model", model, *options, "--output-dir", tmp_path / "images")
    assert done.exit_code != 0
    assert named in done.stderr
    assert not (tmp_path / "images").exists()


@pytest.mark.slow
def test_stage_one_has_nothing_to_draw_but_reconstructions_to_score(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.safetensors", steps=0)
    for words in (
        ("generate", "--model", model, "--output-dir", tmp_path / "images"),
        ("eval", "--model", model, "--dataset", "scenes", "--eval-images-num", "4", "--metrics", "swd"),
    ):
        done = run(*words)
        assert done.exit_code != 0
        assert "stage 1" in done.stderr
    done = run("eval", "--model", model, "--dataset", "scenes", "--eval-images-num", "4", "--json")
    assert done.exit_code == 0, done.output
    scored = json.loads(done.stdout)
    assert {"rswd", "psnr"} <= set(scored)
    assert "swd" not in scored
    refused = run("eval", "--model", model, "--dataset", "scenes", "--truncation-psi", "0.5")
    assert refused.exit_code != 0
    assert "--truncation-psi 0.5: a VQGAN has no mean image" in refused.stderr


@pytest.mark.slow
def test_the_decoder_is_exported_in_either_stage(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.safetensors", steps=0)
    path = tmp_path / "model.pt2"
    done = run("export", "--model", model, "--to", "torch-export", "--output", path, "--json")
    assert done.exit_code == 0, done.output
    card = {"ganformer.json": ""}
    module = torch.export.load(path, extra_files=card).module()
    known = json.loads(card["ganformer.json"])
    assert (known["code_grid"], known["codebook_size"]) == ([4, 4], 13)
    assert [each["name"] for each in known["inputs"]] == ["codes"]
    assert known.keys().isdisjoint({"truncation_psi", "noise", "classes"})
    codes = torch.arange(5 * 16).view(5, 16) % 13
    torch.testing.assert_close(
        module(codes=codes)["image"], load_snapshot(model).synthesis(codes), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    "option", [["--input", "w"], ["--input", "z"], ["--noise", "const"], ["--noise", "input"], ["--maps"]]
)
def test_an_exported_decoder_has_no_latents_noise_or_maps(model: Path, tmp_path: Path, option: list[str]) -> None:
    done = run("export", "--model", model, "--to", "torch-export", "--output", tmp_path / "model.pt2", *option)
    assert done.exit_code == 1
    assert f"{option[0]}: has no meaning for {model}, a VQGAN" in done.stderr
    assert not (tmp_path / "model.pt2").exists()


def test_info_and_compare_call_it_by_its_name(model: Path) -> None:
    done = run("info", model)
    assert done.exit_code == 0, done.output
    assert "VQGAN, 4x4 codes (width x height) of 13" in done.stdout
    assert model_kind(CONFIG) == "VQGAN"


@pytest.mark.slow
def test_the_card_names_its_paper_and_only_settings_that_it_reads(own_folder: Path) -> None:
    line = (
        "train --baseline VQGAN --train-images-num 16 --batch-size 4 --metrics none --resolution 32 --vis-num 2 "
        "--total-kimg 0.008 --gpus none --threads 1 --processes 1 --expname run --channel-base 128 --channel-max 8 "
        "--codebook-size 8 --code-dim 4 --transformer-layers 1 --transformer-width 8 --transformer-heads 2"
    )
    assert run(*line.split()).exit_code == 0
    assert run("info", "--card", "results/run-000").exit_code == 0
    card = Path("results/run-000/MODEL.md").read_text(encoding="utf-8")
    assert "Taming Transformers" in card
    assert "`--vq-kimg` | 0.004 |" in card
    assert "`--gamma`" not in card
    counted = json.loads(run("info", "--json", "results/run-000").stdout)["parameters"]["generator"]
    model = load_snapshot("results/run-000")
    assert counted == sum(parameter.numel() for parameter in model.parameters())
