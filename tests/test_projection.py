"""Projection: images are reproduced, exactly resumed, and what does not fit is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from click.testing import Result

from ganformer_cli.config import ModelConfig
from ganformer_cli.errors import ConfigError, DataError, DownloadError, OutputError, SnapshotError
from ganformer_cli.models import Generator
from ganformer_cli.models.families import build_generator
from ganformer_cli.projection.distance import PerceptualDistance, PixelDistance, open_image_distance
from ganformer_cli.projection.folder import RECORD, ProjectionFolder
from ganformer_cli.projection.images import find_images, read_image
from ganformer_cli.projection.optimization import (
    ProjectionSettings,
    Projector,
    _ramp,
    noise_correlation,
    project,
)
from ganformer_cli.sampling import sample_latents
from ganformer_cli.sampling.components import map_seeds
from tests.small_generators import SMALL_VQGAN

TINY: dict[str, Any] = {"resolution": 8, "components_num": 2, "latent_size": 16, "channel_base": 64, "channel_max": 8}
NO_COMPONENTS: dict[str, Any] = {"attention": "none", "components_num": 0}


def generator(**options: Any) -> Generator:
    torch.manual_seed(0)
    made = build_generator(ModelConfig(**{**TINY, "mapping_num_layers": 2, **options})).eval().requires_grad_(False)
    for name, parameter in made.named_parameters():
        if name.endswith("strength"):
            torch.nn.init.constant_(parameter, 0.1)
    return made


@pytest.fixture(scope="module")
def model() -> Generator:
    return generator()


@pytest.fixture(scope="module")
def targets(model: Generator) -> torch.Tensor:
    """Images that the model makes, of seeds that no random start has."""
    with torch.no_grad():
        return model.synthesis(map_seeds(model, [901, 902]), "const").clamp(-1, 1)


# ----- The optimisation -----


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{}, NO_COMPONENTS, {"attention": "none", "kgan": True}, {"c_dim": 3}, {"local_noise": False, "ratio": 0.5}],
    ids=["duplex", "StyleGAN2", "kGAN", "classes", "rectangle"],
)
def test_a_projection_is_nearer_than_the_mean_and_a_random_image(options: dict[str, Any]) -> None:
    made = generator(**options)
    with torch.no_grad():
        image = made.synthesis(map_seeds(made, [901]), "const").clamp(-1, 1)
    found = project(made, image, steps=40, distance=PixelDistance())
    (distances,) = found.distances
    assert distances["projection"] < 0.7 * min(distances["mean"], distances["random"])
    assert found.latents.shape == (1, made.z_shape[0], made.config.num_ws, made.z_shape[1])
    assert found.noise.keys() == made.noise_shapes().keys()
    (drawn,) = sample_latents(made, found.latents, space="w")
    assert np.abs(drawn.image.astype(int) - found.drawn[0].numpy()).max() <= 1, (
        "generate draws what the projection says"
    )


@pytest.mark.slow
def test_without_noise_maps_generate_draws_the_projection(model: Generator, targets: torch.Tensor) -> None:
    found = project(model, targets, steps=3, distance=PixelDistance(), optimize_noise=False)
    assert not found.noise
    assert torch.equal(found.images, found.drawn)
    for row in found.distances:
        assert row["projection"] == row["model_noise"]


@pytest.mark.slow
def test_resuming_gives_the_same_bits(model: Generator, targets: torch.Tensor) -> None:
    settings = ProjectionSettings(steps=6)

    def begun() -> Projector:
        return Projector(model, targets, PixelDistance(), settings, frames=3)

    whole = begun()
    while not whole.is_done:
        whole.advance()
    half = begun()
    for _ in range(3):
        half.advance()
    rest = begun()
    rest.load_state({name: each.clone() for name, each in half.state().items()}, "a file")
    assert rest.step == 3
    while not rest.is_done:
        rest.advance()
    for name, each in whole.state().items():
        assert torch.equal(each, rest.state()[name]), name
    assert len(whole.frames) == 3
    for damaged in ({}, {**half.state(), "latents": torch.zeros(1)}):
        with pytest.raises(SnapshotError, match="a file: not a state of this projection"):
            begun().load_state(damaged, "a file")


def test_an_images_random_numbers_are_its_own(model: Generator, targets: torch.Tensor) -> None:
    both = Projector(model, targets, PixelDistance(), ProjectionSettings(steps=2))
    second = Projector(model, targets[1:], PixelDistance(), ProjectionSettings(steps=2), first=1)
    for projector in (both, second):
        projector.advance()
    latents = both.latents.detach().unflatten(0, (2, 2))[:, 1]
    torch.testing.assert_close(second.latents.detach(), latents, rtol=1e-4, atol=1e-5)


def test_noise_maps_stay_white(model: Generator, targets: torch.Tensor) -> None:
    projector = Projector(model, targets, PixelDistance(), ProjectionSettings(steps=5))
    while not projector.is_done:
        projector.advance()
    for noise in projector.noise.values():
        torch.testing.assert_close(noise.mean((2, 3)), torch.zeros(4, 1), atol=1e-5, rtol=0)
        torch.testing.assert_close(noise.var((2, 3), correction=0), torch.ones(4, 1), atol=1e-3, rtol=0)


def test_correlation_is_small_for_noise_and_large_for_images() -> None:
    torch.manual_seed(0)
    noise = torch.randn(1, 1, 64, 64)
    smooth = torch.linspace(-1.7, 1.7, 64).expand(1, 1, 64, 64)
    assert noise_correlation([noise]) < 0.1
    assert noise_correlation([smooth]) > 2


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [_ramp(step / 100, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[4:75] == [1.0] * 71
    assert rates[99] < 0.01
    assert all(0 < rate <= 1 for rate in (_ramp(0, 0, 1), *rates))


# ----- Distances -----


@pytest.mark.not_wine("a page fault inside pytest, faulthandler or not; the same calls of torch pass in a plain script")
def test_pixel_distance_means_what_it_says() -> None:
    distance = PixelDistance()
    grey = torch.zeros(1, 3, 32, 32)
    assert distance(grey, grey) == 0
    assert distance(grey + 0.2, grey) == pytest.approx(0.1), "a shift has no gradient, and is the same at all scales"
    stripes = grey.clone()
    stripes[..., ::2], stripes[..., 1::2] = 0.2, -0.2
    assert distance(stripes, grey) < distance(grey + 0.2, grey) + 0.1
    assert distance(torch.ones_like(grey), -torch.ones_like(grey)) == pytest.approx(1.0)


@pytest.mark.slow
def test_lpips_has_gradients_that_are_finite_even_of_black_images() -> None:
    from ganformer_cli.metrics.features import LearnedDistance
    from ganformer_cli.metrics.vgg import Lpips, trunk_shapes

    torch.manual_seed(0)
    shapes = {**trunk_shapes(), **Lpips.own_shapes()}
    weights = {name: torch.rand(shape) - 0.7 for name, shape in shapes.items()}  # nearly no ReLU passes anything
    distance = PerceptualDistance(LearnedDistance(Lpips(weights), weights_sha256="", published=False))
    image = torch.zeros(1, 3, 8, 8).requires_grad_()
    distance(image, torch.ones(1, 3, 8, 8)).sum().backward()
    assert image.grad is not None
    assert image.grad.isfinite().all()


def test_which_distance_is_taken() -> None:
    cpu = torch.device("cpu")
    assert open_image_distance("auto", cpu).name == "pixels"  # the cache of a test is empty
    assert open_image_distance("pixels", cpu).name == "pixels"
    with pytest.raises(DownloadError, match=r"--distance lpips: .*say --distance pixels"):
        open_image_distance("lpips", cpu)


# ----- Images -----


def save(path: Path, mode: str, size: tuple[int, int]) -> Path:
    PIL.Image.new(mode, size).save(path)
    return path


@pytest.mark.parametrize(
    ("mode", "size", "fit", "said"),
    [
        ("RGB", (8, 8), "crop", ""),
        ("RGB", (32, 16), "crop", "32x16 cropped to 16x16 in the middle, shrunk to 8x8"),
        ("RGB", (32, 16), "pad", "32x16 padded with white, shrunk to 8x8"),
        ("RGBA", (8, 8), "crop", "8x8 transparent parts on white"),
        ("L", (16, 16), "crop", "16x16 mode L as RGB, shrunk to 8x8"),
    ],
)
def test_what_is_done_to_an_image_is_said(tmp_path: Path, mode: str, size: Any, fit: Any, said: str) -> None:
    found = read_image(save(tmp_path / "image.png", mode, size), 8, 8, fit)
    assert found.fitted == said
    assert found.pixels.shape == (3, 8, 8)


def test_images_that_cannot_be_projected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"small.png: too small: 4x9 px where 8x8 are needed"):
        read_image(save(tmp_path / "small.png", "RGB", (4, 9)), 8, 8)
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(DataError, match=r"text.png: not an image"):
        read_image(tmp_path / "text.png", 8, 8)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="an empty folder"):
        find_images([tmp_path / "empty"])
    assert [path.name for path in find_images([tmp_path])] == ["small.png", "text.png"]


@pytest.mark.parametrize("steps", [0, -1, 10**9])
def test_absurd_numbers_of_steps(steps: int) -> None:
    with pytest.raises(ConfigError, match=f"steps {steps}: choose a number from 1"):
        ProjectionSettings(steps=steps)


def test_a_vqgan_is_refused_by_name(targets: torch.Tensor) -> None:
    made = build_generator(ModelConfig(**{**TINY, **SMALL_VQGAN}))
    with pytest.raises(ConfigError, match="a VQGAN draws codes"):
        project(made, targets)


@pytest.mark.parametrize("images", [torch.zeros(1, 3, 4, 4), torch.full((1, 3, 8, 8), 3.0), torch.zeros(3, 8, 8)])
def test_images_of_another_size_or_range(model: Generator, images: torch.Tensor) -> None:
    with pytest.raises(ConfigError, match="images (of shape|with values)"):
        project(model, images)


# ----- The folder and the command -----


def test_another_projection_is_left_alone(tmp_path: Path) -> None:
    ProjectionFolder(tmp_path / "out", {"model": "a", "steps": 3}, overwrite=False)
    assert ProjectionFolder(tmp_path / "out", {"model": "a", "steps": 3}, overwrite=False).resumes
    with pytest.raises(OutputError, match=r"holds another projection \(steps differs\)"):
        ProjectionFolder(tmp_path / "out", {"model": "a", "steps": 4}, overwrite=False)
    assert not ProjectionFolder(tmp_path / "out", {"model": "a", "steps": 4}, overwrite=True).resumes
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("")
    with pytest.raises(OutputError, match="holds other files, such as letter.txt"):
        ProjectionFolder(tmp_path / "mine", {}, overwrite=False)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    random = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    PIL.Image.fromarray(random).save(tmp_path / "image.png")
    return tmp_path / "image.png"


@pytest.mark.slow
def test_the_command_and_what_generate_makes_of_it(
    ganformer: Callable[..., Result], tiny_run: Path, image: Path
) -> None:
    words = ["project", image, image, "--steps", "2", "--random-starts", "2", "--film", "gif", "--maps"]
    done = ganformer(*words, "--batch-size", "1", "--json")
    assert done.exit_code == 0, done.stderr
    assert "shrunk to 32x32" in done.stderr
    assert "distance: pixels" in done.stderr
    record = json.loads(done.stdout)
    latents = np.load(record["latents"])
    assert latents.shape == (2, 3, 9, 8)
    for row in record["images"]:
        assert row["distances"].keys() == {"projection", "model_noise", "mean", "random"}
        assert all(Path(row[name]).is_file() for name in ("projection", "film", "maps"))
    assert not Path("projected/state").exists()
    again = ganformer(*words, "--batch-size", "1")
    assert again.exit_code == 0
    assert "steps/s" not in again.stderr, "nothing is done twice"
    drawn = ganformer("generate", "--latents", record["latents"], "--space", "w", "--output-dir", "drawn")
    assert drawn.exit_code == 0, drawn.stderr


@pytest.mark.slow
def test_an_interrupted_projection_goes_on_and_gives_the_same(
    ganformer: Callable[..., Result], tiny_run: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import signal

    words = ["project", image, "--steps", "4", "--random-starts", "2", "--noise", "const"]
    assert ganformer(*words, "--output-dir", "whole").exit_code == 0
    advance, count = Projector.advance, 0

    def interrupted(self: Projector) -> float:
        nonlocal count
        count += 1
        if count == 2:
            signal.raise_signal(signal.SIGINT)
        return advance(self)

    monkeypatch.setattr(Projector, "advance", interrupted)
    stopped = ganformer(*words, "--output-dir", "parts")
    assert stopped.exit_code == 130, stopped.stderr
    assert "the same command resumes" in stopped.stderr
    done = ganformer(*words, "--output-dir", "parts")
    assert done.exit_code == 0, done.stderr
    assert count == 4, "no step is made twice"
    assert Path("whole/projected.npy").read_bytes() == Path("parts/projected.npy").read_bytes()
    assert json.loads(Path("parts", RECORD).read_text())["images"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing.png"], "missing.png"),
        (["IMAGE", "--steps", "0"], "--steps"),
        (["IMAGE", "--steps", "99999999999"], "--steps"),
        (["IMAGE", "--distance", "lpips"], "--distance lpips"),
        ([], "IMAGE"),
    ],
)
def test_wrong_command_lines(
    ganformer: Callable[..., Result], tiny_run: Path, image: Path, words: list[str], message: str
) -> None:
    done = ganformer("project", *(str(image) if word == "IMAGE" else word for word in words))
    assert done.exit_code != 0
    assert message in done.stderr
    assert not Path("projected").exists()
