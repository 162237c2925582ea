"""Whole command lines: those of the authors' scripts with the script's name replaced, and wrong ones.

Each runs in a copy of one folder with a prepared data set, a plain one and a tiny trained model, made once.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from ganformer_cli.cli.main import program
from ganformer_cli.cli.train_settings import chosen_settings

Run = Callable[[str], Result]

GOLDEN = Path(__file__).parent / "golden" / "duplex-kmeans"

# What makes a network that trains in a moment; appended to lines that train.
TINY = (
    "--components-num 2 --latent-size 8 --channel-max 4 --mapping-num-layers 2 --batch-size 4 --total-kimg 0.004 "
    "--metrics none --vis-num 2"
)


def run_line(line: str) -> Result:
    return CliRunner().invoke(program, shlex.split(line), prog_name="ganformer")


def succeed(line: str) -> Result:
    done = run_line(line)
    assert done.exit_code == 0, done.output
    return done


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pictures, two prepared data sets, a trained run, and files that are no models."""
    folder = tmp_path_factory.mktemp("world")
    pixels = np.random.default_rng(0).integers(0, 256, (8, 40, 48, 3), np.uint8)
    (folder / "pictures").mkdir()
    for index, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / "pictures" / f"{index}.png")
    (folder / "empty").mkdir()
    (folder / "a-file").write_text("not a folder", encoding="utf-8")
    (folder / "not-a-model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0 no header at all")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        succeed("prepare pictures --task clevr --resolution 32 --ratio 0.75")
        succeed("prepare pictures --task square --resolution 32")
        succeed(f"train --dataset clevr --expname clevr-exp {TINY}")
        model = next((folder / "results" / "clevr-exp-000" / "snapshots").glob("*.safetensors"))
        # What gdrive: names would be downloaded to.
        cache = folder / "cache" / "snapshots"
        cache.mkdir(parents=True)
        for name in ("bedrooms", "clevr"):
            shutil.copy(GOLDEN / "network-snapshot-000000.pkl", cache / f"{name}-snapshot.pkl")
        (folder / "cut-off.safetensors").write_bytes(model.read_bytes()[:-100])
    return folder


@pytest.fixture
def here(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "here"
    shutil.copytree(world, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GANFORMER_CACHE", str(folder / "cache"))
    return folder


# ----- The authors' lines -----

# The line, and what it makes: a file, or words on stdout.
WORKING = [
    (
        "generate --gpus 0 --model results/clevr-exp-000 --output-dir images --images-num 32 --truncation-psi 0.7 "
        "--ratio 0.5 --batch-size 1",
        "images/seed0031.png",
    ),
    (
        "prepare --task mine --images-dir pictures --format png --ratio 0.7 --shards-num 1",
        "datasets/mine/manifest.json",
    ),
    (
        "prepare --task five --images-dir pictures --format png --ratio 0.7 --shards-num 5",
        "datasets/five/images-00004-of-00005.zip",
    ),
    (
        "train --train --gpus 0 --ganformer-default --expname clevr-scratch --dataset clevr --eval-images-num 10000 "
        + TINY,
        "results/clevr-scratch-000/config.json",
    ),
    (
        "train --train --gpus 0 --baseline GAN --expname clevr-gan --dataset clevr "
        + TINY.removeprefix("--components-num 2 "),
        "results/clevr-gan-000/config.json",
    ),
    ("eval --eval --gpus 0 --expname clevr-exp --dataset clevr", "results/clevr-exp-000/metrics.jsonl"),
    (
        "generate --gpus 0 --model gdrive:bedrooms-snapshot.pkl --output-dir bedrooms --images-num 32",
        "bedrooms/seed0031.png",
    ),
    (
        "train --train --gpus 0 --ganformer-default --expname clevr-pretrained --dataset clevr "
        "--pretrained-pkl gdrive:clevr-snapshot.pkl --batch-size 4 --total-kimg 0.004 --metrics none --vis-num 2",
        "results/clevr-pretrained-000/config.json",
    ),
    (
        "eval --eval --gpus 0 --dataset clevr --pretrained-pkl gdrive:clevr-snapshot.pkl --eval-images-num 4",
        "swd",
    ),
    (
        "generate --gpus 0 --vis --expname clevr-exp --dataset clevr --vis-layer-maps --images-num 2",
        "images-sheets/seed0001-layer-maps.png",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("line", "made"), WORKING)
def test_authors_lines_work(here: Path, line: str, made: str) -> None:
    assert not (here / made).exists()
    done = succeed(line)
    assert (here / made).is_file() if "/" in made else made in done.stdout.split()


def settings(line: str) -> dict[str, Any]:
    """The settings that the options of a line stand for."""
    command = program.get_command(click.Context(program), "train")
    assert command is not None
    with command.make_context("train", shlex.split(line)) as ctx:
        return chosen_settings(ctx)


@pytest.mark.parametrize(
    ("line", "means"),
    [
        (
            "--train --ganformer-default --expname their --resolution 32 --style False",
            {"attention": "kmeans", "style": False, "resolution": 32},
        ),
        (
            "--summarize --recompile False --clip 0 --fused-modconv=True --mapping-lrmul 0.01 --d-ltnt2ltnt False "
            "--d-img2img=0 --mapping-shared-dim 0 --kgan False --merge-same False",
            {},
        ),
        ("--d-reg none --g-reg-weight 2", {"gamma": 0.0, "pl_weight": 2.0}),
        ("--d-reg r1", {}),
        ("--mapping-layersnum=3", {"mapping_num_layers": 3}),
        ("--baseline VQGAN", {"attention": "none", "style": True, "latent_stem": False, "vqgan": True}),
        ("--kgan", {"attention": "none", "style": True, "latent_stem": False, "kgan": True}),
    ],
)
def test_options_of_theirs_that_stand_for_settings(line: str, means: dict[str, Any]) -> None:
    assert settings(line) == means


# Every option of the authors' scripts, by the command that takes it over.
OPTIONS = {
    "prepare": "--ffhq --cityscapes --clevr --bedrooms --max-images --task --images-dir --format --ratio --shards-num",
    "train": (
        "--train --expname --gpus --ganformer-default --baseline --pretrained-pkl --restart --reload --last-snapshots "
        "--data-dir --dataset --ratio --resolution --num-threads --mirror-augment --train-images-num "
        "--cuda-bench --allow-tf32 --batch-size --batch-gpu --total-kimg --gamma --g-lr --d-lr --autotune "
        "--result-dir --metrics --truncation-psi --keep-samples --eval-images-num "
        "--g-arch --d-arch --tanh --mapping-num-layers --mapping-dim --mapping-resnet --mapping-shared --style "
        "--latent-stem --local-noise --g-loss --d-loss --pl-weight --style-mixing --component-mixing "
        "--component-dropout --attention-dropout --transformer --latent-size --components-num --num-heads --normalize "
        "--integration --g-start-res --g-end-res --ltnt-gate --img-gate --kmeans --kmeans-iters --iterative "
        "--mapping-ltnt2ltnt --use-pos --pos-dim --pos-type --pos-init --pos-directions-num "
        "--g-img2img --g-img2ltnt --g-ltnt2ltnt --d-transformer --merge-layer --merge-type --merge-same "
        "--summarize --recompile --clip --kgan --d-reg --g-reg-weight --fused-modconv --mapping-layersnum "
        "--mapping-lrmul --mapping-shared-dim --d-img2img --d-ltnt2ltnt"
    ),
    "generate": (
        "--gpus --model --output-dir --images-num --truncation-psi --ratio --batch-size --vis --expname --dataset "
        "--vis-images --vis-latents --vis-maps --vis-layer-maps --vis-interpolations --vis-noise-var --vis-style-mix "
        "--vis-grid --vis-num --vis-rich-num --vis-section-size --blending-alpha --interpolation-density"
    ),
    "eval": "--eval --gpus --expname --dataset --pretrained-pkl --metrics --eval-images-num --truncation-psi",
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_of_theirs_is_known(name: str) -> None:
    command = program.get_command(click.Context(program), name)
    assert command is not None
    known = {spelling for parameter in command.params for spelling in parameter.opts}
    assert set(OPTIONS[name].split()) <= known


# ----- Wrong lines -----

# The line, what its message must name, and a word of the remedy.
WRONG = [
    ("train --dataset no-such-set", "no-such-set", "scenes"),
    ("train --dataset clevr --resolution 64", "--resolution 64", "32"),
    ("train --dataset clevr --ratio 1.0", "--ratio 1", "0.75"),
    ("train --resolution 48", "--resolution 48", "power of two"),
    ("train --components-num 3 --latent-size 32", "--components-num 3", "--latent-size"),
    ("train --resolution 32 --batch-size 6", "--batch-size 6", "4"),
    ("train --attention none --components-num 4", "--components-num 4", "--attention"),
    ("train --baseline GAN --style True", "--baseline GAN", "--style True"),
    ("train --baseline SAGAN --attention duplex", "--baseline SAGAN", "--attention duplex"),
    ("train --baseline StyleGAN2 --transformer", "--baseline StyleGAN2", "--transformer"),
    ("train --baseline StyleGAN2 --num-heads 2", "--num-heads 2", "--attention none"),
    ("train --attention simplex --kmeans-iters 2", "--kmeans-iters 2", "--attention duplex"),
    ("train --labels", "--labels", "--dataset scenes"),
    ("train --kmeans --attention simplex", "--kmeans", "--attention simplex"),
    ("train --merge-type sum", "--merge-type sum", "--baseline kGAN"),
    ("train --result-dir a-file/results", "--result-dir a-file/results", "another folder"),
    ("train --normalize batch", "batch", "layer"),
    ("train --clip 5", "--clip 5", "--g-lr"),
    ("train --d-reg=gp", "'gp'", "r1"),
    ("train --mapping-lrmul 0.1", "--mapping-lrmul 0.1", "0.01"),
    ("train --mapping-shared-dim=64", "--mapping-shared-dim 64", "--mapping-dim"),
    ("train --d-img2img 32", "--d-img2img 32", "--d-transformer"),
    ("train --d-ltnt2ltnt True", "--d-ltnt2ltnt", "--d-transformer"),
    ("train --merge-same", "--merge-same", "--merge-type"),
    ("train --kgan --baseline GAN", "--kgan", "--baseline GAN"),
    ("train --g-reg-weight 2 --pl-weight 1", "--g-reg-weight 2", "--pl-weight 1"),
    ("train --gamma -1", "--gamma", ""),
    ("train --gama 10", "--gama", "--gamma"),
    ("train --gpus x", "--gpus", "none for the CPU"),
    ("prepare --task mine --images-dir pictures --format tfrecords --ratio 0.7", "pictures", "TFRecords"),
    ("prepare no-such-folder", "no-such-folder", ""),
    ("prepare empty", "empty", ""),
    ("prepare a-file", "a-file", ""),
    ("prepare pictures --resolution 0", "--resolution", ""),
    ("generate --expname no-such-run", "--expname no-such-run", "ganformer train"),
    ("generate --model no-such-model", "no-such-model", ""),
    ("generate --model a-file", "a-file", ""),
    ("generate --model not-a-model.safetensors", "not-a-model.safetensors", ""),
    ("generate --model cut-off.safetensors", "cut-off.safetensors", ""),
    ("generate --model results/clevr-exp-000 --seeds 5-2", "5-2", "2-5"),
    ("generate --model results/clevr-exp-000 --seeds 1 --images-num 2", "--images-num", "one of them"),
    ("generate --model results/clevr-exp-000 --output-dir a-file/images", "--output-dir a-file", "another folder"),
    ("eval --eval --gpus 0 --expname clevr-exp --dataset clevr --metrics fid,is,pr --offline", "fid,is,pr", "--fetch"),
    ("eval --model results/clevr-exp-000 --dataset square", "square", ""),
    ("compare --result-dir empty", "--result-dir empty", "another folder"),
    ("compare pictures", "none of these runs has scores", "ganformer eval"),
    ("compare --plot scores.jpg", "--plot scores.jpg", ".png"),
    ("eval --model results/clevr-exp-000 --metrics beauty", "beauty", "swd"),
    ("eval --model cut-off.safetensors", "cut-off.safetensors", ""),
    ("build-ops --device cuda --cuda-arch hopper", "--cuda-arch: 'hopper'", "80,90"),
    ("build-ops --device cpu --cuda-arch 80", "--cuda-arch 80", "leave one of them out"),
    ("build-ops --cpu AVX3", "--cpu", "AVX2"),
    ("build-ops --output-dir a-file/operators", "--output-dir a-file/operators", "another folder"),
]


def fails(folder: Path, line: str, *named: str) -> None:
    before = sorted(folder.rglob("*"))
    done = run_line(line)
    assert done.exit_code in {1, 2}, done.output
    assert isinstance(done.exception, SystemExit), done.exception  # not a traceback
    messages = [said for said in done.stderr.splitlines() if ": warning: " not in said]
    assert len(messages) == 1, done.stderr
    message = messages[0].replace("\\", "/")  # as Windows writes paths
    assert message.startswith(f"ganformer {line.split()[0]}: error: ")
    assert all(name in message for name in named), message
    assert done.stdout == ""
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(("line", "named", "remedy"), WRONG, ids=[line for line, *_ in WRONG])
def test_wrong_lines_say_what_is_wrong_and_leave_nothing(here: Path, line: str, named: str, remedy: str) -> None:
    fails(here, line, named, remedy)


def test_run_of_another_architecture_is_not_gone_on_with(here: Path) -> None:
    fails(here, f"train --dataset clevr --expname clevr-exp {TINY} --attention simplex", "clevr-exp", "--restart")
