"""``ganformer eval``: the scores it prints and keeps, and what it says of wrong input."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

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


def test_scores_as_text(ganformer: Run, tiny_run: Path) -> None:
    done = ganformer("eval", "--eval-images-num", "8")
    assert done.exit_code == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    assert first == "network-snapshot-000002.safetensors against scenes: 8 images of each, truncation psi 1, seed 0"
    assert [line.split()[0] for line in rest] == ["swd", "32x32", "16x16", "diversity"]
    assert "two sets of reals" in rest[0]
    assert "\x1b" not in done.stdout


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


def test_batch_size_does_not_matter(ganformer: Run, tiny_run: Path) -> None:
    answers = [
        ganformer("eval", "--eval-images-num", "8", "--json", "--batch-size", size).stdout for size in ("1", "3")
    ]
    assert answers[0] == answers[1]


def test_the_data_set_is_the_one_that_the_model_was_trained_on(ganformer: Run, tiny_run: Path) -> None:
    answer = json.loads(ganformer("eval", "--metrics", "diversity", "--json").stdout)
    # 64 scenes were trained on, and the default is no more than there are.
    assert answer["provenance"]["num_reals"] == 64
    assert "changed" not in ganformer("eval", "--metrics", "diversity").stderr


def test_another_data_set(ganformer: Run, tiny_run: Path, pictures: Path) -> None:
    done = ganformer("eval", "--dataset", pictures, "--eval-images-num", "50", "--metrics", "diversity", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["provenance"]["dataset"] == "fitting"
    assert "has 6 pictures; comparing so many of each" in done.stderr


def test_a_file_outside_a_run_keeps_nothing(ganformer: Run, tiny_run: Path) -> None:
    shutil.copy(tiny_run / "snapshots" / "network-snapshot-000001.safetensors", "model.safetensors")
    done = ganformer("eval", "--model", "model.safetensors", "--eval-images-num", "4")
    assert done.exit_code == 0, done.stderr
    assert not list(Path().rglob("metrics.jsonl"))


def test_scores_that_cannot_be_kept_are_still_printed(ganformer: Run, tiny_run: Path) -> None:
    (tiny_run / "metrics.jsonl").mkdir()
    done = ganformer("eval", "--eval-images-num", "4", "--metrics", "diversity")
    assert done.exit_code == 0
    assert "diversity" in done.stdout
    assert "the scores were not kept" in done.stderr


def test_the_authors_line(ganformer: Run, tiny_run: Path, pictures: Path) -> None:
    shutil.copytree(tiny_run, "results/clevr-exp-000")
    line = "eval --eval --gpus 0 --expname clevr-exp --dataset fitting --eval-images-num 4"
    done = ganformer(*line.split())
    assert done.exit_code == 0, done.stderr
    assert (Path("results/clevr-exp-000") / "metrics.jsonl").is_file()


@pytest.mark.parametrize(
    ("line", "status", "message"),
    [
        ("--metrics fid,is,pr", 1, "--metrics fid is not in this version yet"),
        ("--metrics swd,kid", 1, "available: swd, diversity"),
        ("--metrics swdd", 2, "no metric 'swdd'; available: swd, diversity"),
        ("--dataset nowhere", 1, "--dataset nowhere"),
        ("--dataset small", 1, "--dataset small has pictures of 16x16, this model makes 32x32"),
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
    done = ganformer("eval", *line.split())
    assert message in done.stderr
    assert done.exit_code == status
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert not (tiny_run / "metrics.jsonl").exists()


def test_a_snapshot_that_does_not_say_its_data_set(ganformer: Run, tiny_run: Path) -> None:
    from ganformer_cli.checkpoints import load_generator, save_snapshot
    from ganformer_cli.models import Discriminator

    model = load_generator(tiny_run)
    save_snapshot(
        Path("bare.safetensors"),
        config=model.config,
        ema=model,
        generator=load_generator(tiny_run),
        discriminator=Discriminator(model.config),
        kimg=0,
        provenance={},
    )
    done = ganformer("eval", "--model", "bare.safetensors")
    assert done.exit_code == 1
    assert "--dataset is needed" in done.stderr
