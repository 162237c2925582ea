"""Labels of a data set that is trained on: what its checksums cannot see is seen, when it is opened and by verify."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from ganformer_cli.data import open_dataset
from ganformer_cli.data.manifest import checksum
from ganformer_cli.data.prepare.pipeline import prepare
from ganformer_cli.data.prepare.verify import verify
from ganformer_cli.errors import DataError

Run = Callable[..., Result]
NAMES = ["00000/img00000000.png", "00000/img00000001.png", "00000/img00000002.png"]
CLASSES = [2, 0, 2]
VECTORS = [[0.5, 1.0], [0.0, -3.0], [1.0, 1.0]]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for i in range(3):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (40 * i, 0, 0)).save(tmp_path / "images" / f"{i}.png")
    return tmp_path / "images"


def made(images: Path, labels: list[Any]) -> Path:
    listed = {"labels": [[f"{i}.png", label] for i, label in enumerate(labels)]}
    (images / "dataset.json").write_text(json.dumps(listed), encoding="utf-8")
    return prepare(images, "set", resolution=8).folder


def with_labels(folder: Path, content: bytes) -> None:
    """Another ``dataset.json`` in the zip, with all checksums right."""
    path = folder / "images.zip"
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {**files, "dataset.json": content}.items():
            archive.writestr(name, data)
    shard = {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    with_manifest(folder, lambda manifest: manifest["shards"][0].update(shard))


def with_manifest(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    change(manifest)
    manifest["checksum"] = checksum(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def listing(labels: list[Any]) -> bytes:
    return json.dumps({"labels": [list(pair) for pair in zip(NAMES, labels, strict=False)]}).encode()


def test_untouched_ones_are_read(images: Path) -> None:
    made(images, CLASSES)
    dataset = open_dataset("set")
    assert (dataset.label_kind, dataset.label_dim) == ("classes", 3)
    labels = dataset.labels()
    assert labels is not None
    assert labels.tolist() == CLASSES
    assert verify(Path("datasets/set"))["ok"]


WRONG: list[tuple[list[Any], bytes, str]] = [
    (CLASSES, listing([2, 0, -1]), "the label of 00000/img00000002.png is -1, not a class below 3"),
    (CLASSES, listing([2, 0, 3]), "the label of 00000/img00000002.png is 3, not a class below 3"),
    (CLASSES, listing([2, 10**30, 2]), "is too large|has a number that is too large"),
    (CLASSES, listing([2, None, 2]), "the label of 00000/img00000001.png is None, not a class"),
    (CLASSES, listing([2, True, 2]), "the label of 00000/img00000001.png is True, not a class"),
    (CLASSES, listing([2, 0.5, 2]), "the label of 00000/img00000001.png is 0.5, not a class"),
    (CLASSES, listing(["2", 0, 2]), "the label of 00000/img00000000.png is 2, not a class"),
    (CLASSES, listing([[2], 0, 2]), r"the label of 00000/img00000000.png is \[2\], not a class"),
    (CLASSES, listing([2, 0]), "has 2 labels for 3 images"),
    (CLASSES, listing([2, 0, 0]), "says that 1 images are of class 0, and 2 are"),
    (CLASSES, listing([2, 0, 2]).replace(b"img00000001", b"img00000000"), "where the label of 00000/img00000001.png"),
    (CLASSES, b'{"labels": null}', "has 0 labels for 3 images"),
    (CLASSES, b'{"labels": 3}', r'is not {"labels"'),
    (CLASSES, b"[]", r'is not {"labels"'),
    (CLASSES, b"\xff", "is not"),
    (CLASSES, b"[" * 100_000, "deep|is not"),
    (VECTORS, listing([[0.5, 1.0], [0.0, float("nan")], [1.0, 1.0]]), r"img00000001.png is \[0.0, nan\], not a vector"),
    (VECTORS, listing([[0.5, 1.0], [0.0, 1e39], [1.0, 1.0]]), "img00000001.png is .*, not a vector of 2 finite"),
    (VECTORS, listing([[0.5, 1.0], [0.0], [1.0, 1.0]]), r"img00000001.png is \[0.0\], not a vector of 2"),
    (VECTORS, listing([[0.5, 1.0], [0.0, "1"], [1.0, 1.0]]), "img00000001.png is .*, not a vector of 2"),
    (VECTORS, listing([[0.5, 1.0], None, [1.0, 1.0]]), "img00000001.png is None, not a vector of 2"),
    (VECTORS, listing([1, 0, 1]), "img00000000.png is 1, not a vector of 2"),
]


@pytest.mark.parametrize(("labels", "content", "message"), WRONG)
def test_labels_whose_checksum_is_right_and_whose_content_is_not(
    images: Path, labels: list[Any], content: bytes, message: str
) -> None:
    folder = made(images, labels)
    with_labels(folder, content)
    with pytest.raises(DataError, match=message) as raised:
        open_dataset("set")
    assert "\n" not in str(raised.value)
    found = verify(folder)
    assert len(found["problems"]) == 1
    assert found["problems"][0] in str(raised.value)


def test_labels_where_the_manifest_says_that_there_are_none(images: Path) -> None:
    folder = prepare(images, "set", resolution=8).folder
    with_labels(folder, listing(CLASSES))
    (problem,) = verify(folder)["problems"]
    assert "has labels, and manifest.json says that there are none" in problem


def changed(place: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        *folders, last = place.split(".")
        part: Any = manifest
        for key in folders:
            part = part[int(key)] if key.isdecimal() else part[key]
        part[last] = value

    return change


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("count", -3, "count is -3, not a whole number from 1"),
        ("count", True, "count is True, not"),
        ("height", 0, "height is 0, not"),
        ("width", 10**12, "width is 1000000000000, not"),
        ("ratio", -1.0, "ratio is -1.0, not"),
        ("ratio", float("nan"), "not finite"),
        ("name", 3, "name is 3, not a text"),
        ("shards.0.count", -1, "shards 0.count is -1, not"),
        ("shards.0.bytes", True, "shards 0.bytes is True, not"),
        ("value_range", ["a", 1], "value_range is .*, not two finite numbers"),
        ("label_notes", [3], "label_notes is .*, not a list of texts"),
        ("source", {}, "source.pictures is missing"),
        ("source.considered", "many", "source.considered is many, not"),
        ("skipped", {}, "skipped.count is missing"),
        ("skipped.first", [1], "skipped.first is"),
        ("sources", [], "sources.modes is missing"),
        ("duplicates", None, "duplicates.exact is missing"),
        ("duplicates", {"exact": 0, "first": [], "first_near": []}, "duplicates.near is missing"),
        ("labels", 3, "labels is 3, not classes or vectors"),
        ("labels.kind", "words", "labels is .*, not classes or vectors"),
        ("labels.size", -1, "labels.size is -1, not"),
        ("labels.size", 10**9, "labels.size is 1000000000, not"),
        ("labels.pictures", {"7": 3}, "labels.pictures is .*, not counts of classes below 3"),
        ("labels.pictures", {"0": -1, "2": 4}, "labels.pictures is"),
        ("labels.pictures", {"0": 9}, "labels.pictures are 9 images, and count is 3"),
        ("labels.pictures", None, "labels.pictures is None"),
        ("labels.names", ["a"], "labels.names is .*, not 3 names"),
        ("labels.names", [1, 2, 3], "labels.names is .*, not 3 names"),
    ],
)
def test_manifests_whose_checksum_is_right_and_whose_content_is_not(
    images: Path, place: str, value: Any, message: str
) -> None:
    folder = made(images, CLASSES)
    with_manifest(folder, changed(place, value))
    with pytest.raises(DataError, match=rf"manifest\.json.*{message}.*prepare it again") as raised:
        open_dataset("set")
    assert "\n" not in str(raised.value)
    assert verify(folder)["problems"] == [str(raised.value)]


def test_the_command_line_says_it_in_one_line(ganformer: Run, images: Path) -> None:
    folder = made(images, VECTORS)
    with_labels(folder, listing([[0.5, 1.0], [0.0, float("inf")], [1.0, 1.0]]))
    for line in (("train", "--dataset", "set", "--labels"), ("prepare", "--verify", "set")):
        done = ganformer(*line)
        assert done.exit_code == 1
        assert "error" in done.stderr
        assert "img00000001.png" in done.stdout + done.stderr
        assert len([text for text in done.stderr.splitlines() if "error" in text]) == 1
        assert not Path("results").exists()


# ---- Folders and zips as they are ------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["folder", "zip"])
def test_labels_of_images_as_they_are_follow_the_rules_of_prepare(images: Path, tmp_path: Path, format: str) -> None:
    content = json.dumps({"labels": [["x/0.jpg", "dog"], ["x/1.jpg", "cat"], ["x/2.jpg", "dog"], ["gone", "ant"]]})
    path = tmp_path / "set"
    if format == "zip":
        path = tmp_path / "set.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for i in range(3):
                archive.write(images / f"{i}.png", f"top/{i}.png")
            archive.writestr("top/dataset.json", "\ufeff" + content)
    else:
        path.mkdir()
        images.rename(path / "top")
        (path / "top/dataset.json").write_text(content, encoding="utf-8-sig")
    dataset = open_dataset(str(path))
    assert (dataset.label_kind, dataset.class_names, dataset.label_dim) == ("classes", ["ant", "cat", "dog"], 3)
    assert [int(np.argmax(dataset.label(i))) for i in range(3)] == [2, 1, 2]
    said = "\n".join(dataset.notes)
    assert "3 labels matched by another extension and other folders" in said
    assert "1 label of no image" in said


def test_an_image_as_it_is_without_a_label_is_an_error(images: Path) -> None:
    (images / "dataset.json").write_text(json.dumps({"labels": [["0.png", 1], ["1.png", 0]]}), encoding="utf-8")
    with pytest.raises(DataError, match=r"dataset\.json has no label for 2\.png \(1 in all\)"):
        open_dataset(str(images))
