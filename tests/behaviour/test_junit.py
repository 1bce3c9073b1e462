"""JUnit XML, and what other reporters read: figures as properties, the verdict as the failure."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from conftest import CarbonRunner

SUITE = """
import pytest
from battery import draw

@pytest.mark.carbon_budget(energy="9 J")
def test_passes(request):
    request.node.user_properties += [("mine", "kept"), (7, "as pytest takes it")]
    draw(2.0)

@pytest.mark.carbon_budget(energy="1 J")
def test_over():
    draw(2.0)

def test_two(carbon):
    with carbon.window("prefill"):
        draw(4.0)
    with carbon.window("decode", calls=4):
        draw(4.0)

@pytest.mark.carbon_budget
def test_not_measured():
    pass

def test_plain():
    pass
"""


def cases(path: Path) -> dict[str, ElementTree.Element]:
    return {case.attrib["name"]: case for case in ElementTree.parse(path).getroot().iter("testcase")}


def properties(case: ElementTree.Element) -> dict[str, str]:
    found = [(p.attrib["name"], p.attrib["value"]) for p in case.iter("property")]
    assert len(found) == len(dict(found)), "a property stands twice"
    return dict(found)


@pytest.fixture
def junit(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> dict[str, ElementTree.Element]:
    pytester.makepyfile(test_it=SUITE)
    run_carbon("--junitxml=junit.xml")
    return cases(pytester.path / "junit.xml")


def test_figures_are_properties(junit: dict[str, ElementTree.Element]) -> None:
    """SI numbers, beside the properties of the test's own."""
    found = properties(junit["test_passes"])
    assert (found["mine"], found["7"]) == ("kept", "as pytest takes it")
    assert found["carbon.status"] == "new"
    assert found["carbon.machine"] == "1x-battery-gpu"
    assert float(found["carbon.energy_j_per_call"]) == 2.0
    assert float(found["carbon.emissions_g_per_call"]) == pytest.approx(2.0 / 3.6e6 * 475)
    assert float(found["carbon.limit_j_per_call"]) == 9.0
    assert found["carbon.calls"] == "1"


def test_each_measurement_has_its_own(junit: dict[str, ElementTree.Element]) -> None:
    """By its name."""
    found = properties(junit["test_two"])
    assert float(found["carbon.prefill.energy_j_per_call"]) == 4.0
    assert float(found["carbon.decode.energy_j_per_call"]) == 1.0
    assert found["carbon.decode.calls"] == "4"


def test_what_is_unknown_is_left_out(junit: dict[str, ElementTree.Element]) -> None:
    """Never 0."""
    found = properties(junit["test_not_measured"])
    assert found["carbon.status"] == "error"
    assert not any("energy" in name for name in found)
    assert properties(junit["test_plain"]) == {}


def test_the_verdict_is_the_failure(junit: dict[str, ElementTree.Element]) -> None:
    """A message of one line, and the whole text."""
    failure = junit["test_over"].find("failure")
    assert failure is not None
    assert failure.attrib["message"].startswith("2.00 J per call, 2.0× the budget of 1 J")
    assert (failure.text or "").startswith("carbon over-budget: 2.00 J per call, 2.0× the budget of 1 J")
    assert junit["test_passes"].find("failure") is None
    assert properties(junit["test_over"])["carbon.status"] == "over-budget"


def test_the_counts_are_right(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """The suite's, too: each test once."""
    pytester.makepyfile(test_it=SUITE)
    run_carbon("--junitxml=junit.xml")
    (suite,) = ElementTree.parse(pytester.path / "junit.xml").getroot().iter("testsuite")
    counts = {name: suite.attrib[name] for name in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "5", "failures": "2", "errors": "0", "skipped": "0"}


@pytest.mark.usefixtures("all_plugins")
def test_pytest_json_report_has_it(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Another plugin's report: the outcome that the gate decided, the properties, the text."""
    pytester.makepyfile(test_it=SUITE)
    run_carbon("--json-report", "--json-report-file=other.json")
    report = json.loads((pytester.path / "other.json").read_text("utf-8"))
    tests = {t["nodeid"].rpartition("::")[2]: t for t in report["tests"]}
    assert report["summary"]["failed"] == 2
    assert tests["test_over"]["outcome"] == "failed"
    assert tests["test_over"]["call"]["crash"]["message"].startswith("2.00 J per call, 2.0× the budget")
    assert {"carbon.status": "over-budget"} in tests["test_over"]["user_properties"]
