"""Files from the internet: resumed where they broke off, checked, and whole or not there; Drive's pages understood."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from http import HTTPStatus
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit, urlunsplit

from ganformer_cli.errors import DownloadError, OutputError
from ganformer_cli.files import sha256_of, write_json

if TYPE_CHECKING:
    from requests import Response, Session

WAITS = (1.0, 3.0, 10.0)  # seconds before each further try; a try that brings the file further starts them anew
TIMEOUT = (10.0, 60.0)  # seconds to connect, and without a byte
BLOCK = 1 << 18  # bytes a write
PAGE_LIMIT = 1 << 20  # bytes of a web page that are looked at
PASSING = {408, 425, 429, 500, 502, 503, 504}  # answers that may be another one in a moment
CHECKSUMS = "checksums.json"
DRIVE = "https://drive.google.com"
DRIVE_HOSTS = {"drive.google.com", "drive.usercontent.google.com"}

Progress = Callable[[int, int | None], None]  # bytes that are there, bytes in all if known
Ask = Callable[[dict[str, str]], "Response"]  # headers to an answer whose body is still to be read


def fetch(
    url: str,
    destination: Path,
    *,
    size: int | None = None,
    progress: Progress | None = None,
    offline: bool = False,
    session: Session | None = None,
) -> Path:
    """Download ``url`` to ``destination``, unless it is there; go on where an earlier download broke off.

    What has come so far is ``<destination>.part``, with a note of its origin in ``<destination>.part.json``. A
    ``<destination>.lock`` lets a second process wait and then find the file.

    Args:
        size: bytes that the file must have, if known.
        progress: called after each piece with the bytes there and the bytes in all (None if the server does not say);
            the first falls back to 0 if the file has to be started again.
        offline: ask no server.
        session: what to ask with, instead of one of its own.

    Raises:
        DownloadError: the file cannot be had, is not what was announced, or is missing and ``offline``.
        OutputError: the folder cannot be written to, or the disk is full.
    """
    job = _Job(destination, url, size, progress)
    _obtain(job, lambda opened: lambda headers: _get(opened, url, headers), offline=offline, session=session)
    return destination


def fetch_drive(
    file_id: str,
    destination: Path,
    *,
    base_url: str = DRIVE,
    check: Callable[[Path], None] | None = None,
    size: int | None = None,
    progress: Progress | None = None,
    offline: bool = False,
    session: Session | None = None,
) -> Path:
    """Like ``fetch`` for the file ``file_id`` of Google Drive; then check it and remember its checksum.

    Drive asks before it gives a file too large for its virus scan; that question is answered, once, and only to Drive
    or the host of ``base_url``. Any other web page is an error and is not stored.

    Args:
        check: raises if the content is not what it should be. A fresh download that fails it is deleted, a file that
            was there before is left alone.

    Raises:
        DownloadError, OutputError: as ``fetch`` and ``remember_checksum`` do; Drive gives a web page, not the file.
    """
    base_url = base_url.rstrip("/")
    address = f"{base_url}/uc?{urlencode({'export': 'download', 'id': file_id})}"
    job = _Job(destination, address, size, progress)

    def asking(opened: Session) -> Ask:
        return lambda headers: _ask_drive(opened, job, file_id, base_url, headers)

    fresh = _obtain(job, asking, offline=offline, session=session, check=check)
    if not fresh and check is not None:
        check(destination)
    remember_checksum(destination)
    return destination


def remember_checksum(path: Path) -> str:
    """The sha256 of ``path``, hexadecimal: noted in ``checksums.json`` beside it the first time, compared afterwards.

    Raises:
        DownloadError: the file is not the one that was noted, or one of the two files cannot be read.
        OutputError: the note cannot be written.
    """
    book = path.with_name(CHECKSUMS)
    try:
        found = sha256_of(path)
    except OSError as error:
        raise DownloadError(f"cannot read {path}: {error.strerror or error}; delete it to download it again") from error
    known = _read_checksums(book)
    if path.name not in known:
        with _locked(book):
            known = _read_checksums(book)  # another process may have written it meanwhile
            if path.name not in known:
                known[path.name] = found
                write_json(book, dict(sorted(known.items())))
    if known[path.name] != found:
        raise DownloadError(
            f"{path} has changed: its sha256 is {found}, and was {known[path.name]} when it was first downloaded; "
            f"delete the file to download it again, or, if it was renewed on purpose, its line in {book}"
        )
    return found


def _read_checksums(book: Path) -> dict[str, str]:
    """The sums noted in ``book`` by the name of the file; none if there is no book."""
    try:
        known = json.loads(book.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DownloadError(f"cannot read {book}: {error}; delete it, and the sums are noted anew") from error
    if not isinstance(known, dict) or not all(isinstance(value, str) for value in known.values()):
        raise DownloadError(f"{book}: not a table of checksums; delete it, and the sums are noted anew")
    return known


class _Broken(Exception):
    """A transfer that broke off and may go on: the message is a reason in plain words."""


class _Stale(Exception):
    """What is there cannot be continued: the server has another file now, or does not give the rest of this one."""


@dataclass(frozen=True)
class _Job:
    """One download: ``address`` is what a person can open in a browser, and what the note about the part names."""

    destination: Path
    address: str
    size: int | None
    progress: Progress | None

    @property
    def part(self) -> Path:
        return self.destination.with_name(f"{self.destination.name}.part")

    @property
    def note(self) -> Path:
        return self.destination.with_name(f"{self.destination.name}.part.json")

    @property
    def by_hand(self) -> str:
        return f"download it by hand from {self.address} and put it at {self.destination}"

    def discard(self) -> None:
        """Forget what has come so far; the part first, so that no note ever speaks of another part."""
        with self.disk():
            self.part.unlink(missing_ok=True)
            self.note.unlink(missing_ok=True)

    @contextlib.contextmanager
    def disk(self) -> Iterator[None]:
        """Turn an OSError of the block, which must ask no server, into an OutputError."""
        try:
            yield
        except OSError as error:
            raise OutputError(
                f"cannot write {error.filename or self.part}: {error.strerror or error}; see that the folder is "
                "writable and the disk has space, then run the same again: the download goes on where it stopped"
            ) from error


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold ``<path>.lock``, waiting as long as another process or thread has it; makes the folder."""
    from filelock import FileLock

    lock_path = path.with_name(f"{path.name}.lock")
    lock = FileLock(str(lock_path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except (OSError, NotImplementedError) as error:  # the second: a file system without locks
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"cannot lock {lock_path}: {reason}; choose a writable folder on a local disk") from error
    try:
        yield
    finally:
        lock.release()


def _obtain(
    job: _Job,
    asking: Callable[[Session], Ask],
    *,
    offline: bool,
    session: Session | None,
    check: Callable[[Path], None] | None = None,
) -> bool:
    """See that the file of ``job`` is there; True if it was downloaded just now, and ``check`` has passed it."""
    if job.destination.is_file():
        return False
    if job.destination.is_dir():
        raise OutputError(f"cannot write {job.destination}: it is a folder; choose another place, or remove it")
    if offline:
        raise DownloadError(f"{job.destination.name} is not there, and downloads are switched off: {job.by_hand}")
    import requests

    with _locked(job.destination):
        if job.destination.is_file():  # another process has been faster
            return False
        with contextlib.nullcontext(session) if session is not None else requests.Session() as opened:
            _transfer(job, asking(opened))
        if check is not None:
            try:
                check(job.destination)
            except Exception:
                with contextlib.suppress(OSError):
                    job.destination.unlink()
                raise
    return True


def _transfer(job: _Job, ask: Ask) -> None:
    """Download until the file is whole, with further tries, and publish it."""
    failures, furthest = 0, _size_of(job.part)
    while True:
        try:
            _attempt(job, ask)
            break
        except _Stale:
            job.discard()  # the next attempt asks for all of it, and so cannot end here
        except _Broken as broken:
            reached = _size_of(job.part)
            failures = 1 if reached > furthest else failures + 1
            furthest = max(furthest, reached)
            if failures > len(WAITS):
                raise DownloadError(
                    f"cannot download {job.destination.name}: {broken}; run the same again later, which goes on where "
                    f"it stopped, or {job.by_hand}"
                ) from broken
            time.sleep(WAITS[failures - 1])
    with job.disk():
        os.replace(job.part, job.destination)
        job.note.unlink(missing_ok=True)


def _attempt(job: _Job, ask: Ask) -> None:
    """Ask once, and write what comes behind what is there; returns if the part is whole, and synced to the disk."""
    offset, note = _resumable(job)
    headers = {"Accept-Encoding": "identity"}  # so that bytes that are sent and bytes of the file are the same
    if offset:
        headers["Range"] = f"bytes={offset}-"
    with _network(job), ask(headers) as response:
        status = response.status_code
        if status in PASSING:
            raise _Broken(f"the server says {_status_words(status)}")
        if offset and status == HTTPStatus.PARTIAL_CONTENT:
            start, total = _content_range(response)
            now = _describe(job, response, total)
            if start != offset or now != note:
                raise _Stale
        elif offset and status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise _Stale
        elif status == HTTPStatus.OK:  # asked for all of it, or the server knows no ranges
            offset, total = 0, _number(response.headers.get("Content-Length"))
            now = _describe(job, response, total)
        else:
            raise DownloadError(
                f"cannot download {job.destination.name}: the server says {_status_words(status)}; check whether the "
                f"file has moved, or {job.by_hand}"
            )
        if total is not None and job.size is not None and total != job.size:
            raise _wrong_size(job, total)
        if offset == 0:
            job.discard()
            write_json(job.note, now)
        with job.disk():
            stream = job.part.open("r+b" if offset else "wb")
        try:
            done = _write(job, response, stream, offset, total)
            with job.disk():
                stream.flush()
                os.fsync(stream.fileno())
        finally:
            with job.disk():
                stream.close()
    if total is not None and done < total:
        raise _Broken(f"the connection broke off after {done} of {total} bytes")
    if (total is not None and done > total) or (job.size is not None and done != job.size):
        job.discard()
        raise _wrong_size(job, done, total)


def _write(job: _Job, response: Response, stream: IO[bytes], offset: int, total: int | None) -> int:
    """Write the body of ``response`` from byte ``offset`` on; returns the bytes there."""
    with job.disk():
        stream.seek(offset)
        stream.truncate()
    done, limit = offset, job.size if total is None else total
    if job.progress is not None:
        job.progress(done, total)
    # The raw bytes: a server that says "Content-Encoding: gzip" of a .gz file means the file as it is.
    for block in response.raw.stream(BLOCK, decode_content=False):
        with job.disk():
            stream.write(block)
        done += len(block)
        if job.progress is not None:
            job.progress(done, total)
        if limit is not None and done > limit:
            break  # it can only be wrong; do not fill the disk
    return done


@contextlib.contextmanager
def _network(job: _Job) -> Iterator[None]:
    """Turn what requests raises into ``_Broken`` if another try may help, else into a DownloadError."""
    import requests
    import urllib3

    host = urlsplit(job.address).netloc or job.address
    try:
        yield
    except (requests.Timeout, urllib3.exceptions.TimeoutError) as error:
        raise _Broken(f"{host} does not answer") from error
    except (requests.exceptions.SSLError, urllib3.exceptions.SSLError) as error:
        raise _Broken(f"no secure connection to {host} (its certificate, or this computer's clock)") from error
    except requests.exceptions.ProxyError as error:
        raise _Broken(f"no connection to {host} through the proxy of this computer") from error
    except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
        raise _Broken(f"no connection to {host}, or it broke off") from error
    except urllib3.exceptions.HTTPError as error:
        raise _Broken(f"the connection to {host} broke off") from error
    except requests.RequestException as error:
        raise DownloadError(f"cannot download {job.destination.name}: {error}; {job.by_hand}") from error


def _get(session: Session, url: str, headers: dict[str, str]) -> Response:
    import requests

    try:
        return session.get(url, headers=headers, stream=True, timeout=TIMEOUT)
    except requests.RequestException:  # an OSError too, for _network
        raise
    except OSError as error:  # a folder of certificates that is set and not there, for instance
        raise DownloadError(f"cannot ask for {url}: {error}; mend the setting that this names") from error


def _describe(job: _Job, response: Response, total: int | None) -> dict[str, Any]:
    """What must be the same for a part to be continued."""
    return {
        "source": job.address,
        "etag": response.headers.get("ETag"),
        "last_modified": response.headers.get("Last-Modified"),
        "total": total,
    }


def _resumable(job: _Job) -> tuple[int, dict[str, Any]]:
    """The byte from which to ask, and the note about the part; 0 to start anew."""
    try:
        note = json.loads(job.note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0, {}
    if not isinstance(note, dict) or note.get("source") != job.address:
        return 0, {}
    have, total = _size_of(job.part), note.get("total")
    if not isinstance(total, int):
        return have, note
    # Of a part that is whole already the last byte is asked for again: so the server can say that nothing has changed.
    return (max(0, min(have, total - 1)) if have <= total else 0), note


def _content_range(response: Response) -> tuple[int | None, int | None]:
    """The first byte and the bytes of the whole file that a 206 answer names; None for what it does not."""
    match = re.match(r"\s*bytes\s+(\d+)-\d+/(\d+|\*)\s*$", response.headers.get("Content-Range", ""), re.IGNORECASE)
    return (int(match[1]), _number(match[2])) if match else (None, None)


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"\s*[0-9]+\s*", text) else None


def _size_of(path: Path) -> int:
    """Bytes of ``path``; 0 if there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _status_words(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _wrong_size(job: _Job, found: int, announced: int | None = None) -> DownloadError:
    expected = announced if job.size is None else job.size
    return DownloadError(
        f"{job.destination.name} of {job.address} has {found} bytes instead of {expected}: it has been changed, or it "
        f"is another file; look whether there is a newer ganformer, or put the right file at {job.destination}"
    )


# Google Drive: https://drive.google.com/uc answers with the file, with a question, or with an explanation.


def _ask_drive(session: Session, job: _Job, file_id: str, base_url: str, headers: dict[str, str]) -> Response:
    """The answer that has the file, after at most one question of Drive's.

    Raises:
        DownloadError: the answer is a web page.
    """
    response = _get(session, job.address, headers)
    if _is_page(response) and response.status_code in {
        HTTPStatus.PARTIAL_CONTENT,
        HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
    }:  # the range was taken for one of the question
        response.close()
        response = _get(session, job.address, {name: value for name, value in headers.items() if name != "Range"})
    if not _is_page(response):
        return response
    page = _read_page(response)
    following = _confirmed(page, response.url, job, file_id, base_url)
    if following is not None:
        response = _get(session, following, headers)  # with the cookies that came with the question
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
    return kind in {"text/html", "application/xhtml+xml"} and response.status_code not in PASSING


def _read_page(response: Response) -> _Page:
    """Read and close ``response``."""
    with response:
        page = _Page()
        page.feed(response.raw.read(PAGE_LIMIT, decode_content=True).decode("utf-8", errors="replace"))
        page.close()
    return page


def _confirmed(page: _Page, page_url: str, job: _Job, file_id: str, base_url: str) -> str | None:
    """Where the page's form or link for "download anyway" leads; None if it has none.

    Raises:
        DownloadError: it leads away from Drive.
    """
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


@dataclass
class _Target:
    """A form or a link of a page."""

    address: str
    for_download: bool = False
    fields: dict[str, str] = field(default_factory=dict)


class _Page(HTMLParser):
    """The title, text, forms and links of a page of Drive."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.targets: list[_Target] = []
        self._form: _Target | None = None
        self._inside = ""  # title, script or style
        self._title: list[str] = []
        self._text: list[str] = []

    @property
    def title(self) -> str:
        return " ".join("".join(self._title).split())[:80]

    @property
    def speaks_of_quota(self) -> bool:
        text = " ".join("".join([*self._title, " ", *self._text]).split()).lower()
        return any(words in text for words in ("quota exceeded", "download quota", "too many users"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag in {"title", "script", "style"}:
            self._inside = tag
        elif tag == "form":
            self._form = _Target(given.get("action", ""), given.get("id") in {"download-form", "downloadForm"})
            self.targets.append(self._form)
        elif tag == "input" and self._form is not None and given.get("type") == "hidden" and "name" in given:
            self._form.fields[given["name"]] = given.get("value", "")
        elif tag == "a" and "href" in given:
            self.targets.append(_Target(given["href"]))

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside:
            self._inside = ""
        elif tag == "form":
            self._form = None

    def handle_data(self, data: str) -> None:
        if self._inside == "title":
            self._title.append(data)
        elif not self._inside:
            self._text.append(data)
