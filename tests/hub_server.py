"""A small Hugging Face hub on the loopback address: what the real client asks for, and faults on demand."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_good"
_SHA = re.compile(r"[0-9a-f]{40}")


@dataclass
class Repository:
    """Commits, and where branches and tags are; content is by commit, then by path."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, files: dict[str, bytes], ref: str = "main", message: str = "") -> str:
        """Add files on top of a branch; returns the new commit."""
        content = {**self.commits.get(self.refs.get(ref, ""), {}), **files}
        sha = hashlib.sha1(repr((len(self.commits), ref, sorted(files))).encode()).hexdigest()
        self.commits[sha] = content
        self.refs[ref] = sha
        self.messages.append(message)
        return sha

    def resolve(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.refs.get(revision)


@dataclass
class Request:
    method: str
    path: str
    headers: Message


class Hub:
    """The server's state. ``with hub.running()`` serves it at ``hub.url``, large files at ``hub.storage_url``."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[Request] = []
        #: Bytes after which the next downloads of large files are cut off, one entry each.
        self.cuts: list[int] = []
        #: Answer every request with this status instead.
        self.status: int | None = None
        #: Answer as a login page does: 200, but without what a hub says.
        self.login_page = False
        self.read_only = False
        #: Called before each request is answered.
        self.before: Callable[[Request], None] = lambda request: None
        self.url = self.storage_url = ""

    @contextmanager
    def running(self) -> Iterator[Hub]:
        handler = type("BoundHandler", (Handler,), {"hub": self})
        # Two names are two hosts, as the hub and its storage are: tokens must not travel from one to the other.
        servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
        for server in servers:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        ports = [server.server_address[1] for server in servers]
        self.url, self.storage_url = f"http://127.0.0.1:{ports[0]}", f"http://localhost:{ports[1]}"
        try:
            yield self
        finally:
            for server in servers:
                server.shutdown()
                server.server_close()

    def paths(self, method: str) -> list[str]:
        return [r.path for r in self.requests if r.method == method]


def is_large(path: str) -> bool:
    """Whether the hub keeps a file in its storage instead of in git."""
    return path.endswith((".safetensors", ".bin"))


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def handle_any(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        self.hub.requests.append(Request(self.command, self.path, self.headers))
        self.hub.before(self.hub.requests[-1])
        parts = urlsplit(self.path)
        self.query = parse_qs(parts.query)
        path = parts.path.lstrip("/")
        if self.command == "CONNECT":
            self.send_error(403, "No way through this proxy")
        elif self.hub.status is not None:
            self.answer({"error": "no"}, self.hub.status)
        elif self.hub.login_page:
            self.answer_bytes(b"<html>please log in</html>", {"Content-Type": "text/html"})
        elif self.token not in (None, TOKEN):
            self.refuse(401, "", "Invalid credentials in Authorization header")
        else:
            self.route(path)

    do_GET = do_HEAD = do_POST = do_PUT = do_CONNECT = handle_any  # noqa: N815

    @property
    def token(self) -> str | None:
        value = self.headers.get("Authorization")
        return None if value is None else value.removeprefix("Bearer ")

    def route(self, path: str) -> None:
        routes = [
            (r"storage/(\w+)", self.storage),
            (r"api/repos/create", self.create),
            (r"api/validate-yaml", lambda: self.answer({"errors": [], "warnings": []})),
            (r"api/models/([^/]+/[^/]+)/preupload/(.+)", self.preupload),
            (r"api/models/([^/]+/[^/]+)/commit/(.+)", self.commit),
            (r"api/models/([^/]+/[^/]+)(?:/revision/(.+))?", self.info),
            (r"([^/]+/[^/]+)\.git/info/lfs/objects/batch", self.batch),
            (r"([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.resolve),
        ]
        for pattern, target in routes:
            found = re.fullmatch(pattern, path)
            if found:
                return target(*(g and unquote(g) for g in found.groups()))
        return self.refuse(404, "", "no such page")

    # Answers

    def answer_bytes(self, content: bytes, headers: dict[str, str] | None = None, status: int = 200) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def answer(self, data: Any, status: int = 200) -> None:
        self.answer_bytes(json.dumps(data).encode(), {"Content-Type": "application/json"}, status)

    def refuse(self, status: int, code: str, message: str, **headers: str) -> None:
        named = {"X-Error-Code": code} if code else {}
        self.answer_bytes(b"", {**named, "X-Error-Message": message, **headers}, status)

    def open(self, name: str, *, write: bool = False) -> Repository | None:
        """The repository, if whoever asks may see it; else the refusal has been sent."""
        repository = self.hub.repositories.get(name)
        if write and self.token is None:
            self.refuse(401, "", "Invalid username or password.")
        elif write and self.hub.read_only:
            self.refuse(403, "", "You don't have the rights to write")
        elif repository is None or (repository.private and self.token is None):
            # As on the hub: strangers are not told whether a repository exists.
            if self.token is None:
                self.refuse(401, "", "Invalid username or password.")
            else:
                self.refuse(404, "RepoNotFound", "Repository not found")
        elif repository.gated and self.token is None:
            self.refuse(401, "GatedRepo", "Access to this model is restricted")
        else:
            return repository
        return None

    # Downloads

    def resolve(self, name: str, revision: str, path: str) -> None:
        repository = self.open(name)
        if repository is None:
            return None
        commit = repository.resolve(revision)
        if commit is None:
            return self.refuse(404, "RevisionNotFound", "Invalid rev id")
        content = repository.commits[commit].get(path)
        headers = {"X-Repo-Commit": commit}
        if content is None:
            return self.refuse(404, "EntryNotFound", "Entry not found", **headers)
        if not is_large(path):
            git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            return self.answer_bytes(content, {**headers, "ETag": f'"{git}"'})
        oid = hashlib.sha256(content).hexdigest()
        self.hub.blobs[oid] = content
        headers |= {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(content))}
        return self.answer_bytes(b"", {**headers, "Location": f"{self.hub.storage_url}/storage/{oid}"}, 302)

    def storage(self, oid: str) -> None:
        if self.command == "PUT":
            self.hub.blobs[hashlib.sha256(self.body).hexdigest()] = self.body
            return self.answer_bytes(b"")
        content = self.hub.blobs[oid]
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        part = content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(part)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.hub.cuts:
            self.wfile.write(part[: self.hub.cuts.pop(0)])
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return None
        self.wfile.write(part)
        return None

    def info(self, name: str, revision: str | None) -> None:
        repository = self.open(name)
        if repository is None:
            return None
        commit = repository.resolve(revision or "main")
        if commit is None:
            return self.refuse(404, "RevisionNotFound", "Invalid rev id")
        files = [{"rfilename": path} for path in repository.commits[commit]]
        return self.answer(
            {"id": name, "modelId": name, "sha": commit, "siblings": files, "private": False, "tags": []}
        )

    # Uploads

    def create(self) -> None:
        if self.token is None or self.hub.read_only:
            return self.refuse(403 if self.token else 401, "", "Not allowed")
        data = json.loads(self.body)
        name = f"{data.get('organization') or 'me'}/{data['name']}"
        status = 409 if name in self.hub.repositories else 200
        private = bool(data.get("private")) or data.get("visibility") == "private"
        repository = self.hub.repositories.setdefault(name, Repository(private=private))
        if not repository.commits:
            repository.commit({".gitattributes": b""}, message="initial commit")
        return self.answer({"url": f"{self.hub.url}/{name}", "id": name}, status)

    def preupload(self, name: str, revision: str) -> None:
        repository = self.open(name, write=True)
        if repository is None:
            return None
        if repository.resolve(revision) is None:
            return self.refuse(404, "RevisionNotFound", "Invalid rev id")
        files = json.loads(self.body)["files"]
        modes = [
            {"path": f["path"], "uploadMode": "lfs" if is_large(f["path"]) else "regular", "shouldIgnore": False}
            for f in files
        ]
        return self.answer({"files": modes})

    def batch(self, name: str) -> None:
        if self.open(name, write=True) is None:
            return
        objects = [
            {
                **o,
                "authenticated": True,
                "actions": {"upload": {"href": f"{self.hub.storage_url}/storage/{o['oid']}"}},
            }
            for o in json.loads(self.body)["objects"]
        ]
        self.answer({"transfer": "basic", "objects": objects})

    def commit(self, name: str, revision: str) -> None:
        repository = self.open(name, write=True)
        if repository is None:
            return
        files, summary = {}, ""
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                summary = value["summary"]
            elif item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
        pull_request = "create_pr" in self.query
        if pull_request:
            repository.refs["refs/pr/1"] = repository.refs["main"]
        sha = repository.commit(files, "refs/pr/1" if pull_request else revision, summary)
        answer = {"commitOid": sha, "commitUrl": f"{self.hub.url}/{name}/commit/{sha}"}
        if pull_request:
            answer["pullRequestUrl"] = f"{self.hub.url}/{name}/discussions/1"
        self.answer(answer)
