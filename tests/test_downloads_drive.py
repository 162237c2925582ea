"""Drive's pages are understood, and never stored for a file; what came is remembered."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from ganformer_cli.downloads import drive
from ganformer_cli.downloads import transfer as room
from ganformer_cli.downloads.checksums import ChecksumError, remember_checksum
from ganformer_cli.downloads.drive import fetch_drive
from ganformer_cli.downloads.pages import read_page
from ganformer_cli.errors import DataError, DownloadError
from ganformer_cli.files import sha256_of

if TYPE_CHECKING:
    from tests.conftest import Request, Server

CONTENT = bytes(range(256)) * 4096  # what the server gives: 1 MiB, several blocks
ID = "1-aB_c"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "model.pkl"


def beside(target: Path) -> set[str]:
    """What is in the folder of ``target``, by what it has more than the name; no locks, which may stay."""
    names = os.listdir(target.parent) if target.parent.exists() else []
    return {name.removeprefix(target.name) for name in names if not name.endswith(".lock")}


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
        server.file(request) if "confirm" in request.query else request.page(page, cookie=cookie)
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
            return server.file(request, stop=stops.pop() if stops else None)
        if page_knows_ranges and "Range" in request.headers:
            return request.page("", 416)
        return request.page(form("/download"))

    server.answer = answer
    fetch_drive(ID, target, base_url=server.url)
    assert target.read_bytes() == CONTENT
    assert server.ranges[-1] == "bytes=300000-"


def test_the_real_hosts_of_drive_are_followed_and_no_other() -> None:
    job = room.Download(Path("model.pkl"), "address")

    def is_main(action: str, base_url: str = "https://drive.google.com") -> str | None:
        return drive._confirmed(read_page(form(action).encode()), f"{base_url}/uc", job, ID, base_url)

    good = "https://drive.usercontent.google.com/download"
    assert is_main(good) == f"{good}?id={ID}&export=download&confirm=t&uuid=1%262"
    assert is_main("/uc") == f"https://drive.google.com/uc?id={ID}&export=download&confirm=t&uuid=1%262"
    for bad in (
        "http://drive.usercontent.google.com/download",
        "https://drive.google.com.example.org/download",
        "https://drive.google.com@example.org/download",
        "https://drive.google.com:8443/download",
        "//example.org/download",
        "file:///etc/passwd",
    ):
        with pytest.raises(DownloadError, match="not Drive"):
            is_main(bad)
    assert is_main("https://[broken/") is None


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
        fetch_drive(ID, target, base_url=server.url, progress=server.interrupting(200_000))
    server.answer = lambda server, request: request.page(QUOTA)
    with pytest.raises(DownloadError, match="quota"):
        fetch_drive(ID, target, base_url=server.url)
    server.answer = None
    fetch_drive(ID, target, base_url=server.url)
    assert target.read_bytes() == CONTENT
    assert server.ranges[-1] is not None


@pytest.mark.parametrize("kind", ["md5", "sha256"])
def test_drive_and_a_checksum_that_is_given(server: Server, target: Path, kind: str) -> None:
    server.answer = asking(form("/download"))
    right = f"{kind}:{hashlib.new(kind, CONTENT).hexdigest()}"
    wrong = f"{kind}:{hashlib.new(kind, b'other').hexdigest()}"
    with pytest.raises(ChecksumError, match=rf"download&id={ID} has the {kind} [0-9a-f]+, where .* put aside"):
        fetch_drive(ID, target, base_url=server.url, checksum=wrong)
    assert beside(target) == {".bad"}
    fetch_drive(ID, target, base_url=server.url, checksum=right)
    assert beside(target) == {"", ".bad", ".checked.json"}
    with pytest.raises(ChecksumError, match="remove it to download it again"):
        fetch_drive(ID, target, base_url=server.url, checksum=wrong)


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
