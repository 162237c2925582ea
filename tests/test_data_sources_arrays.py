"""Images in arrays and databases: numpy's files, HDF5, LMDB and tensorflow_datasets."""

from __future__ import annotations

import os
import shutil
import sys
import types
import zipfile
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ganformer_cli.data.loading.datasets import PreparedDataset
from ganformer_cli.data.prepare.pipeline import prepare
from ganformer_cli.data.sources import Source, open_source
from ganformer_cli.data.sources import lmdbs as lmdb_room
from ganformer_cli.errors import DataError, OutputError

Array = npt.NDArray[Any]


def pictures(*shape: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, np.uint8)


def check(source: Source, expected: Array) -> None:
    """These images [N, H, W, C], from any start, and each of another name."""
    with source:
        assert source.count() == len(expected)
        assert source.others() == 0
        items = list(source.items())
        assert len({item.name for item in items}) == len(expected)
        for item, picture in zip(items, expected, strict=True):
            assert isinstance(item.data, np.ndarray), item.error
            assert item.data.dtype == np.uint8
            assert np.array_equal(item.data, picture)
        for start in (1, len(expected) - 1, len(expected)):
            assert [item.name for item in source.items(start)] == [item.name for item in items[start:]]
            for item, picture in zip(source.items(start), expected[start:], strict=True):
                assert np.array_equal(np.asarray(item.data), picture)
        assert len(list(source.samples(2))) == 2
        assert source.fingerprint() == source.fingerprint()


def save_npy(path: Path, array: Array) -> Path:
    with path.open("wb") as stream:
        np.save(stream, array)
    return path


def save_hdf5(path: Path, array: Array, name: str = "pictures", **others: Array) -> Path:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file.create_dataset(name, data=array)
        for other, data in others.items():
            file.create_dataset(other, data=data)
    return path


def save_npz(path: Path, array: Array, packed: bool = True, **others: Array) -> Path:
    with path.open("wb") as stream:
        (np.savez_compressed if packed else np.savez)(stream, images=array, **others)  # type: ignore[arg-type]
    return path


FORMATS = {"npy": save_npy, "npz": save_npz, "hdf5": save_hdf5}
every_form = pytest.mark.parametrize("format", FORMATS)


@every_form
@pytest.mark.parametrize("shape", [(5, 8, 6, 3), (5, 8, 6, 1), (5, 6, 8, 4), (5, 4, 4, 3), (3, 1, 1, 3)])
def test_channels_last(tmp_path: Path, format: str, shape: tuple[int, ...]) -> None:
    source = open_source(FORMATS[format](tmp_path / "file", pictures(*shape)))
    assert source.format == format
    check(source, pictures(*shape))


@every_form
@pytest.mark.parametrize("shape", [(5, 3, 8, 6), (5, 1, 8, 6), (5, 4, 6, 8), (5, 3, 4, 4), (5, 4, 3, 3)])
def test_channels_first(tmp_path: Path, format: str, shape: tuple[int, ...]) -> None:
    # Where it could be either, the one with square images is meant.
    check(open_source(FORMATS[format](tmp_path / "file", pictures(*shape))), pictures(*shape).transpose(0, 2, 3, 1))


@every_form
def test_no_channels(tmp_path: Path, format: str) -> None:
    check(open_source(FORMATS[format](tmp_path / "file", pictures(4, 8, 6))), pictures(4, 8, 6)[..., None])


@every_form
@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8", "<u2", ">u2"])
def test_other_numbers_are_handed_over_as_they_are(tmp_path: Path, format: str, dtype: str) -> None:
    wide = (pictures(5, 8, 8, 3) / 255).astype(dtype) if "f" in dtype else pictures(5, 8, 8, 3).astype(dtype) * 257
    path = tmp_path / "file"
    with open_source(save_hdf5(path, wide, "images") if format == "hdf5" else FORMATS[format](path, wide)) as source:
        rows = [item.data for item in source.items()]
    assert all(isinstance(row, np.ndarray) and row.dtype.isnative for row in rows)
    assert np.array_equal(np.stack(rows), wide)  # type: ignore[arg-type]


@every_form
def test_types_without_a_meaning_are_refused(tmp_path: Path, format: str) -> None:
    for wrong in (pictures(2, 8, 8, 3).astype(np.int64), pictures(2, 8, 8, 3) > 9, np.zeros((2, 8, 8, 3), np.uint32)):
        path = tmp_path / "file"
        with pytest.raises(DataError, match="file.*uint8, uint16, or floating point from 0 to 1"):
            open_source(save_hdf5(path, wrong, "images") if format == "hdf5" else FORMATS[format](path, wrong))


def test_prepare_rounds_them(tmp_path: Path) -> None:
    exact = pictures(5, 8, 8, 3)
    for name, array in (("f4", (exact / 255).astype(np.float32)), ("u2", exact.astype(np.uint16) * 257)):
        made = prepare(save_npy(tmp_path / name, array), name, data_dir=tmp_path / "made", resolution=8, workers=1)
        dataset = PreparedDataset(made.folder)
        assert all(np.array_equal(dataset.image(i).transpose(1, 2, 0), exact[i]) for i in range(5))


def test_numbers_out_of_range(tmp_path: Path) -> None:
    far = save_npy(tmp_path / "far", np.full((2, 8, 8, 3), [0, 100, 255], np.float32))
    with pytest.raises(DataError, match="has values from 0 to 255, where 0 to 1 is wanted; scale"):
        prepare(far, "far", data_dir=tmp_path / "made", workers=1)
    some = np.zeros((4, 8, 8, 3), np.float32)
    some[1, 0, 0, 0], some[2, 0, 0, 0] = 2, np.nan
    made = prepare(save_npy(tmp_path / "some", some), "some", data_dir=tmp_path / "made", workers=1)
    reasons = [skipped["reason"].partition(",")[0] for skipped in made.manifest["skipped"]["first"]]
    assert reasons == ["values from 0 to 2", "values from nan to nan"]


@pytest.mark.parametrize("shape", [(2, 2), (0, 8, 8, 3), (2, 0, 8, 3), (8, 8, 3), (2, 8, 8, 2), (1, 2, 8, 8, 3), ()])
def test_shapes_that_are_no_pictures(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="file.*(images are uint8|no pixels|looks like one image|no images)"):
        open_source(save_npy(tmp_path / "file", np.zeros(shape, np.uint8)))


def test_an_array_in_fortrans_order(tmp_path: Path) -> None:
    array = pictures(5, 8, 6, 3)
    check(open_source(save_npy(tmp_path / "file", np.asfortranarray(array))), array)
    with pytest.raises(DataError, match="lies in Fortran's order; save numpy.ascontiguousarray"):
        open_source(save_npz(tmp_path / "file", np.asfortranarray(array)))


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    harm = np.array([print], object)
    for save in (save_npy, save_npz):
        with pytest.raises(DataError, match="object"):
            open_source(save(tmp_path / "file", harm))


def test_an_array_cut_short(tmp_path: Path) -> None:
    path = save_npy(tmp_path / "file", pictures(5, 8, 6, 3))
    path.write_bytes(path.read_bytes()[:-150])
    with pytest.raises(DataError, match="file is cut short: it holds 3 whole images of 5; download it again"):
        open_source(path)
    for format in ("npz", "hdf5"):
        path = FORMATS[format](tmp_path / "file", pictures(50, 8, 6, 3))
        path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(DataError, match=r"file is damaged or cut short"):
            open_source(path)


# ---- npz -------------------------------------------------------------------------------------------------------------


def test_which_array_of_several(tmp_path: Path) -> None:
    right, wrong = pictures(4, 8, 8, 3), pictures(7, 8, 8, 3)
    np.savez(tmp_path / "a.npz", mean=np.zeros(3), other=right)
    check(open_source(tmp_path / "a.npz"), right)
    np.savez(tmp_path / "a.npz", mask=wrong, x=right)
    check(open_source(tmp_path / "a.npz"), right)
    np.savez(tmp_path / "a.npz", mean=np.zeros(3))
    with pytest.raises(DataError, match=r"a\.npz holds no array of images \(.*array mean"):
        open_source(tmp_path / "a.npz")


@pytest.mark.parametrize("name", ["labels", "y"])
@pytest.mark.parametrize("format", ["npz", "hdf5"])
def test_labels_beside_the_pictures(tmp_path: Path, format: str, name: str) -> None:
    for labels, kind, first in (
        (np.array([3, 1, 0, 2]), "classes", 3),
        (np.array([[3], [1], [0], [2]]), "classes", 3),
        (np.eye(4)[::-1], "classes", 3),
        (np.eye(4)[::-1] / 2, "vectors", (0.0, 0.0, 0.0, 0.5)),
    ):
        path = FORMATS[format](tmp_path / "file", pictures(4, 8, 8, 3), **{name: labels})
        with open_source(path) as source:
            assert source.labels.kind == kind
            assert next(source.items()).label == first
            assert len({item.label for item in source.items()}) == 4
        with open_source(path, labels="none") as source:
            assert source.labels.kind is None
    path = FORMATS[format](tmp_path / "file", pictures(4, 8, 8, 3), **{name: np.arange(5)})
    with pytest.raises(DataError, match=f"{name}: 5 labels for 4 images"):
        open_source(path)


def test_damage_in_a_npz_gives_what_stands_before(tmp_path: Path) -> None:
    path = save_npz(tmp_path / "file", pictures(2000, 8, 8, 3), packed=False)
    with zipfile.ZipFile(path) as archive, archive.open("images.npy") as stream:
        place = path.read_bytes().index(stream.read(2000)) + 350_000
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    with open_source(path) as source:
        items = list(source.items())
    assert 1700 < len(items) <= 2000  # the checksum is of all: it is wrong at the end
    assert items[-1].error.startswith("the archive is damaged here: ")
    assert not any(item.error for item in items[:-1])


# ---- HDF5 ------------------------------------------------------------------------------------------------------------


def test_which_dataset_of_several(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    right, wrong = pictures(4, 8, 8, 3), pictures(7, 8, 8, 3)
    with h5py.File(tmp_path / "a", "w") as file:
        file["a/masks"] = wrong
        file["train/images"] = right
        file["train/labels"] = np.arange(4)
        file["labels"] = np.arange(7)
    source = open_source(tmp_path / "a")
    assert source.labels.kind == "classes"
    assert next(source.items()).name == "train/images[0]"
    check(source, right)
    with h5py.File(tmp_path / "a", "w") as file:
        file["mean"] = np.zeros(3)
        file["b"] = right
        file["c"] = wrong
    check(open_source(tmp_path / "a"), right)
    with h5py.File(tmp_path / "a", "w") as file:
        file["mean"] = np.zeros(3)
    with pytest.raises(DataError, match=r"a holds no dataset of images.*\(but /mean float64 \[3\]\)"):
        open_source(tmp_path / "a")


def test_chunks_of_several_pictures(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a", "w") as file:
        file.create_dataset("x", data=pictures(11, 8, 8, 3), chunks=(4, 8, 2, 3), compression="gzip")
    check(open_source(tmp_path / "a"), pictures(11, 8, 8, 3))


def test_damage_in_a_chunk_is_of_its_pictures(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a", "w") as file:
        dataset = file.create_dataset("x", data=pictures(6, 32, 32, 3), chunks=(2, 32, 32, 3), fletcher32=True)
        place = dataset.id.get_chunk_info(1).byte_offset
    data = bytearray((tmp_path / "a").read_bytes())
    data[place + 9] ^= 1
    (tmp_path / "a").write_bytes(data)
    with open_source(tmp_path / "a") as source:
        items = list(source.items())
    assert [bool(item.error) for item in items] == [False, False, True, True, False, False]
    assert items[2].error.startswith("damaged: ")


@pytest.mark.parametrize(
    "way", ["external storage", "virtual", "external link", "linked group", "label link", "label storage", "circle"]
)
def test_data_in_other_files_are_not_followed(tmp_path: Path, way: str) -> None:
    h5py = pytest.importorskip("h5py")
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(4 * 8 * 8 * 3))
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["images"], file["labels"] = pictures(4, 8, 8, 3), np.arange(4)
    given = {"shape": (4, 8, 8, 3), "dtype": np.uint8}
    with h5py.File(tmp_path / "a", "w") as file:
        if way == "external storage":
            file.create_dataset("images", **given, external=[(str(secret), 0, h5py.h5f.UNLIMITED)])
        elif way == "virtual":
            layout = h5py.VirtualLayout(**given)
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "images", shape=given["shape"])
            file.create_virtual_dataset("images", layout)
        elif way == "external link":
            file["images"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/images")
        elif way == "linked group":
            file.create_group("train")["set"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/")
        else:
            file["images"] = pictures(4, 8, 8, 3)
        if way == "label link":
            file["there"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/")
            file["labels"] = h5py.SoftLink("/there/labels")
        elif way == "label storage":
            file.create_dataset("labels", (4,), np.int64, external=[(str(secret), 0, h5py.h5f.UNLIMITED)])
        elif way == "circle":
            file["labels"], file["around"] = h5py.SoftLink("/around"), h5py.SoftLink("/labels")
    with pytest.raises(DataError, match="circle" if way == "circle" else "not followed"):
        open_source(tmp_path / "a")


def test_links_within_the_file_are_followed(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a", "w") as file:
        file["images"] = pictures(4, 8, 8, 3)
        file["train/classes"] = np.arange(4)
        file["labels"], file["short"] = h5py.SoftLink("short/classes"), h5py.SoftLink("/train/.")
    with open_source(tmp_path / "a") as source:
        assert [item.label for item in source.items()] == [0, 1, 2, 3]


def test_what_a_file_claims_and_does_not_hold(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a", "w") as file:
        file.create_dataset("images", (10**12, 8, 8, 3), np.uint8, chunks=(16, 8, 8, 3))
    with pytest.raises(DataError, match="claims .* and holds"):
        open_source(tmp_path / "a")
    with h5py.File(tmp_path / "a", "w") as file:
        images = file.create_dataset("images", (400, 2048, 2048, 3), np.uint8, chunks=(100, 2048, 2048, 3))
        assert images.chunks is not None
    with pytest.raises(DataError, match="chunks of 1200 MiB"):
        open_source(tmp_path / "a")
    with h5py.File(tmp_path / "a", "w") as file:
        file["images"] = pictures(4, 8, 8, 3)
        file.create_dataset("labels", (10**12,), np.int64, chunks=(1024,))
    with pytest.raises(DataError, match="claims|labels for 4 images"):
        open_source(tmp_path / "a")


@pytest.mark.parametrize(("format", "extra"), [("hdf5", "h5py"), ("lmdb", "lmdb")])
def test_a_missing_library_is_named(tmp_path: Path, format: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    start = b"\x89HDF\r\n\x1a\n" if format == "hdf5" else bytes(16) + bytes.fromhex("dec0efbe")
    (tmp_path / "file").write_bytes(start + bytes(100))
    monkeypatch.setitem(sys.modules, extra, None)
    with pytest.raises(DataError, match=rf'file needs the library {extra}: pip install "ganformer\[{format}\]"'):
        open_source(tmp_path / "file")


# ---- LMDB ------------------------------------------------------------------------------------------------------------

ENTRIES = {f"{i * 7919 % 1000:040x}": b"webp %d" % i for i in range(50)}


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """As LSUN has it."""
    lmdb = pytest.importorskip("lmdb")
    path = tmp_path / "bedroom_lmdb"
    with lmdb.open(str(path), map_size=1 << 24) as env, env.begin(write=True) as transaction:
        for key, value in ENTRIES.items():
            transaction.put(key.encode(), value)
    return path


def zip_of(database: Path) -> Path:
    path = database.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("data.mdb", "lock.mdb"):
            archive.write(database / name, f"{database.name}/{name}")
    return path


def test_lsuns_layout(database: Path, tmp_path: Path) -> None:
    (database / "lock.mdb").unlink()  # nothing is written beside it
    shutil.copy(database / "data.mdb", tmp_path / "alone")
    for path in (database, tmp_path / "alone", database / "data.mdb"):
        with open_source(path) as source:
            assert (source.format, source.count(), source.others()) == ("lmdb", 50, 0)
            items = list(source.items())
            assert {item.name: item.data for item in items} == ENTRIES
            assert [item.name for item in items] == sorted(ENTRIES)
            for start in (1, 49, 50):
                assert list(source.items(start)) == items[start:]
            assert [item.name for item in source.samples(2)] == [items[0].name, items[25].name]
            assert source.fingerprint() == source.fingerprint()
    assert os.listdir(database) == ["data.mdb"]


def test_the_database_is_opened_anew_now_and_then(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmdb_room, "_MAPPED", 40)  # after every sixth
    with open_source(database) as source:
        items = list(source.items())
        assert [item.name for item in items] == sorted(ENTRIES)
        assert list(source.items(17)) == items[17:]
        assert [pair[0] for pair in zip(source.items(), source.items(3), strict=False)] == items[:47]


def test_a_database_in_a_zip_is_unpacked_for_the_time(database: Path, tmp_path: Path) -> None:
    path = zip_of(database)
    before = sorted(os.listdir(tmp_path))
    with open_source(path) as source:
        assert {item.name: item.data for item in source.items()} == ENTRIES
        assert sorted(set(os.listdir(tmp_path)) - set(before))[0] == ".bedroom_lmdb.zip.unpacked"
        fingerprint = source.fingerprint()
        with pytest.raises(DataError, match="is being unpacked by another process"):
            open_source(path)
    assert sorted(os.listdir(tmp_path)) == before
    with open_source(path) as source:
        assert source.fingerprint() == fingerprint


def test_what_a_stopped_process_unpacked_is_taken(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zip_of(database)
    with monkeypatch.context() as patch:
        patch.setattr(lmdb_room.Unpacked, "remove", lambda self: self._lock.release())  # as if it were killed
        open_source(path).close()
    with monkeypatch.context() as patch:
        patch.setattr(zipfile, "ZipFile", None)  # needed no more
        with open_source(path) as source:
            assert source.count() == 50
    with monkeypatch.context() as patch:
        patch.setattr(lmdb_room.Unpacked, "remove", lambda self: self._lock.release())
        open_source(path).close()
    os.utime(path, (1, 1))  # another archive
    folder = path.with_name(f".{path.name}.unpacked")
    (folder / "data.mdb").write_bytes(b"old")
    with open_source(path) as source:
        assert source.count() == 50
    assert not folder.exists()


def test_no_room_to_unpack(database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zip_of(database)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1, 1, 1000))
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(OutputError, match=r"bedroom_lmdb\.zip needs 0\.0 GB in its folder"):
        open_source(path)
    assert sorted(os.listdir(tmp_path)) == before


def test_a_damaged_database_is_named(database: Path) -> None:
    data = (database / "data.mdb").read_bytes()
    used = len(data.rstrip(b"\0"))  # on Windows the file is as large as the map
    (database / "data.mdb").write_bytes(data[: used // 2])  # reading behind its end would stop this process
    with pytest.raises(DataError, match=r"data\.mdb is (cut short|damaged)"):
        open_source(database)
    (database / "data.mdb").write_bytes(b"")
    with pytest.raises(DataError, match=r"data\.mdb is (cut short|damaged)"):
        open_source(database)


def test_a_damaged_zip_of_a_database_is_named(database: Path, tmp_path: Path) -> None:
    path = zip_of(database)
    data = bytearray(path.read_bytes())
    data[300] ^= 1  # not in the zeros behind the content, which Windows' files end with
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"bedroom_lmdb\.zip: bedroom_lmdb/data\.mdb is damaged"):
        open_source(path)
    assert not [name for name in os.listdir(tmp_path) if "unpacked" in name]


# ---- tensorflow_datasets ---------------------------------------------------------------------------------------------


class FakeData:
    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def skip(self, count: int) -> FakeData:
        return FakeData(self.rows[count:])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module with one data set, ``little/one``, of five labelled images."""
    module: Any = types.ModuleType("tensorflow_datasets")
    rows = [{"image": pictures(8, 8, 3) + i, "label": np.int64(i)} for i in range(5)]

    def builder(name: str) -> Any:
        if name != "little/one":
            raise LookupError(f"no data set {name}")
        info = types.SimpleNamespace(
            full_name="little/one/1.0.0",
            splits={"test": types.SimpleNamespace(num_examples=9), "train": types.SimpleNamespace(num_examples=5)},
            features=features,
        )
        return types.SimpleNamespace(info=info, download_and_prepare=lambda: None, as_dataset=as_dataset)

    def as_dataset(*, split: str, shuffle_files: bool, read_config: Any) -> FakeData:
        assert (split, shuffle_files, read_config) == ("train", False, {"interleave_cycle_length": 1})
        return FakeData(rows)

    features = {"image": None, "label": None}
    module.features = features
    module.builder, module.as_numpy, module.ReadConfig = builder, iter, dict
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", module)
    return module


def test_tensorflow_datasets(fake: types.ModuleType) -> None:
    source = open_source(Path("little/one"), format="tfds")
    assert (source.format, source.labels.kind) == ("tfds", "classes")
    assert [item.label for item in source.items(2)] == [2, 3, 4]
    check(source, np.stack([pictures(8, 8, 3) + i for i in range(5)]))


def test_tensorflow_datasets_that_cannot_be_had(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="cannot give big: .*no data set big"):
        open_source(Path("big"), format="tfds")
    fake.features["text"] = fake.features.pop("image")
    with pytest.raises(DataError, match=r"little/one has no images called image \(but label, text\)"):
        open_source(Path("little/one"), format="tfds")
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(DataError, match="needs the library tensorflow_datasets: pip install tensorflow-datasets"):
        open_source(Path("cifar10"), format="tfds")
