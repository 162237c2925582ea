"""Preparing: any source, the same bytes every time, nothing lost in silence, nothing half-written."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from ganformer_cli.config import MAX_LABELS
from ganformer_cli.data import open_dataset
from ganformer_cli.data.prepare.options import check_dataset_name, choose_resolution
from ganformer_cli.data.prepare.pipeline import prepare
from ganformer_cli.data.sources import open_source
from ganformer_cli.errors import ConfigError, DataError


def pixels(seed: int, height: int = 16, width: int = 16) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def save(path: Path, array: npt.NDArray[np.uint8], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def zipped(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*"), reverse=True):  # not in the order of the names
            archive.write(file, file.relative_to(folder).as_posix())
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Six images of 16x16 in sub-folders."""
    for i in range(6):
        save(tmp_path / "source" / f"part {i % 2}" / f"image-{i}.png", pixels(i))
    return tmp_path / "source"


IN_ORDER = (0, 2, 4, 1, 3, 5)  # the order of their names


def test_the_layout_is_stylegans(source: Path) -> None:
    prepared = prepare(source, "set", resolution=16)
    assert prepared.folder == Path("datasets/set")
    assert sorted(os.listdir("datasets/set")) == ["images.zip", "manifest.json", "preview.png"]
    assert os.listdir("datasets") == ["set"]
    with zipfile.ZipFile("datasets/set/images.zip") as archive:
        infos = archive.infolist()
        assert [info.filename for info in infos] == [f"00000/img{i:08d}.png" for i in range(6)] + ["dataset.json"]
        assert all(info.compress_type == zipfile.ZIP_STORED for info in infos)
        assert json.loads(archive.read("dataset.json")) == {"labels": None}
        for info, seed in zip(infos, IN_ORDER, strict=False):
            with Image.open(io.BytesIO(archive.read(info))) as image:
                assert image.mode == "RGB"
                assert image.format == "PNG"
                assert np.array_equal(np.asarray(image), pixels(seed))


@pytest.mark.slow
def test_every_thousand_pictures_get_a_folder(source: Path) -> None:
    names = [f"{i:04}.png" for i in range(1001)]
    data = (source / "part 0" / "image-0.png").read_bytes()
    with zipfile.ZipFile("many.zip", "w") as archive:
        for name in names:
            archive.writestr(name, data)
    prepare(Path("many.zip"), "many", resolution=16)
    with zipfile.ZipFile("datasets/many/images.zip") as archive:
        assert archive.namelist()[998:1001] == [
            "00000/img00000998.png",
            "00000/img00000999.png",
            "00001/img00001000.png",
        ]


def test_the_manifest_tells_what_was_done(source: Path) -> None:
    (source / "notes.txt").write_text("hello", encoding="utf-8")
    (source / "part 0" / "image-2.png").write_bytes(b"")
    save(source / "part 1" / "image-9.png", pixels(9, 40, 300))
    manifest = prepare(source, "set", resolution=8, ratio=0.5, background="black").manifest
    assert manifest == json.loads(Path("datasets/set/manifest.json").read_text(encoding="utf-8"))
    archive = Path("datasets/set/images.zip").read_bytes()
    assert manifest["shards"] == [
        {"file": "images.zip", "count": 6, "bytes": len(archive), "sha256": hashlib.sha256(archive).hexdigest()}
    ]
    shown = {key: manifest[key] for key in ("name", "count", "resolution", "ratio", "height", "width", "background")}
    assert shown == {
        "name": "set", "count": 6, "resolution": 8, "ratio": 0.5, "height": 4, "width": 8, "background": "#000000",
    }  # fmt: skip
    messages = {"name": "source", "form": "folder", "pictures": 7, "considered": 7, "other_files": 1}
    assert manifest["source"].items() >= messages.items()
    first = [{"file": "part 0/image-2.png", "reason": "an empty file"}]
    assert manifest["skipped"] == {"count": 1, "reasons": {"an empty file": 1}, "first": first}
    assert manifest["labels"] is None
    assert manifest["sources"] == {
        "several_frames": 0, "wide_values": [], "modes": {"RGB": 6},
        "smallest": [16, 16], "largest": [300, 40], "sides": {"16-31": 5, "32-63": 1},
    }  # fmt: skip
    assert manifest["duplicates"] == {"exact": 0, "near": None, "first": [], "first_near": []}


def test_same_source_same_bytes(source: Path, tmp_path: Path) -> None:
    prepare(source, "set", resolution=8, data_dir=Path("one"))
    copy = tmp_path / "elsewhere" / "source"
    shutil.copytree(source, copy)
    for path in copy.rglob("*.png"):
        os.utime(path, (1, 1))
    prepare(copy, "set", resolution=8, data_dir=Path("two"))
    for file in ("manifest.json", "images.zip", "preview.png"):
        assert (Path("one/set") / file).read_bytes() == (Path("two/set") / file).read_bytes()


def test_folder_and_zip_give_the_same_pictures(source: Path) -> None:
    of_folder = prepare(source, "folder", resolution=16).manifest
    of_zip = prepare(zipped(source, Path("source.zip")), "zip", resolution=16).manifest
    assert of_folder["shards"] == of_zip["shards"]
    assert of_folder["fingerprint"] == of_zip["fingerprint"]
    assert of_folder["source"]["fingerprint"] == of_zip["source"]["fingerprint"]


def test_a_prepared_set_prepared_again_is_itself(source: Path) -> None:
    first = prepare(source, "first", resolution=16).manifest
    again = prepare(Path("datasets/first/images.zip"), "again").manifest
    assert again["shards"] == first["shards"]


def test_a_stored_picture_of_any_kind_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "kinds"
    folder.mkdir()
    gray = Image.new("L", (20, 20), 100)
    for suffix in ("png", "jpg", "JPEG", "gif", "bmp", "webp", "tif", "tga", "ppm", "pgm", "jp2", "ico", "pcx"):
        gray.save(folder / f"a.{suffix}")
    Image.new("CMYK", (20, 20), (0, 0, 0, 155)).save(folder / "cmyk.jpg")
    Image.fromarray(np.full((20, 20), 25700, np.uint16)).save(folder / "deep.png")
    Image.new("RGBA", (20, 20), (0, 0, 0, 155)).save(folder / "clear.png")
    prepared = prepare(folder, "kinds", resolution=16)
    assert prepared.manifest["skipped"]["count"] == 0
    dataset = open_dataset("kinds")
    assert len(dataset) == 16
    for index in range(16):
        assert np.abs(dataset.image(index).astype(int) - 100).max() <= 2


# ---- What cannot be used ---------------------------------------------------------------------------------------------


@pytest.fixture
def mixed(source: Path) -> Path:
    """The six, and some that cannot be used."""
    (source / "a-empty.png").write_bytes(b"")
    (source / "b-words.jpg").write_text("words", encoding="utf-8")
    (source / "c-cut.png").write_bytes((source / "part 0" / "image-0.png").read_bytes()[:400])
    save(source / "d tiny ü.png", pixels(9, 1, 1))
    return source


def test_what_cannot_be_used_is_skipped_and_named(mixed: Path) -> None:
    seen: list[tuple[int, int, int]] = []
    manifest = prepare(mixed, "set", resolution=16, progress=lambda *state: seen.append(state)).manifest
    assert manifest["count"] == 6
    skipped = manifest["skipped"]["first"]
    assert [item["file"] for item in skipped] == ["a-empty.png", "b-words.jpg", "c-cut.png", "d tiny ü.png"]
    reasons = [item["reason"] for item in skipped]
    for reason, words in zip(reasons, ("empty", "not an image", "damaged", "too small: 1x1"), strict=True):
        assert words in reason
    assert seen[0] == (0, 10, 0)
    assert seen[-1] == (10, 10, 4)
    assert len(open_dataset("set")) == 6


def test_strict_makes_it_an_error(mixed: Path) -> None:
    with pytest.raises(DataError, match=r"a-empty\.png: an empty file"):
        prepare(mixed, "set", resolution=16, strict=True)
    assert not Path("datasets").exists()
    prepare(mixed, "set", resolution=16)
    with pytest.raises(DataError, match=r"a-empty\.png"):
        prepare(mixed, "set", resolution=16, strict=True)


def test_broken_members_of_a_zip_are_skipped(source: Path) -> None:
    path = zipped(source, Path("source.zip"))
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("part 1/image-3.png")
    data = bytearray(path.read_bytes())
    data[info.header_offset + 200] ^= 0xFF
    path.write_bytes(data)
    manifest = prepare(path, "set", resolution=16).manifest
    assert manifest["count"] == 5
    assert [item["file"] for item in manifest["skipped"]["first"]] == ["part 1/image-3.png"]


def test_names_in_a_zip_reach_no_file(source: Path, tmp_path: Path) -> None:
    data = (source / "part 0" / "image-0.png").read_bytes()
    with zipfile.ZipFile("evil.zip", "w") as archive:
        for name in ("../../evil.png", "/abs/evil.png", "x" * 300 + ".png", "same.png"):
            archive.writestr(name, data)
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("same.png", data)
    before = {path for path in tmp_path.rglob("*") if path.name.startswith("evil")}
    assert prepare(Path("evil.zip"), "set", resolution=16).manifest["count"] == 5
    assert {path for path in tmp_path.rglob("*") if path.name.startswith("evil")} == before


def test_litter_of_other_systems_is_not_taken_for_pictures(source: Path) -> None:
    for name in ("__MACOSX/._picture-0.png", ".hidden.png", ".cache/a.png"):
        save(source / name, pixels(1), format="PNG")
    assert prepare(source, "folder", resolution=16).manifest["count"] == 6
    assert prepare(zipped(source, Path("source.zip")), "zip", resolution=16).manifest["count"] == 6


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_linked_folders_are_followed_once(source: Path, tmp_path: Path) -> None:
    save(tmp_path / "outside" / "more.png", pixels(50))
    (source / "linked").symlink_to(tmp_path / "outside", target_is_directory=True)
    (source / "part 0" / "loop").symlink_to(source, target_is_directory=True)
    assert prepare(source, "set", resolution=16).manifest["count"] == 7


# ---- Choices ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "ratio", "resolution"),
    [
        ([(64, 64)] * 10, 1.0, 64),
        ([(63, 63)] * 10, 1.0, 32),
        ([(100, 60)] * 10, 1.0, 32),
        ([(100, 64)] * 10, 0.5, 64),
        ([(128, 300)] * 10, 0.5, 256),
        ([(600, 600)] * 10, 1.0, 256),
        ([(10, 10)] + [(64, 64)] * 20, 1.0, 64),  # a few small ones do not decide
        ([(10, 10)] * 10 + [(64, 64)] * 20, 1.0, 8),
        ([(3, 3)] * 2, 1.0, 8),
    ],
)
def test_the_resolution_chosen(tmp_path: Path, sizes: list[tuple[int, int]], ratio: float, resolution: int) -> None:
    for i, (height, width) in enumerate(sizes):
        save(tmp_path / "sized" / f"{i}.png", np.zeros((height, width, 3), np.uint8))
    with open_source(tmp_path / "sized") as source:
        assert choose_resolution(source, ratio) == resolution


def test_max_images_counts_those_kept(mixed: Path) -> None:
    manifest = prepare(mixed, "set", resolution=16, max_images=2).manifest
    assert manifest["count"] == 2
    assert manifest["skipped"]["count"] == 4
    assert manifest["source"]["considered"] == 6
    assert prepare(mixed, "set", resolution=16, max_images=2).unchanged


def test_the_form_chooses(source: Path) -> None:
    save(source / "x.JPG", pixels(7))
    assert prepare(source, "jpg", resolution=16, format="jpg").manifest["count"] == 1
    assert prepare(source, "png", resolution=16, format="png").manifest["count"] == 6
    assert prepare(source, "any", resolution=16).manifest["count"] == 7


def test_shape(tmp_path: Path) -> None:
    save(tmp_path / "wide" / "a.png", pixels(0, 100, 200))
    prepare(tmp_path / "wide", "wide", resolution=64, ratio=0.7)
    dataset = open_dataset("wide", resolution=64, ratio=0.7)
    assert dataset.image(0).shape == (3, 45, 64)
    prepare(tmp_path / "wide", "tall", resolution=64, ratio=2.0)
    assert open_dataset("tall").image(0).shape == (3, 64, 32)


# ---- Labels ----------------------------------------------------------------------------------------------------------


def labelled(source: Path, labels: object) -> Path:
    (source / "dataset.json").write_text(json.dumps({"labels": labels}), encoding="utf-8")
    return source


def test_classes_are_kept(source: Path) -> None:
    pairs = [[f"part {i % 2}/image-{i}.png", i // 2] for i in range(6)]
    for format in (labelled(source, pairs), zipped(source, Path("labelled.zip"))):
        manifest = prepare(format, "set", resolution=16, overwrite=True).manifest
        assert manifest["labels"] == {"kind": "classes", "size": 3, "pictures": {"0": 2, "1": 2, "2": 2}}
        with zipfile.ZipFile("datasets/set/images.zip") as archive:
            written = json.loads(archive.read("dataset.json"))["labels"]
        assert written == [[f"00000/img{n:08d}.png", i // 2] for n, i in enumerate(IN_ORDER)]
        dataset = open_dataset("set")
        assert dataset.label_dim == 3
        assert [int(dataset.label(n).argmax()) for n in range(6)] == [i // 2 for i in IN_ORDER]
        assert dataset.label(2).dtype == np.float32
        assert dataset.label(2).sum() == 1


def test_vectors_are_kept(source: Path) -> None:
    labelled(source, [[f"part {i % 2}/image-{i}.png", [i, 0.5]] for i in range(6)])
    assert prepare(source, "set", resolution=16).manifest["labels"] == {"kind": "vectors", "size": 2}
    dataset = open_dataset("set")
    assert [dataset.label(n).tolist() for n in range(6)] == [[i, 0.5] for i in IN_ORDER]


def test_a_picture_without_a_label_is_skipped_and_named(source: Path) -> None:
    labelled(source, [[f"part {i % 2}/image-{i}.png", 0] for i in range(5)])
    manifest = prepare(source, "set", resolution=16).manifest
    assert manifest["skipped"]["first"] == [{"file": "part 1/image-5.png", "reason": "no label"}]


def test_null_means_no_labels(source: Path) -> None:
    assert prepare(labelled(source, None), "set", resolution=16).manifest["labels"] is None
    assert open_dataset("set").label_dim == 0


def test_names_of_classes_are_kept_also_when_it_is_prepared_again(source: Path) -> None:
    labelled(source, [[f"part {i % 2}/image-{i}.png", ("cat", "dog", "ant")[i // 2]] for i in range(6)])
    expected = {"kind": "classes", "size": 3, "pictures": {"0": 2, "1": 2, "2": 2}, "names": ["ant", "cat", "dog"]}
    assert prepare(source, "set", resolution=16, shards_num=2).manifest["labels"] == expected
    assert prepare(Path("datasets/set"), "again", resolution=16).manifest["labels"] == expected
    assert [int(open_dataset("again").label(n).argmax()) for n in range(6)] == [(1, 2, 0)[i // 2] for i in IN_ORDER]


def test_names_in_shards_that_no_label_has_are_shown_beside_one_of_the_labels(source: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        tar.add(source / "part 0/image-0.png", "0.png")
    (tmp_path / "labels.csv").write_text("one.png,1\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"the first, 0\.png: no label; the labels are of names such as one\.png"):
        prepare(tmp_path / "shard.tar", "set", resolution=16, format="webdataset", labels=str(tmp_path / "labels.csv"))


def test_labels_of_no_image_are_an_error_where_asked(source: Path) -> None:
    pairs = [[f"part {i % 2}/image-{i}.png", i] for i in range(6)]
    labelled(source, [*pairs, ["gone.png", 1]])
    with pytest.raises(DataError, match=r"1 label of no image in .*dataset\.json: gone\.png; .*--strict"):
        prepare(source, "set", resolution=16, strict=True)
    assert not Path("datasets").exists()
    prepared = prepare(source, "set", resolution=16)
    assert [note.partition(" in ")[0] for note in prepared.notes] == ["1 label of no image"]
    assert prepared.manifest["label_notes"] == prepared.notes
    with pytest.raises(DataError, match="1 label of no image"):
        prepare(source, "set", resolution=16, strict=True)  # the second time as well
    labelled(source, pairs)
    again = prepare(source, "set", resolution=16, strict=True)
    assert again.unchanged
    assert not again.notes


@pytest.mark.slow
@pytest.mark.parametrize("label", [MAX_LABELS, [0.5] * (MAX_LABELS + 1)])
def test_more_labels_than_a_network_takes_are_refused_before_anything_is_made(source: Path, label: object) -> None:
    labelled(source, [[f"part {i % 2}/image-{i}.png", label] for i in range(6)])
    with pytest.raises(DataError, match=rf"{MAX_LABELS + 1}.* a network takes at most {MAX_LABELS}; .*--labels none"):
        prepare(source, "set", resolution=16)
    assert not Path("datasets").exists()


@pytest.mark.parametrize(
    "labels", [[["a", 1, 2]], [["a", "cat"]], [["a", -1]], [["a", 1], ["b", [1.0]]], 7, [["a", []]]]
)
def test_labels_that_make_no_sense(source: Path, labels: object) -> None:
    with pytest.raises(DataError, match=r"dataset\.json"):
        prepare(labelled(source, labels), "set", resolution=16)
    (source / "dataset.json").write_bytes(b"\xff{")
    with pytest.raises(DataError, match=r"dataset\.json"):
        prepare(source, "set", resolution=16)


# ---- Wrong arguments -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"resolution": 48}, "--resolution 48.*power of two"),
        ({"resolution": 4}, "--resolution 4:"),
        ({"resolution": -8}, "--resolution -8"),
        ({"ratio": 0.0}, "--ratio 0"),
        ({"ratio": 9.0}, "--ratio 9"),
        ({"ratio": float("nan")}, "--ratio nan"),
        ({"max_images": 0}, "--max-images 0"),
        ({"background": "colourless"}, "--background 'colourless'"),
        ({"shards_num": 0}, "--shards-num 0: must be at least 1"),
        ({"shards_num": 100_000}, "--shards-num 100000: must be at least 1 and at most 99999"),
        ({"compression": "gzip"}, "--compression 'gzip': choose one of png, none"),
        ({"workers": 0}, "workers 0"),
    ],
)
def test_wrong_arguments(source: Path, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        prepare(source, "set", **arguments)
    assert not Path("datasets").exists()


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "a/b",
        "a\\b",
        "C:",
        "what?",
        ".hidden",
        "-x",
        "dot.",
        "end ",
        "con",
        "NUL.txt",
        "x\n",
        "x" * 101,
        "scenes",
    ],
)
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(ConfigError, match="--name"):
        check_dataset_name(name)


@pytest.mark.parametrize("name", ["a", "my-pictures_2", "Kätzchen", "v1.5", "two words", "console"])
def test_names_that_can_be(name: str) -> None:
    check_dataset_name(name)


def test_too_small_for_the_resolution_says_what_to_do(source: Path) -> None:
    with pytest.raises(DataError, match=r"none of its 6 images.*too small: 16x16.*lower --resolution"):
        prepare(source, "set", resolution=32)
    assert not Path("datasets").exists()


def test_sources_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("a", encoding="utf-8")
    (tmp_path / "words.zip").write_text("words", encoding="utf-8")
    (tmp_path / "page.zip").write_text("<!DOCTYPE html><title>Quota exceeded</title>", encoding="utf-8")
    with zipfile.ZipFile(tmp_path / "cut.zip", "w") as archive:
        archive.writestr("a.png", b"x" * 1000)
    (tmp_path / "cut.zip").write_bytes((tmp_path / "cut.zip").read_bytes()[:-30])
    with zipfile.ZipFile(tmp_path / "void.zip", "w"):
        pass
    save(tmp_path / "broken" / "a.png", pixels(0)).write_bytes(b"\x89PNG")
    for name, words in {
        "missing": "does not exist",
        "empty": "it is empty",
        "texts": "the 1 files in it are something else",
        "words.zip": "not a known kind of source",
        "page.zip": "web page",
        "cut.zip": "damaged or cut short",
        "void.zip": "holds no images",
        "broken": "can be read",
    }.items():
        with pytest.raises(DataError, match=f"{name}.* {words}"):
            prepare(tmp_path / name, "set")
        assert not Path("datasets").exists()
