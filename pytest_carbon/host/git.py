"""The commit and branch of this checkout, from git and the CI service."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

GIT_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class GitState:
    """The state of the code; None where git does not know it."""

    commit: str | None = None
    branch: str | None = None
    dirty: bool | None = None
    """Whether a file that git tracks was changed."""


def git_state(directory: Path, *, main: str | None = None) -> GitState:
    """Return the commit and branch checked out around a folder. Never fail.

    On CI, where no branch is checked out, the CI service's variables name it. A pull request never gets the name of the
    branch ``main``: a fork's ``main`` is another branch.
    """
    try:
        answer = subprocess.run(
            ["git", "-C", str(directory), "status", "--porcelain=v2", "--branch", "--untracked-files=no"],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=GIT_TIMEOUT_S,
            check=True,
            env=os.environ | {"GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, ValueError, subprocess.SubprocessError):  # no git, no repository, too slow, an odd path
        return GitState()
    lines = answer.stdout.decode(errors="replace").splitlines()
    facts = dict(line.removeprefix("# ").split(" ", 1) for line in lines if line.startswith("# branch."))
    commit, branch = facts.get("branch.oid"), facts.get("branch.head")
    return GitState(
        commit=None if commit == "(initial)" else commit,
        branch=_branch_on_ci(main) if branch == "(detached)" else branch,
        dirty=any(not line.startswith("# ") for line in lines),
    )


_BRANCH_ON_CI = (
    "GITHUB_HEAD_REF",
    "GITHUB_REF_NAME",
    "CI_COMMIT_REF_NAME",
    "BRANCH_NAME",
    "CIRCLE_BRANCH",
    "BUILDKITE_BRANCH",
    "BITBUCKET_BRANCH",
)
_PULL_REQUEST_ON_CI = ("GITHUB_HEAD_REF", "CI_MERGE_REQUEST_IID", "BUILDKITE_PULL_REQUEST")


def _branch_on_ci(main: str | None) -> str | None:
    known = [value for name in _BRANCH_ON_CI if (value := os.environ.get(name))]
    if any(os.environ.get(name, "false") not in ("", "false") for name in _PULL_REQUEST_ON_CI):
        ours = (main, os.environ.get("GITHUB_BASE_REF"))  # a fork's main is not ours
        known = [value for value in known if value not in ours]
    return next(iter(known), None)
