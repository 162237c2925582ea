"""What commands print is harmless on a terminal, whatever names and labels other people chose."""

from __future__ import annotations

import ast
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from ganformer_cli.cli.output import cell, echo, echo_json, echo_table, table_text
from ganformer_cli.cli.progress import ProgressBar
from ganformer_cli.text import printable

CLI = Path(__file__).resolve().parent.parent / "ganformer_cli" / "cli"
#: A new title for the window, red text, a C1 sequence, a mark of direction.
EVIL = "\x1b]0;owned\x07\x1b[31m\x9b2J\u202eexe"
SHOWN = r"\x1b]0;owned\x07\x1b[31m\x9b2J\u202eexe"


def harmless(text: str) -> bool:
    return text == printable(text, limit=None, lines=True)


def test_commands_print_through_one_module_only() -> None:
    calls = {
        (path.name, ast.unparse(node))
        for path in CLI.glob("*.py")
        if path.name != "output.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in {"click.echo", "click.secho", "print", "sys.stdout.write", "sys.stderr.write"}
    }
    assert calls == {("options.py", "click.echo(ctx.get_help(), color=ctx.color)")}


def test_foreign_text_stays_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    echo(f"{EVIL}\nforged: a line")
    echo(f"{cell(EVIL)}\n{cell('a' + chr(10) + 'b')}", lines=True)
    assert capsys.readouterr().out == f"{SHOWN}\\nforged: a line\n{SHOWN}\na\\nb\n"


def test_json_is_harmless_and_keeps_its_values(capsys: pytest.CaptureFixture[str]) -> None:
    value = {EVIL: [f"a\n{EVIL}\ufeff", "Gesicht ä 顔"]}
    for ascii in (True, False):
        echo_json(value, ascii=ascii)
        said = capsys.readouterr().out
        assert harmless(said)
        assert json.loads(said) == value
    assert "ä 顔" in said


def test_a_table_as_text_holds_no_foreign_sequences() -> None:
    text = table_text(("score", "value", ""), [("fid", "1", EVIL), ("[red]x[/red]", "2", "a\nb")], title=EVIL)
    assert SHOWN in text.splitlines()[0]
    assert "[red]x[/red]" in text
    assert r"a\nb" in text
    for sequence in ("\x1b]", "\x07", "\x1b[31m", "\x9b", "\u202e"):
        assert sequence not in text


@pytest.mark.parametrize("terminal", [True, False])
def test_a_printed_table_holds_no_foreign_sequences(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("TERM", "xterm")
    echo_table(("score", "value"), [("[red]x[/red]", EVIL), ("a\nb", ("two", "lines"))], title=EVIL)
    said = stream.getvalue()
    for text in ("score", "[red]x[/red]", SHOWN, r"a\nb", "two", "lines"):
        assert text in said
    for sequence in ("\x1b]", "\x07", "\x1b[31m", "\x9b", "\u202e"):
        assert sequence not in said


def test_a_table_in_a_pipe_is_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    echo_table(("name", "value", ""), [("fid", "1.5", ("of 10", "of 20")), ("diversity", "12", "")], right=("value",))
    assert capsys.readouterr().out == (
        "name       value\nfid          1.5  of 10\n                  of 20\ndiversity     12\n"
    )


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_shows_no_foreign_sequences(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: terminal)
    monkeypatch.setenv("TERM", "xterm")
    with ProgressBar(stream, seconds_between_lines=0) as progress:
        progress.message(EVIL)
        progress.start(2, "images", f"reading {EVIL}")
        progress.update(1, behind=EVIL)
        progress.message(f"{EVIL}\nforged")
    said = stream.getvalue()
    assert r"\x1b]0;owned\x07" in said
    for sequence in ("\x1b]", "\x07", "\x1b[31m", "\x9b", "\u202e", "\nforged"):
        assert sequence not in said


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such names")
def test_names_of_files_and_classes_are_spelled_out(ganformer: Callable[..., Result]) -> None:
    for name in ("a" + EVIL, "b\nforged: a line"):
        folder = Path("images", name)
        folder.mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "a.png")
        (folder / f"{name}.png").write_bytes(b"no image")
        (folder / f"{name}.txt").write_bytes(b"no image")
    done = ganformer("prepare", "images", "--task", "set", "--labels", "folders", "--resolution", "8")
    assert done.exit_code == 0, done.output
    assert harmless(done.output)
    assert SHOWN in done.output
    assert "\nforged" not in done.output
    for name in ("manifest.json", "skipped.jsonl"):
        path = Path("datasets", "set", name)
        assert not path.exists() or harmless(path.read_text(encoding="utf-8"))


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="file systems of text have no such names")
def test_names_that_are_no_text_are_prepared_all_the_same(ganformer: Callable[..., Result]) -> None:
    for label in ("a\udcff", "b"):
        folder = Path("images", label)
        folder.mkdir(parents=True)
        pixels = np.full((8, 8, 3), len(label), np.uint8)
        Image.fromarray(pixels).save("p.png")
        Path("p.png").replace(folder / "p\udcfe.png")
        (folder / "q\udcfe.png").write_bytes(b"no image")
    for line in (
        ("prepare", "images", "--task", "set", "--labels", "folders", "--resolution", "8"),
        ("prepare", "--verify", "set"),
    ):
        done = ganformer(*line)
        assert done.exit_code == 0, done.output
        assert harmless(done.output)
    manifest = json.loads(Path("datasets", "set", "manifest.json").read_text(encoding="utf-8"))
    assert manifest["labels"]["names"] == ["a\\udcff", "b"]


@pytest.mark.parametrize(
    "words",
    [
        ("info", EVIL),
        ("info", f"{EVIL}.png"),
        ("convert", EVIL, f"{EVIL}.safetensors"),
        ("generate", "--model", EVIL),
        ("prepare", EVIL),
        ("prepare", "--verify", EVIL),
        ("train", "--dataset", EVIL, "--dry-run"),
        ("train", f"--{EVIL}"),
        ("train", "--gamma", EVIL),
        (EVIL,),
        ("compare", EVIL),
        ("eval", "--images", EVIL, "--reals", EVIL, "--metrics", "swd"),
        ("bench", "--only", EVIL),
        ("build-ops", "--cuda-arch", EVIL),
    ],
    ids=lambda words: " ".join(words).replace(EVIL, "EVIL"),
)
def test_errors_spell_names_out_on_one_line(ganformer: Callable[..., Result], words: tuple[str, ...]) -> None:
    done = ganformer(*words)
    assert done.exit_code in (1, 2)
    assert isinstance(done.exception, SystemExit)
    assert harmless(done.output)
    assert len(done.output.splitlines()) <= 2


def test_a_long_name_does_not_fill_the_screen(ganformer: Callable[..., Result]) -> None:
    done = ganformer("info", "x" * 100_000)
    assert done.exit_code == 1
    assert len(done.output) < 5000
