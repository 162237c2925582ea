"""Models on the Hugging Face Hub: ``hf:USER/REPO``, ``hf:USER/REPO/FILE``, ``hf:USER/REPO@REVISION/FILE``.

Asked over HTTP, without any library of the Hub's. ``HF_ENDPOINT`` is another server that speaks as the Hub does. A
token is sent only after the Hub has refused to answer without one, and only to the Hub itself.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from ganformer_cli.downloads.checksums import Progress, download_lock
from ganformer_cli.downloads.transfer import TRANSIENT_STATUS, BrokenError, Download, fetch, get, network_errors
from ganformer_cli.errors import ConfigError, DownloadError, GanformerError
from ganformer_cli.files import parse_json, read_json, read_regular, write_json
from ganformer_cli.resources import cache_folder
from ganformer_cli.text import listed, printable

if TYPE_CHECKING:
    from requests import Response, Session

HUB_PREFIX = "hf:"
HUB_URL = "https://huggingface.co"
HUB_MODEL = "model.safetensors"  # what ``hf:USER/REPO`` means where there are several files
MAX_ANSWER = 16 << 20  # bytes of a list of files, or of a card
_INDEX = "files.json"
_FORM = f"write {HUB_PREFIX}USER/REPO or {HUB_PREFIX}USER/REPO/FILE.safetensors"
_PART = re.compile(r"(?!.*\.\.)[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}", re.ASCII)  # of a repository or a file's path
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MODELS = (".safetensors", ".pkl")


@dataclass(frozen=True)
class HubAddress:
    """A model on the Hub."""

    repo: str  # USER/REPO
    file: str | None = None  # its path in the repository
    revision: str = "main"

    def __str__(self) -> str:
        at = "" if self.revision == "main" else f"@{self.revision}"
        return f"{HUB_PREFIX}{self.repo}{at}{f'/{self.file}' if self.file else ''}"


@dataclass(frozen=True)
class HubFile:
    """What the Hub says of a file."""

    name: str
    commit: str
    size: int | None
    sha256: str | None

    @property
    def key(self) -> str:
        """The folder of this very content."""
        return (self.sha256 or self.commit)[:16]


def parse_hub_address(text: str, option: str = "--model") -> HubAddress:
    """``hf:USER/REPO[@REVISION][/FILE]``, with or without ``hf:``.

    Raises:
        ConfigError: it is none.
    """
    user, _, rest = text.removeprefix(HUB_PREFIX).partition("/")
    place, slash, file = rest.partition("/")
    repo, at, revision = place.partition("@")
    parts = [user, repo, *([revision] if at else []), *(file.split("/") if slash else [])]
    if not all(_PART.fullmatch(part) for part in parts):
        raise ConfigError(f"{option} {printable(text, limit=200)}: not a model on the Hugging Face Hub; {_FORM}")
    return HubAddress(f"{user}/{repo}", file or None, revision or "main")


def hub_endpoint() -> str:
    """Where the Hub is: ``HF_ENDPOINT``, or huggingface.co.

    Raises:
        ConfigError: ``HF_ENDPOINT`` is no web address.
    """
    given = os.environ.get("HF_ENDPOINT") or HUB_URL
    address = given.rstrip("/")
    try:
        parts = urlsplit(address)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.username
    except ValueError:
        valid = False
    if not valid:
        raise ConfigError(f"HF_ENDPOINT {printable(given, limit=200)}: not a web address; unset it, or write {HUB_URL}")
    return address


def hub_token() -> str | None:
    """The user's token: ``HF_TOKEN``, or what ``hf auth login`` has stored; None if there is none."""
    token = os.environ.get("HF_TOKEN", "").strip()
    if token:
        return token
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    home = os.environ.get("HF_HOME") or os.path.join(cache, "huggingface")
    path = Path(os.environ.get("HF_TOKEN_PATH") or os.path.join(home, "token"))
    try:
        return read_regular(path).decode("ascii").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def fetch_hub(
    address: HubAddress,
    *,
    offline: bool = False,
    progress: Progress | None = None,
    notice: Callable[[str], None] = lambda text: None,
) -> Path:
    """A model of the Hub on disk. The Hub is asked which file it is now; the file is downloaded unless it is there.

    Where the Hub cannot be reached, the newest copy is taken, and ``notice`` is told.

    Args:
        offline: ask nobody: take the newest copy.
        progress: called with the bytes that are there, and all if known.
        notice: told what the user should know.

    Raises:
        ConfigError: the repository has no such file, or several that could be meant.
        DownloadError: it cannot be downloaded, has another checksum, or is missing and ``offline``.
        OutputError: the cache cannot be written to.
    """
    copy = hub_copy(address)
    if offline:
        if copy is None:
            raise DownloadError(f"{address} is not there, and downloads are switched off; leave out --offline")
        return copy
    from ganformer_cli.downloads.patience import session_with_deadlines

    with session_with_deadlines() as session:
        try:
            listing = _list_files(address, session, patient=copy is None)
        except _UnreachableError as error:
            if copy is None:
                raise
            notice(f"{address}: the Hub cannot be asked ({error.__cause__}); using the copy of an earlier download")
            return copy
        file = _choose(address, listing)
        url = f"{hub_endpoint()}/{address.repo}/resolve/{file.commit}/{quote(file.name)}"
        checksum = None if file.sha256 is None else f"sha256:{file.sha256}"
        path = fetch(url, _place(address, file), size=file.size, checksum=checksum, progress=progress, session=session)
    _remember(address, file)
    return path


def hub_text(repo: str, name: str) -> str | None:
    """A text file of a repository, such as its ``README.md``; None if there is none.

    Raises:
        DownloadError: it cannot be read.
    """
    from ganformer_cli.downloads.patience import session_with_deadlines

    with session_with_deadlines() as session:
        url = f"{hub_endpoint()}/{repo}/resolve/main/{quote(name)}"
        status, content = _ask(HubAddress(repo), session, url)
    if status == HTTPStatus.OK:
        return content.decode("utf-8", "replace").replace("\r\n", "\n")
    if status == HTTPStatus.NOT_FOUND:
        return None
    raise DownloadError(f"{HUB_PREFIX}{repo}/{name}: {_why_refused(status, repo)}")


# ----- What the Hub says -----


class _UnreachableError(DownloadError):
    """The Hub does not answer; its cause says why."""


def _list_files(address: HubAddress, session: Session, *, patient: bool) -> dict[str, HubFile]:
    """The files of a repository, by name; ``patient``: try more than once."""
    url = f"{hub_endpoint()}/api/models/{address.repo}/revision/{quote(address.revision)}?blobs=true"
    status, content = _ask(address, session, url, patient=patient)
    if status != HTTPStatus.OK:
        raise DownloadError(f"{address}: {_why_refused(status, address.repo)}")
    answer = parse_json(content, f"{address}: the Hub's list of files", kind=DownloadError, remedy="try again later")
    commit, entries = (answer.get("sha"), answer.get("siblings")) if isinstance(answer, dict) else (None, None)
    if not isinstance(commit, str) or not _PART.fullmatch(commit) or not isinstance(entries, list):
        raise DownloadError(f"{address}: {urlsplit(url).netloc} does not answer as the Hub does; check HF_ENDPOINT")
    found = {}
    for entry in entries:
        name = entry.get("rfilename") if isinstance(entry, dict) else None
        if isinstance(name, str) and all(_PART.fullmatch(part) for part in name.split("/")):
            large = entry.get("lfs")
            large = large if isinstance(large, dict) else {}
            digest, size = large.get("sha256"), large.get("size", entry.get("size"))
            valid = isinstance(digest, str) and _SHA256.fullmatch(digest)
            size = size if type(size) is int and size >= 0 else None
            found[name] = HubFile(name, commit, size, digest if valid else None)
    return found


def _ask(address: HubAddress, session: Session, url: str, *, patient: bool = True) -> tuple[int, bytes]:
    """The status and the content of an answer, if ``patient`` after further tries if the connection breaks off.

    The first request carries no token. If it is refused and the user has one, it is repeated with it, and the session
    keeps it for the same host.
    """
    from ganformer_cli.downloads import patience

    job = Download(cache_folder() / "hub" / address.repo, url)
    retries = patience.RETRIES if patient else patience.Retries(0)
    while True:
        try:
            with network_errors(job):
                answer = get(session, url, {})
                content = _read(answer)
                token = hub_token()
                if answer.status_code in (401, 403, 404) and token and "Authorization" not in session.headers:
                    session.headers["Authorization"] = f"Bearer {token}"
                    answer = get(session, url, {})
                    content = _read(answer)
                if answer.status_code in TRANSIENT_STATUS:
                    raise BrokenError(f"the server says {answer.status_code}", answer)
            return answer.status_code, content
        except BrokenError as error:
            left = retries.wait(error)
            if left is None:
                raise _UnreachableError(f"{address}: the Hub cannot be asked: {error}; try again later") from error
            retries = left


def _read(response: Response) -> bytes:
    """The content of an answer, which is closed."""
    from ganformer_cli.downloads import patience

    content = b""
    with response:
        for block in patience.blocks(response, decode=True):
            content += block
            if len(content) > MAX_ANSWER:
                raise DownloadError(f"{response.url}: answers with more than {MAX_ANSWER >> 20} MiB; check HF_ENDPOINT")
    return content


def _why_refused(status: int, repo: str) -> str:
    if status in (401, 404):
        return (
            "the Hub has no such repository, revision or file, or it is private; check the name, or log in with "
            "hf auth login (or set HF_TOKEN)"
        )
    if status == HTTPStatus.FORBIDDEN:
        return f"the Hub refuses access: accept the terms at {hub_endpoint()}/{repo}, and log in with hf auth login"
    return f"the Hub answers with status {status}; try again later"


def _choose(address: HubAddress, listing: dict[str, HubFile]) -> HubFile:
    """The file that an address means."""
    models = sorted(name for name in listing if name.endswith(_MODELS))
    shown = listed(models, 8)
    if address.file is not None:
        if address.file in listing:
            return listing[address.file]
        raise ConfigError(f"--model {address}: the repository has no such file; its models are {shown or 'none'}")
    weights = [name for name in models if name.endswith(".safetensors")] or models
    if HUB_MODEL in weights or len(weights) == 1:
        return listing[HUB_MODEL if HUB_MODEL in weights else weights[0]]
    if not weights:
        raise ConfigError(f"--model {address}: the repository has no model: no .safetensors, no .pkl")
    raise ConfigError(f"--model {address}: the repository has several models; add one of /{shown}")


# ----- Copies -----


def _place(address: HubAddress, file: HubFile) -> Path:
    return _folder(address) / file.key / file.name.rpartition("/")[2]


def _remember(address: HubAddress, file: HubFile) -> None:
    """Note which copy an address means, for when the Hub is not asked."""
    index = _folder(address) / _INDEX
    with download_lock(index):
        known = _read_index(index)
        entry = f"{file.key}/{file.name.rpartition('/')[2]}"
        names = {str(address), str(HubAddress(address.repo, file.name, address.revision))}
        if any(known.get(name) != entry for name in names):
            write_json(index, {**known, **dict.fromkeys(names, entry)})


def _read_index(index: Path) -> dict[str, str]:
    try:
        found = read_json(index, kind=DownloadError)
    except GanformerError:
        return {}
    return {key: value for key, value in found.items() if isinstance(value, str)} if isinstance(found, dict) else {}


def hub_copy(address: HubAddress) -> Path | None:
    """The newest copy of a model that was downloaded before; the Hub is not asked."""
    folder = _folder(address)
    parts = _read_index(folder / _INDEX).get(str(address), "").split("/")
    path = folder.joinpath(*parts)
    return path if len(parts) == 2 and all(_PART.fullmatch(part) for part in parts) and path.is_file() else None


def _folder(address: HubAddress) -> Path:
    """Where the copies of a repository lie."""
    return cache_folder() / "hub" / Path(*address.repo.split("/"))
