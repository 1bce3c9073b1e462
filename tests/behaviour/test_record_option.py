"""The life of a baseline: recorded, compared with, turned red, accepted, turned green; and what runs leave alone."""

from __future__ import annotations

import json
import re
import subprocess
import xml.etree.ElementTree as ElementTree
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from conftest import MACHINE, CarbonRunner

from pytest_carbon.text import detectable_size

WORK = """
import pytest
from battery import draw

@pytest.mark.carbon_budget
def test_it():
    draw({joules})
"""


def work(pytester: pytest.Pytester, joules: float) -> None:
    """A test of which a run can tell nothing but what it drew."""
    (pytester.path / "test_it.py").write_text(WORK.format(joules=joules), "utf-8")


def several(pytester: pytest.Pytester, **joules: float) -> None:
    lines = ["import pytest", "from battery import draw", "pytestmark = pytest.mark.carbon_budget", "ok = True"]
    for name, each in joules.items():
        lines += [f"def test_{name}():", f"    draw({each})", "    assert ok"]
    (pytester.path / "test_it.py").write_text("\n".join(lines), "utf-8")


def baseline(pytester: pytest.Pytester, module: str = "test_it.py") -> Path:
    return pytester.path / "carbon-baselines" / MACHINE / f"{module}.jsonl"


def records(pytester: pytest.Pytester) -> list[dict[str, Any]]:
    header, *lines = baseline(pytester).read_text("utf-8").splitlines()
    assert json.loads(header)["format"] == "pytest-carbon-baseline/1"
    return [json.loads(line) for line in lines]


@pytest.fixture
def recorded(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """A baseline of 2 J for test_it."""
    work(pytester, 2.0)
    assert run_carbon("--carbon-record").ret == 0


def test_a_first_run_says_how_to_begin(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """It passes, writes nothing, and gives the flag."""
    work(pytester, 2.0)
    run = run_carbon()
    assert run.ret == 0
    assert run.status("test_it") == "new"
    assert "compared 0 of 1: - test_it.py::test_it has no baseline (record one with --carbon-record)" in run.text
    assert not (pytester.path / "carbon-baselines").exists()


def test_record_writes_what_was_measured(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """One line, in the folder of its machine, beside what it says on the terminal."""
    work(pytester, 2.0)
    run = run_carbon("--carbon-record")
    assert run.outcomes() == {"passed": 1}
    (record,) = records(pytester)
    assert (record["test"], record["name"], record["epoch"]) == ("test_it.py::test_it", "call", "0")
    assert record["energy_j_per_call"] == pytest.approx(2.0)
    assert record["session"] == run.report["session"]
    assert record["created"] == run.report["created"]
    assert f"recorded 1 measurement in carbon-baselines/{MACHINE}" in run.lines


def test_record_switches_measuring_on(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """``--carbon-record`` and ``--carbon-accept`` imply ``--carbon``."""
    work(pytester, 2.0)
    assert run_carbon("--carbon-meter=battery", "--carbon-record", carbon=False).ret == 0
    assert len(records(pytester)) == 1
    work(pytester, 6.0)
    assert run_carbon("--carbon-meter=battery", "--carbon-accept", carbon=False).ret == 0
    assert len(records(pytester)) == 2


@pytest.mark.usefixtures("recorded")
def test_unchanged_passes(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """And leaves the baseline alone."""
    before = baseline(pytester).read_bytes()
    run = run_carbon()
    assert run.ret == 0
    verdict = run.measurement("test_it")["verdict"]
    assert verdict["status"] == "pass"
    assert verdict["change"] == pytest.approx(0, abs=1e-9)
    assert (verdict["baseline_recordings"], verdict["baseline_sessions"]) == (1, 1)
    assert verdict["baseline_j_per_call"] == pytest.approx(2.0)
    assert "compared 1 of 1" in run.lines
    assert baseline(pytester).read_bytes() == before


@pytest.mark.usefixtures("recorded")
def test_a_regression_turns_the_test_red(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """The report says what it cost and used to, over how many recordings, what could be seen, and how to accept it."""
    work(pytester, 6.0)
    run = run_carbon()
    assert run.outcomes() == {"failed": 1}
    assert run.ret == 1
    text = run.text
    assert "carbon regression: 3.0× the energy, 2.00 → 6.00 J" in text
    assert re.search(r"smallest detectable change [0-9.]+%, tolerance 5%", text)
    assert "baseline now change energy 2.00 J 6.00 J 3.0× time" in text
    assert "baseline 1 recording (1 session) of 20" in text
    assert f"in carbon-baselines/{MACHINE}/test_it.py.jsonl" in text
    assert "pytest --carbon-accept --carbon-meter=battery test_it.py::test_it" in text
    assert "pytest-carbon baseline accept report.json" in text
    verdict = run.measurement("test_it")["verdict"]
    assert verdict["status"] == "regression"
    assert verdict["change"] == pytest.approx(2.0)
    assert 0.05 < verdict["detectable_change"] < 0.5
    assert run.test("test_it")["outcome"] == "failed"
    assert run.test("test_it")["functional_outcome"] == "passed"
    assert any(line.startswith("FAILED test_it.py::test_it - 3.0× the energy per call") for line in run.lines)


def test_a_slowdown_is_told_from_a_rise_of_power(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, trace: Path
) -> None:
    """Energy = power × time: at constant power, three times as long is what moved."""
    slow = "import time\nimport pytest\n@pytest.mark.carbon_budget\ndef test_it(): time.sleep({})\n"
    meter = f"--carbon-meter=replay:{trace}"
    pytester.makepyfile(test_it=slow.format(0.03))
    assert run_carbon(meter, "--carbon-record").ret == 0
    pytester.makepyfile(test_it=slow.format(0.09))
    run = run_carbon(meter)
    assert run.ret == 1
    verdict = run.measurement("test_it")["verdict"]
    assert verdict["duration_change"] > 1
    assert abs(verdict["power_change"]) < 0.2
    (moved,) = [line.split()[0] for line in run.lines if "← this changed" in line]
    assert moved == "time"


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
@pytest.mark.usefixtures("recorded")
def test_the_report_says_what_else_has_changed(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Versions that are not the baseline's; where nothing is known to differ, what was looked at."""
    work(pytester, 6.0)
    assert "since then same torch" in run_carbon().text
    (record,) = records(pytester)
    path = baseline(pytester)
    path.write_text(path.read_text("utf-8").replace(json.dumps(record["torch"]), '"2.1.0"'), "utf-8")
    assert f"since then torch 2.1.0 → {record['torch']}" in run_carbon().text


def git(pytester: pytest.Pytester, *args: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main"]
    result = subprocess.run(["git", *identity, *args], cwd=pytester.path, check=True, capture_output=True, text=True)
    return result.stdout.strip()


def test_the_commit_is_kept_and_compared(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """The baseline's, and the one that the regression is in; whether something was not committed."""
    git(pytester, "init", "-q")
    (pytester.path / ".gitignore").write_text("report.json\n__pycache__\n.pytest_cache\n", "utf-8")
    work(pytester, 2.0)
    git(pytester, "add", "-A")
    git(pytester, "commit", "-qm", "first")
    run = run_carbon("--carbon-record")
    first = git(pytester, "rev-parse", "HEAD")
    assert (run.report["commit"], run.report["branch"], run.report["dirty"]) == (first, "main", False)
    (record,) = records(pytester)
    assert (record["commit"], record["branch"]) == (first, "main")

    work(pytester, 6.0)
    assert f"since then uncommitted changes on {first[:7]}" in run_carbon().text
    git(pytester, "add", "-A")
    git(pytester, "commit", "-qm", "second")
    second = git(pytester, "rev-parse", "HEAD")
    assert f"since then commit {first[:7]} → {second[:7]}" in run_carbon().text


def test_sessions_of_one_day_are_one_recording(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Recorded three times in a row: more figures, not more that is known of how days differ."""
    work(pytester, 2.0)
    seen = []
    for _ in range(3):
        run_carbon("--carbon-record")
        verdict = run_carbon().measurement("test_it")["verdict"]
        seen.append((verdict["baseline_recordings"], verdict["baseline_sessions"], verdict["detectable_change"]))
    assert [each[:2] for each in seen] == [(1, 1), (1, 2), (1, 3)]
    assert len({each[2] for each in seen}) == 1


@pytest.mark.usefixtures("recorded")
def test_accepting_turns_it_green(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """A new epoch begins with what was accepted; the old records stay, and are compared with no more."""
    work(pytester, 6.0)
    run = run_carbon("--carbon-accept")
    assert run.outcomes() == {"passed": 1}
    assert run.ret == 0
    assert run.status("test_it") == "regression"
    assert f"recorded 1 measurement, 1 of them accepted as changed in carbon-baselines/{MACHINE}" in run.lines
    assert "REGRESSION" not in run.text  # capitals are for what fails the build
    assert any(line.endswith("  accepted") for line in run.lines)
    old, new = sorted(records(pytester), key=lambda record: record["epoch"])  # both may be of one second
    assert (old["epoch"], new["epoch"]) == ("0", run.report["created"])
    assert (old["energy_j_per_call"], new["energy_j_per_call"]) == pytest.approx((2.0, 6.0))

    run = run_carbon()
    assert run.ret == 0
    assert run.status("test_it") == "pass"
    assert run.measurement("test_it")["verdict"]["baseline_j_per_call"] == pytest.approx(6.0)

    work(pytester, 2.0)  # the change undone is an improvement on it
    assert run_carbon().status("test_it") == "improvement"


@pytest.mark.usefixtures("recorded")
def test_accepting_what_has_not_changed_records_it(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """In the epoch that there is; what is new is recorded, too."""
    several(pytester, it=2.0, new=3.0)
    run = run_carbon("--carbon-accept")
    assert run.ret == 0
    assert [(r["test"], r["epoch"]) for r in records(pytester)] == [
        ("test_it.py::test_it", "0"),
        ("test_it.py::test_it", "0"),
        ("test_it.py::test_new", "0"),
    ]


@pytest.mark.usefixtures("recorded")
def test_recording_does_not_take_a_regression(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """It fails all the same, and is not in the baseline."""
    before = baseline(pytester).read_bytes()
    work(pytester, 6.0)
    run = run_carbon("--carbon-record")
    assert run.ret == 1
    assert "not recorded: test_it.py::test_it: it is a regression; accept it if it is intended" in run.text
    assert baseline(pytester).read_bytes() == before


@pytest.mark.usefixtures("recorded")
def test_an_improvement_passes_and_says_how_to_hold_it(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Recording leaves it out, accepting takes it."""
    work(pytester, 0.5)
    run = run_carbon()
    assert run.ret == 0
    assert run.status("test_it") == "improvement"
    assert (
        "to hold the gain, accept it as the new baseline (--carbon-accept)"
        in (run.measurement("test_it")["verdict"]["reason"])
    )
    run = run_carbon("--carbon-record")
    assert "not recorded: test_it.py::test_it: it is an improvement; accept it if it is intended" in run.text
    assert len(records(pytester)) == 1
    run_carbon("--carbon-accept")
    assert run_carbon().measurement("test_it")["verdict"]["baseline_j_per_call"] == pytest.approx(0.5)


@pytest.mark.usefixtures("recorded")
def test_gate_warn_reports_and_never_fails(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """The status is the same, the build is green."""
    work(pytester, 6.0)
    run = run_carbon("--carbon-gate=warn")
    assert run.outcomes() == {"passed": 1}
    assert run.ret == 0
    assert run.status("test_it") == "regression"
    assert "REGRESSION" in run.text
    assert "test_it.py::test_it would have failed without --carbon-gate=warn" in run.text


def test_what_was_not_measured_fails_with_gate_warn_too(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """An error is no verdict on the code: it is never a pass."""
    work(pytester, 0.0)
    run = run_carbon("--carbon-gate=warn")
    assert run.outcomes() == {"failed": 1}
    assert run.status("test_it") == "error"


@pytest.mark.usefixtures("recorded")
def test_the_tolerance_is_the_users(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """``--carbon-tolerance``, or the marker's own."""
    work(pytester, 3.5)
    assert run_carbon().status("test_it") == "regression"
    assert run_carbon("--carbon-tolerance=80%").status("test_it") == "pass"
    for tolerance, status in (("'80%'", "pass"), ("0.7", "regression")):
        text = WORK.replace("carbon_budget", f"carbon_budget(tolerance={tolerance})").format(joules=3.5)
        (pytester.path / "test_it.py").write_text(text, "utf-8")
        assert run_carbon().status("test_it") == status


@pytest.mark.usefixtures("recorded")
def test_tolerance_false_takes_a_test_out(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """It is measured and held to its limits, not to its baseline."""
    text = WORK.replace("carbon_budget", "carbon_budget(tolerance=False)").format(joules=6.0)
    (pytester.path / "test_it.py").write_text(text, "utf-8")
    run = run_carbon()
    assert run.ret == 0
    assert run.status("test_it") == "pass"
    assert "compared 0 of 1: - test_it.py::test_it is not compared (tolerance=False)" in run.text
    assert run.measurement("test_it")["energy_j_per_call"] == 6.0


def test_a_test_that_fails_by_itself_leaves_no_baseline(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Neither does one whose teardown fails; the others are recorded."""
    pytester.makepyfile(
        test_it="""
import pytest
from battery import draw

def test_fails(carbon):
    carbon(draw, 2.0)
    assert 1 == 2

@pytest.fixture
def broken():
    yield
    raise RuntimeError("teardown")

def test_teardown(carbon, broken):
    with carbon.window("call"):
        draw(2.0)

def test_good(carbon):
    with carbon.window("call"):
        draw(2.0)
"""
    )
    run = run_carbon("--carbon-record")
    assert run.outcomes() == {"failed": 1, "errors": 1, "passed": 2}
    assert [r["test"] for r in records(pytester)] == ["test_it.py::test_good"]
    assert "test_it.py::test_fails: its test did not pass (failed)" in run.text
    assert "test_it.py::test_teardown: its test did not pass (error)" in run.text


@pytest.mark.usefixtures("recorded")
def test_what_was_not_selected_is_left_alone(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Recording a selection touches only what ran, and the report says what did not."""
    several(pytester, it=2.0, other=3.0)
    run = run_carbon("--carbon-record", "-k", "other")
    assert run.outcomes() == {"passed": 1, "deselected": 1}
    assert [r["test"] for r in records(pytester)] == ["test_it.py::test_it", "test_it.py::test_other"]
    run = run_carbon("test_it.py::test_other")
    assert "compared 1 of 2: - test_it.py::test_it was not run" in run.text
    assert run.report["suite"] == {
        "gated": 2,
        "compared": 1,
        "median_change": None,
        "false_alarm_rate": 0.01,
        "status": "pass",
        "reason": None,
        "effect": "none",
        "machine_moved": None,
    }


@pytest.mark.usefixtures("recorded")
def test_a_renamed_test_is_new(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Its old baseline is named as one that was not run: nothing is lost silently."""
    several(pytester, renamed=6.0)
    run = run_carbon()
    assert run.ret == 0
    assert run.status("test_renamed") == "new"
    assert (
        "compared 0 of 2: - test_it.py::test_renamed has no baseline (record one with --carbon-record) - "
        "test_it.py::test_it was not run" in run.text
    )


STRICT = "--carbon-strict"


def test_strict_wants_a_baseline(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """A new measurement fails, with the command that records it."""
    work(pytester, 2.0)
    run = run_carbon(STRICT)
    assert run.outcomes() == {"failed": 1}
    assert "carbon new: no baseline here yet: record one with --carbon-record" in run.text
    assert "pytest --carbon-record --carbon-meter=battery test_it.py::test_it" in run.text
    assert run_carbon(STRICT, "--carbon-record").ret == 0  # recorded is as good as had
    assert run_carbon(STRICT).ret == 0


@pytest.mark.usefixtures("recorded")
def test_noise_is_inconclusive_recorded_and_no_failure(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """A change beyond the tolerance that the gate can't decide: it says what would decide it, also with strict."""
    work(pytester, 2.16)
    run = run_carbon(STRICT, "--carbon-record")
    assert run.outcomes() == {"passed": 1}
    assert run.status("test_it") == "inconclusive"
    (found,) = run.test("test_it")["measurements"]
    assert "so noise can explain this" in found["verdict"]["reason"]
    assert "recordings would decide it" in found["verdict"]["reason"]
    assert len(records(pytester)) == 2


@pytest.mark.usefixtures("recorded")
def test_a_blind_pass_is_counted_and_fails_strictly(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what --carbon-max-detectable says is blind; counted with -q, too."""
    run = run_carbon("--carbon-max-detectable=20%", STRICT)
    assert run.outcomes() == {"passed": 1}
    assert "is blind" not in run.text
    for args in ((), ("-q",)):
        run = run_carbon("--carbon-max-detectable=10%", *args)
        assert run.outcomes() == {"passed": 1}
        assert "1 of 1 pass is blind: test_it: the smallest detectable change here is" in " ".join(run.text.split())
    monkeypatch.setenv("COLUMNS", "200")  # FAILED lines are not wrapped but cut
    run = run_carbon("--carbon-max-detectable=10%", STRICT, "--junitxml=junit.xml")
    assert run.outcomes() == {"failed": 1}
    detectable = detectable_size(run.measurement("test_it")["verdict"]["detectable_change"])
    unseen = f"a change smaller than {detectable} may stay undetected; --carbon-max-detectable allows 10%"
    assert f"carbon blind: {unseen}" in run.text
    assert f"FAILED test_it.py::test_it - blind: {unseen}" in run.text
    (failure,) = ElementTree.parse(pytester.path / "junit.xml").getroot().iter("failure")
    assert failure.get("message") == f"blind: {unseen}"
    assert "--carbon-strict fails a blind pass" in run.text


WITH_WARNING = """
import pytest
from battery import draw

def test_it(carbon):
    with carbon.window("call"):
        draw({joules})
    for name, m in list(carbon._measurements.items()):
        warning = __import__("pytest_carbon.records").records.MeasurementWarning("throttled", "it was held back")
        carbon._measurements[name] = __import__("dataclasses").replace(m, warnings=(warning,))
"""


@pytest.mark.usefixtures("recorded")
def test_a_figure_with_warning_is_not_recorded_and_fails_strictly(
    run_carbon: CarbonRunner, pytester: pytest.Pytester
) -> None:
    """Whatever its change: a warning that could explain it makes that inconclusive, also where it would be a
    failure."""
    for joules, status in ((2.0, "pass"), (4.0, "inconclusive")):
        pytester.makepyfile(test_it=WITH_WARNING.format(joules=joules))
        run = run_carbon("--carbon-record")
        assert (run.outcomes(), run.status("test_it")) == ({"passed": 1}, status)
        assert "a figure with a disqualifying warning (throttled) is neither recorded nor accepted" in run.text
        assert len(records(pytester)) == 1
        run = run_carbon(STRICT)
        assert run.outcomes() == {"failed": 1}
        assert "--carbon-strict fails a figure with a disqualifying warning, whatever its change" in run.text


@pytest.mark.usefixtures("recorded")
def test_strict_fails_for_a_baseline_whose_test_is_gone(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """On a full collection; the tests that are there pass, the exit status does not."""
    several(pytester, renamed=2.0)
    run_carbon("--carbon-record")
    run = run_carbon(STRICT)
    assert run.outcomes() == {"passed": 1}
    assert run.ret == 1
    assert run.report["exit_status"] == 1
    gone = (
        f"ERROR: --carbon-strict: test_it.py::test_it has a baseline in carbon-baselines/{MACHINE}, and no such "
        "test was collected: if it was renamed, pytest-carbon baseline rename test_it.py::test_it NEW; if it was "
        "removed, pytest-carbon baseline prune"
    )
    assert gone in run.lines
    assert gone.removeprefix("ERROR: ") in run.report["notes"]
    assert gone in run_carbon(STRICT, "-q").lines
    assert run_carbon(STRICT, "test_it.py").ret == 1
    assert run_carbon(STRICT, ".").ret == 1

    assert run_carbon().ret == 0
    warned = run_carbon(STRICT, "--carbon-gate=warn")
    assert warned.ret == 0
    assert gone.removeprefix("ERROR: ") in warned.text


@pytest.mark.usefixtures("recorded")
def test_strict_fails_for_a_baseline_whose_module_is_gone(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Where other modules are left."""
    (pytester.path / "test_it.py").rename(pytester.path / "test_renamed.py")
    run_carbon("--carbon-record")
    run = run_carbon(STRICT)
    assert run.ret == 1
    assert "ERROR: --carbon-strict: test_it.py::test_it has a baseline in" in run.text


@pytest.mark.usefixtures("recorded")
def test_strict_misses_nothing_outside_of_where_it_collects(
    run_carbon: CarbonRunner, pytester: pytest.Pytester
) -> None:
    """The run of one folder says nothing of a module that another one has lost."""
    (pytester.path / "sub").mkdir()
    (pytester.path / "sub" / "test_more.py").write_text(WORK.format(joules=2.0), "utf-8")
    run_carbon("--carbon-record")
    (pytester.path / "test_it.py").unlink()
    assert run_carbon(STRICT, "sub").ret == 0
    assert run_carbon(STRICT, ".").ret == 1
    (pytester.path / "sub" / "test_more.py").rename(pytester.path / "sub" / "test_renamed.py")
    run = run_carbon("--carbon-record", STRICT, "sub")
    assert "--carbon-strict: sub/test_more.py::test_it has a baseline" in run.text


@pytest.mark.usefixtures("recorded")
def test_a_test_that_a_conftest_leaves_out_is_not_gone(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """It exists, and is named as not run; one that is really gone fails the run all the same."""
    several(pytester, it=2.0, other=2.0, old=2.0)
    run_carbon("--carbon-record")
    pytester.makeconftest(
        "def pytest_collection_modifyitems(items):\n    items[:] = [i for i in items if i.name != 'test_other']\n"
    )
    run = run_carbon(STRICT)
    assert (run.ret, "test_it.py::test_other was not run" in run.text) == (0, True)
    several(pytester, it=2.0, other=2.0)
    run = run_carbon(STRICT)
    assert (run.ret, "test_it.py::test_old has a baseline" in run.text) == (1, True)


@pytest.mark.usefixtures("recorded")
def test_a_deselected_test_is_not_gone(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Strict or not: it is there, only not now. Neither is one in another folder."""
    several(pytester, it=2.0, other=2.0)
    (pytester.path / "elsewhere").mkdir()
    (pytester.path / "elsewhere" / "test_more.py").write_text(WORK.format(joules=2.0), "utf-8")
    run_carbon("--carbon-record")
    assert run_carbon(STRICT, "-k", "other").ret == 0
    assert run_carbon(STRICT, "--deselect", "test_it.py::test_it").ret == 0
    assert run_carbon(STRICT, "test_it.py::test_other").ret == 0
    assert run_carbon(STRICT, "elsewhere").ret == 0
    assert run_carbon(STRICT, "--ignore=test_it.py").ret == 0
    (pytester.path / "elsewhere" / "test_more.py").write_text(WORK.format(joules=6.0), "utf-8")
    assert run_carbon(STRICT).ret == 1
    (pytester.path / "elsewhere" / "test_more.py").write_text(WORK.format(joules=2.0), "utf-8")
    assert run_carbon(STRICT, "--lf").ret == 0


@pytest.mark.usefixtures("recorded")
def test_last_failed_runs_what_the_gate_failed(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """A carbon failure is a failure to ``--lf``, and fixed it runs no more."""
    several(pytester, it=6.0, other=2.0)
    assert run_carbon().outcomes() == {"failed": 1, "passed": 1}
    run = run_carbon("--lf")
    assert run.outcomes() == {"failed": 1}
    assert "run-last-failure: rerun previous 1 failure" in run.text
    several(pytester, it=2.0, other=2.0)
    assert run_carbon("--lf").outcomes() == {"passed": 1}
    assert run_carbon("--lf").outcomes() == {"passed": 2}


@pytest.mark.usefixtures("recorded")
def test_failed_first_puts_it_first(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """As it does for every other failure."""
    several(pytester, another=2.0, it=6.0)
    run_carbon()
    run = run_carbon("--ff")
    assert [t["nodeid"] for t in run.report["tests"]] == ["test_it.py::test_it", "test_it.py::test_another"]


@pytest.mark.usefixtures("recorded")
def test_stepwise_resumes_at_it(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """The verdict comes when all is measured, so ``--sw`` goes on from there the next time."""
    several(pytester, another=2.0, it=6.0, other=2.0)
    run = run_carbon("--sw")
    assert run.outcomes() == {"passed": 2, "failed": 1}
    assert run.ret == 1
    run = run_carbon("--sw")
    assert [t["nodeid"] for t in run.report["tests"]] == ["test_it.py::test_it", "test_it.py::test_other"]


@pytest.mark.usefixtures("recorded")
def test_parameters_and_names_have_baselines_of_their_own(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Also with ids that no file could be called."""
    pytester.makepyfile(
        test_ids="""
import pytest
from battery import draw

@pytest.mark.parametrize("joules", [1.0, 2.0], ids=["a/b::c", "ü [x] "])
def test_it(carbon, joules):
    for part in ("prefill", "decode 2/2"):
        with carbon.window(part):
            draw(joules)
"""
    )
    assert run_carbon("--carbon-record").ret == 0
    run = run_carbon()
    assert "compared 5 of 5" in run.lines
    assert {m["verdict"]["status"] for t in run.report["tests"] for m in t["measurements"]} == {"pass"}


@pytest.mark.usefixtures("recorded")
def test_another_machine_has_another_baseline(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Nothing is compared across machines; the nearest one that has a baseline is named."""
    pytester.makeconftest("""
import battery
from pytest_carbon import Gpu, MeterSource

class Other(battery.Battery):
    def gpus(self):
        return (Gpu(0, "other-0", "Other Battery"),)

def pytest_carbon_meters(config):
    return {"other": MeterSource("other", Other)}
""")
    work(pytester, 6.0)
    run = run_carbon("--carbon-meter=other")
    assert run.ret == 0
    assert run.status("test_it") == "new"
    assert f"nearest machine with a baseline: {MACHINE}" in run.text
    run_carbon("--carbon-meter=other", "--carbon-record")
    assert run_carbon("--carbon-meter=other").status("test_it") == "pass"
    assert run_carbon().status("test_it") == "regression"


@pytest.mark.usefixtures("recorded")
def test_a_moved_folder_of_baselines(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """``--carbon-baseline``: another directory."""
    (pytester.path / "carbon-baselines").rename(pytester.path / "elsewhere")
    assert run_carbon().status("test_it") == "new"
    assert run_carbon("--carbon-baseline=elsewhere").status("test_it") == "pass"
    pytester.makeini("[pytest]\ncarbon_baseline = elsewhere\n")
    assert run_carbon().status("test_it") == "pass"


def test_many_measurements_share_one_file(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """The suite is judged as one: what all share is said in one sentence."""
    names = [f"n{i}" for i in range(10)]
    several(pytester, **dict.fromkeys(names, 2.0))
    run_carbon("--carbon-record")
    several(pytester, **dict.fromkeys(names, 6.0))
    run = run_carbon()
    assert run.outcomes() == {"passed": 10, "failed": 1}
    assert run.report["suite"]["median_change"] == pytest.approx(2.0)
    assert "the whole suite is at 3.0×: the machine, or something all tests use" in run.text
    assert run_carbon("--carbon-accept").ret == 0
    assert run_carbon().ret == 0


def test_quiet_says_what_was_recorded_and_what_was_not(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """It was asked for: with -q, too; what a run says besides is left out."""
    source = (
        "import pytest\nfrom battery import draw\n@pytest.mark.carbon_budget(energy='5 J')\ndef test_it(): draw({})\n"
    )
    pytester.makepyfile(test_it=source.format(1.0))
    assert "recorded 1 measurement in carbon-baselines" in run_carbon("-q", "--carbon-record").text
    pytester.makepyfile(test_it=source.format(2.0))
    run = run_carbon("-q", "--carbon-record")
    assert "not recorded: test_it.py::test_it: it is a regression; accept it if it is intended" in run.text
    pytester.makepyfile(test_it=source.format(9.0))
    run = run_carbon("-q", "--carbon-accept")
    assert "not recorded: test_it.py::test_it: it is over its budget, which no flag lifts" in run.text
    assert "overhead: " not in run.text
