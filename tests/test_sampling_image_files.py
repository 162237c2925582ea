"""Pictures and films as files that say how they were made."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
import pytest

from ganformer_cli.errors import ConfigError, OutputError
from ganformer_cli.sampling.image_files import encode_image, read_metadata, save_png
from ganformer_cli.visualization import animation
from ganformer_cli.visualization.animation import check_film, find_ffmpeg, save_film

METADATA = {"seed": 7, "truncation_psi": 0.7, "class": None, "where": "Zürich – 東京", "list": [1, 2.5]}


def pictures(count: int = 3, height: int = 24, width: int = 32) -> npt.NDArray[np.uint8]:
    """Smooth pictures, as JPEG and GIF like them, of one colour each."""
    ramp = np.linspace(0, 255, width, dtype=np.uint8)
    colours = np.random.default_rng(0).permutation(count * 3).reshape(count, 3, 1, 1) / (count * 3)
    return np.rint(np.broadcast_to(ramp, (count, 3, height, width)) * colours).astype(np.uint8)


@pytest.mark.parametrize("format", ["png", "jpg", "webp"])
def test_a_picture_comes_back_with_what_it_says(format: str) -> None:
    (image,) = pictures(1)
    path = Path(f"picture.{format}")
    path.write_bytes(encode_image(image, format, METADATA))
    assert read_metadata(path) == METADATA
    with PIL.Image.open(path) as opened:
        assert opened.format == {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}[format]
        found = np.asarray(opened).transpose(2, 0, 1)
    assert np.abs(found.astype(int) - image).max() <= (6 if format == "jpg" else 0)
    assert encode_image(image, format, METADATA) == path.read_bytes()


@pytest.mark.parametrize("format", ["png", "jpg", "webp"])
def test_a_file_that_is_cut_off_or_of_others_says_nothing(format: str) -> None:
    (image,) = pictures(1)
    whole = encode_image(image, format, METADATA)
    PIL.Image.fromarray(image.transpose(1, 2, 0)).save(f"other.{format}")
    Path(f"cut.{format}").write_bytes(whole[:40])
    Path(f"empty.{format}").write_bytes(b"")
    Path(f"text.{format}").write_text("ganformer {", encoding="utf-8")
    Path(f"folder.{format}").mkdir()
    for name in ("other", "cut", "empty", "text", "folder", "missing"):
        assert read_metadata(Path(f"{name}.{format}")) is None, name


def test_a_sheet_is_ganformers_whatever_it_says() -> None:
    save_png(Path("sheet.png"), pictures(1)[0])
    assert read_metadata(Path("sheet.png")) == {}


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_a_film_has_all_frames_and_starts_over(suffix: str) -> None:
    frames, path = pictures(5), Path(f"film.{suffix}")
    save_film(path, iter(frames), per_second=10, metadata=METADATA)
    assert read_metadata(path) == METADATA
    with PIL.Image.open(path) as film:
        assert (film.n_frames, film.info["loop"], film.size) == (5, 0, (32, 24))  # type: ignore[attr-defined]
        for index, frame in enumerate(frames):
            film.seek(index)
            found = np.asarray(film.convert("RGB")).transpose(2, 0, 1)
            assert film.info.get("duration", 100) == 100
            assert np.abs(found.astype(int) - frame).max() <= (0 if suffix == "webp" else 8)


def test_too_long_a_film_for_memory() -> None:
    check_film("gif", 100, 1024, 1024)
    check_film("frames", 100_000, 1024, 1024)
    with pytest.raises(ConfigError, match=r"--film webp: 100000 frames of 64x1024 .*--film mp4"):
        check_film("webp", 100_000, 1024, 64)


# ----- ffmpeg -----


#: Writes what it is given, first the line that it was called with; ends early where its first argument says so.
STAND_IN = """
import sys
words = sys.argv[1:]
if words[0] == "refuse":
    print("Unknown encoder 'libx264'", file=sys.stderr)
    sys.exit(1)
if words[0] == "full":
    sys.stdin.buffer.read()
    print("[out#0/mp4 @ 0x5598089ce540] Error closing file: No space left on device", file=sys.stderr)
    sys.exit(1)
data = sys.stdin.buffer.read()
with open(words[-1], "wb") as file:
    file.write(repr(words).encode() + b"\\n" + data)
"""


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A program in ffmpeg's place; what is put into the list comes first on its line."""
    Path("stand_in.py").write_text(STAND_IN, encoding="utf-8")
    extra: list[str] = []
    popen = animation.subprocess.Popen

    def start(words: list[str], **options: Any) -> Any:
        assert words[0] == "the-ffmpeg"
        return popen([sys.executable, "stand_in.py", *extra, *words[1:]], **options)

    monkeypatch.setattr(animation.subprocess, "Popen", start)
    monkeypatch.setattr(animation, "find_ffmpeg", lambda: "the-ffmpeg")
    return extra


def test_ffmpeg_gets_every_frame_and_the_right_size(stand_in: list[str]) -> None:
    frames = pictures(4, 24, 32)
    save_film(Path("films/film.mp4"), iter(frames), per_second=12.5, metadata={"seed": 1})
    line, _, data = Path("films/film.mp4").read_bytes().partition(b"\n")
    assert data == frames.transpose(0, 2, 3, 1).tobytes()
    words = eval(line)
    assert words[words.index("-s") + 1] == "32x24"
    assert words[words.index("-r") + 1] == "12.5"
    assert 'comment=ganformer {"seed": 1}' in words
    assert [path.name for path in Path("films").iterdir()] == ["film.mp4"]


def test_ffmpeg_that_fails_leaves_what_was_there(stand_in: list[str]) -> None:
    stand_in.append("refuse")
    Path("film.mp4").write_bytes(b"of before")
    frames = iter(np.broadcast_to(pictures(1), (200, 3, 24, 32)))
    with pytest.raises(OutputError, match=r"film\.mp4: ffmpeg failed \(Unknown encoder 'libx264'\)"):
        save_film(Path("film.mp4"), frames, per_second=12)
    assert Path("film.mp4").read_bytes() == b"of before"
    assert not list(Path().glob(".film*"))


def test_a_full_disk_is_told_as_for_other_films(stand_in: list[str]) -> None:
    stand_in.append("full")
    with pytest.raises(OutputError, match=r"cannot write film\.mp4: No space left on device; free some space"):
        save_film(Path("film.mp4"), iter(pictures(2)), per_second=12)
    assert [path.name for path in Path().iterdir()] == ["stand_in.py"]


def test_an_error_between_frames_is_not_ffmpegs(stand_in: list[str]) -> None:
    def frames() -> Any:
        yield from pictures(2)
        raise ConfigError("no more")

    with pytest.raises(ConfigError, match="no more"):
        save_film(Path("film.mp4"), frames(), per_second=12)
    assert not Path("film.mp4").exists()


def test_an_error_of_the_system_between_frames_is_not_the_films(stand_in: list[str]) -> None:
    def frames() -> Any:
        yield from pictures(2)
        raise FileNotFoundError(2, "No such file or directory", "model.safetensors")

    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        save_film(Path("film.mp4"), frames(), per_second=12)
    assert not list(Path().glob(".film*"))


def test_what_ffmpeg_does_not_take_any_more_hides_no_error(
    stand_in: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Closing:
        """A pipe whose last bytes nobody takes: closing it fails, as on Windows, with "Invalid argument"."""

        def write(self, data: bytes) -> None:
            pass

        def close(self) -> None:
            raise OSError(22, "Invalid argument")

    class Ending:
        stdin = Closing()

        def __init__(self, *_: Any, **__: Any) -> None:
            self.closed = False

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def kill(self) -> None:
            pass

    def frames() -> Any:
        yield from pictures(2)
        raise ConfigError("no more")

    monkeypatch.setattr(animation.subprocess, "Popen", Ending)
    with pytest.raises(ConfigError, match="no more"):
        save_film(Path("film.mp4"), frames(), per_second=12)


def test_without_ffmpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ConfigError, match="--film mp4: needs the program ffmpeg.*--film gif"):
        find_ffmpeg()
    with pytest.raises(ConfigError, match="ffmpeg"):
        check_film("mp4", 10, 64, 64)


def test_a_film_says_what_made_it_when_read_back() -> None:
    Path("film.mp4").write_bytes(b'\0\0ftypisom\0ganformer {"seed": 3}\0more ganformer {}')
    assert read_metadata(Path("film.mp4")) == {"seed": 3}
