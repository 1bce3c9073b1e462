"""GitHub's comments on pull requests, by its REST API."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from pytest_carbon.host.stdlib import json

MOST_CHARACTERS = 65_536
"""Of a comment; GitHub refuses a longer one."""
OF_ACTIONS = "github-actions[bot]"
"""The author of what a job's own token writes."""
_A_PAGE = 100
_MOST_PAGES = 100
_TIMEOUT_S = 30.0
_MOST_BYTES = 64 * 2**20


class GitHubError(Exception):
    """GitHub refused a request, or did not answer it; ``status`` is None for the latter."""

    def __init__(self, what: str, status: int | None = None) -> None:
        super().__init__(what)
        self.status = status


@dataclass(frozen=True, slots=True)
class Comment:
    """A comment on a pull request."""

    id: int
    author: str
    body: str


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirected request would take the token to another address."""

    def redirect_request(self, *_: object) -> None:
        return None


@dataclass(frozen=True, slots=True)
class GitHub:
    """A repository, with the token that reads and writes there."""

    api: str
    repository: str
    token: str

    def author(self) -> str:
        """Return who writes with this token: a user, or GitHub Actions, whose token may not ask."""
        try:
            answer = self._ask("GET", "/user")
        except GitHubError as error:
            if error.status in (401, 403, 404):
                return OF_ACTIONS
            raise
        return str(_field(answer, "login"))

    def comments(self, number: int) -> Iterator[Comment]:
        """Yield every comment on a pull request, the oldest first."""
        for one in self._pages(f"/repos/{self.repository}/issues/{number}/comments", {}):
            user = one.get("user") or {}  # null for a deleted account
            yield Comment(int(_field(one, "id")), str(user.get("login")), str(one.get("body") or ""))

    def create(self, number: int, body: str) -> None:
        self._ask("POST", f"/repos/{self.repository}/issues/{number}/comments", {"body": body})

    def update(self, comment: Comment, body: str) -> None:
        self._ask("PATCH", f"/repos/{self.repository}/issues/comments/{comment.id}", {"body": body})

    def head_of(self, number: int) -> str:
        """Return the last commit of a pull request."""
        answer = self._ask("GET", f"/repos/{self.repository}/pulls/{number}")
        return str(_field(_field(answer, "head"), "sha"))

    def pulls_of(self, head: str, commit: str) -> list[int]:
        """Return the open pull requests of a branch (``owner:branch``) whose last commit is this one."""
        pulls = self._pages(f"/repos/{self.repository}/pulls", {"state": "open", "head": head})
        return [int(_field(one, "number")) for one in pulls if (one.get("head") or {}).get("sha") == commit]

    def _pages(self, path: str, query: Mapping[str, str]) -> Iterator[Mapping[str, Any]]:
        for page in range(1, _MOST_PAGES + 1):
            answer = self._ask("GET", f"{path}?{urlencode({**query, 'per_page': _A_PAGE, 'page': page})}")
            if not isinstance(answer, list):
                raise GitHubError(f"GitHub's answer to GET {path} is no list")
            yield from answer
            if len(answer) < _A_PAGE:
                return

    def _ask(self, method: str, path: str, content: Mapping[str, str] | None = None) -> Any:
        address = self.api.rstrip("/") + path
        data = None if content is None else json.dumps(content).encode()
        headers = {
            "Accept": "application/vnd.github+json",
            "Authorization": f"Bearer {self.token}",
            "Content-Type": "application/json",
            "User-Agent": "pytest-carbon",
            "X-GitHub-Api-Version": "2022-11-28",
        }
        what = f"{method} {path.partition('?')[0]}"
        try:
            request = urllib.request.Request(address, data, headers, method=method)
            with urllib.request.build_opener(_NoRedirects).open(request, timeout=_TIMEOUT_S) as answer:
                return json.loads(answer.read(_MOST_BYTES))
        except urllib.error.HTTPError as error:
            raise GitHubError(f"{what}: {error.code} {_reason(error)}", error.code) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise GitHubError(f"{what}: {getattr(error, 'reason', None) or error}") from error


def _reason(error: urllib.error.HTTPError) -> str:
    """Return GitHub's own words for a refusal, where it has any."""
    try:
        said = json.loads(error.read(_MOST_BYTES))["message"]
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        said = error.reason
    return " ".join(str(said).split())


def _field(answer: Any, name: str) -> Any:
    try:
        return answer[name]
    except (KeyError, TypeError) as error:
        raise GitHubError(f"GitHub's answer has no {name}") from error
