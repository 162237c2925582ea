"""The program around the commands: quick help, errors in one line, statuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from collections.abc import Callable

import click
import pytest
from click.testing import Result

from ganformer_cli import __version__
from ganformer_cli.cli import main as main_module
from ganformer_cli.cli.main import COMMANDS
from ganformer_cli.cli.options import GroupedCommand, option
from ganformer_cli.errors import DataError

Run = Callable[..., Result]
HEAVY = ("torch", "numpy", "PIL", "rich", "safetensors", "scipy")


def python(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}  # on Windows a pipe has the code page of the country
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, encoding="utf-8", env=environment)


@pytest.fixture
def add_command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Makes a function the body of the command ``ganformer try``, which has an option ``--size``."""

    def add(body: Callable[[], object]) -> None:
        @click.command("try", cls=GroupedCommand)
        @option("--size", type=int, default=1, help="A number.")
        def command(size: int) -> None:
            body()

        module = types.ModuleType("ganformer_cli.cli.try")
        module.command = command  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(main_module.COMMANDS, "try", "Try something.")

    return add


def test_help_loads_nothing_heavy() -> None:
    """One process shows the help of the program and of every command, and says after each what is loaded by then."""
    ask = (
        "import sys\n"
        "from ganformer_cli.cli.main import program\n"
        "for name in sys.argv[1:]:\n"
        "    program([*name.split(), '--help'], standalone_mode=False)\n"
        f"    loaded = [heavy for heavy in {HEAVY} if heavy in sys.modules]\n"
        "    sys.exit(f'{name} loads {loaded}') if loaded else None\n"
    )
    done = python("-c", ask, "", *COMMANDS)
    assert (done.returncode, done.stderr.strip()) == (0, "")
    assert done.stdout.count("Usage:") == 1 + len(COMMANDS)


def test_import_of_the_package_loads_nothing_heavy() -> None:
    ask = f"import sys, ganformer_cli; dir(ganformer_cli); sys.exit(any(name in sys.modules for name in {HEAVY}))"
    assert python("-c", ask).returncode == 0


def test_help_names_every_command(ganformer: Run) -> None:
    done = ganformer("--help")
    assert done.exit_code == 0
    assert all(name in done.stdout and text in done.stdout for name, text in COMMANDS.items())


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_explains_itself(ganformer: Run, name: str) -> None:
    done = ganformer(name, "--help")
    assert done.exit_code == 0
    assert f"Usage: ganformer {name}" in done.stdout
    assert ganformer(name, "-h").stdout == done.stdout


def test_module_is_the_program() -> None:
    done = python("-m", "ganformer_cli", "--version")
    assert (done.returncode, done.stdout.strip()) == (0, f"ganformer, version {__version__}")


def test_package_exports_what_it_lists() -> None:
    import ganformer_cli

    assert all(getattr(ganformer_cli, name) is not None for name in ganformer_cli.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        ganformer_cli.no_such_name  # noqa: B018


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "ganformer: error: no such command 'trian': did you mean 'train'? (see ganformer --help)"),
        (["xyz"], "no such command 'xyz': choose one of prepare, train, generate, eval"),
        (["--gpus", "0", "train"], "ganformer: error: No such option '--gpus'"),
    ],
)
def test_wrong_program_lines(ganformer: Run, words: list[str], message: str) -> None:
    done = ganformer(*words)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_nothing_asked_shows_help_and_is_no_success(ganformer: Run) -> None:
    done = ganformer()
    assert done.exit_code == 2
    assert "Commands:" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sise", "3"], "ganformer try: error: No such option '--sise'. Did you mean '--size'? (see ganformer try"),
        (["--size", "big"], "ganformer try: error: Invalid value for '--size': 'big' is not a valid integer"),
        (["--size"], "ganformer try: error: Option '--size' requires an argument"),
        (["word"], "ganformer try: error: Got unexpected extra argument"),
    ],
)
def test_wrong_command_lines(ganformer: Run, add_command: Callable, words: list[str], message: str) -> None:
    add_command(lambda: None)
    done = ganformer("try", *words)
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def raising(error: BaseException) -> Callable[[], None]:
    def body() -> None:
        raise error

    return body


@pytest.mark.parametrize(
    ("error", "status", "stderr"),
    [
        (DataError("--dataset x: not there; make it"), 1, "ganformer try: error: --dataset x: not there; make it\n"),
        (DataError("first\nsecond"), 1, "ganformer try: error: first second\n"),
        (PermissionError(13, "Permission denied", "a.png"), 1, "ganformer try: error: a.png: Permission denied\n"),
        (click.UsageError("choose"), 2, "ganformer try: error: choose (see ganformer try --help)\n"),
        (click.ClickException("no"), 1, "ganformer try: error: no\n"),
        (KeyboardInterrupt(), 130, "\nganformer try: interrupted\n"),
    ],
)
def test_errors_of_a_command(
    ganformer: Run, add_command: Callable, error: BaseException, status: int, stderr: str
) -> None:
    add_command(raising(error))
    done = ganformer("try")
    assert (done.exit_code, done.stdout, done.stderr) == (status, "", stderr)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("could not create a primitive"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_memory_that_runs_out_is_a_line(ganformer: Run, add_command: Callable, error: BaseException) -> None:
    add_command(raising(error))
    done = ganformer("try")
    assert done.exit_code == 1
    assert done.stderr.startswith("ganformer try: error: out of memory")
    assert done.stderr.count("\n") == 1


def test_another_error_of_the_runtime_keeps_its_traceback(ganformer: Run, add_command: Callable) -> None:
    add_command(raising(RuntimeError("a bug")))
    assert isinstance(ganformer("try").exception, RuntimeError)


def test_a_bug_keeps_its_traceback(ganformer: Run, add_command: Callable) -> None:
    add_command(raising(ZeroDivisionError("a bug")))
    done = ganformer("try")
    assert done.exit_code == 1
    assert isinstance(done.exception, ZeroDivisionError)


@pytest.mark.skipif(os.name == "nt", reason="a pipe that nobody reads is another error on Windows")
def test_reader_that_leaves_early_is_no_noise() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as stdout:
        words = [sys.executable, "-m", "ganformer_cli", "--help"]
        done = subprocess.run(words, stdout=stdout, stderr=subprocess.PIPE, text=True)
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("latin-1", [b"->", b"v", b"\xe9", rb"\u65e5"]),
        ("cp437", [b"->", b"v", b"\x82", rb"\u65e5"]),
        ("utf-8", ["→".encode(), "↓".encode(), "é".encode(), "日".encode()]),
    ],
)
def test_narrow_console_spells_what_it_lacks_and_json_stays_json(encoding: str, shown: list[bytes]) -> None:
    say = (
        "from ganformer_cli.cli import main\n"
        "from ganformer_cli.cli.output import echo, echo_json\n"
        "def say(**_):\n    echo('\\u2192 \\u2193 \\u00e9 \\u65e5')\n"
        "    echo_json(['\\u65e5'], ascii=False, indent=None)\n"
        "main.program = say\n"
        "main.main()\n"
    )
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", say], env=environment, capture_output=True)
    *words, array = done.stdout.split()
    assert (done.returncode, words) == (0, shown)
    assert json.loads(array.decode("utf-8")) == ["日"]
