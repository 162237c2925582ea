"""Scores while a run trains: when they are taken, which snapshot is the best, and that they never end training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ganformer_cli.config import RunConfig, resolve_run
from ganformer_cli.data import ImageDataset, open_dataset
from ganformer_cli.errors import ConfigError
from ganformer_cli.metrics.evaluate import evaluate
from ganformer_cli.models import Generator
from ganformer_cli.training import Callbacks, open_run
from ganformer_cli.training import scoring as scoring_room
from ganformer_cli.training.loop import Trainer
from ganformer_cli.training.scoring import Scoring

CPU = torch.device("cpu")
KEPT = "network-snapshot-{:06d}.safetensors"


@pytest.fixture(scope="module")
def scenes() -> ImageDataset:
    return open_dataset("scenes", resolution=32, max_images=16)


def settings(tiny: dict[str, Any], **options: Any) -> RunConfig:
    more = {"total_kimg": 0.016, "snapshot_kimg": 0.004, "tick_kimg": 0.008, "vis_num": 2, "eval_images_num": 4}
    return resolve_run({"resolution": 32, **tiny, **more, **options}, dataset_preset={}, on_cpu=True)


def begin(config: RunConfig, scenes: ImageDataset, folder: Path, said: list[str]) -> Trainer:
    return open_run(config, scenes, folder, device=CPU, resume=False, callbacks=Callbacks(message=said.append))


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
def test_scores_are_those_of_eval(tmp_path: Path, tiny: dict[str, Any], scenes: ImageDataset) -> None:
    config = settings(tiny, total_kimg=0.004, metrics="swd,diversity")
    trainer = begin(config, scenes, tmp_path / "run", [])
    result = trainer.run()
    (first, last) = records(tmp_path / "run")
    again = evaluate(trainer.gan.ema, scenes, num_images=4)
    assert (last["swd"], last["diversity"]) == (again["swd"], again["diversity"])
    assert result.scores == {"swd": last["swd"], "diversity": last["diversity"]}
    assert (first["kimg"], last["kimg"], last["by"]) == (0, 0.004, "training")
    assert last["snapshot"] == result.snapshot.name
    assert len(last["provenance"]["snapshot_sha256"]) == 64


@pytest.mark.slow
def test_features_are_scored_and_the_reals_looked_at_once(
    tmp_path: Path, tiny: dict[str, Any], scenes: ImageDataset, tiny_features: dict[str, int]
) -> None:
    said: list[str] = []
    begin(settings(tiny, total_kimg=0.008, metrics="fid"), scenes, tmp_path / "run", said).run()
    assert [record["kimg"] for record in records(tmp_path / "run")] == [0, 0.004, 0.008]
    # Once to see whether the network is there, and no picture then.
    assert tiny_features == {"inception": 4 + 3 * 4}
    assert len([text for text in said if "covariance is singular" in text]) == 1


@pytest.mark.slow
def test_every_third_snapshot_and_the_last(tmp_path: Path, tiny: dict[str, Any], scenes: ImageDataset) -> None:
    config = settings(tiny, metrics="diversity", metrics_every=3)
    begin(config, scenes, tmp_path / "run", []).run()
    assert [record["kimg"] for record in records(tmp_path / "run")] == [0, 0.012, 0.016]


@pytest.mark.slow
def test_the_best_snapshot_is_kept(
    tmp_path: Path, tiny: dict[str, Any], scenes: ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the newest ones; snapshots of a run this short are 0.004 kimg apart, and named by whole ones."""
    values = iter([50.0, 9.0, 20.0, 30.0, 25.0])

    monkeypatch.setattr(scoring_room, "evaluate", lambda *_, **__: {"swd": next(values), "provenance": {}})
    said: list[str] = []
    config = settings(tiny, total_kimg=4, snapshot_kimg=1, tick_kimg=1, last_snapshots=2, metrics="swd")
    trainer = begin(config, scenes, tmp_path / "run", said)
    monkeypatch.setattr(trainer, "train_step", lambda batch, means: skip(trainer, 1000))
    result = trainer.run()
    names = sorted(path.name for path in (tmp_path / "run" / "snapshots").iterdir())
    assert names == [KEPT.format(kimg) for kimg in (1, 3, 4)]
    assert result.snapshot.name == KEPT.format(4)
    assert result.best is not None
    assert result.best.name == KEPT.format(1)
    assert [text for text in said if "the best so far" in text] == [
        f"snapshot at 1 kimg: swd 9 (the best so far), images {tmp_path / 'run' / 'samples' / 'fakes-000001.png'}"
    ]


def skip(trainer: Trainer, images: int) -> None:
    """As if so many pictures had been shown."""
    trainer.counters.step += 1
    trainer.counters.images_seen += images


@pytest.mark.parametrize(
    ("metric", "values", "best"),
    [
        ("fid", {1: 9.0, 2: 7.0, 3: 8.0}, 2),
        ("is", {1: 9.0, 2: 7.0, 3: 8.0}, 1),
        ("diversity", {1: 1.4, 2: 0.8, 3: 0.1}, 2),
    ],
)
def test_what_is_best_depends_on_the_score(
    tmp_path: Path, tiny: dict[str, Any], scenes: ImageDataset, metric: str, values: dict[int, float], best: int
) -> None:
    (tmp_path / "snapshots").mkdir()
    lines = []
    for kimg, value in values.items():
        (tmp_path / "snapshots" / KEPT.format(kimg)).touch()
        lines.append({"snapshot": KEPT.format(kimg), "kimg": kimg, "by": "training", metric: value})
    better_but_other = {"provenance": {"num_fakes": 7}, metric: 1.0}
    lines.insert(1, {"snapshot": KEPT.format(3), "kimg": 3, "by": "training", **better_but_other})
    lines.insert(1, {"snapshot": KEPT.format(3), "kimg": 3, metric: 1.0})  # somebody's own evaluation
    lines.insert(1, {"snapshot": KEPT.format(0), "kimg": 0, "by": "training", metric: 1.0})  # gone
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"snapshot": "half a li'
    (tmp_path / "metrics.jsonl").write_text(text, encoding="utf-8")
    scoring = Scoring(settings(tiny, metrics=f"{metric},swd").train, scenes, tmp_path, CPU, lambda text: None)
    found = scoring.best()
    assert found is not None
    assert found[0].name == KEPT.format(best)


@pytest.mark.slow
@pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory"), MemoryError(), ZeroDivisionError("never")])
def test_a_failing_metric_never_ends_training(
    tmp_path: Path, tiny: dict[str, Any], scenes: ImageDataset, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(scoring_room, "evaluate", fails)
    said: list[str] = []
    result = begin(settings(tiny, total_kimg=0.004, metrics="swd"), scenes, tmp_path / "run", said).run()
    assert result.finished
    assert result.scores == {}
    assert len([text for text in said if text.startswith("warning: no scores at ")]) == 2


def test_missing_weights_are_told_before_anything_is_trained(
    tmp_path: Path, tiny: dict[str, Any], scenes: ImageDataset
) -> None:
    with pytest.raises(ConfigError, match="--metrics fid: the weights of the inception network are missing"):
        begin(settings(tiny, metrics="fid"), scenes, tmp_path / "run", [])
    assert not (tmp_path / "run").exists()


def test_a_seed_of_training_may_be_large(tmp_path: Path, tiny: dict[str, Any], scenes: ImageDataset) -> None:
    options = settings(tiny, seed=2**63 - 1, metrics="diversity").train
    said: list[str] = []
    torch.manual_seed(0)
    model = Generator(settings(tiny).model).eval()
    (tmp_path / "snapshot").touch()
    scores = Scoring(options, scenes, tmp_path, CPU, said.append).score(model, tmp_path / "snapshot", 1.0)
    assert set(scores) == {"diversity"}, said
