"""``ganformer generate``: what it writes, which model it means, and what it says of wrong input."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL.Image
import pytest
import torch
from click.testing import Result

from ganformer_cli.checkpoints.snapshots import load_snapshot
from ganformer_cli.sampling import latents_from_seeds, sample, to_uint8
from ganformer_cli.sampling.image_files import read_metadata

Run = Callable[..., Result]


def read(path: Path) -> npt.NDArray[np.uint8]:
    with PIL.Image.open(path) as image:
        return np.asarray(image).transpose(2, 0, 1)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "images.json")


# ----- What it writes -----


def test_pictures_are_named_after_their_seeds(ganformer: Run, tiny_run: Path) -> None:
    done = ganformer("generate", "--seeds", "3,12345,0-1", "--truncation-psi", "1")
    assert done.exit_code == 0, done.stderr
    assert names(Path("images")) == ["seed0000.png", "seed0001.png", "seed0003.png", "seed12345.png"]
    expected = sample(load_snapshot(tiny_run), [3], truncation_psi=1).numpy()[0]
    np.testing.assert_array_equal(read(Path("images/seed0003.png")), expected)
    assert "4 images" in done.stdout
    assert "drawing" in done.stderr


@pytest.mark.slow
def test_the_number_of_pictures_is_32_or_what_is_asked(ganformer: Run, tiny_run: Path) -> None:
    assert ganformer("generate").exit_code == 0
    assert len(names(Path("images"))) == 32
    assert ganformer("generate", "--images-num", "5", "--output-dir", "some/where").exit_code == 0
    assert names(Path("some/where")) == [f"seed000{k}.png" for k in range(5)]


def test_psi_is_the_authors_unless_given(ganformer: Run, tiny_run: Path) -> None:
    ganformer("generate", "--seeds", "1")
    expected = sample(load_snapshot(tiny_run), [1], truncation_psi=0.7).numpy()[0]
    np.testing.assert_array_equal(read(Path("images/seed0001.png")), expected)


@pytest.mark.slow
def test_the_same_line_gives_the_same_files_with_any_batch_size(ganformer: Run, tiny_run: Path) -> None:
    for folder, batch_size in (("a", 1), ("b", 3), ("c", 8)):
        ganformer("generate", "--images-num", "8", "--batch-size", batch_size, "--output-dir", folder)
    for name in names(Path("a")):
        assert Path("a", name).read_bytes() == Path("b", name).read_bytes() == Path("c", name).read_bytes()


@pytest.mark.slow
def test_half_precision_is_close_and_recorded(ganformer: Run, tiny_run: Path) -> None:
    for precision in ("fp32", "bf16"):
        folder = Path(precision)
        done = ganformer("generate", "--images-num", "2", "--precision", precision, "--output-dir", folder)
        assert done.exit_code == 0, done.stderr
    difference = read(Path("bf16/seed0000.png")).astype(int) - read(Path("fp32/seed0000.png"))
    assert 0 < abs(difference).mean() < 3
    assert (read_metadata(Path("bf16/seed0000.png")) or {})["precision"] == "bf16"
    other = ganformer("generate", "--images-num", "2", "--output-dir", "bf16")
    assert other.exit_code == 1
    assert "precision bf16 instead of none" in other.stderr
    for command in ("generate", "eval"):
        refused = ganformer(command, "--precision", "fp16")
        assert refused.exit_code == 1
        assert "--precision fp16 is for GPUs" in refused.stderr


def test_a_grid_holds_all_pictures(ganformer: Run, tiny_run: Path) -> None:
    assert ganformer("generate", "--images-num", "6", "--grid").exit_code == 0
    grid = read(Path("images-sheets/grid.png"))
    assert grid.shape == (3, 64, 96)
    np.testing.assert_array_equal(grid[:, 32:, 64:], read(Path("images/seed0005.png")))


def test_a_crop_keeps_the_middle(ganformer: Run, tiny_run: Path) -> None:
    ganformer("generate", "--images-num", "1", "--output-dir", "whole")
    ganformer("generate", "--images-num", "1", "--ratio", "0.5", "--grid")
    expected = read(Path("whole/seed0000.png"))[:, 8:24]
    np.testing.assert_array_equal(read(Path("images/seed0000.png")), expected)
    assert read(Path("images-sheets/grid.png")).shape == (3, 16, 32)


@pytest.mark.slow
def test_maps_lie_apart_from_the_same_pictures(ganformer: Run, tiny_run: Path) -> None:
    ganformer("generate", "--images-num", "2", "--output-dir", "plain")
    done = ganformer("generate", "--images-num", "2", "--maps", "--layer-maps")
    assert done.exit_code == 0, done.stderr
    kinds = ("-layer-maps.png", "-maps.png")
    assert names(Path("images")) == ["seed0000.png", "seed0001.png"]
    assert names(Path("images-sheets")) == [f"seed000{k}{kind}" for k in range(2) for kind in kinds]
    for k in range(2):
        assert Path(f"images/seed000{k}.png").read_bytes() == Path(f"plain/seed000{k}.png").read_bytes()
        for kind in ("maps", "layer-maps"):
            about = read_metadata(Path(f"images-sheets/seed000{k}-{kind}.png"))
            assert about is not None
            assert (about["seed"], about["figure"]) == (k, kind)


def test_json_lists_what_was_written(ganformer: Run, tiny_run: Path) -> None:
    done = ganformer("generate", "--seeds", "4", "--grid", "--maps", "--json")
    answer = json.loads(done.stdout)
    assert answer["truncation_psi"] == 0.7
    assert Path(answer["model"]).name == "network-snapshot-000002.safetensors"
    assert answer["images"][0]["seed"] == 4
    for file in (answer["grid"], answer["images"][0]["file"], answer["images"][0]["maps"]):
        assert Path(file).is_file()


@pytest.mark.parametrize("noise", ["const", "random", "none"])
def test_noise(ganformer: Run, tiny_run: Path, noise: str) -> None:
    assert ganformer("generate", "--images-num", "1", "--noise", noise).exit_code == 0


# ----- From latents, and other files than PNG -----


@pytest.mark.slow
def test_saved_latents_give_the_same_pictures(ganformer: Run, tiny_run: Path) -> None:
    done = ganformer("generate", "--images-num", "5", "--save-latents", "--output-dir", "seeds")
    assert done.exit_code == 0, done.stderr
    assert str(Path("seeds/latents.npy")) in done.stdout
    latents = np.load("seeds/latents.npy")
    assert latents.dtype == np.float32
    np.testing.assert_array_equal(latents, latents_from_seeds(load_snapshot(tiny_run), range(5)).numpy())
    for batch_size in ("1", "3"):
        ganformer("generate", "--latents", "seeds/latents.npy", "--batch-size", batch_size)
        assert names(Path("images")) == [f"image000{k}.png" for k in range(5)]
        for k in range(5):
            np.testing.assert_array_equal(read(Path(f"images/image000{k}.png")), read(Path(f"seeds/seed000{k}.png")))


def test_latents_are_saved_in_the_order_of_the_seeds(ganformer: Run, tiny_run: Path) -> None:
    done = ganformer("generate", "--seeds", "7,2", "--vis-latents", "--json")
    assert Path(json.loads(done.stdout)["latents"]) == Path("images/latents.npy")
    expected = latents_from_seeds(load_snapshot(tiny_run), [7, 2]).numpy()
    np.testing.assert_array_equal(np.load("images/latents.npy"), expected)


def test_latents_of_space_w(ganformer: Run, tiny_run: Path) -> None:
    model = load_snapshot(tiny_run)
    with torch.no_grad():
        ws = model.mapping(latents_from_seeds(model, range(4)), truncation_psi=0.7).numpy()
    np.save("ws.npy", ws)
    line = "generate --latents ws.npy --space w --save-latents --truncation-psi 1 --json"
    done = ganformer(*line.split())
    assert done.exit_code == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["given_latents"], answer["space"], answer["truncation_psi"]) == ("ws.npy", "w", 1)
    assert [each["row"] for each in answer["images"]] == list(range(4))
    np.testing.assert_array_equal(np.load("images/latents.npy"), ws)
    expected = sample(model, range(4), truncation_psi=0.7).numpy()
    for k in range(4):
        np.testing.assert_array_equal(read(Path(f"images/image000{k}.png")), expected[k])


def test_maps_and_a_grid_of_latents(ganformer: Run, tiny_run: Path) -> None:
    np.save("z.npy", np.zeros((2, 3, 8), np.float16))
    done = ganformer("generate", "--latents", "z.npy", "--maps", "--layer-maps", "--grid")
    assert done.exit_code == 0, done.stderr
    assert len(names(Path("images"))) == 2
    assert len(names(Path("images-sheets"))) == 5
    assert "image0001-layer-maps.png" in names(Path("images-sheets"))


def test_jpegs(ganformer: Run, tiny_run: Path) -> None:
    done = ganformer("generate", "--images-num", "2", "--format", "jpg", "--grid", "--ratio", "0.5")
    assert done.exit_code == 0, done.stderr
    assert names(Path("images")) == ["seed0000.jpg", "seed0001.jpg"]
    with PIL.Image.open("images/seed0001.jpg") as image:
        assert (image.format, image.size) == ("JPEG", (32, 16))
        # A component's identifier and how often it is sampled across and down: once each, so that nothing is thinned.
        assert [each[1:3] for each in image.layer] == [(1, 1)] * 3  # type: ignore[attr-defined]
    second = read(Path("images-sheets/grid.png"))[:, -16:, -32:]
    assert np.abs(read(Path("images/seed0001.jpg")).astype(int) - second).mean() < 8


@pytest.mark.slow
def test_one_array_of_pictures_as_they_leave_the_network(ganformer: Run, tiny_run: Path) -> None:
    ganformer("generate", "--seeds", "6,0-2", "--output-dir", "png", "--maps", "--grid")
    for batch_size in ("1", "3"):
        line = f"generate --seeds 6,0-2 --format npy --maps --grid --json --batch-size {batch_size}"
        done = ganformer(*line.split())
        assert done.exit_code == 0, done.stderr
        assert names(Path("images")) == ["images.npy"]
        assert names(Path("images-sheets")) == ["grid.png"] + [f"seed000{k}-maps.png" for k in (0, 1, 2, 6)]
        images = np.load("images/images.npy")
        assert (images.dtype, images.shape) == (np.float32, (4, 3, 32, 32))
        answer = json.loads(done.stdout)
        assert [Path(each["file"]) for each in answer["images"]] == [Path("images/images.npy")] * 4
        for each, picture in zip(answer["images"], to_uint8(torch.from_numpy(images)).numpy(), strict=True):
            np.testing.assert_array_equal(picture, read(Path(f"png/seed{each['seed']:04d}.png")))
        for name in ("grid.png", "seed0006-maps.png"):
            assert Path("images-sheets", name).read_bytes() == Path("png-sheets", name).read_bytes()
        assert json.loads(Path("images/images.json").read_text(encoding="utf-8"))["seeds"] == [6, 0, 1, 2]


def test_an_array_is_there_whole_or_not_at_all(ganformer: Run, tiny_run: Path) -> None:
    Path("images").mkdir()
    Path("images/images.npy").write_bytes(b"of before")
    ws = np.zeros((5, 3, 8), np.float32)
    ws[4] = 3e38
    np.save("ws.npy", ws)
    line = "generate --latents ws.npy --space w --format npy --batch-size 1 --overwrite"
    done = ganformer(*line.split())
    assert done.exit_code == 1
    assert "row 4 of the latents has values that are not finite" in done.stderr
    assert names(Path("images")) == ["images.npy"]
    assert Path("images/images.npy").read_bytes() == b"of before"


def test_what_a_kill_left_of_an_array_goes(ganformer: Run, tiny_run: Path) -> None:
    Path("images").mkdir()
    Path("images/.images.npy.abcd1234.part").write_bytes(b"half of an arr")
    Path("images/.latents.npy.abcd1234.part").write_bytes(b"half of an arr")
    done = ganformer(*["generate", "--seeds", "0-1", "--format", "npy", "--save-latents"])
    assert done.exit_code == 0, done.stderr
    assert names(Path("images")) == ["images.npy", "latents.npy"]


# ----- Which model -----


def test_without_a_name_the_run_that_saved_last(ganformer: Run, tiny_run: Path) -> None:
    for age, name in enumerate(("zebras-000", "apples-003", "middle-001")):
        shutil.copytree(tiny_run, Path("results", name))
        for snapshot in Path("results", name).rglob("*.safetensors"):
            os.utime(snapshot, (2e9 - age, 2e9 - age))
    done = ganformer("generate", "--images-num", "1", "--json")
    assert Path(json.loads(done.stdout)["model"]).parts[1:] == (
        "zebras-000", "snapshots", "network-snapshot-000002.safetensors",
    )  # fmt: skip


def test_the_newest_run_of_the_name_that_has_a_snapshot(ganformer: Run, tiny_run: Path) -> None:
    shutil.copytree(tiny_run, Path("results/clevr-exp-009"))
    shutil.copytree(tiny_run, Path("results/clevr-exp-010"))
    Path("results/clevr-exp-011").mkdir()
    Path("results/clevr-exp-2-012").mkdir()
    for said in ("clevr-exp", "clevr-exp-010"):
        done = ganformer("generate", "--expname", said, "--images-num", "1", "--json")
        assert Path(json.loads(done.stdout)["model"]).parts[1] == "clevr-exp-010"


def test_the_authors_line_for_attention_maps(ganformer: Run, tiny_run: Path) -> None:
    shutil.copytree(tiny_run, Path("results/clevr-exp-000"))
    line = "generate --gpus 0 --vis --expname clevr-exp --dataset clevr --vis-layer-maps --vis-num 1"
    done = ganformer(*line.split())
    assert done.exit_code == 0, done.stderr
    assert names(Path("images")) == ["seed0000.png"]
    assert names(Path("images-sheets")) == ["seed0000-layer-maps.png"]


def test_a_file_is_a_model_too(ganformer: Run, tiny_run: Path) -> None:
    line = "generate --gpus 0 --model results/exp-000/snapshots/network-snapshot-000001.safetensors --output-dir images"
    done = ganformer(*line.split(), "--images-num", "2", "--batch-size", "1")
    assert done.exit_code == 0, done.stderr
    assert len(names(Path("images"))) == 2


# ----- Wrong input: one line, naming what is wrong; nothing written -----


@pytest.mark.parametrize(
    ("line", "status", "message"),
    [
        ("--model nothing-here", 1, "--model nothing-here: no such file or run folder"),
        ("--expname other", 1, "--expname other: no run of that name with a snapshot in results"),
        ("--result-dir none", 1, "--result-dir none: no run with a snapshot in none"),
        ("--model gdrive:no-such-snapshot.pkl --offline", 1, "no-such-snapshot.pkl"),
        ("--model mine.pkl", 1, "mine.pkl"),
        ("--model cut.safetensors", 1, "cut.safetensors: not a readable safetensors file"),
        ("--model empty.safetensors", 1, "empty.safetensors: not a model of ganformer's but an empty file"),
        ("--seeds 1-x", 2, "'1-x' is neither a seed nor a range"),
        ("--seeds 5-2", 2, "ends before it begins"),
        ("--seeds 1 --images-num 3", 2, "give one of them"),
        ("--images-num 0", 2, "--images-num"),
        ("--class 1", 1, "--class 1: this model has no such class; it was trained without labels"),
        ("--ratio 0", 2, "'--ratio': 0.0 is not in the range"),
        ("--blending-alpha 2", 2, "--blending-alpha"),
        ("--truncation-psi x", 2, "--truncation-psi"),
        ("--truncation-psi nan", 2, "--truncation-psi"),
        ("--noise some", 2, "--noise"),
        ("--output-dir cut.safetensors", 2, "--output-dir"),
        ("--output-dir cut.safetensors/below", 1, "--output-dir"),
        ("--latents nothing.npy", 2, "'--latents': File 'nothing.npy' does not exist"),
        ("--latents empty.safetensors", 1, "--latents empty.safetensors: not a readable .npy file"),
        ("--latents other.npy", 1, "other.npy: its shape is [2, 5, 8], this model wants [N, 3, 8] in space z"),
        ("--latents other.npy --space w", 1, "this model wants [N, 3, 8] or [N, 3, 9, 8] in space w"),
        ("--latents other.npy --seeds 1", 2, "--seeds and --latents each say which images; give one of them"),
        ("--latents other.npy --images-num 1", 2, "--images-num and --latents each say which images"),
        ("--latents other.npy --space w --truncation-psi 0.7", 2, "--truncation-psi 0.7 with --space w"),
        ("--latents other.npy --space w --class 1", 2, "--class 1 with --space w"),
        ("--latents other.npy --space x", 2, "--space"),
        ("--space w", 2, "--space w says what --latents are"),
        ("--format npy --ratio 0.5", 2, "--ratio 0.5 with --format npy"),
        ("--format gif", 2, "--format"),
        ("--truncation-psi 0,x", 2, "'x' is not a number"),
        ("--truncation-psi 0,1 --format npy", 2, "--truncation-psi with several numbers does not go with --format"),
        ("--truncation-psi 0,1 --interpolate", 2, "--truncation-psi with several numbers does not go with --inter"),
        ("--truncation-psi 0,1 --style-mix", 2, "--truncation-psi with several numbers does not go with mixtures"),
        ("--component 1", 2, "--component 1 says which component to move; add --interpolate, --mix"),
        ("--component 2 --interpolate", 1, "--component 2: this model has components 0 to 1"),
        ("--component -1 --interpolate", 2, "--component"),
        ("--film webp", 2, "--film says how to interpolate; add --interpolate"),
        ("--loop", 2, "--loop says how to interpolate; add --interpolate"),
        ("--interpolate --seeds 3", 1, "--interpolate: moves from one image to the next, and there is only one"),
        ("--interpolate --rich-num 1", 1, "there is only one; ask for two or more"),
        ("--interpolate --interpolation-density 0", 2, "--interpolation-density"),
        ("--interpolate --film avi", 2, "--film"),
        ("--interpolate --fps 0", 2, "--fps"),
        ("--interpolate --interpolation-density 9999 --rich-num 40 --images-num 40", 1, "are too much for one GIF"),
    ],
)
def test_wrong_lines(ganformer: Run, tiny_run: Path, line: str, status: int, message: str) -> None:
    whole = (tiny_run / "snapshots" / "network-snapshot-000002.safetensors").read_bytes()
    Path("cut.safetensors").write_bytes(whole[: len(whole) // 2])
    Path("empty.safetensors").write_bytes(b"")
    np.save("other.npy", np.zeros((2, 5, 8), np.float32))
    done = ganformer("generate", *line.split())
    assert message in done.stderr
    assert done.exit_code == status
    assert len([text for text in done.stderr.splitlines() if "error" in text]) == 1
    assert "Traceback" not in done.stderr
    assert not Path("images").exists()


@pytest.mark.slow
def test_maps_of_a_model_without_attention(ganformer: Run, tiny_run: Path) -> None:
    from ganformer_cli.checkpoints.snapshots import save_snapshot
    from ganformer_cli.config import ModelConfig
    from ganformer_cli.models import Discriminator, Generator

    torch.manual_seed(0)
    config = ModelConfig(
        resolution=32, attention="none", components_num=0, latent_size=8, channel_base=256, channel_max=8, c_dim=2
    )
    networks = {"ema": Generator(config), "generator": Generator(config)}
    file = Path("plain.safetensors")
    save_snapshot(file, config=config, discriminator=Discriminator(config), kimg=0, provenance={}, **networks)
    done = ganformer("generate", "--model", file, "--vis-maps")
    assert done.exit_code == 1
    assert "--maps: this model has no attention" in done.stderr
    assert "its classes are 0 to 1" in ganformer("generate", "--model", file, "--class", "2").stderr
    assert ganformer("generate", "--model", file, "--class", "1", "--images-num", "2").exit_code == 0
    expected = sample(load_snapshot(file), [1], truncation_psi=0.7, labels=[0.0, 1.0]).numpy()[0]
    np.testing.assert_array_equal(read(Path("images/seed0001.png")), expected)
    # Latents have the class that is asked for, or those of the first seeds.
    for folder, *words in ((Path("own"),), (Path("first"), "--class", "0")):
        words += ["--model", str(file), "--output-dir", str(folder)]
        ganformer("generate", "--images-num", "6", "--save-latents", *words)
        done = ganformer("generate", "--latents", folder / "latents.npy", *words)
        assert done.exit_code == 0, done.stderr
        for k in range(6):
            np.testing.assert_array_equal(
                read(folder / f"image000{k}.png"), read(folder / f"seed000{k}.png"), err_msg=f"{words}"
            )
