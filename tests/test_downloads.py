"""Downloads are whole or not there, go on where they broke off, and are checked while they come."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import IO, TYPE_CHECKING, Any

import pytest

from ganformer_cli import downloads
from ganformer_cli.downloads import patience
from ganformer_cli.downloads import transfer as room
from ganformer_cli.downloads.checksums import ChecksumError, check_file
from ganformer_cli.downloads.drive import fetch_drive
from ganformer_cli.downloads.transfer import fetch
from ganformer_cli.errors import DownloadError, OutputError

if TYPE_CHECKING:
    from tests.conftest import Request, Server

CONTENT = bytes(range(256)) * 4096  # what the server gives: 1 MiB, several blocks
ID = "1-aB_c"
RETRIES = patience.RETRIES  # those of the program; the server of the tests does not wait


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "model.pkl"


@pytest.fixture
def waiting(server: Server, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits between tries, which pass at once."""
    waited: list[float] = []
    monkeypatch.setattr(patience, "RETRIES", RETRIES)
    monkeypatch.setattr(time, "sleep", waited.append)
    return waited


def beside(target: Path) -> set[str]:
    """What is in the folder of ``target``, by what it has more than the name; no locks, which may stay."""
    names = os.listdir(target.parent) if target.parent.exists() else []
    return {name.removeprefix(target.name) for name in names if not name.endswith(".lock")}


# Plain files.


def test_a_file_is_fetched_once(server: Server, target: Path) -> None:
    assert fetch(f"{server.url}/model.pkl", target, size=len(CONTENT)) == target
    assert target.read_bytes() == CONTENT
    assert beside(target) == {""}
    assert fetch(f"{server.url}/model.pkl", target) == target
    assert len(server.asked) == 1


def test_an_empty_file_is_a_file(server: Server, target: Path) -> None:
    server.content = b""
    server.answer = lambda server, request: request.say(200)
    assert fetch(server.url, target).read_bytes() == b""


def test_a_file_without_announced_length(server: Server, target: Path) -> None:
    server.answer = lambda server, request: request.say(200, CONTENT, Content_Length=None)
    seen: list[tuple[int, int | None]] = []
    fetch(server.url, target, size=len(CONTENT), progress=lambda *now: seen.append(now))
    assert target.read_bytes() == CONTENT
    assert {total for _, total in seen} == {None}


def test_a_packed_answer_is_stored_as_it_comes(server: Server, target: Path) -> None:
    server.answer = lambda server, request: request.say(200, b"\x1f\x8bnot really", Content_Encoding="gzip")
    assert fetch(server.url, target).read_bytes() == b"\x1f\x8bnot really"
    assert server.asked[0].headers["Accept-Encoding"] == "identity"


def test_progress_grows(server: Server, target: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    fetch(server.url, target, progress=lambda *now: seen.append(now))
    done = [now for now, _ in seen]
    assert done == sorted(set(done))
    assert (done[0], done[-1]) == (0, len(CONTENT))
    assert len(done) > 2
    assert {total for _, total in seen} == {len(CONTENT)}


def test_a_session_that_is_given_is_used_and_left_open(server: Server, target: Path) -> None:
    import requests

    with requests.Session() as session:
        session.headers["X-Mine"] = "yes"
        fetch(server.url, target, session=session)
        assert session.get(server.url).status_code == 200
    assert server.asked[0].headers["X-Mine"] == "yes"


# Breaking off and going on.


def test_a_dropped_connection_is_taken_up(server: Server, target: Path) -> None:
    server.answer = server.breaking(300_000, 700_000)
    fetch(server.url, target, size=len(CONTENT))
    assert target.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=300000-", "bytes=700000-"]
    assert beside(target) == {""}


def test_tries_that_bring_the_file_further_do_not_run_out(server: Server, target: Path) -> None:
    server.answer = server.breaking(*range(1000, 11_000, 1000))
    fetch(server.url, target)
    assert target.read_bytes() == CONTENT
    assert len(server.asked) == 11


@pytest.mark.parametrize(
    ("retry_after", "waits"),
    [
        (None, [2.0, 4.0, 8.0]),
        ("7", [7.0, 7.0, 7.0]),
        (str(365 * 24 * 3600), [20.0, 20.0, 20.0]),
        ("soon", [2.0, 4.0, 8.0]),
    ],
)
def test_waits_grow_or_are_what_the_server_asks_for_within_limits(
    server: Server, target: Path, waiting: list[float], retry_after: str | None, waits: list[float]
) -> None:
    server.answer = lambda server, request: request.say(503, Retry_After=retry_after)
    with pytest.raises(DownloadError, match="503 Service Unavailable"):
        fetch(server.url, target)
    assert waiting == waits


def test_waits_begin_anew_with_a_try_that_brings_the_file_further(
    server: Server, target: Path, waiting: list[float]
) -> None:
    server.answer = server.breaking(100_000, 100_000, 100_000, 300_000)
    fetch(server.url, target)
    assert waiting == [2.0, 4.0, 8.0, 2.0]


def test_the_next_run_goes_on(server: Server, target: Path) -> None:
    def stop(done: int, total: int | None) -> None:
        if done > 500_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(server.url, target, progress=stop)
    assert beside(target) == {".part", ".part.json"}
    have = target.with_name("model.pkl.part").stat().st_size
    assert 500_000 < have < len(CONTENT)
    seen: list[int] = []
    fetch(server.url, target, progress=lambda done, total: seen.append(done))
    assert target.read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={have}-"]
    assert seen[0] == have


def test_a_whole_part_is_only_confirmed(server: Server, target: Path) -> None:
    def stop(done: int, total: int | None) -> None:
        if done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(server.url, target, progress=stop)
    fetch(server.url, target)
    assert target.read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={len(CONTENT) - 1}-"]


def test_a_server_without_ranges_starts_again(server: Server, target: Path) -> None:
    server.answer = server.breaking(300_000, ranges=False)
    fetch(server.url, target)
    assert target.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=300000-"]


def test_a_range_that_is_refused_starts_again(server: Server, target: Path) -> None:
    server.answer = server.breaking(300_000)
    with pytest.raises(KeyboardInterrupt):
        fetch(server.url, target, progress=server.interrupting(200_000))
    answers: list[Callable[[Server, Request], None]] = [lambda server, request: request.say(416), type(server).file]
    server.answer = lambda server, request: answers.pop(0)(server, request)
    fetch(server.url, target)
    assert target.read_bytes() == CONTENT
    assert server.ranges[1] is not None
    assert server.ranges[2:] == [None]


@pytest.mark.parametrize("ranges", [True, False])
def test_another_file_behind_the_address_starts_again(server: Server, target: Path, ranges: bool) -> None:
    with pytest.raises(KeyboardInterrupt):
        fetch(server.url, target, progress=server.interrupting(200_000))
    server.content, server.etag = CONTENT[::-1], '"two"'
    server.answer = server.breaking(ranges=ranges)
    fetch(server.url, target)
    assert target.read_bytes() == CONTENT[::-1]
    assert server.ranges[-1] is None or not ranges


def test_the_part_of_another_address_or_origin_is_not_continued(server: Server, target: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fetch(f"{server.url}/old", target, progress=server.interrupting(200_000))
    with pytest.raises(KeyboardInterrupt):
        fetch(f"{server.url}/new", target, progress=server.interrupting(200_000))
    target.with_name("model.pkl.part.json").write_text("{", encoding="utf-8")
    fetch(f"{server.url}/new", target)
    assert target.read_bytes() == CONTENT
    assert server.ranges == [None, None, None]


def test_a_range_from_elsewhere_is_not_pasted_in(server: Server, target: Path) -> None:
    def shifted(server: Server, request: Request) -> None:
        rest = CONTENT[7:]
        if not request.headers.get("Range"):
            return server.file(request)
        request.say(206, rest, ETag=server.etag, Content_Range=f"bytes 7-{len(CONTENT) - 1}/{len(CONTENT)}")

    with pytest.raises(KeyboardInterrupt):
        fetch(server.url, target, progress=server.interrupting(200_000))
    server.answer = lambda server, request: (shifted if request.headers.get("Range") else type(server).file)(
        server, request
    )
    fetch(server.url, target)
    assert target.read_bytes() == CONTENT


def test_two_threads_make_one_transfer(server: Server, target: Path) -> None:
    together = threading.Barrier(2)
    got: list[bytes] = []

    def one() -> None:
        together.wait()
        got.append(fetch(server.url, target).read_bytes())

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [CONTENT, CONTENT]
    assert len(server.asked) == 1


# What cannot be had.


def test_a_file_shorter_than_announced(server: Server, target: Path) -> None:
    server.answer = lambda server, request: request.say(200, b"short" * 200, Content_Length=2000)
    with pytest.raises(DownloadError, match=r"model\.pkl.*broke off.*by hand from http.*put it at .*model\.pkl"):
        fetch(server.url, target)
    assert len(server.asked) == 4
    assert beside(target) == {".part", ".part.json"}


@pytest.mark.parametrize("length", [True, False])
@pytest.mark.parametrize("size", [len(CONTENT) - 1, len(CONTENT) + 1])
def test_a_size_that_does_not_fit(server: Server, target: Path, size: int, length: bool) -> None:
    if not length:
        server.answer = lambda server, request: request.say(200, CONTENT, Content_Length=None)
    with pytest.raises(DownloadError, match=rf"model\.pkl .*bytes instead of {size}"):
        fetch(server.url, target, size=size)
    assert beside(target) == set()
    assert len(server.asked) == 1


@pytest.mark.parametrize(("status", "times"), [(404, 1), (403, 1), (204, 1), (500, 4), (429, 4)])
def test_an_answer_that_is_no_file(server: Server, target: Path, status: int, times: int) -> None:
    server.answer = lambda server, request: request.say(status)
    with pytest.raises(DownloadError, match=rf"model\.pkl: the server says {status} .*put it at .*model\.pkl"):
        fetch(server.url, target)
    assert len(server.asked) == times
    assert beside(target) == set()


def test_a_server_that_recovers(server: Server, target: Path) -> None:
    answers: list[Callable[[Server, Request], None]] = [lambda server, request: request.say(502), type(server).file]
    server.answer = lambda server, request: answers.pop(0)(server, request)
    assert fetch(server.url, target).read_bytes() == CONTENT


def test_no_server(server: Server, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr(patience, "RETRIES", patience.Retries(0))  # Windows takes its time to refuse
    with socket.socket() as unused:  # bound and not listening: nobody answers here
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(DownloadError, match=r"no connection to 127\.0\.0\.1:\d+"):
            fetch(f"http://127.0.0.1:{unused.getsockname()[1]}/", target)
    assert beside(target) == set()


def test_an_address_that_is_none(target: Path) -> None:
    with pytest.raises(DownloadError, match=r"model\.pkl.*nonsense"):
        fetch("nonsense", target)


def test_certificates_that_are_not_there(server: Server, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "no-such.pem")
    with pytest.raises(DownloadError, match=r"no-such\.pem"):
        fetch(server.url.replace("http:", "https:"), target)
    assert server.asked == []


def test_offline(server: Server, target: Path) -> None:
    with pytest.raises(DownloadError) as caught:
        fetch(f"{server.url}/model.pkl", target, offline=True)
    assert f"by hand from {server.url}/model.pkl and put it at {target}" in str(caught.value)
    with pytest.raises(DownloadError) as caught:
        fetch_drive(ID, target, offline=True)
    assert f"from https://drive.google.com/uc?export=download&id={ID} and put it at {target}" in str(caught.value)
    assert not target.parent.exists()
    target.parent.mkdir()
    target.write_bytes(b"by hand")
    assert fetch(f"{server.url}/model.pkl", target, offline=True) == target
    assert fetch_drive(ID, target, offline=True).read_bytes() == b"by hand"
    assert server.asked == []


def test_a_full_disk(server: Server, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(room.os, "fsync", full)
        with pytest.raises(OutputError, match=r"model\.pkl.*No space left on device.*space"):
            fetch(server.url, target)
    assert not target.exists()
    assert fetch(server.url, target).read_bytes() == CONTENT


def test_a_place_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match=r"model\.pkl\.lock.*writable folder"):
        fetch(server.url, tmp_path / "file" / "model.pkl")
    with pytest.raises(OutputError, match="is a folder"):
        fetch(server.url, tmp_path)
    assert server.asked == []


# Checksums, space, and web pages where a file should be.


def sum_of(content: bytes, kind: str = "md5") -> str:
    return f"{kind}:{hashlib.new(kind, content).hexdigest()}"


@pytest.mark.parametrize("kind", ["md5", "sha256"])
@pytest.mark.parametrize("stops", [(), (300_000,), (300_000, 300_000, 700_001)])
def test_a_checksum_is_computed_while_the_file_comes(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch, kind: str, stops: tuple[int, ...]
) -> None:
    server.answer = server.breaking(*stops)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", opens_for_writing_only(Path.open))
        fetch(server.url, target, checksum=sum_of(CONTENT, kind))
    assert target.read_bytes() == CONTENT
    assert beside(target) == {"", ".checked.json"}


def opens_for_writing_only(opens: Callable[..., IO[bytes]]) -> Callable[..., IO[bytes]]:
    """``Path.open`` for whoever has no need to read what he has just written."""

    def guarded(path: Path, mode: str = "r", *args: Any, **how: Any) -> IO[bytes]:
        assert mode != "rb" or path.suffix == ".json", f"{path} is read again"
        return opens(path, mode, *args, **how)

    return guarded


@pytest.mark.parametrize("ranges", [True, False])
def test_what_an_earlier_run_left_is_part_of_the_checksum(server: Server, target: Path, ranges: bool) -> None:
    with pytest.raises(KeyboardInterrupt):
        fetch(server.url, target, checksum=sum_of(CONTENT), progress=server.interrupting(500_000))
    server.answer = server.breaking(ranges=ranges)
    fetch(server.url, target, checksum=sum_of(CONTENT))
    assert target.read_bytes() == CONTENT


def test_a_part_that_was_damaged_meanwhile_is_found_out(server: Server, target: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fetch(server.url, target, checksum=sum_of(CONTENT), progress=server.interrupting(500_000))
    part = target.with_name("model.pkl.part")
    part.write_bytes(b"x" + part.read_bytes()[1:])
    with pytest.raises(ChecksumError):
        fetch(server.url, target, checksum=sum_of(CONTENT))
    assert beside(target) == {".bad"}
    fetch(server.url, target, checksum=sum_of(CONTENT))
    assert target.read_bytes() == CONTENT
    assert server.ranges[-1] is None


def test_a_wrong_checksum_puts_the_file_aside(server: Server, target: Path) -> None:
    with pytest.raises(ChecksumError) as caught:
        fetch(f"{server.url}/model.pkl", target, checksum=sum_of(b"other"))
    for words in (
        f"{server.url}/model.pkl has the md5 {sum_of(CONTENT)[4:]}",
        f"{sum_of(b'other')[4:]} is expected",
        f"put aside as {target}.bad",
        "Run the same again",
    ):
        assert words in str(caught.value)
    assert beside(target) == {".bad"}
    assert target.with_name("model.pkl.bad").read_bytes() == CONTENT


def test_a_file_that_is_there_is_checked_once(server: Server, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target.parent.mkdir()
    target.write_bytes(b"by hand")
    with pytest.raises(ChecksumError, match=r"model\.pkl has the md5 .*remove it to download it again"):
        fetch(server.url, target, checksum=sum_of(CONTENT))
    assert target.read_bytes() == b"by hand"
    fetch(server.url, target, checksum=sum_of(b"by hand"))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", opens_for_writing_only(Path.open))
        fetch(server.url, target, checksum=sum_of(b"by hand"))
    target.write_bytes(b"by foot")
    with pytest.raises(ChecksumError):
        check_file(target, sum_of(b"by hand"))
    target.unlink()
    with pytest.raises(DownloadError, match="cannot read"):
        check_file(target, sum_of(b"by hand"))
    assert server.asked == []


@pytest.mark.parametrize("wrong", ["", "md5", "md5:12", "sha1:" + 40 * "0", "md5:" + 32 * "g", 32 * "0"])
def test_a_checksum_that_is_none(server: Server, target: Path, wrong: str) -> None:
    with pytest.raises(ValueError, match="is not a checksum; write md5: and 32"):
        fetch(server.url, target, checksum=wrong)
    assert server.asked == []


def test_a_disk_that_would_be_full(server: Server, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(room.shutil, "disk_usage", lambda path: SimpleNamespace(free=len(CONTENT) - 1))
        with pytest.raises(OutputError, match=r"model\.pkl: 0\.0 GiB are still to come, and .*cache has .* free"):
            fetch(server.url, target)
    assert beside(target) == set()
    with pytest.raises(KeyboardInterrupt):
        fetch(server.url, target, progress=server.interrupting(500_000))
    with monkeypatch.context() as patch:
        patch.setattr(room.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
        with pytest.raises(OutputError, match="still to come"):
            fetch(server.url, target)
        assert beside(target) == {".part", ".part.json"}
        patch.setattr(room.shutil, "disk_usage", lambda path: SimpleNamespace(free=len(CONTENT) - 500_000))
        fetch(server.url, target)
    assert target.read_bytes() == CONTENT


LOGIN = "\n<!DOCTYPE HTML><html><head><title>Welcome to the\nHotel</title></head>" + 600 * " "


@pytest.mark.parametrize("kind", ["text/html", "application/zip"])
@pytest.mark.parametrize("length", [5, 200, None])
def test_a_web_page_instead_of_a_file(server: Server, target: Path, kind: str, length: int | None) -> None:
    page = f"<html>{LOGIN}"[:length].encode() if length else LOGIN.encode()
    if length == 5:
        page = b"<html"
    server.answer = lambda server, request: request.say(200, page, Content_Type=kind)
    with pytest.raises(DownloadError, match=r"gives a web page.* instead of model\.pkl.*login.*put it at") as caught:
        fetch(server.url, target)
    assert ("(Welcome to the Hotel)" in str(caught.value)) == (length != 5)
    assert beside(target) == set()


def test_a_web_page_does_not_cost_what_is_there(server: Server, target: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fetch(server.url, target, progress=server.interrupting(500_000))
    server.answer = lambda server, request: request.say(200, LOGIN.encode(), Content_Type="text/html")
    with pytest.raises(DownloadError, match="web page"):
        fetch(server.url, target)
    server.answer = None
    fetch(server.url, target)
    assert target.read_bytes() == CONTENT
    assert server.ranges[-1] is not None


def test_a_proxy_is_asked_where_one_is_set(server: Server, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", server.url)
    server.answer = server.breaking(300_000)
    fetch("http://pictures.invalid/model.pkl", target, checksum=sum_of(CONTENT))
    assert target.read_bytes() == CONTENT
    assert [request.path for request in server.asked] == 2 * ["http://pictures.invalid/model.pkl"]


@pytest.mark.parametrize(
    ("claim", "words"),
    [
        ({"Content_Length": 2_000_000}, r"broke off.*resumes where it stopped"),
        ({"Content_Length": 1000}, f"the md5 {sum_of(CONTENT[:1000])[4:]}"),
        ({"Content_Length": None}, ""),
    ],
)
def test_a_server_that_lies_about_the_length(
    server: Server, target: Path, claim: dict[str, int | None], words: str
) -> None:
    server.answer = lambda server, request: request.say(200, CONTENT, **claim)
    if not words:
        fetch(server.url, target, checksum=sum_of(CONTENT))
        assert target.read_bytes() == CONTENT
        return
    with pytest.raises(DownloadError, match=words):
        fetch(server.url, target, checksum=sum_of(CONTENT))
    assert not target.exists()


def test_importing_the_room_is_light() -> None:
    ask = "import sys, ganformer_cli.downloads; print({'requests', 'filelock'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", ask], cwd=Path(downloads.__file__).parents[2], capture_output=True)
    assert done.stdout.strip() == b"set()", done.stderr
