"""A hub of one's own: an HTTP server that speaks as much of the Hugging Face hub as we use.

It serves `/api/models/…` and `/…/resolve/…` as the real one does: commits, hashes as ETags, Range,
and errors in `X-Error-Code`. It remembers what it was asked.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

PAUSE = 0.05  # seconds between twentieths of an answer that will stall, so that a bar is seen


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    path: str
    range: str | None


@dataclass
class Repo:
    """A repository: the files of each commit, and which commit a branch or tag stands for."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    gated: bool = False

    def commit(self, files: dict[str, bytes], *refs: str) -> str:
        """Add a commit and let branches or tags stand for it; returns its hash."""
        sha = hashlib.sha1(repr((len(self.commits), sorted(files))).encode()).hexdigest()
        self.commits[sha] = files
        self.refs |= dict.fromkeys(refs or ("main",), sha)
        return sha


class FakeHub:
    """The repositories, and what was asked of them."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.asked: list[Asked] = []
        self.broken = 0  # answers with weights that are still to be cut off half-way
        self.stalls = False  # whether an answer with weights stops half-way and says nothing more
        self.stalled = threading.Event()
        self.closing = threading.Event()
        self.url = ""

    def add(self, name: str, files: dict[str, bytes], *refs: str) -> str:
        """Commit files to a repository, new or not; returns the commit."""
        return self.repos.setdefault(name, Repo()).commit(files, *refs)

    def fetched(self, ending: str) -> list[Asked]:
        """The downloads so far of files with this ending."""
        return [one for one in self.asked if one.method == "GET" and one.path.endswith(ending)]


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _serve(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(Asked(self.command, path, self.headers.get("Range")))
        words = path.strip("/").split("/")
        api = words[:2] == ["api", "models"]
        owner, name, verb, *rest = [*(words[2:] if api else words), "", "", ""][: len(words) + 3]
        repo = self.hub.repos.get(f"{owner}/{name}")
        if repo is None:
            return self._refuse(401, "RepoNotFound", "Invalid username or password.")
        rest = [word for word in rest if word]
        if verb == "resolve":
            return self._file(repo, rest[0], "/".join(rest[1:]))
        revision = "/".join(rest)
        sha = repo.refs.get(revision, revision)
        if sha not in repo.commits:
            return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if verb == "tree":
            return self._json([entry(*item) for item in repo.commits[sha].items()])
        return self._json({"id": f"{owner}/{name}", "sha": sha, "siblings": []})

    def _file(self, repo: Repo, revision: str, file: str) -> None:
        if repo.gated:
            return self._refuse(401, "GatedRepo", "Access is restricted. You must log in.")
        sha = repo.refs.get(revision, revision)
        body = repo.commits.get(sha, {}).get(file)
        if body is None:
            return self._refuse(404, "EntryNotFound", "Entry not found")
        about = {"X-Repo-Commit": sha, "ETag": f'"{digest(file, body)}"', "Accept-Ranges": "bytes"}
        wanted, total = self.headers.get("Range"), len(body)
        start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
        if wanted:
            about["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
        self._answer(206 if wanted else 200, body[start:], about, large=is_large(file))

    def _json(self, value: object) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._answer(status, b"", {"X-Error-Code": code, "X-Error-Message": message})

    def _answer(
        self, status: int, body: bytes, headers: dict[str, str], large: bool = False
    ) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if large and (self.hub.stalls or self.hub.broken):
            for start in range(0, len(body) // 2, len(body) // 20):
                self.wfile.write(body[start : min(start + len(body) // 20, len(body) // 2)])
                self.wfile.flush()
                self.hub.closing.wait(PAUSE if self.hub.stalls else 0)
            if self.hub.stalls:
                self.hub.stalled.set()
                self.hub.closing.wait(60)
            self.hub.broken = max(0, self.hub.broken - 1)
            self.close_connection = True
            return
        self.wfile.write(body)


def is_large(file: str) -> bool:
    return file.endswith(".safetensors")


def digest(file: str, body: bytes) -> str:
    """What the hub calls a file: by SHA-256 where it is large, by git's SHA-1 otherwise."""
    git = b"blob %d\0" % len(body) + body
    return hashlib.sha256(body).hexdigest() if is_large(file) else hashlib.sha1(git).hexdigest()


def entry(file: str, body: bytes) -> dict[str, object]:
    """One line of the list of a commit's files."""
    entry = {"type": "file", "path": file, "size": len(body), "oid": digest(file, body)}
    if is_large(file):
        entry["lfs"] = {"oid": digest(file, body), "size": len(body), "pointerSize": 134}
    return entry


@contextmanager
def running() -> Iterator[FakeHub]:
    """A hub on a free port of this machine, until the end of the block."""
    hub = FakeHub()
    handler = type("OfThisHub", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        hub.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
