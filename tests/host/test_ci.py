"""CI services: which one it is, and how another machine gets the report."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_carbon.host.ci import SERVICES, ci_run, in_ci, service_of

GITHUB = {
    "GITHUB_ACTIONS": "true",
    "GITHUB_RUN_ID": "42",
    "GITHUB_SERVER_URL": "https://github.example",
    "GITHUB_REPOSITORY": "owner/project",
}
GITLAB = {
    "GITLAB_CI": "true",
    "CI_SERVER_HOST": "gitlab.example",
    "CI_PROJECT_ID": "5",
    "CI_JOB_ID": "77",
    "CI_JOB_URL": "https://gitlab.example/group/project/-/jobs/77",
    "CI_PROJECT_DIR": "/builds/group/project",
}
AZURE = {
    "TF_BUILD": "True",
    "SYSTEM_COLLECTIONURI": "https://dev.azure.example/group/",
    "SYSTEM_TEAMPROJECT": "My project",
    "BUILD_BUILDID": "9",
}
JENKINS = {
    "JENKINS_URL": "https://ci.example/",
    "BUILD_URL": "https://ci.example/job/x/3/",
    "WORKSPACE": "/home/ci/workspace/x",
}


@pytest.mark.parametrize(
    ("environ", "report", "command", "path"),
    [
        (GITHUB, "out/work.json", "gh run download 42 --name=work --dir=carbon-run", "carbon-run/work.json"),
        (GITHUB, "/tmp/a b.json", "gh run download 42 '--name=a b' --dir=carbon-run", "carbon-run/a b.json"),
        (
            GITLAB,
            "/builds/group/project/out/carbon.json",
            "glab api --hostname=gitlab.example projects/5/jobs/77/artifacts/out/carbon.json > carbon.json",
            "carbon.json",
        ),
        (
            GITLAB,
            "/elsewhere/carbon.json",
            "glab api --hostname=gitlab.example projects/5/jobs/77/artifacts/carbon.json > carbon.json",
            "carbon.json",
        ),
        (
            AZURE,
            "carbon.json",
            "az pipelines runs artifact download --org=https://dev.azure.example/group/ '--project=My project'"
            " --run-id=9 --artifact-name=carbon --path=carbon-run",
            "carbon-run/carbon.json",
        ),
        (
            JENKINS,
            "/home/ci/workspace/x/out/carbon.json",
            "curl --fail --user=USER:TOKEN --output=carbon.json https://ci.example/job/x/3/artifact/out/carbon.json",
            "carbon.json",
        ),
        ({"CIRCLECI": "true"}, "out/carbon.json", None, "carbon.json"),
        ({"GITHUB_ACTIONS": "true"}, "carbon.json", None, "carbon.json"),
        ({"GITEA_ACTIONS": "true", **GITHUB}, "carbon.json", None, "carbon.json"),
    ],
)
def test_how_a_report_comes_to_another_machine(
    environ: dict[str, str], report: str, command: str | None, path: str
) -> None:
    """With a command where one is known; else the page of the run says where to look."""
    run = ci_run(environ)
    assert run is not None
    assert run.fetch(report) == (command, path)


@pytest.mark.parametrize(
    ("environ", "service", "page"),
    [
        (GITHUB, "GitHub Actions", "https://github.example/owner/project/actions/runs/42"),
        (GITLAB, "GitLab CI", "https://gitlab.example/group/project/-/jobs/77"),
        (AZURE, "Azure Pipelines", "https://dev.azure.example/group/My%20project/_build/results?buildId=9"),
        (JENKINS, "Jenkins", "https://ci.example/job/x/3/"),
        ({"BUILDKITE": "true", "BUILDKITE_BUILD_URL": "https://x/1"}, "Buildkite", "https://x/1"),
        ({"CIRCLECI": "true", "CIRCLE_BUILD_URL": "https://x/1"}, "CircleCI", "https://x/1"),
        ({"TRAVIS": "true", "TRAVIS_BUILD_WEB_URL": "https://x/1"}, "Travis CI", "https://x/1"),
        ({"APPVEYOR": "True"}, "AppVeyor", None),
        ({"DRONE": "true", "DRONE_BUILD_LINK": "https://x/1"}, "Drone", "https://x/1"),
        ({"SEMAPHORE": "true"}, "Semaphore", None),
        ({"CIRRUS_CI": "true", "CIRRUS_TASK_ID": "4"}, "Cirrus CI", "https://cirrus-ci.com/task/4"),
        (
            {"BITBUCKET_BUILD_NUMBER": "4", "BITBUCKET_GIT_HTTP_ORIGIN": "https://x"},
            "Bitbucket Pipelines",
            "https://x/pipelines/results/4",
        ),
        ({"CI_PIPELINE_FORGE_URL": "https://y", "CI_PIPELINE_URL": "https://x/1"}, "Woodpecker", "https://x/1"),
    ],
)
def test_each_service_is_recognised(environ: dict[str, str], service: str, page: str | None) -> None:
    """With the address of the run."""
    run = ci_run({"CI": "true", **environ})
    assert run is not None
    assert (run.service, run.page) == (service, page)
    assert service_of(environ) == service


@pytest.mark.parametrize("environ", [{}, {"CI": "true"}, {"GITHUB_ACTIONS": "false"}, {"CI": "1", "TF_BUILD": ""}])
def test_elsewhere_there_is_no_service(environ: dict[str, str]) -> None:
    """CI is all that is known of others."""
    assert ci_run(environ) is None
    assert service_of(environ) == ("CI" if "CI" in environ else None)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, False),
        ({"CI": "true"}, True),
        ({"CI": "no"}, False),
        ({"TF_BUILD": "True"}, True),
        ({"JENKINS_URL": "https://ci.example/"}, True),
        ({"CI": "false", **GITHUB}, False),
    ],
)
def test_azure_and_jenkins_are_ci_though_they_do_not_set_it(environ: dict[str, str], expected: bool) -> None:
    """Where CI is set, it decides."""
    assert in_ci(environ) is expected


def test_the_docs_name_each_service() -> None:
    """And have the row of each whose command is known."""
    page = (Path(__file__).parents[2] / "docs/ci.md").read_text("utf-8")
    rows = {line.split(" | ")[0].strip("| "): line for line in page.splitlines() if line.startswith("| ")}
    for run in SERVICES.values():
        assert run.service in page
        if run.download:
            assert run.download[0] in rows[run.service]
