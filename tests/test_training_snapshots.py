"""What belongs to a snapshot: its own name, its grids, its scores; made again where a kill has come between."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ganformer_cli.checkpoints import snapshots, training_state
from ganformer_cli.checkpoints.run_folder import images_in_name, snapshot_name, snapshots_of
from ganformer_cli.config import resolve_run
from ganformer_cli.training import Callbacks, RunResult, open_run
from ganformer_cli.training.checkpointing import Checkpointer
from ganformer_cli.training.samples import SampleGrids
from ganformer_cli.training.scoring import Scoring
from tests.small_pictures import small_pictures

TINY: dict[str, Any] = {
    "resolution": 16,  # the least that swd takes
    "components_num": 2,
    "latent_size": 16,
    "channel_base": 128,
    "channel_max": 8,
    "mapping_num_layers": 2,
    "precision": "fp32",
    "batch_size": 4,
    "batch_gpu": 4,
    "total_kimg": 0.016,
    "tick_kimg": 0.016,
    "snapshot_kimg": 0.008,
    "vis_num": 2,
    "metrics": "swd,diversity",
    "eval_images_num": 4,
}
CPU = torch.device("cpu")


def train(
    folder: Path, *, stop: int | None = None, resume: bool = False, messages: list[str] | None = None, **options: Any
) -> RunResult:
    """Train on a CPU; stop after so many steps."""
    calls = iter(range(10**6))
    callbacks = Callbacks(
        should_stop=lambda: stop is not None and next(calls) + 1 >= stop,
        message=(messages if messages is not None else []).append,
    )
    config = resolve_run({**TINY, **options}, dataset_preset={}, on_cpu=True)
    data = small_pictures(8, 16)
    return open_run(config, data, folder, device=CPU, resume=resume, callbacks=callbacks).run()


def content(run: Path) -> dict[str, str]:
    """sha256 of every file by which users judge a run; of the scores the numbers and what they are of."""
    found = {}
    for path in sorted((*(run / "snapshots").iterdir(), *(run / "samples").iterdir())):
        found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    for record in records(run):
        digest = record["provenance"]["snapshot_sha256"]
        found[f"scores of {record['snapshot']}"] = f"{record['swd']} {record['diversity']} {digest}"
    return found


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps and three snapshots."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    train(run)
    return run


# ----- Names -----


def test_names_are_unique_to_the_image_and_sort() -> None:
    kimg = [0, 0.05, 0.1, 0.999, 1, 1.024, 1.5, 2, 12.345, 999.999, 1000, 123456.789]
    names = [snapshot_name(value) for value in kimg]
    assert len(set(names)) == len(names)
    assert sorted(names) == names
    assert [images_in_name(Path(name)) for name in names] == [round(value * 1000) for value in kimg]
    # Whole thousands are named as the authors name them, and as earlier versions did.
    assert snapshot_name(5000) == "network-snapshot-005000.safetensors"


def test_snapshots_of_earlier_versions_sort_among_the_new_ones(tmp_path: Path) -> None:
    """Also numbers that have outgrown their digits, and names that a user has given."""
    names = ["network-snapshot-best.safetensors"]
    names += [f"network-snapshot-{name}.safetensors" for name in ("000009", "000010", "000010_500", "000011")]
    names += [f"network-snapshot-{name}.safetensors" for name in ("999999", "1000000")]
    (tmp_path / "snapshots").mkdir()
    for name in reversed(names):
        (tmp_path / "snapshots" / name).touch()
    assert [path.name for path in snapshots_of(tmp_path)] == names


@pytest.mark.slow
def test_snapshots_and_grids_of_less_than_a_kimg_do_not_overwrite_each_other(undisturbed: Path) -> None:
    assert [path.name for path in snapshots_of(undisturbed)] == [snapshot_name(kimg) for kimg in (0, 0.008, 0.016)]
    grids = {path.name for path in (undisturbed / "samples").iterdir()}
    assert {"fakes-000000.png", "fakes-000000_008.png", "fakes-000000_016.png"} <= grids
    assert {"attention-000000.png", "attention-000000_008.png", "attention-000000_016.png"} <= grids
    for record, path in zip(records(undisturbed), snapshots_of(undisturbed), strict=True):
        assert record["snapshot"] == path.name
        assert record["provenance"]["snapshot_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.slow
def test_a_stop_keeps_the_scored_snapshot_as_it_was(tmp_path: Path, undisturbed: Path) -> None:
    """One step behind it, within the same kimg."""
    train(tmp_path / "run", stop=3)
    names = [path.name for path in snapshots_of(tmp_path / "run")]
    assert names == [snapshot_name(kimg) for kimg in (0, 0.008, 0.012)]
    found, expected = content(tmp_path / "run"), content(undisturbed)
    for name in (snapshot_name(0.008), "fakes-000000_008.png", f"scores of {snapshot_name(0.008)}"):
        assert found[name] == expected[name]


@pytest.mark.slow
def test_the_newest_grid_alone_where_only_that_is_wanted(tmp_path: Path) -> None:
    result = train(tmp_path / "run", keep_samples=False, metrics="none")
    left = sorted(path.name for path in (tmp_path / "run/samples").iterdir())
    assert left == ["attention-000000_016.png", "fakes-000000_016.png", "latest.png", "reals.png"]
    latest = (tmp_path / "run/samples/latest.png").read_bytes()
    assert latest == (tmp_path / "run/samples/fakes-000000_016.png").read_bytes()
    assert result.samples.name == "fakes-000000_016.png"


@pytest.mark.slow
def test_a_program_that_shows_the_latest_grid_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def held(source: Path, target: Path) -> None:
        if Path(target).name == "latest.png" and Path(target).exists():
            raise PermissionError(13, "Access is denied")
        replace(source, target)

    monkeypatch.setattr(os, "replace", held)
    messages: list[str] = []
    result = train(tmp_path / "run", metrics="none", messages=messages)
    assert result.finished
    assert any("latest.png" in line and "the next snapshot" in line for line in messages)


# ----- The best -----


def scoring(run: Path, metrics: str = "swd") -> Scoring:
    config = resolve_run({**TINY, "metrics": metrics}, dataset_preset={}, on_cpu=True)
    return Scoring(config.train, small_pictures(8, 16), run, CPU, lambda text: None)


def scored_run(run: Path, values: dict[float, float], **conditions: Any) -> None:
    """Snapshots that are no networks, and scores of them."""
    (run / "snapshots").mkdir(parents=True, exist_ok=True)
    for kimg, value in values.items():
        path = run / "snapshots" / snapshot_name(kimg)
        path.write_bytes(f"weights {kimg}".encode())
        provenance = {"snapshot_sha256": hashlib.sha256(path.read_bytes()).hexdigest(), **conditions}
        line = {"snapshot": path.name, "kimg": kimg, "by": "training", "swd": value, "provenance": provenance}
        with (run / "metrics.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")


def test_a_score_of_other_weights_makes_no_best(tmp_path: Path) -> None:
    scored_run(tmp_path, {0.1: 5.0, 0.2: 1.0, 0.3: 3.0})
    best = scoring(tmp_path).best()
    assert best is not None
    assert best[0].name == snapshot_name(0.2)
    best[0].write_bytes(b"other weights")
    best = scoring(tmp_path).best()
    assert best is not None
    assert best[0].name == snapshot_name(0.3)


@pytest.mark.slow
@pytest.mark.parametrize("metrics", ["diversity", "none"])
def test_thinning_out_never_takes_the_best(tmp_path: Path, metrics: str) -> None:
    """Nor where the run goes on with other metrics, or scores that do not compare with those before."""
    run = tmp_path / "run"
    train(run, metrics="none", last_snapshots=1, total_kimg=0.008)
    scored_run(run, {0.001: 5.0, 0.002: 1.0}, num_fakes=100)
    scored_run(run, {0.003: 9.0, 0.004: 2.0}, num_fakes=200)
    (run / "snapshots" / "network-snapshot-mine.safetensors").touch()
    train(run, resume=True, metrics=metrics, last_snapshots=1)
    left = {path.name for path in snapshots_of(run)}
    always = {snapshot_name(0.002), snapshot_name(0.004), snapshot_name(0.016), "network-snapshot-mine.safetensors"}
    assert always <= left
    assert not left & {snapshot_name(0.001), snapshot_name(0.003)}


# ----- A kill between state, grid and scores -----


class Killed(BaseException):
    """Ends a run at once: nothing catches it."""


def killed(*_: Any, **__: Any) -> None:
    raise Killed


#: What comes next when the run is killed.
MOMENTS: dict[str, tuple[Any, str]] = {
    "before the state": (Checkpointer, "save_state"),
    "before the grids": (SampleGrids, "save_fakes"),
    "before the scores": (Scoring, "score"),
    "before the record": (Scoring, "_write"),
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("images", [0, 16])
def test_a_kill_between_the_pieces_of_a_snapshot_costs_none(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, moment: str, images: int
) -> None:
    """At the beginning and at the end of the run, which is not "finished" without them."""
    owner, name = MOMENTS[moment]
    whole = getattr(owner, name)

    def kill_at(self: Any, *given: Any, **more: Any) -> Any:
        if current[0].counters.images_seen == images:
            raise Killed
        return whole(self, *given, **more)

    current: list[Checkpointer] = []
    begin = Checkpointer.complete

    def remembered(self: Checkpointer) -> dict[str, float]:
        current.append(self)
        return begin(self)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpointer, "complete", remembered)
        patch.setattr(owner, name, kill_at)
        with pytest.raises(Killed):
            train(tmp_path / "run")
    messages: list[str] = []
    result = train(tmp_path / "run", resume=True, messages=messages)
    assert result.finished
    assert content(tmp_path / "run") == content(undisturbed)
    lines = (tmp_path / "run/log.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["kimg"] for line in lines] == [0.016]
    if moment != "before the state":
        assert any("made again" in line for line in messages), messages


def remove_everything(run: Path) -> None:
    shutil.rmtree(run / "snapshots")
    shutil.rmtree(run / "samples")


def remove_grid(run: Path) -> None:
    (run / "samples/fakes-000000_016.png").unlink()


def remove_scores(run: Path) -> None:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    # The last one is half written, too.
    (run / "metrics.jsonl").write_text("".join(lines[:-1]) + lines[-1][:40], encoding="utf-8", newline="\n")


@pytest.mark.slow
@pytest.mark.parametrize("remove", [remove_everything, remove_grid, remove_scores])
def test_what_is_missing_of_a_finished_run_is_made_again_and_told(
    tmp_path: Path, undisturbed: Path, remove: Callable[[Path], None]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    remove(run)
    messages: list[str] = []
    result = train(run, resume=True, messages=messages)
    assert result.finished
    assert any("missing at 0.016 kimg, and made again: " in line for line in messages), messages
    expected = content(undisturbed)
    if remove is remove_everything:  # the newest one is what the state can give
        last = {"reals.png", "latest.png", "fakes-000000_016.png", "attention-000000_016.png", snapshot_name(0.016)}
        expected = {name: value for name, value in expected.items() if name in last or name.startswith("scores")}
    assert content(run) == expected
    messages.clear()
    train(run, resume=True, messages=messages)
    assert not any("made again" in line for line in messages), messages


@pytest.mark.slow
def test_a_stop_at_a_snapshot_leaves_its_scores_for_later(tmp_path: Path, undisturbed: Path) -> None:
    train(tmp_path / "run", stop=2)
    assert [record["kimg"] for record in records(tmp_path / "run")] == [0]
    assert train(tmp_path / "run", resume=True).finished
    assert content(tmp_path / "run") == content(undisturbed)


@pytest.mark.slow
def test_a_state_of_an_earlier_version_goes_on_and_gets_its_snapshot_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = training_state.save_state
    with monkeypatch.context() as patch:
        patch.setattr(training_state, "save_state", lambda *given, scored_snapshot, **more: save(*given, **more))
        train(tmp_path / "run")
    messages: list[str] = []
    train(tmp_path / "run", resume=True, messages=messages)
    assert not any("made again" in line for line in messages), messages
    shutil.rmtree(tmp_path / "run/snapshots")
    result = train(tmp_path / "run", resume=True, messages=messages)
    assert result.snapshot.name == snapshot_name(0.016)
    assert any("made again" in line for line in messages), messages


# ----- Mapped files -----


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_no_file_of_a_run_stays_mapped(tmp_path: Path) -> None:
    """Windows does not let anybody replace or delete a file that is mapped into memory."""
    run = tmp_path / "run"
    train(run, stop=1)
    found = training_state.read_state(training_state.states_of(run)[-1])
    tensors = snapshots.read_tensors(snapshots_of(run)[-1])
    generator = snapshots.load_snapshot(run)
    config = resolve_run(TINY, dataset_preset={}, on_cpu=True)
    trainer = open_run(
        config, small_pictures(8, 16), run, device=CPU, resume=True
    )  # fmt: skip
    assert found.tensors
    assert tensors
    assert generator is not None
    assert trainer.checkpointer.restored
    assert os.fspath(run) not in Path("/proc/self/maps").read_text(encoding="utf-8")


@pytest.mark.slow
def test_what_a_kill_left_half_written_goes(undisturbed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    parts = [run / folder / ".something.1a2b.part" for folder in ("", "snapshots", "samples", "state")]
    for path in parts:
        path.write_bytes(b"half")
    assert train(run, resume=True).finished
    assert not [path for path in parts if path.exists()]
    assert content(run) == content(undisturbed)
