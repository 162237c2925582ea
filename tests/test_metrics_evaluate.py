"""Scores of a model or of images: what is compared, what is written down about it, and what is said of it."""

from __future__ import annotations

import copy
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ganformer_cli import __version__
from ganformer_cli.config import ModelConfig
from ganformer_cli.data import ImageDataset, open_dataset
from ganformer_cli.errors import ConfigError, DataError, GanformerError, OutputError
from ganformer_cli.metrics import frechet, inception_score, kernel_distance, manifold
from ganformer_cli.metrics.cache import Cache
from ganformer_cli.metrics.diversity import diversity_ratio
from ganformer_cli.metrics.evaluate import evaluate
from ganformer_cli.metrics.opening import FeatureNetworks, open_networks
from ganformer_cli.metrics.plan import default_num_images
from ganformer_cli.metrics.registry import METRICS, parse_metrics
from ganformer_cli.metrics.sliced_wasserstein import sliced_wasserstein
from ganformer_cli.metrics.sources import open_images
from ganformer_cli.metrics.statistics import GaussianStatistics
from ganformer_cli.models import Generator, LabelDistribution
from ganformer_cli.models.precision import use_half
from ganformer_cli.sampling import sample

WITH_FEATURES = ("fid", "kid", "is", "pr", "dc", "fd_dinov2")
CPU = torch.device("cpu")


def generator(c_dim: int = 0, ratio: float = 1.0) -> Generator:
    torch.manual_seed(0)
    small = {"resolution": 32, "components_num": 2, "latent_size": 16, "channel_base": 256, "channel_max": 16}
    return Generator(ModelConfig(c_dim=c_dim, ratio=ratio, **small)).eval()  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def model() -> Generator:
    return generator()


@pytest.fixture(scope="module")
def scenes() -> ImageDataset:
    return open_dataset("scenes", resolution=32, max_images=48)


@pytest.fixture
def networks(tiny_features: dict[str, int]) -> FeatureNetworks:
    return open_networks(WITH_FEATURES, weights={}, resize=None, device=CPU)[0]


class Labelled(ImageDataset):
    """Grey pictures with a label of three classes; of ``only`` one, if given."""

    label_dim = 3

    def __init__(self, only: int | None = None) -> None:
        super().__init__("labelled", 32, 32, 1.0, 30, "f" * 64)
        self.only = only

    def label(self, index: int) -> np.ndarray:
        return np.eye(3, dtype=np.float32)[index % 3 if self.only is None else self.only]

    def _load(self, index: int) -> np.ndarray:
        return np.full((3, 32, 32), index, np.uint8)


class Given(ImageDataset):
    """Pictures in memory."""

    def __init__(self, pictures: np.ndarray, name: str = "given") -> None:
        height, width = pictures.shape[2:]
        super().__init__(name, height, width, height / width, len(pictures), f"{pictures.sum():064d}")
        self.pictures = pictures

    def _load(self, index: int) -> np.ndarray:
        return self.pictures[index]


@pytest.mark.slow
def test_scores_are_those_of_the_pictures_that_generate_draws(model: Generator, scenes: ImageDataset) -> None:
    scores = evaluate(model, scenes, num_images=20)
    chosen = np.random.default_rng(0).permutation(48)[:20]
    reals = np.stack([scenes.image(int(i)) for i in chosen])
    fakes = sample(model, range(20), truncation_psi=1).numpy()
    expected = sliced_wasserstein(reals, fakes)
    assert scores["swd"] == expected.pop("mean")
    assert scores["swd_levels"] == expected
    assert scores["diversity"] == diversity_ratio(fakes, reals)


@pytest.mark.slow
def test_scores_of_features_are_those_of_these_pictures(
    model: Generator, scenes: ImageDataset, networks: FeatureNetworks
) -> None:
    scores = evaluate(model, scenes, num_images=40, metrics=WITH_FEATURES, networks=networks)
    chosen = np.random.default_rng(0).permutation(48)[:40]
    sets = (
        torch.from_numpy(np.stack([scenes.image(int(i)) for i in chosen])),
        sample(model, range(40), truncation_psi=1),
    )
    inception, vgg, dino = (networks.features[name] for name in ("inception", "vgg16", "dinov2"))
    for key, network, output in (("fid", inception, "pool"), ("fd_dinov2", dino, "cls")):
        sides = []
        for pictures in sets:
            sides.append(GaussianStatistics())
            sides[-1].add(network(pictures)[output])
        assert scores[key] == frechet.frechet_distance(*sides)
    pools = [inception(pictures)["pool"] for pictures in sets]
    assert (scores["kid"], scores["kid_std"]) == kernel_distance.kernel_distance(*pools)
    assert (scores["is"], scores["is_std"]) == inception_score.inception_score(inception(sets[1])["logits"])
    rows = [vgg(pictures)["fc2"] for pictures in sets]
    assert (scores["precision"], scores["recall"]) == manifold.precision_recall(*rows)
    assert (scores["density"], scores["coverage"]) == manifold.density_coverage(*rows)


@pytest.mark.slow
def test_batch_size_does_not_change_a_score_but_the_seed_does(
    model: Generator, scenes: ImageDataset, networks: FeatureNetworks
) -> None:
    how: dict[str, Any] = {"num_images": 12, "metrics": ["swd", "fid"], "networks": networks}
    first = evaluate(model, scenes, batch_size=1, **how)
    assert evaluate(model, scenes, batch_size=7, **how) == first
    other = evaluate(model, scenes, seed=1, **how)
    assert other["swd"] != first["swd"]
    assert other["fid"] != first["fid"]


@pytest.mark.slow
def test_the_floor_is_far_below_an_untrained_model(model: Generator, scenes: ImageDataset) -> None:
    scores = evaluate(model, scenes, num_images=24, floor=True)
    assert scores["swd_floor_images"] == 24
    assert 0 < scores["swd_floor"] < scores["swd"] / 3


@pytest.mark.slow
def test_a_small_data_set_gives_its_halves_to_the_floor(model: Generator, scenes: ImageDataset) -> None:
    assert evaluate(model, scenes, num_images=40, floor=True)["swd_floor_images"] == 24


def test_only_what_is_asked_for(model: Generator, scenes: ImageDataset) -> None:
    diversity = evaluate(model, scenes, num_images=4, metrics=["diversity"], floor=True)
    assert set(diversity) == {"diversity", "provenance"}
    distance = evaluate(model, scenes, num_images=4, metrics=["swd"])
    assert set(distance) == {"swd", "swd_levels", "provenance"}


@pytest.mark.slow
def test_provenance_says_what_was_compared(model: Generator, scenes: ImageDataset, networks: FeatureNetworks) -> None:
    scores = evaluate(
        model, scenes, num_images=60, seed=3, truncation_psi=0.5, metrics=["swd", "fid", "is"], networks=networks
    )
    provenance = scores["provenance"]
    assert provenance["metrics"]["swd"] == {"version": "swd-1", "num_reals": 48, "num_fakes": 48}
    assert provenance["metrics"]["fid"] == {
        "version": "fid-1", "num_reals": 48, "num_fakes": 60,
        "network": "inception", "weights_sha256": "f" * 64, "resize": "tf1",
    }  # fmt: skip
    assert provenance["metrics"]["is"]["num_reals"] == 0
    assert (provenance["num_reals"], provenance["num_fakes"], provenance["seed"]) == (48, 60, 3)
    assert (provenance["truncation_psi"], provenance["class"]) == (0.5, None)
    assert provenance["dataset_fingerprint"] == scenes.fingerprint
    assert (provenance["ganformer"], provenance["torch"]) == (__version__, torch.__version__)
    assert (provenance["device"], provenance["precision"]) == ("cpu", "float32")


def test_provenance_says_in_what_the_generator_computed(model: Generator, scenes: ImageDataset) -> None:
    generator = copy.deepcopy(model)
    use_half(generator, torch.bfloat16)
    provenance = evaluate(generator, scenes, num_images=4, metrics=["diversity"])["provenance"]
    assert provenance["precision"] == "float32; the generator's features in bfloat16"


def test_no_more_reals_than_there_are(model: Generator, scenes: ImageDataset) -> None:
    assert default_num_images(scenes) == 48
    own = evaluate(model, scenes, num_images=60, metrics=["diversity"])["provenance"]["metrics"]["diversity"]
    assert (own["num_reals"], own["num_fakes"]) == (48, 48)


@pytest.mark.slow
def test_path_lengths_are_the_models_own(
    model: Generator, scenes: ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ganformer_cli.metrics import path_length

    class Squares:
        name, weights_sha256, device = "lpips", "e" * 64, CPU

        def __call__(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
            return (one.double() - other.double()).square().flatten(1).mean(1)

    networks = FeatureNetworks(distance=Squares())  # type: ignore[arg-type]
    names = parse_metrics("ppl")
    scores = evaluate(model, scenes, num_images=20, truncation_psi=0.5, metrics=names, networks=networks)
    expected = path_length.perceptual_path_length(model, Squares(), space="w", end=True, pairs=20)  # type: ignore[arg-type]
    assert (scores["ppl_wend"], scores["ppl_wend_std"]) == expected
    assert len({scores[name] for name in names}) == 4
    own = scores["provenance"]["metrics"]["ppl_zfull"]
    assert (own["num_fakes"], own["truncation_psi"], own["weights_sha256"]) == (20, 1.0, "e" * 64)
    with pytest.raises(ConfigError, match="ppl_zend: needs a model"):
        evaluate(scenes, scenes, metrics=["ppl_zend"], networks=networks)


# ----- Classes -----


@pytest.mark.slow
def test_samples_have_the_labels_of_the_reals_they_are_compared_with() -> None:
    model, dataset = generator(c_dim=3), Labelled()
    chosen = np.random.default_rng(0).permutation(30)
    labels = [dataset.label(int(chosen[i % 30])) for i in range(40)]
    fakes = sample(model, range(40), truncation_psi=1, labels=labels).numpy()
    reals = np.stack([dataset.image(int(i)) for i in chosen])
    scores = evaluate(model, dataset, num_images=40, metrics=["diversity"])
    assert scores["diversity"] == diversity_ratio(fakes[:30], reals)


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (LabelDistribution.from_labels(np.eye(3)[:2] / 2, 3), "has classes for labels, this model takes vectors"),
        (
            LabelDistribution.from_labels(np.array([0, 1]), 3, ["a", "b", "c"]),
            "calls a class x that is b to this model",
        ),
    ],
)
def test_labels_of_another_meaning_are_refused(kept: LabelDistribution, message: str) -> None:
    model, dataset = generator(c_dim=3), Labelled()
    model.label_distribution, dataset.class_names = kept, ["a", "x", "c"]
    with pytest.raises(DataError, match=message):
        evaluate(model, dataset, num_images=4, metrics=["diversity"])


def test_one_class_is_compared_with_its_own_reals() -> None:
    model, dataset = generator(c_dim=3), Labelled()
    scores = evaluate(model, dataset, num_images=8, metrics=["diversity"], class_index=1)
    chosen = np.arange(1, 30, 3)[np.random.default_rng(0).permutation(10)][:8]
    fakes = sample(model, range(8), truncation_psi=1, labels=np.eye(3, dtype=np.float32)[1]).numpy()
    assert scores["diversity"] == diversity_ratio(fakes, np.stack([dataset.image(int(i)) for i in chosen]))
    assert scores["provenance"]["class"] == 1


def test_classes_that_cannot_be(model: Generator, scenes: ImageDataset) -> None:
    with pytest.raises(DataError, match="--class 1: --dataset scenes has no labels"):
        evaluate(model, scenes, class_index=1)
    with pytest.raises(DataError, match="has the classes 0 to 2"):
        evaluate(generator(c_dim=3), Labelled(), class_index=3)
    with pytest.raises(DataError, match="has 0 images of --class 2"):
        evaluate(generator(c_dim=3), Labelled(only=0), class_index=2)
    with pytest.raises(ConfigError, match="this model knows no classes"):
        evaluate(model, Labelled(), class_index=1)


def test_reals_of_one_class_only_are_told() -> None:
    said: list[str] = []
    evaluate(generator(c_dim=3), Labelled(only=2), num_images=4, metrics=["diversity"], warn=said.append)
    assert said == ["all images of --dataset labelled that are compared are of class 2, of 3"]


# ----- Meaning -----


def noisy(pictures: np.ndarray, amount: float) -> np.ndarray:
    noise = np.random.default_rng(1).normal(0, amount, pictures.shape)
    return np.clip(pictures + noise, 0, 255).astype(np.uint8)


@pytest.mark.slow
def test_distances_of_identical_sets_are_nothing_and_grow_with_damage(
    scenes: ImageDataset, networks: FeatureNetworks
) -> None:
    whole = np.stack([scenes.image(i) for i in range(48)])
    found = {}
    for amount in (0, 20, 80):
        fakes = Given(noisy(whole, amount))
        found[amount] = evaluate(fakes, scenes, metrics=["swd", "fid", "kid", "fd_dinov2"], networks=networks)
    assert found[0]["swd"] == 0
    assert found[0]["fid"] == pytest.approx(0, abs=1e-6)
    for name in ("swd", "fid", "kid", "fd_dinov2"):
        assert found[0][name] < found[20][name] < found[80][name]


def test_collapsed_samples_are_precise_and_recall_nothing(scenes: ImageDataset, networks: FeatureNetworks) -> None:
    one = np.stack([scenes.image(0)] * 48)
    scores = evaluate(Given(one), scenes, metrics=["pr", "dc", "diversity"], networks=networks)
    assert scores["precision"] == 1
    assert scores["recall"] <= 1 / 48
    assert scores["coverage"] < 0.5
    assert scores["diversity"] == 0


# ----- Pictures instead of a model -----


@pytest.mark.slow
def test_pictures_are_read_from_folders_zips_and_arrays_alike(
    tmp_path: Path, scenes: ImageDataset, networks: FeatureNetworks
) -> None:
    import zipfile

    pictures = np.stack([scenes.image(i) for i in range(20, 40)])
    np.save(tmp_path / "raw.npy", pictures)
    np.save(tmp_path / "float.npy", pictures.astype(np.float32) / 127.5 - 1)
    (tmp_path / "folder").mkdir()
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for number, picture in enumerate(pictures):
            file = tmp_path / "folder" / f"{number:03d}.png"
            Image.fromarray(picture.transpose(1, 2, 0)).save(file)
            archive.write(file, file.name)
    scores = [
        evaluate(open_images(tmp_path / name, "--images"), scenes, metrics=["swd", "fid"], networks=networks)
        for name in ("folder", "all.zip", "raw.npy", "float.npy")
    ]
    assert len({(each["swd"], each["fid"]) for each in scores}) == 1
    own = scores[0]["provenance"]
    assert (own["metrics"]["fid"]["num_reals"], own["metrics"]["fid"]["num_fakes"]) == (48, 20)
    assert own["metrics"]["swd"]["num_reals"] == 20
    assert "truncation_psi" not in own
    assert own["images"] == "folder"


def test_pictures_of_another_size_compare_by_features_only(scenes: ImageDataset, networks: FeatureNetworks) -> None:
    said: list[str] = []
    smaller, narrower = Given(np.zeros((8, 3, 16, 16), np.uint8)), Given(np.zeros((8, 3, 16, 32), np.uint8))
    with pytest.raises(DataError, match="images of 32x32, --images given of 16x16: swd compare pixels"):
        evaluate(smaller, scenes, metrics=["swd", "fid"], networks=networks)
    evaluate(smaller, scenes, metrics=["fid"], networks=networks, warn=said.append)
    assert "another resolution" in said[0]
    evaluate(narrower, scenes, metrics=["fid"], networks=networks, warn=said.append)
    assert any("another ratio" in text for text in said)


def test_arrays_that_hold_no_pictures(tmp_path: Path, scenes: ImageDataset) -> None:
    broken = np.zeros((4, 3, 32, 32), np.float32)
    broken[2, 1, 3, 4] = np.nan
    np.save(tmp_path / "nan.npy", broken)
    with pytest.raises(DataError, match="image 2 holds NaN or infinite values"):
        evaluate(open_images(tmp_path / "nan.npy", "--images"), scenes, metrics=["diversity"])
    np.save(tmp_path / "flat.npy", np.zeros((4, 32, 32, 5), np.uint8))
    with pytest.raises(DataError, match=r"--images .*flat.npy: uint8 \[4, 32, 32, 5\]; images are uint8, uint16"):
        open_images(tmp_path / "flat.npy", "--images")
    np.save(tmp_path / "objects.npy", np.array([{}], object))
    with pytest.raises(DataError, match="objects.npy: not a readable numpy array"):
        open_images(tmp_path / "objects.npy", "--images")


# ----- The reals' statistics are kept -----


@pytest.mark.slow
def test_reals_are_looked_at_once(
    tmp_path: Path, model: Generator, scenes: ImageDataset, networks: FeatureNetworks, tiny_features: dict[str, int]
) -> None:
    cache = Cache(tmp_path)
    how: dict[str, Any] = {"num_images": 20, "metrics": ["fid", "kid", "pr"], "networks": networks, "cache": cache}
    first = evaluate(model, scenes, **how)
    assert tiny_features == {"inception": 40, "vgg16": 40}
    tiny_features.clear()
    assert evaluate(model, scenes, **how) == first
    assert tiny_features == {"inception": 20, "vgg16": 20}
    evaluate(model, scenes, seed=1, **how)
    assert tiny_features["inception"] == 60  # other reals
    uncached = evaluate(model, scenes, **{**how, "cache": None})
    assert uncached == first


@pytest.mark.slow
def test_statistics_of_other_conditions_are_not_taken(
    tmp_path: Path, model: Generator, scenes: ImageDataset, networks: FeatureNetworks, tiny_features: dict[str, int]
) -> None:
    cache = Cache(tmp_path)
    evaluate(model, scenes, num_images=20, metrics=["fid"], networks=networks, cache=cache)
    others = open_networks(["fid"], weights={}, resize="clean", device=CPU)[0]
    for changed, asked in ((others, 20), (networks, 21)):
        tiny_features.clear()
        evaluate(model, scenes, num_images=asked, metrics=["fid"], networks=changed, cache=cache)
        assert tiny_features["inception"] == 2 * asked


def test_a_picture_that_changes_under_its_name_is_looked_at_again(
    tmp_path: Path, scenes: ImageDataset, networks: FeatureNetworks
) -> None:
    """Of uncompressed pictures name and size stay the same."""
    folder = tmp_path / "reals"
    folder.mkdir()
    for index in range(20):
        Image.fromarray(scenes.image(index).transpose(1, 2, 0)).save(folder / f"{index}.bmp")
    cache, fakes = Cache(tmp_path / "cache"), Given(np.stack([scenes.image(i) for i in range(20)]))

    def fid() -> float:
        reals = open_images(folder, "--reals")
        return float(evaluate(fakes, reals, metrics=["fid"], networks=networks, cache=cache)["fid"])

    assert fid() == pytest.approx(0, abs=1e-9)
    Image.fromarray(255 - scenes.image(0).transpose(1, 2, 0)).save(folder / "0.bmp")
    assert fid() > 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut", "flipped", "swapped", "empty"])
def test_damaged_statistics_are_noticed_and_made_anew(
    tmp_path: Path, model: Generator, scenes: ImageDataset, networks: FeatureNetworks, damage: str
) -> None:
    said: list[str] = []
    cache = Cache(tmp_path, said.append)
    how: dict[str, Any] = {"num_images": 20, "metrics": ["fid"], "networks": networks, "cache": cache}
    first = evaluate(model, scenes, **how)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    if damage == "swapped":  # a whole entry under another one's name
        evaluate(model, scenes, **{**how, "num_images": 19})
        (other,) = set(tmp_path.iterdir()) - {file}
        other.replace(file)
    else:
        changed = {"cut": whole[:-100], "flipped": whole[:-9] + bytes([whole[-9] ^ 4]) + whole[-8:], "empty": b""}
        file.write_bytes(changed[damage])
    assert evaluate(model, scenes, **how) == first
    assert "is damaged" in said[0]
    said.clear()
    assert evaluate(model, scenes, **how) == first
    assert said == []  # it is whole again


def test_a_cache_that_cannot_be_written_is_no_failure(
    tmp_path: Path, model: Generator, scenes: ImageDataset, networks: FeatureNetworks
) -> None:
    said: list[str] = []
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    cache = Cache(tmp_path / "file" / "statistics", said.append)
    assert "fid" in evaluate(model, scenes, num_images=4, metrics=["fid"], networks=networks, cache=cache)
    assert "were not cached" in said[0]


# ----- Several processes -----


class Together:
    """One of several threads that stand for processes."""

    def __init__(self, rank: int, world_size: int, barrier: threading.Barrier, board: dict[int, Any]) -> None:
        self.rank, self.world_size, self.barrier, self.board = rank, world_size, barrier, board

    def all_gather_object(self, value: Any) -> list[Any]:
        self.barrier.wait()
        self.board[self.rank] = value
        self.barrier.wait()
        return [copy.deepcopy(self.board[rank]) for rank in range(self.world_size)]

    def run_on_rank0(self, value: Callable[[], Any]) -> Any:
        return self.all_gather_object(value() if self.rank == 0 else None)[0]


@pytest.mark.slow
def test_processes_come_to_the_scores_of_one(
    tmp_path: Path, model: Generator, networks: FeatureNetworks, tiny_features: dict[str, int]
) -> None:
    world_size = 3
    reals = open_dataset("scenes", resolution=32, max_images=150)
    fakes = Given(noisy(np.stack([reals.image(i) for i in range(140)]), 30))
    names = (*WITH_FEATURES, "swd", "diversity")
    alone = evaluate(fakes, reals, metrics=names, networks=networks)
    tiny_features.clear()
    barrier, board = threading.Barrier(world_size), dict[int, Any]()

    def one(rank: int) -> dict[str, Any]:
        group = Together(rank, world_size, barrier, board)
        try:
            own = open_dataset("scenes", resolution=32, max_images=150)
            return evaluate(fakes, own, metrics=names, networks=networks, group=group, cache=Cache(tmp_path))
        except BaseException:
            barrier.abort()  # or the others would wait for ever
            raise

    with ThreadPoolExecutor(world_size) as pool:
        found = list(pool.map(one, range(world_size)))
    assert tiny_features["inception"] == 150 + 140  # each picture was looked at by one
    assert len(list(tmp_path.iterdir())) == 4
    for scores in found:
        assert scores["provenance"] == alone["provenance"]
        for name in ("kid", "is", "precision", "recall", "density", "coverage", "swd", "diversity"):
            assert scores[name] == alone[name]
        for name in ("fid", "fd_dinov2"):
            assert scores[name] == pytest.approx(alone[name], rel=1e-9)


@pytest.mark.slow
def test_where_one_process_fails_all_end(scenes: ImageDataset) -> None:
    class Broken(Given):
        def _load(self, index: int) -> np.ndarray:
            if index == bad:
                raise DataError(f"picture {index} is broken")
            return super()._load(index)

    fakes = Broken(np.zeros((150, 3, 32, 32), np.uint8))
    bad = int(np.random.default_rng(0).permutation(150)[70])  # the second block, which process 1 takes
    barrier, board = threading.Barrier(2), dict[int, Any]()

    def one(rank: int) -> str:
        own = open_dataset("scenes", resolution=32, max_images=150)
        with pytest.raises(GanformerError) as caught:
            evaluate(fakes, own, metrics=["diversity"], group=Together(rank, 2, barrier, board))
        return str(caught.value)

    with ThreadPoolExecutor(2) as pool:
        other, own = pool.map(one, range(2))
    assert own == f"picture {bad} is broken"
    assert other == f"process 1 failed: picture {bad} is broken"


@pytest.mark.slow
def test_large_arrays_lie_on_disk(
    model: Generator, scenes: ImageDataset, networks: FeatureNetworks, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ganformer_cli.metrics import collecting

    how: dict[str, Any] = {"num_images": 20, "metrics": ["swd", "diversity", "kid", "pr"], "networks": networks}
    expected = evaluate(model, scenes, **how)
    monkeypatch.setattr(collecting, "_MAX_IN_MEMORY", 0)
    assert isinstance(collecting.scratch((2, 3), np.float32), np.memmap)
    assert evaluate(model, scenes, **how) == expected
    full = type(shutil.disk_usage("."))(1 << 30, 1 << 30, 0)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(OutputError, match="0 MiB are free, .* smaller --eval-images-num"):
        evaluate(model, scenes, **how)


# ----- What is told -----


def test_progress_counts_every_stage_to_its_end(model: Generator, scenes: ImageDataset) -> None:
    last: dict[str, tuple[int, int]] = {}

    def report(stage: str, done: int, total: int) -> None:
        last[stage] = done, total

    evaluate(model, scenes, num_images=6, floor=True, progress=report)
    assert last == {"reading reals": (12, 12), "drawing samples": (6, 6), "comparing": (2, 2)}


@pytest.mark.slow
def test_few_pictures_are_told(model: Generator, scenes: ImageDataset, networks: FeatureNetworks) -> None:
    said: list[str] = []
    evaluate(model, scenes, num_images=40, metrics=WITH_FEATURES, networks=networks, warn=said.append)
    for name in WITH_FEATURES:
        assert any(text.startswith(f"{name} of 40 ") for text in said), name
    said.clear()
    evaluate(model, scenes, num_images=12, metrics=["fid"], networks=networks, warn=said.append)
    assert "fewer than the 12 numbers" in said[0]
    assert "covariance is singular" in said[0]


def test_one_metric_that_fails_leaves_the_others(
    model: Generator, scenes: ImageDataset, networks: FeatureNetworks
) -> None:
    said: list[str] = []
    how: dict[str, Any] = {"num_images": 4, "networks": networks, "warn": said.append}
    scores = evaluate(model, scenes, metrics=["diversity", "is"], **how)  # ten splits need ten pictures
    assert set(scores) == {"diversity", "failed", "provenance"}
    assert "at least 10 images" in scores["failed"]["is"]
    assert any(text.startswith("no is: ") for text in said)
    with pytest.raises(GanformerError, match="at least 10 images"):
        evaluate(model, scenes, metrics=["is"], **how)


def test_features_that_are_no_numbers(model: Generator, scenes: ImageDataset, networks: FeatureNetworks) -> None:
    for weight in networks.features["inception"]._network.weights.values():  # type: ignore[attr-defined]
        weight.fill_(float("nan"))
    with pytest.raises(DataError, match="features of image 0 are not finite"):
        evaluate(model, scenes, num_images=4, metrics=["fid"], networks=networks)


def test_a_model_that_has_diverged_is_named(scenes: ImageDataset) -> None:
    model = generator()
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(GanformerError, match="this model has diverged"):
        evaluate(model, scenes, num_images=4)


def test_what_does_not_fit_is_named(model: Generator, scenes: ImageDataset) -> None:
    with pytest.raises(DataError, match="--dataset scenes has images of 32x32, this model makes 32x24"):
        evaluate(generator(ratio=0.75), scenes)
    with pytest.raises(DataError, match="--dataset scenes has labels of 0 numbers, this model takes 3"):
        evaluate(generator(c_dim=3), scenes)
    with pytest.raises(ConfigError, match="--metrics beauty: unknown; there are swd"):
        evaluate(model, scenes, metrics=["beauty"])
    with pytest.raises(ConfigError, match="the feature networks inception are not loaded"):
        evaluate(model, scenes, metrics=["fid"])
    with pytest.raises(ConfigError, match="--eval-images-num 1"):
        evaluate(model, scenes, num_images=1)
    with pytest.raises(DataError, match="--images given has 1 images; .* at least 2"):
        evaluate(Given(np.zeros((1, 3, 32, 32), np.uint8)), scenes)


@pytest.mark.gpu
def test_on_a_gpu_the_same_scores_come_twice(scenes: ImageDataset, tiny_features: dict[str, int]) -> None:
    device = torch.device("cuda")
    networks = open_networks(WITH_FEATURES, weights={}, resize=None, device=device)[0]
    how: dict[str, Any] = {"num_images": 40, "metrics": [*WITH_FEATURES, "swd"], "networks": networks}
    model = generator().to(device)
    first = evaluate(model, scenes, batch_size=4, **how)
    assert evaluate(model, scenes, batch_size=4, **how) == first
    other = evaluate(model, scenes, batch_size=16, **how)  # features round otherwise in other batches
    assert other["fid"] == pytest.approx(first["fid"], rel=1e-4)
    assert other["swd"] == first["swd"]
    assert first["provenance"]["device"] == "cuda"


# ----- Names -----


def test_metrics_by_name() -> None:
    assert parse_metrics("FID, is,pr,fid") == ("fid", "is", "pr")
    assert parse_metrics("fd-dinov2") == ("fd_dinov2",)
    assert parse_metrics("none") == parse_metrics("") == ()
    assert [score.name for score in METRICS["pr"].scores] == ["precision", "recall"]
    with pytest.raises(ConfigError, match="--metrics fidd: there is no such metric; did you mean fid"):
        parse_metrics("fidd")
