"""Signals to stop: what asks for it, once and again, and that a terminal which goes away costs nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ganformer_cli.stop_signals import (
    StopSignal,
    as_interrupts,
    held_back,
    leave_to_parent,
    signals_named,
    stop_requested,
)

STOPS = signals_named("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGBREAK")


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Every test leaves the signals as it found them; none is ignored, as SIGHUP is under nohup and SIGINT behind &."""
    before = {number: signal.getsignal(number) for number in STOPS}
    for number in signals_named("SIGHUP", "SIGBREAK"):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", STOPS, ids=lambda number: number.name)
def test_the_first_signal_asks_and_acts_no_more(number: signal.Signals) -> None:
    said: list[str] = []
    outside = {each: signal.getsignal(each) for each in STOPS}
    with stop_requested(lambda: said.append("stopping")) as should_stop:
        assert not should_stop()
        signal.raise_signal(number)
        assert should_stop()
        assert said == ["stopping"]
    assert {each: signal.getsignal(each) for each in STOPS} == outside


@pytest.mark.parametrize("number", signals_named("SIGHUP", "SIGBREAK"), ids=lambda number: number.name)
def test_a_closed_terminal_may_ask_twice(number: signal.Signals) -> None:
    said: list[str] = []
    with stop_requested(lambda: said.append("stopping")) as should_stop:
        for _ in range(3):
            signal.raise_signal(number)
        assert should_stop()
    assert said == ["stopping"]


def test_a_second_interrupt_acts_at_once() -> None:
    with stop_requested(lambda: None) as should_stop:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert should_stop()


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
def test_nohup_is_respected() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with stop_requested(lambda: None) as should_stop:
        signal.raise_signal(signal.SIGHUP)
        assert not should_stop()
    with as_interrupts():
        signal.raise_signal(signal.SIGHUP)


@pytest.mark.parametrize("number", signals_named("SIGTERM", "SIGHUP", "SIGBREAK"), ids=lambda number: number.name)
def test_other_commands_end_as_after_an_interrupt(number: signal.Signals) -> None:
    with pytest.raises(StopSignal) as error, as_interrupts():
        signal.raise_signal(number)
    assert error.value.status == 128 + number


def test_workers_leave_the_terminal_to_their_parent() -> None:
    leave_to_parent()
    for number in signals_named("SIGINT", "SIGHUP", "SIGBREAK"):
        signal.raise_signal(number)


#: Asks the terminal for nothing, says something all the time, and saves when it is to stop.
PROGRAM = """
import sys, time
from pathlib import Path
from ganformer_cli.stop_signals import stop_requested

with stop_requested(lambda: print("stopping", flush=True)) as should_stop:
    Path("ready").touch()
    for _ in range(2000):
        if should_stop():
            break
        time.sleep(0.01)
for stream in (sys.stdout, sys.stderr):
    print("saving", file=stream, flush=True)
Path("saved").write_text(str(should_stop()))
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pseudo-terminals in the standard library")
@pytest.mark.parametrize("piped", [False, True], ids=["terminal", "pipe"])
def test_a_terminal_that_is_closed_asks_to_stop_and_hinders_nothing(checkout: Path, piped: bool) -> None:
    import pty

    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["PYTHONPATH"] = str(checkout)
        words = [sys.executable, "-c", PROGRAM]
        if piped:  # what reads it is gone with the terminal
            words = ["sh", "-c", '"$0" -c "$1" | head -c 1', sys.executable, PROGRAM]
        os.execvp(words[0], words)
    deadline = time.monotonic() + 60
    while not Path("ready").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.close(terminal)
    os.waitpid(pid, 0)
    while not Path("saved").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert Path("saved").read_text(encoding="utf-8") == "True"


#: Gets an event as the system hands it to a process of a console: in a thread, through all handlers that it has set.
CONSOLE_PROGRAM = """
import ctypes, sys, threading, time
from ganformer_cli.stop_signals import stop_requested

with stop_requested(lambda: print("stopping", flush=True)) as should_stop:
    event = ctypes.c_void_p(int(sys.argv[1]))
    threading.Thread(target=ctypes.windll.kernelbase.CtrlRoutine, args=(event,), daemon=True).start()
    for _ in range(2000):
        if should_stop():
            break
        time.sleep(0.01)
    time.sleep(0.1)
    print("saved", should_stop(), flush=True)
"""


@pytest.mark.skipif(os.name != "nt", reason="events of Windows' consoles")
@pytest.mark.parametrize(
    "event", [0, 1, 2, 5, 6], ids=["Ctrl-C", "Ctrl-Break", "console closed", "log-off", "shutdown"]
)
def test_events_of_a_console_ask_to_stop_and_wait(checkout: Path, event: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CONSOLE_PROGRAM, str(event)],
        cwd=checkout, capture_output=True, text=True, encoding="utf-8", timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["stopping", "saved", "True"], done.stderr


@pytest.mark.skipif(os.name == "nt", reason="terminate() on Windows ends a process without asking")
@pytest.mark.parametrize("number", signals_named("SIGTERM", "SIGHUP"), ids=lambda number: number.name)
def test_a_command_says_in_one_line_that_it_was_ended(checkout: Path, number: signal.Signals) -> None:
    program = (
        "import time, click\n"
        "from ganformer_cli.cli import main\n"
        "@click.command('try')\n"
        "def command():\n    click.echo('ready')\n    time.sleep(60)\n"
        "main.COMMANDS['try'] = ''\n"
        "main.Program.get_command = lambda *_: command\n"
        "main.main()\n"
    )
    started = subprocess.Popen(
        [sys.executable, "-c", program, "try"],
        cwd=checkout, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8",
    )  # fmt: skip
    assert started.stdout is not None
    assert started.stdout.readline() == "ready\n"
    started.send_signal(number)
    _, err = started.communicate(timeout=60)
    assert started.returncode == 128 + number
    assert err.strip() == f"ganformer try: ended by {number.name}"


@pytest.mark.skipif(os.name == "nt", reason="signals are held back on POSIX only")
def test_a_signal_that_comes_before_a_process_is_ready_is_not_lost_on_it() -> None:
    child = "from ganformer_cli.stop_signals import stop_requested\n"
    child += "with stop_requested(lambda: print('asked')) as stop:\n    assert stop()\n"
    with held_back("SIGUSR1"):
        process = subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE, text=True)
    process.send_signal(signal.SIGUSR1)  # long before Python has begun
    assert process.communicate()[0] == "asked\n"
    assert process.returncode == 0
    assert signal.SIGUSR1 not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
