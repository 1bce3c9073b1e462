"""``--carbon-reference``: a fixed workload is measured beside the tests, and tells the machine from the code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import MACHINE, CarbonRunner
from console import carbon
from extras import library
from faults import records

import pytest_carbon.baselines.sql  # noqa: F401  (before pytester notes what is imported)
from pytest_carbon.measure import reference
from pytest_carbon.measure.protocol import Protocol
from pytest_carbon.records import REFERENCE

NAME = "reference battery-1"
SUITE = """
import os
import pytest
from battery import draw

@pytest.mark.carbon_budget
def test_a():
    draw(float(os.environ.get("A", "2")) * float(os.environ.get("MACHINE", "1").split()[0]))

@pytest.mark.carbon_budget
def test_b():
    draw(3.0 * float(os.environ.get("MACHINE", "1").split()[0]))
"""
CONFTEST = """
import os
from battery import draw
from pytest_carbon.measure import reference
from pytest_carbon.measure.protocol import Protocol

reference.PROTOCOL = Protocol(0.0, 3, None, 0.01, 0.1, 0.5, overhead=True)
times = 0

def pytest_carbon_reference(config):
    global times
    machine = os.environ.get("MACHINE", "1").split()
    machine = float(machine[min(times, len(machine) - 1)])
    times += 1
    if os.environ.get("BROKEN"):
        return "battery-1", lambda: [][0]
    return "battery-1", lambda: draw(0.5 * machine)
"""


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, and put back what the conftest file sets, which is for children, too."""
    monkeypatch.setattr(reference, "PROTOCOL", Protocol(0.0, 3, None, 0.01, 0.1, 0.5, overhead=True))


@pytest.fixture
def suite(pytester: pytest.Pytester) -> None:
    """Two tests, and a workload, that take so much more where MACHINE says so; test_a alone where A does."""
    pytester.makepyfile(test_it=SUITE)
    pytester.makeconftest(CONFTEST)


@pytest.fixture
def recorded(suite: None, run_carbon: CarbonRunner) -> None:
    """A baseline of one recording."""
    assert run_carbon("--carbon-record", "--carbon-reference").ret == 0


def stored(pytester: pytest.Pytester) -> list[dict[str, Any]]:
    return records(pytester.path)


@pytest.mark.usefixtures("suite")
def test_it_is_recorded_beside_the_tests(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Once a session: as a record like theirs, in a file of its own; the report has it, and it is no test there."""
    run = run_carbon("--carbon-record", "--carbon-reference")
    assert run.ret == 0
    assert run.outcomes() == {"passed": 2}
    assert "reference workload: 500 mJ" in run.text
    assert "recorded 2 measurements in" in run.text
    lines = (pytester.path / "carbon-baselines" / MACHINE / "pytest-carbon.jsonl").read_text("utf-8").splitlines()
    (record,) = [json.loads(line) for line in lines[1:]]
    assert (record["test"], record["name"], record["epoch"]) == (REFERENCE, NAME, "0")
    assert record["energy_j_per_call"] == pytest.approx(0.5)
    assert {each["session"] for each in stored(pytester)} == {record["session"]}
    (found,) = run.report["references"]
    assert (found["name"], found["machine"], found["verdict"]["status"]) == (NAME, MACHINE, "new")
    assert [score["session"] for score in found["sessions"]] == [record["session"]]
    assert len(run.report["tests"]) == 2
    assert run.report["suite"]["gated"] == 0


@pytest.mark.usefixtures("recorded")
def test_a_machine_as_it_was(run_carbon: CarbonRunner) -> None:
    """One line says so."""
    run = run_carbon("--carbon-reference", "--carbon-strict")
    assert run.ret == 0
    assert "compared 2 of 2" in run.text
    assert "reference workload: 500 mJ, +0.0% from the baseline (1 recording)" in run.text
    assert (run.report["suite"]["gated"], run.report["suite"]["machine_moved"]) == (2, None)
    (found,) = run.report["references"]
    assert (found["verdict"]["status"], found["verdict"]["baseline_recordings"]) == ("pass", 1)


@pytest.mark.usefixtures("recorded")
def test_a_machine_that_moved_is_said_and_fails_nothing(
    run_carbon: CarbonRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What would have been regressions is inconclusive, in words that speak of the machine."""
    monkeypatch.setenv("MACHINE", "1.3")
    assert run_carbon().ret == 1
    run = run_carbon("--carbon-reference")
    assert run.ret == 0
    assert run.outcomes() == {"passed": 2}
    for test in ("test_a", "test_b"):
        verdict = run.measurement(test)["verdict"]
        assert (verdict["status"], verdict["machine_moved"]) == ("inconclusive", True)
        assert verdict["reference_change"] == pytest.approx(0.3)
        assert "the reference workload is 30% up as well: the machine, not the code" in verdict["reason"]
    assert "the machine itself is 30% up (reference workload): heat, clocks, a driver, a neighbour" in run.text
    assert "reference workload: 650 mJ, +30.0% from the baseline (1 recording)" in run.text
    assert run.report["suite"]["machine_moved"].startswith("the machine itself is 30% up")
    quiet = run_carbon("--carbon-reference", "-q")
    assert "the machine itself is 30% up" in quiet.text


@pytest.mark.usefixtures("recorded")
def test_a_regression_on_a_machine_that_moved_is_found(
    run_carbon: CarbonRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one test that costs more beside it fails, and its report says both."""
    monkeypatch.setenv("MACHINE", "1.3")
    monkeypatch.setenv("A", "3")
    run = run_carbon("--carbon-reference")
    assert run.ret == 1
    assert run.outcomes() == {"failed": 1, "passed": 1}
    assert (run.status("test_a"), run.status("test_b")) == ("regression", "inconclusive")
    assert "the reference workload changed by +30.0%; beyond that, this call by +50.0%" in run.text


@pytest.mark.usefixtures("recorded")
def test_strict_fails_what_is_left_open(run_carbon: CarbonRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """And its report has the command that accepts it."""
    monkeypatch.setenv("MACHINE", "1.3")
    run = run_carbon("--carbon-reference", "--carbon-strict")
    assert run.ret == 1
    assert run.outcomes() == {"failed": 2}
    assert "carbon inconclusive: 30% more energy per call" in run.text
    assert "pytest --carbon-accept" in run.text


@pytest.mark.usefixtures("recorded")
def test_a_machine_that_stays_so_is_accepted(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New epochs begin, and the next run compares with the machine since; --carbon-record alone records nothing."""
    monkeypatch.setenv("MACHINE", "1.3")
    run = run_carbon("--carbon-record", "--carbon-reference")
    assert "1 more: the machine itself changed, as its reference workload shows; accept it if it is to stay" in run.text
    assert len(stored(pytester)) == 3
    run = run_carbon("--carbon-accept", "--carbon-reference", "--carbon-strict")
    assert run.ret == 0
    assert "recorded 2 measurements, 2 of them accepted as changed" in run.text
    epochs = {(each["test"], each["epoch"]) for each in stored(pytester) if each["energy_j_per_call"] > 0.55}
    assert len(epochs) == 5  # the workload has none
    run = run_carbon("--carbon-reference", "--carbon-strict")
    assert run.ret == 0
    assert "reference workload: 650 mJ, +0.0% from the baseline (1 recording)" in run.text
    assert (run.status("test_a"), run.status("test_b")) == ("pass", "pass")


@pytest.mark.usefixtures("recorded")
def test_a_report_brings_it_along(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``baseline accept`` records it with the tests of the report, and a second time adds nothing."""
    monkeypatch.setenv("MACHINE", "1.3")
    run_carbon("--carbon-reference")
    for _ in range(2):
        said = command("accept", "report.json")
        found = [each["energy_j_per_call"] for each in stored(pytester) if each["test"] == REFERENCE]
        assert sorted(found) == pytest.approx([0.5, 0.65])  # of one second they lie in any order
        assert len({each["epoch"] for each in stored(pytester) if each["test"] != REFERENCE}) == 2
    assert "2 stored already" in said


@pytest.mark.usefixtures("recorded")
def test_without_the_option_nothing_changes(run_carbon: CarbonRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is stored of the workload is no measurement, and is not missed; what fails, fails."""
    run = run_carbon("--carbon-strict")
    assert run.ret == 0
    assert "compared 2 of 2" in run.text
    assert "reference" not in run.text
    assert run.report["references"] == []
    assert run.report["suite"]["gated"] == 2
    monkeypatch.setenv("MACHINE", "1.3")
    assert run_carbon().outcomes() == {"failed": 2}


@pytest.mark.usefixtures("recorded")
def test_a_part_of_the_suite(run_carbon: CarbonRunner) -> None:
    """The workload is measured with any test; what was not run is the other test alone."""
    run = run_carbon("--carbon-reference", "-k", "test_a")
    assert "compared 1 of 2: - test_it.py::test_b was not run" in run.text
    assert "+0.0% from the baseline (1 recording)" in run.text


@pytest.mark.usefixtures("suite")
def test_a_machine_that_moves_during_the_run(run_carbon: CarbonRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The figure is the lower of the two, and the difference is a warning; of two that hardly differ it is the mean."""
    monkeypatch.setenv("MACHINE", "1 1.2")
    run = run_carbon("--carbon-reference")
    assert "reference workload: 500 mJ, without a baseline here yet (--carbon-record)" in run.text
    assert (
        "warning (machine-moved): reference workload: the machine moved by 20% during this run: the reference workload"
        " took that much more at the end than at the start" in run.text
    )
    (found,) = run.report["references"]
    assert [score["energy_j_per_call"] for score in found["sessions"]] == pytest.approx([0.5])
    assert [warning["code"] for warning in found["warnings"]] == ["machine-moved"]
    monkeypatch.setenv("MACHINE", "1 1.04")
    run = run_carbon("--carbon-reference")
    assert "reference workload: 510 mJ, without" in run.text
    assert "machine-moved" not in run.text


@pytest.mark.usefixtures("recorded")
def test_what_the_tests_leave_behind_excuses_nothing(run_carbon: CarbonRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """A workload that takes more only after them is not why they took more."""
    monkeypatch.setenv("MACHINE", "1 1.6")
    monkeypatch.setenv("A", "3")
    run = run_carbon("--carbon-reference")
    assert run.status("test_a") == "regression"
    assert run.ret == 1


@pytest.mark.slow
def test_a_trace_whose_power_rises(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """100 W at first, 400 W from the fourth second on: naps of 10 ms, which take what the clock says."""
    monkeypatch.setattr(reference, "PROTOCOL", Protocol(0.0, 10, None, 0.5, 1.0, 0.01, overhead=True))
    pytester.makeconftest("""
import time

def pytest_carbon_reference(config):
    return "nap-1", lambda: time.sleep(0.01)
""")
    pytester.makepyfile("""
import time

def test_a(carbon):
    begun_s = time.perf_counter()
    carbon(time.sleep, 0.01)
    time.sleep(max(0.0, 4.0 - (time.perf_counter() - begun_s)))
""")
    header = trace.read_text("utf-8").splitlines()[0]
    steps = [(4.0, 400.0), (1004.0, 400400.0)]
    lines = [json.dumps({"t_s": at_s, "domain": "gpu:0", "energy_j": energy_j}) for at_s, energy_j in steps]
    trace.write_text("\n".join([header, *lines, ""]), "utf-8")
    run = run_carbon("--carbon-reference", f"--carbon-meter=replay:{trace}")
    (found,) = run.report["references"]
    assert "machine-moved" in [warning["code"] for warning in found["warnings"]]
    assert found["energy_j_per_call"] == pytest.approx(2.5, rel=0.7)


@pytest.mark.usefixtures("recorded")
def test_fresh_processes_measure_it(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them, and the one that collects does not: a record each, and their mean is the run's."""
    monkeypatch.setenv("MACHINE", "1.3")
    run = run_carbon("--carbon-reference", "--carbon-sessions=2", "--carbon-accept")
    assert run.ret == 0
    (found,) = run.report["references"]
    assert [score["energy_j_per_call"] for score in found["sessions"]] == pytest.approx([0.65, 0.65])
    sessions = {score["session"] for score in found["sessions"]}
    assert sessions == {score["session"] for score in run.measurement("test_a")["sessions"]}
    assert run.measurement("test_a")["verdict"]["reference_change"] == pytest.approx(0.3)
    assert {each["session"] for each in stored(pytester) if each["test"] == REFERENCE} > sessions
    assert "reference workload: 650 mJ, +30.0% from the baseline (1 recording)" in run.text


@pytest.mark.usefixtures("recorded")
def test_what_is_measured_again_has_it_too(run_carbon: CarbonRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """A suspect's sessions are each held to the workload in them."""
    monkeypatch.setenv("A", "3")
    run = run_carbon("--carbon-reference", "--carbon-confirm=1")
    assert (run.ret, run.status("test_a")) == (1, "regression")
    (found,) = run.report["references"]
    assert len(found["sessions"]) == 2
    assert run.measurement("test_a")["verdict"]["reference_change"] == pytest.approx(0)


@pytest.mark.usefixtures("recorded")
def test_a_workload_that_fails_is_told_of(run_carbon: CarbonRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run goes on without it."""
    monkeypatch.setenv("BROKEN", "1")
    run = run_carbon("--carbon-reference", "--carbon-record")
    assert run.outcomes() == {"passed": 2}
    assert (
        "reference workload: not measured, so it corrects no verdict: it failed with IndexError: list index out of"
        " range" in run.text
    )
    assert run.report["references"][0]["failure"] == "it failed with IndexError: list index out of range"


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize(
    ("torch", "why"),
    [
        ("there", "torch {version} finds no GPU: install a build of it for CUDA"),
        ("missing", "torch is not installed, so nothing can load the GPU: `pip install torch`"),
    ],
)
def test_a_gpu_without_torch_is_refused(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, torch: str, why: str
) -> None:
    """With what to do about it, before any test has run; in fresh processes, too."""
    if torch == "there":
        why = why.format(version=library("torch").__version__)
    else:
        pytester.makeconftest("import sys\nsys.modules['torch'] = None\n")
    pytester.makepyfile(test_it="def test_a(carbon):\n    carbon(print, 'it ran')\n")
    for more in ((), ("--carbon-sessions=2",)):
        run = run_carbon("--carbon-reference", "-s", *more)
        assert run.ret == 4
        assert (
            f"ERROR: --carbon-reference: {why}; or give one of your own with the hook pytest_carbon_reference, or leave"
            " --carbon-reference out." in run.errors
        )
        assert "it ran" not in run.text


def test_on_the_processor_nothing_is_needed(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Hashing, on the estimate; the ini key asks for it, and the flag takes it back."""
    pytester.makepyfile(test_it="def test_a(carbon):\n    carbon(sum, range(20000))\n")
    pytester.makeini("[pytest]\ncarbon_reference = true\n")
    run = run_carbon("--carbon-meter=estimate")
    (found,) = run.report["references"]
    assert found["name"] == "reference sha256-1"
    assert found["energy_j_per_call"] > 0
    assert run_carbon("--carbon-meter=estimate", "--no-carbon-reference").report["references"] == []


def test_nothing_is_measured_where_no_test_measures(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Nor where tests are only collected."""
    pytester.makepyfile(test_it="def test_a():\n    pass\n")
    pytester.makeconftest("def pytest_carbon_reference(config):\n    raise AssertionError('asked for')\n")
    assert run_carbon("--carbon-reference").ret == 0
    pytester.makepyfile(test_it=SUITE)
    assert run_carbon("--carbon-reference", "--collect-only").ret == 0


# --- the upkeep of baselines ---------------------------------------------------------------------


@pytest.fixture(params=["files", "sqlite"])
def place(
    request: pytest.FixtureRequest, run_carbon: CarbonRunner, suite: None, monkeypatch: pytest.MonkeyPatch
) -> str:
    """A baseline with a reference, of the branch main."""
    monkeypatch.setenv("CI_COMMIT_BRANCH", "main")
    place = "carbon-baselines" if request.param == "files" else "sqlite:///baselines.db"
    assert run_carbon("--carbon-record", "--carbon-reference", f"--carbon-baseline={place}").ret == 0
    return place


def command(*words: str) -> str:
    ran = carbon("baseline", *words)
    assert (ran.ret, ran.err) == (0, "")
    return ran.text


def test_it_is_none_of_the_tests_that_are_listed(place: str) -> None:
    """``list`` counts tests; ``check`` finds nothing wrong; ``show`` shows its history to who asks."""
    assert "2 measurements" in command("list", f"--baseline={place}")
    assert "no faults" in command("check", f"--baseline={place}")
    assert "reference battery-1" in command("show", REFERENCE, f"--baseline={place}")


def test_it_is_not_a_test_that_is_gone(run_carbon: CarbonRunner, pytester: pytest.Pytester, place: str) -> None:
    """``prune`` leaves it, and so does a strict run that misses a test."""
    run = run_carbon("--carbon-reference", "--carbon-strict", f"--carbon-baseline={place}")
    assert run.ret == 0
    said = command("prune", "--yes", f"--baseline={place}", "--", "-p", "battery")
    assert "All tests with a baseline in " in said
    pytester.makepyfile(test_it=SUITE.replace("def test_b", "def test_c"))
    said = command("prune", "--yes", f"--baseline={place}", "--", "-p", "battery")
    assert "Gone: 1 of 2 tests with a baseline. test_it.py::test_b" in said
    run = run_carbon("--carbon-reference", f"--carbon-baseline={place}", "-k", "test_a")
    assert "+0.0% from the baseline (1 recording)" in run.text


def test_it_is_copied(run_carbon: CarbonRunner, place: str) -> None:
    """With all else, between files and a database."""
    other = "sqlite:///other.db" if place == "carbon-baselines" else "other"
    command("copy", place, other)
    run = run_carbon("--carbon-reference", f"--carbon-baseline={other}")
    assert "+0.0% from the baseline (1 recording)" in run.text
    assert run.report["suite"]["gated"] == 2


def test_it_is_not_compared_as_a_test(run_carbon: CarbonRunner, place: str) -> None:
    """Nor is it one that the other side lacks; what it took is said beside them."""
    run_carbon("--carbon-reference", f"--carbon-baseline={place}")
    for sides in ((place, "report.json"), ("report.json", place)):
        ran = carbon("compare", *sides)
        assert ran.ret == 0
        assert "compared 2 of 2" in ran.text
        assert "only in" not in ran.text
        assert ran.text.count("reference workload: 500 mJ in BASE, 500 mJ in HEAD (+0.0%); beyond: what each") == 1
