"""Processes that read ahead may die, hang or never start: the stream stays the same, and a stop is not waited for."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.context import SpawnContext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ganformer_cli.data.loading import readers
from ganformer_cli.data.loading.datasets import ImageArray, ImageDataset, PreparedDataset, SceneDataset
from ganformer_cli.data.loading.readers import StoppedWaiting
from ganformer_cli.data.loading.stream import ImageStream
from ganformer_cli.errors import DataError

needs_stop = pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="this system cannot stop a process")


class Watched:
    """A stream that two processes read for, what it warns of, and what one process alone gives."""

    def __init__(self, workers: int = 2, dataset: ImageDataset | None = None) -> None:
        self.warned: list[str] = []
        self.stop = False
        given: dict[str, Any] = {"batch_size": 2, "seed": 3, "mirror": True}
        dataset = SceneDataset(resolution=32, count=9) if dataset is None else dataset
        self.alone = ImageStream(dataset, **given)
        self.stream = ImageStream(
            dataset, workers=workers, warn=self.warned.append, should_stop=lambda: self.stop, **given
        )

    def check(self, batches: int) -> None:
        """The next batches are the right ones."""
        for _ in range(batches):
            assert torch.equal(next(self.stream)[0], next(self.alone)[0])

    @property
    def pids(self) -> list[int]:
        assert self.stream.readers is not None
        return self.stream.readers.pids


@pytest.fixture
def watched() -> Iterator[Watched]:
    watched = Watched()
    with watched.stream:
        yield watched


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


@pytest.mark.slow
def test_one_that_is_killed_is_replaced(watched: Watched) -> None:
    watched.check(3)
    before = watched.pids
    os.kill(before[0], signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
    watched.check(40)
    assert len(watched.warned) == 1
    assert "it was replaced" in watched.warned[0]
    assert watched.pids[1] == before[1]
    assert watched.pids[0] != before[0]
    pids = watched.pids
    watched.stream.close()
    assert not any(map(is_there, pids))


@pytest.mark.slow
@needs_stop
def test_one_that_hangs_is_replaced(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    watched.check(3)
    monkeypatch.setattr(readers, "HEARTBEAT_TIMEOUT", 2 * readers.HEARTBEAT_INTERVAL)
    hung = watched.pids[1]
    os.kill(hung, signal.SIGSTOP)
    watched.check(40)
    assert "does not respond" in watched.warned[0]
    assert not is_there(hung)


@pytest.mark.slow
@needs_stop
def test_a_stop_does_not_wait_for_one_that_hangs(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "STOP_GRACE", 0.1)
    watched.check(3)
    for pid in watched.pids:
        os.kill(pid, signal.SIGSTOP)
    watched.stop = True
    with pytest.raises(StoppedWaiting):
        watched.check(40)
    # All is as before: the batch that did not come is still the next one.
    position = watched.stream.position
    assert torch.equal(watched.stream.next_without_workers()[0], reread(watched, position))


def reread(watched: Watched, position: int) -> torch.Tensor:
    stream = ImageStream(watched.stream.dataset, batch_size=2, seed=3, mirror=True, position=position)
    return next(stream)[0]


@pytest.mark.slow
def test_signals_that_reach_the_whole_job_leave_them_alone(watched: Watched) -> None:
    watched.check(3)
    before = watched.pids
    for pid in before:
        for name in ("SIGINT", "SIGUSR1", "SIGHUP"):
            if hasattr(signal, name) and sys.platform != "win32":
                os.kill(pid, getattr(signal, name))
    watched.check(40)
    assert watched.pids == before
    assert watched.warned == []


def make_foreign(pid: int) -> Foreign:
    if os.getpid() != pid:
        raise RuntimeError("cannot be made here")
    return Foreign()


class Foreign(ImageDataset):
    """Can be sent to another process, which ends when it receives it."""

    def __init__(self) -> None:
        super().__init__("foreign", 2, 2, 1.0, 5, "")

    def __reduce__(self) -> tuple[Any, ...]:
        return make_foreign, (os.getpid(),)

    def _load(self, index: int) -> ImageArray:
        return np.full((3, 2, 2), index, np.uint8)


@pytest.mark.slow
def test_where_none_works_training_reads_by_itself(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(readers, "MAX_FAILURES", 0)
    watched = Watched(1, Foreign())
    with watched.stream:
        watched.check(10)
    assert "reading without them" in watched.warned[-1]
    assert len(watched.warned) == 1


@pytest.mark.slow
def test_one_that_ends_before_it_has_its_end_of_the_pipe_is_noticed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    kept: list[int] = []
    if sys.platform != "win32":  # where that end stays open by itself
        pipe = SpawnContext.Pipe

        def leaking(self: SpawnContext, duplex: bool = True) -> tuple[Any, Any]:
            ends = pipe(self, duplex)
            kept.append(os.dup(ends[1].fileno()))
            return ends

        monkeypatch.setattr(SpawnContext, "Pipe", leaking)
    monkeypatch.setattr(readers, "MAX_FAILURES", 0)
    monkeypatch.setattr(readers, "STARTUP_TIMEOUT", 60.0)
    watched = Watched(1, Foreign())
    with watched.stream:
        watched.check(3)
    for descriptor in kept:
        os.close(descriptor)
    (said,) = watched.warned
    assert "(ended with status 1); reading without them" in said


@pytest.mark.slow
def test_an_image_that_cannot_be_read_is_told_where_training_hears_it(own_folder: Path) -> None:
    folder = own_folder / "images"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")
    dataset = PreparedDataset(folder)
    (folder / "1.png").write_bytes(b"damaged")
    watched = Watched(1, dataset)
    with watched.stream, pytest.raises(DataError, match="1.png cannot be read"):
        watched.check(3)
    assert watched.warned == []


SCRIPT = """\
import sys, time
from ganformer_cli.data.loading.batches import ImageBatches, SampleOrder
from ganformer_cli.data.loading.datasets import SceneDataset
from ganformer_cli.data.loading.readers import ReaderPool

if __name__ == "__main__":
    batches = ImageBatches(SceneDataset(resolution=64, count=32), SampleOrder(32, 0, False), 16)
    readers = ReaderPool(batches, first=0, step=16, count=1, warn=sys.exit, should_stop=lambda: False)
    print(sum(int(readers.read(16 * number)[0].sum()) for number in range(8)), readers.pids[0], flush=True)
    time.sleep(float(sys.argv[1]))
    readers.close()
"""


@pytest.mark.slow
def test_a_tiny_shared_memory_does_no_harm(own_folder: Path, checkout: Path) -> None:
    unshare = shutil.which("unshare")
    if unshare is None or not Path("/dev/shm").is_dir():
        pytest.skip("no unshare(1) or no /dev/shm here")
    (own_folder / "read.py").write_text(SCRIPT, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    in_own_view = [unshare, "-m", "sh", "-c"]
    mounted = "mount -t tmpfs -o size=64k tmpfs /dev/shm && "
    if subprocess.run([*in_own_view, f"{mounted} true"], capture_output=True).returncode != 0:
        pytest.skip("mounting needs root")
    command = f"{mounted} exec '{sys.executable}' read.py 0"
    done = subprocess.run([*in_own_view, command], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    with ImageStream(SceneDataset(resolution=64, count=32), batch_size=16, seed=0, mirror=False) as stream:
        assert int(done.stdout.split()[0]) == sum(int(next(stream)[0].sum()) for _ in range(8))


@pytest.mark.slow
def test_they_end_when_their_parent_is_killed(own_folder: Path, checkout: Path) -> None:
    if not hasattr(signal, "SIGKILL"):
        pytest.skip("this system cannot kill a process unnoticed")
    (own_folder / "read.py").write_text(SCRIPT, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    command = [sys.executable, "read.py", "60"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline().split()[1])
        parent.kill()
    deadline = time.monotonic() + 30
    while is_there(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_there(pid)
