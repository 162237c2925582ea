"""A server on loopback only, for whoever has the token in its address: pages, images and JSON by a table of routes.

A page of another origin is refused, and so is another name for this host (DNS rebinding).
"""

from __future__ import annotations

import contextlib
import functools
import hmac
import json
import re
import secrets
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import unquote

from ganformer_cli.errors import GanformerError, OutputError
from ganformer_cli.files import error_reason, parse_json
from ganformer_cli.memory import is_out_of_memory

LOOPBACK = "127.0.0.1"
MAX_ADDRESS = 2000  # characters
MAX_BODY = 1 << 20  # bytes: a label of 36,000 numbers
MAX_CONNECTIONS = 64  # at once; a browser opens six
HEADERS = {
    # Nothing is loaded from elsewhere, and no other page may show this one or learn its address.
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True)
class Content:
    """A reply that is not JSON."""

    kind: str  # its MIME type
    body: bytes


class NotFoundError(GanformerError):
    """What an address names is not there, or not any more: status 404."""


def html(text: str) -> Content:
    """A page."""
    return Content("text/html; charset=utf-8", text.encode("utf-8"))


#: By method and address after the token, such as ``"GET "`` (the page) or ``"POST api/*"``. Each ``*`` is one part of
#: the address, which the function gets as text, unquoted: it may be anything, and is no path. The JSON value of
#: a POST comes after them. A function returns a ``Content``, or JSON values; its ``GanformerError`` becomes status 400
#: (a ``NotFoundError`` 404) with its message, any other error 500, and the server goes on. Several threads call it.
Routes = Mapping[str, Callable[..., Any]]


class LocalServer(ThreadingHTTPServer):
    """Answers requests by ``routes``; ``address`` is what to open.

    Args:
        routes: see ``Routes``.
        port: 0 takes a free one.
        report: told the traceback of an error that is a bug.

    Raises:
        OutputError: the port is taken.
    """

    daemon_threads = True
    allow_reuse_address = False  # on Windows it would let two programs share a port

    def __init__(self, routes: Routes, port: int = 0, report: Callable[[str], None] | None = None) -> None:
        self.routes = {tuple(key.replace(" ", "/", 1).split("/")): function for key, function in routes.items()}
        self.report = report
        self.token = secrets.token_urlsafe(24)
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        try:
            super().__init__((LOOPBACK, port), _Handler)
        except OSError as error:
            raise OutputError(
                f"--port {port}: cannot be used ({error_reason(error)}); give another, or none for a free one"
            ) from error
        self.address = f"http://{LOOPBACK}:{self.server_port}/{self.token}/"

    def find_route(self, method: str, place: str) -> tuple[Callable[..., Any], list[str]] | None:
        """The function for an address after the token, and what its stars stand for; None if there is none."""
        parts = [method, *place.partition("?")[0].split("/")]
        for pattern, function in self.routes.items():
            if len(pattern) == len(parts) and all(
                want in ("*", part) for want, part in zip(pattern, parts, strict=True)
            ):
                stars = [part for want, part in zip(pattern, parts, strict=True) if want == "*"]
                return function, [unquote(part, errors="replace") for part in stars]
        return None

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own; hang up if too many are busy."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer the requests of one connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away in mid-request is nobody's error."""


class _Handler(BaseHTTPRequestHandler):
    server: LocalServer
    protocol_version = "HTTP/1.1"
    timeout = 30  # seconds for a request to arrive
    disable_nagle_algorithm = True
    server_version, sys_version = "ganformer", ""

    def do_GET(self) -> None:
        if refusal := self._refusal():
            self._send_error(*refusal)
        else:
            self._answer("GET")

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
                    self._answer("POST", body)

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

    def _answer(self, method: str, *bodies: bytes) -> None:
        route = self.server.find_route(method, self.path.removeprefix("/").partition("/")[2])
        if route is None:
            self._send_error(404, "no such page or request; reload the page")
            return
        function, parts = route
        try:
            reply = function(*parts, *(parse_json(body, "the request") for body in bodies))
            if not isinstance(reply, Content):
                reply = Content("application/json", json.dumps(reply, allow_nan=False).encode("utf-8"))
        except GanformerError as error:
            self._send_error(404 if isinstance(error, NotFoundError) else 400, str(error))
        except Exception as error:
            if is_out_of_memory(error):
                self._send_error(500, "memory ran out; close other programs and try again")
                return
            if self.server.report is not None:
                self.server.report("".join(traceback.format_exception(error)))
            self._send_error(500, f"a bug in ganformer: {type(error).__name__}; the program's window shows more")
        else:
            self._send(200, reply)

    def _send_error(self, status: int, text: str) -> None:
        self._send(status, Content("application/json", json.dumps({"error": text}).encode("utf-8")))

    def _send(self, status: int, content: Content) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError):
            self.send_response(status)
            headers = {"Content-Type": content.kind, "Content-Length": str(len(content.body)), **HEADERS}
            for name, value in headers.items():
                self.send_header(name, value)
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content.body)


@functools.cache
def page_html(name: str) -> str:
    """The page ``NAME.html`` with all files of ``static`` inside that it names in ``/*{FILE}*/``: it needs no other."""
    static = files("ganformer_cli.web") / "static"
    page = (static / f"{name}.html").read_text(encoding="utf-8")
    for file in sorted(re.findall(r"/\*\{([\w.-]+)\}\*/", page)):
        page = page.replace(f"/*{{{file}}}*/", (static / file).read_text(encoding="utf-8"))
    return page
