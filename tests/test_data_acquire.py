"""From an entry of the catalogue to images on this disk: downloaded once, checked, unpacked, and nothing lost."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from ganformer_cli.data.catalogue import CatalogueEntry, DownloadSource, load_catalogue
from ganformer_cli.data.prepare import acquire as room
from ganformer_cli.data.prepare.acquire import AcquiredArchive, acquire, acquire_file, estimated_output, find_existing
from ganformer_cli.data.prepare.options import PrepareOptions
from ganformer_cli.errors import DataError, DownloadError, OutputError

if TYPE_CHECKING:
    from tests.conftest import Request, Server

DATA = Path("data")
FOLDER = DATA / ".downloads" / "mine"
ID = "1lY4JE30yk26v0MWHNpX"


def png(value: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def zipped(files: dict[str, bytes], *, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name, (2021, 3, 4, 5, 6, 8)), data, method)
    return stream.getvalue()


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


PICTURES = zipped({f"set/images/{number}.png": png(number) for number in range(3)} | {"set/thumbs/0.png": png(9)})
RECORDS = zipped({"clevr/clevr-r08.tfrecords": b"eight"})


def entry_of(*sources: DownloadSource, images: int | None = 3) -> CatalogueEntry:
    return CatalogueEntry("mine", "Mine", "CC0", 1.0, resolution=8, images=images, source=sources)


def serving(**contents: bytes) -> Callable[[Server, Request], None]:
    """A server that has the file ``NAME.zip`` for each keyword, and nothing else."""

    def answer(server: Server, request: Request) -> None:
        server.content = contents.get(Path(request.path.partition("?")[0]).stem, b"")
        if server.content:
            server.file(request)
        else:
            request.say(404)

    return answer


@pytest.fixture
def source(server: Server) -> Callable[..., DownloadSource]:
    """``source("a", "zip of pictures", RIGHT)``: what ``a.zip`` of the server is said to be."""

    def make(name: str, format: str, content: bytes | None = None, **more: Any) -> DownloadSource:
        checksum: Any = {} if content is None else {"md5": md5(content)}
        return DownloadSource(format, url=f"{server.url}/{name}.zip", **checksum, **more)

    return make


Sources = Callable[..., DownloadSource]


def names(acquired: AcquiredArchive) -> list[str]:
    with acquired.open(None, None) as pictures:
        assert pictures.count() == len(list(pictures.items()))
        return [item.name for item in pictures.items()]


# Downloads.


def test_an_archive_is_downloaded_once_checked_and_kept(server: Server, source: Sources) -> None:
    server.answer = serving(a=PICTURES)
    entry = entry_of(source("a", "zip of pictures", PICTURES))
    seen: list[tuple[str, int, int | None]] = []
    acquired = acquire(entry, DATA, progress=lambda *now: seen.append(now))
    assert acquired.path == FOLDER / "a.zip"
    assert acquired.path.read_bytes() == PICTURES
    assert acquired.format == "zip"
    assert seen[0] == ("download", 0, len(PICTURES))
    assert seen[-1] == ("download", len(PICTURES), len(PICTURES))
    assert acquired.release(keep_download=True) == len(PICTURES)
    assert acquire(entry, DATA).path == acquired.path
    assert len(server.asked) == 1
    assert acquired.release(keep_download=False) == 0
    assert not (DATA / ".downloads").exists()


def test_a_download_goes_on(server: Server, source: Sources) -> None:
    content = zipped({"a.png": os.urandom(900_000)}, method=zipfile.ZIP_STORED)
    server.answer = serving(a=content)
    entry = entry_of(source("a", "zip of pictures", content))

    def stop(what: str, done: int, total: int | None) -> None:
        if done > 300_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        acquire(entry, DATA, progress=stop)
    assert not (FOLDER / "a.zip").exists()
    assert acquire(entry, DATA).path.read_bytes() == content
    assert server.ranges[0] is None
    assert server.ranges[1] is not None


def test_only_the_folder_that_the_catalogue_names_is_read(server: Server, source: Sources) -> None:
    server.answer = serving(a=PICTURES)
    acquired = acquire(entry_of(source("a", "zip of pictures", PICTURES, folder="set/images")), DATA)
    assert names(acquired) == [f"set/images/{number}.png" for number in range(3)]
    with acquired.open(None, None) as pictures:
        assert pictures.others() == 1
        assert [item.name for item in pictures.items(2)] == ["set/images/2.png"]
        assert [item.name for item in pictures.samples(1)] == ["set/images/0.png"]
        inside = pictures.fingerprint()
    with acquire(entry_of(source("a", "zip of pictures", PICTURES)), DATA).open(None, None) as pictures:
        assert pictures.count() == 4
        assert pictures.fingerprint() != inside
    for folder in ("set/image", "elsewhere"):
        acquired = acquire(entry_of(source("a", "zip of pictures", PICTURES, folder=folder)), DATA)
        with pytest.raises(DataError, match=rf"a\.zip: there are no images in its folder {folder}"):
            acquired.open(None, None)


def test_the_sources_are_tried_in_order(server: Server, source: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "DRIVE", server.url)
    quota = "<html><title>Google Drive - Quota exceeded</title>Too many users have viewed this file</html>"

    def answer(server: Server, request: Request) -> None:
        if request.path.startswith("/uc"):
            return request.page(quota)
        serving(b=PICTURES)(server, request)

    server.answer = answer
    drive = DownloadSource("zip of tfrecords", drive=ID, md5=md5(RECORDS))
    entry = entry_of(drive, source("b", "zip of pictures", PICTURES))
    said: list[str] = []
    acquired = acquire(entry, DATA, notice=said.append)
    assert acquired.source is entry.source[1]
    assert len(said) == 1
    assert "quota" in said[0]
    assert said[0].endswith("now trying another source of mine")
    asked = len(server.asked)
    assert acquire(entry, DATA).source is entry.source[1]
    assert len(server.asked) == asked
    with pytest.raises(DownloadError, match=r"\(its quota\): try again in a day"):
        acquire(entry, DATA, choice=1)
    with pytest.raises(DataError, match="--source 3: mine has 2, numbered from 1"):
        acquire(entry, DATA, choice=3)


def test_drive_gives_the_file_after_its_question(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "DRIVE", server.url)
    server.content = RECORDS
    link = f'<html><a href="/uc?export=download&amp;confirm=a1B2&amp;id={ID}">Download anyway</a></html>'
    server.answer = lambda server, request: server.file(request) if "confirm" in request.query else request.page(link)
    acquired = acquire(entry_of(DownloadSource("zip of tfrecords", drive=ID, md5=md5(RECORDS))), DATA)
    assert acquired.path == FOLDER / "mine.zip"
    assert acquired.format == "tfrecords"


def test_no_source_gives_it(server: Server, source: Sources) -> None:
    server.answer = serving(b=b"other")
    entry = entry_of(source("a", "zip of pictures", PICTURES), source("b", "zip of pictures", PICTURES))
    with pytest.raises(DownloadError) as caught:
        acquire(entry, DATA)
    message = str(caught.value)
    assert message.startswith("mine: none of its 2 sources failed: (1) cannot download a.zip: the server says 404")
    for words in (
        f"(2) b.zip of {server.url}/b.zip has the md5 {md5(b'other')}, where {md5(PICTURES)} is expected",
        f"put aside as {FOLDER / 'b.zip.bad'}",
        "ganformer prepare mine --from-file FILE --no-check",
    ):
        assert words in message
    assert sorted(path.name for path in FOLDER.iterdir() if path.suffix != ".lock") == ["b.zip.bad"]
    with pytest.raises(DataError, match="mine: its entry names no .*source.* use --from-file"):
        acquire(entry_of(), DATA)


def test_an_archive_that_changed_since_is_not_used(server: Server, source: Sources) -> None:
    server.answer = serving(a=PICTURES)
    entry = entry_of(source("a", "zip of pictures", PICTURES))
    archive = acquire(entry, DATA).path
    archive.write_bytes(b"other")
    with pytest.raises(DownloadError, match=r"a\.zip has the md5 .*remove it to download it again"):
        acquire(entry, DATA)
    assert archive.read_bytes() == b"other"
    archive.unlink()
    assert acquire(entry, DATA).path.read_bytes() == PICTURES


# Space.


def free(monkeypatch: pytest.MonkeyPatch, bytes_: int) -> None:
    monkeypatch.setattr(room.shutil, "disk_usage", lambda path: SimpleNamespace(free=bytes_))


@pytest.mark.parametrize(
    ("format", "gigabytes", "output", "needed", "parts"),
    [
        ("zip of pictures", 5.0, 3 << 30, "7.7", "3.0 for the data set, 4.7 for the download"),
        ("zip of lmdb", 5.0, 0, "9.3", "4.7 for the download, 4.7 for unpacking it"),
        ("zip of pictures", None, 3 << 30, "3.0", "3.0 for the data set"),
    ],
)
def test_the_disk_is_asked_before_the_first_byte(
    server: Server, source: Sources, monkeypatch: pytest.MonkeyPatch,
    format: str, gigabytes: float | None, output: int, needed: str, parts: str,
) -> None:  # fmt: skip
    free(monkeypatch, 2 << 30)
    with pytest.raises(OutputError) as caught:
        acquire(entry_of(source("a", format, PICTURES, gigabytes=gigabytes)), DATA, output=output)
    assert f"mine does not fit: it needs about {needed} GiB ({parts}), and {FOLDER} has 2.0 GiB free" in str(
        caught.value
    )
    assert "--data-dir" in str(caught.value)
    assert server.asked == []


def test_what_is_there_already_needs_no_space(server: Server, source: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answer = serving(a=PICTURES)
    entry = entry_of(source("a", "zip of pictures", PICTURES, gigabytes=5))
    acquire(entry, DATA)
    free(monkeypatch, 1 << 30)
    acquire(entry, DATA)
    with pytest.raises(OutputError, match=r"needs about 2\.0 GiB \(2\.0 for the data set\)"):
        acquire(entry, DATA, output=2 << 30)


def test_what_a_data_set_takes() -> None:
    entry = load_catalogue()["ffhq"]
    assert 8e9 < estimated_output(entry, PrepareOptions(resolution=256)) < 10e9
    small = PrepareOptions(resolution=256, ratio=0.5, max_images=1000, compression="none")
    assert estimated_output(entry, small) == 1000 * (256 * 128 * 3 + 200)
    assert estimated_output(entry_of(images=None), PrepareOptions(resolution=256)) == 0
    assert estimated_output(entry_of(images=None), PrepareOptions(resolution=256, max_images=10)) > 0


def test_a_folder_that_cannot_be_written(server: Server, source: Sources) -> None:
    DATA.write_text("a file", encoding="utf-8")
    with pytest.raises(OutputError, match="--data-dir"):
        acquire(entry_of(source("a", "zip of pictures", PICTURES)), DATA)
    assert server.asked == []


# What the user has already.


def test_the_users_own_file_is_recognised_and_left_alone(server: Server, source: Sources) -> None:
    entry = entry_of(source("a", "zip of tfrecords", RECORDS), source("b", "zip of pictures", PICTURES))
    path = Path("downloaded (1).zip")
    path.write_bytes(PICTURES)
    acquired = acquire_file(entry, path)
    assert (acquired.path, acquired.source) == (path, entry.source[1])
    path.write_bytes(RECORDS)
    acquired = acquire_file(entry, path)
    assert acquired.format == "tfrecords"
    assert acquired.release(keep_download=False) == 0
    assert path.is_file()
    assert not (DATA / ".downloads").exists()
    assert server.asked == []


def test_another_file_than_the_catalogue_knows(source: Sources) -> None:
    entry = entry_of(source("a", "zip of pictures", PICTURES))
    path = Path("mine.zip")
    path.write_bytes(zipped({"x.png": png(1)}))
    with pytest.raises(DataError) as caught:
        acquire_file(entry, path)
    for words in (f"--from-file {path}: it has none of the checksums", f"md5:{md5(PICTURES)}", "--no-check"):
        assert words in str(caught.value)
    assert names(acquire_file(entry, path, check=False)) == ["x.png"]
    assert names(acquire_file(entry_of(DownloadSource("zip of pictures", url="http://x/y")), path)) == ["x.png"]
    with pytest.raises(DataError, match="does not exist"):
        acquire_file(entry, Path("missing.zip"))
    with pytest.raises(DataError, match=r"it is a folder; prepare it with: ganformer prepare \. --name mine"):
        acquire_file(entry, Path("."))


def test_a_data_set_that_was_made_is_not_downloaded_again(source: Sources) -> None:
    from ganformer_cli.data.prepare.pipeline import prepare

    entry = entry_of(source("a", "zip of pictures", PICTURES))
    target = DATA / "mine"
    options = PrepareOptions(resolution=8)
    assert find_existing(entry, target, options) is None
    Path("a.zip").write_bytes(PICTURES)
    made = prepare(Path("a.zip"), "mine", data_dir=DATA, resolution=8)
    found = find_existing(entry, target, options)
    assert found is not None
    assert found.unchanged
    assert found.manifest == made.manifest
    for changed, said in (
        ({"resolution": 16}, "with --resolution 8, not 16"),
        ({"background": "black"}, "with --background #ffffff, not #000000"),
        ({"fit": "pad"}, "with --fit crop, not pad"),
        ({"shards_num": 2}, "with --shards-num 1, not 2"),
        ({"near_duplicates": True}, "without --near-duplicates"),
    ):
        asked: dict[str, Any] = {"resolution": 8, **changed}
        with pytest.raises(DataError, match=f"mine was made {said}; add --overwrite"):
            find_existing(entry, target, PrepareOptions(**asked))
    with pytest.raises(DataError, match=r"mine was made of other images \(a\.zip\); add --overwrite"):
        find_existing(entry_of(source("b", "zip of pictures")), target, options)
    shard = target / made.manifest["shards"][0]["file"]
    shard.write_bytes(b"cut short")
    assert find_existing(entry, target, options) is None
    (target / "manifest.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match=r"manifest\.json.*--overwrite"):
        find_existing(entry, target, options)
