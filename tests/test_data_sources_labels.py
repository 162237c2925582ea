"""Labels: from the source itself, from its folders, and from files of several kinds."""

from __future__ import annotations

import io
import json
import re
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ganformer_cli.data.sources import open_source
from ganformer_cli.errors import DataError

NAMES = ["cat/0.png", "cat/1.png", "dog/0.png", "dog/x/1.png"]


def make(path: Path, format: str, names: list[str], files: dict[str, bytes] | None = None) -> Path:
    """Images of these names, and other files, as a folder, a zip or a tar."""
    data = {**dict.fromkeys(names, b"an image"), **(files or {})}
    if format == "folder":
        for name, content in data.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
    elif format == "zip":
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


every_form = pytest.mark.parametrize("format", ["folder", "zip", "tar"])


def labels_of(path: Path, labels: str | None = None) -> tuple[str | None, list[Any]]:
    with open_source(path, labels=labels) as source:
        found = [item.label for item in source.items()]
        assert [item.label for item in source.items(2)] == found[2:]
        return source.labels.kind, found


@every_form
def test_dataset_json_of_the_source(tmp_path: Path, format: str) -> None:
    pairs = [["cat/0.png", 4], ["cat\\1.png", 0], ["dog/x/1.png", 1], ["gone.png", 3]]
    data = json.dumps({"labels": pairs}).encode()
    path = make(tmp_path / "set", format, NAMES, {"dataset.json": data, "cat/dataset.json": b"another"})
    assert labels_of(path) == ("classes", [4, 0, None, 1])
    assert labels_of(path, "none") == (None, [None] * 4)
    with open_source(path) as source:
        assert source.others() == 1
        assert source.labels.class_names is None


@every_form
def test_vectors_and_no_labels_in_dataset_json(tmp_path: Path, format: str) -> None:
    pairs = [[name, [i, 0.5]] for i, name in enumerate(NAMES)]
    path = make(tmp_path / "a", format, NAMES, {"dataset.json": json.dumps({"labels": pairs}).encode()})
    assert labels_of(path) == ("vectors", [(float(i), 0.5) for i in range(4)])
    path = make(tmp_path / "b", format, NAMES, {"dataset.json": b'{"labels": null}'})
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
        (b'{"labels": [["a.png", 1], ["b.png", "cat"]]}', r"the label of b\.png is 'cat', not a class as those before"),
        (b'{"labels": [["a.png", "cat"], ["b.png", 1]]}', r"the label of b\.png is 1, not a name as those before"),
        (b'{"labels": [["a.png", ""]]}', r"the label of a\.png is '', not"),
        (b'{"labels": [["a.png", null]]}', r"the label of a\.png is None, not"),
        (b'{"labels": [["a.png", [1, 1e39]]]}', r"the label of a\.png is \[1, 1e\+39\], not"),
        (b'{"labels": [["a.png", [1, 1' + b"0" * 400 + b"]]]}", r"has a number that is too large"),
        (b'{"labels": [["a.png", 1], ["b.png", -2.0]]}', r"label 1: the label of b\.png is -2\.0, not a class"),
        (b'{"labels": [["a.png", [1, "b"]]]}', r"the label of a\.png is \[1, 'b'\], not"),
        (b'{"labels": [[3, 1]]}', r"dataset\.json, label 0 is not \[name, label\]"),
        (b'{"labels": {"a.png": 1, "a.png": 2}}', r"dataset\.json is not .*'a\.png' stands there twice"),
        (b'{"labels": [["a.png", 1]]}', r"none of its 1 labels .* for example a\.png, and there is cat/0\.png"),
        (b'{"labels": [["a.png", [1, NaN]]]}', r"the label of a\.png is \[1, nan\], not"),
        (b'{"labels": [["a.png", []]]}', r"the label of a\.png is \[\], not"),
        (b'{"labels": [["a.png", 1], ["b.png", [1]]]}', r"label 1: the label of b\.png is a vector of 1 where those"),
        (b'{"labels": [["a.png", [1]], ["b.png", [1, 2]]]}', r"is a vector of 2 where those before are a vector of 1"),
        (b'{"labels": [["a.png", 1], ["b.png", 1], ["a.png", 2]]}', r"label 2: another label for .* of label 0"),
    ],
)
def test_a_damaged_dataset_json_is_named(tmp_path: Path, format: str, content: bytes, message: str) -> None:
    path = make(tmp_path / "set", format, NAMES, {"dataset.json": content})
    with pytest.raises(DataError, match=message) as raised:
        open_source(path)
    assert str(path) in str(raised.value)
    assert labels_of(path, "none")[0] is None


# ---- How labels are written ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "kind", "expected", "names"),
    [
        ([0.0, 1.0, 2.0, 1.0], "classes", [0, 1, 2, 1], None),
        ([0, 1.0, 2, 1.0], "classes", [0, 1, 2, 1], None),
        ([[2], [0], [2], [1]], "classes", [2, 0, 2, 1], None),
        ([[2.0], [0.0], [2.0], [1.0]], "classes", [2, 0, 2, 1], None),
        (["2", "0", " 2 ", "1"], "classes", [2, 0, 2, 1], None),
        (["2.0", "0.0", "2.0", "1.0"], "classes", [2, 0, 2, 1], None),
        (["dog", "cat", "dog", "ant"], "classes", [2, 1, 2, 0], ["ant", "cat", "dog"]),
        ([["dog"], ["cat"], ["dog"], ["ant"]], "classes", [2, 1, 2, 0], ["ant", "cat", "dog"]),
        ([[0, 0, 1], [1, 0, 0], [0, 0, 1], [1, 0, 0]], "classes", [2, 0, 2, 0], None),
        ([[0, 1, 1], [1, 0, 0], [0, 0, 1], [1, 0, 0]], "vectors", [(0, 1, 1), (1, 0, 0), (0, 0, 1), (1, 0, 0)], None),
        ([0.5, 1.0, 0.0, 1.0], "vectors", [(0.5,), (1,), (0,), (1,)], None),
        ([[0.5], [1], [0], [1]], "vectors", [(0.5,), (1,), (0,), (1,)], None),
    ],
)
@pytest.mark.parametrize("where", ["dataset.json", "json", "csv", "npy"])
def test_a_column_of_classes_however_it_is_written(
    tmp_path: Path, where: str, written: list[Any], kind: str, expected: list[Any], names: list[str] | None
) -> None:
    path, option = tmp_path / "set", None
    pairs = list(zip(NAMES, written, strict=True))
    if where == "dataset.json":
        make(path, "zip", NAMES, {"dataset.json": json.dumps({"labels": pairs}).encode()})
    else:
        make(path, "zip", NAMES)
        option = str(tmp_path / f"labels.{where}")
        if where == "json":
            Path(option).write_text(json.dumps(dict(pairs)), encoding="utf-8")
        elif where == "npy":
            np.save(option, np.array(written))
        else:
            cells = [f'{name},"{label}"'.replace("'", '""') for name, label in pairs]
            Path(option).write_text("\n".join(["file,label", *cells]), encoding="utf-8")
    with open_source(path, labels=option) as source:
        assert source.labels.kind == kind
        assert [item.label for item in source.items()] == expected
        assert source.labels.class_names == names
        if isinstance(written[0], list) and len(written[0]) == 3 and kind == "classes":
            assert source.labels.class_count == 3  # the second has no image, and is there all the same
            assert "one-hot" in source.labels.notes[0]


def test_the_header_of_one_hot_columns_names_the_classes(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("image,dog,cat\ncat/0.png,0,1\ndog/0.png,1,0\n", encoding="utf-8")
    with open_source(make(tmp_path / "set", "zip", NAMES), labels=str(tmp_path / "labels.csv")) as source:
        assert (source.labels.kind, source.labels.class_names) == ("classes", ["dog", "cat"])
        assert [item.label for item in source.items()] == [1, None, 0, None]


@pytest.mark.parametrize("header", ["", "file,label\n", "Name , kind\n"])
def test_text_in_a_csv_is_classes_with_or_without_a_header(tmp_path: Path, header: str) -> None:
    (tmp_path / "labels.csv").write_text(header + "cat/0,cat\ncat/1,cat\ndog/0,dog\ndog/x/1,dog", encoding="utf-8")
    with open_source(make(tmp_path / "set", "zip", NAMES), labels=str(tmp_path / "labels.csv")) as source:
        assert source.labels.class_names == ["cat", "dog"]
        assert [item.label for item in source.items()] == [0, 0, 1, 1]
        assert not source.labels.faults


# ---- Where dataset.json lies, and how it spells names ----------------------------------------------------------------


def listing(names: list[str], format: str = "utf-8") -> bytes:
    return json.dumps({"labels": [[name, i] for i, name in enumerate(names)]}, ensure_ascii=False).encode(format)


@every_form
@pytest.mark.parametrize("below", ["", "top/", "top/set 1/"])
@pytest.mark.parametrize("named", ["", "top/", "other/", "/", "./", "C:\\data\\"])
def test_dataset_json_lies_at_the_top_or_in_the_folder_around_all_images(
    tmp_path: Path, format: str, below: str, named: str
) -> None:
    names = [below + name for name in NAMES]
    files = {f"{below}dataset.json": listing([named + name for name in NAMES]), "__MACOSX/dataset.json": b"{"}
    path = make(tmp_path / "set", format, names, files)
    with open_source(path) as source:
        assert [item.label for item in source.items()] == [0, 1, 2, 3]
        assert source.others() == 0
        assert not source.labels.faults
        alike = named in ("", "./", "/") or named == below
        assert bool(source.labels.notes) == (not alike), source.labels.notes


@every_form
def test_a_listing_at_the_top_may_leave_the_top_folder_out(tmp_path: Path, format: str) -> None:
    path = make(tmp_path / "set", format, [f"top/{name}" for name in NAMES], {"dataset.json": listing(NAMES)})
    with open_source(path) as source:
        assert [item.label for item in source.items()] == [0, 1, 2, 3]
        assert "4 labels matched by other folders before the name: cat/0.png" in source.labels.notes[0]
        assert "top/cat/0.png" in source.labels.notes[0]


@every_form
def test_a_dataset_json_beside_some_images_is_not_used_and_said(tmp_path: Path, format: str) -> None:
    path = make(tmp_path / "set", format, NAMES, {"cat/dataset.json": listing(["0.png", "1.png"])})
    with open_source(path) as source:
        assert source.labels.kind is None
        assert source.others() == 1
        assert "cat/dataset.json is not used" in source.labels.notes[0]


@every_form
def test_two_dataset_jsons_around_all_images_are_an_error(tmp_path: Path, format: str) -> None:
    names = [f"a/b/{name}" for name in NAMES]
    path = make(tmp_path / "set", format, names, {"a/dataset.json": listing(NAMES), "a/b/dataset.json": listing(NAMES)})
    with pytest.raises(DataError, match=r"a/b/dataset\.json and a/dataset\.json both hold labels; .*--labels FILE"):
        open_source(path)


@every_form
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be-sig", "utf-32"])
def test_byte_order_marks(tmp_path: Path, format: str, encoding: str) -> None:
    data = b"\xfe\xff" + listing(NAMES, "utf-16-be") if encoding == "utf-16-be-sig" else listing(NAMES, encoding)
    with open_source(make(tmp_path / "set", format, NAMES, {"dataset.json": data})) as source:
        assert [item.label for item in source.items()] == [0, 1, 2, 3]
        said = "".join(source.labels.notes)
        assert (encoding[:6].upper() in said) == (encoding != "utf-8-sig")


@every_form
@pytest.mark.parametrize(
    ("there", "named", "rule"),
    [
        (["Å/é.png", "Å/ö.png"], ["A\u030a/e\u0301.png", "A\u030a/o\u0308.png"], "another form of Unicode"),
        (["A\u030a/e\u0301.png", "A\u030a/o\u0308.png"], ["Å/é.png", "Å/ö.png"], "another form of Unicode"),
        (["a/0.png", "a/1.png"], ["a/0.jpg", "a/1.JPEG"], "another extension"),
        (["a/0.png", "a/1.png"], ["a/0", "a/1"], "another extension"),
        (["a/0.v2.png", "a/1.v2.png"], ["a/0.v2.webp", "a/1.v2.webp"], "another extension"),
        (["A/0.PNG", "A/1.PNG"], ["a/0.png", "a/1.png"], "upper and lower case|another extension"),
        (["a/0.png", "a/1.png"], ["X\\a\\0.jpg", "X\\a\\1.jpg"], "another extension and other folders"),
        (["x/a/0.png", "x/a/1.png"], ["A\\0.jpg", "A\\1.jpg"], "another extension and case and other folders"),
    ],
)
def test_names_that_are_spelt_otherwise(
    tmp_path: Path, format: str, there: list[str], named: list[str], rule: str
) -> None:
    with open_source(make(tmp_path / "set", format, there, {"dataset.json": listing(named)})) as source:
        assert [item.label for item in source.items()] == [0, 1]
        assert re.search(f"^2 labels matched by ({rule})", source.labels.notes[0]), source.labels.notes
        assert not source.labels.faults


@every_form
@pytest.mark.parametrize(
    ("there", "named", "message"),
    [
        (["a/0.png", "b/0.png"], ["0.png"], r"0\.png fits both images a/0\.png and b/0\.png \(other folders"),
        (["0.png", "1.png"], ["a/0.png", "b/0.png"], r"a/0\.png and b/0\.png both fit the image 0\.png"),
        (["0.png", "0.webp"], ["0.jpg"], r"0\.jpg fits both images 0\.png and 0\.webp \(another extension"),
        (["A.png", "b.png"], ["a.jpg", "a.webp"], r"a\.jpg and a\.webp both fit the image A\.png"),
    ],
)
def test_what_fits_two_ways_is_an_error(
    tmp_path: Path, format: str, there: list[str], named: list[str], message: str
) -> None:
    with pytest.raises(DataError, match=message) as raised:
        open_source(make(tmp_path / "set", format, there, {"dataset.json": listing(named)}))
    assert "dataset.json" in str(raised.value)


@every_form
def test_exact_names_go_before_looser_ones(tmp_path: Path, format: str) -> None:
    there = ["0.png", "0.webp", "a/0.png", "A/0.PNG"]
    (tmp_path / "case").touch()
    if format == "folder" and (tmp_path / "CASE").exists():
        pytest.skip("this file system does not tell a from A")
    with open_source(make(tmp_path / "set", format, there, {"dataset.json": listing(there[:3])})) as source:
        assert {item.name: item.label for item in source.items()} == {
            "0.png": 0, "0.webp": 1, "a/0.png": 2, "A/0.PNG": None,
        }  # fmt: skip


@every_form
def test_what_is_left_over_on_either_side_is_counted_and_named(tmp_path: Path, format: str) -> None:
    data = listing(["cat/0.png", "gone.png", "lost.png"])
    with open_source(make(tmp_path / "set", format, NAMES, {"dataset.json": data})) as source:
        assert [item.label for item in source.items()] == [0, None, None, None]
        assert re.search(r"3 images without a label in .*, which names for example gone\.png: cat/1\.png",
                         "\n".join(source.labels.notes))  # fmt: skip
        (fault,) = source.labels.faults
        assert re.search(r"2 labels of no image in .*dataset\.json: gone\.png and others", fault)


@every_form
@pytest.mark.parametrize("content", [b'{"labels": null}', b'{"labels": []}', b"{}"])
def test_no_labels_are_said(tmp_path: Path, format: str, content: bytes) -> None:
    with open_source(make(tmp_path / "set", format, NAMES, {"dataset.json": content})) as source:
        assert source.labels.kind is None
        assert "dataset.json" in source.labels.notes[0]
        assert "without labels" in source.labels.notes[0]


@every_form
def test_folders_as_classes(tmp_path: Path, format: str) -> None:
    path = make(tmp_path / "set", format, [*NAMES, "top.png", "Ähre/0.png"])
    with open_source(path, labels="folders") as source:
        assert source.labels.kind == "classes"
        assert source.labels.class_names == ["cat", "dog", "Ähre"]
        assert {item.name: item.label for item in source.items()} == {
            "cat/0.png": 0, "cat/1.png": 0, "dog/0.png": 1, "dog/x/1.png": 1, "top.png": None, "Ähre/0.png": 2,
        }  # fmt: skip


@every_form
def test_folders_around_all_pictures_are_no_class(tmp_path: Path, format: str) -> None:
    path = make(tmp_path / "set", format, [f"set-1.0/train/{name}" for name in NAMES])
    with open_source(path, labels="folders") as source:
        assert source.labels.class_names == ["cat", "dog"]
        assert [item.label for item in source.items()] == [0, 0, 1, 1]
    one = make(tmp_path / "one", format, ["a/cat/0.png", "a/cat/1.png"])
    with open_source(one, labels="folders") as source:
        assert source.labels.class_names == ["cat"]


@every_form
def test_no_folders(tmp_path: Path, format: str) -> None:
    with pytest.raises(DataError, match="--labels folders: no image of .*set lies in a folder"):
        open_source(make(tmp_path / "set", format, ["0.png", "1.png"]), labels="folders")


def test_arrays_have_no_folders(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 8, 8, 3), np.uint8))
    with pytest.raises(DataError, match=r"--labels folders: the images of .*a\.npy lie in no folders"):
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
def test_labels_by_number(tmp_path: Path, format: str, values: Any, kind: str, expected: list[Any]) -> None:
    path = make(tmp_path / "set", format, NAMES)
    np.save(tmp_path / "labels.npy", values)
    found, labels = labels_of(path, str(tmp_path / "labels.npy"))
    assert (found, labels) == (kind, expected)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.arange(5), "5 labels for the 4 images of"),
        (np.array([0, 1, -1, 2]), "label 2 is -1, not a class"),
        (np.array([0, 1, 1 << 20, 2]), "label 2 is 1048576, not a class"),
        (np.array([0.0, 1.0, -2.0, 3.0]), r"label 2 is -2\.0, not a class"),
        (np.array([0.0, 1.0, np.nan, 3.0]), r"label 2 is nan, not a class"),
        (np.full((4, 2), 1e39), "label 0 is .*, not"),
        (np.full((4, 2), np.inf), "label 0 is .*, not"),
        (np.array(["a", "b", "", "d"]), "the label of image 2 is '', not"),
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
        ("a.png,1\nb.png,2\na.png,3\n", r"line 3: another label for the image of line 1"),
        ("a.png,nan\n", r"line 1: the label of a\.png is nan, not"),
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
