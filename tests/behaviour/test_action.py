"""The action's steps, as they stand in action.yml: run by bash, against a GitHub on the loopback."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import QUICK, CarbonRunner
from loopback_github import REPOSITORY, TOKEN, Github, serving
from workflows import ROOT, Job, StepFailed, load

PAGE = "https://github.example/owner/project/actions/runs/42/artifacts/1"


@dataclass
class Project:
    """A project in a job of pull request 7."""

    folder: Path
    temp: Path
    github: Github
    uploads: dict[str, list[str]]
    """By the name of the artefact: its files."""
    job: Job | None = None

    @property
    def body(self) -> str:
        return str(self.github.comments[7][-1]["body"])

    def environ(self) -> dict[str, str]:
        return {
            **os.environ,
            "PATH": f"{self.temp.parent / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "CI": "true",
            "GITHUB_ACTIONS": "true",
            "GITHUB_API_URL": self.github.address,
            "GITHUB_EVENT_PATH": str(self.temp / "event.json"),
            "GITHUB_REPOSITORY": REPOSITORY,
            "GITHUB_RUN_ID": "42",
            "GITHUB_SERVER_URL": "https://github.example",
            "PYTHONPATH": str(self.folder),  # for the battery, from any folder
            "RUNNER_TEMP": str(self.temp),
            "no_proxy": "127.0.0.1",
        }

    def act(self, **given: str) -> dict[str, str] | None:
        """Run the action; None where it fails the job. ``cost``: of the call in the test."""
        quiet = " ".join(("-p battery --carbon --carbon-meter=battery --carbon-confirm=0", *QUICK))
        arguments = f"{quiet} {given.pop('arguments', '')}"
        self.job = Job(self.folder, self.environ(), {"token": TOKEN}, {"actions/upload-artifact": self._upload})
        inputs = {"html": "false", **{name.replace("_", "-"): text for name, text in given.items()}}
        try:
            return self.job.act("action.yml", {"arguments": arguments, **inputs})
        except StepFailed:
            return None

    def _upload(self, job: Job, given: Mapping[str, str]) -> Mapping[str, str]:
        files = [Path(line) for line in given["path"].split()]
        assert all(file.exists() for file in files)
        unzipped = given.get("archive") == "false"
        assert not (unzipped and len(files) > 1)
        self.uploads[files[0].name if unzipped else given["name"]] = [file.name for file in files]
        return {"artifact-url": PAGE}


@pytest.fixture
def project(run_carbon: CarbonRunner, pytester: pytest.Pytester, tmp_path: Path) -> Iterator[Project]:
    """A test of 2 J, with a baseline; COST is what it takes now."""
    pytester.makepyfile(
        test_it="import os, pytest\nfrom battery import draw\n\n@pytest.mark.carbon_budget\ndef test_it():\n"
        "    draw(float(os.environ.get('COST', '2')))\n\ndef test_plain():\n    assert 'BROKEN' not in os.environ\n"
    )
    run_carbon("--carbon-record")
    run_carbon("--carbon-record", "-o", "cache_dir=x")
    temp, programs = tmp_path / "temp", tmp_path / "bin"
    temp.mkdir()
    programs.mkdir()
    (programs / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (programs / "python").chmod(0o755)
    (temp / "event.json").write_text(json.dumps({"pull_request": {"number": 7, "head": {"sha": "abc"}}}))
    with serving() as github:
        github.pull(7, "owner:dearer", "abc")
        yield Project(pytester.path, temp, github, {})


@pytest.mark.slow
def test_red_is_uploaded_and_said_before_it_fails(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exit status of pytest is the action's, at the very end; green again, the same comment says so."""
    monkeypatch.setenv("COST", "6")
    assert project.act() is None
    assert project.job is not None
    assert project.job.outcomes() == {
        "Run pytest": "success",
        "Upload the page": "skipped",
        "Write Markdown": "success",
        "Upload the report": "success",
        "Comment on the pull request": "success",
        "Pass on pytest's exit status": "failure",
    }
    assert project.uploads == {"carbon": ["carbon.json", "carbon.md"]}
    assert project.body.startswith("<!-- pytest-carbon:carbon -->\n")
    assert "test_it.py::test_it" in project.body
    assert "gh run download 42 --name=carbon --dir=carbon-run" in project.body
    assert "gh run download 42 --name=carbon --dir=carbon-run" in project.job.log
    assert (project.temp / "pytest-carbon/carbon/carbon.md").read_text("utf-8") == project.body
    monkeypatch.delenv("COST")
    outputs = project.act()
    assert outputs is not None
    assert outputs["exit-status"] == "0"
    assert json.loads(Path(outputs["json"]).read_text("utf-8"))["format"].startswith("pytest-carbon/")
    (only,) = project.github.comments[7]
    assert "✅" in only["body"]


@pytest.mark.slow
def test_the_exit_status_is_pytests(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a usage error, too, which leaves no report; and a stale one is not taken for it."""
    assert project.act() is not None
    assert project.github.writes == []  # all passes: no comment
    assert project.act(arguments="--no-such-option") is None
    assert project.job is not None
    assert project.job.outcomes()["Pass on pytest's exit status"] == "failure"
    assert project.job.outcomes()["Comment on the pull request"] == "skipped"
    assert project.github.writes == []
    monkeypatch.setenv("BROKEN", "1")
    assert project.act() is None  # a plain test fails, and is no carbon's
    assert "exit status 1" in project.body or "failed" in project.body


@pytest.mark.slow
def test_the_page_is_uploaded_and_the_comment_links_to_it(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a file that the browser opens; the report beside it has the Markdown."""
    monkeypatch.setenv("COST", "6")
    assert project.act(html="true") is None
    assert project.uploads == {"carbon.html": ["carbon.html"], "carbon": ["carbon.json", "carbon.md"]}
    assert f"](<{PAGE}>)" in project.body
    page = (project.temp / "pytest-carbon/carbon/carbon.html").read_text("utf-8")
    assert "gh run download 42 --name=carbon --dir=carbon-run" in page


@pytest.mark.slow
@pytest.mark.parametrize("status", [403, 404])
def test_a_refused_comment_is_a_warning(project: Project, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    """Green stays green, as on a pull request from a fork."""
    project.github.refused["POST"] = status
    monkeypatch.setenv("COST", "6")
    outputs = project.act(arguments="--carbon-gate=warn")
    assert outputs is not None
    assert project.job is not None
    assert f"::warning title=pytest-carbon::GitHub took no comment: POST /repos/{REPOSITORY}/" in project.job.log
    assert project.job.outcomes()["Comment on the pull request"] == "success"


@pytest.mark.slow
def test_a_foreign_comment_with_the_marker_stays(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else has written it."""
    theirs = project.github.comment(7, "<!-- pytest-carbon:carbon -->\nmine", "somebody")
    monkeypatch.setenv("COST", "6")
    assert project.act() is None
    assert theirs["body"].endswith("mine")
    assert len(project.github.comments[7]) == 2


@pytest.mark.slow
def test_arguments_are_words_as_in_a_shell_and_nothing_runs(project: Project) -> None:
    """Quotes hold words together; what a shell would execute is text."""
    outputs = project.act(
        arguments="""-k 'it or "plain"' "--junit-xml=a b.xml" $(touch made) `touch made` ; touch made"""
    )
    assert outputs is None  # pytest finds no file of these names
    assert project.job is not None
    assert "$(touch" in project.job.log
    assert not (project.folder / "made").exists()
    assert project.act(arguments="""-k 'it or plain' "--junit-xml=a b.xml"\n  --carbon-label='x=1 2'""") is not None
    assert (project.folder / "a b.xml").exists()
    assert project.act(arguments="-k 'it") is None
    assert "unmatched single quote" in project.job.log or "Run pytest" in project.job.outcomes()


@pytest.mark.slow
def test_the_inputs_are_heard(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another Python, another folder, another name, no comment."""
    monkeypatch.setenv("COST", "6")
    (project.folder / "below").mkdir()
    given = {"python": f"env X=1 {sys.executable}", "working_directory": "below", "name": "gpu-1", "comment": "false"}
    assert project.act(arguments="--rootdir=.. ../test_it.py", **given) is None
    assert project.uploads == {"gpu-1": ["gpu-1.json", "gpu-1.md"]}
    assert project.github.requests == []
    assert project.job is not None
    assert project.job.outcomes()["Pass on pytest's exit status"] == "failure"


@pytest.mark.parametrize("name", ["", "a b", "../x", "a\n::error::x", "-x", "$(touch made)"])
def test_a_name_that_is_none_is_refused(project: Project, name: str) -> None:
    """Before pytest runs: it becomes a path, and part of a comment."""
    assert project.act(name=name) is None
    assert project.job is not None
    assert project.job.log.startswith("::error title=pytest-carbon::the input name must be letters")
    assert project.job.log.count("::") == 2
    assert not (project.temp / "pytest-carbon").exists()


def test_the_page_is_uploaded_before_the_comment_links_to_it() -> None:
    """Unzipped, so that it opens in the browser; every upload comes before the exit status."""
    steps = load("action.yml")["runs"]["steps"]
    names = [step["name"] for step in steps]
    page = steps[names.index("Upload the page")]["with"]
    assert page["archive"] is False
    assert names.index("Upload the page") < names.index("Write Markdown") < names.index("Comment on the pull request")
    assert names[-1] == "Pass on pytest's exit status"
    for step in steps[1:]:
        assert "always()" in step["if"]
        assert step.get("continue-on-error") or step is steps[-1]


def files() -> list[Path]:
    workflows = [*ROOT.glob("examples/ci/*.yml"), *ROOT.glob(".github/workflows/*.yml")]
    return [ROOT / "action.yml", *(path for path in workflows if path.name != "gitlab-ci.yml")]


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_what_others_write_is_never_code(path: Path) -> None:
    """No expression in a script, no trigger with a token beside foreign code, other actions pinned by hash."""
    text = path.read_text("utf-8")
    for uses, rest in re.findall(r"uses: ([^\s@]+@\S+)(.*)", text):
        owner = uses.partition("/")[0]
        assert owner == "pytest-carbon" or re.fullmatch(r"\S+@[0-9a-f]{40}", uses), uses
        assert owner == "pytest-carbon" or re.fullmatch(r" # v\d+\.\d+\.\d+", rest), uses
    content = load(str(path.relative_to(ROOT)))
    assert "pull_request_target" not in text
    jobs = content["jobs"].values() if "jobs" in content else [content["runs"]]
    for step in (step for job in jobs for step in job["steps"]):
        assert "${{" not in step.get("run", ""), step
