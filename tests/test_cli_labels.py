"""Labels on their whole way: prepared, trained on, kept in the model, drawn, scored, shown."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from ganformer_cli.checkpoints.run_folder import snapshots_of
from ganformer_cli.checkpoints.snapshots import load_snapshot, save_snapshot
from ganformer_cli.cli.main import program
from ganformer_cli.cli.train_plan import show_plan
from ganformer_cli.cli.train_settings import open_data
from ganformer_cli.config import ModelConfig
from ganformer_cli.models import Generator, LabelDistribution
from ganformer_cli.sampling import labels_from_seeds, sample
from ganformer_cli.training.run_settings import resolve

Run = Callable[..., Result]
TINY = [
    "train", "--resolution", "16", "--components-num", "2", "--latent-size", "16", "--channel-base", "64",
    "--channel-max", "8", "--batch-size", "4", "--total-kimg", "0.008", "--labels", "--metrics", "none",
    "--vis-num", "4", "--batch-gpu", "4", "--precision", "fp32",
]  # fmt: skip
VECTORS = [[0.2, 0.8], [1, 0.5], [0, 0.25]]
NAMES = ["ant", "cat", "dog"]
IMAGES = 12  # of them the first label has six


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``datasets`` and ``results`` of a model of vectors and one of classes, on the same images."""
    folder = tmp_path_factory.mktemp("labels")
    (folder / "images").mkdir()
    which = [i % 3 if i < 9 else 0 for i in range(IMAGES)]
    for i in range(IMAGES):
        Image.new("RGB", (16, 16), (20 * i, 0, 99)).save(folder / "images" / f"{i}.png")
    for name, values in (("vectors", VECTORS), ("classes", NAMES)):
        pairs = [[f"{i}.png", values[which[i]]] for i in range(IMAGES)]
        (folder / f"{name}.json").write_text(json.dumps({"labels": pairs}), encoding="utf-8")
        data = ["--data-dir", str(folder / "datasets")]
        made = CliRunner().invoke(
            program,
            ["prepare", str(folder / "images"), "--name", name, "--labels", str(folder / f"{name}.json"), *data],
        )
        assert made.exit_code == 0, made.output
        assert made.stdout.rstrip().endswith("--labels")
        ran = CliRunner().invoke(program, [*TINY, "--dataset", name, *data, "--result-dir", str(folder / "results")])
        assert ran.exit_code == 0, ran.output
    return folder


@pytest.fixture
def runs(kept: Path, own_folder: Path) -> Path:
    for name in ("datasets", "results"):
        shutil.copytree(kept / name, own_folder / name)
    return own_folder


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


@pytest.mark.slow
def test_vectors_are_drawn_from_the_data(ganformer: Run, runs: Path) -> None:
    file = snapshots_of(Path("results/vectors-duplex-000"))[-1]
    generator = load_snapshot(file)
    labels = generator.label_distribution
    assert labels is not None
    assert labels.vectors is not None
    assert (labels.counts.tolist(), labels.vectors.tolist()) == ([6, 3, 3], np.array(VECTORS, np.float32).tolist())
    line = ["generate", "--model", file, "--seeds", "0-5"]
    assert ganformer(*line, "--output-dir", "own").exit_code == 0
    expected = sample(generator, range(6), truncation_psi=0.7, labels=labels_from_seeds(generator, range(6)).numpy())
    for seed in range(6):
        assert np.array_equal(read(Path(f"own/seed000{seed}.png")), expected[seed].numpy())
    done = ganformer(*line, "--label", "0.3,-2", "--output-dir", "one", "--json")
    assert done.exit_code == 0, done.stderr
    expected = sample(generator, range(6), truncation_psi=0.7, labels=[0.3, -2])
    assert np.array_equal(read(Path("one/seed0003.png")), expected[3].numpy())
    assert [image["label"] for image in json.loads(done.stdout)["images"]] == [[0.3, -2]] * 6
    drawn = json.loads(ganformer(*line, "--output-dir", "own", "--json").stdout)["images"]
    assert [image["label"] for image in drawn] == labels_from_seeds(generator, range(6)).tolist()
    messages = json.loads(ganformer("info", "one/seed0003.png", "--json").stdout)
    assert messages["label"] == [0.3, -2]


@pytest.mark.slow
def test_training_grids_draw_the_labels_of_the_data(ganformer: Run, runs: Path) -> None:
    folder = Path("results/vectors-duplex-000")
    generator = load_snapshot(snapshots_of(folder)[-1])
    psi = json.loads((folder / "config.json").read_text(encoding="utf-8"))["train"]["truncation_psi"]
    expected = sample(generator, range(4), truncation_psi=psi).permute(0, 2, 3, 1)
    newest = max((folder / "samples").glob("fakes-*.png"), key=lambda path: path.stat().st_mtime_ns)
    grid = read(newest)
    pixels = grid.reshape(3, -1).T.astype(int)
    # Training computes with weights that are prepared once, and may round to the next of 256 values.
    assert all(np.abs(pixels - pixel).max(1).min() <= 1 for pixel in expected.reshape(-1, 3).numpy().astype(int))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("run", "words", "message"),
    [
        ("vectors", "--class 1", "--class 1: this model has no classes, its labels are vectors of 2 .*--label"),
        ("vectors", "--class ant", "--class ant: this model has no classes"),
        ("vectors", "--label 1", "--label 1: the labels of this model have 2 numbers, not 1"),
        ("vectors", "--label 1,2,3,4,5", "--label 1,2,3,4,…: the labels of this model have 2 numbers, not 5"),
        ("vectors", "--label 1,nan", "nan is not a finite number"),
        ("vectors", "--label 1,1e39", "--label.*too large"),
        ("vectors", "--label 1,x", "'x' is not a number"),
        ("vectors", "--label 1,2 --class 1", "--class and --label each say"),
        ("classes", "--label 1,0,0", r"--label 1,0,0: this model has classes \(0 to 2: ant, cat, dog\); .*--class"),
        ("classes", "--class bird", "--class bird: this model has no such class; its classes are 0 to 2: ant, cat"),
        ("classes", "--class 3", "--class 3: this model has no such class; its classes are 0 to 2: ant, cat, dog"),
        ("classes", "--class -1", "-1 is not a class"),
        ("classes", "--class 99999999999999999999", "99999999999999999999 is not a class"),
    ],
)
def test_labels_that_a_model_does_not_take(ganformer: Run, runs: Path, run: str, words: str, message: str) -> None:
    done = ganformer("generate", "--model", f"results/{run}-duplex-000", *words.split())
    assert done.exit_code != 0
    assert re.search(message, done.stderr), done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not Path("images").exists()


def test_a_class_by_its_name_and_by_its_number(ganformer: Run, runs: Path) -> None:
    for word in ("2", "dog"):
        done = ganformer("generate", "--model", "results/classes-duplex-000", "--class", word, "--seeds", "1",
                         "--output-dir", word, "--json")  # fmt: skip
        assert done.exit_code == 0, done.stderr
        assert json.loads(done.stdout)["images"][0]["class"] == 2
        assert done.stderr.count("warning") == 0
    assert np.array_equal(read(Path("2/seed0001.png")), read(Path("dog/seed0001.png")))


@pytest.mark.slow
def test_eval_and_convert_and_info(ganformer: Run, runs: Path) -> None:
    scores = ganformer("eval", "--model", "results/vectors-duplex-000")
    assert scores.exit_code == 0, scores.stderr
    refused = ganformer("eval", "--model", "results/vectors-duplex-000", "--class", "0")
    assert refused.exit_code == 1
    assert "--class 0: --dataset vectors has no classes, its labels are vectors of 2 numbers" in refused.stderr
    one = ganformer("eval", "--model", "results/classes-duplex-000", "--class", "ant", "--json")
    assert one.exit_code == 0, one.stderr
    assert json.loads(one.stdout)["provenance"]["class"] == 0
    other = ganformer("eval", "--model", "results/vectors-duplex-000", "--dataset", "classes")
    assert "labels of 3 numbers, this model takes 2" in other.stderr
    assert ganformer("convert", "results/vectors-duplex-000", "v.safetensors", "--ema-only").exit_code == 0
    messages = json.loads(ganformer("info", "v.safetensors", "--json").stdout)
    assert (messages["classes"], messages["labels"]) == (0, {"kind": "vectors", "size": 2, "distinct": 3, "kept": 3})
    assert "vectors of 2 numbers, 3 distinct ones" in ganformer("info", "v.safetensors").stdout
    messages = json.loads(ganformer("info", "results/classes-duplex-000", "--json").stdout)
    assert messages["labels"] == {"kind": "classes", "images": [6, 3, 3], "names": NAMES}
    assert "ant 6, cat 3, dog 3" in ganformer("info", "results/classes-duplex-000").stdout


def test_eval_against_images_without_labels_draws_the_models_own(ganformer: Run, runs: Path) -> None:
    assert ganformer("prepare", "datasets/vectors", "--labels", "none", "--name", "bare").exit_code == 0
    done = ganformer("eval", "--model", "results/vectors-duplex-000", "--dataset", "bare")
    assert done.exit_code == 0, done.stderr
    assert "bare has no labels" in done.stderr


@pytest.mark.slow
def test_a_model_that_keeps_no_labels_says_what_is_assumed(ganformer: Run, own_folder: Path) -> None:
    config = ModelConfig(resolution=16, components_num=2, latent_size=16, channel_base=64, channel_max=8, c_dim=3)
    networks = {"ema": Generator(config), "generator": None, "discriminator": None}
    save_snapshot(Path("old.safetensors"), config=config, kimg=0, provenance={}, **networks)  # type: ignore[arg-type]
    done = ganformer("generate", "--model", "old.safetensors", "--images-num", "1")
    assert done.exit_code == 0, done.stderr
    assert "all 3 classes are taken as equally likely" in done.stderr
    for words in (("--class", "1"), ("--label", "0,1,0")):
        line = ("generate", "--model", "old.safetensors", "--images-num", "1", "--output-dir", words[0])
        done = ganformer(*line, *words)
        assert done.exit_code == 0, done.stderr
        assert "warning" not in done.stderr
    assert np.array_equal(read(Path("--class/seed0000.png")), read(Path("--label/seed0000.png")))


def test_a_class_that_no_image_had_is_said(ganformer: Run, own_folder: Path) -> None:
    config = ModelConfig(resolution=16, components_num=2, latent_size=16, channel_base=64, channel_max=8, c_dim=3)
    torch.manual_seed(0)
    ema = Generator(config)
    ema.label_distribution = LabelDistribution.from_labels(np.array([0, 2, 2]), 3, ["one hundred", "2", "1"])
    save_snapshot(
        Path("a.safetensors"), config=config, ema=ema, generator=None, discriminator=None, kimg=0, provenance={}
    )
    done = ganformer("generate", "--model", "a.safetensors", "--images-num", "1", "--class", "1")
    assert done.exit_code == 0, done.stderr
    assert "--class 1: no training image of this model had this class" in done.stderr
    assert "read as a number, which means the class named 2; the class named 1 has the number 2" in done.stderr


@pytest.mark.parametrize("labels", [False, True])
def test_a_plan_says_whether_labels_are_used(runs: Path, capsys: pytest.CaptureFixture[str], labels: bool) -> None:
    dataset = open_data({"dataset": "vectors"}, Path("datasets"), on_cpu=True)
    options = {"labels": labels, "components_num": 2, "latent_size": 16, "channel_max": 8, "batch_size": 4}
    config = resolve(options, dataset, None, Path("datasets"), on_cpu=True)
    show_plan(config, dataset, torch.device("cpu"), as_json=False)
    said = capsys.readouterr().out
    assert ("12 images of 16x16 (width x height); its labels are not used (see --labels)" in said) != labels
    assert ("labels of 2 numbers" in said) == labels
