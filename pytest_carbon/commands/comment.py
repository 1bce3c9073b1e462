"""``pytest-carbon comment REPORT…``: one comment on the pull request of this run of GitHub Actions."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pytest_carbon.commands.console import OK, Commands, add_name, add_report_url
from pytest_carbon.host.ci import CiRun, ci_run
from pytest_carbon.host.github import GitHub, GitHubError
from pytest_carbon.records import UsageProblem
from pytest_carbon.reports import comment, jsonfile, markdown
from pytest_carbon.reports.findings import all_pass, findings
from pytest_carbon.reports.merge import merge


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "comment",
        help="keep one comment on the pull request of this run of GitHub Actions",
        description="Write what reports of --carbon-json say as a comment on the pull request of this run of GitHub"
        " Actions, or of the run that this one follows (workflow_run). A later run updates the comment. If everything"
        " passes, none is begun.",
        epilog="It takes GITHUB_TOKEN, which needs `pull-requests: write`, and the variables that GitHub sets. Exit"
        " status: 0, also where GitHub refuses the comment, which is a warning of the job; 2 for a wrong command line;"
        " 4 for reports that cannot be used.",
    )
    parser.add_argument("reports", nargs="+", metavar="REPORT", help="a report of --carbon-json; several are merged")
    add_name(parser)
    add_report_url(parser)
    parser.set_defaults(run=_run)


def _run(given: argparse.Namespace) -> int:
    runs = merge([(place, jsonfile.read(Path(place).expanduser())) for place in given.reports])
    event = _event()
    text = comment.markdown(runs, name=given.name, url=given.report_url, ci_run=_ci_run(event))
    try:
        said = [*_tell(_github(), event, given.name, text, green=all_pass(runs, findings(runs)))]
    except GitHubError as error:
        hint = ""
        if error.status in (403, 404):
            hint = "; the token needs `pull-requests: write`, which it never has for a pull request from a fork"
        said = [_command("warning", f"GitHub took no comment: {error}{hint}")]
    print("\n".join(said))
    return OK


def _tell(github: GitHub, event: Mapping[str, Any], name: str, text: str, *, green: bool) -> Iterator[str]:
    """Bring the comment on each pull request of a run up to date, and say what was done."""
    pulls = _pulls(github, event)
    if not pulls:
        yield "This run is of no open pull request, or it has new commits: no comment was written."
        return
    author = github.author()
    for number in pulls:
        own = [
            one
            for one in github.comments(number)
            if one.author == author and one.body.partition("\n")[0].strip() == markdown.marker(name)
        ]
        for one in own:  # more than one, where two runs began theirs at once: none of them may stay red
            github.update(one, text)
        if own:
            yield f"Updated the comment on pull request {number}."
        elif green:
            yield f"Everything passes: pull request {number} needs no comment."
        else:
            github.create(number, text)
            yield f"Commented on pull request {number}."


def _pulls(github: GitHub, event: Mapping[str, Any]) -> list[int]:
    """Return the pull requests of this run, by what GitHub says of it, not by what it has written."""
    try:
        if "pull_request" in event:
            number, commit = int(event["pull_request"]["number"]), event["pull_request"]["head"]["sha"]
            return [number] if github.head_of(number) == commit else []  # else a newer run has more to say
        if "workflow_run" in event:
            run = event["workflow_run"]
            head = f"{run['head_repository']['owner']['login']}:{run['head_branch']}"
            return github.pulls_of(head, str(run["head_sha"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UsageProblem(f"GITHUB_EVENT_PATH: the event does not name its pull request ({error!r})") from error
    return []


def _ci_run(event: Mapping[str, Any]) -> CiRun | None:
    """Return the run whose artefacts have the reports: this one, or the one that it follows."""
    followed = event.get("workflow_run")
    if not isinstance(followed, dict):
        return ci_run(os.environ)
    return ci_run({**os.environ, "GITHUB_RUN_ID": str(followed.get("id", ""))})


def _event() -> Mapping[str, Any]:
    try:
        event = json.loads(Path(_variable("GITHUB_EVENT_PATH")).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UsageProblem(f"GITHUB_EVENT_PATH: the event cannot be read: {error}") from error
    return event if isinstance(event, dict) else {}


def _github() -> GitHub:
    api = os.environ.get("GITHUB_API_URL") or "https://api.github.com"
    return GitHub(api, _variable("GITHUB_REPOSITORY"), _variable("GITHUB_TOKEN"))


def _variable(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise UsageProblem(f"{name} is not set: this command runs in a job of GitHub Actions, with GITHUB_TOKEN in env")
    return value


def _command(kind: str, text: str) -> str:
    """Write a command to the runner, which ends at a line's end and reads per cent signs."""
    for character, code in (("%", "%25"), ("\r", "%0D"), ("\n", "%0A")):
        text = text.replace(character, code)
    return f"::{kind} title=pytest-carbon::{text}"
