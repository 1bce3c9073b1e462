"""``--carbon-confirm``: what is suspect is measured again in fresh processes before it is judged."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import CarbonRunner
from faults import records
from shown import shape

SUITE = """
import os
from pathlib import Path
import pytest
from battery import draw

def cost(name):
    costs = os.environ.get(name, "2").split()
    file = Path(__file__).with_name(f"{{name}}.count")
    with open(file, "a") as counted:
        counted.write("x")
    return float(costs[min(len(file.read_text()), len(costs)) - 1])

@pytest.mark.carbon_budget
def test_a():
    draw(cost("A"))
    {a}

@pytest.mark.carbon_budget
def test_b():
    draw(cost("B"))

@pytest.mark.carbon_budget(energy="5 J")
def test_limit():
    draw(cost("LIMIT"))
"""


def suite(pytester: pytest.Pytester, a: str = "") -> None:
    pytester.makepyfile(test_it=SUITE.format(a=a))
    for file in pytester.path.glob("*.count"):
        file.unlink()


def times(pytester: pytest.Pytester, name: str) -> int:
    file = pytester.path / f"{name}.count"
    return len(file.read_text("utf-8")) if file.exists() else 0


@pytest.fixture
def recorded(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """A baseline of 2 J each."""
    suite(pytester)
    assert run_carbon("--carbon-record").ret == 0
    suite(pytester)


@pytest.mark.usefixtures("recorded")
def test_a_chance_hit_passes(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only it is measured again; the verdict is on the mean of all, and the report has both stages."""
    monkeypatch.setenv("A", "2.4 1.9 1.9")
    run = run_carbon("--carbon-confirm=2")
    assert run.ret == 0
    assert run.outcomes() == {"passed": 3}
    assert [times(pytester, name) for name in ("A", "B", "LIMIT")] == [3, 1, 1]
    assert "carbon: measuring 1 suspect test of 3 again, in 2 fresh processes" in run.text
    told = "test_it.py::test_a (at first +20.0%, over 3 sessions +2.7%: pass)"
    assert f"measured again in fresh processes, because suspect: {told}" in run.text
    page = (Path(__file__).parents[2] / "docs" / "gate.md").read_text("utf-8")
    for said in (r"^    (measured again in fresh processes, .*)$", r"`(carbon: measuring \d+ suspect tests .*?)`"):
        (sentence,) = re.findall(said, page, re.M)
        assert shape(sentence) in shape(run.text)
    measurement = run.measurement("test_a")
    assert [s["energy_j_per_call"] for s in measurement["sessions"]] == pytest.approx([2.4, 1.9, 1.9])
    assert measurement["energy_j_per_call"] == pytest.approx((2.4 * 1.9 * 1.9) ** (1 / 3))
    verdict = measurement["verdict"]
    assert verdict["status"] == "pass"
    assert verdict["first_change"] == pytest.approx(0.2)
    assert verdict["change"] == pytest.approx((2.4 * 1.9 * 1.9) ** (1 / 3) / 2 - 1)
    assert "It was measured again in fresh processes: at first +20.0%, and over 3 sessions +2.7%" in verdict["reason"]
    assert run.measurement("test_b")["verdict"]["first_change"] is None

    from pytest_carbon.reports import jsonfile

    read = {t.nodeid: t for t in jsonfile.read(pytester.path / "report.json").tests}
    assert read["test_it.py::test_a"].measurements[0][1].first_change == pytest.approx(0.2)


@pytest.mark.usefixtures("recorded")
def test_a_regression_stays_one(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With both stages in its report."""
    monkeypatch.setenv("A", "3")
    run = run_carbon("--carbon-confirm=1")
    assert run.ret == 1
    assert run.outcomes() == {"failed": 1, "passed": 2}
    assert "carbon: measuring 1 suspect test of 3 again, in 1 fresh process" in run.text
    reason = run.measurement("test_a")["verdict"]["reason"]
    assert reason.endswith("It was measured again in fresh processes: at first +50.0%, and over 2 sessions +50.0%")
    assert "note It was measured again in fresh processes: at first +50.0%, and over 2 sessions +50.0%" in run.text
    told = "because suspect: test_it.py::test_a (at first +50.0%, over 2 sessions +50.0%"
    assert told in run.text
    assert times(pytester, "A") == 2


@pytest.mark.usefixtures("recorded")
def test_what_is_not_suspect(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is over its budget, and what got cheaper; nor is anything where it is not asked for."""
    monkeypatch.setenv("LIMIT", "6")
    monkeypatch.setenv("B", "1")
    run = run_carbon("--carbon-confirm=2")
    assert (run.status("test_limit"), run.status("test_b")) == ("over-budget", "improvement")
    assert [times(pytester, name) for name in ("A", "B", "LIMIT")] == [1, 1, 1]
    assert "measured again" not in run.text
    suite(pytester)
    monkeypatch.setenv("A", "3")
    assert run_carbon().ret == 1
    assert times(pytester, "A") == 1


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize(
    ("ci", "sessions"), [("true", 3), pytest.param("1", 3, marks=pytest.mark.slow), ("false", 1), ("0", 1), ("", 1)]
)
def test_it_is_the_default_in_ci(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, ci: str, sessions: int
) -> None:
    """Two more sessions, where ``CI`` says that it is."""
    monkeypatch.setenv("A", "3")
    monkeypatch.setenv("CI", ci)
    assert run_carbon("test_it.py::test_a").ret == 1
    assert times(pytester, "A") == sessions


@pytest.mark.slow
@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize("variable", ["TF_BUILD", "JENKINS_URL", "GITLAB_CI"])
def test_it_is_the_default_where_a_service_is_recognised(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """Azure Pipelines and Jenkins do not set CI."""
    monkeypatch.setenv("A", "3")
    monkeypatch.setenv(variable, "1")
    assert run_carbon("test_it.py::test_a").ret == 1
    assert times(pytester, "A") == 3


@pytest.mark.slow
@pytest.mark.usefixtures("recorded")
def test_with_sessions(run_carbon: CarbonRunner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean of all of them, and all are recorded where it passes."""
    monkeypatch.setenv("A", "2.4 2.4 1.8 1.8")
    run = run_carbon("--carbon-sessions=2", "--carbon-confirm=2", "--carbon-record")
    assert run.ret == 0
    assert len(run.measurement("test_a")["sessions"]) == 4
    assert len(run.measurement("test_b")["sessions"]) == 2
    assert "test_it.py::test_a (at first +20.0%, over 4 sessions" in run.text
    found = [r for r in records(pytester.path) if r["test"].endswith("test_a")]
    assert len({r["session"] for r in found}) == len(found) == 1 + 4


HAPPENS = {
    "exit": ("os._exit(3)", "ended too early, with exit status 3"),
    "killed": ("os.kill(os.getpid(), 9)", "was killed by signal 9"),
}


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize(("how", "said"), HAPPENS.values(), ids=HAPPENS.keys())
def test_a_process_that_dies_is_an_error(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, how: str, said: str
) -> None:
    """It is not taken for one in which nothing was found."""
    suite(pytester, a=f"if len(Path(__file__).with_name('A.count').read_text()) == 2: {how}")
    monkeypatch.setenv("A", "2.4 1.8")
    run = run_carbon("--carbon-confirm=2")
    assert run.ret == 1
    assert run.outcomes() == {"failed": 1, "passed": 2}
    assert f"measured again, 1 of 2: the process that measured it {said}" in run.text
    assert run.status("test_a") == "error"
    assert run.measurement("test_a")["energy_j_per_call"] is None


@pytest.mark.usefixtures("recorded")
def test_a_test_that_fails_when_it_is_run_again_fails(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its own traceback, once; ``-x`` does not stop what is under way."""
    suite(pytester, a="assert len(Path(__file__).with_name('A.count').read_text()) == 1, 'only once'")
    monkeypatch.setenv("A", "2.4 1.8")
    monkeypatch.setenv("B", "2.4 1.8")
    run = run_carbon("--carbon-confirm=2", "-x")
    assert run.ret == 1
    assert run.outcomes() == {"failed": 1, "passed": 2}
    assert run.text.count("E AssertionError: only once") == 1
    assert (
        "It passed at first, and was run again in a fresh process, because its energy is suspect (measured again,"
        " 1 of 2). Only the suspect tests run there, with their fixtures." in run.text
    )
    assert run.status("test_b") == "pass"
    assert (times(pytester, "A"), times(pytester, "B")) == (2, 3)


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize(
    ("how", "said"), [("skip", "was skipped"), pytest.param("xfail", "failed as expected", marks=pytest.mark.slow)]
)
def test_a_skip_does_not_clear_a_suspect(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, how: str, said: str
) -> None:
    """As where the first process still holds the memory that the test wants: what was measured is judged."""
    suite(pytester, a=f"if len(Path(__file__).with_name('A.count').read_text()) > 1: pytest.{how}('no room')")
    monkeypatch.setenv("A", "3")
    run = run_carbon("--carbon-confirm=2", "--carbon-record")
    assert run.ret == 1
    assert run.outcomes() == {"failed": 1, "passed": 2}
    measurement = run.measurement("test_a")
    assert len(measurement["sessions"]) == 1
    assert measurement["verdict"]["status"] == "regression"
    assert measurement["verdict"]["first_change"] is None
    reason = measurement["verdict"]["reason"]
    assert reason.endswith("It was to be measured again in fresh processes, and was not")
    assert "suspect, but not measured again: test_it.py::test_a (+50.0%: regression)" in run.text
    assert (
        f"passed in one process and {said} in another, so the verdict is on the first: test_it.py::test_a"
        " (no room)" in run.text
    )


@pytest.mark.usefixtures("recorded")
def test_a_run_that_was_stopped_confirms_nothing(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by ``-x``: nobody takes what is red for confirmed."""
    monkeypatch.setenv("A", "3")
    monkeypatch.setenv("LIMIT", "nothing")
    run = run_carbon("--carbon-confirm=2", "-x")
    assert run.outcomes() == {"failed": 2, "passed": 1}
    verdict = run.measurement("test_a")["verdict"]
    assert (verdict["status"], verdict["first_change"]) == ("regression", None)
    assert verdict["reason"].endswith("It was to be measured again in fresh processes, and was not")
    told = "suspect, but not measured again, because the run was stopped: test_it.py::test_a (+50.0%: regression)"
    assert told in run.text
    assert "It was to be" not in run.measurement("test_b")["verdict"]["reason"]
    assert times(pytester, "A") == 1


@pytest.mark.usefixtures("recorded")
def test_exit_while_it_is_measured_again(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is told that it was measured again, and nothing is recorded."""
    suite(pytester, a="if len(Path(__file__).with_name('A.count').read_text()) > 1: pytest.exit('enough')")
    monkeypatch.setenv("A", "3")
    run = run_carbon("--carbon-confirm=2", "--carbon-record", subprocess=True)
    assert run.ret == pytest.ExitCode.INTERRUPTED
    verdict = run.measurement("test_a")["verdict"]
    assert (verdict["status"], verdict["first_change"]) == ("regression", None)
    assert verdict["reason"].endswith("It was to be measured again in fresh processes, and was not")
    assert "nothing was recorded: the run was interrupted" in run.text


@pytest.mark.usefixtures("recorded")
def test_its_report_waits(run_carbon: CarbonRunner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is told of it, JUnit neither, before it has been measured again."""
    pytester.makeconftest(
        """
        from pathlib import Path
        def pytest_runtest_logreport(report):
            if report.when == "call" and Path("A.count").exists():
                with open("told", "a") as told:
                    told.write(f"{report.nodeid} {len(Path('A.count').read_text())} ")
        """
    )
    monkeypatch.setenv("A", "2.4 1.8")
    run = run_carbon("--carbon-confirm=1", "--junitxml=junit.xml", "-p", "no:cacheprovider")
    assert run.ret == 0
    assert "test_it.py::test_a 2 " in (pytester.path / "told").read_text("utf-8")
    assert "test_it.py::test_a 1 " not in (pytester.path / "told").read_text("utf-8")
    assert 'tests="3"' in Path(pytester.path / "junit.xml").read_text("utf-8")
