"""One comment on a pull request: begun where something is not a pass, updated, and never somebody else's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from console import Ran, carbon, run, write
from loopback_github import REPOSITORY, TOKEN, Github, serving
from rendered import HOSTILE, check

from pytest_carbon.records import SessionResult, TestResult, Verdict

TEST = "tests/test_m.py::test_x"
MARKER = "<!-- pytest-carbon:carbon -->"


@pytest.fixture
def github(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Github]:
    """A job of a pull request, 7, whose token may comment."""
    monkeypatch.chdir(tmp_path)
    with serving() as github:
        for name, value in {
            "GITHUB_ACTIONS": "true",
            "GITHUB_API_URL": github.address,
            "GITHUB_EVENT_PATH": str(tmp_path / "event.json"),
            "GITHUB_REPOSITORY": REPOSITORY,
            "GITHUB_RUN_ID": "42",
            "GITHUB_SERVER_URL": "https://github.example",
            "GITHUB_TOKEN": TOKEN,
            "no_proxy": "127.0.0.1",
        }.items():
            monkeypatch.setenv(name, value)
        event(pull_request={"number": 7, "head": {"sha": "abc"}})
        github.pull(7, "owner:dearer", "abc")
        yield github


def event(**content: object) -> None:
    Path("event.json").write_text(json.dumps(content))


def green() -> SessionResult:
    return run("a", {TEST: 1.0})


def red(*ids: str, reason: str = "40% more energy: look", **changes: object) -> SessionResult:
    """A run in which each test is a regression."""
    verdict = Verdict("regression", reason, 1.0, 5, 5, 0.4, 0.05, effect="fails")
    result = run("b", dict.fromkeys(ids or [TEST], 1.4))
    tests = tuple(replace(t, outcome="failed", measurements=((t.measurements[0][0], verdict),)) for t in result.tests)
    return replace(result, exit_status=1, tests=tests, **changes)


def comment(*results: SessionResult, args: tuple[str, ...] = ("--name=carbon",)) -> Ran:
    files = [write(f"carbon{i}.json", result) for i, result in enumerate(results)]
    return carbon("comment", *files, *args)


def test_nothing_is_said_where_all_passes(github: Github) -> None:
    """A green pull request has no comment."""
    ran = comment(green())
    assert (ran.ret, ran.out) == (0, "Everything passes: pull request 7 needs no comment.\n")
    assert github.comments == {7: []} or not github.comments
    assert github.writes == []


def test_a_comment_is_written_updated_and_mended(github: Github) -> None:
    """It is one comment; green in the end."""
    github.comment(7, "Looks good!", "somebody")
    assert comment(red()).out == "Commented on pull request 7.\n"
    assert len(github.comments[7]) == 2
    first = github.comments[7][1]
    assert first["body"].startswith(f"{MARKER}\n")
    assert "+40.0%" in first["body"]
    assert "gh run download 42 --name=carbon0 --dir=carbon-run" in first["body"]
    assert comment(red(TEST, "tests/test_m.py::test_y")).out == "Updated the comment on pull request 7.\n"
    assert "test_y" in first["body"]
    assert comment(green()).out == "Updated the comment on pull request 7.\n"
    assert "✅" in first["body"]
    assert "+40.0%" not in first["body"]
    assert len(github.comments[7]) == 2


@pytest.mark.parametrize("result", [red(incomplete=True), replace(green(), incomplete=True, exit_status=None)])
def test_an_incomplete_run_is_never_silent(github: Github, result: SessionResult) -> None:
    """What was not judged is no pass."""
    assert comment(result).out == "Commented on pull request 7.\n"
    assert "incomplete" in github.comments[7][0]["body"]


def test_a_foreign_comment_with_our_marker_stays(github: Github) -> None:
    """Anybody can write the marker; and quoting ours is no comment of ours."""
    theirs = github.comment(7, f"{MARKER}\nmine", "somebody")
    quoting = github.comment(7, f"> {MARKER}\n\nby another workflow")
    another = github.comment(7, "<!-- pytest-carbon:carbon-2 -->\nof another job")
    assert comment(red()).out == "Commented on pull request 7.\n"
    assert [theirs["body"], quoting["body"]] == [f"{MARKER}\nmine", f"> {MARKER}\n\nby another workflow"]
    assert another["body"].endswith("of another job")
    assert github.comments[7][3]["body"].startswith(MARKER)


def test_a_token_of_a_user_updates_that_users_comment(github: Github) -> None:
    """And not the one of GitHub Actions, which it may not edit."""
    github.login = "carbon-bot"
    github.comment(7, f"{MARKER}\nwith the token of the job")
    own = github.comment(7, f"{MARKER}\nwith its own token", "carbon-bot")
    assert comment(red()).out == "Updated the comment on pull request 7.\n"
    assert "+40.0%" in own["body"]


def test_two_comments_of_two_runs_at_once_both_become_green(github: Github) -> None:
    """Each found none and began one; from then on they say the same."""
    for _ in range(2):
        github.comment(7, f"{MARKER}\nred")
    assert comment(green()).out == "Updated the comment on pull request 7.\n"
    assert ["✅" in one["body"] for one in github.comments[7]] == [True, True]


def test_an_older_run_that_ends_later_says_nothing(github: Github) -> None:
    """The pull request has new commits, whose run comments."""
    github.pulls[0]["head"]["sha"] = "newer"
    ran = comment(red())
    assert (ran.ret, github.writes) == (0, [])
    assert "it has new commits: no comment was written" in ran.out


def test_a_comment_on_the_second_page_is_found(github: Github) -> None:
    """GitHub sends a hundred at a time."""
    for number in range(250):
        github.comment(7, f"comment {number}", "somebody")
    own = github.comment(7, f"{MARKER}\r\nas before")  # edited by hand, on the web
    assert comment(red()).out == "Updated the comment on pull request 7.\n"
    assert "+40.0%" in own["body"]
    assert sum(request.startswith("GET") and "/comments" in request for request in github.requests) == 3


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH"])
@pytest.mark.parametrize("status", [401, 403, 404, 410, 422, 500])
def test_a_refusal_is_a_warning(github: Github, method: str, status: int) -> None:
    """The job stays as pytest left it."""
    if method == "PATCH":
        github.comment(7, f"{MARKER}\nas before")
    github.refused[method] = status
    ran = comment(red())
    assert ran.ret == 0
    assert ran.out.startswith(f"::warning title=pytest-carbon::GitHub took no comment: {method} /")
    assert f": {status} Resource not accessible by integration" in ran.out
    assert ("never has for a pull request from a fork" in ran.out) == (status in (403, 404))
    assert ran.out.count("\n") == 1


def test_no_answer_is_a_warning(github: Github, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does an address that does not exist fail the job, nor one that answers with something else."""
    monkeypatch.setenv("GITHUB_API_URL", "http://127.0.0.1:9")
    ran = comment(red())
    assert (ran.ret, ran.out.partition("::G")[0]) == (0, "::warning title=pytest-carbon")
    assert "Connection refused" in ran.out
    monkeypatch.setenv("GITHUB_API_URL", "not an address")
    assert comment(red()).ret == 0


@pytest.mark.slow
def test_ten_thousand_failures_fit(github: Github) -> None:
    """GitHub refuses 65,537 characters."""
    assert comment(red(*(f"tests/test_m.py::test_{'long_' * 20}{i}" for i in range(3000)))).out.startswith("Commented")
    assert 10_000 < len(github.comments[7][0]["body"]) <= 65_536


def test_the_loopback_refuses_what_github_refuses(github: Github) -> None:
    """Or the test above would show nothing."""
    assert (
        github.answer("POST", f"/repos/{REPOSITORY}/issues/7/comments", {}, {"body": "x" * 65_537}, f"Bearer {TOKEN}")[
            0
        ]
        == 422
    )
    assert (
        github.answer("POST", f"/repos/{REPOSITORY}/issues/7/comments", {}, {"body": "x" * 65_536}, f"Bearer {TOKEN}")[
            0
        ]
        == 201
    )


def test_what_others_write_mentions_nobody_and_is_no_markup(github: Github) -> None:
    """Ids, reasons, branches and notes may come from a fork."""
    said = " ".join(HOSTILE)
    result = red(*(f"tests/t.py::t[{text}]" for text in (*HOSTILE, "x" * 10_000)), reason=said, branch=said)
    assert comment(replace(result, notes=HOSTILE, labels=said)).ret == 0
    body = github.comments[7][0]["body"]
    assert body.startswith(f"{MARKER}\n")
    check(body)


def test_a_run_of_no_pull_request_has_no_comment(github: Github) -> None:
    """A push to main, and the nightly run."""
    event(ref="refs/heads/main")
    ran = comment(red())
    assert (ran.ret, github.requests) == (0, [])
    assert ran.out == "This run is of no open pull request, or it has new commits: no comment was written.\n"


def followed(sha: str = "abc", branch: str = "main", **changes: object) -> None:
    """The event of a workflow that follows another: a pull request from a fork's main."""
    owner = {"owner": {"login": "stranger"}}
    event(
        workflow_run={
            "id": 41,
            "head_sha": sha,
            "head_branch": branch,
            "head_repository": owner,
            "event": "pull_request",
        }
        | changes
    )


def test_the_comment_on_a_pull_request_from_a_fork(github: Github) -> None:
    """By the run's own branch and commit, as GitHub has them; from the artefact of that run."""
    followed(branch="what&head=owner:main")
    github.pull(5, "owner:main", "abc")
    github.pull(8, "stranger:what&head=owner:main", "abc")
    github.pull(9, "stranger:what&head=owner:main", "abc", "closed")
    github.pull(10, "stranger:another", "abc")
    assert comment(red()).out == "Commented on pull request 8.\n"
    assert list(github.comments) == [8]
    assert "gh run download 41 --name=carbon0 --dir=carbon-run" in github.comments[8][0]["body"]


def test_a_pull_request_with_newer_commits_waits_for_their_run(github: Github) -> None:
    """An older run would say what is no longer so."""
    followed("abc")
    github.pull(8, "stranger:main", "abd")
    ran = comment(red())
    assert (ran.ret, github.writes) == (0, [])
    assert "it has new commits: no comment was written" in ran.out


@pytest.mark.parametrize("run_of", [{"head_repository": None}, {"head_sha": None, "head_branch": None}])
def test_a_fork_that_is_gone_has_no_comment(github: Github, run_of: dict[str, None]) -> None:
    """It was deleted since; nothing is guessed."""
    followed(**run_of)
    github.pull(8, "stranger:main", "abc")
    assert comment(red()).ret in (0, 4)
    assert github.writes == []


@pytest.mark.parametrize("number", ["7; rm -rf /", None, "../../other/issues/1", {}])
def test_a_number_that_is_none_is_refused(github: Github, number: object) -> None:
    """It would become part of an address."""
    event(pull_request={"number": number, "head": {"sha": "abc"}})
    ran = comment(red())
    assert (ran.ret, github.writes) == (4, [])
    assert "GITHUB_EVENT_PATH: the event does not name its pull request" in ran.err


@pytest.mark.parametrize("name", ["GITHUB_TOKEN", "GITHUB_REPOSITORY", "GITHUB_EVENT_PATH"])
def test_elsewhere_the_command_says_what_it_needs(github: Github, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """It is for jobs of GitHub Actions."""
    monkeypatch.delenv(name)
    ran = comment(red())
    assert ran.ret == 4
    assert f"{name} is not set: this command runs in a job of GitHub Actions" in ran.err


def test_a_report_that_is_none_is_refused(github: Github) -> None:
    """Before anything is asked."""
    Path("x.json").write_text("<!doctype html>")
    ran = carbon("comment", "x.json")
    assert (ran.ret, github.requests) == (4, [])
    assert "x.json" in ran.err


@pytest.mark.parametrize("args", [("--name=a -->",), ("--name=",), ("--report-url=javascript:alert(1)",)])
def test_a_name_and_an_address_are_checked(github: Github, args: tuple[str, ...]) -> None:
    """Both become part of the comment."""
    ran = comment(red(), args=args)
    assert (ran.ret, github.requests) == (2, [])
    assert args[0].partition("=")[0] in ran.err


def test_several_reports_are_one_comment(github: Github) -> None:
    """The shards of a suite."""
    first = replace(
        green(), tests=(TestResult("tests/test_m.py::test_first", "passed", green().tests[0].measurements),)
    )
    assert comment(first, red()).out == "Commented on pull request 7.\n"
    (only,) = github.comments[7]
    assert "test_first" in only["body"]
    assert "test_x" in only["body"]
