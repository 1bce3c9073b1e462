"""Without git, outside a repository, in one without a commit: what is unknown is null, and nothing is missed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from conftest import CarbonRunner, Run
from faults import records

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A marked test, in a folder above which git looks for nothing."""
    pytester.makepyfile(
        test_it="import os, pytest\nfrom battery import draw\n@pytest.mark.carbon_budget\n"
        "def test_it():\n    draw(float(os.environ.get('COST', '1')))\n"
    )
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(pytester.path.parent))
    for variable in ("GITHUB_HEAD_REF", "GITHUB_REF_NAME", "CI_COMMIT_REF_NAME", "GIT_DIR", "GIT_WORK_TREE"):
        monkeypatch.delenv(variable, raising=False)
    return pytester.path


def git(pytester: pytest.Pytester, *args: str) -> str:
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
    result = pytester.run("git", *who, *args)
    assert result.ret == 0
    return result.stdout.str().strip()


def state(run: Run) -> tuple[object, ...]:
    return tuple(run.report[key] for key in ("commit", "branch", "dirty"))


def everything_works(run_carbon: CarbonRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Record, compare, red, accept; nothing on standard error."""
    run = run_carbon("--carbon-record")
    assert (run.outcomes(), run.errors) == ({"passed": 1}, "")
    monkeypatch.setenv("COST", "2")
    run = run_carbon()
    assert (run.outcomes(), run.errors) == ({"failed": 1}, "")
    assert run_carbon("--carbon-accept").outcomes() == {"passed": 1}


def test_git_is_not_installed(run_carbon: CarbonRunner, suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither commit nor branch is known."""
    monkeypatch.setenv("PATH", str(suite))
    everything_works(run_carbon, monkeypatch)
    assert state(run_carbon()) == (None, None, None)
    assert {(record["commit"], record["branch"]) for record in records(suite)} == {(None, None)}


def test_git_is_broken(run_carbon: CarbonRunner, suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that fails, or belongs to somebody else ("dubious ownership"), is like none."""
    tool = suite / "bin" / "git"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho 'fatal: detected dubious ownership in repository' >&2\nexit 128\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=os.pathsep)
    everything_works(run_carbon, monkeypatch)
    assert state(run_carbon()) == (None, None, None)


@needs_git
def test_no_repository(run_carbon: CarbonRunner, suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unpacked archive, a folder on a cluster."""
    everything_works(run_carbon, monkeypatch)
    assert state(run_carbon()) == (None, None, None)


@needs_git
def test_a_repository_without_a_commit(
    run_carbon: CarbonRunner, suite: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is a branch, and nothing on it."""
    git(pytester, "init", "-q", "-b", "main")
    everything_works(run_carbon, monkeypatch)
    assert state(run_carbon()) == (None, "main", False)


@needs_git
def test_what_a_regression_says_of_the_commits(
    run_carbon: CarbonRunner, suite: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From which to which the figure changed, and whether that is all committed."""
    git(pytester, "init", "-q", "-b", "main")
    git(pytester, "add", "test_it.py")
    git(pytester, "commit", "-q", "-m", "one")
    one = git(pytester, "rev-parse", "HEAD")
    run_carbon("--carbon-record")
    assert {record["commit"] for record in records(suite)} == {one}
    git(pytester, "commit", "-q", "--allow-empty", "-m", "two")
    two = git(pytester, "rev-parse", "HEAD")
    (suite / "test_it.py").write_text((suite / "test_it.py").read_text() + "\n")
    monkeypatch.setenv("COST", "2")
    run = run_carbon()
    assert state(run) == (two, "main", True)
    assert f"commit {one[:7]} → {two[:7]} (dirty)" in run.text
    git(pytester, "checkout", "-q", "--detach")
    assert state(run_carbon())[1] is None
    monkeypatch.setenv("GITHUB_HEAD_REF", "faster-tokens")
    assert state(run_carbon())[1] == "faster-tokens"
