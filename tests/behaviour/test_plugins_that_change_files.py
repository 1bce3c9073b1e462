"""Plugins that judge or clean up by what ran, where the tests run in fresh processes."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import CarbonRunner

pytestmark = pytest.mark.slow

SUITE = """
import os
import pytest
from battery import draw

@pytest.mark.carbon_budget
def test_a({fixture}):
    draw(float(os.environ.get("A", "2")))
    {check}

def test_plain({fixture}):
    {check}
"""
SNAPSHOTS = """
import json, os
from pathlib import Path
import pytest

FILE = Path(__file__).with_name("snapshots.json")

def pytest_addoption(parser):
    group = parser.getgroup("my snapshots")
    group.addoption("--snapshot-update", action="store_true", default=False)
    group.addoption("--inline-snapshot", default=None, metavar="MODE")
    group.addoption("--force-regen", action="store_true", default=False)
    group.addoption("--update-goldens", action="store_true", default=False)
    group.addoption("--record-mode", default="none")
    group.addoption("--snapshot-dir", default="here")
    group.addoption("--snapshot-warn-unused", action="store_true", default=False)

class Seen:
    def __init__(self, config):
        self.config, self.used = config, set()

    def pytest_sessionfinish(self, session):
        known = json.loads(FILE.read_text())
        unused = set(known) - self.used
        if self.config.option.snapshot_update:
            FILE.write_text(json.dumps(sorted(self.used)))
        elif unused and not self.config.option.snapshot_warn_unused:
            session.exitstatus = 1

def pytest_configure(config):
    config.seen = Seen(config)
    config.pluginmanager.register(config.seen)

@pytest.fixture
def snapshot(request):
    request.config.seen.used.add(request.node.name)
"""


@pytest.fixture
def snapshots(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> Path:
    """Two of them, one for each test, and a baseline."""
    pytester.makeconftest(SNAPSHOTS)
    pytester.makepyfile(test_it=SUITE.format(fixture="snapshot", check="pass"))
    file = pytester.path / "snapshots.json"
    file.write_text("[]", "utf-8")
    assert run_carbon("--carbon-record", "--snapshot-update").ret == 0
    assert file.read_text("utf-8") == '["test_a", "test_plain"]'
    return file


APART = ("--carbon-sessions=2", "--carbon-against=HEAD")
FLAGS = (
    "--snapshot-update",
    "--inline-snapshot=create,fix",
    "--inline-snapshot=trim",
    "--force-regen",
    "--update-goldens",
    "--record-mode=rewrite",
)


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("apart", APART)
def test_flags_that_change_files_are_refused(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, snapshots: Path, flag: str, apart: str
) -> None:
    """By name, before anything runs: the process that would change them runs no test."""
    if "against" in apart:
        for command in ("init -q", "add .", "-c user.name=a -c user.email=a@b commit -qm a"):
            pytester.run("git", *command.split())
    before = snapshots.read_text("utf-8")
    run = run_carbon(apart, flag)
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert f"{flag} changes files by what ran in one process, and with {apart.removesuffix('=HEAD')}" in run.errors
    assert snapshots.read_text("utf-8") == before


@pytest.mark.usefixtures("snapshots")
@pytest.mark.parametrize("flag", ["--snapshot-dir=elsewhere", "--record-mode=none", "--inline-snapshot=off"])
def test_flags_that_change_nothing_are_not(run_carbon: CarbonRunner, flag: str) -> None:
    """Nor does a plugin fail the run for snapshots that no test used: the processes with tests used them."""
    run = run_carbon("--carbon-sessions=2", flag, subprocess=True)
    assert (run.ret, run.outcomes()) == (0, {"passed": 2})


def test_what_is_unused_in_the_process_with_the_tests_fails_the_run(run_carbon: CarbonRunner, snapshots: Path) -> None:
    """There a plugin sees what ran, and its judgement counts."""
    snapshots.write_text('["test_a", "test_plain", "test_gone"]', "utf-8")
    run = run_carbon("--carbon-sessions=2", subprocess=True)
    assert (run.ret, run.outcomes()) == (1, {"passed": 2})
    assert "ERROR: session 1 of 2: a plugin ended the process with exit status 1, though no test failed" in run.text


def test_nothing_is_measured_again_while_files_change(
    run_carbon: CarbonRunner, monkeypatch: pytest.MonkeyPatch, snapshots: Path
) -> None:
    """A confirmation runs the suspects alone, and would delete what the others use."""
    monkeypatch.setenv("A", "3")
    run = run_carbon("--carbon-confirm=2", "--snapshot-update", subprocess=True)
    assert (run.ret, run.status("test_a")) == (1, "regression")
    assert "--snapshot-update changes files by what runs, so nothing is run a second time" in run.text
    assert snapshots.read_text("utf-8") == '["test_a", "test_plain"]'
    run = run_carbon("--carbon-confirm=2", subprocess=True)
    assert "measured again in fresh processes, because suspect: test_it.py::test_a" in run.text
    assert snapshots.read_text("utf-8") == '["test_a", "test_plain"]'


@pytest.mark.usefixtures("all_plugins")
def test_syrupy(run_carbon: CarbonRunner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its snapshots stay, and are not called unused, in sessions and in a confirmation."""
    pytest.importorskip("syrupy")
    pytester.makepyfile(test_it=SUITE.format(fixture="snapshot", check="assert {'a': 1} == snapshot"))
    assert run_carbon("--carbon-record", "--snapshot-update", subprocess=True).ret == 0
    (file,) = (pytester.path / "__snapshots__").glob("*.ambr")
    before = file.read_bytes()
    refused = run_carbon("--carbon-sessions=2", "--snapshot-update", subprocess=True)
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    run = run_carbon("--carbon-sessions=2", subprocess=True)
    assert (run.ret, run.outcomes()) == (0, {"passed": 2})
    monkeypatch.setenv("A", "2.4")
    run = run_carbon("--carbon-confirm=1", "--snapshot-update", subprocess=True)
    assert file.read_bytes() == before
