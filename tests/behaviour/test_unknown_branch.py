"""Whose baseline it is, in a database: known from git or the CI, told, or refused; unknown is never the main branch."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import MACHINE, CarbonRunner
from console import carbon

from pytest_carbon.host.git import CI_VARIABLES
from pytest_carbon.records import Record

pytest.importorskip("sqlalchemy", reason="the extra sql is not installed")
import alembic.command  # noqa: F401
import sqlalchemy  # noqa: F401

from pytest_carbon.baselines import open_store

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
TEST = "test_it.py::test_it"
URL = "sqlite:///x.db"


def git(*args: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *who, *args], check=True, capture_output=True)


def stored(**branch: str | None) -> list[Record]:
    store = open_store(f"sqlite:///{Path('x.db').absolute()}", **branch)
    return [record for records in store.load(MACHINE).values() for record in records]


@pytest.fixture
def project(run_carbon: CarbonRunner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """On main a baseline of 2 J, in a database and in a directory; then the branch dearer is checked out."""
    for name in CI_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(pytester.path.parent))
    pytester.makepyfile(
        test_it="import os\nimport pytest\nfrom battery import draw\n\n@pytest.mark.carbon_budget\n"
        "def test_it():\n    open('ran', 'w').close()\n    draw(float(os.environ.get('COST', '2')))\n"
    )
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "first")
    run_carbon("--carbon-record", f"--carbon-baseline={URL}")
    run_carbon("--carbon-record")
    git("switch", "-qc", "dearer")
    monkeypatch.setenv("COST", "6")
    (pytester.path / "ran").unlink()
    return pytester.path


def no_git(project: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("PATH", str(project))
    return "there is no git on the PATH"


def no_repository(project: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (project / ".git").rename(project.parent / f"{project.name}.git")
    return "git says: not a git repository (or any of the parent directories): .git"


def somebody_elses(project: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if os.geteuid() != 0:
        pytest.skip("only root can give a repository to another user")
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    os.chown(project, 12345, 12345)
    return "git says: detected dubious ownership in repository at"


def detached(project: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    git("checkout", "-q", "--detach")
    return "git has no branch checked out at"


def a_tag(project: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("GITHUB_REF_NAME", "main")
    monkeypatch.setenv("GITHUB_REF_TYPE", "tag")
    return detached(project, monkeypatch)


def broken(project: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (project / "git").write_text("#!/bin/sh\necho fatal: out of memory >&2\nexit 128\n")
    (project / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(project), prepend=os.pathsep)
    return "git says: out of memory"


Unknown = Callable[[Path, pytest.MonkeyPatch], str]


def losing(first: Unknown, *others: Unknown) -> pytest.MarkDecorator:
    """Parametrise a test by ways to lose the branch; the quick run tries the first."""
    cases = [pytest.param(first, id=first.__name__)]
    cases += [pytest.param(lose, id=lose.__name__, marks=pytest.mark.slow) for lose in others]
    return pytest.mark.parametrize("lose", cases)


unknown = losing(no_git, no_repository, somebody_elses, detached, a_tag, broken)


@needs_git
@unknown
def test_what_writes_is_refused_before_anything_runs(
    run_carbon: CarbonRunner, project: Path, monkeypatch: pytest.MonkeyPatch, lose: Unknown
) -> None:
    """With git's own words, and the option that says it; the database stays as it is. A directory needs no branch."""
    why = lose(project, monkeypatch)
    before = (project / "x.db").read_bytes()
    for args in (["--carbon-record"], ["--carbon-accept"], ["--carbon-record", "--carbon-sessions=2"]):
        run = run_carbon(*args, f"--carbon-baseline={URL}")
        assert run.ret == 4
        assert f"x.db stores records by branch, and the branch is unknown: {why}" in run.errors
        assert "with --carbon-branch=NAME on the command line" in run.errors
    assert not (project / "ran").exists()
    for command in (
        ["prune", "--yes", f"--baseline={URL}"],
        ["remove", TEST, "--yes", f"--baseline={URL}"],
        ["rename", TEST, "test_it.py::test_new", f"--baseline={URL}"],
        ["copy", "carbon-baselines", URL],
    ):
        ran = carbon("baseline", *command)
        assert (ran.ret, ran.out) == (4, "")
        assert f"x.db stores records by branch, and the branch is unknown: {why}" in ran.err
        assert "with --branch=NAME on the command line" in ran.err
    assert (project / "x.db").read_bytes() == before
    assert run_carbon().status("test_it") == "regression"
    run = run_carbon(f"--carbon-baseline={URL}")
    assert run.status("test_it") == "regression"
    assert f"the branch is unknown: {why}" in run.text
    ran = carbon("baseline", "accept", "report.json", f"--baseline={URL}")
    assert (ran.ret, ran.out) == (4, "")
    assert "the branch is unknown: the report report.json has none" in ran.err
    assert (project / "x.db").read_bytes() == before
    assert run_carbon("--carbon-accept").ret == 0  # into the directory, which is of the branch that is checked out


@needs_git
@unknown
def test_what_is_told_is_believed(
    run_carbon: CarbonRunner, project: Path, monkeypatch: pytest.MonkeyPatch, lose: Unknown
) -> None:
    """On the command line of this run, not in a file that is the same on every branch."""
    lose(project, monkeypatch)
    (project / "pytest.ini").write_text("[pytest]\ncarbon_branch = main\naddopts = --carbon-branch=main\n")
    assert run_carbon("--carbon-accept", f"--carbon-baseline={URL}").ret == 4
    (project / "pytest.ini").unlink()
    assert run_carbon("--carbon-record", f"--carbon-baseline={URL}", "--carbon-branch=dearer").ret == 0
    assert sorted(str(record.branch) for record in stored()) == ["dearer", "main"]
    assert [record.branch for record in stored(branch="main", own="another")] == ["main"]
    assert run_carbon("--carbon-accept", f"--carbon-baseline={URL}", "--carbon-branch=main").ret == 0
    assert len(stored(branch="main")) == 2
    assert run_carbon(f"--carbon-baseline={URL}").status("test_it") == "pass"
    command = ["baseline", "rename", TEST, "test_it.py::test_new", f"--baseline={URL}"]
    assert carbon(*command, "--branch=dearer").ret == 4
    remove = ("baseline", "remove", TEST, f"--baseline={URL}")
    assert carbon(*remove).ret == 0  # which only lists them
    assert carbon(*remove, "--yes", "--branch=dearer").ret == 4
    assert carbon(*command, "--branch=main").ret == 0
    assert carbon("baseline", "prune", "--yes", f"--baseline={URL}", "--branch=dearer").ret == 4
    ran = carbon("baseline", "prune", "--yes", f"--baseline={URL}", "--branch=main")
    assert "the branch is unknown" not in ran.err
    assert carbon("baseline", "copy", "carbon-baselines", URL, "--branch=dearer").ret == 0
    assert [record.branch for record in stored() if record.test == TEST] == ["dearer"]


PULL_REQUESTS = [
    {"GITHUB_HEAD_REF": "dearer", "GITHUB_BASE_REF": "main", "GITHUB_REF_NAME": "12/merge"},
    {"CI_MERGE_REQUEST_SOURCE_BRANCH_NAME": "dearer", "CI_MERGE_REQUEST_IID": "3", "CI_COMMIT_REF_NAME": "main"},
    {"CI_COMMIT_BRANCH": "dearer"},
    {"BUILD_SOURCEBRANCH": "refs/pull/5/merge", "SYSTEM_PULLREQUEST_SOURCEBRANCH": "refs/heads/dearer"},
    {"BRANCH_NAME": "PR-5", "CHANGE_ID": "5", "CHANGE_BRANCH": "dearer", "CHANGE_TARGET": "main"},
    {"TRAVIS_BRANCH": "main", "TRAVIS_PULL_REQUEST": "5", "TRAVIS_PULL_REQUEST_BRANCH": "dearer"},
    {"CI_EXTERNAL_PULL_REQUEST_IID": "5", "CI_EXTERNAL_PULL_REQUEST_SOURCE_BRANCH_NAME": "dearer"},
    {"CI_COMMIT_BRANCH": "main", "CI_COMMIT_PULL_REQUEST": "5", "CI_COMMIT_SOURCE_BRANCH": "dearer"},
]
OF_A_FORKS_MAIN = [
    {"GITHUB_HEAD_REF": "main", "GITHUB_BASE_REF": "main", "GITHUB_REF_NAME": "12/merge"},
    {"CI_MERGE_REQUEST_SOURCE_BRANCH_NAME": "main", "CI_MERGE_REQUEST_IID": "3", "CI_COMMIT_REF_NAME": "main"},
    {"TRAVIS_BRANCH": "main", "TRAVIS_PULL_REQUEST": "5", "TRAVIS_PULL_REQUEST_BRANCH": "main"},
    {"BUILDKITE_BRANCH": "main", "BUILDKITE_PULL_REQUEST": "7"},
]


@needs_git
@losing(no_git, no_repository, detached)
@pytest.mark.parametrize("variables", [*PULL_REQUESTS, *OF_A_FORKS_MAIN], ids=lambda variables: min(variables))
def test_what_ci_says_is_believed(
    run_carbon: CarbonRunner,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    lose: Unknown,
    variables: dict[str, str],
) -> None:
    """Also without git: a pull request's change is its own, and main's baseline is as it was."""
    lose(project, monkeypatch)
    for name, value in {"CI": "1", **variables}.items():
        monkeypatch.setenv(name, value)
    run = run_carbon("--carbon-accept", "--carbon-confirm=0", f"--carbon-baseline={URL}")
    assert run.ret == 0
    branch = run.report["branch"]
    assert branch == "dearer" if variables in PULL_REQUESTS else branch not in ("main", None)
    assert [record.branch for record in stored(branch="main")] == ["main"]
    assert {record.branch for record in stored(branch="main", own=branch)} == {"main", branch}
    ran = carbon("baseline", "prune", "--yes", f"--baseline={URL}")
    assert ran.ret == 4
    assert f"tests that are gone on {branch} may still exist on main: nothing was deleted." in ran.err


@needs_git
def test_a_forks_main_that_is_checked_out_by_its_name(
    run_carbon: CarbonRunner, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CI says that it is a pull request, so it is not our main."""
    git("switch", "-q", "main")
    monkeypatch.setenv("GITHUB_HEAD_REF", "main")
    run = run_carbon("--carbon-accept", f"--carbon-baseline={URL}")
    assert run.ret == 4
    assert "main is a pull request's branch, and the name of another one" in run.errors
    monkeypatch.setenv("GITHUB_REF_NAME", "12/merge")
    assert run_carbon("--carbon-accept", f"--carbon-baseline={URL}").report["branch"] == "12/merge"
    monkeypatch.setenv("GITHUB_HEAD_REF", "dearer")  # pull_request_target: the base is checked out
    assert run_carbon(f"--carbon-baseline={URL}").report["branch"] == "main"
