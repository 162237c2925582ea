"""The server behind ``ganformer watch``: on loopback only, for whoever has the token in its address."""

from __future__ import annotations

import contextlib
import hmac
import json
import secrets
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from ganformer_cli.checkpoints.run_folder import SAMPLE_FOLDER
from ganformer_cli.errors import OutputError
from ganformer_cli.web.page import page_html
from ganformer_cli.web.runs import describe, find_runs, sample_files, summarize

LOOPBACK = "127.0.0.1"
MAX_ADDRESS = 2000  # characters
HEADERS = {
    # Nothing is loaded from elsewhere, and no other page may show this one or learn its address.
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class WatchServer(ThreadingHTTPServer):
    """Serves the runs of ``folder``; ``address`` is what to open.

    Raises:
        OutputError: the port is taken.
    """

    daemon_threads = True
    allow_reuse_address = False  # on Windows it would let two programs share a port

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.folder = folder
        self.token = secrets.token_urlsafe(24)
        try:
            super().__init__((LOOPBACK, port), _Handler)
        except OSError as error:
            raise OutputError(
                f"--port {port}: cannot be used ({error.strerror or error}); give another, or none for a free one"
            ) from error
        self.address = f"http://{LOOPBACK}:{self.server_port}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away in mid-request is nobody's error."""


class _Handler(BaseHTTPRequestHandler):
    server: WatchServer
    timeout = 30  # seconds for a request to arrive
    server_version, sys_version = "ganformer", ""

    def do_GET(self) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError):
            status, kind, body = self._answer()
            self.send_response(status)
            for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **HEADERS}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not printed."""

    def _answer(self) -> tuple[int, str, bytes]:
        own = f"{LOOPBACK}:{self.server.server_port}"
        hosts, origins = self.headers.get_all("Host", []), self.headers.get_all("Origin", [])
        if hosts != [own] or any(origin != f"http://{own}" for origin in origins):
            return _error(403, "another host or origin")
        if len(self.path) > MAX_ADDRESS:
            return _error(414, "the address is too long")
        _, _, rest = self.path.partition("/")
        token, _, place = rest.partition("/")
        if not hmac.compare_digest(token.encode("utf-8", "replace"), self.server.token.encode()):
            return _error(403, "the token is missing or wrong; open the address that ganformer watch has printed")
        if place == "":
            return 200, "text/html; charset=utf-8", page_html().encode("utf-8")
        # Runs and files are looked up by number and name in what the folder lists: no path comes from the request.
        runs = {path.name: path for path in find_runs(self.server.folder)}
        match place.split("/"):
            case ["api", "runs"]:
                return _json([summarize(run) for run in runs.values()])
            case ["api", "run", name] if _unquote(name) in runs:
                return _json(describe(runs[_unquote(name)]))
            case ["sample", name, file] if _unquote(name) in runs:
                run = runs[_unquote(name)]
                if (run / SAMPLE_FOLDER).is_symlink():
                    return _error(404, "no such page")
                if any(file == known for files in sample_files(run).values() for _, known in files):
                    with contextlib.suppress(OSError):
                        return 200, "image/png", (run / SAMPLE_FOLDER / file).read_bytes()
        return _error(404, "no such page, run or file; it may have been deleted")


def _unquote(text: str) -> str:
    from urllib.parse import unquote

    return unquote(text, errors="replace")


def _json(value: Any) -> tuple[int, str, bytes]:
    return 200, "application/json", json.dumps(_without_nan(value), allow_nan=False).encode("utf-8")


def _without_nan(value: Any) -> Any:
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    if isinstance(value, dict):
        return {name: _without_nan(part) for name, part in value.items()}
    return [_without_nan(part) for part in value] if isinstance(value, (list, tuple)) else value


def _error(status: int, text: str) -> tuple[int, str, bytes]:
    return status, "text/plain; charset=utf-8", f"{text}\n".encode()
