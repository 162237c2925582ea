"""``ganformer info``: what a model says of itself, and what it says of wrong input."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result

from ganformer_cli.checkpoints.headers import read_header
from ganformer_cli.checkpoints.snapshots import load_snapshot, read_tensors, save_snapshot, save_tensors
from ganformer_cli.config import ModelConfig
from ganformer_cli.models import Discriminator, Generator, parameter_count

Run = Callable[..., Result]
NEWEST = "network-snapshot-000002.safetensors"


def fields(done: Result) -> dict[str, str]:
    """The text as name: value; of several lines of one name the last."""
    assert done.exit_code == 0, done.stderr
    return {line[:14].strip(): line[14:] for line in done.stdout.splitlines()}


def score(snapshot: str, provenance: Mapping[str, Any] | None = None, **values: Any) -> str:
    """A line of ``metrics.jsonl``."""
    said = {"num_fakes": 64, "truncation_psi": 1.0, "dataset": "scenes", **(provenance or {})}
    return json.dumps({"snapshot": snapshot, "kimg": 2, **values, "provenance": said}) + "\n"


def converted(snapshot: Path, **header: Any) -> Path:
    """A copy with the averaged generator only, and more in the header."""
    tensors = {f"ema.{name}": value for name, value in read_tensors(snapshot, "ema.").items()}
    kept = {name: value for name, value in read_header(snapshot).items() if name not in ("format", "kimg", "dataset")}
    save_tensors(Path("converted.safetensors"), tensors, {**kept, **header})
    return Path("converted.safetensors")


def test_a_run_means_its_newest_snapshot(ganformer: Run, tiny_run: Path) -> None:
    file = tiny_run / "snapshots" / NEWEST
    expected = hashlib.sha256(file.read_bytes()).hexdigest()
    lines = [["results/exp-000"], [], ["--expname", "exp"], ["--model", "results/exp-000"], [str(file)]]
    for words in lines:
        shown = fields(ganformer("info", *words))
        assert shown["sha256"] == expected
        assert NEWEST in shown["model"]
    older = fields(ganformer("info", str(file).replace("000002", "000001")))
    assert older["training"] == "1 kimg"


def test_what_is_shown(ganformer: Run, tiny_run: Path) -> None:
    shown = fields(ganformer("info"))
    assert shown["networks"] == "ema, generator, discriminator"
    assert shown["architecture"] == "duplex attention"
    assert shown["components"] == "2 of 8 numbers"
    assert shown["images"] == "32x32 (width x height)"
    assert shown["resolution"] == "32, ratio 1"
    assert shown["classes"] == "none"
    assert shown["training"] == "2 kimg"
    assert shown["data set"].startswith("scenes, 64 images, fingerprint ")
    assert shown["ganformer"] == "not recorded"
    assert "whoever trained the model" in shown["licence"]
    assert not {"scores", "source", "truncation"} & set(shown)
    generator = parameter_count(load_snapshot(tiny_run).requires_grad_(True))
    assert shown["parameters"].startswith(f"{generator:,} in the generator, ")


def test_json_has_the_same_and_the_configuration(ganformer: Run, tiny_run: Path) -> None:
    file = tiny_run / "snapshots" / NEWEST
    answer = json.loads(ganformer("info", "--json").stdout)
    header = read_header(file)
    assert answer["config"] == ModelConfig.from_dict(header["config"]).to_dict()
    assert answer["dataset"] == header["dataset"]
    assert answer["bytes"] == file.stat().st_size
    assert answer["networks"] == ["ema", "generator", "discriminator"]
    assert answer["image_size"] == [32, 32]
    assert (answer["kimg"], answer["version"], answer["licence"], answer["scores"]) == (2, None, None, {})
    assert set(answer["parameters"]) == {"generator", "discriminator"}


def test_an_image_names_the_run_and_the_file_that_made_it(ganformer: Run, tiny_run: Path) -> None:
    made = ("generate", "--model", "results/exp-000", "--seeds", "3")
    assert ganformer(*made).exit_code == 0
    shown = json.loads(ganformer("info", "images/seed0003.png", "--json").stdout)
    assert (shown["run"], shown["file"]) == ("exp-000", NEWEST)
    assert shown["model"] == hashlib.sha256((tiny_run / "snapshots" / NEWEST).read_bytes()).hexdigest()
    tiny_run.rename("results/other-000")  # the same model has made it all the same
    again = ganformer("generate", "--model", "results/other-000", "--seeds", "3")
    assert again.exit_code == 0, again.stderr
    assert "1 of them there already" in again.output


def test_the_newest_scores_of_this_snapshot(ganformer: Run, tiny_run: Path) -> None:
    sha256 = hashlib.sha256((tiny_run / "snapshots" / NEWEST).read_bytes()).hexdigest()
    (tiny_run / "metrics.jsonl").write_text(
        score(NEWEST, swd=9.0, swd_levels={"32x32": 8.0}, diversity=0.25)
        + score("network-snapshot-000001.safetensors", swd=1.0)
        + score(NEWEST, {"num_fakes": 32, "snapshot_sha256": sha256}, swd=7.0, swd_floor=2.0, swd_floor_images=16)
        + score(NEWEST, {"snapshot_sha256": "of another file"}, swd=3.0)
        + '"no record"\n{"snapshot": "half a li',
        encoding="utf-8",
    )
    answer = json.loads(ganformer("info", "--json").stdout)
    assert {name: found["value"] for name, found in answer["scores"].items()} == {
        "swd": 7.0, "swd_floor": 2.0, "diversity": 0.25,
    }  # fmt: skip
    assert answer["scores"]["swd"]["images"] == 32
    lines = [line[14:] for line in ganformer("info").stdout.splitlines() if line.startswith("scores")]
    assert lines == [
        "swd 7, swd_floor 2 (32 images, truncation psi 1, against scenes)",
        "diversity 0.25 (64 images, truncation psi 1, against scenes)",
    ]


def test_scores_that_eval_keeps_are_shown(ganformer: Run, tiny_run: Path) -> None:
    ganformer("eval", "--eval-images-num", "4", "--metrics", "diversity")
    assert fields(ganformer("info"))["scores"].startswith("diversity ")


def test_a_file_outside_a_run_has_no_scores(ganformer: Run, tiny_run: Path) -> None:
    (tiny_run / "metrics.jsonl").write_text(score(NEWEST, swd=9.0), encoding="utf-8")
    shutil.copy(tiny_run / "snapshots" / NEWEST, NEWEST)
    assert "scores" not in fields(ganformer("info", NEWEST))


def test_a_converted_file(ganformer: Run, tiny_run: Path) -> None:
    file = converted(
        tiny_run / "snapshots" / NEWEST,
        source={"format": "tensorflow", "file": "bedrooms.pkl", "sha256": "abc"},
        truncation_psi=0.7,
        licence="CC BY-NC 4.0\n\x1b[2Jnothing",
        version="0.1.0",
    )
    shown = fields(ganformer("info", file))
    assert shown["networks"] == "ema"
    assert shown["source"] == "bedrooms.pkl (tensorflow), sha256 abc"
    assert shown["truncation"] == "psi 0.7"
    assert shown["licence"] == r"CC BY-NC 4.0\n\x1b[2Jnothing"
    assert shown["ganformer"] == "0.1.0"
    assert (shown["training"], shown["data set"]) == ("not recorded", "not recorded")
    assert "discriminator" not in shown["parameters"]
    answer = json.loads(ganformer("info", "--json", file).stdout)
    assert answer["source"]["format"] == "tensorflow"
    assert answer["truncation_psi"] == 0.7


@pytest.mark.parametrize(
    ("changes", "architecture"),
    [
        ({"attention": "none", "c_dim": 4}, "no attention, as StyleGAN2"),
        ({"attention": "none", "style": False, "latent_stem": True}, "no attention, no style"),
        (
            {"attention": "none", "style": False, "latent_stem": True, "g_img2img": 8},
            "no attention, no style, self-attention at 8 (SAGAN)",
        ),
        ({"attention": "none", "components_num": 2, "kgan": True}, "k-GAN, merged by softmax"),
        ({"attention": "kmeans", "components_num": 2, "ratio": 0.75}, "duplex attention"),
    ],
)
def test_other_architectures(ganformer: Run, changes: dict[str, Any], architecture: str) -> None:
    torch.manual_seed(0)
    small = {"resolution": 16, "components_num": 0, "latent_size": 16, "channel_base": 64, "channel_max": 8}
    config = ModelConfig(**{**small, **changes})
    generator, discriminator = Generator(config), Discriminator(config)
    save_snapshot(
        Path("a.safetensors"),
        config=config,
        ema=Generator(config),
        generator=generator,
        discriminator=discriminator,
        kimg=0.5,
        provenance={"version": "0.1.0"},
    )
    shown = fields(ganformer("info", "a.safetensors"))
    assert shown["architecture"] == architecture
    assert shown["components"] == ("2 of 8 numbers" if config.components_num else "none")
    assert shown["classes"] == (str(config.c_dim) if config.c_dim else "none")
    assert shown["training"] == "0.5 kimg"
    assert shown["images"] == f"16x{config.image_size[0]} (width x height)"
    counts = parameter_count(generator), parameter_count(discriminator)
    assert shown["parameters"] == f"{counts[0]:,} in the generator, {counts[1]:,} in the discriminator"


@pytest.mark.parametrize(
    ("line", "status", "message"),
    [
        ("nothing-here", 1, "nothing-here: no such file or run folder"),
        ("cut.safetensors", 1, "cut.safetensors: not a readable safetensors file"),
        ("strange.safetensors", 1, "strange.safetensors: holds no ganformer configuration"),
        ("--expname other", 1, "--expname other: no run of that name"),
        ("results/exp-000 --model results/exp-000", 2, "give one of them"),
        ("a b", 2, "unexpected extra argument"),
    ],
)
def test_wrong_lines(ganformer: Run, tiny_run: Path, line: str, status: int, message: str) -> None:
    from safetensors.torch import save_file

    whole = (tiny_run / "snapshots" / NEWEST).read_bytes()
    Path("cut.safetensors").write_bytes(whole[:-100])
    save_file({"a": torch.zeros(1)}, "strange.safetensors")
    done = ganformer("info", *line.split())
    assert message in done.stderr
    assert done.exit_code == status
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1


# ----- What the authors published -----


def test_published_models_are_listed_with_what_the_paper_reports(ganformer: Run, own_folder: Path) -> None:
    from ganformer_cli.original_snapshots.catalogue import PUBLISHED, snapshot_path

    path = snapshot_path("clevr-snapshot.pkl")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"12345")
    done = ganformer("info", "--list")
    assert done.exit_code == 0, done.stderr
    heads, *rows = done.stdout.splitlines()
    assert heads.split()[:3] == ["name", "data", "set"]
    assert heads.endswith("paper's FID")
    assert [row.split()[0] for row in rows[: len(PUBLISHED)]] == [f"gdrive:{name}" for name in PUBLISHED]
    fid = {row.split()[0]: row.split()[-1] for row in rows[: len(PUBLISHED)]}
    assert fid["gdrive:clevr-snapshot.pkl"] == "9.17"
    assert fid["gdrive:ffhq-snapshot.pkl"] == "7.42"
    assert fid["gdrive:ffhq-snapshot-1024.pkl"] == "-"  # the paper's table is of 256
    assert "not measured on these files" in done.stdout
    listed = json.loads(ganformer("info", "--list", "--json").stdout)
    clevr = listed[0]
    assert (clevr["dataset"], clevr["image_size"], clevr["bytes"]) == ("clevr", [192, 256], 5)
    assert clevr["paper"]["fid"] == 9.17
    assert "arXiv" in clevr["paper"]["source"]
    assert [each["bytes"] for each in listed[1:]] == [None] * (len(PUBLISHED) - 1)
    refused = ganformer("info", "--list", "model.pkl")
    assert refused.exit_code == 2
    assert "--list shows what the authors published; leave out model.pkl" in refused.stderr
