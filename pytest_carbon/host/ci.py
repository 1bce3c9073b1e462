"""The CI service that runs this process, and how another machine gets the run's report from it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pytest_carbon.host.stdlib import os

_FOLDER = "carbon-run"


@dataclass(frozen=True, slots=True)
class CiRun:
    """A run of a CI service, and how another machine downloads a report of it."""

    service: str
    page: str | None = None
    """The address of the run, for people."""
    download: tuple[str, ...] = ()
    """The words of the command, with {stem}, {name} and {path} for a report; none where no command is known."""
    top: str = ""
    """The folder whose files the service keeps by their path in it, {path}."""
    into: str = "{name}"
    """Where the command puts the report."""
    prints: bool = False
    """Whether the command prints the report."""

    def fetch(self, report: str) -> tuple[str | None, str]:
        """Return the command that downloads a report, if one is known, and the path that the report then has."""
        name = os.path.basename(report)
        path = os.path.relpath(report, self.top) if self.top else name
        path = name if path.startswith("..") else path
        stem = os.path.splitext(name)[0]
        into, *words = (
            word.replace("{stem}", stem).replace("{name}", name).replace("{path}", path)
            for word in (self.into, *self.download)
        )
        command = shlex.join(words) + (f" > {shlex.quote(into)}" if self.prints else "")
        return command or None, into


def ci_run(environ: Mapping[str, str]) -> CiRun | None:
    """Return the run of a CI service that this process is part of.

    Where a service gives an artefact a name of its own, the name is that of the report without its suffix:
    ``carbon`` has ``carbon.json``.
    """
    for variable, run in SERVICES.items():
        if not _off(environ.get(variable, "")):
            page = _filled(run.page, environ)
            page = page and page.replace(" ", "%20")
            top, *words = (_filled(word, environ) for word in (run.top, *run.download))
            if top is None or None in words:
                return CiRun(run.service, page)
            return replace(run, page=page, top=top, download=tuple(filter(None, words)))
    return None


def service_of(environ: Mapping[str, str]) -> str | None:
    """Name the CI service that runs this process; ``CI`` where it is unknown."""
    run = ci_run(environ)
    if run is not None:
        return run.service
    return None if _off(environ.get("CI", "")) else "CI"


def in_ci(environ: Mapping[str, str]) -> bool:
    """Tell whether this is CI: as ``CI`` says, which Azure Pipelines and Jenkins do not set, else by the service."""
    given = environ.get("CI")
    return service_of(environ) is not None if given is None else not _off(given)


def _off(value: str) -> bool:
    return value.strip().lower() in ("", "0", "false", "no", "off")


def _filled(text: str | None, environ: Mapping[str, str]) -> str | None:
    """Put the values of variables into ``$NAME``; None where the service has not set one."""
    names = _VARIABLE.findall(text or "")
    if text is None or not all(environ.get(name) for name in names):
        return None
    return _VARIABLE.sub(lambda match: environ[match[1]], text)


_VARIABLE = re.compile(r"\$\{?([A-Z_]+)\}?")
_GITHUB_RUN = "$GITHUB_SERVER_URL/$GITHUB_REPOSITORY/actions/runs/$GITHUB_RUN_ID"
SERVICES: Mapping[str, CiRun] = {
    "GITEA_ACTIONS": CiRun("Gitea Actions", _GITHUB_RUN),  # it sets GitHub's variables, too
    "FORGEJO_ACTIONS": CiRun("Forgejo Actions", _GITHUB_RUN),
    "GITHUB_ACTIONS": CiRun(
        "GitHub Actions",
        _GITHUB_RUN,
        ("gh", "run", "download", "$GITHUB_RUN_ID", "--name={stem}", f"--dir={_FOLDER}"),
        into=f"{_FOLDER}/{{name}}",
    ),
    "GITLAB_CI": CiRun(
        "GitLab CI",
        "$CI_JOB_URL",
        ("glab", "api", "--hostname=$CI_SERVER_HOST", "projects/$CI_PROJECT_ID/jobs/$CI_JOB_ID/artifacts/{path}"),
        top="$CI_PROJECT_DIR",
        prints=True,
    ),
    "TF_BUILD": CiRun(
        "Azure Pipelines",
        "$SYSTEM_COLLECTIONURI$SYSTEM_TEAMPROJECT/_build/results?buildId=$BUILD_BUILDID",
        (
            *("az", "pipelines", "runs", "artifact", "download", "--org=$SYSTEM_COLLECTIONURI"),
            *(
                "--project=$SYSTEM_TEAMPROJECT",
                "--run-id=$BUILD_BUILDID",
                "--artifact-name={stem}",
                f"--path={_FOLDER}",
            ),
        ),
        into=f"{_FOLDER}/{{name}}",
    ),
    "JENKINS_URL": CiRun(
        "Jenkins",
        "$BUILD_URL",
        ("curl", "--fail", "--user=USER:TOKEN", "--output={name}", "${BUILD_URL}artifact/{path}"),
        top="$WORKSPACE",
    ),
    "BUILDKITE": CiRun("Buildkite", "$BUILDKITE_BUILD_URL"),
    "CIRCLECI": CiRun("CircleCI", "$CIRCLE_BUILD_URL"),
    "TRAVIS": CiRun("Travis CI", "$TRAVIS_BUILD_WEB_URL"),
    "APPVEYOR": CiRun(
        "AppVeyor",
        "$APPVEYOR_URL/project/$APPVEYOR_ACCOUNT_NAME/$APPVEYOR_PROJECT_SLUG/build/job/$APPVEYOR_JOB_ID/artifacts",
    ),
    "DRONE": CiRun("Drone", "$DRONE_BUILD_LINK"),
    "SEMAPHORE": CiRun("Semaphore", "$SEMAPHORE_ORGANIZATION_URL/workflows/$SEMAPHORE_WORKFLOW_ID"),
    "CIRRUS_CI": CiRun("Cirrus CI", "https://cirrus-ci.com/task/$CIRRUS_TASK_ID"),
    "BITBUCKET_BUILD_NUMBER": CiRun(
        "Bitbucket Pipelines", "$BITBUCKET_GIT_HTTP_ORIGIN/pipelines/results/$BITBUCKET_BUILD_NUMBER"
    ),
    "CI_PIPELINE_FORGE_URL": CiRun("Woodpecker", "$CI_PIPELINE_URL"),
}
"""By the variable that tells the service: what a run of it is, with its variables."""
