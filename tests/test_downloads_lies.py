"""Servers that lie, never end, or hardly send: each is a line, nothing wrong keeps its name, the disk stays free."""

from __future__ import annotations

import itertools
import pickle
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from ganformer_cli.data.catalogue import CatalogueEntry, DownloadSource
from ganformer_cli.data.prepare import acquire
from ganformer_cli.data.prepare.acquire import AcquiredArchive
from ganformer_cli.downloads import patience, transfer
from ganformer_cli.downloads.drive import fetch_drive
from ganformer_cli.downloads.transfer import fetch
from ganformer_cli.errors import DataError, DownloadError, SnapshotError
from ganformer_cli.original_snapshots.catalogue import check_snapshot

if TYPE_CHECKING:
    from tests.conftest import Request, Server

Lie = Callable[["Server", "Request"], None]


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "file.bin"


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(patience, "SLOW_SECONDS", 0.3)
    monkeypatch.setattr(patience, "RETRIES", patience.Retries(1, backoff_factor=0))
    monkeypatch.setattr(transfer, "REQUEST_TIMEOUT", (5.0, 5.0))
    monkeypatch.setattr(transfer, "MAX_SMALL_STEPS", 5)
    monkeypatch.setattr(transfer, "MAX_UNANNOUNCED", 1 << 22)
    monkeypatch.setattr(transfer, "LOOK_EVERY", 1 << 20)


def endless_continue(server: Server, request: Request) -> None:
    while True:
        request.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def endless_headers(server: Server, request: Request) -> None:
    request.wfile.write(b"HTTP/1.1 200 OK\r\n")
    for number in itertools.count():
        request.wfile.write(f"X-{number}: y\r\n".encode())


def dripping_header(server: Server, request: Request) -> None:
    request.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
    while True:
        request.wfile.write(b"y")
        time.sleep(0.02)


def endless_body(server: Server, request: Request) -> None:
    request.say(200, Content_Length=None)
    while True:
        request.wfile.write(bytes(range(256)) * 256)


def endless_chunks(server: Server, request: Request) -> None:
    request.protocol_version = "HTTP/1.1"
    request.say(200, Content_Length=None, Transfer_Encoding="chunked")
    while True:
        request.wfile.write(b"10000\r\n" + bytes(range(256)) * 256 + b"\r\n")


def dripping_body(server: Server, request: Request) -> None:
    request.say(200, b"\0" * 600, Content_Length=10_000_000)
    while True:
        request.wfile.write(b"\0")
        time.sleep(0.02)


def dripping_start(server: Server, request: Request) -> None:
    request.say(200, Content_Length=10_000_000)
    while True:
        request.wfile.write(b"\0")
        time.sleep(0.02)


def a_byte_a_try(server: Server, request: Request) -> None:
    asked = request.headers.get("Range")
    server.file(request, stop=1000 + (int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0))


def redirect_loop(server: Server, request: Request) -> None:
    request.say(302, Location=f"/{len(server.asked)}")


def redirect_to_a_file(server: Server, request: Request) -> None:
    request.say(302, Location="file:///etc/passwd")


def redirect_to_nowhere(server: Server, request: Request) -> None:
    request.say(302, Location="http://[")


def no_http(server: Server, request: Request) -> None:
    request.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n" * 3)


def nothing(server: Server, request: Request) -> None:
    request.close_connection = True


def too_short(server: Server, request: Request) -> None:
    request.say(200, b"\0" * 10, Content_Length=1000)


def negative_length(server: Server, request: Request) -> None:
    request.say(500, b"", Content_Length=-5)


def bad_chunks(server: Server, request: Request) -> None:
    request.protocol_version = "HTTP/1.1"
    request.say(200, b"zz\r\nabc", Content_Length=None, Transfer_Encoding="chunked")


def larger_than_the_disk(server: Server, request: Request) -> None:
    request.say(200, b"\0", Content_Length=1 << 60)


def page(server: Server, request: Request) -> None:
    request.page("<!doctype html><title>Log in</title>")


LIES = [
    endless_continue, endless_headers, dripping_header, endless_body, endless_chunks, dripping_body, dripping_start,
    a_byte_a_try, redirect_loop, redirect_to_a_file, redirect_to_nowhere, no_http, nothing, too_short,
    negative_length, bad_chunks, larger_than_the_disk, page,
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.__name__)
def test_a_lie_is_a_line(server: Server, target: Path, lie: Lie) -> None:
    server.answer = lie
    with pytest.raises((DownloadError, transfer.OutputError)) as caught:
        fetch(server.url, target)
    assert "file.bin" in str(caught.value) or server.url in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not target.exists()
    assert sum(path.stat().st_size for path in target.parent.iterdir()) <= 1 << 20  # a part that may be continued
    # The server's second thought counts.
    server.answer = None
    assert fetch(server.url, target).read_bytes() == server.content


@pytest.mark.slow
@pytest.mark.parametrize("lie", [endless_continue, dripping_header, dripping_body, endless_body, page, redirect_loop])
def test_a_lie_of_drive(server: Server, target: Path, lie: Lie) -> None:
    server.answer = lie
    with pytest.raises(DownloadError):
        fetch_drive("id", target, base_url=server.url)
    assert not target.exists()


def test_a_page_of_drive_that_drips(server: Server, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def drip(server: Server, request: Request) -> None:
        request.say(200, b"<!doctype html><title>Wait</title>", Content_Type="text/html", Content_Length=None)
        while True:
            request.wfile.write(b" ")
            time.sleep(0.02)

    server.answer = drip
    with pytest.raises(DownloadError, match="web page"):
        fetch_drive("id", target, base_url=server.url)


def test_a_slow_download_is_seen(server: Server, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "MIN_BYTES_PER_SECOND", 1)

    def slowly(server: Server, request: Request) -> None:
        request.say(200, Content_Length=20_000)
        for _ in range(20):
            request.wfile.write(bytes(1000))
            time.sleep(0.02)

    server.answer = slowly
    seen: list[int] = []
    fetch(server.url, target, progress=lambda done, total: seen.append(done))
    assert len(set(seen)) > 4
    assert seen[-1] == 20_000


def test_the_disk_is_not_filled(server: Server, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "MAX_UNANNOUNCED", 1 << 40)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=transfer.SPARE_BYTES - 1))
    server.answer = endless_body
    with pytest.raises(DownloadError, match="does not say how many"):
        fetch(server.url, target)
    assert not target.with_name("file.bin.part").exists()


def test_what_is_no_archive_does_not_keep_its_name(server: Server, tmp_path: Path) -> None:
    source = DownloadSource(url=server.url, format="zip of pictures")
    entry = CatalogueEntry(name="mine", title="Mine", licence="MIT", ratio=1.0, source=(source,))
    server.content = b"this is no archive" * 100
    with pytest.raises(DataError, match=r"put aside as .*\.bad"):
        acquire.acquire(entry, tmp_path).open(None, None)
    server.content = b"neither is this" * 100
    with pytest.raises(DataError, match=r"put aside"):
        acquire.acquire(entry, tmp_path).open(None, None)
    assert len(server.asked) == 2


def test_a_file_of_the_users_keeps_its_name(own_folder: Path) -> None:
    path = own_folder / "a.zip"
    path.write_bytes(b"this is no archive")
    with pytest.raises(DataError) as caught:
        AcquiredArchive(path, "zip", None, downloaded=False).open(None, None)
    assert "put aside" not in str(caught.value)
    assert path.exists()


def test_a_snapshot_that_is_cut_short_is_not_kept(server: Server, target: Path) -> None:
    server.content = pickle.dumps({"G_ema": list(range(1000))})[:-1]
    with pytest.raises(SnapshotError, match="cut short"):
        fetch_drive("id", target, base_url=server.url, check=check_snapshot)
    assert not target.exists()
