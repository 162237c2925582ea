"""A stand-in of the Hugging Face Hub on the loopback: lists and gives files, makes repositories, takes commits."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.serving import serve_in_thread

TOKEN = "hf_SECRETsecretSECRET"


@dataclass
class Repository:
    files: dict[str, bytes] = field(default_factory=dict)
    private: bool = False

    @property
    def commit(self) -> str:
        return hashlib.sha1(repr(sorted(self.files.items())).encode(), usedforsecurity=False).hexdigest()


@dataclass
class HubStandIn:
    """What the Hub holds, and what it was asked: ``(method, path, token that came with it)``."""

    url: str = ""
    files_url: str = ""  # of the other server, which gives large files
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)  # large files that were sent, by their sha256
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    readers: frozenset[str] = frozenset({TOKEN})  # tokens that see private repositories
    writers: frozenset[str] = frozenset({TOKEN})
    fail: dict[str, tuple[int, str]] = field(default_factory=dict)  # answers by the beginning of the path
    answers: dict[str, bytes] = field(default_factory=dict)  # what is no refusal, likewise
    break_after: int | None = None  # bytes of a file after which the connection is closed, once

    def paths(self, method: str) -> list[str]:
        return [path for asked, path, _ in self.asked if asked == method]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"

    @property
    def hub(self) -> HubStandIn:
        return self.server.hub  # type: ignore[attr-defined]

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the tests quiet."""

    def say(self, status: int, body: bytes | dict[str, Any] | list[Any] = b"", **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def refuse(self, status: int, message: str) -> None:
        codes = {401: "RepoNotFound", 404: "EntryNotFound"}
        self.say(status, {"error": message}, X_Error_Message=message, X_Error_Code=codes.get(status, "Error"))

    def begin(self, method: str) -> tuple[str, str | None, bool]:
        """The path, the token, and whether the answer was given already."""
        path = unquote(urlsplit(self.path).path)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        self.hub.asked.append((method, path, token))
        for start, (status, message) in self.hub.fail.items():
            if path.startswith(start):
                self.refuse(status, message.replace("TOKEN", token or ""))
                return path, token, True
        for start, answer in self.hub.answers.items():
            if path.startswith(start):
                self.say(200, answer)
                return path, token, True
        return path, token, False

    def find(self, repo: str, token: str | None) -> Repository | None:
        found = self.hub.repositories.get(repo)
        if found is None or (found.private and token not in self.hub.readers):
            self.refuse(401, "Invalid username or password.")
            return None
        return found

    def do_GET(self) -> None:
        path, token, done = self.begin("GET")
        if done:
            return
        parts = path.strip("/").split("/")
        if parts[0] == "cdn":
            self.give(self.hub.objects[parts[1]])
        elif parts[:2] == ["api", "models"]:
            found = self.find("/".join(parts[2:4]), token)
            if found is not None:
                self.say(200, self.listing("/".join(parts[2:4]), found), Content_Type="application/json")
        elif len(parts) > 4 and parts[2] == "resolve":
            found = self.find("/".join(parts[:2]), token)
            if found is None:
                return
            data = found.files.get("/".join(parts[4:]))
            if data is None:
                self.refuse(404, "Entry not found")
            elif parts[-1].endswith(".md"):
                self.say(200, data)
            else:  # large files lie on another host
                digest = hashlib.sha256(data).hexdigest()
                self.hub.objects[digest] = data
                self.say(302, Location=f"{self.hub.files_url}/cdn/{digest}")
        else:
            self.refuse(404, "Not found")

    def listing(self, repo: str, found: Repository) -> dict[str, Any]:
        siblings = []
        for name, data in found.files.items():
            entry: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": "0" * 40}
            if not name.endswith(".md"):
                entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
            siblings.append(entry)
        return {"id": repo, "modelId": repo, "sha": found.commit, "private": found.private, "siblings": siblings,
                "tags": [], "downloads": 0, "likes": 0, "gated": False, "disabled": False}  # fmt: skip

    def give(self, data: bytes) -> None:
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("ETag", '"one"')
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        stop, self.hub.break_after = self.hub.break_after, None
        self.wfile.write(data[start:stop])

    def do_POST(self) -> None:
        path, token, done = self.begin("POST")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if done:
            return
        if path == "/api/validate-yaml":
            return self.say(200, {"errors": [], "warnings": []}, Content_Type="application/json")
        if token not in self.hub.writers:
            return self.refuse(403, "This token may not write.")
        if path == "/api/repos/create":
            values = json.loads(body)
            owner, name = values.get("organization") or "me", values["name"]
            private = values.get("private") is True or values.get("visibility") == "private"
            self.hub.repositories[f"{owner}/{name}"] = Repository(private=private)
            return self.say(200, {"url": f"{self.hub.url}/{owner}/{name}"}, Content_Type="application/json")
        parts = path.strip("/").split("/")
        if path.endswith("/info/lfs/objects/batch"):
            objects = [self.upload_action(each) for each in json.loads(body)["objects"]]
            return self.say(200, {"transfer": "basic", "objects": objects}, Content_Type="application/json")
        repo = self.hub.repositories.get("/".join(parts[2:4]))
        if repo is None:
            return self.refuse(401, "Invalid username or password.")
        if parts[4] == "preupload":
            modes = [
                {"path": each["path"], "uploadMode": "regular" if each["path"].endswith(".md") else "lfs",
                 "shouldIgnore": False, "oid": None}
                for each in json.loads(body)["files"]
            ]  # fmt: skip
            return self.say(200, {"files": modes}, Content_Type="application/json")
        for line in body.decode().splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                repo.files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                repo.files[value["path"]] = self.hub.objects[value["oid"]]
        url = f"{self.hub.url}/{'/'.join(parts[2:4])}/commit/{repo.commit}"
        return self.say(
            200, {"success": True, "commitOid": repo.commit, "commitUrl": url, "hookOutput": ""},
            Content_Type="application/json",
        )  # fmt: skip

    def upload_action(self, each: dict[str, Any]) -> dict[str, Any]:
        href = f"{self.hub.url}/upload/{each['oid']}"
        return {**each, "authenticated": True, "actions": {"upload": {"href": href, "header": {}}}}

    def do_PUT(self) -> None:
        path, _, done = self.begin("PUT")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if not done:
            digest = path.rpartition("/")[2]
            assert hashlib.sha256(body).hexdigest() == digest
            self.hub.objects[digest] = body
            self.say(200)


@contextmanager
def serving() -> Iterator[HubStandIn]:
    """A stand-in that answers as long as the block runs; large files come from another port, as from another host."""
    hub = HubStandIn()
    with ExitStack() as stack:
        urls = []
        for _ in range(2):
            http = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), _Handler))
            http.hub = hub  # type: ignore[attr-defined]
            stack.enter_context(serve_in_thread(http))
            urls.append(f"http://127.0.0.1:{http.server_port}")
        hub.url, hub.files_url = urls
        yield hub
