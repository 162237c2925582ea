"""Opening data sets: by name, by path, and what is said when that does not work."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from ganformer_cli.data import ImageDataset, PreparedDataset, SceneDataset, open_dataset
from ganformer_cli.data.loading.datasets import prepared_names, small_dataset_hint
from ganformer_cli.data.manifest import checksum
from ganformer_cli.data.prepare.pipeline import prepare
from ganformer_cli.errors import ConfigError, DataError


def write_images(folder: Path, count: int = 5, size: tuple[int, int] = (16, 8), mode: str = "RGB") -> Path:
    """Images in StyleGAN's layout: image i is of colour 10 i."""
    for i in range(count):
        path = folder / f"{i // 2:05d}" / f"img{i:08d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (10 * i,) * 3).convert(mode).save(path)
    return folder


def zipped(folder: Path) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.*")):
            archive.write(file, file.relative_to(folder).as_posix())
    return path


def values(dataset: ImageDataset) -> list[int]:
    return [int(dataset.image(i)[0, 0, 0]) for i in range(len(dataset))]


def edit(folder: Path, **values: object) -> None:
    """Change a manifest so that its checksum is right again."""
    path = folder / "manifest.json"
    manifest = {**json.loads(path.read_text(encoding="utf-8")), **values}
    path.write_text(json.dumps({**manifest, "checksum": checksum(manifest)}), encoding="utf-8")


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """datasets/mine: five images of 16x8."""
    return prepare(write_images(tmp_path / "raw"), "mine", resolution=16, ratio=0.5).folder


def test_by_name_and_by_path(prepared: Path, tmp_path: Path) -> None:
    for name in ("mine", str(prepared), str(prepared.resolve())):
        dataset = open_dataset(name)
        assert (dataset.name, dataset.resolution, dataset.ratio) == ("mine", 16, 0.5)
        assert (dataset.height, dataset.width, len(dataset), dataset.label_dim) == (8, 16, 5, 0)
        assert values(dataset) == [0, 10, 20, 30, 40]
        assert dataset.image(3).shape == (3, 8, 16)
        assert dataset.image(3).dtype == np.uint8
        assert dataset.label(3).shape == (0,)
    assert open_dataset("mine", data_dir=prepared.parent.resolve()).fingerprint == dataset.fingerprint


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_stylegans_zips_and_folders_as_they_are(tmp_path: Path, mode: str) -> None:
    folder = write_images(tmp_path / "style", mode=mode)
    pairs = [[f"{i // 2:05d}/img{i:08d}.png", i % 3] for i in range(5)]
    (folder / "dataset.json").write_text(json.dumps({"labels": pairs}), encoding="utf-8")
    prints = set()
    for path in (folder, zipped(folder)):
        dataset = open_dataset(str(path))
        assert (dataset.name, dataset.resolution, dataset.ratio, dataset.label_dim) == ("style", 16, 0.5, 3)
        assert values(dataset) == [0, 10, 20, 30, 40]
        assert [int(dataset.label(i).argmax()) for i in range(5)] == [0, 1, 2, 0, 1]
        assert dataset.fingerprint == open_dataset(str(path)).fingerprint
        prints.add(dataset.fingerprint)
    Image.new("RGB", (16, 8), (99, 0, 0)).save(folder / "00000" / "img00000001.png", compress_level=0)
    prints |= {open_dataset(str(folder)).fingerprint, open_dataset(str(zipped(folder))).fingerprint}
    assert len(prints) == 4


def test_the_first_so_many(prepared: Path) -> None:
    dataset = open_dataset("mine", max_images=2)
    assert values(dataset) == [0, 10]
    assert dataset.fingerprint != open_dataset("mine").fingerprint
    assert open_dataset("mine", max_images=99).fingerprint == open_dataset("mine").fingerprint
    assert len(open_dataset("scenes", max_images=3)) == 3
    with pytest.raises(DataError, match="--train-images-num 0"):
        open_dataset("mine", max_images=0)


def test_the_fingerprint_is_of_the_pictures(tmp_path: Path, prepared: Path) -> None:
    same = prepare(zipped(tmp_path / "raw"), "same", resolution=16, ratio=0.5)
    assert open_dataset("same").fingerprint == open_dataset("mine").fingerprint
    assert same.manifest["source"]["name"] == "raw.zip"
    other = prepare(write_images(tmp_path / "other", count=6), "other", resolution=16, ratio=0.5)
    assert other.manifest["fingerprint"] != same.manifest["fingerprint"]


def test_another_resolution_or_ratio_is_refused_with_the_remedy(prepared: Path) -> None:
    assert open_dataset("mine", resolution=16, ratio=0.5).resolution == 16
    assert open_dataset("mine", ratio=0.51).height == 8  # rounds to the same pixels
    with pytest.raises(DataError, match=r"--resolution 32: data set 'mine' has images of 16x8; .*--resolution 32"):
        open_dataset("mine", resolution=32)
    with pytest.raises(DataError, match=r"--ratio 1\.0: data set 'mine' has images of 16x8 .*--ratio 1\.0"):
        open_dataset("mine", ratio=1.0)
    for ratio in (float("nan"), 0.0):
        with pytest.raises(ConfigError, match="--ratio"):
            open_dataset("mine", ratio=ratio)


def test_unknown_names_list_the_known_ones_and_guess(prepared: Path) -> None:
    with pytest.raises(DataError, match=r"--dataset mime: .*did you mean 'mine'\? \(there are: scenes, mine\)"):
        open_dataset("mime")
    with pytest.raises(DataError, match="did you mean 'scenes'"):
        open_dataset("scene")
    with pytest.raises(DataError, match=r"--dataset qqq: .*ganformer prepare FOLDER \(there is: scenes\)"):
        open_dataset("qqq", data_dir=Path("nowhere"))
    with pytest.raises(DataError, match="--dataset : "):
        open_dataset("")


def test_catalogue_names_say_how_to_get_them() -> None:
    with pytest.raises(
        DataError, match=r"--dataset ffhq: not prepared in datasets; .*ganformer prepare ffhq --data-dir datasets"
    ):
        open_dataset("ffhq")


def test_a_prepared_catalogue_name_is_opened(tmp_path: Path) -> None:
    prepare(write_images(tmp_path / "raw"), "clevr", resolution=16, ratio=0.5)
    assert len(open_dataset("clevr")) == 5


def test_unprepared_pictures_of_several_sizes(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "raw")
    Image.new("RGB", (20, 20)).save(folder / "odd.png")
    with pytest.raises(DataError, match=r"several sizes .*ganformer prepare .*raw"):
        open_dataset(str(folder))


def test_a_picture_of_another_size_found_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_images(tmp_path / "raw")
    dataset = open_dataset(str(folder))
    Image.new("RGB", (20, 20)).save(folder / "00001" / "img00000002.png")
    with pytest.raises(DataError, match=r"img00000002\.png has 20x20 px where the others have 16x8"):
        dataset.image(2)
    (folder / "00001" / "img00000003.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"img00000003\.png cannot be read"):
        dataset.image(3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "manifest.json, line 1: is not JSON"),
        ("[" * 5000, "manifest.json, line 1: is nested"),
        ('{"format": ' + "9" * 5000, "manifest.json, line 1: has a number that is too large"),
        ('{"format": null}', "not the manifest"),
        ("[]", "not the manifest"),
        ('{"format": "ganformer-dataset/99"}', "this version reads"),
        ('{"format": "ganformer-dataset/1"}', "this version reads"),
        ('{"format": "ganformer-dataset/2"}', "damaged"),
    ],
)
def test_damaged_manifests(prepared: Path, text: str, words: str) -> None:
    (prepared / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=words):
        open_dataset("mine")


def test_a_manifest_cannot_point_elsewhere(prepared: Path) -> None:
    for file in ("../other.zip", "other.zip", "/etc/images.zip", 7):
        edit(prepared, shards=[{"file": file, "count": 5, "bytes": 1, "sha256": ""}])
        with pytest.raises(DataError, match=r"damaged \(shards\)"):
            open_dataset("mine")


def test_an_edited_manifest_is_noticed(prepared: Path) -> None:
    path = prepared / "manifest.json"
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole.replace('"count": 5', '"count": 4'), encoding="utf-8")
    with pytest.raises(DataError, match=r"manifest\.json was edited"):
        open_dataset("mine")
    path.write_text(json.dumps(json.loads(whole)), encoding="utf-8")  # laid out otherwise, it says the same
    assert len(open_dataset("mine")) == 5


def test_a_changed_archive_is_noticed(prepared: Path) -> None:
    archive = prepared / "images.zip"
    whole = archive.read_bytes()
    with zipfile.ZipFile(archive, "a") as stream:
        stream.writestr("00000/more.png", b"x")
    with pytest.raises(DataError, match=r"images\.zip does not match .*manifest\.json"):
        open_dataset("mine")
    archive.write_bytes(whole[:-40])
    with pytest.raises(DataError, match="cut short"):
        open_dataset("mine")
    archive.unlink()
    with pytest.raises(DataError, match=r"images\.zip does not exist"):
        open_dataset("mine")


def test_data_sets_travel_to_other_processes_without_their_memory(prepared: Path) -> None:
    for dataset in (open_dataset("mine"), SceneDataset(resolution=32, count=4)):
        before = dataset.image(1)
        there = pickle.loads(pickle.dumps(dataset))
        assert there._cache is None
        assert np.array_equal(there.image(1), before)
        assert there.fingerprint == dataset.fingerprint
    assert len(pickle.dumps(open_dataset("scenes"))) < 2000


@pytest.mark.parametrize("shards", [1, 2, 4, 9])
def test_shards_are_read_as_one(tmp_path: Path, shards: int) -> None:
    folder = write_images(tmp_path / "raw")
    pairs = [[f"{i // 2:05d}/img{i:08d}.png", i % 3] for i in range(5)]
    (folder / "dataset.json").write_text(json.dumps({"labels": pairs}), encoding="utf-8")
    (folder / "00000" / "img00000001.png").write_bytes(b"broken")  # a shard may be left without images
    prepared = prepare(folder, "mine", resolution=16, ratio=0.5, shards_num=shards)
    assert len(prepared.manifest["shards"]) == min(shards, 5)
    there = pickle.loads(pickle.dumps(open_dataset("mine")))
    for dataset in (open_dataset("mine"), there):
        assert values(dataset) == [0, 20, 30, 40]
        assert [int(dataset.label(i).argmax()) for i in range(4)] == [0, 2, 0, 1]
        assert dataset.label_dim == 3
    assert values(open_dataset("mine", max_images=3)) == [0, 20, 30]


def test_a_changed_picture_is_noticed_when_it_is_read(prepared: Path) -> None:
    archive = prepared / "images.zip"
    data = bytearray(archive.read_bytes())
    data[60] ^= 1
    archive.write_bytes(data)
    dataset = open_dataset("mine")
    with pytest.raises(
        DataError, match=r"images\.zip: 00000/img00000000\.png cannot be read \(.*its checksum is wrong"
    ):
        dataset.image(0)
    assert dataset.image(1)[0, 0, 0] == 10


def test_threads_may_read_one_data_set(prepared: Path) -> None:
    dataset = open_dataset("mine")
    dataset.cache_bytes = 0
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda k: int(dataset.image(k % 5)[0, 0, 0]), range(200)))
    assert got == [10 * (k % 5) for k in range(200)]


def test_names_of_prepared_sets(prepared: Path, tmp_path: Path) -> None:
    Path("datasets/other").mkdir()
    Path("datasets/.x.part").mkdir()
    Path("datasets/.x.part/manifest.json").write_text("{}", encoding="utf-8")
    assert prepared_names(Path("datasets")) == ["mine"]
    assert prepared_names(Path("nowhere")) == []
    assert isinstance(open_dataset("mine"), PreparedDataset)


def test_prepared_sets_are_described(prepared: Path, ganformer: Callable[..., Result]) -> None:
    (prepared.parent / "broken").mkdir()
    (prepared.parent / "broken" / "manifest.json").write_text("{}", encoding="utf-8")
    result = ganformer("info", "--datasets", "--json")
    broken, mine = json.loads(result.stdout)
    dataset = open_dataset("mine")
    assert "broken" in broken["error"]
    assert (mine["name"], mine["images"], mine["width"]) == ("mine", len(dataset), dataset.width)
    assert mine["bytes"] == sum(path.stat().st_size for path in prepared.glob("*.zip"))
    shown = ganformer("info", "--datasets")
    assert shown.exit_code == 0
    assert f"{dataset.width}x{dataset.height}" in shown.stdout
    assert "broken" in shown.stderr
    assert "no data set is prepared" in ganformer("info", "--datasets", "--data-dir", "elsewhere").stdout
    assert ganformer("info", "--datasets", "--offline").exit_code == 2


@pytest.mark.parametrize(("count", "augment", "said"), [(4999, "none", True), (5000, "none", False), (9, "ada", False)])
def test_few_images_without_augmentation_are_noticed(count: int, augment: str, said: bool) -> None:
    hint = small_dataset_hint(SceneDataset(count=count), augment)
    assert (hint is not None) == said
    assert hint is None or ("4999 images" in hint and "--augment ada" in hint)
