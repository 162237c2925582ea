"""Damaged small files of a run: named by file and line, never a traceback, and nothing whole is lost with them."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from ganformer_cli.checkpoints import headers, run_folder, snapshots, training_state
from ganformer_cli.checkpoints.run_folder import append_record, forget_records_after, read_run_config
from ganformer_cli.config import resolve_run
from ganformer_cli.errors import ConfigError, DataError, SnapshotError
from ganformer_cli.metrics.records import is_finite_number, read_records

Run = Callable[..., Result]

#: What a line or a file may hold instead of what belongs there.
DAMAGE: dict[str, bytes] = {
    "a wrong byte": b'{"kimg": 1, "swd": \xff2}',
    "no text": bytes(range(128, 190)),
    "zeros": b"\0" * 40,
    "half": b'{"kimg": 1, "sw',
    "null": b"null",
    "a list": b"[1, 2]",
    "a number": b"5",
    "deep": b'{"kimg": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "half of deep": b"[" * 100_000,
    "huge": b'{"kimg": ' + b"9" * 5000 + b"}",
    "long": b'{"kimg": 1' + b" " * (5 << 20) + b"}",
}
damages = pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)


def lines_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# ----- Logs -----


@damages
def test_a_damaged_line_of_a_log_is_named_and_stays(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "log.jsonl"
    before, behind = b'{"kimg": 1}\n', b'{"kimg": 2}\n'
    path.write_bytes(before + damage + b"\n" + behind + b'{"kimg": 3}\n')
    messages: list[str] = []
    forget_records_after(path, 2, messages.append)
    assert path.read_bytes() == before + damage + b"\n" + behind
    assert len(messages) == 1
    assert messages[0].startswith(f"{path}, line 2: ")
    assert "is left unchanged" in messages[0]
    assert len(messages[0]) < 500


@pytest.mark.parametrize("value", [b"null", b'"x"', b"[]", b"true", b"NaN"])
def test_a_line_without_a_number_of_kimg_stays(tmp_path: Path, value: bytes) -> None:
    path = tmp_path / "log.jsonl"
    data = b'{"kimg": ' + value + b', "a": 1}\n'
    path.write_bytes(data)
    messages: list[str] = []
    forget_records_after(path, 0, messages.append)
    assert path.read_bytes() == data
    assert messages == [f"{path}, line 1: kimg is not a number; the line is left unchanged"]


def test_half_a_last_line_is_cut_off_and_a_whole_one_kept(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    messages: list[str] = []
    for end, kept in ((b'{"kimg": 2, "lo', [1]), (b'{"kimg": 2}', [1, 2]), (b'{"kimg": 9}', [1])):
        path.write_bytes(b'{"kimg": 1}\n' + end)
        forget_records_after(path, 2, messages.append)
        assert [line["kimg"] for line in lines_of(path)] == kept
        path.write_bytes(b'{"kimg": 1}\n' + end)
        append_record(path, {"kimg": 3})
        assert lines_of(path)[-1] == {"kimg": 3}
        assert lines_of(path)[0] == {"kimg": 1}
    assert messages == []


def test_what_somebody_evaluated_is_not_forgotten(tmp_path: Path) -> None:
    """Only what the run writes again."""
    path = tmp_path / "metrics.jsonl"
    lines = [{"kimg": 1, "by": "training"}, {"kimg": 5, "by": "training"}, {"kimg": 5, "swd": 1.0}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    forget_records_after(path, 1, lambda text: None, ours=lambda record: record.get("by") == "training")
    assert lines_of(path) == [lines[0], lines[2]]


# ----- Scores -----


@damages
def test_a_damaged_line_of_scores_is_named_and_the_others_read(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"kimg": 1}\n' + damage + b'\n{"kimg": 2, "swd": NaN}\n')
    messages: list[str] = []
    assert [record["kimg"] for record in read_records(path, messages.append)] == [1, 2]
    assert [text.startswith(f"{path}, line 2: ") for text in messages] == [True]
    with pytest.raises(DataError, match="line 2: "):
        read_records(path)


def test_the_half_line_of_a_run_that_was_killed_is_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"kimg": 1}\n{"kimg": 2, "sw')
    assert [record["kimg"] for record in read_records(path)] == [1]


@damages
def test_an_answer_of_eval_that_is_damaged(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "scores.json"
    path.write_bytes(b'{\n"swd": 1,\n' + damage + b"\n}")
    with pytest.raises(DataError, match=r"scores\.json, line \d"):
        read_records(path)


def test_whole_numbers_beyond_floats_are_no_scores() -> None:
    assert not is_finite_number(10**400)
    assert not is_finite_number(True)
    assert is_finite_number(10**18)


@pytest.fixture
def scored(tiny_run: Path) -> Path:
    """A run whose settings can be read, and three scores of it."""
    config = resolve_run({"resolution": 32, "total_kimg": 2}, dataset_preset={}, on_cpu=True)
    (tiny_run / "config.json").write_text(json.dumps(config.to_dict()), encoding="utf-8")
    names = [path.name for path in run_folder.snapshots_of(tiny_run)]
    lines = [{"snapshot": name, "kimg": 1, "swd": 2.0, "by": "training", "provenance": {}} for name in names]
    (tiny_run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return tiny_run


@pytest.mark.parametrize("words", ["compare", "info", "eval --compare RUN"])
def test_commands_name_the_line_and_go_on(ganformer: Run, scored: Path, words: str) -> None:
    with (scored / "metrics.jsonl").open("ab") as stream:
        stream.write(DAMAGE["deep"] + b"\n" + DAMAGE["a wrong byte"] + b"\n")
    result = ganformer(*(str(scored) if word == "RUN" else word for word in words.split()), scored)
    assert result.exit_code == 0, result.output
    assert "swd" in result.stdout.lower()
    for line in (3, 4):
        assert f"metrics.jsonl, line {line}: " in result.stderr
    assert "Traceback" not in result.output


# ----- Settings -----


@damages
def test_damaged_settings_of_a_run(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "config.json").write_bytes(damage)
    with pytest.raises(ConfigError, match=r"config\.json") as error:
        read_run_config(tmp_path)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("model", "resolution", None),
        ("model", "resolution", 2**63),
        ("model", "mapping_num_layers", 10**9),
        ("model", "ratio", 10**400),
        ("model", "attention", ["duplex"]),
        ("model", "no such thing", 1),
        ("train", "batch_size", 4.5),
        ("train", "batch_size", -1),
        ("train", "g_lr", 10**400),
        ("train", "gamma", "x" * 100_000),
        ("train", "seed", True),
    ],
)
def test_impossible_settings_of_a_run(tmp_path: Path, part: str, name: str, value: Any) -> None:
    values = resolve_run({"resolution": 32}, dataset_preset={}, on_cpu=True).to_dict()
    values[part][name] = value
    (tmp_path / "config.json").write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"config\.json") as error:
        read_run_config(tmp_path)
    assert len(str(error.value)) < 1000


def test_settings_that_are_damaged_touch_nothing(ganformer: Run, scored: Path) -> None:
    run = Path("results/exp-000")
    if not run.exists():
        shutil.copytree(scored, run)
    (run / "config.json").write_bytes(DAMAGE["half"])
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    result = ganformer("train", "--expname", "exp", "--total-kimg", "0.004", "--train-images-num", "8")
    assert result.exit_code == 1
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert "config.json" in result.stderr
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_run_without_settings_is_told_and_left_alone(ganformer: Run, scored: Path) -> None:
    run = Path("results/exp-000")
    if not run.exists():
        shutil.copytree(scored, run)
    (run / "config.json").unlink()
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    result = ganformer("train", "--expname", "exp", "--total-kimg", "0.004", "--train-images-num", "8")
    assert result.exit_code == 1
    assert "config.json is missing" in result.stderr
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


# ----- Headers -----


def with_header(path: Path, text: str) -> None:
    """Replace the JSON that our files carry, and keep the tensors."""
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"][headers.METADATA_KEY] = text
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + data[8 + size :])


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "{}", '{"format": true}', '{"format": 0}', '{"format": -1}', "[" * 100_000, '{"format": 1e999}'],
    ids=lambda text: text[:16],
)
def test_a_damaged_header(tiny_run: Path, text: str) -> None:
    path = run_folder.snapshots_of(tiny_run)[-1]
    with_header(path, text)
    with pytest.raises(SnapshotError, match="header") as error:
        headers.read_header(path)
    assert path.name in str(error.value)
    assert len(str(error.value)) < 500


IMPOSSIBLE: dict[str, list[Any]] = {
    "images_seen": [-1, 2**53, 10**400, True, None, "3", [], 1.5],
    "seconds": [-1.0, float("inf"), float("nan"), True, None, "3"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in IMPOSSIBLE.items() for value in values])
def test_counters_that_cannot_be(tmp_path: Path, name: str, value: Any) -> None:
    counters = {**vars(training_state.Counters()), name: value}
    path = tmp_path / "training-state-000000000.safetensors"
    snapshots.save_tensors(path, {}, {"counters": counters, "identity": {}, "sha256": training_state.digest({})})
    with pytest.raises(SnapshotError, match=r"training-state.*(counters|header)"):
        training_state.read_state(path)
