"""``ganformer train`` as its users see it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from PIL import Image

from ganformer_cli.cli.train import command as train
from ganformer_cli.cli.train_options import default_text
from ganformer_cli.cli.train_settings import chosen_settings
from ganformer_cli.config import DATA_SETTINGS, ModelConfig, RunConfig, TrainConfig, resolve_run, settings_of
from ganformer_cli.files import read_toml

Run = Callable[..., Result]

TINY = (
    *("train", "--components-num", "2", "--latent-size", "16", "--channel-base", "128", "--channel-max", "8"),
    *("--mapping-num-layers", "2", "--batch-size", "4", "--total-kimg", "0.016", "--train-images-num", "16"),
    *("--vis-num", "4", "--eval-images-num", "8", "--tick-kimg", "0.008"),
    *("--batch-gpu", "4", "--precision", "fp32"),  # without the trials of both
)


def resolved(*words: str) -> RunConfig:
    """The configuration that options mean for the built-in scenes on a CPU."""
    with train.make_context("train", list(words)) as ctx:
        return resolve_run({"resolution": 32, **chosen_settings(ctx)}, dataset_preset={}, on_cpu=True)


@pytest.mark.slow
def test_train_ends_with_pictures_and_says_where(ganformer: Run) -> None:
    result = ganformer(*TINY[: TINY.index("--batch-gpu")])
    assert result.exit_code == 0, result.output
    run = Path("results/scenes-duplex-000")
    for name in ("config.json", "log.jsonl", "metrics.jsonl", "samples/reals.png", "samples/fakes-000000.png"):
        assert (run / name).is_file(), name
    assert "samples" in result.stdout
    assert "ganformer generate --model" in result.stdout
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all({"swd", "diversity", "kimg", "snapshot"} <= set(record) for record in records)


@pytest.mark.slow
def test_the_same_command_again_goes_on(ganformer: Run) -> None:
    assert ganformer(*TINY).exit_code == 0
    again = ganformer(*TINY, "--json")
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["kimg"] == pytest.approx(0.016)
    longer = ganformer(*TINY, "--json", "--total-kimg", "0.024")
    assert json.loads(longer.stdout)["kimg"] == pytest.approx(0.024)
    assert Path(json.loads(longer.stdout)["run"]).name == "scenes-duplex-000"
    bare = ganformer("train", "--train-images-num", "16", "--json")  # the settings are the run's, its length among them
    assert json.loads(bare.stdout)["kimg"] == pytest.approx(0.024)
    assert "--total-kimg 0.024" in bare.stderr
    fresh = ganformer(*TINY, "--json", "--restart", "--metrics", "none")
    assert Path(json.loads(fresh.stdout)["run"]).name == "scenes-duplex-001"


@pytest.mark.slow
def test_changed_options_are_refused_with_the_difference(ganformer: Run) -> None:
    assert ganformer(*TINY, "--metrics", "none").exit_code == 0
    result = ganformer(*TINY, "--metrics", "none", "--gamma", "3")
    assert result.exit_code == 1
    assert "gamma was" in result.stderr
    assert "--restart" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_dry_run_shows_everything_and_writes_nothing(ganformer: Run, own_folder: Path) -> None:
    result = ganformer(*TINY, "--dry-run", "--json", "--resolution", "64", "--attention", "simplex")
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    assert shown["config"]["model"]["attention"] == "simplex"
    assert shown["config"]["model"]["resolution"] == 64
    assert shown["parameters"]["generator"] > 0
    plain = ganformer(*TINY, "--dry-run", "--resolution", "64", "--attention", "simplex").stdout
    assert "parameters" in plain
    assert f"operators  {'native' if shown['operators'] == 'native' else 'plain torch'}" in plain
    assert list(own_folder.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "attention"),
    [
        ((), "kmeans"),
        (("--attention", "duplex"), "kmeans"),
        (("--attention", "duplex-equation"), "duplex-equation"),
        (("--ganformer-default",), "kmeans"),
        (("--kmeans",), "kmeans"),
        (("--transformer", "False"), "none"),
        (("--no-transformer",), "none"),
        (("--attention", "simplex", "--transformer"), "simplex"),
        (("--g-img2ltnt",), "duplex-equation"),
        (("--baseline", "stylegan2"), "none"),
        (("--baseline", "k-GAN"), "none"),
        (("--gpus", "0", "--train"), "kmeans"),
    ],
)
def test_spellings_of_the_attention(words: tuple[str, ...], attention: str) -> None:
    assert resolved(*words).model.attention == attention


@pytest.mark.slow
@pytest.mark.parametrize("baseline", ["GAN", "StyleGAN2", "SAGAN", "kGAN"])
def test_baselines_train_and_generate(ganformer: Run, baseline: str) -> None:
    tiny = TINY[3:] if baseline != "kGAN" else TINY[1:]  # without --components-num
    trained = ganformer("train", *tiny, "--baseline", baseline, "--metrics", "none")
    assert trained.exit_code == 0, trained.output
    run = Path(f"results/scenes-{baseline.lower()}-000")
    maps = (run / "samples" / "attention-000000.png").is_file()
    assert maps == (baseline == "kGAN")
    drawn = ganformer("generate", "--model", run, "--images-num", "2", *(["--maps"] if maps else []))
    assert drawn.exit_code == 0, drawn.output
    assert Path("images/seed0001.png").is_file()
    assert Path("images-sheets/seed0001-maps.png").is_file() == maps


@pytest.mark.slow
def test_classes_from_the_labels_to_the_pictures(ganformer: Run, own_folder: Path) -> None:
    """dataset.json → prepare → train --labels → generate --class."""
    source = own_folder / "pictures"
    source.mkdir()
    names = [f"{i}.png" for i in range(8)]
    for i, name in enumerate(names):
        Image.new("RGB", (32, 32), (20 * i, 0, 99)).save(source / name)
    labels = {"labels": [[name, i % 3] for i, name in enumerate(names)]}
    (source / "dataset.json").write_text(json.dumps(labels), encoding="utf-8")
    assert ganformer("prepare", source, "--name", "three", "--resolution", "32").exit_code == 0
    assert ganformer(*TINY, "--dataset", "three", "--labels").exit_code == 0
    assert json.loads(Path("results/three-duplex-000/config.json").read_text(encoding="utf-8"))["model"]["c_dim"] == 3
    pictures = []
    for name in ("0", "2"):
        drawn = ganformer("generate", "--class", name, "--seeds", "5", "--output-dir", name)
        assert drawn.exit_code == 0, drawn.output
        pictures.append((own_folder / name / "seed0005.png").read_bytes())
    assert pictures[0] != pictures[1]
    refused = ganformer("generate", "--class", "3")
    assert "0 to 2" in refused.stderr
    unlabelled = ganformer(*TINY, "--labels")
    assert unlabelled.exit_code == 1
    assert "--labels" in unlabelled.stderr


def test_a_space_and_an_equals_sign_are_the_same() -> None:
    """In the original they gave different models."""
    spaced = resolved("--gamma", "5", "--style", "True")
    assert spaced == resolved("--gamma=5", "--style=True")
    assert spaced.train.gamma == 5


WRONG = [
    (("--dataset", "senes"), ["--dataset senes", "scenes"]),
    (("--components-num", "7"), ["--components-num 7", "--latent-size 128"]),
    (("--resolution", "48"), ["--resolution 48", "power of two"]),
    (("--batch-size", "6"), ["--batch-size 6", "multiple of 4"]),
    (("--attention", "none", "--components-num", "4"), ["--components-num 4", "--attention"]),
    (("--attention", "simplex", "--kmeans"), ["--kmeans", "--attention simplex"]),
    (("--attention", "none", "--ganformer-default"), ["--ganformer-default", "--attention none"]),
    (("--expname", "a/b"), ["--expname"]),
    (("--metrics", "fidd"), ["--metrics fidd", "did you mean fid?"]),
    (("--metrics", "fid", "--offline"), ["the weights of the inception network are missing", "--fetch"]),
    (("--pretrained-pkl", "gdrive:clever-snapshot.pkl"), ["did you mean gdrive:clevr-snapshot.pkl"]),
    (("--baseline", "VQGAN", "--gamma", "5"), ["--gamma", "--baseline VQGAN"]),
    (("--baseline", "VQGAN", "--precision", "bf16"), ["--precision bf16", "tf32"]),
    (("--baseline", "VQGAN", "--code-stride", "3"), ["--code-stride 3", "power of two"]),
    (("--codebook-size", "64"), ["--codebook-size 64", "--baseline VQGAN"]),
    (("--vq-stage", "1"), ["--vq-stage 1", "--baseline VQGAN"]),
    (("--d-loss", "wgan", "--gamma", "0"), ["--d-loss wgan", "--gamma 0"]),
    (("--baseline", "GAN", "--style-mixing", "0.5"), ["--style-mixing 0.5", "--style False"]),
    (("--train-images-num", "4"), ["4 images", "--batch-size"]),
    (("--processes", "900"), ["--processes 900", "CPU cores", "choose at most"]),
    (("--init-from", "nowhere"), ["--init-from nowhere", "no such file"]),
    (("--init-from", "a", "--pretrained-pkl", "b"), ["--init-from and --pretrained-pkl", "one of them"]),
    (("--precision", "fp16"), ["--precision fp16", "bf16"]),
    (("--precision", "bf16", "--allow-tf32", "False"), ["--allow-tf32 False", "--precision"]),
    (("--precision", "fp32", "--allow-tf32"), ["--allow-tf32", "--precision fp32"]),
    (("--resume-from", "4"), ["--resume-from 4: there is no run scenes-duplex in results", "leave the option out"]),
    (("--resume-from", "4", "--restart"), ["--resume-from contradicts --restart", "leave one of them out"]),
    (("--reload", "--expname", "yours"), ["--reload: no run yours-NNN in results"]),
]


@pytest.mark.parametrize(("words", "parts"), WRONG, ids=lambda value: " ".join(value[:2]))
def test_wrong_lines_say_what_to_do(ganformer: Run, own_folder: Path, words: tuple[str, ...], parts: list[str]) -> None:
    result = ganformer("train", "--total-kimg", "0.01", *words)  # short, should the line not be refused after all
    assert result.exit_code == 1
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    for part in parts:
        assert part in result.stderr
    assert list(own_folder.iterdir()) == []


def test_unwritable_result_folder(ganformer: Run, own_folder: Path) -> None:
    (own_folder / "file").write_text("in the way", encoding="utf-8")
    result = ganformer(*TINY, "--result-dir", "file")
    assert result.exit_code == 1
    assert "--result-dir" in result.stderr
    assert (own_folder / "file").read_text(encoding="utf-8") == "in the way"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="a console's Ctrl-C cannot be sent to one process on Windows")
def test_interrupt_saves_and_the_same_command_goes_on(own_folder: Path) -> None:
    line = [sys.executable, "-m", "ganformer_cli", *TINY, "--total-kimg", "1000", "--metrics", "none"]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8")
    log = own_folder / "results" / "scenes-duplex-000" / "log.jsonl"
    deadline = time.monotonic() + 120
    while not log.is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert "the same command resumes the run" in stdout
    shown = json.loads(log.read_text(encoding="utf-8").splitlines()[-1])["kimg"]
    again = subprocess.run(
        [*line[:-4], "--total-kimg", str(shown + 0.008), "--metrics", "none", "--json"],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
    )
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["kimg"] == pytest.approx(shown + 0.008, abs=0.004)


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("resolution", "the data set's; of scenes 32 on a CPU, 128 on a GPU"),
        ("ratio", "the data set's; of scenes 1"),
        ("batch_size", "32; on a CPU 8"),
        ("gamma", "10, or by data set; on a CPU 1 or 10 by size"),
        ("channel_base", "32768; on a CPU 1024 to 16384 by size"),
        ("num_threads", "4; on a CPU 0"),
        ("style", "True, or by data set"),
        ("g_loss", "logistic_ns"),
        ("train_images_num", "all"),
        ("pretrained_pkl", ""),
    ],
)
def test_help_shows_the_defaults_that_act(field: str, text: str) -> None:
    assert default_text({**settings_of(ModelConfig), **settings_of(TrainConfig)}[field]) == text


def test_data_sets_may_choose_what_help_says_they_choose(checkout: Path) -> None:
    """Of the others help shows one default for all data sets."""
    for file in (checkout / "datasets").glob("*.toml"):
        assert set(read_toml(file).get("preset", {})) <= DATA_SETTINGS, file.name


@pytest.mark.slow
def test_ganformer_default_follows_the_data_set(ganformer: Run) -> None:
    """The authors' CLEVR network has no style, and its components do not attend to each other in the mapping."""
    Path("pictures").mkdir()
    for i in range(8):
        Image.effect_noise((64, 48), 10 * i + 10).convert("RGB").save(f"pictures/{i}.png")
    prepared = ganformer("prepare", "--task", "clevr", "--images-dir", "pictures", "--resolution", "32")
    assert prepared.exit_code == 0, prepared.output
    line = ("--ganformer-default", "--dataset", "clevr", "--metrics", "none", "--total-kimg", "0.004")
    done = ganformer(*TINY, *line, "--train-images-num", "8")
    assert done.exit_code == 0, done.output
    model = json.loads(Path("results/clevr-kmeans-000/config.json").read_text(encoding="utf-8"))["model"]
    assert (model["attention"], model["style"], model["mapping_ltnt2ltnt"]) == ("kmeans", False, False)
