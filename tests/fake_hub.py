"""A Hugging Face hub on 127.0.0.1 that serves folders, as far as `huggingface_hub` asks: repository, tree and files.

What it answers, headers and error codes included, follows what the library's `hf_api.py`, `file_download.py` and
`utils/_http.py` request and read.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

INVALID = "Invalid credentials in Authorization header"
KINDS = {"models": "model", "datasets": "dataset"}


@dataclass
class Repo:
    """Commits by their 40 digits, and what the branches point to. A gated one tells about itself and gives no file."""

    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)


class FakeHub:
    """with FakeHub() as hub: hub.put("model", "org/name", folder); programs run with hub.environment(home)."""

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.requests: list[str] = []  # method and path of each
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> FakeHub:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """From here on the port is closed."""
        self.server.shutdown()
        self.server.server_close()

    def put(self, kind: str, name: str, folder: Path, *, branch: str = "main", gated: bool = False) -> str:
        """Commits the files of `folder`, moves `branch` there, and returns the commit."""
        files = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
        repo = self.repos.setdefault((kind, name), Repo())
        commit = hashlib.sha1(repr([name, files]).encode()).hexdigest()
        repo.commits[commit], repo.refs[branch], repo.gated = files, commit, gated
        return commit

    def environment(self, home: Path, **other: str) -> dict[str, str]:
        """Environment variables of a program that knows this hub only, with its cache under `home`."""
        mine = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))}
        no_proxy = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        return mine | no_proxy | {"HF_ENDPOINT": self.url, "HF_HOME": str(home)} | other


class _Missing(Exception):
    """Status and X-Error-Code."""


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer()

        def do_HEAD(self) -> None:
            self._answer()

        def log_message(self, *_: Any) -> None:
            pass

        def _answer(self) -> None:
            path = unquote(urlsplit(self.path).path).strip("/")
            hub.requests.append(f"{self.command} {path}")
            try:
                if self.headers["Authorization"] == "Bearer wrong":
                    raise _Missing(401, "")
                headers, body = _respond(hub, path)
                status = 200
            except _Missing as missing:
                (status, code), body = missing.args, b'{"error": "no"}'
                headers = {"X-Error-Code": code} if code else {"X-Error-Message": INVALID}
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

    return Handler


def _respond(hub: FakeHub, path: str) -> tuple[dict[str, str], bytes]:
    """/api/<kind>s/<id>[/revision/<rev> | /tree/<rev>], and [datasets/]<id>/resolve/<rev>/<file>."""
    api, parts = path.startswith("api/"), path.removeprefix("api/").split("/")
    kind = KINDS[parts.pop(0)] if parts[0] in KINDS else "model"
    name, what, rest = "/".join(parts[:2]), *(parts[2:3] or ["revision"]), parts[3:] or ["main"]
    repo = hub.repos.get((kind, name))
    if repo is None:
        raise _Missing(401, "RepoNotFound")  # what the hub says of missing and private ones to those not logged in
    commit = repo.refs.get(rest[0], rest[0])
    if commit not in repo.commits:
        raise _Missing(404, "RevisionNotFound")
    files = repo.commits[commit]
    if api:
        siblings = [{"rfilename": f} for f in files]
        tree = [{"type": "file", "path": f, "size": len(b), "oid": _blob_id(b)} for f, b in files.items()]
        about = {"id": name, "sha": commit, "private": False, "tags": [], "downloads": 0, "siblings": siblings}
        answer = {"revision": about, "tree": tree}[what]
        return {"Content-Type": "application/json"}, json.dumps(answer).encode()
    if repo.gated:
        raise _Missing(401, "GatedRepo")
    assert what == "resolve"
    content = files.get("/".join(rest[1:]))
    if content is None:
        raise _Missing(404, "EntryNotFound")
    return {"X-Repo-Commit": commit, "ETag": f'"{_blob_id(content)}"'}, content


def _blob_id(content: bytes) -> str:
    """Git's id of a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
