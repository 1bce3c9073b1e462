"""Runs of a part of the suite: ``-x``, ``--lf``, ``--sw``, ``-k``, one test by its id."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import CarbonRunner
from faults import recorded, records

SUITE = """
import os
import pytest
from battery import draw

def cost(name):
    return 3.0 if name in os.environ.get("DEARER", "").split() else 1.0

pytestmark = pytest.mark.carbon_budget

def test_a(): draw(cost("a"))
def test_b(): draw(cost("b"))
def test_c():
    draw(cost("c"))
    assert "c" not in os.environ.get("BROKEN", "")
def test_d(): draw(cost("d"))
"""


@pytest.fixture
def suite(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> Path:
    """Four marked tests with a baseline of one session each; $DEARER names those that cost three times as much."""
    pytester.makepyfile(test_it=SUITE)
    assert run_carbon("--carbon-record").outcomes() == {"passed": 4}
    return pytester.path


def failed(run_lines: list[str]) -> list[str]:
    return [line.split()[1].partition("::")[2] for line in run_lines if line.startswith("FAILED")]


def test_a_selected_test_is_held_to_the_whole_suites_false_alarms(run_carbon: CarbonRunner, suite: Path) -> None:
    """m is the number of measurements with a baseline, whatever was selected: -k makes the gate no stricter."""
    everything = run_carbon()
    some = run_carbon("-k", "test_b")
    one = run_carbon("test_it.py::test_b")
    assert everything.report["suite"]["gated"] == 4
    for run in (some, one):
        assert run.report["suite"] == everything.report["suite"] | {"compared": 1}
        verdict = run.measurement("::test_b")["verdict"]
        assert verdict["detectable_change"] == everything.measurement("::test_b")["verdict"]["detectable_change"]
        assert "compared 1 of 4: - 3 with a baseline were not run" in run.text


def test_recording_a_selection_touches_nothing_else(run_carbon: CarbonRunner, suite: Path) -> None:
    """The other tests' records stay as they are; the selected one has one more."""
    before = records(suite)
    run = run_carbon("--carbon-record", "-k", "test_b")
    assert run.outcomes() == {"passed": 1, "deselected": 3}
    assert recorded(suite) == ["test_a", "test_b", "test_b", "test_c", "test_d"]
    assert [record for record in records(suite) if record in before] == before


def test_accepting_a_selection_touches_nothing_else(
    run_carbon: CarbonRunner, suite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two tests that became dearer one is accepted: the other stays red."""
    monkeypatch.setenv("DEARER", "a b")
    assert failed(run_carbon().lines) == ["test_a", "test_b"]
    assert run_carbon("--carbon-accept", "test_it.py::test_b").outcomes() == {"passed": 1}
    assert failed(run_carbon().lines) == ["test_a"]


def test_exit_first_keeps_what_was_measured_before(
    run_carbon: CarbonRunner, suite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """-x stops at the functional failure at once; the tests before it are judged, shown and recorded."""
    monkeypatch.setenv("BROKEN", "c")
    monkeypatch.setenv("DEARER", "a")
    run = run_carbon("-x", "--carbon-record")
    assert (run.ret, run.outcomes()) == (1, {"failed": 2, "passed": 1})
    assert failed(run.lines) == ["test_c", "test_a"]
    assert "carbon regression" in run.text
    assert [t["nodeid"] for t in run.report["tests"]] == [f"test_it.py::test_{x}" for x in "abc"]
    assert recorded(suite) == ["test_a", "test_b", "test_b", "test_c", "test_d"]


def test_exit_first_does_not_hide_the_second_regression(
    run_carbon: CarbonRunner, suite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything has been measured when the first verdict is known: all of them are told."""
    monkeypatch.setenv("DEARER", "a d")
    run = run_carbon("-x")
    assert (run.ret, run.outcomes()) == (1, {"failed": 2, "passed": 2})
    assert failed(run.lines) == ["test_a", "test_d"]


def test_last_failed_runs_the_regressions_again(
    run_carbon: CarbonRunner, suite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test that the gate failed has failed, for --lf as for everybody; accepted, it has not."""
    monkeypatch.setenv("DEARER", "b")
    assert failed(run_carbon().lines) == ["test_b"]
    run = run_carbon("--lf")
    assert failed(run.lines) == ["test_b"]
    assert run.report["suite"]["gated"] == 4
    assert [t["nodeid"] for t in run.report["tests"]] == ["test_it.py::test_b"]
    assert run_carbon("--lf", "--carbon-accept").outcomes() == {"passed": 1}
    assert run_carbon("--lf").outcomes() == {"passed": 4}


def test_stepwise_goes_on_at_the_first_regression(
    run_carbon: CarbonRunner, suite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It learns of all failures at the end of the run: the next one starts at the first of them, not at the last."""
    monkeypatch.setenv("DEARER", "b d")
    assert failed(sorted(run_carbon("--sw").lines)) == ["test_b", "test_d"]
    assert [t["nodeid"][-1] for t in run_carbon("--sw").report["tests"]] == ["b", "c", "d"]
    monkeypatch.setenv("DEARER", "d")
    assert failed(run_carbon("--sw").lines) == ["test_d"]
    assert [t["nodeid"][-1] for t in run_carbon("--sw").report["tests"]] == ["d"]


def test_a_test_given_twice(run_carbon: CarbonRunner, suite: Path) -> None:
    """--keep-duplicates runs it twice: both are reported, and one of them is recorded."""
    run = run_carbon("--keep-duplicates", "--carbon-record", "test_it.py", "test_it.py")
    assert (run.ret, run.outcomes()) == (0, {"passed": 8})
    assert recorded(suite) == [f"test_{x}" for x in "aabbccdd"]


def test_nothing_selected(run_carbon: CarbonRunner, suite: Path) -> None:
    """A run without a test to measure opens no meter and leaves the baselines alone."""
    before = records(suite)
    run = run_carbon("--carbon-record", "-k", "nothing", "--carbon-meter=replay:there-is-no-such-file")
    assert run.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    assert records(suite) == before


def test_strict_misses_no_test_that_was_only_not_selected(run_carbon: CarbonRunner, suite: Path) -> None:
    """A baseline whose test is gone fails --carbon-strict; one that -k, --lf or an argument left out does not."""
    for args in (["-k", "test_b"], ["test_it.py::test_b"], ["--deselect=test_it.py::test_a"], ["test_it.py"]):
        assert run_carbon("--carbon-strict", *args).ret == 0
    (suite / "test_it.py").write_text(SUITE.replace("test_d", "test_e"))
    assert run_carbon("--carbon-strict", "-k", "test_b").ret == 0
    run = run_carbon("--carbon-strict", "-k", "not test_e")  # deselected, not gone
    assert run.ret == 0
    assert "test_it.py::test_d has a baseline" in run_carbon("--carbon-strict").text
