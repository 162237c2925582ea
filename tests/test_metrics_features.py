"""Feature networks: the same features in every batch, and files of weights that are what they should be."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ganformer_cli.errors import ConfigError, DownloadError, SnapshotError
from ganformer_cli.files import sha256_of
from ganformer_cli.metrics import weights as weights_module
from ganformer_cli.metrics.features import FeatureNetwork, fetch_weights, open_distance, open_network
from ganformer_cli.metrics.inception import Inception
from ganformer_cli.metrics.vgg import Lpips
from ganformer_cli.metrics.weights import CATALOGUE, INCEPTION, LPIPS, VGG16, read_weights

if TYPE_CHECKING:
    from tests.conftest import Server

pytestmark = pytest.mark.not_wine("its process ends now and then in a page fault of Wine's heap, with plain torch too")

Weights = dict[str, Tensor]


def pictures(count: int, height: int = 24, width: int = 32, seed: int = 0) -> Tensor:
    """Smooth ones, unlike each other."""
    coarse = np.random.RandomState(seed).random_sample((count, 3, 4, 4)) * 255
    return torch.nn.functional.interpolate(torch.from_numpy(coarse), (height, width), mode="bilinear").to(torch.uint8)


@pytest.fixture(scope="module")
def network(inception_weights: Weights) -> FeatureNetwork:
    return FeatureNetwork("inception", Inception(inception_weights), weights_sha256="", published=False, resize="tf1")


@pytest.fixture(scope="module")
def file(inception_weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "own.pth"
    torch.save(inception_weights, path)
    return path


# ----- Features -----


@pytest.fixture(scope="module")
def known(network: FeatureNetwork) -> tuple[Tensor, dict[str, Tensor]]:
    """Five pictures and their features: a whole group and a part of one."""
    images = pictures(5)
    return images, network(images)


@pytest.mark.slow
def test_a_picture_has_the_same_features_in_every_batch(
    network: FeatureNetwork, known: tuple[Tensor, dict[str, Tensor]]
) -> None:
    images, together = known
    assert {name: tuple(values.shape) for name, values in together.items()} == {"pool": (5, 2048), "logits": (5, 1008)}
    for batch in ([4], [3, 0]):
        for name, values in network(images[batch]).items():
            torch.testing.assert_close(values, together[name][batch], rtol=1e-4, atol=1e-4)
    assert network(images[:0])["pool"].shape == (0, 2048)


@pytest.mark.slow
def test_number_of_threads_changes_no_bit(network: FeatureNetwork, known: tuple[Tensor, dict[str, Tensor]]) -> None:
    images, together = known
    before = torch.get_num_threads()
    torch.set_num_threads(before + 2)
    try:
        found = network(images)
        assert torch.get_num_threads() == before + 2
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found["pool"], together["pool"])


@pytest.mark.slow
def test_features_are_those_of_old(known: tuple[Tensor, dict[str, Tensor]]) -> None:
    """Golden numbers: of these weights and pictures, as torch-fidelity's network gives them, too."""
    _, found = known
    numbers = {name: [values.mean(), values.std(), *values[1].topk(3).values] for name, values in found.items()}
    for name, expected in GOLDEN.items():
        assert torch.stack(numbers[name]).tolist() == pytest.approx(expected, rel=1e-4), name


GOLDEN = {
    "pool": [4.29153, 6.13208, 48.6521, 46.3702, 40.3923],
    "logits": [-0.0784438, 10.4432, 31.8203, 31.5831, 30.8116],
}


@pytest.mark.slow
def test_folded_norms_and_swapped_means_are_the_network_as_it_is_written(inception_weights: Weights) -> None:
    """One block by hand: norms behind convolutions, the mean before its convolution."""
    network, x = Inception(inception_weights), torch.rand(2, 192, 9, 9)

    def unit(x: Tensor, name: str, padding: int = 0) -> Tensor:
        w = {part: inception_weights[f"Mixed_5b.{name}.{part}"] for part in ("conv.weight", "bn.weight", "bn.bias")}
        mean, var = (inception_weights[f"Mixed_5b.{name}.bn.running_{part}"] for part in ("mean", "var"))
        y = torch.nn.functional.conv2d(x, w["conv.weight"], padding=padding)
        return torch.nn.functional.batch_norm(y, mean, var, w["bn.weight"], w["bn.bias"], eps=1e-3).relu()

    ones = torch.nn.functional.avg_pool2d(torch.ones_like(x), 3, 1, 1)
    mean = torch.nn.functional.avg_pool2d(x, 3, 1, 1) / ones  # only what is inside counts
    expected = torch.cat(
        [
            unit(x, "branch1x1"),
            unit(unit(x, "branch5x5_1"), "branch5x5_2", 2),
            unit(unit(unit(x, "branch3x3dbl_1"), "branch3x3dbl_2", 1), "branch3x3dbl_3", 1),
            unit(mean, "branch_pool"),
        ],
        1,
    )
    from ganformer_cli.metrics.inception import _BLOCKS

    found = torch.cat([network._branch(x, "Mixed_5b", branch) for branch in _BLOCKS["Mixed_5b"]], 1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
def test_a_gpu_gives_the_same_features(inception_weights: Weights, known: tuple[Tensor, dict[str, Tensor]]) -> None:
    images, expected = known
    network = FeatureNetwork(
        "inception", Inception(inception_weights), weights_sha256="", published=False, resize="tf1", device="cuda"
    )
    together = network(images)
    for name, values in together.items():
        scale = float(expected[name].abs().max())
        assert float((values.cpu() - expected[name]).abs().max()) < 1e-5 * scale  # TF32 would be off by 1e-3
        torch.testing.assert_close(network(images[3:])[name], values[3:], rtol=1e-5, atol=1e-6 * scale)


# ----- Files -----


@pytest.mark.slow
def test_weights_of_ones_own_are_read_and_named(file: Path, known: tuple[Tensor, dict[str, Tensor]]) -> None:
    opened = open_network("inception", weights=file, offline=True)
    assert (opened.name, opened.resize, opened.published) == ("inception", "tf1", False)
    assert opened.weights_sha256 == sha256_of(file)
    assert opened.outputs == {"pool": 2048, "logits": 1008}
    images, together = known
    torch.testing.assert_close(opened(images[:4])["pool"], together["pool"][:4], rtol=1e-4, atol=1e-4)


def test_safetensors_will_do_and_what_is_not_needed_is_left(inception_weights: Weights, own_folder: Path) -> None:
    more = {
        **inception_weights,
        "AuxLogits.fc.weight": torch.zeros(2),
        "Conv2d_1a_3x3.bn.num_batches_tracked": torch.tensor(3),
    }
    save_file(more, "own.safetensors")
    found = read_weights(Path("own.safetensors"), Inception.shapes(), "inception")
    assert set(found) == set(inception_weights)


@pytest.mark.slow
def test_published_weights_are_downloaded_once(server: Server, monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    server.content = file.read_bytes()
    monkeypatch.setitem(
        CATALOGUE,
        "inception",
        (replace(INCEPTION, url=server.url, sha256=sha256_of(file), size=len(server.content)),),
    )
    asked = []
    path = fetch_weights("inception", progress=lambda done, total: asked.append((done, total)))
    assert path.read_bytes() == server.content
    assert asked[-1] == (len(server.content), len(server.content))
    opened = open_network("inception", offline=True)
    assert opened.published
    assert len(server.asked) == 1


def test_another_file_at_the_address_is_put_aside(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CATALOGUE, "inception", (replace(INCEPTION, url=server.url, size=len(server.content)),))
    with pytest.raises(DownloadError, match="where 6726825d0af5f729.* is expected"):
        open_network("inception")
    with pytest.raises(DownloadError, match="are missing"):
        open_network("inception", offline=True)


def test_without_weights_it_says_how_to_get_them() -> None:
    with pytest.raises(DownloadError) as caught:
        open_network("inception", offline=True)
    said = str(caught.value)
    for part in ("--fetch", INCEPTION.url, str(INCEPTION.path), "--weights", "swd"):
        assert part in said


@pytest.mark.slow
def test_published_name_with_other_bytes_is_refused(file: Path, own_folder: Path) -> None:
    copy = own_folder / INCEPTION.name
    copy.write_bytes(file.read_bytes()[:-100_000])
    expected = rf"--weights: .*expected.*{copy.stat().st_size} bytes long instead of {INCEPTION.size}"
    with pytest.raises(DownloadError, match=expected):
        open_network("inception", weights=copy)
    with pytest.raises(DownloadError, match="expected"):
        open_network("inception", weights=own_folder)


def broken(path: Path, weights: Weights, how: str) -> None:
    """Write a file of weights that is not what it should be."""
    changed: Any = dict(weights)
    if how == "missing":
        del changed["fc.bias"], changed["Mixed_7c.branch1x1.bn.weight"]
    elif how == "shape":
        changed["fc.bias"] = torch.zeros(1000)
    elif how == "nan":
        changed["Mixed_5b.branch1x1.bn.bias"] = torch.full((64,), torch.nan)
    elif how == "list":
        changed = [1, 2]
    elif how == "code":
        changed = {"fc.bias": Harmful()}
    torch.save(changed, path)
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-1000])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("<html>not found</html>", encoding="utf-8")
    elif how == "none":
        path.unlink()


class Harmful:
    """Would run on unpickling."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("harm"),)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("missing", "no weights of the inception network: .*Mixed_7c.branch1x1.bn.weight.*missing"),
        ("shape", r"fc.bias is \[1000\] instead of \[1008\]"),
        ("nan", "damaged: Mixed_5b.branch1x1.bn.bias"),
        ("list", "no weights by name but a list"),
        ("truncated", "not a readable file of weights.*truncated"),
        ("empty", "not a readable file of weights.*truncated"),
        ("text", "not a readable file of weights.*truncated"),
        ("code", "not a readable file of weights"),
        ("none", "--weights .*own.pth: no such file"),
    ],
)
def test_damaged_files_are_refused(how: str, said: str, inception_weights: Weights, own_folder: Path) -> None:
    shapes = {name: shape for name, shape in Inception.shapes().items() if len(shape) == 1}
    path = own_folder / "own.pth"
    broken(path, {name: inception_weights[name] for name in shapes}, how)
    with pytest.raises(SnapshotError, match=re.compile(said, re.DOTALL)):
        read_weights(path, shapes, "inception")
    assert not Path("harm").exists()


@pytest.mark.parametrize("kept", [0, 5, 3000, -8])
def test_truncated_safetensors_are_refused(kept: int, own_folder: Path) -> None:
    path = own_folder / "own.safetensors"
    save_file({"fc.bias": torch.zeros(1008)}, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(SnapshotError, match=r"own.safetensors: not a readable file of weights .*truncated"):
        read_weights(path, {"fc.bias": (1008,)}, "inception")


def test_unknown_names() -> None:
    with pytest.raises(ConfigError, match="feature network resnet: there are inception, vgg16, dinov2"):
        open_network("resnet")
    with pytest.raises(ConfigError, match="there are inception, vgg16, lpips, dinov2"):
        fetch_weights("resnet")


def test_the_learned_distance_wants_two_files(own_folder: Path) -> None:
    with pytest.raises(ConfigError, match=f"folder with {VGG16.name} and {LPIPS.name}"):
        open_distance(weights=own_folder / "vgg.pth")
    with pytest.raises(SnapshotError, match=f"does not exist.*{VGG16.name}"):
        open_distance(weights=own_folder)
    with pytest.raises(DownloadError, match="weights of the lpips network are missing"):
        open_distance(offline=True)
    assert weights_module.megabytes(LPIPS.size) == "7 kB"
    assert set(Lpips.own_shapes()) == {f"lin{layer}.model.1.weight" for layer in range(5)}
