"""Patience with servers: when to ask again, and deadlines for the headers of an answer and the speed of its body."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import urllib3
import urllib3.util.retry
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

if TYPE_CHECKING:
    from requests import Response, Session

    from ganformer_cli.downloads.transfer import BrokenError

ANSWER_SECONDS = 120.0  # until the headers of an answer are there, however busily something comes before
MIN_BYTES_PER_SECOND = 1024  # bytes a second
SLOW_SECONDS = 120.0  # that a transfer may be slower
MAX_BLOCK = 1 << 18  # bytes
_SMALL_BLOCK = 1 << 14
MAX_RETRY_AFTER = 20.0  # seconds that a server may ask for before the next try


class Retries(urllib3.Retry):
    """The tries that are left, and the waits before them: urllib3's rules, within limits that no server can lift.

    They are followed here, not by urllib3's own loop. That one repeats a request as it was, where a file whose transfer
    broke off goes on behind the bytes that are there, and may break off again as long as it gets further. It also reads
    all of a refusal before the next try, however long a server makes it.
    """

    def wait(self, broken: BrokenError) -> Retries | None:
        """Wait until it is time to try again after ``broken``; what is left then, or None if no try is."""
        try:
            left = self.increment()
        except urllib3.exceptions.MaxRetryError:
            return None
        left.sleep(None if broken.answer is None else broken.answer.raw)
        return left

    def get_retry_after(self, response: Any) -> float | None:
        try:
            seconds = super().get_retry_after(response)
        except urllib3.exceptions.InvalidHeader:
            return None
        return None if seconds is None else min(seconds, MAX_RETRY_AFTER)


#: Waits of 2, 4 and 8 s where the server names none: urllib3 does not wait before the second failure in a row, so it
#: is told of one.
RETRIES = Retries(3, backoff_factor=1, history=(urllib3.util.retry.RequestHistory(None, None, None, None, None),))


class TooSlowError(Exception):
    """The transfer is too slow to ever end."""


def session_with_deadlines() -> Session:
    """A session that waits for the beginning of an answer for :data:`ANSWER_SECONDS`, and no longer."""
    import requests

    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, _Adapter())
    return session


def blocks(response: Response, *, decode: bool = False) -> Iterator[bytes]:
    """The bytes of an answer as they come, raw unless ``decode``: of a slow one, too, something is to be seen.

    Raises:
        TooSlowError: there are fewer than :data:`SLOWEST` a second for :data:`SLOW_SECONDS`.
        urllib3.exceptions.HTTPError: it breaks off.
    """
    # One call of read waits until all bytes are there that it asks for; read1, since urllib3 2, takes what there is.
    read = getattr(response.raw, "read1", response.raw.read)
    size = MAX_BLOCK if read != response.raw.read else _SMALL_BLOCK
    began, came = time.monotonic(), 0
    while block := read(size, decode_content=decode):
        now = time.monotonic()
        came += len(block)
        if now - began > SLOW_SECONDS:
            if came < MIN_BYTES_PER_SECOND * (now - began):
                raise TooSlowError(f"{came} bytes in {now - began:.0f} s")
            began, came = now, 0
        yield block


class _Deadline:
    """Mixed into a connection: cuts it where the headers of an answer do not end.

    The timeout of a socket is for one byte. Endless "100 Continue", or headers letter by letter, never reach it.
    """

    sock: Any

    def getresponse(self) -> Any:
        late = threading.Event()
        timer = threading.Timer(ANSWER_SECONDS, _cut, [self.sock, late])
        timer.daemon = True
        timer.start()
        try:
            response = super().getresponse()  # type: ignore[misc]
        finally:
            timer.cancel()
        if late.is_set():  # Python takes headers that break off for all of them
            raise urllib3.exceptions.ProtocolError("the headers of the answer do not end")
        return response


def _cut(sock: socket.socket, late: threading.Event) -> None:
    late.set()
    with contextlib.suppress(OSError, AttributeError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)  # below any encryption, whose own would wait for the server


class _Connection(_Deadline, HTTPConnection):
    pass


class _SecureConnection(_Deadline, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *given: Any, **named: Any) -> None:
        super().init_poolmanager(*given, **named)
        _use_deadlines(self.poolmanager)

    def proxy_manager_for(self, *given: Any, **named: Any) -> Any:
        return _use_deadlines(super().proxy_manager_for(*given, **named))


def _use_deadlines(manager: Any) -> Any:
    if type(manager) in (urllib3.PoolManager, urllib3.ProxyManager):  # a SOCKS proxy has connections of its own
        manager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
    return manager
