"""A small Hugging Face hub on this machine: what its client asks for a push and a download, and the answers of the real one.

All files are sent inside of the commit, as the hub lets small ones be; large ones go through a store of their own (Xet).
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

Files = dict[str, bytes]
TOKEN = "hf_of_somebody"


class HubServer(http.server.ThreadingHTTPServer):
    """Repositories by name: their commits in order, as (id, files). Writing takes the token of ``someone``, or is 401 or 403."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, list[tuple[str, Files]]] = {}
        self.private: dict[str, bool] = {}
        self.asked: list[str] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def files(self, name: str) -> Files:
        """Those of the newest commit."""
        return self.repositories[name][-1][1]


@contextmanager
def hub_server() -> Iterator[HubServer]:
    with HubServer() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: HubServer

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        for method, pattern, answer in _ROUTES:
            if method == self.command.replace("HEAD", "GET") and (found := re.fullmatch(pattern, path)):
                answer(self, body, *found.groups())
                return
        self._say({"error": "not found"}, 404)

    do_GET = do_HEAD = do_POST = do_PUT = _answer

    def _say(self, value: Any, code: int = 200, **headers: str) -> None:
        self._send(json.dumps(value).encode(), code, **{"Content-Type": "application/json", **headers})

    def _send(self, data: bytes, code: int = 200, **headers: str) -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _may_write(self, name: str) -> bool:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._say({"error": "Invalid username or password."}, 401)
        elif not name.startswith("someone/"):
            self._say({"error": "You don't have the rights"}, 403)
        else:
            return True
        return False

    def _create(self, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        if not self._may_write(name):
            return
        known = name in self.server.repositories
        if not known:
            self.server.repositories[name] = [(_digest(name.encode(), "sha1"), {".gitattributes": b""})]
            self.server.private[name] = asked.get("visibility") == "private" or bool(asked.get("private"))
        self._say({"url": f"{self.server.endpoint}/{name}", "name": name}, 409 if known else 200)

    def _validate(self, body: bytes) -> None:
        """As the hub does, of the metadata above a model card."""
        metadata = yaml.safe_load(json.loads(body)["content"].split("---")[1])
        wrong = isinstance(metadata, dict) and metadata.get("license") not in (None, "mit", "apache-2.0")
        errors = [{"message": '"license" must be one of apache-2.0, mit'}] if wrong else []
        self._say({"errors": errors, "warnings": []}, 400 if errors else 200)

    def _commit_of(self, name: str, revision: str) -> tuple[str, Files] | None:
        commits = self.server.repositories.get(name, [])
        found = commits[-1:] if revision == "main" else [one for one in commits if one[0] == revision]
        if not found:
            self._say(
                {"error": "Repository not found"},
                404,
                **{"X-Error-Code": "RepoNotFound" if not commits else "RevisionNotFound"},
            )
        return found[0] if found else None

    def _info(self, _: bytes, name: str, revision: str) -> None:
        if commit := self._commit_of(name, revision):
            siblings = [{"rfilename": path} for path in commit[1]]
            self._say(
                {"id": name, "modelId": name, "sha": commit[0], "siblings": siblings, "tags": [], "private": False}
            )

    def _tree(self, _: bytes, name: str, revision: str) -> None:
        if commit := self._commit_of(name, revision):
            entries = [
                {"type": "file", "path": p, "size": len(d), "oid": _digest(d, "sha1")} for p, d in commit[1].items()
            ]
            self._say(entries)

    def _preupload(self, body: bytes, name: str, _: str) -> None:
        if self._may_write(name):
            files = json.loads(body)["files"]
            entries = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]
            self._say({"files": entries})

    def _commit(self, body: bytes, name: str, _: str) -> None:
        if not self._may_write(name):
            return
        files = dict(self.server.files(name))
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        oid = _digest(body + str(len(self.server.repositories[name])).encode(), "sha1")
        self.server.repositories[name].append((oid, files))
        self._say({"commitUrl": f"{self.server.endpoint}/{name}/commit/{oid}", "commitOid": oid, "success": True})

    def _resolve(self, _: bytes, name: str, revision: str, path: str) -> None:
        if (commit := self._commit_of(name, revision)) is None:
            return
        if path not in commit[1]:
            self._say({"error": "Entry not found"}, 404, **{"X-Error-Code": "EntryNotFound"})
            return
        data = commit[1][path]
        self._send(data, ETag=f'"{_digest(data, "sha256")}"', **{"X-Repo-Commit": commit[0]})


_ROUTES: tuple[tuple[str, str, Any], ...] = (
    ("POST", r"/api/repos/create", _Handler._create),
    ("POST", r"/api/validate-yaml", _Handler._validate),
    ("GET", r"/api/models/([^/]+/[^/]+)/revision/(\w+)", _Handler._info),
    ("GET", r"/api/models/([^/]+/[^/]+)/tree/(\w+)", _Handler._tree),
    ("POST", r"/api/models/([^/]+/[^/]+)/preupload/(\w+)", _Handler._preupload),
    ("POST", r"/api/models/([^/]+/[^/]+)/commit/(\w+)", _Handler._commit),
    ("GET", r"/([^/]+/[^/]+)/resolve/(\w+)/(.+)", _Handler._resolve),
)


def _digest(data: bytes, kind: str) -> str:
    return hashlib.new(kind, data).hexdigest()
