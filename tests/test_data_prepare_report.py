"""What is told of a data set beside its images: duplicates, skipped files, the preview; and whether it is whole."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from ganformer_cli.config import MAX_LABELS
from ganformer_cli.data import open_dataset
from ganformer_cli.data.manifest import checksum
from ganformer_cli.data.prepare import duplicates
from ganformer_cli.data.prepare.conversion import difference_hash
from ganformer_cli.data.prepare.duplicates import find_near, find_repeated
from ganformer_cli.data.prepare.pipeline import PreparedSet, prepare
from ganformer_cli.data.prepare.verify import verify
from ganformer_cli.data.sources import Item, Source
from ganformer_cli.data.sources.base import Labels
from ganformer_cli.errors import DataError

Pixels = npt.NDArray[np.uint8]


class Memory(Source):
    """Images that lie in memory."""

    format = "npy"

    def __init__(self, items: list[Item], label_kind: str | None = None, class_names: list[str] | None = None) -> None:
        self.path = Path("memory")
        self.labels = Labels(label_kind, class_names)
        self._items = items

    def count(self) -> int:
        return len(self._items)

    def others(self) -> int:
        return 0

    def items(self, start: int = 0) -> Iterator[Item]:
        return iter(self._items[start:])

    def fingerprint(self) -> str:
        return str(len(self._items))


def noise(seed: int, side: int = 16, channels: int = 3) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (side, side, channels), np.uint8)


def smooth(seed: int, side: int = 64) -> Pixels:
    """Large soft patches of colour, as in a photograph."""
    small = Image.fromarray(noise(seed, 6))
    return np.asarray(small.resize((side, side), Image.Resampling.BICUBIC))


def made(pictures: list[Any], name: str = "set", **options: Any) -> PreparedSet:
    items = [Item(f"{i}.png", picture) for i, picture in enumerate(pictures)]
    return prepare(Memory(items), name, workers=1, **{"resolution": 16, **options})


# ---- Duplicates ------------------------------------------------------------------------------------------------------


def test_duplicates_are_told_and_kept() -> None:
    pictures = [noise(i) for i in (1, 2, 1, 3, 2, 1, 4)]
    manifest = made(pictures).manifest
    assert manifest["count"] == 7
    assert manifest["duplicates"] == {
        "exact": 2, "near": None, "first": [["0.png", "2.png", "5.png"], ["1.png", "4.png"]], "first_near": [],
    }  # fmt: skip
    messages = json.loads(Path("datasets/set/duplicates.json").read_text(encoding="utf-8"))
    assert messages["exact"][1] == [
        {"picture": "00000/img00000001.png", "file": "1.png"}, {"picture": "00000/img00000004.png", "file": "4.png"},
    ]  # fmt: skip
    made([noise(i) for i in range(3)], "other")
    assert not Path("datasets/other/duplicates.json").exists()


def test_a_source_of_nothing_but_duplicates_is_told_in_bounded_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "MAX_LISTED", 9)
    manifest = made([noise(i % 5) for i in range(20)]).manifest
    messages = json.loads(Path("datasets/set/duplicates.json").read_text(encoding="utf-8"))
    assert manifest["duplicates"]["exact"] == 5
    assert [len(group) for group in messages["exact"]] == [4, 4]
    assert messages["groups_left_out"] == 3


def test_skipped_pictures_do_not_shift_the_names_of_duplicates() -> None:
    manifest = made([b"broken", noise(1), b"", noise(2), noise(2)]).manifest
    assert manifest["duplicates"]["first"] == [["3.png", "4.png"]]


def test_equal_prefixes_of_digests_are_no_duplicates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "find_repeated", lambda words: np.arange(len(words)))  # as if all were suspects
    assert made([noise(1), noise(2), noise(1)]).manifest["duplicates"]["first"] == [["0.png", "2.png"]]


def test_near_duplicates_look_alike() -> None:
    pictures = [smooth(seed) for seed in range(12)]
    brighter = np.clip(pictures[3].astype(int) + 6, 0, 255).astype(np.uint8)
    grainy = np.clip(pictures[7] + np.random.default_rng(0).normal(0, 2, pictures[7].shape), 0, 255).astype(np.uint8)
    smaller = np.asarray(Image.fromarray(pictures[3]).resize((48, 48), Image.Resampling.LANCZOS))
    manifest = made([*pictures, brighter, grainy, smaller, pictures[5]], resolution=32, near_duplicates=True).manifest
    assert manifest["duplicates"]["first"] == [["5.png", "15.png"]]
    assert manifest["duplicates"]["first_near"] == [["3.png", "12.png", "14.png"], ["7.png", "13.png"]]
    assert manifest["duplicates"]["near"] == 2


def test_the_hash_is_of_what_is_seen() -> None:
    ramp = np.repeat(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], 64, axis=0).repeat(3, axis=2)
    assert difference_hash(Image.fromarray(ramp)) == 2**64 - 1
    assert difference_hash(Image.fromarray(np.ascontiguousarray(ramp[:, ::-1]))) == 0


def test_near_hashes_are_those_within_four_bits() -> None:
    rng = np.random.default_rng(0)
    words = rng.integers(0, 2**64, 300, np.uint64)
    for bits in (1, 2, 3, 4, 5, 6):  # neighbours of the first ones
        flips = [sum(1 << int(bit) for bit in rng.choice(64, bits, replace=False)) for _ in range(20)]
        words = np.concatenate([words, words[20 * bits : 20 * bits + 20] ^ np.array(flips, np.uint64)])
    within = {
        (i, j) for j in range(len(words)) for i in range(j) if int(words[i] ^ words[j]).bit_count() <= 4
    }  # fmt: skip
    assert len(within) == 80
    assert {tuple(group) for group in find_near(words)} == within
    assert find_near(np.array([7, 255 << 40, 7, 7], np.uint64)) == [[0, 2, 3]]
    assert find_near(np.array([5], np.uint64)) == []


def test_a_chain_of_small_steps_is_not_one_group() -> None:
    chain = np.array([(1 << 3 * i) - 1 for i in range(12)], np.uint64)
    assert find_near(chain) == [[i, i + 1] for i in range(0, 12, 2)]


def test_repeated() -> None:
    assert find_repeated(np.array([3, 1, 3, 2, 1, 9], np.uint64)).tolist() == [0, 1, 2, 4]
    assert find_repeated(np.array([], np.uint64)).tolist() == []


# ---- Skipped, labels, preview ----------------------------------------------------------------------------------------


def test_many_skipped_pictures_have_a_file_of_their_own() -> None:
    pictures: list[Any] = [b"" if i % 2 else b"words" for i in range(150)]
    pictures.insert(3, noise(0))
    skipped = made(pictures).manifest["skipped"]
    assert skipped["count"] == 150
    assert skipped["reasons"] == {"an empty file": 75, "not an image of a known format": 75}
    lines = Path("datasets/set/skipped.jsonl").read_text(encoding="utf-8").splitlines()
    every = [json.loads(line) for line in lines]
    assert skipped["first"] == every[:100]
    assert [item["file"] for item in every] == [f"{i}.png" for i in range(151) if i != 3]


def test_what_the_source_could_not_read_is_skipped_with_its_words() -> None:
    items = [Item("a", noise(0)), Item("b", None, error="the archive is damaged here: at byte 7")]
    manifest = prepare(Memory(items), "set", resolution=16).manifest
    assert manifest["skipped"]["reasons"] == {"the archive is damaged here": 1}
    assert manifest["skipped"]["first"] == [{"file": "b", "reason": "the archive is damaged here: at byte 7"}]


def test_names_of_classes_and_classes_without_pictures() -> None:
    items = [Item(str(i), noise(i), label) for i, label in enumerate((0, 2, 2, None))]
    manifest = prepare(Memory(items, "classes", ["cat", "cow", "dog", "eel"]), "set", resolution=16).manifest
    assert manifest["labels"] == {
        "kind": "classes", "size": 4, "pictures": {"0": 1, "2": 2}, "names": ["cat", "cow", "dog", "eel"],
    }  # fmt: skip
    assert manifest["skipped"]["first"] == [{"file": "3", "reason": "no label"}]
    dataset = open_dataset("set")
    assert dataset.label(1).tolist() == [0, 0, 1, 0]


def test_more_classes_than_a_network_takes_leave_nothing_behind() -> None:
    items = [Item(str(i), noise(i), label) for i, label in enumerate((0, MAX_LABELS))]
    with pytest.raises(DataError, match=f"1: class {MAX_LABELS} makes {MAX_LABELS + 1} classes, and a network"):
        prepare(Memory(items, "classes"), "set", resolution=16, workers=1)
    assert not Path("datasets").exists()


def test_labels_are_part_of_the_fingerprint() -> None:
    prints = set()
    for i, labels in enumerate(((0, 1), (1, 0), ((0.0,), (1.0,)), (None, None))):
        kind = ("classes", "classes", "vectors", None)[i]
        items = [Item(str(k), noise(k), label) for k, label in enumerate(labels)]  # type: ignore[arg-type]
        prints.add(prepare(Memory(items, kind), f"set-{i}", resolution=16).manifest["fingerprint"])
    assert len(prints) == 4


def test_vectors_of_several_lengths_are_refused_by_name() -> None:
    items = [Item("a", noise(0), (1.0, 2.0)), Item("b", noise(1), (1.0,))]
    with pytest.raises(DataError, match="b: its label has 1 numbers where others have 2"):
        prepare(Memory(items, "vectors"), "set", resolution=16)


@pytest.mark.parametrize(
    ("count", "size"), [(1, (16, 8)), (2, (34, 8)), (5, (52, 18)), (64, (142, 78)), (100, (142, 78))]
)
def test_the_preview_shows_pictures_spread_over_the_set(count: int, size: tuple[int, int]) -> None:
    made([np.full((8, 16, 3), i, np.uint8) for i in range(count)], ratio=0.5)
    with Image.open("datasets/set/preview.png") as image:
        assert image.size == size
        sheet = np.asarray(image)
    shown = min(count, 64)
    columns = (size[0] + 2) // 18
    tops = [sheet[k // columns * 10, k % columns * 18, 0] for k in range(shown)]
    assert tops == [i * count // shown for i in range(shown)]


def test_the_preview_is_of_bounded_size() -> None:
    made([noise(i, 256) for i in range(2)], resolution=256, ratio=2.0)
    with Image.open("datasets/set/preview.png") as image:
        assert image.size == (64 + 2 + 64, 128)


# ---- Numbers as images ---------------------------------------------------------------------------------------------


def test_pixels_of_a_source_are_taken_as_they_are() -> None:
    grey, color, clear = noise(1, channels=1), noise(2), noise(3, channels=4)
    made([grey, color, clear, color.astype(np.float32), color[:, :, :2], color[:0]], background="black")
    dataset = open_dataset("set")
    assert len(dataset) == 3
    assert np.array_equal(dataset.image(0), grey.transpose(2, 0, 1).repeat(3, axis=0))
    assert np.array_equal(dataset.image(1), color.transpose(2, 0, 1))
    expected = clear[:, :, :3].astype(float) * clear[:, :, 3:] / 255
    assert np.abs(dataset.image(2) - expected.transpose(2, 0, 1)).max() <= 1


def test_uncompressed_pictures_are_the_same_and_larger() -> None:
    pictures = [smooth(i) for i in range(4)]
    packed = made(pictures, "packed", resolution=64).manifest
    raw = made(pictures, "raw", resolution=64, compression="none").manifest
    assert raw["compression"] == "none"
    assert raw["fingerprint"] == packed["fingerprint"]
    assert raw["shards"][0]["bytes"] > max(packed["shards"][0]["bytes"], 4 * 64 * 64 * 3)
    assert all(np.array_equal(open_dataset("raw").image(i), open_dataset("packed").image(i)) for i in range(4))
    assert verify(Path("datasets/raw"))["ok"]


# ---- Verify ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder() -> Path:
    """A data set of seven images in two zips."""
    return made([noise(i) for i in range(7)], shards_num=2).folder


def problems(folder: Path) -> list[str]:
    found = verify(folder)
    assert found["ok"] == (not found["problems"])
    return list(found["problems"])


def test_a_whole_set_has_no_problems(folder: Path) -> None:
    seen: list[tuple[int, int, int]] = []
    assert verify(folder, progress=lambda *state: seen.append(state)) == {
        "folder": str(folder), "ok": True, "problems": [], "pictures": 7, "shards": 2,
    }  # fmt: skip
    assert (seen[0], seen[-1]) == ((0, 7, 0), (7, 7, 0))


def test_a_damaged_picture_is_named(folder: Path) -> None:
    path = folder / "images-00001-of-00002.zip"
    data = bytearray(path.read_bytes())
    data[300] ^= 1
    path.write_bytes(data)
    changed, picture = problems(folder)
    assert changed.startswith(f"{path} was changed")
    assert picture.startswith(f"{path}: 00000/img00000004.png is damaged")


def test_what_is_missing_or_cut_or_strange_is_named(folder: Path) -> None:
    first, second = folder / "images-00000-of-00002.zip", folder / "images-00001-of-00002.zip"
    whole = second.read_bytes()
    second.write_bytes(whole[:-50])
    cut, unreadable = problems(folder)
    assert cut == f"{second} has {len(whole) - 50} bytes where {len(whole)} are expected"
    assert unreadable.startswith(f"{second} cannot be read")
    second.write_bytes(whole)
    first.rename(folder / "images-00000-of-00009.zip")
    (folder / "thesis.tex").write_text("", encoding="utf-8")
    assert problems(folder) == [
        f"{first} is missing",
        f"{folder / 'images-00000-of-00009.zip'} does not belong to the data set",
        f"{folder / 'thesis.tex'} does not belong to the data set",
    ]


def test_a_picture_of_another_size_or_mode_is_named(folder: Path) -> None:
    path = folder / "images-00001-of-00002.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for i, (mode, side) in enumerate((("RGB", 16), ("L", 16), ("RGB", 8)), 4):
            with archive.open(f"00000/img{i:08d}.png", "w") as stream:
                Image.new(mode, (side, side)).save(stream, "PNG")
        archive.writestr("dataset.json", '{"labels": null}')
    assert problems(folder)[1:] == [
        f"{path}: 00000/img00000005.png is L 16x16, not RGB 16x16",
        f"{path}: 00000/img00000006.png is RGB 8x8, not RGB 16x16",
    ]


def test_other_names_are_told(folder: Path) -> None:
    path = folder / "images-00001-of-00002.zip"
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../../x.png", b"")
    assert any(problem.startswith(f"{path} does not hold the 3 images from 4 on") for problem in problems(folder))


def test_an_edited_manifest_is_reported(folder: Path) -> None:
    path = folder / "manifest.json"
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole.replace('"count": 7', '"count": 8'), encoding="utf-8")
    (problem,) = problems(folder)
    assert problem.startswith(f"{path} was edited")
    for text in ("{", "[]", '{"format": 7}', "[" * 100_000):
        path.write_text(text, encoding="utf-8")
        (problem,) = problems(folder)
        assert problem.startswith(str(path))
    manifest = {**json.loads(whole), "count": 8}
    path.write_text(json.dumps({**manifest, "checksum": checksum(manifest)}), encoding="utf-8")
    assert problems(folder) == [f"{path} says 8 images, its shards hold 7"]


def test_where_there_is_no_data_set() -> None:
    Path("nothing").mkdir()
    for name in ("nothing", "nowhere"):
        with pytest.raises(DataError, match=f"{name} holds no prepared data set"):
            verify(Path(name))
