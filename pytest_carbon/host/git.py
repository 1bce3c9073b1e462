"""The commit, the branch and the top of this checkout, from git and the CI service; or why they are unknown."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pytest_carbon.host.stdlib import os, subprocess

GIT_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class GitState:
    """The state of the code; None where it is unknown."""

    commit: str | None = None
    branch: str | None = None
    dirty: bool | None = None
    """Whether a file that git tracks was changed."""
    why_unknown: str | None = None
    """Why the branch is, in git's own words; None where it is known."""


def git_state(directory: Path, *, main: str | None = None) -> GitState:
    """Return the commit and branch checked out around a folder. Never fail.

    Where git names no branch, the CI service's variables name it. A pull request never gets the name of the branch
    ``main``: a fork's ``main`` is another branch.
    """
    try:
        answer = subprocess.run(
            ["git", "-C", str(directory), "status", "--porcelain=v2", "--branch", "--untracked-files=no"],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=GIT_TIMEOUT_S,
            env=os.environ | {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"},
        )
    except FileNotFoundError:
        return _from_ci(GitState(), "there is no git on the PATH", main)
    except subprocess.TimeoutExpired:
        return _from_ci(GitState(), f"git did not answer within {GIT_TIMEOUT_S:g} s", main)
    except (OSError, ValueError) as error:  # a git that cannot be executed, an odd path
        return _from_ci(GitState(), f"git cannot be run: {getattr(error, 'strerror', None) or error}", main)
    if answer.returncode:
        said = " ".join(answer.stderr.decode(errors="replace").split()) or f"exit status {answer.returncode}"
        return _from_ci(GitState(), f"git says: {said.removeprefix('fatal: ')}", main)
    lines = answer.stdout.decode(errors="replace").splitlines()
    facts = dict(line.removeprefix("# ").split(" ", 1) for line in lines if line.startswith("# branch."))
    commit, branch = facts.get("branch.oid"), facts.get("branch.head")
    state = GitState(
        commit=None if commit == "(initial)" else commit,
        dirty=any(not line.startswith("# ") for line in lines),
    )
    if branch == "(detached)":
        return _from_ci(state, f"git has no branch checked out at {(commit or '')[:7]} (a detached HEAD)", main)
    if branch in _not_a_change(main) and branch in map(_value, _OF_CHANGE):  # a fork's main, checked out by its name
        return _from_ci(state, f"{branch} is a pull request's branch, and the name of another one", main)
    return GitState(state.commit, branch, state.dirty)


def commit_of(folder: str) -> str | None:
    """Return the commit that is checked out around a folder, without a look at its files; None where it is unknown."""
    try:
        answer = subprocess.run(
            ["git", "-C", folder, "rev-parse", "--verify", "--quiet", "HEAD"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=GIT_TIMEOUT_S,
        )
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.decode(errors="replace").strip() or None if answer.returncode == 0 else None


def top_of(folder: Path) -> Path:
    """Return the top of the repository around a folder; the folder itself where there is none.

    Without git, which says nothing in a repository of another owner, as in a container.
    """
    folder = folder.resolve()
    for place in (folder, *folder.parents):
        if (place / ".git").is_file() or (place / ".git" / "HEAD").exists():  # a file: a worktree, a submodule
            return place
    return folder


_OF_CHANGE = (
    "GITHUB_HEAD_REF",
    "CI_MERGE_REQUEST_SOURCE_BRANCH_NAME",
    "CI_EXTERNAL_PULL_REQUEST_SOURCE_BRANCH_NAME",
    "SYSTEM_PULLREQUEST_SOURCEBRANCH",
    "CHANGE_BRANCH",
    "CI_COMMIT_SOURCE_BRANCH",
    "DRONE_SOURCE_BRANCH",
    "TRAVIS_PULL_REQUEST_BRANCH",
    "APPVEYOR_PULL_REQUEST_HEAD_REPO_BRANCH",
    "SEMAPHORE_GIT_PR_BRANCH",
)
"""The branch of a pull request: GitHub, GitLab, Azure, Jenkins, Woodpecker, Drone, Travis, AppVeyor, Semaphore."""
_NUMBERS = (
    "CI_MERGE_REQUEST_IID",
    "CI_EXTERNAL_PULL_REQUEST_IID",
    "SYSTEM_PULLREQUEST_PULLREQUESTNUMBER",
    "SYSTEM_PULLREQUEST_PULLREQUESTID",
    "CHANGE_ID",
    "CI_COMMIT_PULL_REQUEST",
    "DRONE_PULL_REQUEST",
    "TRAVIS_PULL_REQUEST",
    "APPVEYOR_PULL_REQUEST_NUMBER",
    "SEMAPHORE_GIT_PR_NUMBER",
    "BUILDKITE_PULL_REQUEST",
    "BITBUCKET_PR_ID",
    "CIRCLE_PR_NUMBER",
    "CIRRUS_PR",
)
"""The number of a pull request."""
_BRANCHES = (
    "GITHUB_REF_NAME",
    "CI_COMMIT_BRANCH",
    "CI_COMMIT_REF_NAME",
    "BUILD_SOURCEBRANCH",
    "BRANCH_NAME",
    "GIT_LOCAL_BRANCH",
    "GIT_BRANCH",
    "CIRCLE_BRANCH",
    "BUILDKITE_BRANCH",
    "BITBUCKET_BRANCH",
    "DRONE_BRANCH",
    "TRAVIS_BRANCH",
    "APPVEYOR_REPO_BRANCH",
    "SEMAPHORE_GIT_BRANCH",
    "CIRRUS_BRANCH",
)
"""The branch that is built; of a pull request, with some services, the one that it is for."""
_OF_JENKINS = ("GIT_LOCAL_BRANCH", "GIT_BRANCH", "TAG_NAME")
"""What only counts in a job of Jenkins; elsewhere anybody may use these names."""
_TARGETS = (
    "GITHUB_BASE_REF",
    "CI_MERGE_REQUEST_TARGET_BRANCH_NAME",
    "CI_EXTERNAL_PULL_REQUEST_TARGET_BRANCH_NAME",
    "CHANGE_TARGET",
    "SYSTEM_PULLREQUEST_TARGETBRANCH",
)
_TAGS = (
    "CI_COMMIT_TAG",
    "BUILDKITE_TAG",
    "DRONE_TAG",
    "TRAVIS_TAG",
    "APPVEYOR_REPO_TAG_NAME",
    "SEMAPHORE_GIT_TAG_NAME",
    "TAG_NAME",
)
CI_VARIABLES = (*_OF_CHANGE, *_NUMBERS, *_BRANCHES, *_TARGETS, *_TAGS, "GITHUB_REF_TYPE")


def _value(name: str) -> str | None:
    if name in _OF_JENKINS and "JENKINS_URL" not in os.environ:
        return None
    value = os.environ.get(name, "").removeprefix("refs/heads/")
    if name == "GIT_BRANCH":  # with the remote's name
        value = "" if value == "detached" else value.removeprefix("origin/")
    return None if value in ("", "false") or value.startswith("refs/tags/") else value.removeprefix("refs/")


def _not_a_change(main: str | None) -> set[str | None]:
    """Return the names that no pull request may have: they are those of our own branches."""
    return {main, *map(_value, _TARGETS)} - {None}


def _from_ci(state: GitState, why_not_git: str, main: str | None) -> GitState:
    """Add the branch that the CI service names, or why there is none."""
    branch = None
    number = next(filter(None, map(_value, _NUMBERS)), None)
    if number or any(map(_value, _OF_CHANGE)):
        named = [name for name in map(_value, (*_OF_CHANGE, *_BRANCHES)) if name not in (None, *_not_a_change(main))]
        branch = next(iter(named), number and f"pull/{number}")
    elif not any(map(_value, _TAGS)) and _value("GITHUB_REF_TYPE") != "tag":
        branch = next(filter(None, map(_value, _BRANCHES)), None)
    why = None if branch else f"{why_not_git}, and no variable of a CI service names a branch"
    return GitState(state.commit, branch, state.dirty, why)
