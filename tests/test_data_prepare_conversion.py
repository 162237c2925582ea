"""Converting in several processes: in order, little at a time, and with an end."""

from __future__ import annotations

import contextlib
import multiprocessing.connection
import multiprocessing.reduction
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ganformer_cli.data.images import Decoding
from ganformer_cli.data.prepare import conversion
from ganformer_cli.data.prepare.conversion import ConversionSettings, convert, convert_all, default_workers
from ganformer_cli.data.sources import Item
from ganformer_cli.errors import OutputError

LOOK = ConversionSettings(8, 8, Decoding(), packed=True, labelled=False)


def pictures(count: int, side: int = 8) -> Iterator[Item]:
    for i in range(count):
        yield Item(f"{i}.png", np.random.default_rng(i).integers(0, 256, (side, side, 3), np.uint8), i)


@pytest.fixture
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(conversion, "ProcessPoolExecutor", refuse)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_everything_comes_in_order(workers: int) -> None:
    got = list(convert_all(pictures(300), LOOK, workers))
    assert got == [convert(item, LOOK) for item in pictures(300)]
    assert not multiprocessing.active_children()


@pytest.mark.usefixtures("no_processes")
def test_little_work_starts_no_processes() -> None:
    assert len(list(convert_all(pictures(5), LOOK, None))) == 5
    assert list(convert_all(iter(()), LOOK, None)) == []


@pytest.mark.slow
def test_more_work_starts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "START_WORKERS_AFTER", 1e-9)
    monkeypatch.setattr(conversion, "default_workers", lambda: 2)
    with contextlib.closing(convert_all(pictures(2000), LOOK, None)) as converted:
        for number, (result, _) in enumerate(converted):
            assert result.name == f"{number}.png"
            if number == 500:
                assert len(multiprocessing.active_children()) == 2
                break
    assert not multiprocessing.active_children()  # left early, they end


@pytest.mark.slow
def test_only_little_is_read_ahead() -> None:
    read = 0

    def count() -> Iterator[Item]:
        nonlocal read
        for item in pictures(10_000):
            read += 1
            yield item

    with contextlib.closing(convert_all(count(), LOOK, 2)) as converted:
        next(converted)
        assert read <= 64 * (2 * 2 + 1)


@pytest.mark.parametrize(("side", "count"), [(8, 64), (1024, 2), (2048, 1)])
def test_chunks_are_bounded_in_number_and_bytes(side: int, count: int) -> None:
    assert [len(chunk) for chunk in conversion.chunked(pictures(2 * count + 1, side), LOOK)] == [count, count, 1]


def test_chunks_are_bounded_by_what_comes_out_of_them() -> None:
    large = ConversionSettings(512, 512, Decoding((0, 0, 0)), packed=False, labelled=False)
    assert {len(chunk) for chunk in conversion.chunked(pictures(20), large)} == {5}


class Poison:
    """Kills the process that unpacks it."""

    nbytes = 0

    def __reduce__(self) -> Any:
        return signal.raise_signal, (signal.SIGTERM,)


@pytest.mark.slow
def test_a_worker_that_dies_is_told_with_the_picture() -> None:
    items: list[Any] = [*pictures(100), Item("poison.png", Poison())]  # type: ignore[arg-type]
    with pytest.raises(OutputError, match=r"ended unexpectedly at \d+\.png or soon after.*one worker process"):
        list(convert_all(iter(items), LOOK, 2))
    assert not multiprocessing.active_children()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="processes are stopped on POSIX only")
def test_a_worker_that_was_stopped_does_not_hold_up_the_end() -> None:
    made = convert_all(pictures(4000), LOOK, 2)
    next(made)
    workers = multiprocessing.active_children()
    assert workers
    for worker in workers:
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGSTOP)
    made.close()  # as an interrupt does
    assert not any(worker.is_alive() for worker in workers)


class HalfAResult:
    """Lets the process that unpacks it begin a result, and never end it; then `after` is run there."""

    nbytes = 1 << 40  # a chunk of its own

    def __init__(self, written: Path, after: str) -> None:
        self.written = written
        self.after = after

    def __reduce__(self) -> Any:
        program = f"""
import gc, multiprocessing.queues, os, pathlib, struct, time
for queue in gc.get_objects():
    if isinstance(queue, multiprocessing.queues.SimpleQueue):
        queue._wlock.acquire()
        os.write(queue._writer.fileno(), struct.pack("!i", 1 << 20) + b"half")
pathlib.Path({str(self.written)!r}).touch()
{self.after}
"""
        return exec, (program,)


def error_of(items: Iterator[Item], kind: type[BaseException]) -> BaseException:
    """The error that ends the conversion of ``items``, which has a minute for it."""
    errors: list[BaseException] = []

    def work() -> None:
        try:
            list(convert_all(items, LOOK, 2))
        except kind as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(60)
    assert errors, "it waits for the rest of the result"
    return errors[0]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="pipes have another format")
def test_a_worker_that_is_killed_while_it_answers_does_not_hold_up_the_end(tmp_path: Path) -> None:
    written = tmp_path / "written"

    def items() -> Iterator[Item]:
        yield Item("half.png", HalfAResult(written, "time.sleep(1000)"))  # type: ignore[arg-type]
        while not written.exists():
            time.sleep(0.01)
        raise KeyboardInterrupt

    error_of(items(), KeyboardInterrupt)


@pytest.mark.skipif(sys.platform != "win32", reason="elsewhere a worker has its end of the pipe from the start")
def test_workers_that_are_killed_while_they_start_or_answer_do_not_hold_up_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One had not fetched its end of the pipe, which stays open here; the other's result was announced, then lost."""
    pools: list[ProcessPoolExecutor] = []
    announced: list[Any] = []
    closed = threading.Event()
    wait = multiprocessing.connection.wait

    def make_pool(*given: Any, **options: Any) -> ProcessPoolExecutor:
        pools.append(ProcessPoolExecutor(*given, **options))
        return pools[-1]

    def announce(waited: list[Any], timeout: float | None = None) -> list[Any]:
        ready = wait(waited, timeout)
        if not announced and waited[0] not in ready and any(isinstance(one, int) for one in ready):  # a process ended
            announced.append(waited[0])
            return [*ready, waited[0]]
        return ready

    def close() -> None:
        converted.close()
        closed.set()

    monkeypatch.setattr(conversion, "ProcessPoolExecutor", make_pool)
    converted = convert_all(pictures(4000), LOOK, 2)
    next(converted)
    end_of_pipe = pools[0]._result_queue._writer.fileno()  # type: ignore[attr-defined]
    multiprocessing.reduction.duplicate(end_of_pipe)  # type: ignore[attr-defined]
    monkeypatch.setattr(multiprocessing.connection, "wait", announce)
    threading.Thread(target=close, daemon=True).start()
    assert closed.wait(60), "it waits for a result that never comes"


class Slow:
    """Takes a while to be sent, and says when that has begun."""

    nbytes = 1 << 40  # a chunk of its own

    def __init__(self, begun: threading.Event) -> None:
        self.begun = begun

    def __reduce__(self) -> Any:
        self.begun.set()
        time.sleep(1)
        return bytes, ()


@pytest.mark.slow
def test_work_that_was_not_sent_at_an_early_end_is_no_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    begun = threading.Event()
    items = [*pictures(64), Item("slow.png", Slow(begun)), *pictures(3 * 64)]  # type: ignore[arg-type]
    converted = convert_all(iter(items), LOOK, 2)
    next(converted)
    assert begun.wait(60)
    converted.close()
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="pipes have another format")
def test_a_worker_that_dies_while_it_answers_is_told(tmp_path: Path) -> None:
    """As the out-of-memory killer may do it: the rest never comes, and the other workers cannot answer."""

    def items() -> Iterator[Item]:
        yield Item("half.png", HalfAResult(tmp_path / "written", "os.kill(os.getpid(), 9)"))  # type: ignore[arg-type]
        for index in range(3):
            yield Item(f"{index}.png", np.zeros((4, 4, 3), np.uint8))

    assert "half.png" in str(error_of(items(), OutputError))


def test_workers_are_at_least_one() -> None:
    assert default_workers() >= 1
