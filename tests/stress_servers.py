"""A server on the loopback that lies, and downloads from it; part of ``stress.py``."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests import stress_harness as harness
from tests.stress_harness import Report, Sandbox
from tests.stress_inputs import _png, _zip

#: Bytes that one connection is sent at most, and seconds that it is kept.
MOST_BYTES, MOST_SECONDS = 1 << 29, 40.0


class Liar:
    """Accepts connections, and answers each by the lie that is set."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.lie: Callable[[Liar, socket.socket, bytes], None] = Liar.honest
        self.asked = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:  # it was closed
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        self.asked += 1
        with connection, contextlib.suppress(OSError):
            connection.settimeout(MOST_SECONDS)
            request = b""
            while b"\r\n\r\n" not in request:
                piece = connection.recv(65536)
                if not piece:
                    return
                request += piece
            self.lie(self, connection, request)

    def honest(self, connection: socket.socket, request: bytes) -> None:
        self.say(connection, "200 OK", {"Content-Length": len(self.content)}, self.content)

    def say(self, connection: socket.socket, status: str, headers: dict[str, object], body: bytes = b"") -> None:
        lines = [f"HTTP/1.1 {status}", "Connection: close", *(f"{name}: {value}" for name, value in headers.items())]
        connection.sendall("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)

    def pour(self, connection: socket.socket, piece: bytes, pause: float = 0.0) -> None:
        """Send ``piece`` again and again, until the client leaves or a bound is reached."""
        sent, end = 0, time.monotonic() + MOST_SECONDS
        while sent < MOST_BYTES and time.monotonic() < end:
            connection.sendall(piece)
            sent += len(piece)
            time.sleep(pause)


def lies(source: random.Random) -> dict[str, Callable[[Liar, socket.socket, bytes], None]]:
    """What a server may do wrong, by name."""

    def simple(status: str, headers: dict[str, object], body: bytes = b"") -> Callable[..., None]:
        return lambda liar, connection, request: liar.say(connection, status, headers, body)

    def endless(liar: Liar, connection: socket.socket, request: bytes) -> None:
        liar.say(connection, "200 OK", {})
        liar.pour(connection, b"\0" * 65536)

    def endless_chunks(liar: Liar, connection: socket.socket, request: bytes) -> None:
        liar.say(connection, "200 OK", {"Transfer-Encoding": "chunked"})
        liar.pour(connection, b"10000\r\n" + b"\0" * 65536 + b"\r\n")

    def endless_continue(liar: Liar, connection: socket.socket, request: bytes) -> None:
        liar.pour(connection, b"HTTP/1.1 100 Continue\r\n\r\n", 0.01)

    def endless_headers(liar: Liar, connection: socket.socket, request: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        liar.pour(connection, b"X-Header: " + b"a" * 1000 + b"\r\n")

    def endless_status(liar: Liar, connection: socket.socket, request: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 ")
        liar.pour(connection, b"O" * 65536)

    def drip(liar: Liar, connection: socket.socket, request: bytes) -> None:
        liar.say(connection, "200 OK", {"Content-Length": 10_000_000})
        liar.pour(connection, b"\0", 0.5)

    def drip_of_headers(liar: Liar, connection: socket.socket, request: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        liar.pour(connection, b"X: y\r\n", 1.0)

    def silence(liar: Liar, connection: socket.socket, request: bytes) -> None:
        time.sleep(MOST_SECONDS)

    def hang_up(liar: Liar, connection: socket.socket, request: bytes) -> None:
        connection.close()

    def longer(liar: Liar, connection: socket.socket, request: bytes) -> None:
        liar.say(connection, "200 OK", {"Content-Length": len(liar.content) + 999}, liar.content)

    def shorter(liar: Liar, connection: socket.socket, request: bytes) -> None:
        liar.say(connection, "200 OK", {"Content-Length": len(liar.content) // 2}, liar.content)

    def other_range(liar: Liar, connection: socket.socket, request: bytes) -> None:
        half = len(liar.content) // 2
        if liar.asked == 1:
            headers: dict[str, object] = {"Content-Length": len(liar.content), "ETag": '"a"'}
            return liar.say(connection, "200 OK", headers, liar.content[:half])
        headers = {"Content-Length": 10, "Content-Range": "bytes 0-9/99999999999999", "ETag": '"b"'}
        return liar.say(connection, "206 Partial Content", headers, b"0123456789")

    def changed(liar: Liar, connection: socket.socket, request: bytes) -> None:
        half = len(liar.content) // 2
        body = bytes(len(liar.content)) if liar.asked > 1 else liar.content[:half]
        liar.say(connection, "200 OK", {"Content-Length": len(liar.content), "ETag": f'"{liar.asked}"'}, body)

    def same_length(liar: Liar, connection: socket.socket, request: bytes) -> None:
        liar.say(connection, "200 OK", {"Content-Length": len(liar.content)}, bytes(len(liar.content)))

    def to_itself(liar: Liar, connection: socket.socket, request: bytes) -> None:
        liar.say(
            connection, "302 Found", {"Location": f"http://127.0.0.1:{liar.port}/{liar.asked}", "Content-Length": 0}
        )

    page = b"<html><title>\x1b]0;owned\x07\x1b[31mSign in</title><body>quota</body></html>"
    return {
        "endless body": endless,
        "endless chunks": endless_chunks,
        "endless 100 Continue": endless_continue,
        "endless headers": endless_headers,
        "endless status line": endless_status,
        "drip": drip,
        "drip of headers": drip_of_headers,
        "silence": silence,
        "hangs up": hang_up,
        "announces more": longer,
        "announces less": shorter,
        "another range": other_range,
        "changes between requests": changed,
        "other bytes of the same length": same_length,
        "redirects to itself": to_itself,
        "redirects to a file": simple("302 Found", {"Location": "file:///etc/passwd", "Content-Length": 0}),
        "redirects nowhere": simple("302 Found", {"Content-Length": 0}),
        "redirects to nonsense": simple("302 Found", {"Location": "http://[::bad", "Content-Length": 0}),
        "negative length": simple("200 OK", {"Content-Length": -5}, b"x"),
        "length of words": simple("200 OK", {"Content-Length": "many"}, b"x"),
        "huge length": simple("200 OK", {"Content-Length": 10**30}, b"x"),
        "bad chunks": simple("200 OK", {"Transfer-Encoding": "chunked"}, b"-5\r\nabc\r\nZZ\r\n"),
        "gzip that is none": simple("200 OK", {"Content-Encoding": "gzip", "Content-Length": 5}, b"\x1f\x8bbad"),
        "page with escapes": simple("200 OK", {"Content-Type": "text/html", "Content-Length": len(page)}, page),
        "error page with escapes": simple("500 \x1b[31mBad", {"Content-Length": len(page)}, page),
        "no such status": simple("999 Odd", {"Content-Length": 0}),
        "not HTTP": lambda liar, connection, request: connection.sendall(b"SSH-2.0-OpenSSH\r\n" + b"\0" * 99),
        "retry after a year": simple("503 Busy", {"Retry-After": 31_536_000, "Content-Length": 0}),
        "range not satisfiable": simple("416 Range", {"Content-Range": "bytes */-1", "Content-Length": 0}),
        "partial unasked": simple("206 Partial", {"Content-Range": "bytes 5-9/10", "Content-Length": 5}, b"56789"),
        "empty": simple("200 OK", {"Content-Length": 0}),
        "name that climbs": simple(
            "200 OK",
            {"Content-Disposition": 'attachment; filename="../../outside/x"', "Content-Length": 3},
            source.randbytes(3),
        ),
    }


class Servers:
    """Downloads of a catalogue entry from a lying server, and once more from the same server being honest."""

    def __init__(self, root: Path, source: random.Random, report: Report) -> None:
        self.root, self.source, self.report = root, source, report
        self.todo: list[tuple[str, bool]] = []
        archive = root / "served.zip"
        _zip(archive, {f"{n}.png": _png(16, 16, seed=n) for n in range(300)})
        self.content = archive.read_bytes()

    def case(self) -> None:
        """One lie."""
        if not self.todo:
            self.todo = [(name, checked) for name in lies(self.source) for checked in (True, False)]
            self.source.shuffle(self.todo)
        name, checked = self.todo.pop()
        sandbox = Sandbox(self.root, "servers")
        liar = Liar(self.content)
        liar.lie = lies(self.source)[name]
        checksum = f'sha256 = "{hashlib.sha256(self.content).hexdigest()}"\n' if checked else ""
        (sandbox.cwd / "entry.toml").write_text(
            'title = "Served"\nlicence = "none"\nratio = 1.0\nresolution = 16\nimages = 300\n\n'
            '[[source]]\nform = "zip of pictures"\n'
            f'url = "http://127.0.0.1:{liar.port}/served.zip"\n{checksum}gigabytes = 0.001\n',
            encoding="utf-8",
        )
        environment = {"NO_PROXY": "127.0.0.1", "GANFORMER_CACHE": str(sandbox.cwd / "cache")}
        line = ["prepare", "entry.toml", "--name", "set", "--workers", "1"]
        if "drip" in name:  # shows what comes; who does not want to wait presses Ctrl-C
            with harness.started(sandbox, line, environment=environment) as child:
                time.sleep(8)
                os.kill(child, signal.SIGINT)
                outcome = harness.wait(child, sandbox, 30)
        else:
            outcome = harness.run(sandbox, line, limit=200, environment=environment)
        what = f"server, {name}{' with a checksum' if checked else ''}"
        self.report.cases["servers"] += 1
        self.report.check("servers", what, outcome)
        size = sum(path.stat().st_size for path in sandbox.cwd.rglob("*") if path.is_file())
        if size > MOST_BYTES + (1 << 26):  # more than one connection poured: it was asked for again
            self.report.fault("memory", "servers", f"{what}: {size >> 20} MiB on the disk")
        if outcome.status != 0:
            liar.lie = Liar.honest
            outcome = harness.run(sandbox, line, limit=90, environment=environment)
            self.report.check("servers", f"{what}, then an honest one", outcome)
            if outcome.status != 0:
                self.report.fault("lost", "servers", f"{what}: fails for ever: {outcome.last_line}")
        liar.listener.close()
        sandbox.check(self.report, "servers", what)
        sandbox.remove()
