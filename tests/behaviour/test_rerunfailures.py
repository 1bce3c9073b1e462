"""Beside pytest-rerunfailures: what a test measured last counts, and a verdict is not rerun away."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from conftest import CarbonRunner
from faults import recorded, records

pytest.importorskip("pytest_rerunfailures")

pytestmark = pytest.mark.usefixtures("all_plugins")

FLAKY = """
import os
from pathlib import Path
import pytest
from battery import draw

def attempts(name):
    file = Path(name)
    with file.open("a") as log:
        log.write("x")
    return file.stat().st_size

def test_flaky(carbon):
    attempt = attempts("flaky")
    with carbon.window():
        draw(10.0 * attempt)
    assert attempt >= 3, "not yet"

@pytest.mark.carbon_budget(energy="2 J")
def test_dear():
    attempts("dear")
    draw(float(os.environ.get("COST", "1")))
"""


def test_a_functional_failure_is_rerun(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Its last measurement is the test's: what the failed attempts measured is neither reported nor recorded."""
    pytester.makepyfile(test_it=FLAKY)
    run = run_carbon("--reruns=3", "--carbon-record", "--junitxml=junit.xml", "-rR")
    assert (run.ret, run.outcomes()) == (0, {"passed": 2, "rerun": 2})
    (measured,) = run.test("::test_flaky")["measurements"]
    assert (measured["name"], measured["energy_j_per_call"]) == ("window", 30.0)
    assert sorted(recorded(pytester.path)) == ["test_dear", "test_flaky"]
    assert {r["energy_j_per_call"] for r in records(pytester.path)} == {1.0, 30.0}
    cases = list(ElementTree.parse(pytester.path / "junit.xml").iter("testcase"))
    for case in cases:  # one for each attempt
        names = [found.get("name") for found in case.iter("property")]
        assert len(names) == len(set(names))
    last = {found.get("name"): found.get("value") for case in cases for found in case.iter("property")}
    assert last["carbon.window.energy_j_per_call"] == "30.0"


def test_a_failure_that_stays(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """It fails for its own reason, once, and is not recorded."""
    pytester.makepyfile(test_it=FLAKY.replace(">= 3", ">= 9"))
    run = run_carbon("--reruns=2", "--carbon-record")
    assert (run.ret, run.outcomes()) == (1, {"passed": 1, "failed": 1, "rerun": 2})
    assert "not yet" in run.text
    assert recorded(pytester.path) == ["test_dear"]


@pytest.mark.parametrize("by", ["over its budget", "a regression", "an error"])
def test_a_verdict_is_not_rerun_away(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """The test itself passed: running it again until the gate is content would make a gate of nothing."""
    pytester.makepyfile(test_it=FLAKY)
    run_carbon("--reruns=3", "--carbon-record")
    (pytester.path / "dear").unlink()
    monkeypatch.setenv("COST", {"over its budget": "3", "a regression": "1.9", "an error": "0"}[by])
    run = run_carbon("--reruns=3", "--reruns-delay=0", "-k", "dear")
    assert (run.ret, run.outcomes()) == (1, {"failed": 1, "deselected": 1})
    assert run.status("::test_dear") == {"a regression": "regression", "an error": "error"}.get(by, "over-budget")
    assert (pytester.path / "dear").read_text() == "x"


def test_a_marker_reruns_too(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """``@pytest.mark.flaky(reruns=…)`` on a marked test without the fixture."""
    pytester.makepyfile(
        test_it="""
from itertools import count
import pytest
from battery import draw
attempts = count(1)

@pytest.mark.flaky(reruns=2)
@pytest.mark.carbon_budget(energy="5 J")
def test_it():
    attempt = next(attempts)
    draw(4.0 / attempt)
    assert attempt == 2
"""
    )
    run = run_carbon()
    assert (run.ret, run.outcomes()) == (0, {"passed": 1, "rerun": 1})
    (measured,) = run.test("test_it")["measurements"]
    assert measured["energy_j_per_call"] == 2.0
