"""A named pipe, a socket or a device where a file is expected is refused, and not waited for."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from ganformer_cli.files import NotRegularError, check_regular, open_regular, read_regular, why_no_file

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def time_limit() -> Iterator[None]:
    """Waiting for a pipe's other end fails the test, instead of lasting for ever."""

    def give_up(number: int, frame: object) -> None:
        raise TimeoutError("it waits for a pipe")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def pipe(own_folder: Path) -> Path:
    path = own_folder / "pipe"
    os.mkfifo(path)
    return path


def test_an_ordinary_file_is_read_through_links(own_folder: Path) -> None:
    (own_folder / "file").write_bytes(b"content")
    (own_folder / "link").symlink_to("file")
    assert read_regular(own_folder / "link") == b"content"
    assert check_regular(own_folder / "link").st_size == 7
    assert why_no_file(own_folder / "link") == ""


def test_what_lies_there_is_named(pipe: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket")
        kinds = {pipe: "named pipe", Path("socket"): "socket", Path("/dev/zero"): "device", pipe.parent: "folder"}
        for path, kind in kinds.items():
            for look in (check_regular, open_regular):
                with pytest.raises(NotRegularError, match=f"a {kind}, not a regular file") as caught:
                    look(path)
                assert caught.value.filename == str(path)
            assert kind in why_no_file(path)
    assert why_no_file(Path("nothing")) == "does not exist"
    assert why_no_file(pipe / "below") == "does not exist"


def test_the_error_passes_between_processes(pipe: Path) -> None:
    with pytest.raises(NotRegularError) as caught:
        open_regular(pipe)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.filename) == (str(caught.value), str(pipe))


def exchanged_for_a_pipe(path: Path) -> os.stat_result:
    return os.stat(__file__)


def test_a_pipe_that_takes_a_files_place_at_the_last_moment(pipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ganformer_cli.files.check_regular", exchanged_for_a_pipe)
    with pytest.raises(NotRegularError):
        open_regular(pipe)


SUFFIXES = ["safetensors", "npy", "npz", "zip", "tar", "csv", "json", "toml", "pkl", "h5", "mdb", "tfrecords"]


@pytest.mark.parametrize(
    "line",
    [
        *(f"prepare pipe.{suffix}" for suffix in SUFFIXES if suffix not in ("csv", "pkl", "json", "safetensors")),
        *(f"prepare photos --labels pipe.{suffix}" for suffix in ("npy", "csv", "json")),
        "prepare clevr --from-file pipe.zip",
        "prepare clevr --from-file pipe.zip --no-check",
        *(f"generate --model pipe.{suffix} --gpus none" for suffix in ("safetensors", "pkl")),
        "generate --latents pipe.npy --gpus none",
        "eval --model pipe.safetensors --gpus none",
        "eval --images pipe.npy --reals photos --gpus none",
        "eval --images pipe.zip --reals photos --gpus none",
        "eval --images photos --reals pipe.npy --gpus none",
        "eval --images photos --reals photos --metrics fid --weights pipe.safetensors --gpus none",
        "eval --dataset pipe.zip --gpus none",
        "info pipe.safetensors",
        "info pipe.pkl",
        "convert pipe.safetensors out.safetensors",
        "train --dataset pipe.zip --gpus none --dry-run",
        "train --dataset scenes --pretrained-pkl pipe.safetensors --gpus none",
        "train --dataset scenes --init-from pipe.pkl --gpus none",
    ],
)
def test_every_option_that_takes_a_file_refuses_a_pipe(ganformer: Run, tiny_run: Path, line: str) -> None:
    for suffix in SUFFIXES:
        os.mkfifo(f"pipe.{suffix}")
    Path("photos").mkdir()
    for number in range(2):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(f"photos/{number}.png")
    done = ganformer(*line.split())
    assert done.exit_code != 0
    assert "named pipe" in done.stderr
    assert "pipe." in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("inside", "message"),
    [
        ("dataset.json", "named pipe"),
        ("manifest.json", "kept:       1 of 1"),
        ("b.png", "skipped 1"),
        ("data.mdb", "named pipe"),
        ("b.toml", "kept:       1 of 1"),
    ],
)
def test_a_pipe_inside_a_source(ganformer: Run, own_folder: Path, inside: str, message: str) -> None:
    Path("source").mkdir()
    Image.new("RGB", (32, 32)).save("source/a.png")
    os.mkfifo(f"source/{inside}")
    done = ganformer("prepare", "source")
    assert message in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    assert done.exit_code == 0 or "source" in done.stderr


def test_shards_that_are_pipes(ganformer: Run, own_folder: Path) -> None:
    for name in ("tars/a.tar", "tars/b.tar", "records/x-r05.tfrecords", "records/y-r05.tfrecords"):
        Path(name).parent.mkdir(exist_ok=True)
        os.mkfifo(name)
    for folder in ("tars", "records"):
        done = ganformer("prepare", folder)
        assert done.exit_code != 0
        assert "named pipe" in done.stderr


def test_a_prepared_set_whose_zip_became_a_pipe(ganformer: Run, own_folder: Path) -> None:
    Path("photos").mkdir()
    for number in range(2):
        np.save("keep.npy", np.zeros(1))
        Image.new("RGB", (32, 32), (number, 0, 0)).save(f"photos/{number}.png")
    assert ganformer("prepare", "photos").exit_code == 0
    zip_file = Path("datasets/photos/images.zip")
    zip_file.unlink()
    os.mkfifo(zip_file)
    for line in ("prepare --verify photos", "train --dataset photos --dry-run --gpus none", "prepare datasets/photos"):
        done = ganformer(*line.split())
        assert done.exit_code != 0
        assert "images.zip" in done.stderr + done.stdout


@pytest.mark.slow
def test_pictures_that_became_pipes_in_the_output_folder(ganformer: Run, tiny_run: Path) -> None:
    line = "generate --seeds 0,1 --output-dir out --gpus none --format"
    for form, name in (("png", "seed0001.png"), ("npy", "images.npy")):
        assert ganformer(*line.split(), form).exit_code == 0
        written = next(path for path in Path("out").rglob("*") if path.name in (name, "pictures.npy", "seed0001.png"))
        written.unlink()
        os.mkfifo(written)
        done = ganformer(*line.split(), form)
        assert "Traceback" not in done.stderr
        shutil.rmtree("out")
