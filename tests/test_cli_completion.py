"""The shell completes commands, options, and the names of what lies here."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from ganformer_cli.cli.main import program


def completed(line: str) -> list[str]:
    """What the last word of a line may become; the type where the shell completes it."""
    *words, incomplete = line.split(" ")
    items = ShellComplete(program, {}, "ganformer", "_GANFORMER_COMPLETE").get_completions(words, incomplete)
    return [item.value if item.type == "plain" else f"<{item.type}>" for item in items]


@pytest.fixture(autouse=True)
def folders(own_folder: Path) -> None:
    for run in ("results/faces-duplex-000", "results/faces-duplex-001", "other/cats-kmeans-000"):
        Path(run).mkdir(parents=True)
        Path(run, "config.json").write_text("{}", encoding="utf-8")
    Path("clips").mkdir()
    for folder in ("datasets/faces", "sets/dogs"):
        Path(folder).mkdir(parents=True)
        Path(folder, "manifest.json").write_text("{}", encoding="utf-8")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("tr", ["train"]),
        ("train --attention k", ["kmeans"]),
        ("train --total-", ["--total-kimg"]),
        ("train --dataset ", ["faces", "scenes"]),
        ("train --data-dir sets --dataset d", ["datasets", "dogs"]),
        ("eval --dataset f", ["faces"]),
        ("train --expname ", ["faces-duplex"]),
        ("generate --result-dir other --expname ", ["cats-kmeans"]),
        ("generate --model results/f", ["results/faces-duplex-000", "results/faces-duplex-001"]),
        ("generate --model gdrive:clevr", ["gdrive:clevr-snapshot.pkl"]),
        ("generate --model ./x", ["<file>"]),
        ("info results/faces-duplex-001", ["results/faces-duplex-001"]),
        ("train --init-from results/faces-duplex-000", ["results/faces-duplex-000"]),
        ("prepare c", ["cityscapes", "clevr", "clips"]),
        ("prepare clips/", ["<file>"]),
        ("eval --dataset s", ["scenes", "sets"]),
        ("prepare my-", ["<file>"]),
    ],
)
def test_names(line: str, words: list[str]) -> None:
    assert completed(line) == words
