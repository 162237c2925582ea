"""Where commands may write: nothing that is no file of theirs is lost, whatever ``--output`` names."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from ganformer_cli import outputs
from ganformer_cli.errors import OutputError
from ganformer_cli.files import replace, write_bytes
from ganformer_cli.outputs import check_output, write_output

posix = pytest.mark.skipif(sys.platform == "win32", reason="named pipes, devices and links are POSIX's")


def test_a_new_file_is_written_and_its_folders_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "table.csv"
    check_output(path, "--output")
    write_output(path, b"new", "--output")
    assert path.read_bytes() == b"new"


def test_a_file_is_replaced_when_that_is_said(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(b"precious")
    with pytest.raises(OutputError, match=r"^--output .*table\.csv: exists already; .*--overwrite"):
        check_output(path, "--output")
    with pytest.raises(OutputError, match="exists already"):
        write_output(path, b"new", "--output")
    assert path.read_bytes() == b"precious"
    write_output(path, b"precious", "--output")  # the very same
    write_output(path, b"new", "--output", overwrite=True)
    assert path.read_bytes() == b"new"
    path.write_bytes(b"")  # as mktemp leaves it
    write_output(path, b"newer", "--output")
    assert path.read_bytes() == b"newer"


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is a folder"):
        check_output(tmp_path, "--output", overwrite=True)
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(OutputError, match="a part of its path is a file|in the way"):
        write_output(tmp_path / "file" / "below", b"x", "--output")
    for name in ("a\0b", "x" * 5000):
        with pytest.raises(OutputError, match="cannot be written"):
            check_output(tmp_path / name, "--output")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


@posix
def test_a_socket_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # such names are short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("door")
        for action in (
            lambda: write_output(Path("door"), b"x", "--output", overwrite=True),
            lambda: write_bytes(Path("door"), b"x"),
        ):
            with pytest.raises(OutputError, match="a socket"):
                action()
        assert stat.S_ISSOCK(os.stat("door").st_mode)


@posix
def test_the_file_that_is_read_is_refused_by_whatever_name(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"weights")
    (tmp_path / "link").symlink_to(source)
    os.link(source, tmp_path / "hard")
    for name in ("source", "link", "hard", "../" + tmp_path.name + "/source"):
        with pytest.raises(OutputError, match="is one of the files that are read"):
            check_output(tmp_path / name, "", overwrite=True, inputs=[source])


@posix
def test_links_are_followed_and_stay(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    target = tmp_path / "real" / "table"
    target.write_bytes(b"old")
    link = tmp_path / "link"
    link.symlink_to(Path("real", "table"))
    os.link(target, tmp_path / "other name")
    with pytest.raises(OutputError, match="exists already"):
        write_output(link, b"new", "--output")
    write_output(link, b"new", "--output", overwrite=True)
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert (tmp_path / "other name").read_bytes() == b"old"
    link.unlink()
    link.symlink_to(Path("real", "made"))
    write_output(link, b"made", "--output")
    assert link.is_symlink()
    assert (tmp_path / "real" / "made").read_bytes() == b"made"
    link.unlink()
    link.symlink_to("link")
    with pytest.raises(OutputError):
        write_output(link, b"x", "--output", overwrite=True)
    assert link.is_symlink()


@posix
def test_devices_are_written_to_and_stay(tmp_path: Path) -> None:
    link = tmp_path / "null"
    link.symlink_to("/dev/null")
    for path in (Path("/dev/null"), link):
        write_output(path, b"x", "--output")
        write_output(path, b"x", "--output", overwrite=True)
        with pytest.raises(OutputError, match="a device"):
            write_bytes(path, b"x")
        made = tmp_path / "made"
        made.write_bytes(b"x")
    with pytest.raises(OutputError, match="a device"):
        replace(made, Path("/dev/null"))
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert link.is_symlink()


@posix
def test_pipes_are_written_to_and_stay(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    write_output(pipe, b"x" * 200_000, "--output")
    reader.join(10)
    assert got == [b"x" * 200_000]
    with pytest.raises(OutputError, match="a named pipe"):
        write_bytes(pipe, b"x")
    assert stat.S_ISFIFO(os.stat(pipe).st_mode)


@posix
def test_a_pipe_that_nobody_reads_does_not_hang(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(outputs, "SECONDS_FOR_A_READER", 0.1)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="nobody reads this pipe"):
        write_output(tmp_path / "pipe", b"x", "--output")


@posix
def test_a_redirected_stdout_is_written_to(tmp_path: Path) -> None:
    words = "from pathlib import Path; from ganformer_cli.outputs import write_output as w; "
    words += "w(Path('/dev/stdout'), b'table', '--output')"
    with (tmp_path / "said").open("wb") as said:
        kept = os.fstat(said.fileno()).st_ino
        subprocess.run([sys.executable, "-c", words], stdout=said, check=True, timeout=60)
    assert (tmp_path / "said").read_bytes() == b"table"
    assert (tmp_path / "said").stat().st_ino == kept
    done = subprocess.run([sys.executable, "-c", words], stdout=subprocess.PIPE, check=True, timeout=60)
    assert done.stdout == b"table"


@pytest.mark.parametrize(
    "words",
    [
        ("compare", "--output", "precious"),
        ("compare", "--plot", "precious.png"),
        ("bench", "--quick", "--only", "operators", "--output", "precious"),
        ("convert", "results/exp-000", "precious.safetensors"),
    ],
    ids=lambda words: words[0] + words[-1],
)
def test_every_command_asks_before_it_replaces(
    ganformer: Callable[..., Result], tiny_run: Path, words: tuple[str, ...]
) -> None:
    path = Path(words[-1])
    path.write_bytes(b"precious")
    done = ganformer(*words)
    assert done.exit_code == 1
    assert f"{path}: exists already; give another name, or --overwrite" in done.stderr
    assert path.read_bytes() == b"precious"


def test_a_snapshot_is_not_converted_onto_itself(ganformer: Callable[..., Result], tiny_run: Path) -> None:
    snapshot = next((tiny_run / "snapshots").glob("*.safetensors"))
    before = snapshot.read_bytes()
    done = ganformer("convert", snapshot, snapshot, "--ema-only", "--overwrite")
    assert done.exit_code == 1
    assert "is one of the files that are read" in done.stderr
    assert snapshot.read_bytes() == before
