"""Downloads are whole or not there, go on where they broke off, and never store a web page of Drive for a file."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from ganformer_cli import downloads as room
from ganformer_cli.downloads import fetch, fetch_drive, remember_checksum
from ganformer_cli.errors import DataError, DownloadError, OutputError
from ganformer_cli.files import sha256_of

CONTENT = bytes(range(256)) * 4096  # 1 MiB, several blocks
ID = "1-aB_c"


@dataclass
class Server:
    """A server whose ``answer`` a test chooses; it writes down what it was asked."""

    url: str = ""
    content: bytes = CONTENT
    etag: str | None = '"one"'
    answer: Callable[[Server, Request], None] | None = None
    asked: list[Request] = field(default_factory=list)

    @property
    def ranges(self) -> list[str | None]:
        """The Range header of each request so far."""
        return [request.headers.get("Range") for request in self.asked]


class Request(BaseHTTPRequestHandler):
    """One request to ``server.play``."""

    @property
    def play(self) -> Server:
        return self.server.play  # type: ignore[attr-defined]

    def do_GET(self) -> None:
        self.play.asked.append(self)
        with contextlib.suppress(ConnectionError):  # a client that has had enough
            (self.play.answer or file)(self.play, self)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the tests quiet."""

    @property
    def query(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}

    def say(self, status: int, body: bytes = b"", **headers: str | int | None) -> None:
        """Send an answer; ``Content_Length=...`` may lie, None leaves a header out."""
        self.send_response(status)
        for name, value in {"Content_Length": len(body), **headers}.items():
            if value is not None:
                self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)

    def page(self, body: str, status: int = 200, cookie: str | None = None) -> None:
        self.say(status, body.encode(), Content_Type="text/html; charset=utf-8", Set_Cookie=cookie)


def file(server: Server, request: Request, *, stop: int | None = None, ranges: bool = True) -> None:
    """Answer with the file, or with as much as is asked for; break off before byte ``stop``."""
    whole, asked = server.content, request.headers.get("Range")
    start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and ranges else 0
    if start >= len(whole):
        return request.say(416, Content_Range=f"bytes */{len(whole)}")
    headers: dict[str, str | int | None] = {"ETag": server.etag, "Content_Length": len(whole) - start}
    if asked and ranges:
        headers["Content_Range"] = f"bytes {start}-{len(whole) - 1}/{len(whole)}"
    request.say(206 if asked and ranges else 200, whole[start:stop], **headers)


def breaking(*stops: int | None, **how: Any) -> Callable[[Server, Request], None]:
    """``file`` that breaks off at each of ``stops`` in turn, and then no more."""
    left = list(stops)
    return lambda server, request: file(server, request, stop=left.pop(0) if left else None, **how)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(room, "WAITS", (0.0, 0.0, 0.0))
    play = Server()
    with ThreadingHTTPServer(("127.0.0.1", 0), Request) as http:
        http.play = play  # type: ignore[attr-defined]
        play.url = f"http://127.0.0.1:{http.server_port}"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield play
        http.shutdown()
        thread.join()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "model.pkl"


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
    server.answer = breaking(300_000, 700_000)
    fetch(server.url, target, size=len(CONTENT))
    assert target.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=300000-", "bytes=700000-"]
    assert beside(target) == {""}


def test_tries_that_bring_the_file_further_do_not_run_out(server: Server, target: Path) -> None:
    server.answer = breaking(*range(1000, 11_000, 1000))
    fetch(server.url, target)
    assert target.read_bytes() == CONTENT
    assert len(server.asked) == 11


def test_the_waits_are_kept(server: Server, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(room, "WAITS", (1.0, 3.0))
    monkeypatch.setattr(room.time, "sleep", waited.append)
    server.answer = lambda server, request: request.say(503)
    with pytest.raises(DownloadError, match="503 Service Unavailable"):
        fetch(server.url, target)
    assert waited == [1.0, 3.0]


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
    server.answer = breaking(300_000, ranges=False)
    fetch(server.url, target)
    assert target.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=300000-"]


def test_a_range_that_is_refused_starts_again(server: Server, target: Path) -> None:
    server.answer = breaking(300_000)
    with pytest.raises(KeyboardInterrupt):
        fetch(server.url, target, progress=interrupting(200_000))
    answers: list[Callable[[Server, Request], None]] = [lambda server, request: request.say(416), file]
    server.answer = lambda server, request: answers.pop(0)(server, request)
    fetch(server.url, target)
    assert target.read_bytes() == CONTENT
    assert server.ranges[1] is not None
    assert server.ranges[2:] == [None]


def interrupting(limit: int) -> room.Progress:
    """A progress that interrupts when more than ``limit`` bytes are there."""

    def progress(done: int, total: int | None) -> None:
        if done > limit:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("ranges", [True, False])
def test_another_file_behind_the_address_starts_again(server: Server, target: Path, ranges: bool) -> None:
    with pytest.raises(KeyboardInterrupt):
        fetch(server.url, target, progress=interrupting(200_000))
    server.content, server.etag = CONTENT[::-1], '"two"'
    server.answer = breaking(ranges=ranges)
    fetch(server.url, target)
    assert target.read_bytes() == CONTENT[::-1]
    assert server.ranges[-1] is None or not ranges


def test_the_part_of_another_address_or_origin_is_not_continued(server: Server, target: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fetch(f"{server.url}/old", target, progress=interrupting(200_000))
    with pytest.raises(KeyboardInterrupt):
        fetch(f"{server.url}/new", target, progress=interrupting(200_000))
    target.with_name("model.pkl.part.json").write_text("{", encoding="utf-8")
    fetch(f"{server.url}/new", target)
    assert target.read_bytes() == CONTENT
    assert server.ranges == [None, None, None]


def test_a_range_from_elsewhere_is_not_pasted_in(server: Server, target: Path) -> None:
    def shifted(server: Server, request: Request) -> None:
        rest = CONTENT[7:]
        request.say(206, rest, ETag=server.etag, Content_Range=f"bytes 7-{len(CONTENT) - 1}/{len(CONTENT)}")

    with pytest.raises(KeyboardInterrupt):
        fetch(server.url, target, progress=interrupting(200_000))
    server.answer = lambda server, request: (shifted if request.headers.get("Range") else file)(server, request)
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
    server.answer = lambda server, request: request.say(200, b"short", Content_Length=1000)
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
    answers: list[Callable[[Server, Request], None]] = [lambda server, request: request.say(502), file]
    server.answer = lambda server, request: answers.pop(0)(server, request)
    assert fetch(server.url, target).read_bytes() == CONTENT


def test_no_server(server: Server, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr(room, "WAITS", ())  # Windows takes its time to refuse
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


# Google Drive.

QUOTA = """<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head><body>
<p>Sorry, you can&#39;t view or download this file at this time.</p>
<p>Too many users have viewed or downloaded this file recently.</p></body></html>"""
LOGIN = """<html><head><title>Google Drive: Anmelden</title><script>if (a < b) "quota exceeded"</script></head>
<body><form id="gaia_loginform" action="https://accounts.google.com/signin" method="post">
<input type="hidden" name="continue" value="https://drive.google.com/"><input type="email" name="id"></form>
</body></html>"""


def form(action: str) -> str:
    return f"""<html><head><title>Google Drive - Virus scan warning</title></head><body>
<a href="/open?id={ID}">model.pkl</a> is too large for Google to scan for viruses.
<form id="download-form" action="{action}" method="get"><input type="submit" value="Download anyway"/>
<input type="hidden" name="id" value="{ID}"><input type="hidden" name="export" value="download">
<input type="hidden" name="confirm" value="t"><input type="hidden" name="uuid" value="1&amp;2"></form></body></html>"""


def asking(page: str, cookie: str | None = None) -> Callable[[Server, Request], None]:
    """Drive that asks with ``page`` unless it is answered."""
    return lambda server, request: (
        file(server, request) if "confirm" in request.query else request.page(page, cookie=cookie)
    )


def test_drive_gives_a_small_file(server: Server, target: Path) -> None:
    assert fetch_drive(ID, target, base_url=f"{server.url}/") == target
    assert target.read_bytes() == CONTENT
    assert urlsplit(server.asked[0].path).path == "/uc"
    assert server.asked[0].query == {"export": "download", "id": ID}
    assert beside(target) == {"", "checksums.json"}


def test_drive_asks_with_a_form(server: Server, target: Path) -> None:
    server.answer = asking(form(f"{server.url}/download"))
    fetch_drive(ID, target, base_url=server.url, size=len(CONTENT))
    assert target.read_bytes() == CONTENT
    assert urlsplit(server.asked[1].path).path == "/download"
    assert server.asked[1].query == {"id": ID, "export": "download", "confirm": "t", "uuid": "1&2"}


def test_drive_asks_with_a_link_and_a_cookie(server: Server, target: Path) -> None:
    link = f'<html><a href="/uc?export=download&amp;confirm=a1B2&amp;id={ID}">Download anyway</a></html>'
    server.answer = asking(link, "download_warning_1=a1B2; Path=/")
    fetch_drive(ID, target, base_url=server.url)
    assert target.read_bytes() == CONTENT
    assert server.asked[1].query == {"export": "download", "confirm": "a1B2", "id": ID}
    assert server.asked[1].headers["Cookie"] == "download_warning_1=a1B2"


@pytest.mark.parametrize("page_knows_ranges", [False, True])
def test_a_question_of_drive_and_then_a_dropped_connection(
    server: Server, target: Path, page_knows_ranges: bool
) -> None:
    stops = [300_000]

    def answer(server: Server, request: Request) -> None:
        if "confirm" in request.query:
            return file(server, request, stop=stops.pop() if stops else None)
        if page_knows_ranges and "Range" in request.headers:
            return request.page("", 416)
        return request.page(form("/download"))

    server.answer = answer
    fetch_drive(ID, target, base_url=server.url)
    assert target.read_bytes() == CONTENT
    assert server.ranges[-1] == "bytes=300000-"


def test_the_real_hosts_of_drive_are_followed_and_no_other() -> None:
    job = room._Job(Path("model.pkl"), "address", None, None)

    def leads(action: str, base_url: str = "https://drive.google.com") -> str | None:
        page = room._Page()
        page.feed(form(action))
        return room._confirmed(page, f"{base_url}/uc", job, ID, base_url)

    good = "https://drive.usercontent.google.com/download"
    assert leads(good) == f"{good}?id={ID}&export=download&confirm=t&uuid=1%262"
    assert leads("/uc") == f"https://drive.google.com/uc?id={ID}&export=download&confirm=t&uuid=1%262"
    for bad in (
        "http://drive.usercontent.google.com/download",
        "https://drive.google.com.example.org/download",
        "https://drive.google.com@example.org/download",
        "https://drive.google.com:8443/download",
        "//example.org/download",
        "file:///etc/passwd",
    ):
        with pytest.raises(DownloadError, match="not Drive"):
            leads(bad)
    assert leads("https://[broken/") is None


@pytest.mark.parametrize("status", [200, 403])
def test_the_quota_of_drive(server: Server, target: Path, status: int) -> None:
    server.answer = lambda server, request: request.page(QUOTA, status)
    with pytest.raises(DownloadError, match="quota") as caught:
        fetch_drive(ID, target, base_url=server.url)
    assert f"open {server.url}/uc?export=download&id={ID} in a browser and put the file at {target}" in str(
        caught.value
    )
    assert beside(target) == set()
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [200, 404])
def test_another_page_of_drive(server: Server, target: Path, status: int) -> None:
    server.answer = lambda server, request: request.page(LOGIN, status)
    with pytest.raises(DownloadError, match=r"web page \(Google Drive: Anmelden\) instead of model\.pkl") as caught:
        fetch_drive(ID, target, base_url=server.url)
    assert str(target) in str(caught.value)
    assert "quota" not in str(caught.value)
    assert beside(target) == set()


def test_drive_is_answered_once(server: Server, target: Path) -> None:
    server.answer = lambda server, request: request.page(form("/download"))
    with pytest.raises(DownloadError, match="Virus scan warning"):
        fetch_drive(ID, target, base_url=server.url)
    assert len(server.asked) == 2
    assert beside(target) == set()


def test_a_form_that_leads_elsewhere_is_refused(server: Server, target: Path) -> None:
    server.answer = asking(form("https://example.org/download"))
    with pytest.raises(DownloadError, match=r"leads to example\.org, which is not Drive"):
        fetch_drive(ID, target, base_url=server.url)
    assert len(server.asked) == 1
    assert beside(target) == set()


def test_drive_keeps_the_part_when_it_refuses_to_go_on(server: Server, target: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fetch_drive(ID, target, base_url=server.url, progress=interrupting(200_000))
    server.answer = lambda server, request: request.page(QUOTA)
    with pytest.raises(DownloadError, match="quota"):
        fetch_drive(ID, target, base_url=server.url)
    server.answer = None
    fetch_drive(ID, target, base_url=server.url)
    assert target.read_bytes() == CONTENT
    assert server.ranges[-1] is not None


# What is remembered and checked.


def refuse(path: Path) -> None:
    raise DataError(f"{path}: not a model")


def test_a_fresh_file_that_fails_its_check_is_deleted(server: Server, target: Path) -> None:
    with pytest.raises(DataError, match="not a model"):
        fetch_drive(ID, target, base_url=server.url, check=refuse)
    assert beside(target) == set()
    checked: list[Path] = []
    fetch_drive(ID, target, base_url=server.url, check=checked.append)
    fetch_drive(ID, target, base_url=server.url, check=checked.append)
    assert checked == [target, target]
    with pytest.raises(DataError, match="not a model"):
        fetch_drive(ID, target, base_url=server.url, check=refuse)
    assert target.exists()


def test_a_checksum_is_remembered_and_compared(server: Server, target: Path) -> None:
    fetch_drive(ID, target, base_url=server.url)
    noted = json.loads(target.with_name("checksums.json").read_text(encoding="utf-8"))
    assert noted == {"model.pkl": sha256_of(target)}
    target.write_bytes(b"damaged")
    with pytest.raises(DownloadError) as caught:
        fetch_drive(ID, target, base_url=server.url)
    for words in (str(target), noted["model.pkl"], sha256_of(target), "delete the file to download it again"):
        assert words in str(caught.value)
    target.unlink()
    fetch_drive(ID, target, base_url=server.url)
    assert len(server.asked) == 2


def test_checksums_of_several_files(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name).write_text(name, encoding="utf-8")
        assert remember_checksum(tmp_path / name) == sha256_of(tmp_path / name)
    assert list(json.loads((tmp_path / "checksums.json").read_text(encoding="utf-8"))) == ["a", "b"]
    before = (tmp_path / "checksums.json").stat().st_mtime_ns
    remember_checksum(tmp_path / "a")
    assert (tmp_path / "checksums.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}'])
def test_a_damaged_book_of_checksums(tmp_path: Path, text: str) -> None:
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "checksums.json").write_text(text, encoding="utf-8")
    with pytest.raises(DownloadError, match=r"checksums\.json.*delete it"):
        remember_checksum(tmp_path / "a")
    with pytest.raises(DownloadError, match="cannot read .*missing"):
        remember_checksum(tmp_path / "missing")


def test_importing_the_room_is_light() -> None:
    ask = "import sys, ganformer_cli.downloads; print({'requests', 'filelock'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", ask], cwd=Path(room.__file__).parent.parent, capture_output=True)
    assert done.stdout.strip() == b"set()", done.stderr
