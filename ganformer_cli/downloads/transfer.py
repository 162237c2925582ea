"""One file by HTTP: asked for, continued where it broke off, checked while it comes, and published when it is whole."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ganformer_cli.downloads.checksums import ChecksumError, Digest, Progress, check_file, download_lock, note_checked
from ganformer_cli.downloads.pages import SNIFFED, looks_like_page, read_page
from ganformer_cli.errors import DownloadError, GanformerError, OutputError
from ganformer_cli.files import GIB, advice, quietly, read_json, remove, replace, why_no_file, write_json

if TYPE_CHECKING:
    from requests import Response, Session

REQUEST_TIMEOUT = (10.0, 60.0)  # seconds to connect, and without a byte
MIN_STEP = 1 << 16  # bytes that a try brings the file further; so many tries with less are too many:
MAX_SMALL_STEPS = 100
MAX_UNANNOUNCED = 1 << 38  # bytes of a file whose size nobody says
SPARE_BYTES = 1 << 29  # bytes of the disk that a download leaves free
LOOK_EVERY = 1 << 26  # bytes between looks at what is free
TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}  # answers that may be another one in a moment

Ask = Callable[[dict[str, str]], "Response"]  # headers to an answer whose body is still to be read


def fetch(
    url: str,
    destination: Path,
    *,
    size: int | None = None,
    checksum: str | None = None,
    progress: Progress | None = None,
    offline: bool = False,
    session: Session | None = None,
) -> Path:
    """Download ``url`` to ``destination``, unless it is there; go on where an earlier download broke off.

    What has come so far is ``<destination>.part``, with a note of its origin in ``<destination>.part.json``. A
    ``<destination>.lock`` lets a second process wait and then find the file.

    Args:
        size: bytes that the file must have, if known.
        checksum: ``"md5:…"`` or ``"sha256:…"`` of the file, computed while it comes. A file that has another one is
            put aside as ``<destination>.bad``; one that was there before is left alone.
        progress: called after each piece with the bytes there and the bytes in all (None if the server does not say);
            the first falls back to 0 if the file has to be started again.
        offline: ask no server.
        session: what to ask with, instead of one of its own.

    Raises:
        ChecksumError: the file has another checksum.
        DownloadError: the file cannot be downloaded, is not what was announced, or is missing and ``offline``.
        OutputError: the folder cannot be written to, or the disk is full or would be.
    """
    job = Download(destination, url, size, progress, checksum)
    fresh = download_missing(
        job, lambda opened: lambda headers: get(opened, url, headers), offline=offline, session=session
    )
    if not fresh and checksum is not None:
        check_file(destination, checksum)
    return destination


class BrokenError(Exception):
    """A transfer that broke off and may go on: the message is a reason in plain words.

    Args:
        answer: that says so; None if none came.
    """

    def __init__(self, message: str, answer: Response | None = None) -> None:
        super().__init__(message)
        self.answer = answer


class _SlowError(BrokenError):
    """A transfer that is too slow to count as progress."""


class _EndlessError(DownloadError):
    """What comes fills the disk, and no end is announced; what came is to be removed."""


class _Stale(Exception):
    """What is there cannot be continued: the server has another file now, or does not give the rest of this one."""


@dataclass(frozen=True)
class Download:
    """One download: ``address`` is what a person can open in a browser, and what the note about the part names."""

    destination: Path
    address: str
    size: int | None = None
    progress: Progress | None = None
    checksum: str | None = None

    @property
    def part(self) -> Path:
        return self.destination.with_name(f"{self.destination.name}.part")

    @property
    def note(self) -> Path:
        return self.destination.with_name(f"{self.destination.name}.part.json")

    @property
    def bad(self) -> Path:
        """Where a file with a wrong checksum is put."""
        return self.destination.with_name(f"{self.destination.name}.bad")

    @property
    def by_hand(self) -> str:
        return f"download it by hand from {self.address} and put it at {self.destination}"

    def discard(self) -> None:
        """Forget what has come so far; the part first, so that no note ever speaks of another part."""
        with self.disk():
            remove(self.part)
            remove(self.note)

    @contextlib.contextmanager
    def disk(self) -> Iterator[None]:
        """Turn an OSError of the block, which must ask no server, into an OutputError."""
        try:
            yield
        except OSError as error:
            raise OutputError(
                f"cannot write {error.filename or self.part}: {advice(error)}. Run the same again: the download "
                "resumes where it stopped"
            ) from error


def download_missing(
    job: Download,
    asking: Callable[[Session], Ask],
    *,
    offline: bool,
    session: Session | None,
    check: Callable[[Path], None] | None = None,
) -> bool:
    """See that the file of ``job`` is there; True if it was downloaded just now, and ``check`` has passed it."""
    if job.destination.is_file():
        return False
    if (why := why_no_file(job.destination)) != "does not exist":
        raise OutputError(f"cannot write {job.destination}: it {why}; choose another place, or remove it")
    if offline:
        raise DownloadError(f"{job.destination.name} is not there, and downloads are switched off: {job.by_hand}")
    from ganformer_cli.downloads.patience import session_with_deadlines

    with download_lock(job.destination):
        if job.destination.is_file():  # another process has been faster
            return False
        with contextlib.nullcontext(session) if session is not None else session_with_deadlines() as opened:
            _transfer(job, asking(opened))
        if check is not None:
            try:
                check(job.destination)
            except Exception:
                remove(job.destination, warn=quietly)
                raise
    return True


def _transfer(job: Download, ask: Ask) -> None:
    """Download until the file is whole, with further tries, and publish it."""
    from ganformer_cli.downloads import patience

    retries, furthest, small_steps = patience.RETRIES, _size_of(job.part), 0
    digest = None if job.checksum is None else Digest(job.checksum)
    while True:
        try:
            _attempt(job, ask, digest)
            break
        except _EndlessError:
            job.discard()
            raise
        except _Stale:
            job.discard()  # the next attempt asks for all of it, and so cannot end here
        except BrokenError as broken:
            reached = _size_of(job.part)
            small_steps += reached - furthest < MIN_STEP
            if reached > furthest and small_steps <= MAX_SMALL_STEPS and not isinstance(broken, _SlowError):
                retries = patience.RETRIES
            furthest = max(furthest, reached)
            left = retries.wait(broken)
            if left is None:
                raise DownloadError(
                    f"cannot download {job.destination.name}: {broken}; run the same again later, which resumes where "
                    f"it stopped, or {job.by_hand}"
                ) from broken
            retries = left
    fits = digest is None or digest.fits
    with job.disk():
        replace(job.part, job.destination if fits else job.bad)
        remove(job.note, warn=quietly)
    if digest is not None and not fits:
        raise ChecksumError(
            f"{job.destination.name} of {job.address} has the {digest.kind} {digest.found}, where {digest.expected} is "
            f"expected: it was damaged on the way, or it is another file by now; it was put aside as {job.bad}. Run "
            "the same again to download it once more"
        )
    if job.checksum is not None:
        note_checked(job.destination, job.checksum)


def _attempt(job: Download, ask: Ask, digest: Digest | None) -> None:
    """Ask once, and write what comes behind what is there; returns if the part is whole, and synced to the disk."""
    from ganformer_cli.downloads import patience

    offset, note = _resumable(job)
    if digest is not None and digest.done != offset:
        # Before the server is asked, since reading tens of gigabytes takes longer than it waits for us.
        if job.progress is not None and offset:
            job.progress(offset, note.get("total"))
        with job.disk():
            digest.catch_up(job.part, offset)
    headers = {"Accept-Encoding": "identity"}  # so that bytes that are sent and bytes of the file are the same
    if offset:
        headers["Range"] = f"bytes={offset}-"
    with network_errors(job), ask(headers) as response:
        status = response.status_code
        if status in TRANSIENT_STATUS:
            raise BrokenError(f"the server says {_status_words(status)}", response)
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
        # The raw bytes: a server that says "Content-Encoding: gzip" of a .gz file means the file as it is.
        blocks: Iterable[bytes] = patience.blocks(response)
        if offset == 0:
            head, blocks = _beheaded(blocks)
            if looks_like_page(head):  # seen before anything that is there is given up for it
                title = read_page(head).title
                raise DownloadError(
                    f"{job.address} gives a web page{f' ({title})' if title else ''} instead of "
                    f"{job.destination.name}: perhaps a network that wants a login; open it in a browser, and if the "
                    f"file comes, put it at {job.destination}"
                )
        if total is not None and job.size is not None and total != job.size:
            raise _wrong_size(job, total)
        if offset == 0:
            job.discard()
        _require_space(job, (total or job.size or 0) - offset)
        if offset == 0:
            write_json(job.note, now)
            if digest is not None:
                digest.catch_up(job.part, 0)
        with job.disk():
            stream = job.part.open("r+b" if offset else "wb")
        try:
            done = _write(job, blocks, stream, offset, total, digest)
            with job.disk():
                stream.flush()
                os.fsync(stream.fileno())
        finally:
            with job.disk():
                stream.close()
    if total is None and done == 0:
        raise BrokenError("an empty answer without a length, as one that breaks off is")
    if total is not None and done < total:
        raise BrokenError(f"the connection broke off after {done} of {total} bytes")
    if (total is not None and done > total) or (job.size is not None and done != job.size):
        job.discard()
        raise _wrong_size(job, done, total)


def _write(
    job: Download, blocks: Iterable[bytes], stream: IO[bytes], offset: int, total: int | None, digest: Digest | None
) -> int:
    """Write ``blocks`` from byte ``offset`` on; returns the bytes there."""
    with job.disk():
        stream.seek(offset)
        stream.truncate()
    done, limit = offset, job.size if total is None else total
    if job.progress is not None:
        job.progress(done, total)
    look_at = offset + LOOK_EVERY
    for block in blocks:
        if limit is None and done >= look_at:
            look_at = done + LOOK_EVERY
            _require_room(job, done)
        with job.disk():
            stream.write(block)
        if digest is not None:
            digest.update(block)
        done += len(block)
        if job.progress is not None:
            job.progress(done, total)
        if limit is not None and done > limit:
            break  # it can only be wrong; do not fill the disk
    return done


def _beheaded(blocks: Iterable[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """The first pieces, as many as tell what kind of file comes, and all pieces, those too.

    A connection that breaks off meanwhile has brought too little to be kept.
    """
    pieces, first = iter(blocks), []
    for piece in pieces:
        first.append(piece)
        if sum(map(len, first)) >= SNIFFED:
            break
    return b"".join(first), itertools.chain(first, pieces)


def _require_space(job: Download, missing: int) -> None:
    """Refuse to begin what cannot end well: ``missing`` bytes are still to come."""
    with job.disk():
        free = shutil.disk_usage(job.destination.parent).free
    if missing > free:
        raise OutputError(
            f"cannot download {job.destination.name}: {missing / GIB:.1f} GiB are still to come, and "
            f"{job.destination.parent} has {free / GIB:.1f} GiB free; free some space, or choose a folder on another "
            "disk"
        )


def _require_room(job: Download, done: int) -> None:
    """Stop what may never end before it fills the disk."""
    with job.disk():
        free = shutil.disk_usage(job.destination.parent).free
    if done < MAX_UNANNOUNCED and free > SPARE_BYTES:
        return
    raise _EndlessError(
        f"cannot download {job.destination.name}: {done / GIB:.1f} GiB have come, the server does not say how many "
        f"there are, and {job.destination.parent} had {free / GIB:.1f} GiB left; what came was removed: {job.by_hand}"
    )


@contextlib.contextmanager
def network_errors(job: Download) -> Iterator[None]:
    """Turn what requests raises into ``BrokenError`` if another try may help, else into a DownloadError."""
    import requests
    import urllib3

    from ganformer_cli.downloads import patience

    host = urlsplit(job.address).netloc or job.address
    try:
        yield
    except patience.TooSlowError as error:
        raise _SlowError(f"{host} sends almost nothing ({error})") from error
    except (requests.Timeout, urllib3.exceptions.TimeoutError) as error:
        raise BrokenError(f"{host} does not answer") from error
    except (requests.exceptions.SSLError, urllib3.exceptions.SSLError) as error:
        raise BrokenError(f"no secure connection to {host} (its certificate, or this computer's clock)") from error
    except requests.exceptions.ProxyError as error:
        raise BrokenError(f"no connection to {host} through the proxy of this computer") from error
    except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
        raise BrokenError(f"no connection to {host}, or it broke off") from error
    except urllib3.exceptions.HTTPError as error:
        raise BrokenError(f"the connection to {host} broke off") from error
    except requests.RequestException as error:
        raise DownloadError(f"cannot download {job.destination.name}: {error}; {job.by_hand}") from error


def get(session: Session, url: str, headers: dict[str, str]) -> Response:
    import requests

    try:
        return session.get(url, headers=headers, stream=True, timeout=REQUEST_TIMEOUT)
    except requests.RequestException:  # an OSError too, for _network
        raise
    except OSError as error:  # a folder of certificates that is set and not there, for instance
        raise DownloadError(f"cannot ask for {url}: {error}; correct the setting that this names") from error
    except ValueError as error:  # of the place that an answer leads to
        raise DownloadError(f"{url} leads to an invalid address ({error}); check whether it has moved") from error


def _describe(job: Download, response: Response, total: int | None) -> dict[str, Any]:
    """What must be the same for a part to be continued."""
    return {
        "source": job.address,
        "etag": response.headers.get("ETag"),
        "last_modified": response.headers.get("Last-Modified"),
        "total": total,
    }


def _resumable(job: Download) -> tuple[int, dict[str, Any]]:
    """The byte from which to ask, and the note about the part; 0 to start anew."""
    try:
        note = read_json(job.note)
    except GanformerError:
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


def _wrong_size(job: Download, found: int, announced: int | None = None) -> DownloadError:
    expected = announced if job.size is None else job.size
    return DownloadError(
        f"{job.destination.name} of {job.address} has {found} bytes instead of {expected}: it has been changed, or it "
        f"is another file; look whether there is a newer ganformer, or put the right file at {job.destination}"
    )
