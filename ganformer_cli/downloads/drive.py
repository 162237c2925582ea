"""Google Drive: https://drive.google.com/uc answers with the file, with a question, or with an explanation."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit, urlunsplit

from ganformer_cli.downloads.checksums import check_file, remember_checksum
from ganformer_cli.downloads.pages import Page, read_page
from ganformer_cli.downloads.transfer import TRANSIENT_STATUS, Ask, Download, Progress, download_missing, get
from ganformer_cli.errors import DownloadError

if TYPE_CHECKING:
    from requests import Response, Session

DRIVE = "https://drive.google.com"
DRIVE_HOSTS = {"drive.google.com", "drive.usercontent.google.com"}
PAGE_SECONDS = 30.0  # until a web page is there, or as much of it as there is by then
PAGE_LIMIT = 1 << 20  # bytes of a web page that are looked at


def fetch_drive(
    file_id: str,
    destination: Path,
    *,
    base_url: str = DRIVE,
    check: Callable[[Path], None] | None = None,
    size: int | None = None,
    checksum: str | None = None,
    progress: Progress | None = None,
    offline: bool = False,
    session: Session | None = None,
) -> Path:
    """Like ``fetch`` for the file ``file_id`` of Google Drive; then check it. Without ``checksum``, it is remembered.

    Drive asks before it gives a file too large for its virus scan; that question is answered, once, and only to Drive
    or the host of ``base_url``. Any other web page is an error and is not stored.

    Args:
        check: raises if the content is not what it should be. A fresh download that fails it is deleted, a file that
            was there before is left alone.

    Raises:
        DownloadError, OutputError: as ``fetch`` and ``remember_checksum`` do; Drive gives a web page, not the file.
    """
    base_url = base_url.rstrip("/")
    job = Download(destination, drive_address(file_id, base_url), size, progress, checksum)

    def asking(opened: Session) -> Ask:
        return lambda headers: _ask_drive(opened, job, file_id, base_url, headers)

    fresh = download_missing(job, asking, offline=offline, session=session, check=check)
    if not fresh and check is not None:
        check(destination)
    if checksum is None:
        remember_checksum(destination)
    elif not fresh:
        check_file(destination, checksum)
    return destination


def drive_address(file_id: str, base_url: str = DRIVE) -> str:
    """What a person can open in a browser to download the file ``file_id``."""
    return f"{base_url}/uc?{urlencode({'export': 'download', 'id': file_id})}"


def _ask_drive(session: Session, job: Download, file_id: str, base_url: str, headers: dict[str, str]) -> Response:
    """The answer that has the file, after at most one question of Drive's."""
    response = get(session, job.address, headers)
    if _is_page(response) and response.status_code in {
        HTTPStatus.PARTIAL_CONTENT,
        HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
    }:  # the range was taken for one of the question
        response.close()
        response = get(session, job.address, {name: value for name, value in headers.items() if name != "Range"})
    if not _is_page(response):
        return response
    page = _read_page(response)
    following = _confirmed(page, response.url, job, file_id, base_url)
    if following is not None:
        response = get(session, following, headers)  # with the cookies that came with the question
        if not _is_page(response):
            return response
        page = _read_page(response)
    name, hand = job.destination.name, f"open {job.address} in a browser and put the file at {job.destination}"
    if page.speaks_of_quota:
        raise DownloadError(
            f"Google Drive refuses to give {name} for now, because too many people have downloaded it (its quota): "
            f"try again in a day, or {hand}"
        )
    title = f" ({page.title})" if page.title else ""
    raise DownloadError(f"Google Drive gave a web page{title} instead of {name}: {hand}")


def _is_page(response: Response) -> bool:
    """Whether the answer is a web page that explains something; one that may be gone in a moment does not count."""
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return kind in {"text/html", "application/xhtml+xml"} and response.status_code not in TRANSIENT_STATUS


def _read_page(response: Response) -> Page:
    """Read and close ``response``."""
    from ganformer_cli.downloads import patience

    content = b""
    with response, contextlib.suppress(patience.TooSlowError):
        started = time.monotonic()
        for block in patience.blocks(response, decode=True):
            content += block
            if len(content) > PAGE_LIMIT or time.monotonic() - started > PAGE_SECONDS:
                break
    return read_page(content[:PAGE_LIMIT])


def _confirmed(page: Page, page_url: str, job: Download, file_id: str, base_url: str) -> str | None:
    """Where the page's form or link for "download anyway" leads; None if it has none."""
    for target in page.targets:
        try:
            parts = urlsplit(urljoin(page_url, target.address))
            home = (parts.scheme, parts.hostname, parts.port)
            own = urlsplit(base_url)
            allowed = (parts.scheme == "https" and parts.hostname in DRIVE_HOSTS and parts.port in {None, 443}) or (
                home == (own.scheme, own.hostname, own.port)
            )
        except ValueError:  # no address at all
            continue
        values = {**dict(parse_qsl(parts.query, keep_blank_values=True)), **target.fields}
        if not target.for_download and not (values.get("confirm") and values.get("id") == file_id):
            continue
        if not allowed:
            raise DownloadError(
                f"Google Drive's page for {job.destination.name} leads to {parts.hostname or parts.scheme}, which is "
                f"not Drive; it was not followed: open {job.address} in a browser, and if the file is the right one, "
                f"put it at {job.destination}"
            )
        return urlunsplit((parts.scheme, parts.netloc, parts.path, urlencode(values), ""))
    return None
