"""An interrupted preparation goes on where it was, and ends with the same bytes as one that nothing disturbed."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from ganformer_cli.data import open_dataset
from ganformer_cli.data.prepare import writer
from ganformer_cli.data.prepare.pipeline import prepare
from ganformer_cli.data.prepare.shards import Journal, ShardWriter
from ganformer_cli.data.sources import Item, Source
from ganformer_cli.data.sources.base import Labels
from ganformer_cli.errors import DataError, OutputError

COUNT = 120
SETTINGS: dict[str, Any] = {"resolution": 8, "shards_num": 3, "near_duplicates": True}


class Numbers(Source):
    """Images of 12x12 out of thin air: every 10th is broken, every 15th is a duplicate, all have labels."""

    format = "folder"
    labels = Labels("classes")

    def __init__(self, version: str = "1") -> None:
        self.path = Path("thin air")
        self.version = version
        self.begun: list[int] = []  # where it was asked to start

    def count(self) -> int:
        return COUNT

    def others(self) -> int:
        return 0

    def items(self, start: int = 0) -> Iterator[Item]:
        self.begun.append(start)
        for i in range(start, COUNT):
            if i % 10 == 3:
                yield Item(f"{i}.png", b"broken", 0)
            else:
                noise = np.random.default_rng(i % 15 and i).integers(0, 256, (12, 12, 3), np.uint8)
                yield Item(f"{i}.png", noise, i % 4)

    def fingerprint(self) -> str:
        return self.version


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def undisturbed() -> dict[str, bytes]:
    return contents(prepare(Numbers(), "set", data_dir=Path("undisturbed"), workers=1, **SETTINGS).folder)


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commit every 7 images, however long they take."""
    monkeypatch.setattr(writer, "COMMIT_IMAGES", 7)
    monkeypatch.setattr(writer, "COMMIT_SECONDS", 1e9)


class StoppedError(Exception):
    """Stands for whatever ends the work in the middle."""


def stop_at(number: int, error: BaseException) -> Callable[[int, int, int], None]:
    def stop(done: int, total: int, skipped: int) -> None:
        if done == number:
            raise error

    return stop


@pytest.mark.slow
@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("error", [KeyboardInterrupt(), StoppedError()])
def test_goes_on_where_it_was(undisturbed: dict[str, bytes], error: BaseException) -> None:
    done = 0
    for number in (20, 60, 61, 100, COUNT):
        source = Numbers()
        with pytest.raises(type(error)):
            prepare(source, "set", progress=stop_at(number, error), workers=1, **SETTINGS)
        assert source.begun[-1] == done
        assert os.listdir("datasets") == [".set.part"]
        for boundary in (40, 80):  # between shards everything is committed
            if done < boundary < number:
                done = boundary
        done += (number - done) // 7 * 7
    seen: list[tuple[int, int, int]] = []
    prepared = prepare(Numbers(), "set", progress=lambda *state: seen.append(state), workers=1, **SETTINGS)
    assert prepared.resumed == done
    assert seen[:2] == [(0, COUNT, 0), (done, COUNT, 12)]
    assert contents(prepared.folder) == undisturbed
    assert os.listdir("datasets") == ["set"]
    assert prepare(Numbers(), "set", workers=1, **SETTINGS).unchanged


@pytest.mark.slow
@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("cut", [1, 30, 10_000])
def test_a_journal_that_was_cut_or_damaged_is_used_as_far_as_it_goes(undisturbed: dict[str, bytes], cut: int) -> None:
    for damage in (True, False):
        with pytest.raises(StoppedError):
            prepare(Numbers(), "set", progress=stop_at(90, StoppedError()), workers=1, **SETTINGS)
        journal = Path("datasets/.set.part/journal.jsonl")
        data = bytearray(journal.read_bytes())
        if damage:
            data[-cut - 1] ^= 1
        else:
            del data[-cut:]
        journal.write_bytes(data)
        prepared = prepare(Numbers(), "set", workers=1, overwrite=True, **SETTINGS)
        assert 0 < prepared.resumed < 87
        assert contents(prepared.folder) == undisturbed
        prepared.folder.rename(f"done-{damage}")


@pytest.mark.slow
@pytest.mark.usefixtures("often")
@pytest.mark.parametrize(
    ("source", "change"),
    [(Numbers("2"), {}), (Numbers(), {"resolution": 16}), (Numbers(), {"max_images": 50}), (Numbers(), {"ratio": 0.5})],
)
def test_another_source_or_other_settings_begin_anew(source: Numbers, change: dict[str, Any]) -> None:
    with pytest.raises(StoppedError):
        prepare(Numbers(), "set", progress=stop_at(90, StoppedError()), workers=1, **SETTINGS)
    settings = {**SETTINGS, "resolution": 8, **change}
    if change.get("resolution") == 16:
        with pytest.raises(DataError, match="none of its 120 images can be used.*lower --resolution"):
            prepare(source, "set", workers=1, **settings)
        assert not Path("datasets").exists() or os.listdir("datasets") == []
        return
    prepared = prepare(source, "set", workers=1, **settings)
    assert prepared.resumed == 0
    fresh = prepare(source, "set", data_dir=Path("fresh"), workers=1, **settings)
    assert contents(prepared.folder) == contents(fresh.folder)


@pytest.mark.slow
@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("file", ["images-00000-of-00003.zip", "images-00002-of-00003.zip"])
@pytest.mark.parametrize("remove", [True, False])
def test_a_folder_that_somebody_disturbed_begins_anew(undisturbed: dict[str, bytes], file: str, remove: bool) -> None:
    with pytest.raises(StoppedError):
        prepare(Numbers(), "set", progress=stop_at(100, StoppedError()), workers=1, **SETTINGS)
    shard = Path("datasets/.set.part/set") / file
    if remove:
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[:100])
    prepared = prepare(Numbers(), "set", workers=1, **SETTINGS)
    assert prepared.resumed == 0
    assert contents(prepared.folder) == undisturbed


@pytest.mark.usefixtures("often")
def test_a_full_disk_says_so_and_loses_nothing(undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    add, calls = ShardWriter.add, 0

    def add_until_full(writer: ShardWriter, png: bytes, crc: int) -> None:
        nonlocal calls
        calls += 1
        add(writer, png, crc) if calls < 50 else full()

    words = r"cannot write datasets.set: No space left on device; free some space and run the same again: it resumes"
    for where, method, replacement in (
        (ShardWriter, "add", add_until_full),
        (Journal, "append", full),
        (ShardWriter, "finish", full),
        (writer, "_to_disk", full),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(where, method, replacement)
            with pytest.raises(OutputError, match=words):
                prepare(Numbers(), "set", workers=1, **SETTINGS)
        assert os.listdir("datasets") == [".set.part"]
    prepared = prepare(Numbers(), "set", workers=1, **SETTINGS)
    assert prepared.resumed >= 49
    assert contents(prepared.folder) == undisturbed


@pytest.mark.usefixtures("often")
def test_two_processes_do_not_share_the_work() -> None:
    with pytest.raises(StoppedError):
        prepare(Numbers(), "set", progress=stop_at(90, StoppedError()), workers=1, **SETTINGS)
    with (
        FileLock("datasets/.set.part/lock"),
        pytest.raises(OutputError, match=r"\.set\.part is in use by another process"),
    ):
        prepare(Numbers(), "set", workers=1, **SETTINGS)
    assert prepare(Numbers(), "set", workers=1, **SETTINGS).resumed > 0


@pytest.mark.usefixtures("often")
def test_strict_ends_work_that_was_begun_without_it() -> None:
    with pytest.raises(StoppedError):
        prepare(Numbers(), "set", progress=stop_at(90, StoppedError()), workers=1, **SETTINGS)
    with pytest.raises(DataError, match=r"thin air: 3\.png: not an image"):
        prepare(Numbers(), "set", workers=1, strict=True, **SETTINGS)
    assert os.listdir("datasets") == []


def test_a_set_that_was_being_replaced_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(Numbers(), "set", workers=1, **SETTINGS)
    before = contents(Path("datasets/set"))
    Path("datasets/.set.part").mkdir()
    os.replace("datasets/set", "datasets/.set.part/old")  # killed at this moment
    assert prepare(Numbers(), "set", workers=1, **SETTINGS).unchanged
    assert contents(Path("datasets/set")) == before
    assert os.listdir("datasets") == ["set"]


def test_what_is_left_of_work_that_was_done_is_removed() -> None:
    prepare(Numbers(), "set", workers=1, **SETTINGS)
    Path("datasets/.set.part/old").mkdir(parents=True)  # killed when the new set was in its place
    Path("datasets/.set.part/old/manifest.json").write_text("{}", encoding="utf-8")
    Path("datasets/.set.part/journal.jsonl").write_text("{}", encoding="utf-8")
    assert prepare(Numbers(), "set", workers=1, **SETTINGS).unchanged
    assert os.listdir("datasets") == ["set"]


# ---- Killed ----------------------------------------------------------------------------------------------------------

SCRIPT = """
import multiprocessing, sys
from pathlib import Path
from ganformer_cli.data.prepare import writer
from ganformer_cli.data.prepare.pipeline import prepare

def report(done, total, skipped):
    if done in (0, 30):
        print(*[child.pid for child in multiprocessing.active_children()], flush=True)

if __name__ == "__main__":
    writer.COMMIT_IMAGES = 7
    prepare(Path(sys.argv[1]), "set", data_dir=Path(sys.argv[2]), workers=int(sys.argv[3]), resolution=8, shards_num=3,
            progress=report)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A script that prepares a folder of images with the settings of this file."""
    rng = np.random.default_rng(0)
    (tmp_path / "source").mkdir()
    for i in range(COUNT):
        picture = Image.fromarray(rng.integers(0, 256, (150, 150, 3), np.uint8))
        picture.save(tmp_path / "source" / f"{i:03}.png", compress_level=1)
    (tmp_path / "source" / "050.png").write_bytes(b"")
    path = tmp_path / "script.py"
    path.write_text(SCRIPT, encoding="utf-8")
    return path


def start(script: Path, data_dir: str, workers: int) -> subprocess.Popen[str]:
    line = [sys.executable, str(script), str(script.parent / "source"), data_dir, str(workers)]
    root = str(Path(writer.__file__).parents[3])
    return subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": root})


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL on Windows")
def test_killed_five_times_the_result_is_the_same(script: Path) -> None:
    whole = start(script, "whole", 1)
    assert whole.stdout is not None
    whole.stdout.readline()
    begun = time.monotonic()
    assert whole.wait() == 0
    took = time.monotonic() - begun
    moments = random.Random(0)
    kills = runs = 0
    while kills < 5 and runs < 20:
        runs += 1
        process = start(script, "killed", 1)
        assert process.stdout is not None
        process.stdout.readline()  # it has begun
        # Some soon after the beginning, some at the end, where what follows the images is made.
        time.sleep(moments.choice((0.2, 0.5, 1.0)) * took * moments.random())
        process.kill()
        if process.wait() == -signal.SIGKILL:
            kills += 1
        if Path("killed/set").exists():  # as far as it can get: the next begins anew
            assert contents(Path("killed/set")) == contents(Path("whole/set"))
            for path in Path("killed/set").iterdir():
                path.unlink()
            Path("killed/set").rmdir()
    assert kills == 5
    assert start(script, "killed", 1).wait() == 0
    assert contents(Path("killed/set")) == contents(Path("whole/set"))
    assert os.listdir("killed") == ["set"]
    assert len(open_dataset("set", data_dir=Path("killed"))) == COUNT - 1


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
        state = Path(f"/proc/{process}/stat")
        return not state.exists() or state.read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL on Windows")
def test_workers_end_with_a_killed_parent(script: Path) -> None:
    process = start(script, "killed", 2)
    assert process.stdout is not None
    process.stdout.readline()
    workers = [int(word) for word in process.stdout.readline().split()]
    process.kill()
    process.wait()
    assert len(workers) == 2
    until = time.monotonic() + 30
    while any(alive(worker) for worker in workers) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(alive(worker) for worker in workers)


@pytest.mark.slow
def test_the_number_of_workers_changes_no_byte(undisturbed: dict[str, bytes]) -> None:
    prepared = prepare(Numbers(), "set", workers=2, **SETTINGS)
    assert contents(prepared.folder) == undisturbed
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_shards_and_compression_change_no_pixel(undisturbed: dict[str, bytes]) -> None:
    whole = json.loads(undisturbed["manifest.json"])
    changes: list[dict[str, Any]] = [{"shards_num": 1}, {"shards_num": None}, {"compression": "none"}]
    for i, change in enumerate(changes):
        other = prepare(Numbers(), f"set-{i}", workers=1, **{**SETTINGS, **change})
        assert other.manifest["fingerprint"] == whole["fingerprint"]
        assert other.manifest["count"] == whole["count"]
        one, two = open_dataset(f"set-{i}"), open_dataset("set", data_dir=Path("undisturbed"))
        assert all(np.array_equal(one.image(k), two.image(k)) for k in range(len(two)))
