"""Labels: from the source itself, from its folders, and from files of several kinds."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ganformer_cli.data.sources import open_source
from ganformer_cli.errors import DataError

NAMES = ["cat/0.png", "cat/1.png", "dog/0.png", "dog/x/1.png"]


def make(path: Path, form: str, names: list[str], files: dict[str, bytes] | None = None) -> Path:
    """Pictures of these names, and other files, as a folder, a zip or a tar."""
    data = {**dict.fromkeys(names, b"a picture"), **(files or {})}
    if form == "folder":
        for name, content in data.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
    elif form == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in data.items():
                archive.writestr(name, content)
    else:
        with tarfile.open(path, "w:gz") as tar:
            for name, content in data.items():
                info = tarfile.TarInfo(f"./{name}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


every_form = pytest.mark.parametrize("form", ["folder", "zip", "tar"])


def labels_of(path: Path, labels: str | None = None) -> tuple[str | None, list[Any]]:
    with open_source(path, labels=labels) as source:
        found = [item.label for item in source.items()]
        assert [item.label for item in source.items(2)] == found[2:]
        return source.label_kind, found


@every_form
def test_dataset_json_of_the_source(tmp_path: Path, form: str) -> None:
    pairs = [["cat/0.png", 4], ["cat\\1.png", 0], ["dog/x/1.png", 1], ["gone.png", 3]]
    data = json.dumps({"labels": pairs}).encode()
    path = make(tmp_path / "set", form, NAMES, {"dataset.json": data, "cat/dataset.json": b"another"})
    assert labels_of(path) == ("classes", [4, 0, None, 1])
    assert labels_of(path, "none") == (None, [None] * 4)
    with open_source(path) as source:
        assert source.others() == 1
        assert source.class_names is None


@every_form
def test_vectors_and_no_labels_in_dataset_json(tmp_path: Path, form: str) -> None:
    pairs = [[name, [i, 0.5]] for i, name in enumerate(NAMES)]
    path = make(tmp_path / "a", form, NAMES, {"dataset.json": json.dumps({"labels": pairs}).encode()})
    assert labels_of(path) == ("vectors", [(float(i), 0.5) for i in range(4)])
    path = make(tmp_path / "b", form, NAMES, {"dataset.json": b'{"labels": null}'})
    assert labels_of(path) == (None, [None] * 4)


@every_form
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", r"dataset\.json is not"),
        (b"[]", r"dataset\.json is not"),
        (b"\xff", r"dataset\.json is not"),
        (b"[" * 100_000, r"dataset\.json is not"),
        (b'{"labels": 3}', r"dataset\.json is not"),
        (b'{"labels": [["a.png", 1], ["b.png"]]}', r"dataset\.json, label 1 is not \[name, label\]"),
        (b'{"labels": [["a.png", 1], ["b.png", -1]]}', r"dataset\.json, label 1: the label of b\.png is -1, not a"),
        (b'{"labels": [["a.png", 1048576]]}', r"dataset\.json, label 0: the label of a\.png is 1048576, not"),
        (b'{"labels": [["a.png", true]]}', r"the label of a\.png is True, not"),
        (b'{"labels": [["a.png", "cat"]]}', r"the label of a\.png is 'cat', not"),
        (b'{"labels": [["a.png", [1, NaN]]]}', r"the label of a\.png is \[1, nan\], not"),
        (b'{"labels": [["a.png", []]]}', r"the label of a\.png is \[\], not"),
        (b'{"labels": [["a.png", 1], ["b.png", [1]]]}', r"label 1: the label of b\.png is a vector of 1 where those"),
        (b'{"labels": [["a.png", [1]], ["b.png", [1, 2]]]}', r"is a vector of 2 where those before are a vector of 1"),
        (b'{"labels": [["a.png", 1], ["b.png", 1], ["a.png", 2]]}', r"label 2: another label for .* of label 0"),
    ],
)
def test_a_damaged_dataset_json_is_named(tmp_path: Path, form: str, content: bytes, message: str) -> None:
    path = make(tmp_path / "set", form, NAMES, {"dataset.json": content})
    with pytest.raises(DataError, match=message) as raised:
        open_source(path)
    assert str(path) in str(raised.value)
    assert labels_of(path, "none")[0] is None


@every_form
def test_folders_as_classes(tmp_path: Path, form: str) -> None:
    path = make(tmp_path / "set", form, [*NAMES, "top.png", "Ähre/0.png"])
    with open_source(path, labels="folders") as source:
        assert source.label_kind == "classes"
        assert source.class_names == ["cat", "dog", "Ähre"]
        assert {item.name: item.label for item in source.items()} == {
            "cat/0.png": 0, "cat/1.png": 0, "dog/0.png": 1, "dog/x/1.png": 1, "top.png": None, "Ähre/0.png": 2,
        }  # fmt: skip


@every_form
def test_folders_around_all_pictures_are_no_class(tmp_path: Path, form: str) -> None:
    path = make(tmp_path / "set", form, [f"set-1.0/train/{name}" for name in NAMES])
    with open_source(path, labels="folders") as source:
        assert source.class_names == ["cat", "dog"]
        assert [item.label for item in source.items()] == [0, 0, 1, 1]
    one = make(tmp_path / "one", form, ["a/cat/0.png", "a/cat/1.png"])
    with open_source(one, labels="folders") as source:
        assert source.class_names == ["cat"]


@every_form
def test_no_folders(tmp_path: Path, form: str) -> None:
    with pytest.raises(DataError, match="--labels folders: no picture of .*set lies in a folder"):
        open_source(make(tmp_path / "set", form, ["0.png", "1.png"]), labels="folders")


def test_arrays_have_no_folders(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 8, 8, 3), np.uint8))
    with pytest.raises(DataError, match=r"--labels folders: the pictures of .*a\.npy lie in no folders"):
        open_source(tmp_path / "a.npy", labels="folders")


@every_form
@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        (np.array([3, 0, 1, 3]), "classes", [3, 0, 1, 3]),
        (np.array([[3], [0], [1], [3]], np.uint8), "classes", [3, 0, 1, 3]),
        (np.eye(4, dtype=np.float32)[:, :2], "vectors", [(1.0, 0.0), (0.0, 1.0), (0.0, 0.0), (0.0, 0.0)]),
    ],
)
def test_labels_by_number(tmp_path: Path, form: str, values: Any, kind: str, expected: list[Any]) -> None:
    path = make(tmp_path / "set", form, NAMES)
    np.save(tmp_path / "labels.npy", values)
    found, labels = labels_of(path, str(tmp_path / "labels.npy"))
    assert (found, labels) == (kind, expected)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.arange(5), "5 labels for the 4 pictures of"),
        (np.array([0, 1, -1, 2]), "label 2 is -1, not a class"),
        (np.array([0, 1, 1 << 20, 2]), "label 2 is 1048576, not a class"),
        (np.array([0.0, 1.0, 2.0, 3.0]), r"labels of float64 \[4\]; save classes as whole numbers"),
        (np.full((4, 2), np.inf), "label 0 is .*, not"),
        (np.array(["a", "b", "c", "d"]), "labels of <U1"),
        (np.zeros((4, 2, 2)), r"labels of float64 \[4, 2, 2\]"),
        (np.zeros((4, 0)), r"labels of float64 \[4, 0\]"),
        (np.array([{}], object), r"labels\.npy cannot be read"),
    ],
)
def test_damaged_labels_by_number(tmp_path: Path, values: Any, message: str) -> None:
    np.save(tmp_path / "labels.npy", values, allow_pickle=True)
    with pytest.raises(DataError, match=message) as raised:
        open_source(make(tmp_path / "set", "zip", NAMES), labels=str(tmp_path / "labels.npy"))
    assert "labels.npy" in str(raised.value)


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("cat/0.png,1\ncat/1.png,0\ndog/0.png,2\ndog/x/1.png,1048575\n", "classes", [1, 0, 2, 1048575]),
        ("\ufefffile,label\r\ncat/0.png,1\r\n\r\n./cat/1.png,0\r\n", "classes", [1, 0, None, None]),
        ('"cat/0.png", 1 \n', "classes", [1, None, None, None]),
        ("name,smile,beard\ncat/0.png,0.5,-1\ndog/0.png,2,1e3\n", "vectors", [(0.5, -1.0), None, (2.0, 1000.0), None]),
        ("cat/0.png,0.5\ncat/1.png,1.5\n", "vectors", [(0.5,), (1.5,), None, None]),
    ],
)
def test_labels_of_a_csv(tmp_path: Path, text: str, kind: str, expected: list[Any]) -> None:
    (tmp_path / "labels.csv").write_bytes(text.encode())
    assert labels_of(make(tmp_path / "set", "zip", NAMES), str(tmp_path / "labels.csv")) == (kind, expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.png,1\nb.png,-1\n", r"labels\.csv, line 2: the label of b\.png is -1, not"),
        ("a.png,1\nb.png,cat\n", r"labels\.csv, line 2: the label of b\.png is 'cat', not"),
        ("a.png,1\n\nb.png\n", r"labels\.csv, line 3: not name,label"),
        ("a.png,1\nb.png,1,2\n", r"line 2: the label of b\.png is a vector of 2 where those before are a class"),
        ("a.png,1\nb.png,0.5\n", r"line 2: the label of b\.png is a vector of 1 where those before are a class"),
        ("a.png,1\nb.png,2\na.png,3\n", r"line 3: another label for the picture of line 1"),
        ("a.png,nan\n", r"line 1: the label of a\.png is \[nan\], not"),
        ("name,label\n", r"labels\.csv holds no labels"),
        ("", r"labels\.csv holds no labels"),
        ("\udcff", r"labels\.csv cannot be read"),
    ],
)
def test_a_damaged_csv_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "labels.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=message):
        open_source(make(tmp_path / "set", "zip", NAMES), labels=str(tmp_path / "labels.csv"))


def test_labels_of_a_json(tmp_path: Path) -> None:
    path = make(tmp_path / "set", "zip", NAMES, {"dataset.json": b'{"labels": [["cat/0.png", 9]]}'})
    for content in ({"labels": [["cat/0.png", 1], ["dog/0.png", 2]]}, {"cat/0.png": 1, "dog/0.png": 2}):
        (tmp_path / "labels.json").write_text(json.dumps(content), encoding="utf-8")
        assert labels_of(path, str(tmp_path / "labels.json")) == ("classes", [1, None, 2, None])


@pytest.mark.parametrize("name", ["labels.txt", "folder", "missing.csv", "missing.npy", "missing.json"])
def test_labels_that_are_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=f"--labels {name}"):
        open_source(make(tmp_path / "set", "zip", NAMES), labels=name)


def test_the_fingerprint_changes_with_the_labels(tmp_path: Path) -> None:
    path = make(tmp_path / "set", "zip", NAMES)
    found = set()
    for i, option in enumerate((None, "folders", "a.csv", "a.csv")):
        Path("a.csv").write_text(f"cat/0.png,{i}\n", encoding="utf-8")
        with open_source(path, labels=option) as source:
            found.add(source.fingerprint())
    assert len(found) == 4
