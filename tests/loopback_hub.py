"""A Hugging Face hub on the loopback, with as much of its API as ``datasets`` needs to stream a data set."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlparse

Repositories = Mapping[str, Mapping[str, Mapping[str, bytes]]]
"""Repository id → revision → path → content."""


@contextmanager
def serving(repositories: Repositories) -> Iterator[tuple[str, list[str]]]:
    """The hub's address, and the requests it has had so far (method and path)."""
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.answer()

        def do_HEAD(self) -> None:
            self.answer()

        def do_POST(self) -> None:
            self.answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

        def answer(self, body: bytes = b"") -> None:
            path = unquote(urlparse(self.path).path)
            requests.append(f"{self.command} {path}")
            for id, revisions in repositories.items():
                if path.startswith(f"/datasets/{id}/resolve/"):
                    return self.file(revisions, path.removeprefix(f"/datasets/{id}/resolve/"))
                if path == f"/api/datasets/{id}" or path.startswith(f"/api/datasets/{id}/"):
                    return self.api(id, revisions, path.removeprefix(f"/api/datasets/{id}").strip("/"), body)
            return self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

        def file(self, revisions: Mapping[str, Mapping[str, bytes]], rest: str) -> None:
            name, files, path = found(revisions, rest)
            if path not in files:
                return self.send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit(name)})
            content = files[path]
            headers = {"X-Repo-Commit": commit(name), "ETag": f'"{etag(content)}"', "Accept-Ranges": "bytes"}
            status, (first, _, last) = 200, (self.headers.get("Range") or "").removeprefix("bytes=").partition("-")
            if first:
                begin, end = int(first), min(int(last or len(content) - 1), len(content) - 1)
                headers["Content-Range"] = f"bytes {begin}-{end}/{len(content)}"
                status, content = 206, content[begin : end + 1]
            return self.send(status, content, headers)

        def api(self, id: str, revisions: Mapping[str, Mapping[str, bytes]], rest: str, body: bytes) -> None:
            what, _, rest = rest.partition("/")
            name, files, folder = found(revisions, rest or "main")
            if what == "tree":
                everything = "recursive=true" in self.path.lower()
                entries = listing(files, folder, everything)
                if not entries:
                    return self.send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
                return self.send(200, json.dumps(entries).encode())
            if what == "paths-info":
                wanted = json.loads(body)["paths"] if body[:1] == b"{" else parse_qs(body.decode()).get("paths", [])
                entries = [entry for entry in listing(files, "", True) if entry["path"] in wanted]
                return self.send(200, json.dumps(entries).encode())
            siblings = [{"rfilename": path} for path in files]
            about = {"id": id, "sha": commit(name), "siblings": siblings, "private": False, "tags": [], "downloads": 0}
            return self.send(200, json.dumps(about).encode())

        def send(self, status: int, content: bytes, headers: Mapping[str, str] | None = None) -> None:
            self.send_response(status)
            for key, value in {"Content-Type": "application/json", **(headers or {})}.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    def found(revisions: Mapping[str, Mapping[str, bytes]], rest: str) -> tuple[str, Mapping[str, bytes], str]:
        """The revision that a path begins with, its files, and what follows it."""
        for name, files in revisions.items():
            for spelled in (name, commit(name)):
                if rest == spelled or rest.startswith(f"{spelled}/"):
                    return name, files, rest.removeprefix(spelled).strip("/")
        return "main", {}, rest

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def listing(files: Mapping[str, bytes], folder: str, everything: bool) -> list[dict[str, object]]:
    """The entries of a folder, of those below it, too, where everything is asked for."""
    prefix = f"{folder}/" if folder else ""
    entries: dict[str, dict[str, object]] = {}
    for path, content in files.items():
        if path.startswith(prefix):
            parts = path.removeprefix(prefix).split("/")
            for depth in range(1, len(parts)):
                below = prefix + "/".join(parts[:depth])
                if everything or depth == 1:
                    entries[below] = {"type": "directory", "oid": etag(below.encode()), "size": 0, "path": below}
            if everything or len(parts) == 1:
                entries[path] = {"type": "file", "oid": etag(content), "size": len(content), "path": path}
    return list(entries.values())


def commit(revision: str) -> str:
    return hashlib.sha1(revision.encode()).hexdigest()


def etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
