"""A whole suite that moved: one failure of the run, said once, that can be accepted."""

from __future__ import annotations

from collections.abc import Mapping
from xml.etree import ElementTree

import pytest
from conftest import MACHINE, CarbonRunner, Run

NAMES = [f"n{i}" for i in range(9)]
SENTENCE = "the whole suite is 50% up: the machine, or something all tests use"


def draws(pytester: pytest.Pytester, joules: Mapping[str, float], *, marker: str = "") -> None:
    """One marked test a name, that draws so many joules."""
    source = "import pytest\nfrom battery import draw\n"
    for name, energy_j in joules.items():
        source += f"@pytest.mark.carbon_budget({marker})\ndef test_{name}(): draw({energy_j})\n"
    pytester.makepyfile(test_it=source)


@pytest.fixture
def up(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> CarbonRunner:
    """Nine tests whose baseline is 2 J, and that draw 3 J now."""
    draws(pytester, dict.fromkeys(NAMES, 2.0))
    assert run_carbon("--carbon-record").ret == 0
    draws(pytester, dict.fromkeys(NAMES, 3.0))
    return run_carbon


def effects(run: Run) -> list[tuple[str, str]]:
    verdicts = [m["verdict"] for t in run.report["tests"] for m in t["measurements"]]
    return [(verdict["status"], verdict["effect"]) for verdict in verdicts]


def suite_cases(pytester: pytest.Pytester) -> list[ElementTree.Element]:
    root = ElementTree.parse(pytester.path / "junit.xml").getroot()
    return [case for case in root.iter("testcase") if case.get("classname") == "pytest-carbon"]


def suite(run: Run) -> dict[str, object]:
    return {key: run.report["suite"][key] for key in ("status", "reason", "effect")}


def test_it_is_one_failure(up: CarbonRunner) -> None:
    """No test is red; the run is, once, and JSON says which of its verdicts failed it."""
    run = up()
    assert run.ret == run.report["exit_status"] == 1
    assert run.outcomes() == {"passed": 9, "failed": 1}
    assert suite(run) == {"status": "regression", "reason": SENTENCE, "effect": "fails"}
    assert effects(run) == [("pass", "none")] * 9
    assert {test["outcome"] for test in run.report["tests"]} == {"passed"}
    assert "FAILED pytest-carbon::suite - the whole suite is 50% up" in run.text
    assert (run.text.count(SENTENCE), run.text.count(SENTENCE.partition(":")[0])) == (1, 2)
    assert "9 of 9 measurements changed by more" in run.text


def test_progress_and_last_failed_know_nothing_of_it(up: CarbonRunner, pytester: pytest.Pytester) -> None:
    """It is no test that could run again, nor one of the hundred percent."""
    run = up("-p", "cacheprovider")
    assert "[100%]" in run.text
    assert "[111%]" not in run.text
    again = up("-p", "cacheprovider", "--last-failed")
    assert again.outcomes() == {"passed": 9, "failed": 1}
    assert "pytest-carbon" not in (pytester.path / ".pytest_cache/v/cache/nodeids").read_text()


def test_junit_has_a_test_case_of_it(up: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Class ``pytest-carbon``, name ``suite``, with the failure and its figures."""
    up("--junitxml=junit.xml")
    suites = ElementTree.parse(pytester.path / "junit.xml").getroot().iter("testsuite")
    assert [(each.get("tests"), each.get("failures")) for each in suites] == [("10", "1")]
    (case,) = suite_cases(pytester)
    assert case.get("name") == "suite"
    assert [failure.get("message") for failure in case.iter("failure")] == ["the whole suite is 50% up"]
    properties = {each.get("name"): each.get("value") for each in case.iter("property")}
    assert float(properties.pop("carbon.change") or 0) == pytest.approx(0.5)
    assert properties == {
        "carbon.status": "regression",
        "carbon.effect": "fails",
        "carbon.reason": SENTENCE,
        "carbon.machine": MACHINE,
    }


def test_a_test_beyond_the_rest_fails_by_itself(up: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Beside the suite, and the rest does not."""
    draws(pytester, {**dict.fromkeys(NAMES, 3.0), "n0": 9.0})
    run = up()
    assert run.outcomes() == {"passed": 8, "failed": 2}
    assert effects(run) == [("regression", "fails")] + [("pass", "none")] * 8


def test_a_budget_holds_within_it(up: CarbonRunner, pytester: pytest.Pytester) -> None:
    """What is over its budget is red by itself."""
    draws(pytester, dict.fromkeys(NAMES, 3.0), marker="energy='2.5 J'")
    run = up()
    assert run.outcomes() == {"failed": 10}
    assert effects(run) == [("over-budget", "fails")] * 9


def test_it_can_be_accepted(up: CarbonRunner, pytester: pytest.Pytester) -> None:
    """``--carbon-accept``: every measurement whose own change exceeds the tolerance, and no other."""
    draws(pytester, {**dict.fromkeys(NAMES, 3.0), "n0": 2.0})
    run = up("--carbon-accept")
    assert run.ret == 0
    assert suite(run)["effect"] == "accepted"
    assert effects(run) == [("pass", "none")] + [("pass", "accepted")] * 8
    assert "recorded 9 measurements, 8 of them accepted as changed" in run.text
    again = up()
    assert again.ret == 0
    assert suite(again) == {"status": "pass", "reason": None, "effect": "none"}


def test_its_report_can_be_accepted(up: CarbonRunner, pytester: pytest.Pytester) -> None:
    """``baseline accept`` does the same from the run that failed."""
    from pytest_carbon.baselines import open_store
    from pytest_carbon.plugin.record import accept
    from pytest_carbon.reports.jsonfile import read

    up()
    path = pytester.path / "report.json"
    sentences = accept(read(path), open_store(pytester.path / "carbon-baselines"), path)
    assert sentences[0] == (
        "test_it.py::test_n0 (call): the whole suite's change accepted, 2.00 J → 3.00 J per call (+50.0%)."
    )
    assert sentences[-1].startswith(f"{MACHINE}: 9 accepted as a change, of 9 measurements")
    assert up().ret == 0


def test_it_is_not_recorded_unless_it_is_accepted(up: CarbonRunner) -> None:
    """Nothing that the gate fails enters a baseline unasked."""
    run = up("--carbon-record")
    assert run.ret == 1
    assert "and 8 more: it moved with the whole suite; accept it if that is intended" in run.text
    assert up().ret == 1


@pytest.mark.parametrize("quiet", [(), ("-q",)])
def test_warn_only_warns(up: CarbonRunner, pytester: pytest.Pytester, quiet: tuple[str, ...]) -> None:
    """``--carbon-gate=warn``: terminal, JSON and JUnit say it, and it fails nothing."""
    run = up("--carbon-gate=warn", "--junitxml=junit.xml", *quiet)
    assert run.ret == 0
    assert run.outcomes() == {"passed": 9}
    assert suite(run) == {"status": "regression", "reason": SENTENCE, "effect": "warns"}
    assert f"warning (suite): {SENTENCE}" in run.text
    assert "the suite would have failed without --carbon-gate=warn" in run.text
    (case,) = suite_cases(pytester)
    assert list(case.iter("failure")) == []
    properties = {each.get("name"): each.get("value") for each in case.iter("property")}
    assert properties["carbon.effect"] == "warns"
    assert properties["carbon.reason"] == SENTENCE


def test_the_report_says_whether_to_believe_it_and_what_to_do(up: CarbonRunner, pytester: pytest.Pytester) -> None:
    """How much the tests changed, what else is known to differ, and commands to copy."""
    run = up("test_it.py")
    report = run.result.stdout.str().partition("carbon regression: ")[2]
    for line in (
        "Can I believe it?",
        "  energy      median +50.0%, from +50.0% to +50.0%",
        "  machine     not measured: --carbon-reference would tell it from the code",
        f"  in          carbon-baselines/{MACHINE}",
        "  warnings    none",
        "    pytest --carbon-accept --carbon-meter=battery test_it.py",
        "    pytest-carbon baseline accept report.json",
    ):
        assert line in report.splitlines(), line
    assert up("--carbon-accept", "test_it.py").ret == 0
    assert up().ret == 0


def test_an_improvement_fails_nothing(up: CarbonRunner, pytester: pytest.Pytester) -> None:
    """It is said, and accepted where that is asked for."""
    draws(pytester, dict.fromkeys(NAMES, 1.0))
    run = up()
    assert run.ret == 0
    assert (suite(run)["status"], suite(run)["effect"]) == ("improvement", "none")
    accepted = up("--carbon-accept")
    assert (accepted.ret, suite(accepted)["effect"]) == (0, "accepted")
    assert up().report["suite"]["status"] == "pass"
