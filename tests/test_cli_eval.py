"""``ganformer eval``: the scores it prints and keeps, and what it says of wrong input."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from click.testing import Result

Run = Callable[..., Result]


@pytest.fixture
def pictures() -> Path:
    """A folder of 6 pictures of 32x32, and one of 6 of 16x16 beside it."""
    rng = np.random.default_rng(0)
    for size, name in ((32, "fitting"), (16, "small")):
        Path(name).mkdir()
        for k in range(6):
            PIL.Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(f"{name}/{k}.png")
    return Path("fitting")


@pytest.mark.slow
def test_scores_as_text(ganformer: Run, tiny_run: Path) -> None:
    done = ganformer("eval", "--eval-images-num", "8")
    assert done.exit_code == 0, done.stderr
    first, heads, *rest = done.stdout.splitlines()
    assert heads.split() == ["score", "value"]
    assert first == "network-snapshot-000002.safetensors against scenes: 8 images of each, truncation psi 1, seed 0"
    assert [line.split()[0] for line in rest] == ["swd", "32x32", "16x16", "diversity"]
    assert "two sets of reals" in rest[0]
    assert "\x1b" not in done.stdout


@pytest.mark.slow
def test_scores_as_json_are_the_line_that_the_run_keeps(ganformer: Run, tiny_run: Path) -> None:
    answers = [json.loads(ganformer("eval", "--eval-images-num", "8", "--json").stdout) for _ in range(2)]
    lines = (tiny_run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [
        {key: value for key, value in answer.items() if key != "model"} for answer in answers
    ]
    assert answers[0] == answers[1]
    assert answers[0]["kimg"] == 2
    snapshot = (tiny_run / "snapshots" / answers[0]["snapshot"]).read_bytes()
    assert answers[0]["provenance"]["snapshot_sha256"] == hashlib.sha256(snapshot).hexdigest()


@pytest.mark.slow
def test_batch_size_does_not_matter(ganformer: Run, tiny_run: Path) -> None:
    answers = [
        ganformer("eval", "--eval-images-num", "8", "--json", "--batch-size", size).stdout for size in ("1", "3")
    ]
    assert answers[0] == answers[1]


@pytest.mark.slow
def test_the_data_set_is_the_one_that_the_model_was_trained_on(ganformer: Run, tiny_run: Path) -> None:
    answer = json.loads(ganformer("eval", "--metrics", "diversity", "--json").stdout)
    # 64 scenes were trained on, and the default is no more than there are.
    assert answer["provenance"]["num_reals"] == 64
    assert "changed" not in ganformer("eval", "--metrics", "diversity").stderr


def test_another_data_set(ganformer: Run, tiny_run: Path, pictures: Path) -> None:
    done = ganformer("eval", "--dataset", pictures, "--eval-images-num", "50", "--metrics", "diversity", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["provenance"]["dataset"] == "fitting"
    assert "has 6 images; all of them are compared" in done.stderr


def read_json_lines(path: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def test_scores_of_a_file_outside_a_run_are_kept_beside_it(ganformer: Run, tiny_run: Path) -> None:
    shutil.copy(tiny_run / "snapshots" / "network-snapshot-000001.safetensors", "model.safetensors")
    done = ganformer("eval", "--model", "model.safetensors", "--eval-images-num", "4")
    assert done.exit_code == 0, done.stderr
    assert "scores saved in model.safetensors.metrics.jsonl" in done.stderr
    assert not list(Path().rglob("metrics.jsonl"))
    (record,) = read_json_lines("model.safetensors.metrics.jsonl")
    assert record["provenance"]["snapshot_sha256"] == hashlib.sha256(Path("model.safetensors").read_bytes()).hexdigest()
    shown = json.loads(ganformer("info", "model.safetensors", "--json").stdout)
    assert shown["scores"]["swd"]["value"] == record["swd"]


def test_scores_are_kept_where_output_says(ganformer: Run, tiny_run: Path, pictures: Path) -> None:
    line = ["eval", "--metrics", "diversity", "--eval-images-num", "4", "--output", "out/scores.jsonl"]
    done = ganformer(*line)
    assert done.exit_code == 0, done.stderr
    assert f"scores saved in {Path('out/scores.jsonl')}" in done.stderr
    assert ganformer(*line, "--images", pictures, "--reals", pictures, "--json").exit_code == 0
    assert [record.get("images") for record in read_json_lines("out/scores.jsonl")] == [None, "fitting"]
    assert not (tiny_run / "metrics.jsonl").exists()
    assert not list(Path().glob("*.metrics.jsonl"))
    for text in ("mine: 1\n", "[1, 2]\n", '{"a": 1}\n'):
        Path("other.txt").write_text(text, encoding="utf-8")
        refused = ganformer("eval", "--metrics", "diversity", "--output", "other.txt")
        assert (refused.exit_code, refused.stdout) == (1, "")
        assert "--output other.txt: exists and does not hold scores" in refused.stderr
        assert Path("other.txt").read_text(encoding="utf-8") == text


def test_where_scores_cannot_be_kept_it_is_said(ganformer: Run, tiny_run: Path, pictures: Path) -> None:
    Path("fitting.metrics.jsonl").mkdir()
    line = ["eval", "--images", pictures, "--reals", pictures, "--metrics", "diversity"]
    done = ganformer(*line)
    assert done.exit_code == 0, done.stderr
    assert "the scores were not saved: " in done.stderr
    assert "--output FILE saves them elsewhere" in done.stderr
    assert "scores kept in" not in done.stderr
    Path("file").write_text("", encoding="utf-8")
    failed = ganformer(*line, "--output", "file/scores.jsonl")
    assert failed.exit_code == 1
    assert "diversity" in failed.stdout
    assert "the scores were not saved" in failed.stderr


@pytest.mark.slow
def test_how_to_get_fid_is_said_where_nobody_has_chosen(ganformer: Run, tiny_run: Path) -> None:
    done = ganformer("eval", "--eval-images-num", "8", "--json")
    assert json.loads(done.stdout)["swd"] > 0
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("for FID")]
    assert "--metrics fid" in line
    assert "--fetch" in line
    assert "for FID" not in ganformer("eval", "--eval-images-num", "8", "--metrics", "diversity").stderr


@pytest.mark.slow
def test_precision_and_recall_are_percents_for_people(
    ganformer: Run, tiny_run: Path, tiny_features: dict[str, int]
) -> None:
    rows = [row.split() for row in ganformer("eval", "--eval-images-num", "20", "--metrics", "pr").stdout.splitlines()]
    (record,) = read_json_lines(tiny_run / "metrics.jsonl")
    for name, row in zip(("precision", "recall"), rows[2:4], strict=True):
        assert 0 <= record[name] <= 1
        assert row[:3] == [name, f"{100 * record[name]:.2f}", "%"]
    assert f"precision {100 * record['precision']:.2f} %" in ganformer("info").stdout


def test_scores_that_cannot_be_kept_are_still_printed(ganformer: Run, tiny_run: Path) -> None:
    (tiny_run / "metrics.jsonl").mkdir()
    done = ganformer("eval", "--eval-images-num", "4", "--metrics", "diversity")
    assert done.exit_code == 0
    assert "diversity" in done.stdout
    assert "the scores were not saved" in done.stderr


def test_the_authors_line(ganformer: Run, tiny_run: Path, pictures: Path) -> None:
    shutil.copytree(tiny_run, "results/clevr-exp-000")
    line = "eval --eval --gpus 0 --expname clevr-exp --dataset fitting --eval-images-num 4"
    done = ganformer(*line.split())
    assert done.exit_code == 0, done.stderr
    assert (Path("results/clevr-exp-000") / "metrics.jsonl").is_file()


@pytest.mark.parametrize(
    ("line", "status", "message"),
    [
        ("--metrics fid,is,pr --offline", 1, "no fid,is,pr: the weights of the inception network are missing"),
        ("--metrics fid,is,pr --offline", 1, "ganformer eval --fetch"),
        ("--metrics fid,is,pr --offline", 1, "the metrics swd and diversity need none"),
        ("--metrics swdd", 2, "swdd: there is no such metric; did you mean swd?"),
        ("--metrics none", 2, "no metric is named"),
        ("--metrics fid --weights cut.safetensors", 1, "cut.safetensors: not a readable file of weights"),
        ("--metrics fid,swd --weights pt_inception-2015-12-05-6726825d.pth", 1, "where 6726825d0af5f729cebd5821db51"),
        ("--metrics fid --weights nowhere.pth", 1, "--weights nowhere.pth does not exist"),
        ("--metrics fid,pr --weights a.pth", 1, "need inception, vgg16; write for instance --weights inception=a.pth"),
        ("--metrics fid --weights vgg16=a.pth", 1, "none of the metrics fid needs vgg16"),
        ("--weights a.pth", 1, "need no feature network; leave it out"),
        ("--metrics fid --weights a.pth --weights b.pth", 1, "give one file for each network"),
        ("--images fitting", 2, "--images needs images to compare with; give --dataset or --reals"),
        ("--images fitting --model results/exp-000 --dataset scenes", 2, "--model a model; give one of them"),
        ("--images fitting --all --dataset scenes", 2, "--all a model; give one of them"),
        ("--images nowhere --dataset scenes", 1, "--images nowhere does not exist"),
        (
            "--images small --reals fitting",
            1,
            "has images of 32x32, --images small of 16x16: swd and diversity compare",
        ),
        ("--reals fitting --dataset scenes", 2, "give one of them"),
        ("--class 0", 1, "--class 0: --dataset scenes has no labels"),
        ("--fetch --offline", 2, "--fetch downloads, --offline forbids it"),
        ("--compare results/exp-000 results/exp-000 --seed 1", 2, "--compare scores nothing; leave out --seed"),
        ("--compare results/exp-000 results/exp-000", 1, "no scores there"),
        ("--model cut.safetensors --all", 1, "--all: cut.safetensors lies in no run"),
        ("--dataset nowhere", 1, "--dataset nowhere"),
        ("--dataset small", 1, "--dataset small has images of 16x16, this model makes 32x32"),
        ("--model results/other", 1, "--model results/other: no such file or run folder"),
        ("--model cut.safetensors", 1, "cut.safetensors: not a readable safetensors file"),
        ("--pretrained-pkl gdrive:clevr-snapshot.pkl --offline", 1, "clevr-snapshot.pkl"),
        ("--eval-images-num 1", 2, "--eval-images-num"),
        ("--seed -1", 2, "--seed"),
    ],
)
def test_wrong_lines(ganformer: Run, tiny_run: Path, pictures: Path, line: str, status: int, message: str) -> None:
    whole = (tiny_run / "snapshots" / "network-snapshot-000002.safetensors").read_bytes()
    Path("cut.safetensors").write_bytes(whole[:-100])
    Path("pt_inception-2015-12-05-6726825d.pth").write_bytes(whole)
    done = ganformer("eval", *line.split())
    assert message in done.stderr.replace("\\", "/")
    assert done.exit_code == status
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert not (tiny_run / "metrics.jsonl").exists()


@pytest.mark.slow
def test_a_snapshot_that_does_not_say_its_data_set(ganformer: Run, tiny_run: Path) -> None:
    from ganformer_cli.checkpoints.snapshots import load_snapshot, save_snapshot
    from ganformer_cli.models import Discriminator

    model = load_snapshot(tiny_run)
    save_snapshot(
        Path("bare.safetensors"),
        config=model.config,
        ema=model,
        generator=load_snapshot(tiny_run),
        discriminator=Discriminator(model.config),
        kimg=0,
        provenance={},
    )
    done = ganformer("eval", "--model", "bare.safetensors")
    assert done.exit_code == 1
    assert "--dataset is needed" in done.stderr


# ----- Feature networks -----


@pytest.mark.slow
def test_scores_of_features(ganformer: Run, tiny_run: Path, tiny_features: dict[str, int]) -> None:
    line = "eval --eval-images-num 30 --metrics fid,kid,is,pr,dc,fd-dinov2"
    done = ganformer(*line.split())
    assert done.exit_code == 0, done.stderr
    rows = [row.split() for row in done.stdout.splitlines()[2:]]
    names = ["fid", "kid", "is", "precision", "recall", "density", "coverage", "fd_dinov2"]
    assert [row[0] for row in rows] == names
    assert "±" in done.stdout.splitlines()[3]
    assert "biased upwards" in done.stderr
    (record,) = [json.loads(row) for row in (tiny_run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert record["provenance"]["metrics"]["pr"]["network"] == "vgg16"
    tiny_features.clear()
    again = ganformer(*line.split(), "--json", "--batch-size", "7")
    assert {name: json.loads(again.stdout)[name] for name in names} == {name: record[name] for name in names}
    assert tiny_features["inception"] == 30  # the reals' were kept


def test_without_weights_the_others_are_scored_and_the_status_tells(ganformer: Run, tiny_run: Path) -> None:
    done = ganformer("eval", "--metrics", "fid,diversity", "--offline", "--eval-images-num", "4")
    assert done.exit_code == 1
    assert done.stdout.splitlines()[2].startswith("diversity ")
    assert "no fid: the weights of the inception network are missing" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_network_it_is_said_what_needs_no_weights(
    ganformer: Run, tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ganformer_cli.errors import DownloadError
    from ganformer_cli.metrics import features

    def open_network(name: str, **_: object) -> None:
        raise DownloadError(f"cannot download {name}: no connection")

    monkeypatch.setattr(features, "open_network", open_network)
    done = ganformer("eval", "--metrics", "fid,pr")
    assert (done.exit_code, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert "no fid,pr: cannot download inception: no connection; cannot download vgg16: no connection" in line
    assert line.endswith("swd and diversity need no weights")


def test_a_metric_that_fails_leaves_the_others(ganformer: Run, tiny_run: Path, tiny_features: dict[str, int]) -> None:
    done = ganformer("eval", "--metrics", "is,diversity", "--eval-images-num", "4")
    assert done.exit_code == 1
    assert [row.split()[0] for row in done.stdout.splitlines()[2:]] == ["diversity"]
    assert "error: no is: an Inception Score of 10 splits needs at least 10 images" in done.stderr


def test_fetch_says_where_the_weights_are(ganformer: Run, own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ganformer_cli.metrics import features

    asked = []

    def fetch_weights(name: str, *, offline: bool, progress: Callable[[int, int | None], None]) -> Path:
        asked.append((name, offline))
        progress(1 << 20, 2 << 20)
        return Path("weights") / name

    monkeypatch.setattr(features, "fetch_weights", fetch_weights)
    done = ganformer("eval", "--fetch")
    assert (done.exit_code, done.stdout.split()) == (0, ["inception", str(Path("weights/inception"))])
    assert "weights of inception 1/2 MiB" in done.stderr
    ganformer("eval", "--fetch", "--metrics", "pr,kid")
    assert asked == [("inception", False), ("vgg16", False), ("inception", False)]
    assert "no feature network is needed" in ganformer("eval", "--fetch", "--metrics", "swd").stdout


# ----- Other things to score -----


@pytest.mark.slow
def test_every_snapshot_of_a_run(ganformer: Run, tiny_run: Path) -> None:
    done = ganformer("eval", "--all", "--eval-images-num", "4")
    assert done.exit_code == 0, done.stderr
    title, heads, *rows, curve = done.stdout.splitlines()
    assert title.startswith("2 snapshots against scenes")
    assert heads.split() == ["kimg", "swd", "diversity"]
    assert [row.split()[0] for row in rows] == ["1", "2"]
    assert curve == f"curve {Path('results/exp-000/metrics.png')}"
    with PIL.Image.open(tiny_run / "metrics.png") as picture:
        assert len(picture.getcolors(1 << 16) or []) > 3
    assert len((tiny_run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()) == 2
    answers = json.loads(ganformer("eval", "--all", "--eval-images-num", "4", "--json").stdout)
    one = json.loads(ganformer("eval", "--eval-images-num", "4", "--json").stdout)
    assert answers[1] == one
    assert answers[0]["kimg"] == 1


def test_two_folders(ganformer: Run, pictures: Path) -> None:
    line = ["eval", "--images", pictures, "--reals", pictures]
    done = ganformer(*line)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines()[0] == "fitting against fitting: 6 images of each, seed 0"
    answer = json.loads(ganformer(*line, "--json").stdout)
    assert (answer["swd"], answer["diversity"], answer["images"]) == (0, 1, "fitting")
    assert len(read_json_lines("fitting.metrics.jsonl")) == 2
    assert len(list(pictures.iterdir())) == 6  # the folder stays one of images


@pytest.mark.slow
def test_what_generate_wrote_scores_as_the_model_does(
    ganformer: Run, tiny_run: Path, tiny_features: dict[str, int]
) -> None:
    for form in ("png", "npy"):
        ganformer("generate", "--images-num", "16", "--format", form, "--output-dir", form, "--truncation-psi", "1")
    how = ["--metrics", "fid", "--eval-images-num", "16", "--json"]
    model = json.loads(ganformer("eval", *how).stdout)["fid"]
    array = next(Path("npy").glob("*.npy"))
    for images in ("png", array):
        done = ganformer("eval", "--images", images, "--dataset", "scenes", *how)
        # The data set is larger here than what the model was trained on: the reals are others, but not by much.
        assert done.exit_code == 0, done.stderr
        assert json.loads(done.stdout)["fid"] == pytest.approx(model, rel=0.5)


# ----- Comparing -----


@pytest.mark.slow
def test_comparing_scores_names_every_difference(ganformer: Run, tiny_run: Path, tiny_features: dict[str, int]) -> None:
    shutil.copytree(tiny_run, "results/other-000")
    for run, more in (("exp-000", []), ("other-000", ["--truncation-psi", "0.5", "--resize", "clean", "--seed", "3"])):
        done = ganformer(
            "eval", "--expname", run, "--metrics", "fid,swd", "--eval-images-num", "20" if more else "16", *more
        )
        assert done.exit_code == 0, done.stderr
    done = ganformer("eval", "--compare", "results/exp-000", "results/other-000")
    assert done.exit_code == 0, done.stderr
    assert [row.split()[0] for row in done.stdout.splitlines()] == ["A", "B", "score", "fid", "swd"]
    messages = done.stderr.splitlines()
    assert len(messages) == 5
    for text in ("truncation psi (1 and 0.5)", "seed (0 and 3)", "number of real images (16 and 20)"):
        assert any(f"fid, swd: not comparable, different {text}" in line for line in messages), text
    assert any("fid: not comparable, different resize before the network (tf1 and clean)" in line for line in messages)
    answer = json.loads(ganformer("eval", "--compare", "results/exp-000", "results/other-000", "--json").stdout)
    assert len(answer["differences"]["fid"]) == 5
    assert len(answer["differences"]["swd"]) == 4


@pytest.mark.slow
def test_comparing_what_compares_says_nothing(ganformer: Run, tiny_run: Path) -> None:
    for name in ("network-snapshot-000001.safetensors", "network-snapshot-000002.safetensors"):
        done = ganformer("eval", "--model", tiny_run / "snapshots" / name, "--eval-images-num", "4", "--json")
        Path(f"{name}.json").write_text(done.stdout, encoding="utf-8")
    first = tiny_run / "snapshots" / "network-snapshot-000001.safetensors"
    for side in (first, f"{first.name}.json"):
        done = ganformer("eval", "--compare", side, tiny_run)
        assert (done.exit_code, done.stderr) == (0, "")
        assert "+" in done.stdout or "-" in done.stdout
    done = ganformer("eval", "--compare", tiny_run, "nowhere.json")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "nowhere.json: no scores there" in done.stderr


# ----- Several processes -----


@pytest.mark.slow
@pytest.mark.not_wine("Gloo's first sum between processes hangs")
def test_processes_come_to_the_scores_of_one(ganformer: Run, tiny_run: Path) -> None:
    words = ["eval", "--eval-images-num", "64", "--json"]
    alone = json.loads(ganformer(*words).stdout)
    metrics = ["--metrics", "fid,swd,diversity", "--offline"]
    done = subprocess.run(
        [sys.executable, "-m", "ganformer_cli", *words, *metrics, "--processes", "2"],
        capture_output=True, text=True, encoding="utf-8", timeout=120, check=False,
    )  # fmt: skip
    assert json.loads(done.stdout) == alone
    assert len((tiny_run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()) == 2
    # What could not be scored is told once, and the status says so, too.
    assert done.returncode == 1
    assert done.stderr.count("error: no fid: ") == 1
    assert "Traceback" not in done.stderr
