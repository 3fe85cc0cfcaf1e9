"""A hub on this machine: the few addresses that huggingface_hub asks for to publish and fetch a model."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

TOKEN = "hf_standin"
LARGE = (".safetensors", ".onnx")
"""Files that go through LFS, as by the hub's own .gitattributes."""


@dataclass
class Hub:
    """The published files, by repository and path, and the requests."""

    address: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    visibility: dict[str, str | None] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)  # uploaded, but of no commit yet, by their SHA-256
    refusal: int = 0  # status that every change is answered with
    full: bool = False
    licences: dict[str, str] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)

    def head(self, repo: str) -> str:
        return hashlib.sha1(repr(sorted(self.files[repo].items())).encode()).hexdigest()


@contextmanager
def serve() -> Iterator[Hub]:
    """Serve an empty hub on a port of this machine."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *arguments: Any) -> None:
        """Keep the tests' output clean."""

    def do_POST(self) -> None:
        path, body = self._start()
        if path == "/api/validate-yaml":
            return self._answer({"errors": [], "warnings": []})
        signed_in = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if status := self.hub.refusal or (0 if signed_in else 401):
            return self._answer({"error": "the stand-in refuses"}, status)
        for pattern, answer in (
            (r"/api/repos/(create)", self._create),
            (r"/api/models/(.+)/preupload/main", self._preupload),
            (r"/(.+)\.git/info/lfs/objects/batch", self._batch),
            (r"/api/models/(.+)/commit/main", self._commit),
        ):
            if found := re.fullmatch(pattern, path):
                return answer(found[1], [json.loads(line) for line in body.splitlines()])
        return self._answer({"error": f"POST {path} is unknown"}, 501)

    def do_PUT(self) -> None:
        path, body = self._start()
        oid = path.rpartition("/")[2]
        if self.hub.full:
            return self._answer({"error": "no room"}, 507)
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.objects[oid] = body
        return self._answer({})

    def do_GET(self) -> None:
        path, _ = self._start()
        for pattern, answer in (
            (r"/api/models/(.+?)/revision/[\w.]+", self._about),
            (r"/api/models/(.+?)/tree/\w+", self._tree),
            (r"/api/(?:models|datasets)/(.+)", self._about),
            (r"/(.+?)/resolve/[\w.]+/(.+)", self._file),
        ):
            if (found := re.fullmatch(pattern, path)) and found[1] in self.hub.files:
                return answer(*found.groups())
        return self._missing()

    do_HEAD = do_GET  # noqa: N815

    def _start(self) -> tuple[str, bytes]:
        path = urlsplit(self.path).path
        self.hub.seen.append(f"{self.command} {path}")
        return path, self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _create(self, _: str, lines: list[dict[str, Any]]) -> None:
        (asked,) = lines
        repo = f"{asked.get('organization') or 'me'}/{asked['name']}"
        url = {"url": f"{self.hub.address}/{repo}"}
        if repo in self.hub.files:
            return self._answer(url | {"error": "exists"}, 409)
        self.hub.files[repo], self.hub.visibility[repo] = {}, asked.get("visibility")
        return self._answer(url)

    def _preupload(self, repo: str, lines: list[dict[str, Any]]) -> None:
        (asked,) = lines
        if repo not in self.hub.files:
            return self._missing()
        modes = {file["path"]: "lfs" if file["path"].endswith(LARGE) else "regular" for file in asked["files"]}
        files = [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes.items()]
        return self._answer({"files": files})

    def _batch(self, _: str, lines: list[dict[str, Any]]) -> None:
        (asked,) = lines
        href = f"{self.hub.address}/objects/"
        objects = [{**one, "actions": {"upload": {"href": href + one["oid"]}}} for one in asked["objects"]]
        self._answer({"transfer": "basic", "objects": objects})

    def _commit(self, repo: str, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.hub.messages.append(value["summary"])
            elif line["key"] == "file":
                self.hub.files[repo][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.hub.files[repo][value["path"]] = self.hub.objects[value["oid"]]
        oid = self.hub.head(repo)
        self._answer({"commitUrl": f"{self.hub.address}/{repo}/commit/{oid}", "commitOid": oid})

    def _about(self, repo: str) -> None:
        about = {"id": repo, "sha": self.hub.head(repo), "siblings": [], "tags": []}
        self._answer(about | {"cardData": {"license": self.hub.licences.get(repo)}})

    def _tree(self, repo: str) -> None:
        files = self.hub.files[repo].items()
        entries = [{"type": "file", "path": n, "size": len(c), "oid": hashlib.sha1(c).hexdigest()} for n, c in files]
        self._answer(entries)

    def _file(self, repo: str, path: str) -> None:
        if path not in self.hub.files[repo]:
            return self._answer({"error": "no such file"}, 404, {"X-Error-Code": "EntryNotFound"})
        content = self.hub.files[repo][path]
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": self.hub.head(repo)}
        return self._send(200, content, headers)

    def _missing(self) -> None:
        self._answer({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})

    def _answer(self, body: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(body).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
