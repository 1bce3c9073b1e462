"""Time limits: what they are told of measuring, and the report of a run that was killed."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import reportschema
from conftest import MACHINE, CarbonRunner
from console import carbon
from faults import running, wait_for

pytestmark = pytest.mark.slow

SUITE = """
import os, signal, time
from pathlib import Path
import pytest
from battery import draw

@pytest.mark.carbon_budget
def test_a():
    draw(2.0)

def test_b(carbon):
    with carbon.window("decode"):
        draw(1.0)

def test_hangs(carbon):
    with carbon.window("hang"):
        {hang}

@pytest.mark.carbon_budget
def test_never():
    draw(1.0)
"""
LIMITS = {
    "pytest-timeout": ("time.sleep(60)", ("-p", "pytest_timeout", "--timeout=1.5")),
    "an alarm": (
        "signal.signal(signal.SIGALRM, alarm); signal.alarm(1); time.sleep(60)",
        ("-p", "no:cacheprovider"),
    ),
    "asyncio": ("import asyncio; asyncio.run(asyncio.wait_for(asyncio.sleep(60), 0.5))", ()),
}
ALARM = """
def alarm(*_):
    raise RuntimeError("Test exceeded its time limit")
"""


@pytest.mark.parametrize("limit", LIMITS)
def test_a_limit_that_ends_a_measurement(run_carbon: CarbonRunner, pytester: pytest.Pytester, limit: str) -> None:
    """Its failure says how long measuring takes in this run, and which options shorten it."""
    hang, arguments = LIMITS[limit]
    if "timeout" in limit:
        pytest.importorskip("pytest_timeout")
    pytester.makepyfile(test_it=SUITE.format(hang=hang) + ALARM)
    run = run_carbon("--carbon-warmup=1", "--carbon-min-time=1", "--carbon-max-time=10", *arguments, subprocess=True)
    assert (run.ret, run.outcomes()) == (1, {"failed": 1, "passed": 3})
    told = run.text[run.text.index("A time limit ended the test while it measured 'hang'") :]
    assert "1.0 s of warm-up (--carbon-warmup), 1.0 s to 10 s of measured calls" in told
    assert "--carbon-max-time) in at least 3 rounds (--carbon-rounds)" in told


def test_another_error_is_told_nothing(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Nor is a limit that ended a test before or after its measurement."""
    pytester.makepyfile(test_it=SUITE.format(hang="1 / 0") + "\ndef test_after(carbon):\n    raise TimeoutError\n")
    run = run_carbon()
    assert run.outcomes()["failed"] == 2
    assert "A time limit ended" not in run.text


def test_a_limit_in_a_fresh_process(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Also where the limit kills the process: the error of the test says it."""
    pytest.importorskip("pytest_timeout")
    pytester.makepyfile(test_it=SUITE.format(hang="time.sleep(60)"))
    limit = ("-p", "pytest_timeout", "--timeout=2", "--timeout-method=thread")
    run = run_carbon("--carbon-sessions=2", *limit, subprocess=True)
    assert (run.ret, run.outcomes()) == (1, {"failed": 1, "passed": 3})
    assert "ended too early, with exit status 1. If a time limit ended it: In this run, measuring a call" in run.text
    assert run.report["incomplete"] is False


def so_far(pytester: pytest.Pytester) -> Any:
    return reportschema.read(pytester.path / "report.json")


KILLED = {
    "pytest-timeout's thread": ("time.sleep(60)", ("-p", "pytest_timeout", "--timeout=2", "--timeout-method=thread")),
    "os._exit": ("os._exit(0)", ()),
    "SIGKILL": ("os.kill(os.getpid(), 9)", ()),
    "SIGTERM": ("os.kill(os.getpid(), 15)", ()),
    "a crash": ("os.abort()", ("-p", "no:faulthandler")),
    "in fresh processes": ("time.sleep(3); os.kill(os.getppid(), 9); time.sleep(60)", ("--carbon-sessions=2",)),
}


@pytest.mark.parametrize("how", KILLED)
def test_a_run_that_is_killed_leaves_a_report(run_carbon: CarbonRunner, pytester: pytest.Pytester, how: str) -> None:
    """With what was measured, and the verdicts so far, marked as incomplete; it cannot be accepted or compared."""
    hang, arguments = KILLED[how]
    if "timeout" in how:
        pytest.importorskip("pytest_timeout")
    pytester.makepyfile(test_it=SUITE.format(hang="pass"))
    assert run_carbon("--carbon-record", "--carbon-gate=warn").report["incomplete"] is False
    pytester.makepyfile(test_it=SUITE.format(hang=hang).replace("draw(2.0)", "draw(6.0)"))
    run = run_carbon(*arguments, subprocess=True)
    assert (run.report["incomplete"], run.report["exit_status"]) == (True, None)
    assert [test["nodeid"] for test in run.report["tests"]] == ["test_it.py::test_a", "test_it.py::test_b"]
    assert run.measurement("test_b", "decode")["energy_j_per_call"] == 1.0
    assert run.status("test_a") == "regression"
    assert run.test("test_a")["outcome"] == "failed"
    assert run.report["machine"]["id"] == MACHINE
    assert "incomplete: this run was ended before" in run.report["notes"][-1]
    for command in (("baseline", "accept", "report.json"), ("compare", "carbon-baselines", "report.json")):
        refused = carbon(*command)
        assert refused.ret != 0
        assert "was ended before it had measured and judged everything" in " ".join(refused.err.split())


def test_a_run_that_is_killed_before_anything_was_measured(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Its report is no earlier run's."""
    pytester.makepyfile(test_it=SUITE.format(hang="pass"))
    run_carbon("-k", "test_a")
    pytester.makepyfile(test_it=SUITE.format(hang="pass").replace("draw(2.0)", "os._exit(1)"))
    run = run_carbon(subprocess=True)
    assert (run.report["incomplete"], run.report["tests"]) == (True, [])


def test_a_report_that_is_a_pipe_is_written_once(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """At the end: what a pipe has taken, nothing replaces."""
    pytester.makepyfile(test_it=SUITE.format(hang="pass"))
    os.mkfifo("pipe")
    with open(os.open("pipe", os.O_RDWR), "rb") as pipe:
        run = run_carbon("--carbon-json=pipe", "-k", "test_a", report=False, subprocess=True)
        assert run.ret == 0
        text = os.read(pipe.fileno(), 1 << 20).decode()
    report = json.loads(text)
    reportschema.check(report)
    assert report["incomplete"] is False


def test_it_is_complete_after_an_interrupt(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Ctrl-C lets the run judge, and write."""
    pytester.makepyfile(test_it=SUITE.format(hang="Path('hangs').touch(); time.sleep(60)"))
    command = [sys.executable, "-m", "pytest", "-p", "battery", "--carbon", "--carbon-meter=battery"]
    with running([*command, "--carbon-intensity=475", "--carbon-json=report.json"]) as process:
        wait_for(Path("hangs"))
        assert so_far(pytester)["incomplete"] is True
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert so_far(pytester)["incomplete"] is False
