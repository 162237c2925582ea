"""A server on loopback only, for whoever has the token in its address: one page, and JSON requests of it.

No path comes from a request: it names the page or one of the requests that ``answer`` knows. A page of another origin
is refused, and so is another name for this host (DNS rebinding).
"""

from __future__ import annotations

import contextlib
import hmac
import json
import secrets
import traceback
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any

from ganformer_cli.errors import GanformerError, OutputError
from ganformer_cli.files import parse_json
from ganformer_cli.memory import is_out_of_memory

LOOPBACK = "127.0.0.1"
MAX_ADDRESS = 2000  # characters
MAX_BODY = 1 << 20  # bytes: a label of 36,000 numbers
HEADERS = {
    # Nothing is loaded from elsewhere, and no other page may show this one or learn its address.
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
}

#: From the name of a request and its JSON value to the JSON values of the reply.
Answer = Callable[[str, Any], Any]


class LocalServer(ThreadingHTTPServer):
    """Serves one page and its requests; ``address`` is what to open.

    Args:
        page: HTML.
        answer: called for ``POST api/NAME``, from several threads; a ``GanformerError`` becomes status 400 with its
            message, any other error status 500, and the server goes on.
        port: 0 takes a free one.
        report: told the traceback of an error that is a bug.

    Raises:
        OutputError: the port is taken.
    """

    daemon_threads = True
    allow_reuse_address = False  # on Windows it would let two programs share a port

    def __init__(self, page: str, answer: Answer, port: int = 0, report: Callable[[str], None] | None = None) -> None:
        self.page, self.answer, self.report = page.encode("utf-8"), answer, report
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
    server: LocalServer
    protocol_version = "HTTP/1.1"
    timeout = 30  # seconds for a request to arrive
    disable_nagle_algorithm = True
    server_version, sys_version = "ganformer", ""

    def do_GET(self) -> None:
        refusal = self._refusal()
        if refusal is None and self._place() == "":
            self._send(200, "text/html; charset=utf-8", self.server.page)
        else:
            self._send_error(*(refusal or (404, "no such page")))

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self.close_connection = True  # until the body has been read
        if refusal := self._refusal():
            self._send_error(*refusal)
            return
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()) or "Transfer-Encoding" in self.headers:
            self._send_error(411, "the request does not say its length")
        elif len(length) > 9 or int(length) > MAX_BODY:
            self._send_error(413, "the request is too long")
        elif self.headers.get_content_type() != "application/json":
            self._send_error(415, "the request is no JSON")
        else:
            with contextlib.suppress(ConnectionError, TimeoutError):
                body = self.rfile.read(int(length))
                if len(body) == int(length):
                    self.close_connection = self.headers.get("Connection", "").lower() == "close"
                    self._answer(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not printed."""

    def _refusal(self) -> tuple[int, str] | None:
        """Why this request is not answered; None if it is."""
        own = f"{LOOPBACK}:{self.server.server_port}"
        hosts, origins = self.headers.get_all("Host", []), self.headers.get_all("Origin", [])
        if hosts != [own] or any(origin != f"http://{own}" for origin in origins):
            return 403, "another host or origin"
        if len(self.path) > MAX_ADDRESS:
            return 414, "the address is too long"
        token = self.path.removeprefix("/").partition("/")[0]
        if not hmac.compare_digest(token.encode("utf-8", "replace"), self.server.token.encode()):
            return 403, "the token is missing or wrong; open the address that was printed"
        return None

    def _place(self) -> str:
        """The address after the token."""
        return self.path.removeprefix("/").partition("/")[2]

    def _answer(self, body: bytes) -> None:
        place = self._place()
        if not place.startswith("api/"):
            self._send_error(404, "no such request")
            return
        try:
            reply = self.server.answer(place.removeprefix("api/"), parse_json(body, "the request"))
            text = json.dumps(reply, allow_nan=False)
        except GanformerError as error:
            self._send_error(400, str(error))
        except Exception as error:
            if is_out_of_memory(error):
                self._send_error(500, "memory ran out; close other programs and try again")
                return
            if self.server.report is not None:
                self.server.report("".join(traceback.format_exception(error)))
            self._send_error(500, f"a bug in ganformer: {type(error).__name__}; the program's window shows more")
        else:
            self._send(200, "application/json", text.encode("utf-8"))

    def _send_error(self, status: int, text: str) -> None:
        self._send(status, "application/json", json.dumps({"error": text}).encode("utf-8"))

    def _send(self, status: int, kind: str, body: bytes) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError):
            self.send_response(status)
            for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **HEADERS}.items():
                self.send_header(name, value)
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)


def page_html(name: str) -> str:
    """The page ``NAME.html`` with ``NAME.css`` and ``NAME.js`` inside: it needs no other file."""
    static = files("ganformer_cli.web") / "static"
    page = (static / f"{name}.html").read_text(encoding="utf-8")
    for kind in ("css", "js"):
        page = page.replace(f"/*{{{name}.{kind}}}*/", (static / f"{name}.{kind}").read_text(encoding="utf-8"))
    return page
