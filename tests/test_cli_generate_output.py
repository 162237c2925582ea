"""``ganformer generate`` and its folder: what it kept, what is in its way, what a picture says of itself, formats."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
import pytest
from click.testing import Result

from ganformer_cli.checkpoints.snapshots import load_snapshot
from ganformer_cli.files import sha256_of
from ganformer_cli.models import Generator
from ganformer_cli.sampling import image_folder, image_writer, sample
from ganformer_cli.sampling.image_files import read_metadata
from ganformer_cli.sampling.image_folder import INDEX_FILE

Run = Callable[..., Result]


def read(path: Path) -> npt.NDArray[np.uint8]:
    with PIL.Image.open(path) as image:
        return np.asarray(image).transpose(2, 0, 1)


def contents(folder: Path) -> dict[str, bytes]:
    """All files but the lists of what is there."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != INDEX_FILE]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each call of the network has drawn, empty places not counted."""
    counts: list[int] = []
    mapping = Generator.mapping

    def watched(self: Generator, z: Any, *rest: Any, **options: Any) -> Any:
        counts.append(int(z.flatten(1).ne(0).any(1).sum()))
        return mapping(self, z, *rest, **options)

    monkeypatch.setattr(Generator, "mapping", watched)
    return counts


# ----- What a picture says of itself -----


@pytest.mark.parametrize("format", ["png", "jpg", "webp"])
def test_a_picture_says_what_made_it(ganformer: Run, tiny_run: Path, format: str) -> None:
    line = f"generate --seeds 7 --truncation-psi 0.5 --noise none --ratio 0.5 --format {format}"
    assert ganformer(*line.split()).exit_code == 0
    file = Path(f"images/seed0007.{format}")
    model = sha256_of(tiny_run / "snapshots" / "network-snapshot-000002.safetensors")
    expected = {"seed": 7, "truncation_psi": 0.5, "noise": "none", "class": None, "ratio": 0.5, "model": model}
    expected |= {"run": "exp-000", "file": "network-snapshot-000002.safetensors"}
    assert read_metadata(file) == expected
    said = ganformer("info", "--json", file)
    assert json.loads(said.stdout) == {"picture": str(file), **expected}
    assert model in ganformer("info", file).stdout


def test_info_of_other_pictures(ganformer: Run) -> None:
    PIL.Image.new("RGB", (8, 8)).save("holiday.png")
    for name, message in (("holiday.png", "has no metadata of ganformer generate"), ("none.png", "no such file")):
        done = ganformer("info", name)
        assert (done.exit_code, message in done.stderr) == (1, True)


def test_webp_loses_nothing(ganformer: Run, tiny_run: Path) -> None:
    done = ganformer("generate", "--seeds", "2", "--format", "webp", "--truncation-psi", "1")
    assert done.exit_code == 0, done.stderr
    with PIL.Image.open("images/seed0002.webp") as image:
        assert image.format == "WEBP"
    np.testing.assert_array_equal(
        read(Path("images/seed0002.webp")), sample(load_snapshot(tiny_run), [2], truncation_psi=1).numpy()[0]
    )


# ----- Going on -----


@pytest.mark.slow
def test_what_is_there_is_not_drawn_again(ganformer: Run, tiny_run: Path, drawn: list[int]) -> None:
    line = ["generate", "--images-num", "6", "--json"]
    ganformer(*line, "--output-dir", "whole")
    ganformer("generate", "--seeds", "1,4")
    kept = {name: Path("images", name).stat().st_mtime_ns for name in ("seed0001.png", "seed0004.png")}
    drawn.clear()
    done = ganformer(*line)
    assert json.loads(done.stdout)["kept"] == 2
    assert sum(drawn) == 4
    assert {name: Path("images", name).stat().st_mtime_ns for name in kept} == kept
    assert contents(Path("images")) == contents(Path("whole"))
    drawn.clear()
    assert "6 of them there already" in ganformer(*line[:-1]).stdout
    assert drawn == []


@pytest.mark.slow
@pytest.mark.parametrize("format", ["png", "jpg", "webp"])
def test_sheets_of_what_is_there(ganformer: Run, tiny_run: Path, format: str) -> None:
    """A grid, and maps, are the same whether the pictures were there before or not."""
    line = f"generate --images-num 5 --grid --maps --format {format}".split()
    ganformer(*line, "--output-dir", "whole")
    ganformer("generate", "--images-num", "3", "--format", format)
    assert ganformer(*line).exit_code == 0
    assert contents(Path("images")) == contents(Path("whole"))


@pytest.mark.slow
def test_rows_of_latents_go_on_too(ganformer: Run, tiny_run: Path, drawn: list[int]) -> None:
    """Row k stays row k: its noise and its name."""
    np.save("z.npy", np.random.default_rng(0).standard_normal((5, 3, 8), np.float32))
    line = ["generate", "--latents", "z.npy", "--noise", "random"]
    ganformer(*line)
    whole = contents(Path("images"))
    for name in ("image0001.png", "image0003.png", "image0004.png"):
        Path("images", name).unlink()
    drawn.clear()
    assert ganformer(*line).exit_code == 0
    assert contents(Path("images")) == whole
    assert sum(drawn) == 3


@pytest.mark.slow
def test_an_array_of_pictures_and_latents_are_kept(ganformer: Run, tiny_run: Path, drawn: list[int]) -> None:
    line = ["generate", "--images-num", "3", "--format", "npy", "--save-latents"]
    assert ganformer(*line).exit_code == 0
    drawn.clear()
    before = contents(Path("images"))
    assert "3 of them there already" in ganformer(*line).stdout
    assert (contents(Path("images")), drawn) == (before, [])
    for words, file in ((line[:-1], "images.npy"), (["generate", "--save-latents"], "latents.npy")):
        done = ganformer(*words, "--images-num", "4", "--output-dir", "images")
        assert done.exit_code == 1
        assert f"{Path('images', file)}: was made with other settings (" in done.stderr
        assert contents(Path("images")) == before
    assert ganformer(*line, "--images-num", "4", "--overwrite").exit_code == 0
    assert len(np.load("images/images.npy")) == len(np.load("images/latents.npy")) == 4


@pytest.mark.slow
def test_a_folder_of_an_older_version_is_known(ganformer: Run, tiny_run: Path, drawn: list[int]) -> None:
    """They had no images.json: each file says itself what it is made from."""
    words = "generate --images-num 3 --grid --maps --interpolate --interpolation-density 2 --json"
    line = words.split()
    assert ganformer(*line).exit_code == 0
    before = {path: path.stat().st_mtime_ns for path in Path().glob("images*/*.[pg]*")}
    for index in Path().glob("images*/images.json"):
        index.unlink()
    drawn.clear()
    done = ganformer(*line)
    assert json.loads(done.stdout)["kept"] == 3
    assert drawn == []
    assert {path: path.stat().st_mtime_ns for path in before} == before
    refused = ganformer(*line, "--noise", "none", "--output-dir", "images")
    assert "noise const instead of none" in refused.stderr


def test_many_pictures_lie_in_folders(ganformer: Run, tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_folder, "MAX_IN_FOLDER", 4)
    for module in (image_folder, image_writer):
        monkeypatch.setattr(module, "SUBFOLDER_SIZE", 3)
    line = ["generate", "--images-num", "8", "--json"]
    done = ganformer(*line)
    assert done.exit_code == 0, done.stderr
    expected = {f"00000{k // 3}/seed000{k}.png" for k in range(8)}
    assert contents(Path("images")).keys() == expected
    answer = json.loads(done.stdout)
    assert [Path(folder).name for folder in answer["folders"]] == ["000000", "000001", "000002"]
    listed = json.loads(Path("images/000001", INDEX_FILE).read_text(encoding="utf-8"))["files"]
    assert list(listed) == ["seed0003.png", "seed0004.png", "seed0005.png"]
    assert (answer["images_num"], "images" in answer) == (8, False)
    Path("images/000001/seed0004.png").unlink()
    assert json.loads(ganformer(*line).stdout)["kept"] == 7
    assert contents(Path("images")).keys() == expected


@pytest.mark.slow
def test_the_same_line_goes_on_after_a_kill(ganformer: Run, tiny_run: Path) -> None:
    line = "generate --batch-size 4 --output-dir"
    words = f"{line} killed --images-num 5000".split()
    process = subprocess.Popen([sys.executable, "-m", "ganformer_cli", *words], stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None and len(list(Path("killed").glob("*.png"))) < 20:
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    made = sorted(Path("killed").glob("*.png"))
    assert 20 <= len(made) < 5000
    for file in made:
        read(file)  # each is whole
    Path("killed/.seed0010.png.abcd1234.part").write_bytes(b"half of a pict")
    last = int(made[-1].stem.removeprefix("seed"))
    done = ganformer(*line.split(), "killed", "--seeds", f"0-{last + 5}")
    assert done.exit_code == 0, done.stderr
    assert f"{len(made)} of them there already" in done.stdout
    found = contents(Path("killed"))
    assert ".seed0010.png.abcd1234.part" not in found
    ganformer(*line.split(), "once", "--seeds", f"0-9,{last - 3}-{last + 5}")
    for name, data in contents(Path("once")).items():
        assert found[name] == data


# ----- What is in the way -----


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "difference"),
    [
        ("--truncation-psi 1", "truncation psi 0.7 instead of 1"),
        ("--noise none", "noise const instead of none"),
        ("--ratio 0.5", "ratio none instead of 0.5"),
        ("--model results/exp-000/snapshots/network-snapshot-000001.safetensors", "the model"),
    ],
)
def test_pictures_made_otherwise_are_not_replaced(
    ganformer: Run, tiny_run: Path, drawn: list[int], words: str, difference: str
) -> None:
    assert ganformer("generate", "--seeds", "3").exit_code == 0
    before = contents(Path("images"))
    drawn.clear()
    line = ["generate", "--seeds", "1-3", "--output-dir", "images", *words.split()]
    done = ganformer(*line)
    assert done.exit_code == 1
    assert f"{Path('images', 'seed0003.png')}: was made with other settings ({difference})" in done.stderr
    assert "--overwrite" in done.stderr
    assert (contents(Path("images")), drawn) == (before, [])
    assert ganformer(*line, "--overwrite").exit_code == 0
    assert contents(Path("images"))["seed0003.png"] != before["seed0003.png"]


def test_other_latents_make_other_pictures(ganformer: Run, tiny_run: Path) -> None:
    latents = np.random.default_rng(0).standard_normal((2, 3, 8), np.float32)
    np.save("z.npy", latents)
    assert ganformer("generate", "--latents", "z.npy").exit_code == 0
    np.save("z.npy", latents[::-1])
    done = ganformer("generate", "--latents", "z.npy", "--output-dir", "images")
    assert done.exit_code == 1
    assert "image0000.png: was made with other settings (the latents)" in done.stderr


@pytest.mark.parametrize("name", ["notes.txt", "holiday.jpg", "seed0001.png", "more/of.txt"])
def test_a_folder_that_holds_other_files(ganformer: Run, tiny_run: Path, name: str) -> None:
    file = Path("images", name)
    file.parent.mkdir(parents=True)
    if file.suffix == ".txt":
        file.write_text("mine", encoding="utf-8")
    else:
        PIL.Image.new("RGB", (8, 8)).save(file)
    before = contents(Path("images"))
    done = ganformer("generate", "--seeds", "1", "--grid", "--output-dir", "images")
    assert done.exit_code == 1
    assert not Path("images-sheets").exists()
    assert "images" in done.stderr
    assert file.parts[1] in done.stderr
    assert "--overwrite" in done.stderr
    assert contents(Path("images")) == before
    assert ganformer("generate", "--seeds", "1", "--grid", "--overwrite", "--output-dir", "images").exit_code == 0
    assert (file.read_bytes() != before[name]) == (name == "seed0001.png")


@pytest.mark.slow
def test_sheets_of_other_pictures_are_not_replaced(ganformer: Run, tiny_run: Path) -> None:
    assert ganformer("generate", "--seeds", "1,2", "--grid", "--maps").exit_code == 0
    before = contents(Path("images-sheets"))
    for words, said in (
        ("--seeds 2,3 --grid", "grid.png: was made with other settings (the choice of images)"),
        ("--seeds 1 --maps --map-style soft", "seed0001-maps.png: was made with other settings (map style"),
        (
            "--seeds 1 --maps --format npy --truncation-psi 1",
            "seed0001-maps.png: was made with other settings",
        ),
    ):
        done = ganformer("generate", "--output-dir", "images", *words.split())
        assert done.exit_code == 1
        assert said in done.stderr
        assert contents(Path("images-sheets")) == before
    # Other pictures of the same kind may lie beside them.
    assert ganformer("generate", "--seeds", "5", "--maps").exit_code == 0


def test_a_picture_that_cannot_be_written(ganformer: Run, tiny_run: Path) -> None:
    Path("images/seed0002.png/inside").mkdir(parents=True)
    done = ganformer("generate", "--seeds", "0-40", "--overwrite")
    assert done.exit_code == 1
    assert f"cannot write {Path('images', 'seed0002.png')}" in done.stderr
    assert not list(Path("images").glob(".*"))


def test_litter_of_the_system_is_nobodys(ganformer: Run, tiny_run: Path) -> None:
    Path("images").mkdir()
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        Path("images", name).write_bytes(b"")
    assert ganformer("generate", "--seeds", "1").exit_code == 0


@pytest.mark.slow
def test_without_a_folders_name_the_first_free_one(ganformer: Run, tiny_run: Path, drawn: list[int]) -> None:
    Path("images").mkdir()
    Path("images/notes.txt").write_text("mine", encoding="utf-8")
    for psi, folder in (("1", "images-001"), ("0.5", "images-002"), ("1", "images-001")):
        done = ganformer("generate", "--seeds", "3", "--truncation-psi", psi)
        assert done.exit_code == 0, done.stderr
        assert f"warning: images holds other files, so these go to {folder}" in done.stderr
        about = read_metadata(Path(folder, "seed0003.png"))
        assert about is not None
        assert about["truncation_psi"] == float(psi)
    assert len(drawn) == 2  # the third is the first again
    assert [path.name for path in Path("images").iterdir()] == ["notes.txt"]


# ----- Sheets lie apart -----


@pytest.mark.slow
def test_a_folder_of_images_stays_one(ganformer: Run, tiny_run: Path) -> None:
    """Whatever is drawn of the images, other programs find the images alone, in the folder and below it."""
    line = "generate --images-num 3 --grid --maps --mix mean --noise-variation --interpolate --film frames"
    done = ganformer(*line.split(), "--output-dir", "out", "--json")
    assert done.exit_code == 0, done.stderr
    assert contents(Path("out")).keys() == {"seed0000.png", "seed0001.png", "seed0002.png"}
    answer = json.loads(done.stdout)
    assert Path(answer["grid"]) == Path("out-sheets/grid.png")
    assert Path(answer["images"][0]["maps"]) == Path("out-sheets/seed0000-maps.png")
    assert Path(answer["noise_variation"]).is_file()
    again = ganformer(*line.split(), "--output-dir", "out", "--json")
    assert json.loads(again.stdout)["kept"] == 3
    line = "generate --images-num 1 --grid --output-dir elsewhere/there --sheets-dir drawn"
    assert ganformer(*line.split()).exit_code == 0
    assert contents(Path("drawn")).keys() == {"grid.png"}
    assert contents(Path("elsewhere")).keys() == {"there/seed0000.png"}


@pytest.mark.slow
def test_a_folder_of_sheets_that_holds_other_files(ganformer: Run, tiny_run: Path) -> None:
    Path("out-sheets").mkdir()
    Path("out-sheets/notes.txt").write_text("mine", encoding="utf-8")
    line = ["generate", "--seeds", "1", "--output-dir", "out"]
    done = ganformer(*line, "--grid")
    assert done.exit_code == 1
    assert "--sheets-dir out-sheets: holds other files, such as notes.txt" in done.stderr
    assert not Path("out").exists()
    assert ganformer(*line).exit_code == 0  # nothing is drawn there
    assert ganformer(*line, "--grid", "--overwrite").exit_code == 0
    assert contents(Path("out-sheets"))["notes.txt"] == b"mine"


@pytest.mark.slow
def test_sheets_among_the_images_are_no_images(ganformer: Run, tiny_run: Path) -> None:
    """As earlier versions put them there, or --sheets-dir."""
    line = "generate --images-num 3 --grid --maps --mix mean --interpolate --training-film --rank realism"
    assert ganformer(*line.split(), "--output-dir", "out", "--sheets-dir", "out").exit_code == 0
    assert len(contents(Path("out"))) == 3 + 1 + 3 + 3 + 2 + 2 + 3
    with zipfile.ZipFile("out.zip", "w") as archive:
        for name, data in contents(Path("out")).items():
            archive.writestr(name, data)
    for path in ("out", "out.zip"):
        made = ganformer("prepare", path, "--name", "made", "--overwrite", "--workers", "1", "--strict")
        assert made.exit_code == 0, made.stderr
        assert "made: 3 images of 32x32 px" in made.stdout
        assert "13 figures drawn by ganformer generate are left out" in made.stdout
        scored = ganformer("eval", "--images", path, "--reals", "datasets/made", "--json")
        assert json.loads(scored.stdout)["swd"] == 0
        assert "13 figures drawn by ganformer generate are left out" in scored.stderr


# ----- Several psi -----


@pytest.mark.slow
def test_a_sheet_over_psi(ganformer: Run, tiny_run: Path) -> None:
    done = ganformer(*["generate", "--seeds", "4,5", "--truncation-psi", "0,0.5,1", "--output-dir", "psi", "--json"])
    assert done.exit_code == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["truncation_psi"] == [0, 0.5, 1]
    names = {f"seed000{seed}-psi{psi}.png" for seed in (4, 5) for psi in ("0", "0.5", "1")}
    assert contents(Path("psi")).keys() == names
    assert {(each["seed"], each["truncation_psi"]) for each in answer["images"]} == {
        (seed, psi) for seed in (4, 5) for psi in (0, 0.5, 1)
    }
    model = load_snapshot(tiny_run)
    for psi in (0, 0.5, 1):
        expected = sample(model, [4, 5], truncation_psi=psi).numpy()
        for seed, picture in zip((4, 5), expected, strict=True):
            np.testing.assert_array_equal(read(Path(f"psi/seed000{seed}-psi{psi:g}.png")), picture)
    sheet = read(Path("psi-sheets/truncation.png"))
    for seed, row in ((4, 0), (5, 1)):
        # A picture of 32 is shown at 96, in a frame of 2, at the right and bottom of the captions.
        bottom, right = sheet.shape[1] - (1 - row) * 100 - 2, sheet.shape[2] - 2
        cell = sheet[:, bottom - 96 : bottom, right - 96 : right]
        np.testing.assert_array_equal(cell[:, ::3, ::3], read(Path(f"psi/seed000{seed}-psi1.png")))


def test_psis_that_look_alike_have_names_of_their_own(ganformer: Run, tiny_run: Path) -> None:
    done = ganformer(*["generate", "--seeds", "1", "--truncation-psi", "0.70000001,0.70000002,0.70000002", "--json"])
    files = [each["file"] for each in json.loads(done.stdout)["images"]]
    assert len(files) == len(set(files)) == 2
