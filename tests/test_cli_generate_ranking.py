"""``ganformer generate --rank realism``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import PIL.Image
import pytest
from click.testing import Result

Run = Callable[..., Result]


@pytest.mark.slow
@pytest.mark.parametrize("format", ["png", "jpg", "npy"])
def test_the_best_and_the_worst(ganformer: Run, tiny_run: Path, format: str) -> None:
    line = ["generate", "--images-num", "12", "--rank", "realism", "--keep", "3", "--format", format, "--json"]
    done = ganformer(*line)
    assert done.exit_code == 0, done.stderr
    assert "VGG16 is not here, so images are compared by their colours" in done.stderr
    answer = json.loads(done.stdout)["ranking"]
    assert answer["features"] == "pixels16"
    ranking = json.loads(Path(answer["file"]).read_text(encoding="utf-8"))
    scores = [each["realism"] for each in ranking["images"]]
    assert scores == sorted(scores, reverse=True)
    assert {each["seed"] for each in ranking["images"]} == set(range(12))
    assert ranking["real_images"] == 64
    for name in ("best", "worst"):
        with PIL.Image.open(answer[name]) as sheet:
            assert sheet.width * sheet.height > 3 * 96 * 96
    before = Path(answer["best"]).stat().st_mtime_ns
    assert ganformer(*line).exit_code == 0
    assert Path(answer["best"]).stat().st_mtime_ns == before, "what is there is kept"
    other = ganformer(*line, "--keep", "4", "--output-dir", "images")
    assert other.exit_code == 1
    assert "best.png: was made with other settings (keep 3 instead of 4)" in other.stderr


@pytest.mark.slow
def test_vgg16_is_used_where_it_is(ganformer: Run, tiny_run: Path, tiny_features: dict[str, int]) -> None:
    done = ganformer("generate", "--images-num", "4", "--rank", "realism", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["ranking"]["features"] == "vgg16"
    assert tiny_features["vgg16"] == 64 + 4
    assert "VGG16" not in done.stderr


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--keep 3", "--keep 3 says how many ranked images to show; add --rank realism"),
        ("--rank beauty", "--rank"),
        ("--rank realism --keep 9 --images-num 8", "--keep 9: there are only 8 images"),
        ("--rank realism --keep 0", "--keep"),
        ("--rank realism --dataset nowhere", "nowhere"),
        ("--rank realism --ratio 0.5", "--rank with --ratio"),
        ("--rank realism --truncation-psi 0,1", "does not go with --rank"),
    ],
)
def test_rankings_that_cannot_be_made(ganformer: Run, tiny_run: Path, line: str, message: str) -> None:
    done = ganformer("generate", *line.split())
    assert done.exit_code != 0
    assert message in done.stderr
    assert not Path("images").exists()
