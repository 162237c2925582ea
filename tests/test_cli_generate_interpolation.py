"""``ganformer generate --interpolate``."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL.Image
import pytest
import torch
from click.testing import Result

from ganformer_cli.checkpoints.snapshots import load_snapshot, save_snapshot
from ganformer_cli.config import ModelConfig
from ganformer_cli.models import Discriminator, Generator
from ganformer_cli.sampling import latents_from_seeds, map_latents, sample, sample_latents
from ganformer_cli.sampling.image_files import read_metadata

Run = Callable[..., Result]


def frames(folder: Path) -> npt.NDArray[np.int16]:
    """The PNG frames of a film, int16 ``[F, H, W, 3]``."""
    pictures = []
    for path in sorted(folder.glob("*.png")):
        with PIL.Image.open(path) as image:
            pictures.append(np.asarray(image).astype(np.int16))
    return np.stack(pictures)


def names(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir() if path.name != "images.json")


@pytest.mark.parametrize("space", ["w", "z"])
def test_a_way_leads_from_picture_to_picture(ganformer: Run, tiny_run: Path, space: str) -> None:
    line = (
        f"generate --seeds 4,9,2 --interpolate --interpolate-in {space} --interpolation-density 4 --film frames --json"
    )
    done = ganformer(*line.split())
    assert done.exit_code == 0, done.stderr
    stem = "interpolation" if space == "w" else "interpolation-z"
    answer = json.loads(done.stdout)["interpolation"]
    assert (Path(answer["film"]), answer["frames"]) == (Path("images-sheets", stem), 9)
    found = frames(Path("images-sheets", stem))
    assert found.shape == (9, 32, 32, 3)
    expected = sample(load_snapshot(tiny_run), [4, 9, 2], truncation_psi=0.7).permute(0, 2, 3, 1).numpy()
    assert np.abs(found[[0, 4, 8]] - expected).max() <= 1  # mapped alone: the last bit may differ
    assert all((one != other).any() for one, other in zip(found, found[1:], strict=False))
    about = read_metadata(Path("images-sheets", stem, "frame00003.png"))
    assert about is not None
    assert (about["frame"], about["interpolated_in"], about["truncation_psi"]) == (3, space, 0.7)


@pytest.mark.slow
def test_the_ways_differ_between_the_ends_only(ganformer: Run, tiny_run: Path) -> None:
    line = "generate --seeds 4,9 --interpolate --film frames --truncation-psi 1"
    for space in ("w", "z"):
        assert ganformer(*line.split(), "--interpolate-in", space).exit_code == 0
    straight, circles = frames(Path("images-sheets/interpolation")), frames(Path("images-sheets/interpolation-z"))
    assert np.abs(straight[[0, -1]] - circles[[0, -1]]).max() <= 1
    assert (straight[4] != circles[4]).any()


def test_one_component_moves_alone(ganformer: Run, tiny_run: Path) -> None:
    line = "generate --seeds 4,9 --interpolate --component 1 --film frames --interpolation-density 3 --truncation-psi 1"
    assert ganformer(*line.split()).exit_code == 0
    model = load_snapshot(tiny_run)
    ws = map_latents(model, latents_from_seeds(model, [4, 9]))
    ws[1, [0, 2]] = ws[0, [0, 2]]
    expected = np.stack([each.image.transpose(1, 2, 0) for each in sample_latents(model, ws, space="w")])
    found = frames(Path("images-sheets/interpolation-component1"))
    assert np.abs(found[[0, 3]] - expected).max() <= 1
    assert (found[0] != found[3]).any()


def test_a_loop_comes_back(ganformer: Run, tiny_run: Path) -> None:
    line = "generate --seeds 4,9 --interpolate --loop --film frames --interpolation-density 3"
    assert ganformer(*line.split()).exit_code == 0
    found = frames(Path("images-sheets/interpolation"))
    assert len(found) == 6
    np.testing.assert_array_equal(found[1], found[5])  # there and back the same way
    assert (found[0] != found[5]).any()


@pytest.mark.parametrize("film", ["gif", "webp"])
def test_films(ganformer: Run, tiny_run: Path, film: str) -> None:
    line = f"generate --images-num 4 --vis-interpolations --vis-rich-num 3 --film {film} --fps 20 --ratio 0.5"
    done = ganformer(*line.split())
    assert done.exit_code == 0, done.stderr
    assert str(Path(f"images-sheets/interpolation.{film}")) in done.stdout
    with PIL.Image.open(f"images-sheets/interpolation.{film}") as opened:
        assert (opened.n_frames, opened.size) == (17, (32, 16))  # type: ignore[attr-defined]
    with PIL.Image.open("images-sheets/interpolation.png") as sheet:
        # Two ways of eight steps and their end, pictures shown at three times their size, framed.
        assert sheet.height == 2 * (3 * 16 + 4)
        assert sheet.width > 9 * (3 * 32 + 4)


@pytest.mark.slow
def test_the_same_film_is_kept_and_another_one_stopped(ganformer: Run, tiny_run: Path) -> None:
    line = ["generate", "--seeds", "1-3", "--interpolate", "--interpolation-density", "2"]
    assert ganformer(*line).exit_code == 0
    before = {path.name: path.stat().st_mtime_ns for path in Path("images-sheets").iterdir()}
    assert ganformer(*line).exit_code == 0
    for words, difference in ((["--loop"], "loop False instead of True"), (["--rich-num", "2"], "ends 3 instead of 2")):
        done = ganformer(*line, *words, "--output-dir", "images")
        assert done.exit_code == 1
        assert f"interpolation.png: was made with other settings ({difference})" in done.stderr
    done = ganformer(*line, "--fps", "3", "--output-dir", "images")
    assert "interpolation.gif: was made with other settings (fps 12 instead of 3)" in done.stderr
    assert {path.name: path.stat().st_mtime_ns for path in Path("images-sheets").iterdir()} == before
    assert ganformer(*line, "--fps", "3", "--overwrite").exit_code == 0


@pytest.mark.slow
def test_a_shorter_film_leaves_no_frames_of_the_longer_one(ganformer: Run, tiny_run: Path) -> None:
    line = "generate --seeds 1,2 --interpolate --film frames --overwrite --interpolation-density"
    for density in (5, 3):
        assert ganformer(*line.split(), density).exit_code == 0
        assert names("images-sheets/interpolation") == [f"frame{k:05d}.png" for k in range(density + 1)]


def test_random_noise_does_not_flicker(ganformer: Run, tiny_run: Path) -> None:
    """All frames have one noise: where the latents do not move, nothing does."""
    np.save("z.npy", np.repeat(np.random.default_rng(0).standard_normal((1, 3, 8), np.float32), 2, 0))
    line = "generate --latents z.npy --interpolate --film frames --noise random --interpolation-density 2"
    assert ganformer(*line.split()).exit_code == 0
    found = frames(Path("images-sheets/interpolation"))
    assert (found == found[0]).all()


def test_between_latents_of_space_w(ganformer: Run, tiny_run: Path) -> None:
    model = load_snapshot(tiny_run)
    ws = map_latents(model, latents_from_seeds(model, [4, 9]))
    np.save("ws.npy", ws.numpy())
    line = "generate --latents ws.npy --space w --interpolate --film frames --interpolation-density 2"
    done = ganformer(*line.split())
    assert done.exit_code == 0, done.stderr
    found = frames(Path("images-sheets/interpolation"))
    (middle,) = sample_latents(model, ws.mean(0, keepdim=True), space="w")
    assert np.abs(found[1] - middle.image.transpose(1, 2, 0)).max() <= 1
    done = ganformer(*line.split(), "--interpolate-in", "z", "--output-dir", "other")
    assert done.exit_code == 2
    assert "--interpolate-in z with --space w: there is no way back to z" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("space", ["w", "z"])
def test_from_class_to_class(ganformer: Run, own_folder: Path, space: str) -> None:
    torch.manual_seed(0)
    config = ModelConfig(resolution=32, components_num=2, latent_size=16, channel_base=256, channel_max=8, c_dim=3)
    networks = {"ema": Generator(config), "generator": Generator(config)}
    file = own_folder / "labels.safetensors"
    save_snapshot(file, config=config, discriminator=Discriminator(config), kimg=0, provenance={}, **networks)
    line = f"generate --model {file.name} --seeds 0-4 --interpolate --interpolate-in {space} --film frames"
    for words in ((), ("--class", "1", "--output-dir", "one")):
        done = ganformer(*line.split(), "--interpolation-density", 2, *words)
        assert done.exit_code == 0, done.stderr
        folder = Path("one-sheets" if words else "images-sheets")
        found = frames(folder / ("interpolation" if space == "w" else "interpolation-z"))
        labels = [0.0, 1.0, 0.0] if words else None
        expected = sample(load_snapshot(file), range(5), truncation_psi=0.7, labels=labels)
        assert np.abs(found[::2] - expected.permute(0, 2, 3, 1).numpy()).max() <= 1


# ----- Larger films, several walks, the training -----


def test_frames_are_enlarged_by_whole_pixels(ganformer: Run, tiny_run: Path) -> None:
    line = "generate --seeds 4,9 --interpolate --film frames --interpolation-density 2 --output-dir"
    for folder, words in (("small", ()), ("large", ("--scale", "3"))):
        done = ganformer(*line.split(), folder, *words)
        assert done.exit_code == 0, done.stderr
    small, large = frames(Path("small-sheets/interpolation")), frames(Path("large-sheets/interpolation"))
    np.testing.assert_array_equal(large, small.repeat(3, 1).repeat(3, 2))
    metadata = read_metadata(Path("large-sheets/interpolation/frame00001.png"))
    assert metadata is not None
    assert metadata["scale"] == 3


@pytest.mark.slow
def test_a_grid_of_walks(ganformer: Run, tiny_run: Path) -> None:
    """Each cell is the film of its own images."""
    line = "generate --interpolate --film frames --interpolation-density 2 --rich-num 2 --output-dir"
    done = ganformer(*line.split(), "grid", "--seeds", "0-5", "--film-grid", "3x1")
    assert done.exit_code == 0, done.stderr
    grid = frames(Path("grid-sheets/interpolation-3x1"))
    assert grid.shape == (3, 32, 96, 3)
    ganformer(*line.split(), "alone", "--seeds", "2,3")
    np.testing.assert_array_equal(grid[:, :, 32:64], frames(Path("alone-sheets/interpolation")))
    with PIL.Image.open("grid-sheets/interpolation-3x1.png") as sheet:
        assert sheet.height == 3 * 100, "a row for each way"
    again = ganformer(*line.split(), "grid", "--seeds", "0-5", "--film-grid", "3x1", "--json")
    assert json.loads(again.stdout)["interpolation"]["frames"] == 3


@pytest.mark.slow
def test_a_film_of_the_training(ganformer: Run, tiny_run: Path) -> None:
    line = "generate --seeds 4,9 --training-film --film frames --scale 2 --json"
    done = ganformer(*line.split())
    assert done.exit_code == 0, done.stderr
    answer = json.loads(done.stdout)["training_film"]
    assert (Path(answer["film"]), answer["frames"]) == (Path("images-sheets/training"), 2)
    found = frames(Path("images-sheets/training"))
    for kimg, frame in zip((1, 2), found, strict=True):
        model = load_snapshot(tiny_run / "snapshots" / f"network-snapshot-00000{kimg}.safetensors")
        expected = sample(model, [4, 9], truncation_psi=0.7).permute(0, 2, 3, 1).numpy()
        np.testing.assert_array_equal(frame[::2, ::2], np.concatenate(list(expected), axis=1))
    before = Path("images-sheets/training/frame00000.png").stat().st_mtime_ns
    assert ganformer(*line.split()).exit_code == 0
    assert Path("images-sheets/training/frame00000.png").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--interpolate --film-grid 3x2 --images-num 11", "--film-grid 3x2 needs at least 12; ask for more"),
        ("--interpolate --film-grid 3by2", "write columns x rows, for instance 3x2"),
        ("--interpolate --film-grid 0x2", "write columns x rows"),
        ("--film-grid 3x2", "--film-grid says how to interpolate; add --interpolate, or"),
        ("--scale 2", "--scale says how to interpolate; add --interpolate or --training-film"),
        ("--interpolate --scale 0", "--scale"),
        ("--training-film --film-grid 2x2", "--film-grid says how to interpolate"),
        ("--training-film --truncation-psi 0,1", "does not go with --training-film"),
        ("--training-film --model one.safetensors", "--training-film: needs two snapshots of a run, and there is none"),
    ],
)
def test_films_that_cannot_be_made(ganformer: Run, tiny_run: Path, line: str, message: str) -> None:
    shutil.copy(tiny_run / "snapshots" / "network-snapshot-000002.safetensors", "one.safetensors")
    done = ganformer("generate", *line.split())
    assert done.exit_code != 0
    assert message in done.stderr
    assert not Path("images").exists()


def test_mp4_without_ffmpeg_writes_nothing(ganformer: Run, tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    done = ganformer("generate", "--interpolate", "--film", "mp4")
    assert done.exit_code == 1
    assert "--film mp4: needs the program ffmpeg" in done.stderr
    assert "--film gif" in done.stderr
    assert not Path("images").exists()
