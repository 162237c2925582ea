"""``ganformer generate``: attention sheets, mixtures, noise, disentanglement; what cannot be shown is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from click.testing import Result

from ganformer_cli.checkpoints.snapshots import load_snapshot, save_snapshot
from ganformer_cli.cli.generate_figures import MIXTURES
from ganformer_cli.config import ModelConfig
from ganformer_cli.models import Discriminator, Generator
from ganformer_cli.sampling import latents_from_seeds, sample_seeds

Run = Callable[..., Result]

TINY = {"resolution": 32, "components_num": 2, "latent_size": 16, "channel_base": 256, "channel_max": 16}


def model_file(path: Path, **changes: object) -> str:
    """An untrained model."""
    torch.manual_seed(0)
    config = ModelConfig.from_dict({**TINY, **changes})
    save_snapshot(
        path,
        config=config,
        ema=Generator(config),
        generator=Generator(config),
        discriminator=Discriminator(config),
        kimg=0,
        provenance={},
    )
    return str(path)


def names(folder: str = "images") -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir() if path.name != "images.json")


def shape(path: str | Path) -> tuple[int, int]:
    with PIL.Image.open(path) as image:
        return image.height, image.width


# ----- What it writes -----


@pytest.mark.slow
def test_the_authors_names_ask_for_every_figure(ganformer: Run, tiny_run: Path) -> None:
    line = "generate --vis --vis-num 2 --vis-maps --vis-layer-maps --vis-style-mix --vis-noise-var --blending-alpha 0.4"
    done = ganformer(*line.split(), "--vis-rich-num", "2")
    assert done.exit_code == 0, done.stderr
    assert names() == ["seed0000.png", "seed0001.png"]
    assert names("images-sheets") == [
        "noise-variation.png",
        *(f"seed000{k}{kind}.png" for k in range(2) for kind in ("-layer-maps", "-maps")),
        *(f"style-mix-{group}.png" for group in ("coarse", "fine", "middle")),
    ]


@pytest.mark.slow
def test_mixtures_of_the_first_pictures(ganformer: Run, tiny_run: Path) -> None:
    done = ganformer("generate", "--seeds", "4,7,9", "--mix", "all", "--vis-rich-num", "2", "--json")
    assert done.exit_code == 0, done.stderr
    written = json.loads(done.stdout)["mix"]
    assert [(each["seed"], each["kind"]) for each in written] == [(seed, kind) for seed in (4, 7) for kind in MIXTURES]
    assert [each.get("from") for each in written] == ["seed 7", "seed 7", None, None, "seed 9", "seed 9", None, None]
    for each in written:
        assert Path(each["file"]).name == f"seed000{each['seed']}-mix-{each['kind']}.png"
        assert Path(each["file"]).is_file()
        assert list(each["mean_difference"]) == ["0", "1"]
        assert min(each["mean_difference"].values()) > 0


@pytest.mark.slow
def test_mixtures_with_a_chosen_picture_and_component(ganformer: Run, tiny_run: Path) -> None:
    line = "generate --seeds 4 --mix take --json"
    every = ganformer(*line.split(), "--mix-from", "11", "--output-dir", "every")
    one = ganformer(*line.split(), "--mix-from", "11", "--component", "1", "--output-dir", "one")
    assert one.exit_code == 0, one.stderr
    whole, part = json.loads(every.stdout)["mix"][0], json.loads(one.stdout)["mix"][0]
    assert part["from"] == "seed 11"
    assert part["mean_difference"] == {"1": whole["mean_difference"]["1"]}
    assert shape(whole["file"])[0] - shape(part["file"])[0] == 100
    itself = ganformer(*line.split(), "--mix-from", "4", "--output-dir", "itself")
    assert set(json.loads(itself.stdout)["mix"][0]["mean_difference"].values()) == {0}


def test_truncation_of_one_component(ganformer: Run, tiny_run: Path) -> None:
    done = ganformer("generate", "--seeds", "4", "--component-psi=1,0,-0.5", "--truncation-psi", "1", "--json")
    assert done.exit_code == 0, done.stderr
    (file,) = json.loads(done.stdout)["component_psi"]
    # Picture, three psi, difference, attention.
    assert 600 <= shape(file)[1] < 700


@pytest.mark.slow
def test_disentanglement_is_measured_on_all_pictures(ganformer: Run, tiny_run: Path) -> None:
    line = "generate --images-num 3 --disentanglement --vis-rich-num 1 --json"
    done = ganformer(*line.split())
    assert done.exit_code == 0, done.stderr
    measured = json.loads(done.stdout)["disentanglement"]
    kept = json.loads(Path("images-sheets/disentanglement.json").read_text(encoding="utf-8"))
    assert kept.items() <= measured.items()
    assert measured["pictures"] == 3
    assert measured["truncation_psi"] == 0.7
    assert measured["segmentation"] == "scene-1", "this run was trained on scenes"
    assert 0 < measured["entropy"] <= 1
    # One row is shown.
    assert 100 <= shape("images-sheets/disentanglement.png")[0] < 130


@pytest.mark.slow
def test_figures_of_latents(ganformer: Run, tiny_run: Path) -> None:
    """Latents of seeds, before and after the mapping network, give the seeds' own figures."""
    line = ["--mix", "take", "--style-mix", "--json"]
    seeds = ganformer("generate", "--images-num", "3", *line, "--output-dir", "seeds", "--truncation-psi", "1")
    model = load_snapshot(tiny_run)
    z = latents_from_seeds(model, range(3))
    np.save("z.npy", z.numpy())
    with torch.no_grad():
        np.save("w.npy", model.mapping(z)[:, :, 0].numpy())
    for space, more in (("z", ["--truncation-psi", "1"]), ("w", [])):
        done = ganformer("generate", "--latents", f"{space}.npy", "--space", space, *more, *line, "--output-dir", space)
        assert done.exit_code == 0, done.stderr
        expected = [each["mean_difference"] for each in json.loads(seeds.stdout)["mix"]]
        found = [each["mean_difference"] for each in json.loads(done.stdout)["mix"]]
        for one, other in zip(found, expected, strict=True):
            assert one == pytest.approx(other, abs=0.02)
        assert "image0000-mix-take.png" in names(f"{space}-sheets")


@pytest.mark.slow
def test_the_same_line_gives_the_same_figures(ganformer: Run, tiny_run: Path) -> None:
    line = ["generate", "--images-num", "2", "--mix", "take,mean", "--noise-variation", "--disentanglement"]
    for folder in ("one", "two"):
        assert ganformer(*line, "--output-dir", folder).exit_code == 0
    for end in ("", "-sheets"):
        assert names(f"one{end}") == names(f"two{end}")
        for name in names(f"one{end}"):
            assert Path(f"one{end}", name).read_bytes() == Path(f"two{end}", name).read_bytes()


@pytest.mark.slow
def test_figures_of_another_line_are_not_overwritten(ganformer: Run, tiny_run: Path) -> None:
    line = ["generate", "--images-num", "2", "--mix", "take", "--output-dir", "images"]
    assert ganformer(*line).exit_code == 0
    assert ganformer(*line).exit_code == 0, "the same again"
    before = Path("images-sheets/seed0000-mix-take.png").read_bytes()
    done = ganformer(*line, "--component", "1")
    assert done.exit_code != 0
    assert "seed0000-mix-take.png" in done.stderr
    assert "--overwrite" in done.stderr
    assert Path("images-sheets/seed0000-mix-take.png").read_bytes() == before
    assert ganformer(*line, "--component", "1", "--overwrite").exit_code == 0
    assert Path("images-sheets/seed0000-mix-take.png").read_bytes() != before


def test_soft_maps_are_other_pictures_than_hard_ones(ganformer: Run, tiny_run: Path) -> None:
    line = ["generate", "--images-num", "1", "--layer-maps", "--map-style"]
    for style in ("hard", "soft"):
        assert ganformer(*line, style, "--output-dir", style).exit_code == 0
    assert shape("hard-sheets/seed0000-layer-maps.png") == shape("soft-sheets/seed0000-layer-maps.png")
    hard, soft = (Path(f"{style}-sheets/seed0000-layer-maps.png").read_bytes() for style in ("hard", "soft"))
    assert hard != soft


@pytest.mark.slow
def test_maps_as_arrays(ganformer: Run, tiny_run: Path) -> None:
    line = "generate --seeds 1,4 --maps --layer-maps --maps-format npy --json"
    done = ganformer(*line.split())
    assert done.exit_code == 0, done.stderr
    record = json.loads(done.stdout)["images"][1]
    maps, mask = np.load(record["maps"]), np.load(record["mask"])
    assert (maps.dtype, maps.shape, mask.dtype, mask.shape) == (np.float32, (2, 32, 32), np.uint16, (32, 32))
    (expected,) = sample_seeds(load_snapshot(tiny_run), [4], truncation_psi=0.7, attention=True)
    np.testing.assert_array_equal(maps, expected.maps[-1].probabilities[0].mean(0))
    np.testing.assert_array_equal(mask, maps.argmax(0))
    with np.load(record["layer_maps"]) as layers:
        assert list(layers) == [layer for layer, _ in expected.maps]
        np.testing.assert_array_equal(layers["b8.conv1"], expected.maps[2].probabilities[0])
    before = Path(record["maps"]).stat().st_mtime_ns
    assert json.loads(ganformer(*line.split()).stdout)["kept"] == 2
    assert Path(record["maps"]).stat().st_mtime_ns == before


@pytest.mark.slow
def test_k_gans_components_are_mixed_but_cannot_be_removed(ganformer: Run, own_folder: Path) -> None:
    file = model_file(own_folder / "kgan.safetensors", attention="none", kgan=True, style=True)
    line = ["generate", "--model", file, "--images-num", "2", "--mix"]
    done = ganformer(*line, "take,swap,mean", "--style-mix", "--disentanglement", "--json")
    assert done.exit_code == 0, done.stderr
    for each in json.loads(done.stdout)["mix"]:
        assert min(each["mean_difference"].values()) > 0
    refused = ganformer(*line, "remove", "--output-dir", "removed")
    assert refused.exit_code != 0
    assert "k-GAN" in refused.stderr


@pytest.mark.slow
def test_heads_have_their_own_maps(ganformer: Run, own_folder: Path) -> None:
    file = model_file(own_folder / "heads.safetensors", num_heads=2)
    done = ganformer("generate", "--model", file, "--images-num", "1", "--layer-maps")
    assert done.exit_code == 0, done.stderr
    # The picture and seven layers below one another; all heads, and each.
    height, width = shape("images-sheets/seed0000-layer-maps.png")
    assert height > 8 * 100
    assert 300 < width < 420


# ----- What cannot be shown -----


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--images-num 2 --mix take --component 2", "--component 2: this model has components 0 to 1"),
        ("--images-num 2 --component 1", "--component 1 says which component to move"),
        ("--images-num 1 --mix take", "--mix take needs another image; give --mix-from"),
        ("--images-num 1 --mix swap", "--mix swap needs another image"),
        ("--images-num 2 --mix remove --mix-from 3", "--mix-from 3"),
        ("--mix rotate", "'rotate' is not a mixture; there are take, swap, remove, mean"),
        ("--component-psi 1,many", "'many' is not a number"),
        ("--component-psi 1,inf", "not a finite number"),
        ("--images-num 1 --style-mix", "--style-mix mixes images with one another"),
        ("--images-num 1 --disentanglement", "--disentanglement exchanges components"),
        ("--mix-from -3 --mix take", "--mix-from"),
        ("--map-style fuzzy", "--map-style"),
        ("--maps-format npy", "--maps-format npy says how maps are saved; add --maps or --layer-maps"),
        ("--maps --maps-format mat", "--maps-format"),
    ],
)
def test_wrong_lines_say_what_is_wrong(ganformer: Run, tiny_run: Path, line: str, message: str) -> None:
    done = ganformer("generate", *line.split())
    assert done.exit_code != 0
    assert message in done.stderr
    assert not Path("images").exists(), "nothing is written"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--maps", "--maps: this model has no attention (--attention none)"),
        ("--layer-maps", "--layer-maps: this model has no attention"),
        ("--disentanglement", "--disentanglement: this model has no attention"),
        ("--mix=mean", "--mix mean: this model has no components"),
        ("--component-psi=0", "--component-psi: this model has no components"),
        ("--noise-variation", "--noise-variation: this model has no noise"),
    ],
)
def test_a_model_without_components_or_noise(ganformer: Run, own_folder: Path, option: str, message: str) -> None:
    file = model_file(own_folder / "plain.safetensors", attention="none", components_num=0, local_noise=False)
    done = ganformer("generate", "--model", file, "--images-num", "2", option)
    assert done.exit_code != 0
    assert message in done.stderr
    assert not Path("images").exists()


@pytest.mark.slow
def test_styles_are_mixed_without_components(ganformer: Run, own_folder: Path) -> None:
    file = model_file(own_folder / "plain.safetensors", attention="none", components_num=0)
    done = ganformer("generate", "--model", file, "--images-num", "2", "--style-mix", "--noise-variation")
    assert done.exit_code == 0, done.stderr
