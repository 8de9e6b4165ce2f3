"""A hub on the loopback: enough of the Hugging Face hub's protocol for its client to read from it and commit to it.

Model info, the tree in pages, files by resolve (small ones as they are, large ones by a redirect to the store of large
objects, with ETags), making a repository, the upload of large objects by the LFS batch, the commit of lines of JSON.
It remembers what it was asked for.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from huggingface_hub import constants

from unmix.interop import hub as hub_of_ours

LARGE = 1_000  # bytes: from there on a file is a large object
PAGE = 3  # entries of a tree in an answer
TOKEN = "hf_loopback"


@dataclass
class Repo:
    """A repository of models."""

    files: dict[str, bytes] = field(default_factory=dict)
    private: bool = False
    gated: bool = False
    commits: list[dict[str, bytes]] = field(default_factory=list)

    @property
    def sha(self) -> str:
        names = "".join(f"{name}{hashlib.sha1(content).hexdigest()}" for name, content in sorted(self.files.items()))
        return hashlib.sha1(names.encode()).hexdigest()


class Hub:
    """The server, and what it holds. `with Hub() as hub` starts it at `hub.url`."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.asked: list[tuple[str, str]] = []
        """(method, path) of every request."""
        self.headers: list[dict[str, str]] = []
        self.gone = False
        self.refuse: Callable[[str, str], int | None] = lambda method, path: None
        """A status to answer a request with."""

    def __enter__(self) -> Hub:
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.store = f"http://localhost:{self._server.server_port}/objects"  # another host, as with the real one
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop, on connections that are kept open too; again does nothing."""
        self.gone = True
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def downloaded(self) -> set[str]:
        """The files that were fetched, by their paths in their repositories."""
        return {unquote(path.split("/resolve/")[1].split("/", 1)[1]) for how, path in self.asked if "/resolve/" in path}


@contextmanager
def loopback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty hub that the client talks to, with an empty cache; and an empty folder to stand in."""
    with Hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
        # its client reads the environment when it is imported, which may have been long ago
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
        monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between the client's attempts
        monkeypatch.setattr(hub_of_ours, "_said", set())
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        yield server


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        if self.hub.gone:
            self.close_connection = True
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        self.hub.asked.append((self.command, url.path))
        self.hub.headers.append(dict(self.headers))
        if (status := self.hub.refuse(self.command, url.path)) is not None:
            self._json({"error": f"refused with {status}"}, status)
            return
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        if parts[:2] == ["api", "models"]:
            self._api(parts[2:], query, body)
        elif parts == ["api", "repos", "create"]:
            self._create(json.loads(body))
        elif parts == ["api", "validate-yaml"]:
            self._json({"errors": [], "warnings": []})
        elif parts[0] == "objects":
            self._object(parts[1], body)
        elif parts[-3:] == ["lfs", "objects", "batch"]:
            self._batch(json.loads(body))
        elif len(parts) > 4 and parts[2] == "resolve":
            self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        else:
            self._json({"error": "no such page"}, 404)

    def _send(self, content: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, value: Any, status: int = 200, **headers: str) -> None:
        self._send(json.dumps(value).encode(), status, Content_Type="application/json", **headers)

    def _error(self, status: int, code: str) -> None:
        self._json({"error": code}, status, X_Error_Code=code, X_Error_Message=code)

    def _repo(self, name: str, revision: str = "main") -> Repo | None:
        """The repository, or None after an error was sent."""
        repo = self.hub.repos.get(name)
        may = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repo is None or (repo.private and not may):
            self._error(404 if may else 401, "RepoNotFound")
        elif repo.gated and not may:
            self._error(403, "GatedRepo")
        elif revision not in ("main", "v1") and len(revision) != 40:
            self._error(404, "RevisionNotFound")
        else:
            return repo
        return None

    def _api(self, parts: list[str], query: dict[str, str], body: bytes) -> None:
        name, verb = "/".join(parts[:2]), parts[2] if len(parts) > 2 else "revision"
        revision = parts[3] if len(parts) > 3 else "main"
        if (repo := self._repo(name, revision)) is None:
            return
        if verb == "revision":
            siblings = [{"rfilename": path} for path in repo.files]
            facts = {"id": name, "modelId": name, "sha": repo.sha, "private": repo.private, "gated": repo.gated}
            self._json({**facts, "siblings": siblings, "tags": [], "disabled": False})
        elif verb == "tree":
            self._tree(repo, query)
        elif verb == "preupload":
            files = [
                {"path": one["path"], "uploadMode": "lfs" if one["size"] >= LARGE else "regular", "shouldIgnore": False}
                for one in json.loads(body)["files"]
            ]
            self._json({"files": files})
        elif verb == "commit":
            self._commit(name, repo, [json.loads(line) for line in body.splitlines()])

    def _tree(self, repo: Repo, query: dict[str, str]) -> None:
        folders = {"/".join(name.split("/")[:n]) for name in repo.files for n in range(1, name.count("/") + 1)}
        entries: list[dict[str, Any]] = [{"type": "directory", "path": one, "oid": "0" * 40} for one in sorted(folders)]
        for path, content in sorted(repo.files.items()):
            entry = {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            large = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
            entries.append(entry | ({"lfs": large} if len(content) >= LARGE else {}))
        start = int(query.get("cursor", "0"))
        more = {}
        if start + PAGE < len(entries):
            here = f"{self.hub.url}{urlsplit(self.path).path}?recursive=True&cursor={start + PAGE}"
            more["Link"] = f'<{here}>; rel="next"'
        self._json(entries[start : start + PAGE], **more)

    def _file(self, name: str, revision: str, path: str) -> None:
        if (repo := self._repo(name, revision)) is None:
            return
        if path not in repo.files:
            self._error(404, "EntryNotFound")
            return
        content, commit = repo.files[path], revision if len(revision) == 40 else repo.sha
        if len(content) < LARGE:
            self._send(content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', X_Repo_Commit=commit)
            return
        oid = hashlib.sha256(content).hexdigest()
        self.hub.objects[oid] = content
        linked = {"X_Linked_Etag": f'"{oid}"', "X_Linked_Size": str(len(content)), "X_Repo_Commit": commit}
        self._send(b"", 302, Location=f"{self.hub.store}/{oid}", ETag=f'"{oid}"', **linked)

    def _object(self, oid: str, body: bytes) -> None:
        if self.command == "PUT":
            assert hashlib.sha256(body).hexdigest() == oid
            self.hub.objects[oid] = body
            self._send(b"")
        else:
            self._send(self.hub.objects[oid], ETag=f'"{oid}"')

    def _create(self, asked: dict[str, Any]) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._json({"error": "Invalid username or password."}, 401)
            return
        name = f"{asked['organization']}/{asked['name']}"
        private = asked.get("private") is True or asked.get("visibility") == "private"
        status = 409 if name in self.hub.repos else 200
        self.hub.repos.setdefault(name, Repo(private=private))
        self._json({"url": f"{self.hub.url}/{name}", "name": name}, status)

    def _batch(self, asked: dict[str, Any]) -> None:
        objects = [
            {**one, "actions": {"upload": {"href": f"{self.hub.store}/{one['oid']}"}}} for one in asked["objects"]
        ]
        self._json({"transfer": "basic", "objects": objects})

    def _commit(self, name: str, repo: Repo, lines: list[dict[str, Any]]) -> None:
        head = next(line["value"] for line in lines if line["key"] == "header")
        if head.get("parentCommit") not in (None, repo.sha):
            self._json({"error": "the branch has moved"}, 412)
            return
        small = {
            line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"
        }
        large = {
            line["value"]["path"]: self.hub.objects[line["value"]["oid"]] for line in lines if line["key"] == "lfsFile"
        }
        repo.commits.append(small | large)
        repo.files.update(small | large)
        self._json({"commitOid": repo.sha, "commitUrl": f"{self.hub.url}/{name}/commit/{repo.sha}", "success": True})
