"""GitHub on the loopback, with as much of its API as comments and pull requests need."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlparse

REPOSITORY = "owner/project"
TOKEN = "a-token"
ACTIONS = "github-actions[bot]"


@dataclass
class Github:
    """The state of the repository, which tests change and read."""

    address: str = ""
    comments: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    """By the number of the pull request."""
    pulls: list[dict[str, Any]] = field(default_factory=list)
    login: str | None = None
    """Whose token it is; None: the job's own, which may not ask for its user."""
    refused: dict[str, int] = field(default_factory=dict)
    """By method: the status that it is refused with."""
    requests: list[str] = field(default_factory=list)

    @property
    def writes(self) -> list[str]:
        return [request for request in self.requests if not request.startswith("GET ")]

    def comment(self, number: int, body: str, author: str = ACTIONS) -> dict[str, Any]:
        own = self.comments.setdefault(number, [])
        own.append({"id": 1000 * number + len(own), "user": {"login": author}, "body": body})
        return own[-1]

    def pull(self, number: int, head: str, sha: str, state: str = "open") -> None:
        self.pulls.append({"number": number, "state": state, "head": {"label": head, "sha": sha}})

    def answer(self, method: str, path: str, query: dict[str, str], sent: Any, token: str | None) -> tuple[int, Any]:
        """Return the status and the content of an answer."""
        if token != f"Bearer {TOKEN}":
            return 401, {"message": "Bad credentials"}
        if method in self.refused:
            return self.refused[method], {"message": "Resource not accessible by integration"}
        if path == "/user":
            refusal = (403, {"message": "Resource not accessible by integration"})
            return refusal if self.login is None else (200, {"login": self.login})
        if len((sent or {}).get("body") or "") > 65_536:
            return 422, {"message": "Validation Failed"}
        author = self.login or ACTIONS
        if match := re.fullmatch(rf"/repos/{REPOSITORY}/issues/(\d+)/comments", path):
            number = int(match[1])
            if method == "POST":
                return 201, self.comment(number, sent["body"], author)
            size, page = int(query.get("per_page", 30)), int(query.get("page", 1))
            return 200, self.comments.get(number, [])[size * (page - 1) : size * page]
        if (match := re.fullmatch(rf"/repos/{REPOSITORY}/issues/comments/(\d+)", path)) and method == "PATCH":
            (comment,) = [one for own in self.comments.values() for one in own if one["id"] == int(match[1])]
            if comment["user"]["login"] != author:
                return 403, {"message": "Must have admin rights to Repository."}
            comment["body"] = sent["body"]
            return 200, comment
        if match := re.fullmatch(rf"/repos/{REPOSITORY}/pulls/(\d+)", path):
            named = [one for one in self.pulls if one["number"] == int(match[1])]
            return (200, named[0]) if named else (404, {"message": "Not Found"})
        if path == f"/repos/{REPOSITORY}/pulls":
            if method == "POST":
                self.pull(len(self.pulls) + 1, f"owner:{sent['head']}", "unknown")
                self.pulls[-1].update(sent, html_url="https://github.example/owner/project/pull/1")
                return 201, self.pulls[-1]
            state, head = query.get("state", "open"), query.get("head")
            return 200, [one for one in self.pulls if one["state"] == state and head in (None, one["head"]["label"])]
        return 404, {"message": "Not Found"}


@contextmanager
def serving() -> Iterator[Github]:
    """Run GitHub until the block ends."""
    github = Github()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            address = urlparse(self.path)
            github.requests.append(f"{self.command} {self.path}")
            length = int(self.headers.get("Content-Length", 0))
            sent = json.loads(self.rfile.read(length)) if length else None
            query = {name: values[0] for name, values in parse_qs(address.query).items()}
            status, content = github.answer(self.command, address.path, query, sent, self.headers.get("Authorization"))
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_PATCH = do_GET

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    github.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield github
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
