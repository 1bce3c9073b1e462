"""The workflows of examples/ci: their steps run as they stand, and they ask for no right that they do not need."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from extras import library
from loopback_github import REPOSITORY, TOKEN, Github, serving
from workflows import ROOT, Job, StepFailed, evaluate, load

import simulation
from pytest_carbon.reports import jsonfile
from simulation import SimulatedGpu, SimulatedNvml

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
NAMES = ["work", "comment", "gpu", "nightly", "shards"]


def jobs(name: str) -> dict[str, Any]:
    return dict(load(f"examples/ci/{name}.yml")["jobs"])


# --- rights ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_no_job_has_more_rights_than_it_needs(name: str) -> None:
    """None for a workflow as a whole; a job that writes names what."""
    assert load(f"examples/ci/{name}.yml")["permissions"] == {}
    allowed = {
        "tests": {"contents": "read"},
        "work": {"contents": "read"},
        "comment": {"actions": "read", "pull-requests": "write"},
        "energy": {"contents": "read", "pull-requests": "write"},
        "against": {"contents": "read", "pull-requests": "write"},
        "record": {"contents": "read"},
        "propose": {"contents": "write", "pull-requests": "write"},
        "shard": {"contents": "read"},
        "suite": {"contents": "read"},
    }
    for job, content in jobs(name).items():
        assert content["permissions"] == allowed[job], job
        assert content["timeout-minutes"] > 0


@pytest.mark.parametrize(("name", "job"), [("comment", "comment"), ("nightly", "propose")])
def test_a_job_that_writes_runs_no_code_of_the_project(name: str, job: str) -> None:
    """Neither pytest nor an installation of it."""
    steps = jobs(name)[job]["steps"]
    scripts = "\n".join(step.get("run", "") for step in steps)
    assert not re.search(r"pytest(?!-carbon)|pip install (?!pytest-carbon==)|python", scripts)
    if name == "comment":
        assert not any("checkout" in step.get("uses", "") for step in steps)


def test_a_fork_never_reaches_the_machine_with_the_gpu() -> None:
    """Every job on it that a pull request starts has the condition."""
    for job in jobs("gpu").values():
        head = {"repo": {"full_name": "stranger/project"}}
        event = {"pull_request": {"head": head, "labels": [{"name": "carbon"}]}}
        assert not evaluate(job["if"], {"github": {"repository": REPOSITORY, "event": event}})
        head["repo"]["full_name"] = REPOSITORY
        assert evaluate(job["if"], {"github": {"repository": REPOSITORY, "event": event}})
    assert True not in load("examples/ci/nightly.yml")[True]  # `on`
    for name in ("nightly", "shards"):
        assert set(load(f"examples/ci/{name}.yml")[True]) == {"schedule", "workflow_dispatch"}


# --- what the steps find ---------------------------------------------------------------------------


@pytest.fixture
def github() -> Iterator[Github]:
    with serving() as github:
        yield github


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder for the PATH: python, the commands of this package, and a pip that installs nothing."""
    folder = tmp_path / "programs"
    folder.mkdir()
    python = f'exec "{sys.executable}" "$@"'
    for name, script in {
        "python": python,
        "pytest": f'exec "{sys.executable}" -m pytest "$@"',
        "pytest-carbon": f'exec "{sys.executable}" -m pytest_carbon.commands.main "$@"',
        "pip": f'echo "pip $*" >> "{tmp_path / "installed"}"',
        # a virtual environment that has all that this one has
        "python3.11": f'[ "$1 $2" = "-m venv" ] && mkdir -p "$3/bin" && cp "{folder}"/* "$3/bin"',
    }.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    return folder


Runner = Callable[..., Job]


@pytest.fixture
def runner(tmp_path: Path, programs: Path, github: Github) -> Runner:
    """Runs a job of a workflow in a checkout: ``runner("nightly", "record", folder)``."""
    artefacts = tmp_path / "artefacts"

    def upload(job: Job, given: Mapping[str, str]) -> Mapping[str, str]:
        files = [job.folder / line for line in given["path"].split()]
        place = artefacts / (files[0].name if given.get("archive") == "false" else given["name"])
        place.mkdir(parents=True, exist_ok=True)
        for file in files:
            shutil.copy(file, place)
        return {"artifact-url": "https://github.example/artifact"}

    def download(job: Job, given: Mapping[str, str]) -> Mapping[str, str]:
        places = [*artefacts.glob(given.get("pattern") or given["name"])]
        if not places:
            raise StepFailed
        for place in places:  # with a pattern, merge-multiple is given
            shutil.copytree(place, job.folder / given["path"], dirs_exist_ok=True)
        return {}

    def run(
        name: str,
        job: str,
        folder: Path,
        event: Mapping[str, Any] | None = None,
        run_id: str = "42",
        matrix: Mapping[str, Any] | None = None,
        **environ: str,
    ) -> Job:
        temp = tmp_path / "temp"
        temp.mkdir(exist_ok=True)
        (temp / "event.json").write_text(json.dumps(event or {}))
        variables = {
            **os.environ,
            **environ,
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "CI": "true",
            "GITHUB_ACTIONS": "true",
            "GITHUB_API_URL": github.address,
            "GITHUB_EVENT_PATH": str(temp / "event.json"),
            "GITHUB_REF_NAME": "main",
            "GITHUB_REPOSITORY": REPOSITORY,
            "GITHUB_REPOSITORY_OWNER": "owner",
            "GITHUB_RUN_ID": run_id,
            "GITHUB_SERVER_URL": "https://github.example",
            "RUNNER_TEMP": str(temp),
            "no_proxy": "127.0.0.1",
        }
        uses = {
            "actions/checkout": lambda job, given: {},
            "actions/setup-python": lambda job, given: {},
            "actions/upload-artifact": upload,
            "actions/download-artifact": download,
            "pytest-carbon/pytest-carbon": lambda job, given: job.act("action.yml", given),
        }
        found = {"token": TOKEN, "event": event or {}}
        return Job(folder, variables, found, uses).run(jobs(name)[job], matrix)

    return run


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def committed(folder: Path, files: Mapping[str, str]) -> Path:
    """A repository with these files on main."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "first")
    return folder


# --- a hosted runner, and the comment after it -----------------------------------------------------


@pytest.mark.slow
def test_work_is_counted_and_the_comment_follows(
    runner: Runner, github: Github, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red in the first workflow, from a fork; the second finds the pull request and has the artefact."""
    library("torch")
    folder = tmp_path / "project"
    test = "import torch\n\ndef test_it(carbon):\n    carbon(torch.ones(8, SIZE).matmul, torch.ones(SIZE, 8))\n"
    committed(folder, {"tests/test_it.py": test.replace("SIZE", "16")})
    monkeypatch.chdir(folder)
    command = [sys.executable, "-m", "pytest", "-q", "--carbon-work", "--carbon-record", "tests"]
    subprocess.run(command, check=True, capture_output=True)
    (folder / "tests/test_it.py").write_text(test.replace("SIZE", "64"))
    job = runner("work", "work", folder)
    assert job.failed
    assert job.outcomes()["pytest-carbon/pytest-carbon@v0.1.0"] == "failure"
    assert github.writes == []
    installed = (tmp_path / "installed").read_text()
    assert "pip install -e .[test] pytest-carbon[report]" in installed
    github.pull(9, "stranger:fix", "abc")
    run = {"id": 42, "head_sha": "abc", "head_branch": "fix", "head_repository": {"owner": {"login": "stranger"}}}
    run |= {"html_url": "https://github.example/owner/project/actions/runs/42"}
    job = runner("comment", "comment", tmp_path, {"workflow_run": run}, "43")
    assert not job.failed, job.log
    (comment,) = github.comments[9]
    assert comment["body"].startswith("<!-- pytest-carbon:work -->\n")
    assert "tests/test_it.py::test_it" in comment["body"]
    assert "https://github.example/owner/project/actions/runs/42" in comment["body"]
    assert "gh run download 42 --name=work" in comment["body"]


@pytest.mark.slow
def test_without_an_artefact_there_is_no_comment(runner: Runner, github: Github, tmp_path: Path) -> None:
    """The first workflow was cancelled."""
    job = runner("comment", "comment", tmp_path, {"workflow_run": {"id": 42}})
    assert not job.failed
    assert list(job.outcomes().values()) == ["failure", *["skipped"] * 3]
    assert github.requests == []


# --- the nightly recording -------------------------------------------------------------------------

MEASURED = """
import time
from simulation import gpu_load

def test_steady(carbon):
    with carbon.window("call"), gpu_load(200.0):
        time.sleep(0.6)

def test_broken():
    assert False, "a red test loses nothing but itself"
"""


@pytest.mark.slow
def test_a_red_night_is_recorded_all_the_same(
    runner: Runner, github: Github, tmp_path: Path, nvml_library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the machine with the GPU; what was recorded goes on as a patch."""
    folder = committed(tmp_path / "project", {"tests/test_it.py": MEASURED, ".gitignore": ".venv\n__pycache__\n"})
    monkeypatch.setenv("PYTHONPATH", str(Path(simulation.__file__).parents[1]))
    with SimulatedNvml(tmp_path / "gpu", [SimulatedGpu(period_s=0.02)], library=nvml_library) as gpus:
        job = runner("nightly", "record", folder, **gpus.environ)
    assert job.failed
    assert job.outcomes()["Take what was recorded"] == "success"
    assert job.outputs == {"any": "true"}, job.log
    patch = (tmp_path / "artefacts/recordings/recordings.patch").read_text("utf-8")
    assert re.search(r"^\+\+\+ b/carbon-baselines/\S+/tests/test_it\.py\.jsonl$", patch, re.MULTILINE)
    assert "test_steady" in patch
    assert github.writes == []


def night(tmp_path: Path, number: int, folder: Path) -> None:
    """What the first job leaves: a patch of the checked-out main."""
    file = folder / "carbon-baselines/a-machine/test_it.py.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as stream:
        stream.write(f'{{"recording of night": {number}}}\n')
    git(folder, "add", "--intent-to-add", "carbon-baselines")
    place = tmp_path / "artefacts/recordings"
    place.mkdir(parents=True, exist_ok=True)
    (place / "recordings.patch").write_text(git(folder, "diff", "--binary", "--", "carbon-baselines") + "\n")
    git(folder, "checkout", "-q", "--", ".") if git(folder, "ls-files", "carbon-baselines") else None
    git(folder, "reset", "-q", "--hard")
    git(folder, "clean", "-qfd")


def test_recordings_are_one_pull_request_that_grows(runner: Runner, github: Github, tmp_path: Path) -> None:
    """A night after another, while nobody merges; after a merge it begins again."""
    for program in ("curl", "jq"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    line = "carbon-baselines/**/*.jsonl merge=union\n"
    folder = committed(tmp_path / "project", {".gitattributes": line, "code.py": "x = 1\n"})
    (tmp_path / "origin").mkdir()
    git(tmp_path / "origin", "init", "-q", "--bare")
    git(folder, "remote", "add", "origin", str(tmp_path / "origin"))
    git(folder, "push", "-q", "origin", "main")

    def recorded(branch: str = "carbon-recordings") -> list[str]:
        return git(tmp_path / "origin", "show", f"{branch}:carbon-baselines/a-machine/test_it.py.jsonl").splitlines()

    def propose(number: int) -> Job:
        git(folder, "checkout", "-q", "main")
        night(tmp_path, number, folder)
        job = runner("nightly", "propose", folder)
        git(folder, "reset", "-q", "--hard", "origin/main")
        return job

    job = propose(1)
    assert not job.failed, job.log
    assert "Opened https://github.example/owner/project/pull/1" in job.log
    (pull,) = github.pulls
    assert (pull["title"], pull["base"]) == ("Recordings of energy", "main")
    assert len(recorded()) == 1
    job = propose(2)
    assert not job.failed, job.log
    assert len(github.pulls) == 1
    assert sorted(recorded()) == ['{"recording of night": 1}', '{"recording of night": 2}']
    assert git(tmp_path / "origin", "log", "--format=%s", "main") == "first"
    # squashed and merged, and the branch was left where it was
    pull["state"] = "closed"
    git(folder, "merge", "-q", "--squash", "origin/carbon-recordings")
    git(folder, "commit", "-qm", "merged")
    git(folder, "push", "-q", "origin", "main")
    job = propose(3)
    assert not job.failed, job.log
    assert len(github.pulls) == 2
    assert len(recorded()) == 3
    assert len(set(recorded())) == 3


# --- shards ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_shards_are_judged_by_one_job(
    runner: Runner, tmp_path: Path, nvml_library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test that fails turns the last job red, and so does the report of a shard that is not there."""
    files = {"tests/test_it.py": MEASURED, ".gitignore": ".venv\n__pycache__\n"}
    folder = committed(tmp_path / "project", files)
    (folder / "carbon-baselines").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(Path(simulation.__file__).parents[1]))
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    with SimulatedNvml(tmp_path / "gpu", [SimulatedGpu(period_s=0.02)], library=nvml_library) as gpus:
        for shard in jobs("shards")["shard"]["strategy"]["matrix"]["shard"]:
            job = runner("shards", "shard", folder, matrix={"shard": shard}, **gpus.environ)
            assert not job.failed, job.log
    job = runner("shards", "suite", folder)
    assert job.failed
    assert "4 shards, merged: compared 0 of 0 measurements with a baseline" in job.log
    assert "shard 4/4 ended with exit status 1, and no verdict is the reason" in job.log
    assert "Carbon: 4 shards, merged; 1 new; exit status 1" in summary.read_text("utf-8")
    shutil.rmtree(tmp_path / "artefacts/shard2")
    shutil.rmtree(folder / "reports")
    assert "1 shard of 4 is missing: 2/4" in runner("shards", "suite", folder).log


# --- GitLab ----------------------------------------------------------------------------------------


def component(**inputs: str) -> tuple[str, dict[str, Any]]:
    """The job that GitLab makes of the component."""
    header, body = yaml.safe_load_all((ROOT / "templates/pytest-carbon.yml").read_text("utf-8"))
    known = header["spec"]["inputs"]
    assert set(inputs) <= set(known)
    values = {name: inputs.get(name, one.get("default")) for name, one in known.items()}
    assert None not in values.values()

    def filled(node: Any) -> Any:
        if isinstance(node, dict):
            return {filled(key): filled(value) for key, value in node.items()}
        if isinstance(node, list):
            return [filled(one) for one in node]
        if isinstance(node, str):
            if (whole := re.fullmatch(r"\$\[\[ inputs\.([\w-]+) \]\]", node)) is not None:
                return values[whole[1]]
            return re.sub(r"\$\[\[ inputs\.([\w-]+) \]\]", lambda match: str(values[match[1]]), node)
        return node

    ((name, job),) = filled(body).items()
    return name, job


def test_the_component_of_gitlab_gives_what_it_needs_by_default() -> None:
    """Red runs have their artefacts, and what the example gives are inputs."""
    for included in load("examples/ci/gitlab-ci.yml")["include"]:
        name, job = component(**included["inputs"])
        assert name == included["inputs"]["job"]
        assert job["artifacts"]["when"] == "always"
        assert job["artifacts"]["reports"] == {"junit": f"{name}.xml"}
        assert set(job["artifacts"]["paths"]) == {f"{name}.html", f"{name}.json"}
        assert "$[[" not in json.dumps(job)


@pytest.mark.slow
def test_the_script_of_the_component_runs(programs: Path, tmp_path: Path) -> None:
    """Red, with a JUnit report, a page and a report beside it; the download that it names is that of the job."""
    library("torch")
    library("jinja2")
    test = "import torch\n\ndef test_it(carbon):\n    carbon(torch.ones(8, 16).matmul, torch.ones(16, 8))\n"
    folder = committed(tmp_path / "project", {"tests/test_it.py": test})
    command = [sys.executable, "-m", "pytest", "-q", "--carbon-work", "--carbon-record", "tests"]
    subprocess.run(command, check=True, capture_output=True, cwd=folder)
    (folder / "tests/test_it.py").write_text(test.replace("16", "64"))
    _, job = component(job="work", arguments="--carbon-work tests")
    variables = {
        "GITLAB_CI": "true",
        "CI_SERVER_HOST": "gitlab.example",
        "CI_PROJECT_ID": "5",
        "CI_JOB_ID": "77",
        "CI_JOB_URL": "https://gitlab.example/-/jobs/77",
        "CI_PROJECT_DIR": str(folder),
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
    }
    ran = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", "\n".join(job["script"])],
        cwd=folder,
        env={**os.environ, **variables, **job["variables"]},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert ran.returncode == 1
    for file in (*job["artifacts"]["paths"], job["artifacts"]["reports"]["junit"]):
        assert (folder / file).stat().st_size > 100
    assert jsonfile.read(folder / "work.json").branch == "main"
    text = "glab api --hostname=gitlab.example projects/5/jobs/77/artifacts/work.json > work.json"
    assert text in ran.stdout
