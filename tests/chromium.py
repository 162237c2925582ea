"""Drives a headless Chromium by its DevTools protocol, over pipes: no library is needed."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
SECONDS = 60.0

#: For tests that need a browser.
needs_chromium = pytest.mark.skipif(
    PROGRAM is None or sys.platform == "win32", reason="needs Chromium on the PATH, and pipes with given numbers"
)


class Page:
    """One tab."""

    def __init__(self, process: subprocess.Popen[bytes], into: int, out: int) -> None:
        self._process, self._into, self._out = process, into, out
        self._numbers, self._rest, self._session = itertools.count(1), b"", ""
        #: Messages of uncaught errors and of failed requests.
        self.errors: list[str] = []
        self.restart()

    def restart(self) -> None:
        """Begin anew, as another user would: with an empty tab, and nothing stored."""
        self._session = ""
        context = self.command("Target.createBrowserContext")["browserContextId"]
        target = self.command("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        self._session = self.command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.command(f"{domain}.enable")
        self.command("Page.bringToFront")  # what is hidden is not painted
        self.command("Emulation.setFocusEmulationEnabled", enabled=True)
        self.errors.clear()

    def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._into, json.dumps(message).encode() + b"\0")
        while True:
            reply = self._read()
            if reply.get("id") == number:
                if "error" in reply:
                    raise RuntimeError(f"{method}: {reply['error']}")
                result: dict[str, Any] = reply["result"]
                return result
            self._note(reply)

    def open(self, address: str, width: int = 1440, height: int = 1000, *, dark: bool = False) -> None:
        """Open an address in a window of that size, and wait until its scripts have run."""
        self.resize(width, height)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.command("Emulation.setEmulatedMedia", features=scheme)
        self.command("Page.navigate", url="about:blank")
        self.command("Page.navigate", url=address)
        self.wait_for("location.href !== 'about:blank' && document.readyState === 'complete'")

    def resize(self, width: int, height: int) -> None:
        """Change the size; a narrow one is a phone's."""
        phone = width < 600
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone
        )
        self.command("Emulation.setTouchEmulationEnabled", enabled=phone)

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression; a promise is waited for."""
        reply = self.command("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in reply:
            raise RuntimeError(str(reply["exceptionDetails"])[:500])
        return reply["result"].get("value")

    def wait_for(self, script: str) -> Any:
        """Wait until an expression is true, and return its value."""
        end = time.monotonic() + SECONDS
        while not (value := self.evaluate(f"(() => {{ try {{ return {script} }} catch {{ return null }} }})()")):
            if time.monotonic() > end:
                raise TimeoutError(f"{script}; errors of the page: {self.errors}")
            time.sleep(0.02)
        return value

    def press(self, key: str) -> None:
        """Press a key."""
        text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
        self.command("Input.dispatchKeyEvent", type="keyDown", key=key, **_code(key), **text)
        self.command("Input.dispatchKeyEvent", type="keyUp", key=key, **_code(key))

    def mouse(self, kind: str, x: float, y: float) -> None:
        """``mouseMoved``, ``mousePressed`` or ``mouseReleased``."""
        button = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
        self.command("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button)

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """Save a PNG of the window, or of the whole page."""
        data = self.command("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def _read(self) -> dict[str, Any]:
        end = time.monotonic() + SECONDS
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._out], [], [], max(0.0, end - time.monotonic()))
            data = os.read(self._out, 1 << 20) if ready else b""
            if not data:
                raise TimeoutError("Chromium does not answer")
            self._rest += data
        message, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found

    def _note(self, message: dict[str, Any]) -> None:
        if message.get("method") == "Runtime.exceptionThrown":
            self.errors.append(str(message["params"]["exceptionDetails"].get("exception", {}).get("description")))
        elif message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
            self.errors.append(message["params"]["entry"]["text"])


_CODES = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Tab": 9, "Enter": 13, "Escape": 27}


def _code(key: str) -> dict[str, int]:
    return {"windowsVirtualKeyCode": _CODES[key]} if key in _CODES else {}


@contextlib.contextmanager
def chromium(folder: Path) -> Iterator[Page]:
    """A browser with one tab, whose profile lies in ``folder``."""
    assert PROGRAM is not None
    read_end, into = os.pipe()
    out, write_end = os.pipe()

    def place_pipes() -> None:
        # Chromium reads commands from 3 and writes replies to 4; the copies keep either from closing the other.
        given, written = os.dup(read_end), os.dup(write_end)
        os.dup2(given, 3)
        os.dup2(written, 4)

    words = [PROGRAM, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
    words += ["--no-first-run", "--disable-extensions", f"--user-data-dir={folder / 'profile'}", "about:blank"]
    process = subprocess.Popen(
        words, preexec_fn=place_pipes, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(read_end)
    os.close(write_end)
    try:
        yield Page(process, into, out)
    finally:
        process.kill()
        process.wait()
        os.close(into)
        os.close(out)
