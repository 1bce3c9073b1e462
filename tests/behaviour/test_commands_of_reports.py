"""The commands on a page and in a comment, of a project below its repository's top: they work when pasted there."""

from __future__ import annotations

import re
import shlex
import subprocess
from html import unescape
from pathlib import Path

import pytest
from conftest import CarbonRunner
from console import carbon

TEST = "from battery import draw\n\ndef test_it(carbon):\n    carbon(draw, {joules})\n"


@pytest.fixture
def red(run_carbon: CarbonRunner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> CarbonRunner:
    """A test in a folder with an ini file of its own, which takes three times what its baseline says."""
    subprocess.run(["git", "init", "-q"], cwd=pytester.path, check=True)
    folder = pytester.mkdir("models")
    (folder / "pytest.ini").write_text("[pytest]\n", "utf-8")
    (folder / "test_it.py").write_text(TEST.format(joules=2.0), "utf-8")
    assert run_carbon("--carbon-record", "models").ret == 0
    (folder / "test_it.py").write_text(TEST.format(joules=6.0), "utf-8")
    for variable in ("GITHUB_ACTIONS", "GITHUB_RUN_ID"):
        monkeypatch.delenv(variable, raising=False)
    return run_carbon


def commands(text: str, program: str) -> list[str]:
    return list(dict.fromkeys(re.findall(rf"\b{program} [^<\n`]+", unescape(text))))


def test_they_are_called_from_the_top_of_the_repository(red: CarbonRunner, pytester: pytest.Pytester) -> None:
    assert red("models", "--carbon-html=page.html").ret == 1
    comment = carbon("report", "report.json", "--markdown=-").out
    page = (
        Path("page.html").read_text("utf-8").partition("<script")[0] + carbon("report", "report.json", "--html=-").out
    )
    assert commands(page, "pytest --carbon-accept") == [
        "pytest --carbon-accept --config-file=models/pytest.ini models/test_it.py::test_it"
    ]
    accept = "pytest-carbon baseline accept report.json --config-file=models/pytest.ini"
    assert commands(comment, "pytest-carbon baseline accept") == [accept]
    assert accept in unescape(page)
    assert carbon(*shlex.split(accept)[1:]).ret == 0
    assert red("models").status("::test_it") == "pass"
    assert red("--carbon-accept", "--config-file=models/pytest.ini", "models/test_it.py::test_it").ret == 0


def test_baselines_elsewhere_are_named(red: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Relative to the top, too, wherever the run was called."""
    (pytester.path / "models" / "carbon-baselines").rename(pytester.path / "kept")
    assert red("models", "--carbon-baseline=kept").ret == 1
    (accept,) = commands(carbon("report", "report.json", "--markdown=-").out, "pytest-carbon baseline accept")
    assert accept.endswith(" --config-file=models/pytest.ini --carbon-baseline=kept")
    assert carbon(*shlex.split(accept)[1:]).ret == 0
